"""Pictures on a store that fsspec reads, through a worker: the same rows as from loose files, and what becomes of each fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import offsets, parquet, table, tar
from bench import Bench, same, weights
from outputs import picture
from stores import Memory, gs

from nstray import storage
from nstray.engine.network.weights import VGGWeights
from nstray.errors import BadCredentials
from nstray.images.encode import encode

__all__ = ["gs", "weights"]  # fixtures
CONTENTS = [encode(picture(i, 36, 30), "png") for i in range(3)]
STYLE = encode(picture(100, 36, 30), "png")


def test_rows(gs: Memory, tmp_path: Path, weights: VGGWeights) -> None:
    bench = Bench(tmp_path, weights)
    bench.save("c0.png", CONTENTS[0])
    bench.save("c1.png", CONTENTS[1])
    bench.save("s0.png", STYLE)
    packed = tar({f"{i}.png": data for i, data in enumerate(CONTENTS)})
    gs.put("gs://b/c 0/ü.png", CONTENTS[0])
    gs.put("gs://b/a.tar", packed)
    gs.put("gs://b/a.parquet", parquet(table(CONTENTS), row_group_size=2))
    gs.put("gs://b/s.png", STYLE)
    gs.put("gs://b/cut.png", CONTENTS[1][:200])
    etag = storage.head("gs://b/a.tar").etag  # type: ignore[union-attr]
    start, length = offsets(packed)["0.png"]
    place = {"content_at": f"{start}:{length}", "content_etag": etag}
    style = {"style": "gs://b/s.png"}
    rows = [
        {"pair_id": "plain", "content": "c0.png", "style": "s0.png"},
        {"pair_id": "loose", "content": "gs://b/c 0/ü.png", **style},
        {"pair_id": "tar", "content": "gs://b/a.tar::0.png", **style, **place},
        {"pair_id": "parquet", "content": "gs://b/a.parquet::image[0]", **style},
        {"pair_id": "plain-init", "content": "c0.png", "style": "s0.png", "init": "c1.png"},
        {"pair_id": "init", "content": "c0.png", "style": "s0.png", "init": "gs://b/a.tar::1.png"},
        {"pair_id": "old", "content": "gs://b/a.tar::0.png", **style, **place, "content_etag": "other"},
        {"pair_id": "none", "content": "gs://b/none.png", **style},
        {"pair_id": "member", "content": "gs://b/a.tar::9.png", **style},
        {"pair_id": "cut", "content": "gs://b/cut.png", **style},
    ]
    made = bench.run(rows, allow_remote="gs")
    for name in ("loose", "tar", "parquet"):
        assert same(made[name], made["plain"])
        assert made[name]["content_sha256"] == made["plain"]["content_sha256"]
    assert same(made["init"], made["plain-init"])
    assert not same(made["init"], made["plain"])
    assert made["tar"]["content_uri"] == "gs://b/a.tar::0.png"
    assert made["tar"]["style_uri"] == ["gs://b/s.png"]
    assert {name: made[name]["error_code"] for name in ("old", "none", "member", "cut")} == {
        "old": "source_changed",
        "none": "not_found",
        "member": "not_found",
        "cut": "decode_failed",
    }


def test_faults_of_the_store(gs: Memory, tmp_path: Path, weights: VGGWeights) -> None:
    gs.put("gs://b/c.png", CONTENTS[0])
    rows = [{"pair_id": "a", "content": "gs://b/c.png", "style": "s0.png"}]

    def deny() -> None:
        raise PermissionError("no")

    gs.before["cat_file"] = deny
    (row,) = Bench(tmp_path, weights).run(rows, allow_remote="gs").values()
    assert row["error_code"] == "access_denied"
    assert row["error_message"].startswith("content: gs://b/c.png: PermissionError: no; ")

    def unknown() -> None:
        raise type("RefreshError", (Exception,), {})("expired")

    gs.before["cat_file"] = unknown
    worker, shard = Bench(tmp_path, weights).worker(rows, allow_remote="gs")
    with pytest.raises(BadCredentials, match="expired; credentials come from GS_KEY"):
        worker.process(shard)


def test_a_worker_allows_what_its_job_allows(gs: Memory, tmp_path: Path, weights: VGGWeights) -> None:
    gs.put("gs://b/c.png", CONTENTS[0])
    worker, shard = Bench(tmp_path, weights).worker([{"pair_id": "a", "content": "gs://b/c.png", "style": "s0.png"}], allow_remote="gs")
    assert storage.remote_allowed() == ("gs",)
    storage.allow_remote([])
    assert worker.process(shard).won
    assert not [call for call in gs.calls if call.startswith("cat_file")]
