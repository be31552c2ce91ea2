"""Tar files, as the package webdataset reads them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets_made import CARRIED, as_json, class_folders, dataset, failed, files, row

from nstray.commands.export import export
from nstray.exports import card, packing


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}


def test_samples_are_picture_json_and_class(tmp_path: Path) -> None:
    rows = class_folders(tmp_path)
    to = tmp_path / "to"
    counts = export(dataset(tmp_path, rows), str(to), format="webdataset", workers=1)
    assert files(to) == ["classes.json", "train-000000.tar", "val-000000.tar"]
    assert (counts["images"], counts["files"], counts["splits"]) == (9, 2, {"train": 6, "val": 3})
    assert as_json(to / "classes.json") == {"cat": 0, "dog": 1, "sea lion": 2}
    found = members(to / "train-000000.tar")
    assert list(found) == [f"{i:09d}.{e}" for i in range(6) for e in ("png", "json", "cls")]
    by_id = {r["pair_id"]: r for r in rows}
    seen = set()
    for i in range(6):
        facts = json.loads(found[f"{i:09d}.json"])
        source = by_id[facts["pair_id"]]
        seen.add(facts["pair_id"])
        assert found[f"{i:09d}.png"] == source["image"]["bytes"]
        assert found[f"{i:09d}.cls"] == str(source["label"]).encode()
        assert facts["file_name"] == f"{facts['pair_id']}.png"
        assert facts["class_name"] == ["cat", "dog", "sea lion"][source["label"]]
        assert facts["content_uri"] == source["content_uri"].removeprefix(f"{tmp_path}/in/")
        assert facts["style_uri"] == [Path(source["style_uri"][0]).name]
        assert "loss_curve" not in facts
        assert "image" not in facts
    assert seen == {r["pair_id"] for r in rows if r["split"] == "train" and r["status"] == "ok"}


@pytest.mark.dev
def test_the_package_webdataset_reads_them_back(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    rows = [row(tmp_path, i, f"{i}.jpg", label=i % 3) for i in range(40)]
    to = tmp_path / "to"
    counts = export(dataset(tmp_path, rows, part=8), str(to), format="webdataset", workers=1, shard_mb=0.03)
    assert counts["files"] > 3
    assert max(p.stat().st_size for p in to.glob("*.tar")) <= 30_000 + 10_240  # the end of a tar fills 10 KiB
    pattern = f"{to}/train-{{000000..{counts['files'] - 1:06d}}}.tar"
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    assert [s["__key__"] for s in samples] == [f"{i:09d}" for i in range(40)]
    assert {s["json"]["pair_id"]: s["cls"] for s in samples} == {f"p{i:04d}": i % 3 for i in range(40)}
    assert {s["png"].shape for s in samples} == {(16, 24, 3)}
    assert [s["json"]["pair_id"] for s in samples] != sorted(s["json"]["pair_id"] for s in samples)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    out = dataset(tmp_path, class_folders(tmp_path))
    tars = []
    for name in "ab":
        export(out, str(tmp_path / name), format="webdataset", workers=1, shuffle="7")
        tars.append((tmp_path / name / "train-000000.tar").read_bytes())
    assert tars[0] == tars[1]
    export(out, str(tmp_path / "c"), format="webdataset", workers=1, shuffle="8")
    assert (tmp_path / "c" / "train-000000.tar").read_bytes() != tars[0]


def test_classes_of_text_are_numbered_by_name(tmp_path: Path) -> None:
    carried = CARRIED.remove(1).append(pa.field("label", pa.string())).remove_metadata()
    rows = [row(tmp_path, i, f"{i}.jpg", label=label) for i, label in enumerate(["b", None, "a", "b"])]
    to = tmp_path / "to"
    export(dataset(tmp_path, rows, carried=carried), str(to), format="webdataset", workers=1, shuffle="none")
    assert as_json(to / "classes.json") == {"a": 0, "b": 1}
    found = members(to / "train-000000.tar")
    assert {n: d for n, d in found.items() if n.endswith("cls")} == {"000000000.cls": b"1", "000000002.cls": b"0", "000000003.cls": b"1"}


def test_error_rows_are_samples_without_a_picture(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0, "a.jpg"), failed(tmp_path, 1, "b.jpg")]
    to = tmp_path / "to"
    counts = export(dataset(tmp_path, rows), str(to), format="webdataset", workers=1, shuffle="none", with_errors=True, columns="status,error_code")
    assert (counts["images"], counts["errors"]) == (1, 1)
    found = members(to / "train-000000.tar")
    assert [n for n in found if n.startswith("000000001")] == ["000000001.json", "000000001.cls"]
    assert json.loads(found["000000001.json"]) == {
        "file_name": None,
        "pair_id": "p0001",
        "status": "error",
        "error_code": "not_found",
        "class_name": "cat",
    }


@pytest.mark.dev
@pytest.mark.parametrize(("shard_mb", "most"), [(500, 10_000), (0.02, 10_000), (0.02, 2)])
def test_the_card_says_how_to_load_all_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_mb: float, most: int) -> None:
    pytest.importorskip("webdataset")
    for module in (card, packing):
        monkeypatch.setattr(module, "FILES_PER_FOLDER", most)
    to = tmp_path / "to"
    out = dataset(tmp_path, [row(tmp_path, i, f"{i}.jpg") for i in range(40)])
    counts = export(out, str(to), format="webdataset", workers=1, shard_mb=shard_mb)
    assert (counts["files"] == 1) == (shard_mb == 500)
    assert bool(list(to.glob("0*/train-*.tar"))) == (most == 2)
    code = (to / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("PATH_OF_THIS_FOLDER", str(to)), names)
    assert sorted(sample["json"]["pair_id"] for sample in names["rows"]) == [f"p{i:04d}" for i in range(40)]
