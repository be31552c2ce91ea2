"""A small job and a worker for it in the test's own process: faster than a run on Ray where that proves the same."""

from __future__ import annotations

import jobs
import torch

from nstray import config, storage
from nstray.engine.network.random_weights import random_weights
from nstray.engine.settings import CONV_LAYERS
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output.folder import Output
from nstray.worker.messages import JobSpec
from nstray.worker.worker import Worker


class Small:
    """A job of two contents and two styles in `folder`, one pair a shard, and a worker for it; both may be local or s3://."""

    def __init__(self, folder: str, out: str) -> None:
        self.out = out
        manifest, _ = jobs.write_inputs(folder, contents=2, styles=2)
        settled = config.make({**jobs.SETTINGS, "weights": "random"})
        source = Manifest(manifest)
        info = source.check(settled)
        torch.set_num_threads(1)
        weights = random_weights(CONV_LAYERS[:3])
        storage.put_new(Output(out).job_uri, b"{}")  # the job has begun
        spec = JobSpec(settled, out, config.fingerprint(settled, weights.id), weights.id, info, settled.init)
        ((window, table),) = cut_windows(source.tables(info))
        self.shards: list[Shard] = cut_shards(window, table, 1)
        self.worker = Worker(spec, lambda: weights, "cpu")

    def rows(self) -> list[tuple[str, str, str | None]]:
        return [(r["pair_id"], r["status"], r["error_code"]) for r in jobs.rows(self.out)]
