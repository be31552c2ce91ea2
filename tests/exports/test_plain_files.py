"""Plain files of many pictures: numbered folders, found again by their listing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outputs import make_output

from nstray.errors import OutputError
from nstray.exports import files
from nstray.exports.files import _path, export_files
from nstray.exports.options import ExportOptions
from nstray.exports.packing import FILES_PER_FOLDER


def test_more_files_than_go_into_a_folder_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_PER_FOLDER", 3)
    monkeypatch.setattr(files, "_MEAN", 2)
    out = make_output(tmp_path, contents=2, styles=3, errors={"c1-s2": "too_small"}).out
    to = tmp_path / "to"
    assert export_files(out, str(to), ExportOptions("files"))["images"] == 5
    rows = [json.loads(line) for line in (to / "metadata.jsonl").read_text().splitlines()]
    found = {str(path.relative_to(to)) for path in to.rglob("*.png")}
    assert {row["file_name"] for row in rows} == found
    assert {name.partition("/")[0] for name in found} <= {"00000", "00001", "00002"}
    assert {Path(row["file_name"]).stem for row in rows} == {row["pair_id"] for row in rows} == {"c0-s0", "c0-s1", "c0-s2", "c1-s0", "c1-s1"}
    assert export_files(out, str(to), ExportOptions("files"))["images"] == 5  # a second command finds them
    assert {str(path.relative_to(to)) for path in to.rglob("*.png")} == found


@pytest.mark.parametrize("below", ["", "/images", "/data/x"])
def test_pictures_beside_the_parts_are_refused(tmp_path: Path, below: str) -> None:
    """A metadata.jsonl there would be loaded in place of the Parquet files."""
    out = make_output(tmp_path, contents=1, styles=1).out
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="lies in the output itself; use a folder beside it"):
        export_files(out, f"{out}{below}", ExportOptions("files"))
    assert sorted(tmp_path.rglob("*")) == before


def test_no_folder_gets_more_than_its_limit() -> None:
    rows = 200_000
    counts: dict[str, int] = {}
    for i in range(rows):
        folder = _path(f"{i:06d}-photo--style.png", rows).partition("/")[0]
        counts[folder] = counts.get(folder, 0) + 1
    assert len(counts) == 25
    assert max(counts.values()) <= FILES_PER_FOLDER
    assert _path("a.png", FILES_PER_FOLDER) == "a.png"
