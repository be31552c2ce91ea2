"""`manifest build` over folders: labels and splits, samples, shapes, and styles of a split's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from built import Built, files, jpeg, tar
from outputs import make_output

from nstray import storage
from nstray.errors import ManifestError
from nstray.manifest.build_draw import split_styles
from nstray.manifest.build_labels import split_name

IMAGEFOLDER = [
    *("train/ant/1.jpg", "train/ant/2.jpg", "train/bee/1.jpg", "train/cat/deep/er/1.jpg"),
    *("val/ant/9.jpg", "val/bee/9.jpg", "val/cat/deep/9.jpg"),
]


def labels_and_splits(built: Built) -> list[tuple[str | None, str | None]]:
    return [(row.get("label"), row.get("split")) for row in built.rows]


def test_an_image_folder_of_splits_classes_and_nested_names(tmp_path: Path) -> None:
    files(tmp_path / "set", *IMAGEFOLDER)
    built = Built(tmp_path / "set", out=tmp_path / "m.parquet", labels="folder", splits="folder")
    wanted = [(p.split("/")[1], p.split("/")[0]) for p in IMAGEFOLDER]
    assert labels_and_splits(built) == wanted
    assert built.column("content") == [f"set/{p}" for p in IMAGEFOLDER]
    assert len(set(built.column("pair_id"))) == len(IMAGEFOLDER)
    assert [str(built.table.schema.field(n).type) for n in ("label", "split")] == ["string"] * 2
    # The folders of splits are known by their names.
    alone = Built(tmp_path / "set", out=tmp_path / "2.parquet", labels="folder")
    assert labels_and_splits(alone) == wanted
    plain = Built(tmp_path / "set", out=tmp_path / "3.parquet")
    assert labels_and_splits(plain) == [(None, None)] * 7
    hint = "--labels folder --splits folder take the first two folders"
    assert f"content: no columns label and split, since pictures lie at several depths; {hint}" in plain.said


@pytest.mark.parametrize(
    ("names", "options", "wanted"),
    [
        (["dog/1.jpg", "cat/1.jpg"], {}, [("cat", None), ("dog", None)]),
        (["train/1.jpg", "val/1.jpg"], {}, [(None, "train"), (None, "val")]),
        (["train/1.jpg", "val/1.jpg"], {"labels": "folder"}, [("train", None), ("val", None)]),
        (["train/dog/1.jpg", "Test/dog/1.jpg"], {}, [("dog", "Test"), ("dog", "train")]),
        (["train/dog/1.jpg", "x/dog/1.jpg"], {}, [(None, None)] * 2),
        (["train/dog/1.jpg", "x/dog/1.jpg"], {"splits": "folder"}, [("dog", "train"), ("dog", "x")]),
        (["train/dog/1.jpg", "x/dog/1.jpg"], {"labels": "folder"}, [("train", None), ("x", None)]),
        (["train/dog/1.jpg", "val/dog/1.jpg"], {"labels": "none", "splits": "none"}, [(None, None)] * 2),
        (["train/dog/1.jpg", "val/dog/1.jpg"], {"splits": "name"}, [("dog", "train"), ("dog", "val")]),
        (["train/dog/1.jpg", "val/dog/1.jpg"], {"splits": "none"}, [("dog", None)] * 2),
        (["1.jpg", "dog/1.jpg"], {}, [(None, None)] * 2),
        (["1.jpg", "dog/1.jpg"], {"labels": "folder"}, [(None, None), ("dog", None)]),
        (["COCO_val2014_1.jpg", "COCO_train2014_1.jpg", "x.jpg"], {"splits": "name"}, [(None, "train"), (None, "val"), (None, None)]),
    ],
)
def test_which_folders_are_labels_and_splits(tmp_path: Path, names: list[str], options: dict[str, str], wanted: list[tuple[str, str]]) -> None:
    files(tmp_path / "set", *names)
    assert labels_and_splits(Built(tmp_path / "set", out=tmp_path / "m.parquet", **options)) == wanted


def test_what_loose_pictures_do_not_have(tmp_path: Path) -> None:
    files(tmp_path / "set", "a/1.jpg")
    for options, words in (
        ({"labels": "column"}, "--labels column: content .* holds loose pictures, which have no columns; give folder"),
        ({"splits": "column"}, "--splits column: .* give folder or name"),
        ({"columns": ("a",)}, "--columns: .* holds loose pictures, which have no columns; leave it out"),
        ({"content_column": "a"}, "--content-column: .* leave it out"),
        ({"style_column": "a"}, "--style-column: .* leave it out"),
        ({"digests": True}, "--digests: there are no archives"),
        ({"style_columns": ("artist",)}, "--style-columns artist: .* has no such column; there are none"),
        ({"style_splits": True}, "--style-splits: the contents have no column split; --splits says"),
    ):
        with pytest.raises(ManifestError, match=words):
            Built(tmp_path / "set", out=tmp_path / "m.parquet", **options)
        assert not (tmp_path / "m.parquet").exists()


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("data/my_own.split-00000-of-00001-abcdef.parquet", "my_own.split"),
        ("default/validation/0000.parquet", "validation"),
        ("imagenet-val-000.tar", "val"),
        ("TEST_1.tar", "TEST"),
        ("trains/contest/value/latest-1.tar", None),
        ("train/test-1.tar", "test"),
    ],
)
def test_splits_of_names(path: str, split: str | None) -> None:
    assert split_name(path) == split


def test_a_sample_depends_on_paths_and_seed_alone(tmp_path: Path) -> None:
    files(tmp_path / "set", *(f"{i:03d}.jpg" for i in range(60)))
    first = Built(tmp_path / "set", out=tmp_path / "1.parquet", sample=20)
    assert first.number == len(first.rows) == 20
    taken = first.column("content")
    assert taken == sorted(taken)
    assert taken != [f"set/{i:03d}.jpg" for i in range(20)]
    (tmp_path / "moved").mkdir()
    (tmp_path / "set").rename(tmp_path / "moved/set")
    again = Built(tmp_path / "moved/set", out=tmp_path / "2.parquet", sample=20)
    assert again.column("pair_id") == first.column("pair_id")
    assert Built(tmp_path / "moved/set", out=tmp_path / "3.parquet", sample=20, seed=1).column("pair_id") != first.column("pair_id")
    # A larger sample holds the smaller one.
    assert set(Built(tmp_path / "moved/set", out=tmp_path / "4.parquet", sample=30).column("pair_id")) > set(first.column("pair_id"))
    with pytest.raises(ManifestError, match="--sample 61: only 60 contents in"):
        Built(tmp_path / "moved/set", out=tmp_path / "5.parquet", sample=61)


def test_shapes_of_loose_pictures(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    hidden = b"\xff\xd8" + (b"\xff\xe2\xff\xff" + bytes(65533)) * 20 + jpeg(3, 30, 10)[2:]
    for name, data in {"1.jpg": jpeg(1, 20, 10), "2.jpg": jpeg(2, 20, 10, turned=True), "3.jpg": hidden, "4.jpg": b""}.items():
        (tmp_path / "set" / name).write_bytes(data)
    built = Built(tmp_path / "set", out=tmp_path / "m.parquet", shapes=True)
    assert [(r["width"], r["height"]) for r in built.rows] == [(20, 10), (10, 20), (30, 10), (None, None)]
    assert built.said[-1] == "width and height of 1 content can't be told; left empty"


def test_styles_carry_their_columns(tmp_path: Path) -> None:
    files(tmp_path / "set", "1.jpg", "2.jpg")
    files(tmp_path / "art", "klee/a.jpg", "monet/b.jpg")
    built = Built(tmp_path / "set", tmp_path / "art", out=tmp_path / "m.parquet", pairs="all", style_columns=("label",))
    assert built.column("style_label") == ["klee", "monet"] * 2
    assert built.table.column_names == ["pair_id", "content", "style", "style_label"]
    tar(tmp_path / "art.tar", {"a.jpg": jpeg(1), "a.json": b'{"artist": "klee", "uri": "u", "size": 3}', "a.cls": b"7"})
    built = Built(tmp_path / "set", tmp_path / "art.tar", out=tmp_path / "2.parquet", style_columns=("artist", "uri", "label", "size"))
    assert built.table.column_names[3:] == ["style_at", "style_etag", "style_artist", "source_style_uri", "style_label", "style_size"]
    assert [built.rows[0][n] for n in ("style_artist", "source_style_uri", "style_label", "style_size")] == ["klee", "u", 7, 3]
    assert built.read("style") == [jpeg(1)] * 2


def test_splits_have_styles_of_their_own(tmp_path: Path) -> None:
    files(tmp_path / "set", *(f"train/{i}.jpg" for i in range(16)), *(f"val/{i}.jpg" for i in range(4)))
    files(tmp_path / "art", *(f"{i}.jpg" for i in range(10)))
    first = Built(tmp_path / "set", tmp_path / "art", out=tmp_path / "1.parquet", pairs="all", style_splits=True)
    styles = {split: {r["style"] for r in first.rows if r["split"] == split} for split in ("train", "val")}
    # One each, and of the other eight in proportion to the contents.
    assert {split: len(found) for split, found in styles.items()} == {"train": 7, "val": 3}
    assert not styles["train"] & styles["val"]
    assert first.number == 16 * 7 + 4 * 3
    assert "styles by split: train 7, val 3" in first.said
    again = Built(tmp_path / "set", tmp_path / "art", out=tmp_path / "2.parquet", pairs="3", style_splits=True)
    fewer = [{r["style"] for r in again.rows if r["split"] == split} for split in ("train", "val")]
    assert not set.intersection(*fewer)
    assert again.number == 20 * 3
    with pytest.raises(ManifestError, match=r"--style-splits: 10 styles for 2 splits of 6 styles each \('train', 'val'\); give at least 12 styles"):
        Built(tmp_path / "set", tmp_path / "art", out=tmp_path / "3.parquet", pairs="6", style_splits=True)
    with pytest.raises(ManifestError, match=r"--style-splits: 1 style for 2 splits \('train', 'val'\); give at least 2 styles"):
        Built(tmp_path / "set", tmp_path / "art/1.jpg", out=tmp_path / "3.parquet", pairs="all", style_splits=True)


def test_shares_of_styles_are_exact() -> None:
    paths = [f"{i}.jpg" for i in range(101)]
    found = split_styles(paths, {"a": 900, "b": 50, "c": 50}, 1, 0)
    assert {split: len(numbers) for split, numbers in found.items()} == {"a": 89, "b": 6, "c": 6}
    assert sorted(np.concatenate(list(found.values()))) == list(range(101))
    assert all((np.diff(numbers) > 0).all() for numbers in found.values())
    other = split_styles(paths, {"a": 900, "b": 50, "c": 50}, 1, 1)
    assert [o.tolist() for o in other.values()] != [f.tolist() for f in found.values()]


def test_an_output_of_nstray_gives_its_good_rows(tmp_path: Path) -> None:
    made = make_output(tmp_path, contents=2, styles=2, errors={"c0-s1": "not_found"})
    for given in (made.out, f"{made.out}/data"):
        built = Built(given, out=tmp_path / f"{Path(given).name}.parquet")
        assert sorted(built.column("source_pair_id")) == ["c0-s0", "c1-s0", "c1-s1"]
        assert built.table.column_names[3:] == ["content_at", "content_etag", "source_pair_id", "caption", "split"]
        assert [(r["caption"], r["split"]) for r in built.rows if r["source_pair_id"] == "c1-s0"] == [("number 1, in style 0", 1)]
        assert all(data.startswith(b"\x89PNG") for data in built.read())
        assert sum("left out error rows of an output of nstray: 1 (the first: " in line for line in built.said) == 1
    more = Built(made.out, out=tmp_path / "more.parquet", columns=("loss_total", "seed"), splits="none")
    assert more.table.column_names[5:] == ["source_loss_total", "source_seed"]


def test_a_manifest_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path / "set", "1.jpg")
    put = storage.put_file

    def late(uri: str, *args: object, **options: object) -> str:
        Path(uri).write_bytes(b"another's")
        return put(uri, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "put_file", late)
    with pytest.raises(ManifestError, match=r"m\.parquet appeared meanwhile"):
        Built(tmp_path / "set", out=tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").read_bytes() == b"another's"
