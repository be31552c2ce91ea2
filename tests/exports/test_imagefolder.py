"""Class folders: names, classes and counts as torchvision reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets_made import CARRIED, CLASSES, class_folders, content, dataset, files, row
from torchvision.datasets import ImageFolder

from nstray.commands.export import export
from nstray.errors import OutputError, UsageError
from nstray.exports import packing
from nstray.exports.names import safe_name, stem
from nstray.exports.packing import folder_of
from nstray.output.schema import with_features


def test_class_folders_come_back_as_they_were(tmp_path: Path) -> None:
    rows = class_folders(tmp_path)
    to = tmp_path / "to"
    counts = export(dataset(tmp_path, rows), str(to), format="imagefolder", workers=1)
    assert files(to) == [
        "train/cat/001.png",
        "train/cat/tabby/001.png",
        "train/dog/001.png",
        "train/dog/002--s0.png",
        "train/dog/002--s1.png",
        "train/sea lion/süß 1.png",
        "val/cat/001.png",
        "val/dog/003.png",
        "val/sea lion/4.png",
    ]
    assert (counts["images"], counts["errors"], counts["files"], counts["splits"], counts["classes"]) == (9, 1, 9, {"train": 6, "val": 3}, 3)
    train = ImageFolder(str(to / "train"))
    assert train.classes == CLASSES
    assert [target for _, target in train.samples] == [0, 0, 1, 1, 1, 2]
    assert ImageFolder(str(to / "val")).classes == CLASSES
    by_id = {r["pair_id"]: r["image"] for r in rows if r["image"]}
    assert (to / "train/dog/002--s1.png").read_bytes() == by_id["p0008"]["bytes"]
    assert (to / "train/cat/tabby/001.png").read_bytes() == by_id["p0001"]["bytes"]
    assert not (to / ".nstray-export").exists()


def test_without_splits_all_is_train(tmp_path: Path) -> None:
    to = tmp_path / "to"
    export(dataset(tmp_path, class_folders(tmp_path)), str(to), format="imagefolder", workers=1, split_by="none")
    # The pictures of train and val that have one name in one class are told apart by their ids.
    assert {n for n in files(to) if "/cat/" in n} == {
        "train/cat/001--s0--p0000.png",
        "train/cat/001--s0--p0005.png",
        "train/cat/tabby/001.png",
    }


def test_names_of_one_content_in_the_same_style_have_the_pair_s_id(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0, "cat/a.jpg"), row(tmp_path, 1, "cat/a.png"), row(tmp_path, 2, "cat/a--s0.jpg"), row(tmp_path, 3, "cat/a.jpg", "b.s.png")]
    to = tmp_path / "to"
    export(dataset(tmp_path, rows), str(to), format="imagefolder", workers=1)
    assert files(to) == [f"train/cat/{n}.png" for n in ("a--b.s", "a--s0--p0000", "a--s0--p0001", "a--s0--s0--p0002")]


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("..", "%2E."),
        (".", "%2E"),
        (".hidden", "%2Ehidden"),
        ("a/b", "a%2Fb"),
        ("a\\b", "a%5Cb"),
        ("100%", "100%25"),
        ("a b", "a b"),
        ("猫 é", "猫 é"),
        ("x\ny", "x%0Ay"),
    ],
)
def test_odd_names_of_classes_stay_below_the_target(tmp_path: Path, label: str, folder: str) -> None:
    carried = pa.schema([("label", pa.string())])
    rows = [row(tmp_path, 0, "x/a.jpg")]
    rows = [{k: v for k, v in r.items() if k not in ("split", "caption")} | {"label": label} for r in rows]
    to = tmp_path / "to"
    export(dataset(tmp_path, rows, carried=carried), str(to), format="imagefolder", workers=1)
    assert files(tmp_path)
    assert files(to) == [f"train/{folder}/a.png"]
    assert ImageFolder(str(to / "train")).classes == [folder]


@pytest.mark.parametrize("text", ["", "x" * 201])
def test_a_class_that_names_no_folder_is_refused(text: str) -> None:
    with pytest.raises(OutputError, match="for the name of a folder"):
        safe_name(text)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/data/cat/train/x/1.jpg", "x/1"),
        ("s3://bucket/train/cat/1.tar.jpg", "1.tar"),
        ("/data/cat/photos/cat/1.jpg", "1"),
        ("/data/other/1.jpg", "1"),
        ("/data/000.tar::train/cat/y/7.jpg", "y/7"),
        ("/data/cat/../../etc/.hidden", "etc/%2Ehidden"),
        ("/data/train-00000-of-00002.parquet::image[17]", "train-00000-of-00002-17"),
        ("s3://bucket/cat/x.v1.arrow::image[0]", "x.v1-0"),
        ("x.parquet::no cell", "no cell"),
        ("./x.parquet::image[1].png", "image[1]"),
    ],
)
def test_names_of_contents_are_relative_to_their_class(uri: str, name: str) -> None:
    assert stem(uri, "train", "cat") == name


def test_a_row_without_a_class_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0, "cat/a.jpg"), row(tmp_path, 1, "cat/b.jpg", label=None), row(tmp_path, 2, "cat/c.jpg", label=-1)]
    to = tmp_path / "to"
    out = dataset(tmp_path, rows)
    with pytest.raises(OutputError, match="2 rows have no class: p0001, p0002"):
        export(out, str(to), format="imagefolder", workers=1)
    assert not list(to.iterdir())
    (tmp_path / "ids.txt").write_text("p0001\n# withdrawn\n\np0002\n")
    assert export(out, str(to), format="imagefolder", workers=1, exclude=str(tmp_path / "ids.txt"))["excluded"] == 2
    assert files(to) == ["train/cat/a.png"]


def test_a_class_that_its_names_lack_is_named(tmp_path: Path) -> None:
    out = dataset(tmp_path, [row(tmp_path, 0, "cat/a.jpg", label=3)])
    with pytest.raises(OutputError, match=r"1 row has a class that its ClassLabel does not name: p0000 \(label 3\)"):
        export(out, str(tmp_path / "to"), format="imagefolder", workers=1)


@pytest.mark.parametrize("names", [7, None, ["a", 1], {"0": "a"}])
def test_names_of_classes_that_are_damaged_are_no_names(tmp_path: Path, names: Any) -> None:
    carried = with_features(CARRIED, {"label": {"_type": "ClassLabel", "names": names}})
    to = tmp_path / "to"
    export(dataset(tmp_path, [row(tmp_path, 0, "a.jpg", label=5)], carried=carried), str(to), format="imagefolder", workers=1)
    assert files(to) == ["train/5/a.png"]


def test_classes_are_needed(tmp_path: Path) -> None:
    carried = CARRIED.remove(1).remove_metadata()
    out = dataset(tmp_path, [{k: v for k, v in row(tmp_path, 0, "a.jpg").items() if k != "label"}], carried=carried)
    with pytest.raises(UsageError, match="needs classes: the output has no column label"):
        export(out, str(tmp_path / "to"), format="imagefolder")


def test_more_files_than_go_into_a_folder_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FILES_PER_FOLDER", 3)
    rows = [row(tmp_path, i, f"cat/n{i}.jpg") for i in range(7)] + [row(tmp_path, 9, "dog/n.jpg", label=1)]
    to = tmp_path / "to"
    export(dataset(tmp_path, rows), str(to), format="imagefolder", workers=1)
    assert sorted(len(list((to / "train/cat" / f"{n:05d}").iterdir())) for n in range(3)) == [1, 3, 3]
    assert (to / "train/dog/n.png").exists()
    found = ImageFolder(str(to / "train"))
    assert (found.classes, [t for _, t in found.samples]) == (["cat", "dog"], [0] * 7 + [1])


def test_numbers_go_on_from_one_group_of_buckets_to_the_next() -> None:
    note = packing.Note(splits={"train": {str(b): [10, 30] for b in range(4)}}, folders={"train": {"cat": {"0": 4, "2": 6}, "dog": {"3": 1}}})
    tasks = packing.make_tasks(note, 100.0)
    assert [(t.chunks, t.first, t.rows, t.folders["cat"], t.totals) for t in tasks] == [
        (((0, 2),), 0, 20, 0, {"cat": 10, "dog": 1}),
        (((2, 4),), 20, 20, 4, {"cat": 10, "dog": 1}),
    ]
    assert folder_of(9_999, 10_000) == ""
    assert (folder_of(9_999, 10_001), folder_of(10_000, 10_001)) == ("00000/", "00001/")


def test_originals_stand_beside_their_pictures(tmp_path: Path) -> None:
    sums = [content(tmp_path, f"cat/{n}.png", i) for i, n in enumerate("ab")]
    rows: list[dict[str, Any]] = [row(tmp_path, i, f"cat/{'ab'[i]}.png", content_sha256=sums[i]) for i in range(2)]
    rows.append(row(tmp_path, 2, "cat/b.png", "s1.jpg", content_sha256=sums[1]))
    to = tmp_path / "to"
    counts = export(dataset(tmp_path, rows), str(to), format="imagefolder", workers=1, with_originals=1.0)
    assert (counts["images"], counts["originals"]) == (6, 3)
    assert files(to) == [f"train/cat/{n}.png" for n in ("a--original", "a", "b--original--p0001", "b--original--p0002", "b--s0", "b--s1")]
