"""The labelled sheet: what it shows, and that it can always be drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outputs import make_output, picture
from PIL import Image

from nstray.errors import OutputError, UsageError
from nstray.reports import drawing
from nstray.reports.cells import caption
from nstray.reports.contact_sheet import choose_grid, contact_sheet
from nstray.reports.drawing import MAX_BYTES


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def area_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(sheet - np.array(colour)).max(axis=2) <= 2).sum())


def texts(monkeypatch: pytest.MonkeyPatch) -> list[list[list[Any]]]:
    """Collect the cells that sheets are drawn of."""
    seen: list[list[list[Any]]] = []
    draw = drawing.draw

    def spy(sheet: drawing.Sheet, *rest: Any) -> bytes:
        seen.append([list(line) for line in sheet.cells])
        return draw(sheet, *rest)

    monkeypatch.setattr(drawing, "draw", spy)
    return seen


@pytest.mark.parametrize("relative", [True, False])
def test_a_grid_has_its_originals_in_the_first_row_and_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    def shorten(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
        for row in rows:
            row.update(content_uri=Path(row["content_uri"]).name, style_uri=[Path(uri).name for uri in row["style_uri"]])

    seen = texts(monkeypatch)
    made = make_output(tmp_path, contents=2, styles=3, errors={"c1-s2": "too_small"}, change=shorten if relative else None)
    assert contact_sheet(made.out, str(tmp_path / "sheet.png")) == 6
    (sheet,) = seen
    assert [len(line) for line in sheet] == [4, 4, 4]
    assert sheet[0][0] is None
    assert [cell.label for cell in sheet[0][1:]] == ["s0.png", "s1.png", "s2.png"]
    assert [line[0].label for line in sheet[1:]] == ["c0.png", "c1.png"]
    for i, cell in enumerate(sheet[0][1:]):
        assert np.array_equal(cell.pixels, picture(100 + i, 60, 40))
    for i, line in enumerate(sheet[1:]):
        assert np.array_equal(line[0].pixels, picture(i, 60, 40))
        for j, cell in enumerate(line[1:]):
            if (i, j) == (1, 2):
                assert cell.pixels is None
                assert cell.text == "too_small"
            else:
                assert np.array_equal(cell.pixels, picture(i * 3 + j)), "the row's picture, at its own place"
    image = drawn(tmp_path / "sheet.png")
    grey = area_of(image, (0xDC, 0xDC, 0xDC))
    cell = image.shape[0] * image.shape[1] / 12
    assert 0.4 * cell < grey < 1.1 * cell, "one grey cell for the one error row"


def test_an_original_that_is_gone_is_a_grey_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = texts(monkeypatch)
    made = make_output(tmp_path)
    Path(made.manifest).with_name("s1.png").unlink()
    assert contact_sheet(made.out, str(tmp_path / "sheet.png")) == 6
    cell = seen[0][0][2]
    assert (cell.label, cell.pixels, cell.text) == ("s1.png", None, "the file is gone")


def test_more_pairs_than_the_limit_show_a_smaller_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = texts(monkeypatch)
    made = make_output(tmp_path, contents=4, styles=4)
    assert contact_sheet(made.out, str(tmp_path / "sheet.png"), limit=9) == 8
    assert [len(line) for line in seen[0]] == [5, 5, 5], "all four styles, and as many contents as there is room for"


def test_pairs_that_form_no_grid_stand_behind_their_style_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = texts(monkeypatch)
    made = make_output(
        tmp_path, contents=3, styles=3, change=lambda _name, rows, _foot: [row.update(content_uri="one.png", style_uri=["s.png"]) for row in rows]
    )
    assert contact_sheet(made.out, str(tmp_path / "sheet.png"), limit=5) == 5
    ((style, *pairs),) = seen[0]
    assert (style.label, style.text) == ("s.png", "the file is gone")
    assert [(cell.label, cell.text) for cell in pairs[::2]] == [("one.png", "the file is gone")] * 5
    assert len({cell.label for cell in pairs[1::2]} & {row["pair_id"] for rows in made.rows.values() for row in rows}) == 5
    assert all(cell.pixels is not None for cell in pairs[1::2])


def no_grid(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
    """Each pair has a content of its own, so contents x styles form no grid."""
    for row in rows:
        row["content_uri"] = f"{row['pair_id']}.png"


@pytest.mark.parametrize("histogram", [True, False])
def test_all_styles_of_150_pairs_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, histogram: bool) -> None:
    seen = texts(monkeypatch)
    made = make_output(tmp_path, contents=30, styles=5, change=no_grid, errors={"c7-s2": "too_small"}, histogram=histogram)
    said: list[str] = []
    assert contact_sheet(made.out, str(tmp_path / "sheet.png"), say=said.append) == 24
    assert {line[0].label for line in seen[0] if line[0]} == {f"s{i}.png" for i in range(5)}
    assert any(cell and cell.text == "too_small" for line in seen[0] for cell in line), "an error is drawn too"
    (words,) = said
    assert "24 of 150 rows, 5 of 5 styles" in words
    assert "seed 0" in words


def test_a_sheet_says_on_itself_what_it_shows_and_another_seed_shows_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets: list[drawing.Sheet] = []
    monkeypatch.setattr("nstray.reports.contact_sheet.save", lambda sheet, _target: sheets.append(sheet))
    made = make_output(tmp_path, contents=10, styles=3, change=no_grid)
    for seed in (3, 3, 4):
        assert contact_sheet(made.out, str(tmp_path / "sheet.png"), limit=6, seed=seed) == 6
    labels = [[cell.label for line in sheet.cells for cell in line if cell] for sheet in sheets]
    assert labels[0] == labels[1] != labels[2]
    assert "6 of 30 rows, 3 of 3 styles, drawn from all 30 rows; seed 3" in sheets[0].below


def test_a_job_half_done_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = texts(monkeypatch)
    made = make_output(tmp_path, contents=3, styles=3, skip=["part-00000-0003.parquet"], finish=False)
    assert contact_sheet(made.out, str(tmp_path / "sheet.png")) == 7
    assert sum(cell.text == "no such pair yet" for line in seen[0] for cell in line if cell is not None) == 2


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    made = make_output(tmp_path, contents=1, styles=1, skip=["part-00000-0000.parquet"], finish=False)
    with pytest.raises(OutputError, match="no rows yet"):
        contact_sheet(made.out, str(tmp_path / "sheet.png"))
    assert not (tmp_path / "sheet.png").exists()


def test_a_sheet_of_noise_stays_below_its_size(tmp_path: Path) -> None:
    def change(name: str, rows: list[dict[str, object]], foot: dict[str, object]) -> None:
        rng = np.random.default_rng(0)
        for row in rows:
            sink = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(sink, "PNG")
            row.update(image={"bytes": sink.getvalue(), "path": f"{row['pair_id']}.png"}, width=300, height=300)

    made = make_output(tmp_path, contents=4, styles=6, change=change)
    assert contact_sheet(made.out, str(tmp_path / "sheet.png")) == 24
    assert (tmp_path / "sheet.png").stat().st_size <= MAX_BYTES


def test_a_sheet_is_a_pdf_where_its_name_says_so(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    assert contact_sheet(made.out, str(tmp_path / "sheet.PDF"), title="what $a, $b cost") == 6
    assert (tmp_path / "sheet.PDF").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet", "png"])
def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png or a \.pdf"):
        contact_sheet(str(tmp_path / "no-such-output"), str(tmp_path / name))


def test_the_caption_names_the_settings(tmp_path: Path) -> None:
    line = caption(make_output(tmp_path).job)
    for text in ("random", "size 24 longest", "500 evaluations of lbfgs", "α 1, β 1000 (ratio 0.001)", "average pooling"):
        assert text in line


def test_the_fullest_grid_is_chosen() -> None:
    full = [(c, (s,)) for c in "abc" for s in "xy"]
    assert choose_grid(full, 24) == (["a", "b", "c"], [("x",), ("y",)])
    assert choose_grid(full, 4) == (["a", "b"], [("x",), ("y",)])
    assert choose_grid([*full, ("a", ("x",))], 24) is None
    assert choose_grid([(c, (c,)) for c in "abcdef"], 24) is None
    assert choose_grid([("a", ("x",)), ("a", ("x", "y")), ("a", ())], 24) == (["a"], [(), ("x",), ("x", "y")])
