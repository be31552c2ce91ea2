"""Manifests of pictures on a store that fsspec reads: built, checked, and read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from archives import arrow, parquet, table, tar
from built import jpeg
from stores import Memory, gs

from nstray import storage
from nstray.config import make
from nstray.errors import BadArchive, Changed, ManifestError, UsageError
from nstray.manifest.build import build
from nstray.manifest.manifest import Manifest
from nstray.output import record_changes
from nstray.sources.read import Sources
from nstray.sources.reference import parse_place

__all__ = ["gs"]  # a fixture
PICTURES = [jpeg(i) for i in range(3)]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def base(gs: Memory) -> str:
    """Every kind of source, and styles."""
    for i, data in enumerate(PICTURES):
        gs.put(f"gs://b/loose/train/ä b/{i}.jpg", data)
    gs.put("gs://b/tars/a.tar", tar({f"{i}.jpg": data for i, data in enumerate(PICTURES)}))
    gs.put("gs://b/parquet/a.parquet", parquet(table(PICTURES), row_group_size=2))
    gs.put("gs://b/arrow/a.arrow", arrow(table(PICTURES), 2))
    gs.put("gs://b/styles/s.jpg", jpeg(100))
    gs.calls.clear()
    return "gs://b"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("loose", "gs://b/loose/train/ä b/2.jpg"),
        ("tars", "gs://b/tars/a.tar::2.jpg"),
        ("parquet", "gs://b/parquet/a.parquet::image[2]"),
        ("arrow", "gs://b/arrow/a.arrow::image[2]"),
    ],
)
def test_every_kind_of_source(base: str, gs: Memory, tmp_path: Path, kind: str, content: str) -> None:
    out = tmp_path / "m.parquet"
    column = None if kind in ("loose", "tars") else "image"
    options = {"shapes": True, "digests": kind != "loose", "content_column": column}
    assert build(f"{base}/{kind}", f"{base}/styles/", out=str(out), pairs="all", seed=0, **options) == 3
    made = pq.read_table(out).to_pylist()
    assert made[2]["content"] == content
    assert {(row["style"], row["width"], row["height"]) for row in made} == {("gs://b/styles/s.jpg", 24, 16)}
    assert made[0].get("split") == ("train" if kind == "loose" else None)
    info = Manifest(str(out)).check(make({"allow_remote": "gs"}))
    assert (info.rows, info.archives) == (3, kind != "loose")
    sources = Sources(2**20)
    places = [parse_place(row.get("content_at"), row.get("content_etag")) for row in made]
    assert [sources.read(row["content"], place) for row, place in zip(made, places, strict=True)] == PICTURES
    if kind != "loose":
        name = "/" + content.partition("://")[2].partition("::")[0]
        gs.pipe_file(name, bytes(gs.store[name].getbuffer()))  # the same bytes, another version
        with pytest.raises(Changed, match=f"^gs://b/{kind}/a"):
            Sources(2**20).read(made[0]["content"], places[0])


def test_a_manifest_on_the_store(base: str, gs: Memory) -> None:
    gs.put("gs://b/m/pairs.csv", "content,style\n../loose/train/ä b/1.jpg,GS://b/styles/s.jpg\ns3://c/1.jpg,../tars/a.tar::1.jpg\n".encode())
    for uri in ("gs://b/m/pairs.csv", "gs://b/m"):
        manifest = Manifest(uri)
        info = manifest.check(make({"allow_remote": "gs"}))
        (rows,) = [found.to_pylist() for found in manifest.tables(info)]
        assert [(row["content"], row["style"]) for row in rows] == [
            ("gs://b/loose/train/ä b/1.jpg", ["gs://b/styles/s.jpg"]),
            ("s3://c/1.jpg", ["gs://b/tars/a.tar::1.jpg"]),
        ]
    gs.put("gs://b/m/pairs.csv", b"content,style\n/etc/passwd,gs://b\n")
    with pytest.raises(ManifestError) as caught:
        Manifest("gs://b/m").check(make({"allow_remote": "gs"}))
    assert "'/etc/passwd' is local; a manifest on a store names no local files" in str(caught.value)
    assert "style: gs://b names a bucket; an object is gs://BUCKET/KEY" in str(caught.value)
    for empty in ("gs://b/none", "gs://b/styles"):
        with pytest.raises(ManifestError, match=r"no such manifest|no manifest in this folder"):
            Manifest(empty).check(make({"allow_remote": "gs"}))


def test_a_row_of_a_scheme_that_is_not_allowed(base: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("content,style\ngs://b/1.jpg,s.jpg\n1.jpg,hf://datasets/u/r/s.jpg\nhttps://h/1.jpg,gs://b/a.tar::s.jpg\n")
    with pytest.raises(ManifestError) as caught:
        Manifest(str(tmp_path / "m.csv")).check(make({"allow_remote": "gs"}))
    assert [line.partition("; ")[0].partition(", ")[0] for line in str(caught.value).splitlines()] == [
        "m.csv row 2: style: hf://datasets/u/r/s.jpg: hf:// is not supported without --allow-remote hf",
        "m.csv row 3: content: https://h/1.jpg: https:// is not supported",
    ]
    storage.allow_remote([])
    with pytest.raises(ManifestError) as caught:
        Manifest(str(tmp_path / "m.csv")).check(make({}))
    assert len(str(caught.value).splitlines()) == 4
    assert "m.csv row 1: content: gs://b/1.jpg: gs:// is not supported without --allow-remote gs" in str(caught.value)


def test_sources_that_are_not_there(base: str, gs: Memory, tmp_path: Path) -> None:
    gs.mkdir("b/empty")
    for content, said in (("gs://b/none", "does not exist"), ("gs://b/empty", "no pictures"), ("gs://b/none.tar", "does not exist")):
        with pytest.raises(ManifestError, match=said):
            build(content, f"{base}/styles", out=str(tmp_path / "m.csv"), pairs="1", seed=0)
    with pytest.raises(UsageError, match="nothing is written to gs://"):
        build(f"{base}/loose", f"{base}/styles", out=f"{base}/m.csv", pairs="1", seed=0)
    gs.put("gs://b/short/a.tar", tar({"1.jpg": PICTURES[0], "2.jpg": PICTURES[1]})[:1800])
    with pytest.raises(BadArchive, match=r"gs://b/short/a.tar: is truncated"):
        build("gs://b/short", f"{base}/styles", out=str(tmp_path / "m.csv"), pairs="1", seed=0)


def test_the_commands(base: str, call: Call, tmp_path: Path) -> None:
    words = ("manifest", "build", "--content", f"{base}/tars", "--style", f"{base}/styles", "-o", tmp_path / "m.csv")
    code, _, said = call(*words)
    assert (code, "--allow-remote gs" in said) == (2, True)
    code, said, _ = call(*words, "--allow-remote", "gs")
    assert (code, said) == (0, f"3 pairs in {tmp_path}/m.csv\n")
    assert call("manifest", "check", tmp_path / "m.csv")[0] == 2
    assert call("manifest", "check", tmp_path / "m.csv", "--allow-remote", "gs")[0] == 0
    (tmp_path / "job.yaml").write_text("allow_remote: [gs]\n")
    code, said, _ = call("manifest", "check", tmp_path / "m.csv", "--config", tmp_path / "job.yaml", "--json")
    assert (code, json.loads(said)["rows"]) == (0, 3)
    code, _, said = call("manifest", "check", tmp_path / "m.csv", "--allow-remote", "gs,https")
    assert (code, "https stays refused" in said) == (2, True)
    for out in (f"{base}/out", "HF://datasets/u/out"):
        code, _, said = call("run", tmp_path / "m.csv", out, "--allow-remote", "gs")
        assert (code, "which is only read; write to a local folder" in said) == (2, True)


def test_a_check_that_was_kept_is_made_anew_for_other_schemes() -> None:
    before = {"config": {"allow_local": False}, "manifest": "m.csv", "manifest_digest": "1", "carried_digest": "1", "base": "", "rows": 1, "cuts": []}
    before |= {"checked": {"rows": 1}, "carried_changes": [], "rows_digest": "1"}
    for allowed, kept in (([], {"rows": 1}), (["gs"], None)):
        after = {**before, "config": {"allow_local": False, "allow_remote": allowed}, "manifest": "n.csv", "checked": {"rows": 1}}
        assert record_changes.updated(before, after)["checked"] == kept
