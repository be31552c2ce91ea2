"""Pictures in archives through a worker: the same results as from loose files, and what becomes of each fault."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archives import arrow, offsets, parquet, table, tar
from bench import Bench, same, weights
from outputs import picture

from nstray import storage
from nstray.engine.network.weights import VGGWeights
from nstray.errors import Unreachable
from nstray.images.encode import encode
from nstray.sources import tar as sources_tar
from nstray.storage import s3, s3_ranges
from nstray.worker import inputs as worker_inputs

__all__ = ["weights"]  # a fixture
CONTENTS = [encode(picture(i, 36, 30), "png") for i in range(3)]
STYLES = [encode(picture(100 + i, 36, 30), "png") for i in range(3)]


@pytest.fixture
def bench(tmp_path: Path, weights: VGGWeights) -> Bench:
    return Bench(tmp_path, weights)


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the archives are: those of contents, of styles, and of a mask."""
    base = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    for role, pictures in (("c", CONTENTS), ("s", STYLES)):
        put(base, f"{role}.tar", tar({f"{role}/{i}.png": data for i, data in enumerate(pictures)}))
        put(base, f"{role}.parquet", parquet(table(pictures), row_group_size=2))
        put(base, f"{role}.arrow", arrow(table(pictures), 2))
    return base


def put(base: str, name: str, data: bytes) -> str:
    storage.put_over(f"{base}/{name}", data)
    return f"{base}/{name}"


