"""`manifest build`: what it pairs, what it calls the pairs, and where paths point."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nstray import storage
from nstray.config import JobConfig
from nstray.errors import ManifestError
from nstray.manifest.build import build
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import Pair, pairs


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked at")
    return folder


def load(path: Path) -> list[Pair]:
    manifest = Manifest(str(path))
    info = manifest.check(JobConfig())
    return [p for t in manifest.tables(info) for p in pairs(t, info)]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_all_pairs_relative_to_the_manifest(tmp_path: Path, ending: str) -> None:
    contents = pictures(tmp_path / "c", "b.JPG", "a.png", "deep/er/c.webp", "notes.txt", "._a.png")
    styles = pictures(tmp_path / "s", "[x].jpeg", "y.jpg")
    out = tmp_path / f"m.{ending}"
    assert build(str(contents), str(styles), pairs="all", seed=0, out=str(out)) == 6
    got = load(out)
    assert [p.pair_id for p in got] == ["a--x", "a--y", "b--x", "b--y", "c--x", "c--y"]
    assert [p.content for p in got[::2]] == [f"{contents}/a.png", f"{contents}/b.JPG", f"{contents}/deep/er/c.webp"]
    assert got[0].styles == (f"{styles}/[x].jpeg",)
    moved = tmp_path.rename(tmp_path.parent / (tmp_path.name + "-moved"))
    assert load(moved / out.name)[0].content == f"{moved}/c/a.png"


def test_paths_are_absolute_where_a_folder_lies_elsewhere(tmp_path: Path) -> None:
    pictures(tmp_path / "c", "a.png")
    pictures(tmp_path / "s", "x.jpg")
    out = tmp_path / "c" / "m.jsonl"
    assert build(str(tmp_path / "c"), str(tmp_path / "s"), pairs="1", seed=0, out=str(out)) == 1
    assert str(tmp_path / "s" / "x.jpg") in out.read_text()
    assert load(out)[0].content == str(tmp_path / "c" / "a.png")


def test_a_single_picture_for_a_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "c/a.png", "c/b.png", "s/x.jpg")
    out = tmp_path / "m.csv"
    assert build(str(tmp_path / "c" / "b.png"), str(tmp_path / "s"), pairs="all", seed=0, out=str(out)) == 1
    assert load(out)[0].content == str(tmp_path / "c" / "b.png")


def test_a_draw_belongs_to_its_content(tmp_path: Path) -> None:
    styles = pictures(tmp_path / "s", *(f"s{i}.jpg" for i in range(20)))
    contents = pictures(tmp_path / "c", "m.jpg", "n.jpg")

    def drawn(name: str, seed: int, folder: Path = contents) -> dict[str, list[str]]:
        assert build(str(folder), str(styles), pairs="3", seed=seed, out=str(tmp_path / name)) == 3 * len(list(folder.iterdir()))
        out: dict[str, list[str]] = {}
        for p in load(tmp_path / name):
            out.setdefault(Path(p.content or "").name, []).append(p.styles[0])
        return out

    first = drawn("1.csv", 0)
    assert all(len(set(s)) == 3 for s in first.values())
    assert first["m.jpg"] != first["n.jpg"]
    assert drawn("2.parquet", 0) == first
    assert drawn("3.csv", 1) != first
    more = drawn("4.csv", 0, pictures(tmp_path / "c", "a.jpg", "z.jpg"))
    assert {k: more[k] for k in first} == first


def test_ids_are_legal_and_distinct_whatever_the_names(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        "x/a.jpg",
        "a.png",
        "日本.jpg",
        "a b.jpg",
        "a-b.jpg",
        "a--b.jpg",
        "-.jpg",
        "v1.2.jpg",
        "n" * 200 + ".jpg",
        "n" * 199 + "m.jpg",
        "_u.jpg",
    ]
    contents, styles = pictures(tmp_path / "c", *names), pictures(tmp_path / "s", *names, "b.jpg")
    out = tmp_path / "m.parquet"
    assert build(str(contents), str(styles), pairs="all", seed=0, out=str(out)) == len(names) * (len(names) + 1)
    ids = [p.pair_id for p in load(out)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", i) for i in ids)
    assert "v1.2--b" in ids


def test_what_is_refused(tmp_path: Path) -> None:
    contents, styles = str(pictures(tmp_path / "c", "a.png")), str(pictures(tmp_path / "s", "x.jpg", "y.jpg"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.csv").write_text("x")

    def refused(words: str, content: str = contents, style: str = styles, each: str = "all", out: str = "m.csv") -> None:
        with pytest.raises(ManifestError, match=re.escape(words)):
            build(content, style, pairs=each, seed=0, out=str(tmp_path / out))
        assert not (tmp_path / "m.csv").exists()

    refused(f"content folder {tmp_path}/empty: no pictures: none of its 0 files ends with .jpg, .jpeg, .png, .webp", content=str(tmp_path / "empty"))
    refused(f"style folder {tmp_path}/none: does not exist", style=str(tmp_path / "none"))
    refused("not a picture: its name must end with one of", style=str(tmp_path / "old.csv"))
    refused("--pairs 3: only 2 styles", each="3")
    for wrong in ("0", "-1", "1.5", "some", ""):
        refused(f"--pairs {wrong}: must be all, or a whole number", each=wrong)
    refused("exists; remove it first", out="old.csv")
    refused("must end with one of .parquet, .csv", out="m.txt")
    assert (tmp_path / "old.csv").read_text() == "x"


def test_from_a_bucket_into_a_bucket(s3: str) -> None:
    for name in ("c/b.jpg", "c/a/b.jpg", "s/x.png", "s/readme.txt"):
        storage.put_new(f"{s3}/set/{name}", b"not looked at")
    assert build(f"{s3}/set/c", f"{s3}/set/s/", pairs="all", seed=0, out=f"{s3}/set/m.parquet") == 2
    assert build(f"{s3}/set/c", f"{s3}/set/s/x.png", pairs="all", seed=0, out=f"{s3}/other/m.csv") == 2
    assert b"s3://" not in storage.read(f"{s3}/set/m.parquet")
    for uri in ("set/m.parquet", "other/m.csv"):
        manifest = Manifest(f"{s3}/{uri}")
        info = manifest.check(JobConfig())
        got = [p for t in manifest.tables(info) for p in pairs(t, info)]
        assert [(p.content, p.styles) for p in got] == [(f"{s3}/set/c/{c}", (f"{s3}/set/s/x.png",)) for c in ("a/b.jpg", "b.jpg")]
    for content, words in ((f"{s3}/nothing", "no pictures"), ("s3://no-such-bucket-here", "does not exist")):
        with pytest.raises(ManifestError, match=words):
            build(content, f"{s3}/set/s", pairs="all", seed=0, out=f"{s3}/new.csv")
