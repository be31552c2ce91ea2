"""`manifest build`: what it pairs, what it calls the pairs, and where paths point."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from pathlib import Path

import pytest

from manifests import ODD_NAMES
from nstray import storage
from nstray.config import JobConfig
from nstray.errors import ManifestError, StorageError
from nstray.manifest import build_names
from nstray.manifest.build import build
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import Pair, pairs
from nstray.sources import loose
from nstray.sources.reference import as_literal, file_of, split_member


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked at")
    return folder


def load(path: Path) -> list[Pair]:
    manifest = Manifest(str(path))
    info = manifest.check(JobConfig())
    return [p for t in manifest.tables(info) for p in pairs(t, info)]


@pytest.mark.parametrize("beside", [True, False])
def test_a_file_whose_name_looks_like_a_member_is_no_member(tmp_path: Path, beside: bool) -> None:
    contents = pictures(tmp_path / "c", "a.tar::b.png", "x/b.parquet::image[0].jpg", "c.tar.gz::d.png")
    styles = pictures(tmp_path / "s", "s.png")
    out = tmp_path / ("m.csv" if beside else "elsewhere/deep/m.csv")
    out.parent.mkdir(parents=True, exist_ok=True)
    build(str(contents), str(styles), pairs="all", seed=0, out=str(out))
    got = [p.content or "" for p in load(out)]
    assert [split_member(content) for content in got] == [None] * 3
    assert [file_of(content) for content in got] == [
        f"{contents}/a.tar::b.png",
        f"{contents}/c.tar.gz::d.png",
        f"{contents}/x/b.parquet::image[0].jpg",
    ]
    assert [loose.read(content, 100) for content in got] == [b"not looked at"] * 3


def slug(path: str) -> str:
    """The name that ids give the picture at `path` below the given folder."""
    stem = path.rpartition("/")[2].rpartition(".")[0].strip("[]")
    return f"{stem}-{hashlib.blake2b(path.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_all_pairs_relative_to_the_manifest(tmp_path: Path, ending: str) -> None:
    contents = pictures(tmp_path / "c", "b.JPG", "a.png", "deep/er/c.webp", "notes.txt", "._a.png")
    styles = pictures(tmp_path / "s", "[x].jpeg", "y.jpg")
    out = tmp_path / f"m.{ending}"
    assert build(str(contents), str(styles), pairs="all", seed=0, out=str(out)) == 6
    got = load(out)
    a, b, c, x, y = (slug(path) for path in ("a.png", "b.JPG", "deep/er/c.webp", "[x].jpeg", "y.jpg"))
    assert [p.pair_id for p in got] == [f"{content}--{style}" for content in (a, b, c) for style in (x, y)]
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
    assert f"{slug('v1.2.jpg')}--{slug('b.jpg')}" in ids
    assert f"{hashlib.blake2b('日本.jpg'.encode()).hexdigest()[:16]}--{slug('b.jpg')}" in ids


def ids_of(tmp_path: Path, name: str) -> dict[str, str]:
    """The ids of the pairs below ``c`` and ``s``, by content and style."""
    out = tmp_path / name
    build(str(tmp_path / "c"), str(tmp_path / "s"), pairs="all", seed=0, out=str(out))
    return {f"{Path(p.content or '').relative_to(tmp_path)} {Path(p.styles[0]).relative_to(tmp_path)}": p.pair_id for p in load(out)}


def test_a_picture_that_is_added_renames_no_pair(tmp_path: Path) -> None:
    """Neither one of the same name in another folder, nor one of the same stem, nor a style."""
    pictures(tmp_path / "c", "dog/0001.png", "dog/0002.png", "d.png")
    pictures(tmp_path / "s", "x.jpg")
    before = ids_of(tmp_path, "1.csv")
    assert before["c/dog/0001.png s/x.jpg"] == f"{slug('dog/0001.png')}--{slug('x.jpg')}"
    pictures(tmp_path / "c", "ant/0001.png", "dog/0001.jpg", "0001.png", "D.png", "dog/deep/0001.png", "zebra/0001.png")
    pictures(tmp_path / "s", "a/x.jpg", "X.jpg")
    after = ids_of(tmp_path, "2.csv")
    assert len(set(after.values())) == 9 * 3
    assert {key: after[key] for key in before} == before


def test_ids_stay_where_the_folders_move(tmp_path: Path) -> None:
    pictures(tmp_path / "old" / "c", "a/1.png")
    pictures(tmp_path / "old" / "s", "x.jpg")
    before = list(ids_of(tmp_path / "old", "m.csv").values())
    moved = (tmp_path / "old").rename(tmp_path / "new")
    (moved / "m.csv").unlink()
    assert list(ids_of(moved, "m.csv").values()) == before
    os.symlink(moved / "c", tmp_path / "linked")
    out = tmp_path / "m2.csv"
    build(f"{tmp_path}/linked/", str(moved / "s" / "x.jpg"), pairs="all", seed=0, out=str(out))
    assert [p.pair_id for p in load(out)] == before


def test_names_whose_hashes_collide_get_longer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 1 digit in place of 8, so that of 300 paths of one stem all collide, most of them twice."""
    monkeypatch.setattr(build_names, "HASH_DIGITS", 1)
    paths = [f"{i}/a.png" for i in range(300)]
    slugs = build_names.slugs(["a"] * 300, paths)
    assert len(set(slugs)) == 300
    for path, name in zip(paths, slugs, strict=True):
        assert name.startswith("a-")
        assert hashlib.blake2b(path.encode()).hexdigest().startswith(name[2:])
    assert build_names.slugs(["a"], paths[:1]) == ["a-" + hashlib.blake2b(b"0/a.png").hexdigest()[:1]]


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_manifest_reads_as_it_was_built_whatever_the_names(tmp_path: Path, ending: str, relative: bool) -> None:
    contents, styles = pictures(tmp_path / "c", *ODD_NAMES), pictures(tmp_path / "s", *ODD_NAMES)
    out = tmp_path / ("" if relative else "elsewhere") / f"m.{ending}"
    assert build(str(contents), str(styles), pairs="all", seed=0, out=str(out)) == len(ODD_NAMES) ** 2
    got = {(p.content, *p.styles) for p in load(out)}
    assert got == {(as_literal(f"{contents}/{c}"), as_literal(f"{styles}/{s}")) for c in ODD_NAMES for s in ODD_NAMES}