def rows(base: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
    """Every kind of content with every kind of style."""
    kinds = {
        "tar": "{r}.tar::{r}/{i}.png",
        "parquet": "{r}.parquet::image[{i}]",
        "raw": "{r}.parquet::raw[{i}]",
        "arrow": "{r}.arrow::image[{i}]",
        "loose": None,
    }
    names = {kind: [(f"{base}/{name.format(r=r, i=i)}" if name else f"{r}{i}.png") for r, i in (("c", 2), ("s", 1))] for kind, name in kinds.items()}
    return [
        {"pair_id": f"{c}-{s}", "content": names[c][0], "style": names[s][1]}
        for c, s in [*((kind, kind) for kind in kinds), ("tar", "parquet"), ("arrow", "tar"), ("loose", "arrow")]
    ] + list(more)


def test_members_give_what_loose_files_give(bench: Bench, folder: str) -> None:
    for role, pictures in (("c", CONTENTS), ("s", STYLES)):
        for i, data in enumerate(pictures):
            bench.save(f"{role}{i}.png", data)
    made = bench.run(rows(folder))
    assert {row["status"] for row in made.values()} == {"ok"}
    for row in made.values():
        assert same(row, made["loose-loose"])
        assert (row["content_sha256"], row["style_sha256"]) == (made["loose-loose"]["content_sha256"], made["loose-loose"]["style_sha256"])
    here = "" if folder == str(bench.folder) else f"{folder}/"
    assert made["tar-parquet"]["content_uri"] == f"{here}c.tar::c/2.png"
    assert made["tar-parquet"]["style_uri"] == [f"{here}s.parquet::image[1]"]


def test_members_wherever_an_image_stands(bench: Bench, tmp_path: Path) -> None:
    mask = encode(picture(7, 36, 30), "png")
    put(str(tmp_path), "m.tar", tar({"m.png": mask, "i.png": CONTENTS[1]}))
    put(str(tmp_path), "m.parquet", parquet(table([mask])))
    put(str(tmp_path), "s.tar", tar({"s/1.png": STYLES[1]}))
    bench.save("m.png", mask)
    plain = {"content": "c0.png", "style": "s0.png"}
    made = bench.run(
        [
            {"pair_id": "a", **plain, "content_masks": "m.tar::m.png", "style_masks": "m.parquet::image[0]", "fine_style": "", "init": ""},
            {"pair_id": "b", **plain, "content_masks": "m.png", "style_masks": "m.png"},
            {"pair_id": "c", **plain, "fine_style": "s.tar::s/1.png", "init": "m.tar::i.png"},
            {"pair_id": "d", **plain, "fine_style": "s1.png", "init": "c1.png"},
        ]
    )
    assert {row["status"] for row in made.values()} == {"ok"}, made
    assert same(made["a"], made["b"])
    assert same(made["c"], made["d"])
    assert not same(made["a"], made["c"])


def test_places_are_used_and_stay_out_of_the_output(bench: Bench, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = storage.read(f"{folder}/c.tar")
    place = offsets(data)["c/2.png"]
    monkeypatch.setattr(sources_tar, "index", None)
    made = bench.run(
        pa.table(
            {
                "pair_id": ["a", "b"],
                "content": [f"{folder}/c.tar::c/2.png", f"{folder}/c.parquet::image[2]"],
                "content_at": [f"{place[0]}:{place[1]}:{zlib.crc32(CONTENTS[2]):08x}", "1:0"],
                "content_etag": [storage.head(f"{folder}/c.tar").etag, None],
                "style": [[f"{folder}/s.parquet::image[1]", "s1.png"]] * 2,
                "style_at": [["0:1", None]] * 2,
                "label": [1, 2],
            }
        )
    )
    assert same(made["a"], made["b"])
    assert made["a"]["status"] == "ok"
    assert not {"content_at", "content_etag", "style_at"} & set(made["a"])
    assert made["b"]["label"] == 2


def test_each_fault_is_its_pairs_alone(bench: Bench, folder: str) -> None:
    whole = storage.read(f"{folder}/c.tar")
    etag = storage.head(f"{folder}/c.tar").etag
    place = offsets(whole)["c/2.png"]
    put(folder, "cut.tar", whole[: place[0] + 10])
    put(folder, "none.parquet", parquet(table([None, b"", b"no picture"])))
    put(folder, "old.tar", whole)
    old = storage.head(f"{folder}/old.tar").etag
    put(folder, "old.tar", tar({"c/2.png": CONTENTS[2]}))
    cases = [
        ("good", "c.tar::c/2.png", f"{place[0]}:{place[1]}", etag, None),
        ("member", "c.tar::c/9.png", None, None, "not_found"),
        ("archive", "no.tar::c/9.png", None, None, "not_found"),
        ("row", "c.parquet::image[9]", None, None, "not_found"),
        ("column", "c.arrow::picture[0]", None, None, "not_found"),
        ("null", "none.parquet::image[0]", None, None, "not_found"),
        ("empty", "none.parquet::image[1]", None, None, "empty_file"),
        ("text", "none.parquet::image[2]", None, None, "not_an_image"),
        ("label", "c.parquet::label[2]", None, None, "bad_archive"),
        ("cut", "cut.tar::c/2.png", None, None, "bad_archive"),
        ("before", "cut.tar::c/1.png", None, None, None),
        ("short", "cut.tar::c/2.png", f"{place[0]}:{place[1]}", None, "bad_archive"),
        ("crc", "c.tar::c/2.png", f"{place[0]}:{place[1]}:00000001", None, "bad_archive"),
        ("huge", "c.tar::c/2.png", "512:99999999999", None, "too_many_bytes"),
        ("changed", "old.tar::c/2.png", f"{place[0]}:{place[1]}", old, "source_changed"),
        ("unplaced", "old.tar::c/2.png", None, None, None),
        ("loose", "c.tar", None, None, "not_an_image"),
    ]
    columns = list(zip(*cases, strict=True))
    made = bench.run(
        pa.table(
            {
                "pair_id": columns[0],
                "content": [f"{folder}/{name}" for name in columns[1]],
                "content_at": pa.array(columns[2], pa.string()),
                "content_etag": pa.array(columns[3], pa.string()),
                "style": ["s0.png"] * len(cases),
            }
        )
    )
    assert {name: row["error_code"] for name, row in made.items()} == {case[0]: case[4] for case in cases}
    here = "" if folder == str(bench.folder) else f"{folder}/"
    assert made["changed"]["error_message"].startswith(f"content {here}old.tar::c/2.png: the archive is not the version that the manifest names (")
    assert "make the manifest anew" in made["changed"]["error_message"]


def test_a_store_out_of_reach_is_no_pairs_fault(bench: Bench, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard whose archive's store does not answer goes back to the driver; if it gives others, the archive is at fault."""
    bucket = request.getfixturevalue("s3")
    monkeypatch.setattr("nstray.storage.backoff.LONGEST_PAUSE", 0.0)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    put(bucket, "c.tar", tar({"a.png": CONTENTS[0]}))
    put(bucket, "d.tar", tar({"a.png": CONTENTS[1]}))
    honest, down = s3_ranges.get, {"d.tar"}

    def get(name: str, key: str, **more: Any) -> Any:
        if key in down:
            raise Unreachable(f"s3://{name}/{key}: no answer")
        return honest(name, key, **more)

    for module in (s3, s3_ranges):
        monkeypatch.setattr(module, "get", get)
    pairs = [{"pair_id": name, "content": f"{bucket}/{name}.tar::a.png", "style": "s0.png"} for name in "cd"]
    worker, shard = bench.worker(pairs)
    assert [p.error for p in worker._inputs.prepare(shard.rows([0]))] == [None]
    (lost,) = worker._inputs.prepare(shard.rows([1]))  # its store gave another before
    assert lost.error is not None
    assert lost.error.code == "fetch_failed"
    down.add("c.tar")
    with pytest.raises(Unreachable):
        worker._inputs.prepare(shard.rows([1]))


def test_an_index_is_kept_for_the_workers_of_a_machine(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    honest: Callable[..., Any] = sources_tar.index

    def index(archive: str, *rest: Any) -> Any:
        calls.append(archive)
        return honest(archive, *rest)

    monkeypatch.setattr(sources_tar, "index", index)
    archive = put(str(tmp_path), "c.tar", tar({f"{i}.png": data for i, data in enumerate(CONTENTS)}))
    worker, shard = bench.worker([{"pair_id": str(i), "content": f"{archive}::{i}.png", "style": "s0.png"} for i in range(3)])
    other, _ = bench.worker([{"pair_id": "x", "content": f"{archive}::0.png", "style": "s0.png"}])
    other._inputs._styles = other._inputs._sources._shared = worker._inputs._styles  # as if of one run
    worker.process(shard)
    request = worker_inputs.Request("content", f"{archive}::1.png", 24, "longest")
    other._inputs._fetch(request)
    assert calls == [archive]
    worker.close()
