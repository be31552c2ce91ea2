"""A worker over rows about small pictures, without Ray, and what its part holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from outputs import picture
from PIL import Image

from nstray import config, storage
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.weights import VGGWeights
from nstray.engine.settings import CONV_LAYERS
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output.folder import Output
from nstray.worker.messages import JobSpec
from nstray.worker.worker import Worker

SETTINGS = {"content_layers": "conv2_1", "style_layers": "conv1_1,conv2_1", "size": 24, "evaluations": 4}


@pytest.fixture(scope="module")
def weights() -> VGGWeights:
    torch.set_num_threads(1)
    return random_weights(CONV_LAYERS[:3])


class Bench:
    """A folder of pictures, and jobs over rows about them."""

    def __init__(self, folder: Path, weights: VGGWeights) -> None:
        self.folder, self.weights, self.jobs = folder, weights, 0
        for role, seed in (("c", 0), ("s", 100)):
            for i in range(3):
                self.save(f"{role}{i}.png", picture(seed + i, 36, 30))

    def save(self, name: str, data: np.ndarray | Image.Image | bytes, **options: Any) -> str:
        if isinstance(data, bytes):
            (self.folder / name).write_bytes(data)
        else:
            image = data if isinstance(data, Image.Image) else Image.fromarray(data)
            image.save(self.folder / name, **options)
        return name

    def worker(self, rows: Sequence[Mapping[str, Any]] | pa.Table, **settings: Any) -> tuple[Worker, Shard]:
        """A worker of a fresh job over `rows`, which become a CSV file or, of an Arrow table, a Parquet file; and its one shard."""
        self.jobs += 1
        path = self.folder / f"pairs-{self.jobs}.{'parquet' if isinstance(rows, pa.Table) else 'csv'}"
        if isinstance(rows, pa.Table):
            pq.write_table(rows, path, row_group_size=2)
        else:
            names = list(dict.fromkeys(name for row in rows for name in row))
            with path.open("w", newline="") as file:
                lines = csv.DictWriter(file, names)
                lines.writeheader()
                lines.writerows(rows)
        settled = config.make({"weights": "random", "shard_size": 1000, **SETTINGS, **settings})
        source = Manifest(str(path))
        info = source.check(settled)
        out = str(self.folder / f"out-{self.jobs}")
        storage.put_new(Output(out).job_uri, b"{}")  # the job has begun
        fingerprint = config.fingerprint(settled, self.weights.id)
        spec = JobSpec(settled, out, fingerprint, self.weights.id, info, settled.init, base=source.base())
        ((window, table),) = cut_windows(source.tables(info))
        (shard,) = cut_shards(window, table, 1000)
        return Worker(spec, lambda: self.weights, "cpu"), shard

    def run(self, rows: Sequence[Mapping[str, Any]] | pa.Table, **settings: Any) -> dict[str, dict[str, Any]]:
        """The rows of the part that comes out, by pair id."""
        worker, shard = self.worker(rows, **settings)
        report = worker.process(shard)
        assert report.won
        return read(worker, shard)


def read(worker: Worker, shard: Shard) -> dict[str, dict[str, Any]]:
    """The rows of the shard's part, by pair id."""
    table = pq.read_table(worker.output.data_uri(shard.name))
    assert table.schema.equals(worker.spec.schema, check_metadata=False)
    rows = table.to_pylist()
    assert [row["pair_id"] for row in rows] == shard.table["pair_id"].to_pylist()
    return {row["pair_id"]: row for row in rows}


def pixels(row: Mapping[str, Any]) -> np.ndarray:
    assert row["status"] == "ok", row["error_message"]
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")).astype(int)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal up to the rounding of one step of 255, with a few pixels on the edge of it."""
    return bool(pixels(one).shape == pixels(other).shape and np.abs(pixels(one) - pixels(other)).max() <= 1)


def pair(pair_id: str, content: str = "c0.png", style: str = "s0.png", **more: Any) -> dict[str, Any]:
    return {"pair_id": pair_id, "content": content, "style": style, **more}