def test_cells_that_need_no_quotes_have_none(tmp_path: Path) -> None:
    contents, styles = pictures(tmp_path / "c", "a/b c-1.png", "d;e.png"), pictures(tmp_path / "s", "é.jpg")
    out = tmp_path / "m.csv"
    build(str(contents), str(styles), pairs="all", seed=0, out=str(out))
    lines = out.read_text().splitlines()
    assert lines[0] == "pair_id,content,style"
    assert lines[1].endswith(",c/a/b c-1.png,s/é.jpg")
    assert lines[2].endswith(',"c/d;e.png",s/é.jpg')
    assert [row[1] for row in csv.reader(lines[1:])] == ["c/a/b c-1.png", "c/d;e.png"]


def test_a_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    contents, styles = str(pictures(tmp_path / "c", "a.png")), str(pictures(tmp_path / "s", "x.jpg"))
    (Path(os.fsdecode(b"%s/c/caf\xe9.png" % os.fsencode(tmp_path)))).write_bytes(b"")
    with pytest.raises(StorageError, match=r"caf\\xe9\.png'?: the name is not UTF-8; rename the file"):
        build(contents, styles, pairs="all", seed=0, out=str(tmp_path / "m.csv"))
    assert not (tmp_path / "m.csv").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    contents, styles = str(pictures(tmp_path / "c", "a.png")), str(pictures(tmp_path / "s", "x.jpg", "y.jpg"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.csv").write_text("x")

    def refused(words: str, content: str = contents, style: str = styles, each: str = "all", out: str = "m.csv") -> None:
        with pytest.raises(ManifestError, match=re.escape(words)):
            build(content, style, pairs=each, seed=0, out=str(tmp_path / out))
        assert not (tmp_path / "m.csv").exists()

    refused(f"content folder {tmp_path}/empty: no pictures: no files lie below it; a picture's name ends with .jpg", content=str(tmp_path / "empty"))
    pictures(tmp_path / "none", ".git/a.png", "b.tif", ".c.png")
    refused(
        f"content folder {tmp_path}/none: no pictures: left out 1 file in hidden folders and those that programs leave (.git): 1 .png; "
        "left out 1 file with a dot in front: 1 .png; left out 1 file without an ending of JPEG, PNG or WebP: 1 .tif; --any-ending takes those",
        content=str(tmp_path / "none"),
    )
    refused(f"style folder {tmp_path}/gone: does not exist", style=str(tmp_path / "gone"))
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
    for content, words in ((f"{s3}/nothing", "no pictures: no files lie below it"), ("s3://no-such-bucket-here", "does not exist")):
        with pytest.raises(ManifestError, match=words):
            build(content, f"{s3}/set/s", pairs="all", seed=0, out=f"{s3}/new.csv")


def test_keys_that_no_relative_path_can_name_are_written_as_uris(s3: str) -> None:
    """A reader would take the first two for other keys and the third for another store."""
    keys = ["c//a.png", "c/../b.png", "c/http://host/c.png", "c/d.png"]
    for key in (*keys, "s/x.png"):
        storage.put_new(f"{s3}/odd/{key}", b"not looked at")
    for ending in ("parquet", "csv", "jsonl"):
        uri = f"{s3}/odd/m.{ending}"
        assert build(f"{s3}/odd/c", f"{s3}/odd/s", pairs="all", seed=0, out=uri) == 4
        manifest = Manifest(uri)
        info = manifest.check(JobConfig())
        got = [p for t in manifest.tables(info) for p in pairs(t, info)]
        assert sorted(str(p.content) for p in got) == sorted(f"{s3}/odd/{key}" for key in keys)
        assert len({p.pair_id for p in got}) == 4
