"""`manifest build` over archives on a real S3 server (Ceph's radosgw), and what a worker reads by the ETags that it stores."""

from __future__ import annotations

import hashlib
import io
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from archives import parquet, table, tar
from bench import Bench, weights
from built import Built, jpeg

from nstray import storage
from nstray.config import JobConfig
from nstray.engine.network.weights import VGGWeights
from nstray.manifest.build import build
from nstray.manifest.manifest import Manifest
from nstray.sources.reference import parse_place

__all__ = ["weights"]  # a fixture
CONTENTS, STYLES = [jpeg(i) for i in range(4)], [jpeg(100 + i) for i in range(2)]


def put(rgw: str, name: str, pictures: list[bytes], kind: str) -> str:
    """A source of one kind below ``shards`` in two archives; returns the URI of the second."""
    half, last = len(pictures) // 2, ""
    for number, some in enumerate((pictures[:half], pictures[half:])):
        if kind == "tar":
            members = {f"d/{i}.{ending}": data for i, picture in enumerate(some) for ending, data in (("jpg", picture), ("cls", b"%d" % i))}
            last, data = f"{rgw}/{name}/train-{number}.tar", tar(members)
        else:
            last, data = f"{rgw}/{name}/data/train-{number:05d}-of-00002.parquet", parquet(table(some).select(["label", "image"]), row_group_size=1)
        storage.put_over(last, data)
    return last


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_archives_of_a_bucket_and_one_that_changes(rgw: str, tmp_path: Path, weights: VGGWeights, kind: str) -> None:
    last = put(rgw, "shards", CONTENTS, kind)
    put(rgw, "paintings", STYLES, kind)
    built = Built(f"{rgw}/shards", f"{rgw}/paintings", out=tmp_path / "m.parquet", pairs="all", digests=True, shapes=True)
    assert built.number == 8
    assert [(r["label"], r["split"], r["width"], r["height"]) for r in built.rows[::2]] == [(i % 2, "train", 24, 16) for i in range(4)]
    for role, pictures in (("content", [c for c in CONTENTS for _ in STYLES]), ("style", STYLES * 4)):
        for each, picture in zip(built.rows, pictures, strict=True):
            archive = each[role].partition("::")[0]
            at, etag = parse_place(each[f"{role}_at"]), each[f"{role}_etag"]
            head = storage.head(archive)
            assert head is not None
            assert etag == head.etag
            assert at is not None
            assert at.crc32 == zlib.crc32(picture)
            if kind == "tar":  # the place alone finds it
                assert at.at is not None
                assert storage.read_range(archive, *at.at, max_bytes=10**6).data == picture
    bench = Bench(tmp_path, weights)

    def run() -> list[dict[str, Any]]:
        made = bench.run(built.table)
        return [made[row["pair_id"]] for row in built.rows]

    made = run()
    assert {row["status"] for row in made} == {"ok"}
    assert [row["content_sha256"] for row in made] == [hashlib.sha256(c).hexdigest() for c in CONTENTS for _ in STYLES]
    assert [row["style_sha256"] for row in made] == [[hashlib.sha256(s).hexdigest()] for s in STYLES * 4]
    assert [row["label"] for row in made] == [0, 0, 1, 1] * 2
    # The same pictures, another file: its members lie elsewhere, or it is only newer than the manifest.
    before = storage.read(last)
    storage.put_over(last, tar({"d/other.jpg": jpeg(9), "d/1.jpg": CONTENTS[3]}) if kind == "tar" else before + b"PAR1")
    made = run()
    assert [row["error_code"] for row in made] == [None] * 4 + ["source_changed"] * 4
    message = made[-1]["error_message"]
    assert message.startswith(f"content {last}::")
    assert "the archive is not the version that the manifest names" in message
    # The old bytes have the old ETag on S3, so a copy that is put back mends it.
    storage.put_over(last, before)
    assert {row["status"] for row in run()} == {"ok"}


def test_a_manifest_beside_its_archives_has_short_references(rgw: str) -> None:
    put(rgw, "shards", CONTENTS, "tar")
    put(rgw, "paintings", STYLES, "parquet")
    out = f"{rgw}/m.parquet"
    assert build(f"{rgw}/shards", f"{rgw}/paintings", pairs="1", seed=0, out=out) == 4
    rows = pq.read_table(io.BytesIO(storage.read(out))).to_pylist()
    assert [row["content"] for row in rows] == [f"shards/train-{i}.tar::d/{k}.jpg" for i in range(2) for k in range(2)]
    assert {row["style"].partition("::")[0] for row in rows} <= {f"paintings/data/train-{i:05d}-of-00002.parquet" for i in range(2)}
    manifest = Manifest(out)
    info = manifest.check(JobConfig())
    (read,) = manifest.tables(info)
    assert read["content"].to_pylist() == [f"{rgw}/{row['content']}" for row in rows]
    assert info.carried == ("label", "split")
