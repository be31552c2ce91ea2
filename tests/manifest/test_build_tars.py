"""`manifest build` over tars: what is listed, where it lies, and what the sidecars say."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from pathlib import Path

import pytest
from built import Built, files, jpeg, tar

from nstray import storage
from nstray.errors import BadArchive, ManifestError, NstrayError
from nstray.sources.listing.tars import split_key


def mark(path: str) -> str:
    return hashlib.blake2b(path.encode()).hexdigest()[:8]


def test_members_with_their_places(tmp_path: Path) -> None:
    first = tar(tmp_path / "shards/a.tar", {"img/1.jpg": jpeg(1), "img/2.jpg": jpeg(2)})
    tar(tmp_path / "shards/deep/b.tar", {"1.jpg": jpeg(3)})
    built = Built(tmp_path / "shards", out=tmp_path / "m.parquet")
    assert built.column("content") == ["shards/a.tar::img/1.jpg", "shards/a.tar::img/2.jpg", "shards/deep/b.tar::1.jpg"]
    with tarfile.open(first) as file:
        assert built.column("content_at")[:2] == [f"{m.offset_data}:{m.size}" for m in file.getmembers()]
    found = storage.head(str(first))
    assert found is not None
    assert built.column("content_etag")[:2] == [found.etag] * 2
    assert built.read() == [jpeg(1), jpeg(2), jpeg(3)]
    assert built.said == [f"content {tmp_path}/shards: 3 pictures in 2 tar archives", f"style {tmp_path}/one-style: 1 loose picture"]
    assert built.table.column_names == ["pair_id", "content", "style", "content_at", "content_etag"]


def test_ids_come_from_archive_and_member_and_stay_when_archives_are_added(tmp_path: Path) -> None:
    tar(tmp_path / "s/b.tar", {"img/1.jpg": jpeg(1)})
    before = Built(tmp_path / "s", out=tmp_path / "1.parquet").column("pair_id")
    assert before == [f"1-{mark('b.tar::img/1.jpg')}--x-{mark('x.jpg')}"]
    tar(tmp_path / "s/a.tar", {"img/1.jpg": jpeg(2)})
    tar(tmp_path / "s/b/b.tar", {"img/1.jpg": jpeg(2)})
    after = Built(tmp_path / "s", out=tmp_path / "2.parquet")
    assert len(set(after.column("pair_id"))) == 3
    assert dict(zip(after.column("content"), after.column("pair_id"), strict=True))["s/b.tar::img/1.jpg"] == before[0]
    assert Built(tmp_path / "s/b.tar", out=tmp_path / "3.parquet").column("pair_id") == before


def test_digests_are_of_the_members(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.jpg": jpeg(1), "2.jpg": jpeg(2) + bytes(2**20)})
    built = Built(tmp_path / "a.tar", out=tmp_path / "m.parquet", digests=True)
    assert [at.rpartition(":")[2] for at in built.column("content_at")] == [f"{zlib.crc32(d):08x}" for d in (jpeg(1), jpeg(2) + bytes(2**20))]
    assert built.read()[0] == jpeg(1)


def test_webdatasets_sidecars(tmp_path: Path) -> None:
    members = {}
    for i in range(3):
        said = {"caption": f"c{i}", "n": i, "share": i / 2, "width": 24, "tags": ["a"], "mixed": i if i else "none", "gone": None, "big": 2**60 + i}
        sidecars = {"jpg": jpeg(i), "cls": f"{i}\n".encode(), "json": json.dumps(said).encode(), "txt": b"text \xc3\xa9"}
        members |= {f"d/{i:04d}.{kind}": data for kind, data in sidecars.items()}
    tar(tmp_path / "t/train-0.tar", members)
    built = Built(tmp_path / "t", out=tmp_path / "m.parquet")
    assert {f.name: str(f.type) for f in built.table.schema.remove_metadata()} == {
        **dict.fromkeys(("pair_id", "content", "style", "content_at", "content_etag"), "string"),
        "label": "int64",
        "split": "string",
        "txt": "string",
        "caption": "string",
        "n": "int64",
        "share": "double",
        "source_width": "int64",
        "tags": "string",
        "mixed": "string",
        "gone": "string",
        "big": "int64",
    }
    row = built.rows[2]
    assert {n: row[n] for n in ("label", "split", "txt", "caption", "n", "share", "source_width", "tags", "mixed", "gone", "big")} == {
        "label": 2,
        "split": "train",
        "txt": "text é",
        "caption": "c2",
        "n": 2,
        "share": 1.0,
        "source_width": 24,
        "tags": '["a"]',
        "mixed": "2",
        "gone": None,
        "big": 2**60 + 2,
    }
    assert built.column("mixed")[0] == '"none"'
    assert built.said[2:] == ["columns whose names nstray uses are carried as others: width as source_width"]
    fewer = Built(tmp_path / "t", out=tmp_path / "2.parquet", columns=("caption",), labels="none", splits="none")
    assert fewer.table.column_names[5:] == ["caption"]
    with pytest.raises(ManifestError, match=r"the column captoin is not there; the sidecars have cls, txt, caption, n, .*did you mean caption"):
        Built(tmp_path / "t", out=tmp_path / "3.parquet", columns=("captoin",))


def test_classes_of_text_stay_text(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.jpg": jpeg(1), "1.cls": b"007", "2.jpg": jpeg(2), "2.cls": b"8", "3.jpg": jpeg(3)})
    built = Built(tmp_path / "a.tar", out=tmp_path / "m.parquet", labels="sidecar")
    assert built.column("label") == ["007", "8", None]
    tar(tmp_path / "b.tar", {"1.jpg": jpeg(1)})
    with pytest.raises(ManifestError, match=r"--labels sidecar: .*no picture has a sidecar"):
        Built(tmp_path / "b.tar", out=tmp_path / "2.parquet", labels="sidecar")
    with pytest.raises(ManifestError, match=r"--labels column: .*no column label; there are cls"):
        Built(tmp_path / "a.tar", out=tmp_path / "2.parquet", labels="column")


def test_labels_and_splits_from_folders(tmp_path: Path) -> None:
    tar(tmp_path / "a/train/0.tar", {"dog/1.jpg": jpeg(1), "./cat/deep/2.jpg": jpeg(2), "3.jpg": jpeg(3)})
    tar(tmp_path / "a/val/0.tar", {"dog/1.jpg": jpeg(4)})
    for splits in (None, "folder", "name"):
        built = Built(tmp_path / "a", out=tmp_path / f"{splits}.parquet", labels="folder", splits=splits)
        assert [(r["label"], r["split"]) for r in built.rows] == [("dog", "train"), ("cat", "train"), (None, "train"), ("dog", "val")]


def test_keys_are_webdatasets() -> None:
    assert split_key("a/b.seg.PNG") == ("a/b", "seg.png")
    assert split_key("a.b/c") == ("a.b/c", "")
    assert split_key("x.jpg") == ("x", "jpg")


def test_two_pictures_of_a_key(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.jpg": jpeg(1), "1.seg.png": jpeg(2), "1.cls": b"3"})
    built = Built(tmp_path / "a.tar", out=tmp_path / "m.parquet")
    assert built.column("content") == ["a.tar::1.jpg"]
    assert f"content {tmp_path}: left out pictures beside others of their key: 1 seg.png; --content-column seg.png takes these" in built.said
    other = Built(tmp_path / "a.tar", out=tmp_path / "2.parquet", content_column="seg.png")
    assert [(r["content"], r["label"]) for r in other.rows] == [("a.tar::1.seg.png", 3)]
    tar(tmp_path / "b.tar", {"1.in.jpg": jpeg(1), "1.out.jpg": jpeg(2), "1.cls": b"3"})
    with pytest.raises(ManifestError, match=r"b\.tar: 2 pictures of the key 1 \(in\.jpg, out\.jpg\); choose one with --content-column"):
        Built(tmp_path / "b.tar", out=tmp_path / "3.parquet")
    # Without sidecars a dot means nothing.
    tar(tmp_path / "c.tar", {"p.v1.jpg": jpeg(1), "p.v2.jpg": jpeg(2)})
    assert len(Built(tmp_path / "c.tar", out=tmp_path / "4.parquet").rows) == 2


def test_shapes_are_upright_and_sidecars_do_not_hide_them(tmp_path: Path) -> None:
    hidden = b"\xff\xd8" + b"\xff\xe2\xff\xff" + bytes(65533) + b"\xff\xe2\xff\xff" + bytes(65533) + jpeg(3, 30, 10)[2:]
    pictures = {"1.jpg": jpeg(1, 20, 10), "2.jpg": jpeg(2, 20, 10, turned=True), "3.jpg": hidden, "4.jpg": b"no picture"}
    tar(tmp_path / "a.tar", {**pictures, "4.json": b'{"width": 9}'})
    built = Built(tmp_path / "a.tar", out=tmp_path / "m.parquet", shapes=True)
    assert [(r["width"], r["height"]) for r in built.rows] == [(20, 10), (10, 20), (30, 10), (None, None)]
    assert "width and height of 1 content can't be told; left empty" in built.said
    assert str(built.table.schema.field("width").type) == "int32"


def test_hostile_and_odd_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:

        def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = jpeg(1), link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data)
            file.addfile(info, io.BytesIO(data))

        add("good.jpg")
        add("d", tarfile.DIRTYPE, b"")
        add("../up.jpg")
        add("/etc/abs.jpg")
        add("link.jpg", tarfile.SYMTYPE, b"", "good.jpg")
        add("hard.jpg", tarfile.LNKTYPE, b"", "good.jpg")
        add("dev.jpg", tarfile.CHRTYPE, b"")
        add("sparse.jpg", tarfile.GNUTYPE_SPARSE, b"")
        add("._good.jpg")
        add("notes.md", data=b"x")
        add("lone.cls", data=b"1")
    built = Built(path, out=tmp_path / "m.parquet")
    assert built.column("content") == ["a.tar::good.jpg"]
    assert sorted(line.partition(": left out ")[2] for line in built.said if "left out" in line) == [
        f"keys of tars with sidecars and no picture: 1 (the first: {path}::lone)",
        f"links, devices and sparse members of tars: 4 (the first: {path}::link.jpg)",
        f"members of tars whose names lead out of them: 2 (the first: {path}::../up.jpg)",
        f"pictures of tars with a dot in front: 1 (the first: {path}::._good.jpg)",
    ]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([("a.jpg", jpeg(1)), ("b.jpg", jpeg(2)), ("a.jpg", jpeg(3))], ManifestError, r"bad\.tar: two members are called a\.jpg"),
        ([("readme.md", b"x")], ManifestError, r"bad\.tar: no pictures in 1 tar archive: a member's name ends with \.jpg"),
        (jpeg(1) * 50, BadArchive, r"bad\.tar: is truncated or no tar"),
        (b"", NstrayError, r"bad\.tar"),
    ],
)
def test_a_tar_that_can_not_be_listed_is_named(tmp_path: Path, data: list[tuple[str, bytes]] | bytes, error: type[Exception], words: str) -> None:
    if isinstance(data, bytes):
        (tmp_path / "bad.tar").write_bytes(data)
    else:
        tar(tmp_path / "bad.tar", data)
    with pytest.raises(error, match=words):
        Built(tmp_path / "bad.tar", out=tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_a_truncated_tar_among_others(tmp_path: Path) -> None:
    for i in range(10):
        tar(tmp_path / f"t/{i}.tar", {"1.jpg": jpeg(1), "2.jpg": jpeg(2)})
    os.truncate(tmp_path / "t/7.tar", 2000)
    with pytest.raises(BadArchive, match=re.escape("/t/7.tar: is truncated")):
        Built(tmp_path / "t", out=tmp_path / "m.parquet")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst", "a.zip"])
def test_packed_archives_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    files(tmp_path / "f", name)
    for given in (tmp_path / "f", tmp_path / "f" / name):
        with pytest.raises(ManifestError, match=re.escape(name) + r":? is (compressed as a whole|a zip file).*unpack it"):
            Built(given, out=tmp_path / "m.parquet")
    tar(tmp_path / "f/b.tar", {"1.jpg": jpeg(1)})
    built = Built(tmp_path / "f", out=tmp_path / "m.parquet")
    assert any("left out 1 packed archive: " in line for line in built.said)
    assert len(built.rows) == 1


def test_a_folder_of_two_kinds_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "f/a.tar", {"1.jpg": jpeg(1)})
    files(tmp_path / "f", "x.jpg", "y.jpg")
    with pytest.raises(ManifestError, match=r"content folder .*/f: holds 2 loose pictures and 1 tar archive; give a folder with one kind"):
        Built(tmp_path / "f", out=tmp_path / "m.parquet")


def test_from_a_bucket(s3: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        data = tar(tmp_path / f"{name}.tar", {"1.jpg": jpeg(1), "1.cls": b"2", "2.jpg": jpeg(2)}).read_bytes()
        storage.put_new(f"{s3}/set/{name}.tar", data)
    built = Built(f"{s3}/set", out=tmp_path / "m.parquet", digests=True, shapes=True)
    assert built.column("content") == [f"{s3}/set/{name}.tar::{i}.jpg" for name in "ab" for i in (1, 2)]
    assert [(r["width"], r["height"], r["label"]) for r in built.rows] == [(24, 16, 2), (24, 16, None)] * 2
    found = storage.head(f"{s3}/set/b.tar")
    assert found is not None
    assert built.column("content_etag")[2:] == [found.etag] * 2
