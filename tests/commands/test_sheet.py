"""A sheet laid out as a figure: its labels, its order, what is refused; and the paper's figures as manifests."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from outputs import error_row, footer, job_record, ok_row, picture

from nstray import config
from nstray.commands import config_file
from nstray.commands.sheet import sheet
from nstray.errors import OutputError, UsageError
from nstray.manifest.manifest import Manifest
from nstray.output.folder import Output
from nstray.output.layout import part_name
from nstray.output.part_file import encode_part
from nstray.output.schema import encode_schema, part_schema
from nstray.reports import drawing
from nstray.reports.figure import MOST, label

REPOSITORY = Path(__file__).parents[2]
PAPER = REPOSITORY / "manifests" / "gatys2015"
LAYOUT = pa.schema([("layers", pa.string()), ("ratio", pa.float64())])
NAMED = pa.schema([("figure_row", pa.string()), ("figure_column", pa.string())])


def make(base: Path, rows: list[dict[str, Any]], carried: pa.Schema = LAYOUT, of: int | None = None) -> str:
    """An output of these rows in one part, of a job of as many, or of `of`."""
    output = Output(str(base / "out"))
    output.job.open(job_record(rows=len(rows) if of is None else of, carried_schema=encode_schema(carried), shard_size=100))
    if rows:
        output.parts.commit(part_name(0, 0), encode_part(rows, part_schema(carried), footer([row["pair_id"] for row in rows])))
    return output.out


def grid() -> list[dict[str, Any]]:
    """Three rows of layers and two ratios, in an order that is not the figure's."""
    return [
        ok_row(f"{layers.replace(' ', '')}-{ratio:g}", seed=10 * i + j, layers=layers, ratio=ratio)
        for j, ratio in enumerate((1e-2, 1e-5))
        for i, layers in enumerate(("layer 10", "layer 2", "layer 1"))
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[drawing.Sheet]:
    """The sheets that were drawn."""
    seen: list[drawing.Sheet] = []
    draw = drawing.draw

    def spy(what: drawing.Sheet, *rest: Any) -> bytes:
        seen.append(what)
        return draw(what, *rest)

    monkeypatch.setattr(drawing, "draw", spy)
    return seen


def test_labels_stand_in_their_order_and_pictures_in_their_cells(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    out = make(tmp_path, grid())
    assert sheet(out, str(tmp_path / "f.png"), rows="layers", columns="ratio", title="Figure $3") == 6
    (made,) = drawn
    assert list(made.row_labels) == ["layer 1", "layer 2", "layer 10"]
    assert list(made.column_labels) == ["1e-5", "1e-2"]
    assert made.title == "Figure $3"
    assert "α 1, β 1000 unless its row says otherwise" in made.below
    seeds = {(row["layers"], row["ratio"]): row["seed"] for row in grid()}
    for layers, line in zip(made.row_labels, made.cells, strict=True):
        for ratio, cell in zip((1e-5, 1e-2), line, strict=True):
            assert cell is not None
            assert np.array_equal(cell.pixels, picture(seeds[layers, ratio]))


TEXTS = pa.schema([("layers", pa.string()), ("figure_order", pa.string())])


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        (["10", "9", "2.5", "-1"], ["-1", "2.5", "9", "10"]),
        (["1e-3", "0.01", "1e-5", "1e2"], ["1e-5", "1e-3", "0.01", "1e2"]),
        (["12345678901234567891", "12345678901234567890", "3"], ["3", "12345678901234567890", "12345678901234567891"]),
        (["1.10", "1.9", "1.1"], ["1.1", "1.10", "1.9"]),
        (["007", "", "5", None], ["5", "007", "", "none"]),
        (["1e-3", "0.01", "x"], ["0.01", "1e-3", "x"]),  # not all are numbers: the numbers in them by value, part by part
        (["v10", "v9", "v1.2"], ["v1.2", "v9", "v10"]),
        (["9e999", "1", "8e999"], ["1", "8e999", "9e999"]),
    ],
)
def test_text_that_is_all_numbers_is_in_order_of_value(tmp_path: Path, drawn: list[drawing.Sheet], texts: list[str | None], order: list[str]) -> None:
    rows = [ok_row(f"p{i}", seed=i, layers=text, figure_order=None) for i, text in enumerate(texts)]
    sheet(make(tmp_path, rows, TEXTS), str(tmp_path / "f.png"), rows="layers")
    assert list(drawn[0].row_labels) == order


def test_figure_order_as_text_is_in_order_of_value(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    rows = [ok_row(f"p{i}", seed=i, layers=name, figure_order=number) for i, (name, number) in enumerate(zip("abc", ("10", "9", "1e0"), strict=True))]
    sheet(make(tmp_path, rows, TEXTS), str(tmp_path / "f.png"), rows="layers")
    assert list(drawn[0].row_labels) == ["c", "b", "a"]


def test_figure_order_decides_where_it_is_carried(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    rows = [{**row, "figure_order": i} for i, row in enumerate(grid())]
    out = make(tmp_path, rows[::-1], LAYOUT.append(pa.field("figure_order", pa.int64())))
    sheet(out, str(tmp_path / "f.png"), rows="layers", columns="ratio")
    assert list(drawn[0].row_labels) == ["layer 10", "layer 2", "layer 1"]
    assert list(drawn[0].column_labels) == ["1e-2", "1e-5"]


def test_without_columns_a_rows_pictures_stand_side_by_side(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    out = make(tmp_path, grid()[:5])
    assert sheet(out, str(tmp_path / "f.png"), rows="layers") == 5
    assert not drawn[0].column_labels
    assert [[cell.label for cell in line if cell] for line in drawn[0].cells] == [
        ["layer1-0.01"],
        ["layer2-0.01", "layer2-1e-05"],
        ["layer10-0.01", "layer10-1e-05"],
    ]


def test_an_error_is_grey_with_its_code_and_a_hole_is_blank(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    rows = grid()[:5]
    rows[0] = error_row("broken", "too_small", layers="layer 10", ratio=1e-2)
    sheet(make(tmp_path, rows), str(tmp_path / "f.png"), rows="layers", columns="ratio")
    cells = drawn[0].cells
    assert cells[2][1] is not None
    assert (cells[2][1].pixels, cells[2][1].text) == (None, "too_small")
    assert cells[0][0] is None


def test_a_job_half_done_says_what_is_missing(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    sheet(make(tmp_path, grid()[:5], of=6), str(tmp_path / "f.png"), rows="layers", columns="ratio")
    hole = drawn[0].cells[0][0]
    assert hole is not None
    assert hole.text == "no such pair yet"


def test_a_value_that_is_absent_has_a_label_at_the_end(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    rows = grid()
    rows[2]["layers"] = None
    sheet(make(tmp_path, rows), str(tmp_path / "f.png"), rows="layers", columns="ratio")
    assert list(drawn[0].row_labels) == ["layer 1", "layer 2", "layer 10", "none"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-5"), (1e-4, "1e-4"), (0.01, "1e-2"), (0.025, "0.025"), (0.1, "0.1"), (0.0, "0"), (-2e-3, "-2e-3"), (1000.0, "1000"), (1e20, "1e20")],
)
def test_numbers_as_labels(value: float, text: str) -> None:
    assert label(value) == text


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_the_carried_names_are_used_unasked(tmp_path: Path, drawn: list[drawing.Sheet], kind: str) -> None:
    rows = [ok_row(f"p{i}", figure_row="one row", figure_column=f"({name}) a label long enough for two lines") for i, name in enumerate("ba")]
    out = make(tmp_path, rows, NAMED)
    assert sheet(out, str(tmp_path / f"f.{kind}")) == 2
    assert list(drawn[0].row_labels) == ["one row"]
    assert [text[:3] for text in drawn[0].column_labels] == ["(a)", "(b)"]
    assert (tmp_path / f"f.{kind}").read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[kind])


def test_without_such_columns_it_is_a_contact_sheet(tmp_path: Path, drawn: list[drawing.Sheet]) -> None:
    out = make(tmp_path, grid())
    assert sheet(out, str(tmp_path / "f.png"), limit=4) == 4
    assert not drawn[0].row_labels


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rows": "layer"}, "no column layer .* carries layers, ratio beside"),
        ({"rows": "layers", "columns": "alpha"}, "no column alpha"),
        ({"rows": "layers", "columns": "seed"}, "no column seed"),
        ({"columns": "ratio"}, "--columns needs --rows"),
        ({"rows": "layers", "columns": "layers"}, "pairs .* both stand in row 'layer 1', column 'layer 1' of layers x layers"),
        ({"rows": "layers", "limit": 5}, "6 pairs, more than the 5"),
        ({"rows": "layers", "limit": 0}, "at least 1"),
    ],
)
def test_what_is_refused(tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    out = make(tmp_path, grid())
    with pytest.raises(UsageError, match=said):
        sheet(out, str(tmp_path / "f.png"), **asked)
    assert not (tmp_path / "f.png").exists()


def test_a_dataset_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"more than the {MOST} of a figure"):
        sheet(make(tmp_path, grid(), of=1_000_000), str(tmp_path / "f.png"), rows="layers")


def test_a_manifest_that_carries_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="carries no column"):
        sheet(make(tmp_path, [ok_row("a")], pa.schema([])), str(tmp_path / "f.png"), rows="layers")


def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png or a \.pdf"):
        sheet(str(tmp_path / "no-such-output"), str(tmp_path / "f.svg"), rows="layers")


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no rows yet"):
        sheet(make(tmp_path, [], of=6), str(tmp_path / "f.png"), rows="layers")


def test_from_the_command_line(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out, target = make(tmp_path, grid()), tmp_path / "f.pdf"
    assert call("sheet", out, "-o", target, "--rows", "layers", "--columns", "ratio", "--title", "") == (0, f"6 pairs in {target}\n", "")
    code, _, err = call("sheet", out, "-o", tmp_path / "f.png", "--rows", "layer")
    assert code == 2
    assert "carries layers, ratio" in err


# the paper's figures


@pytest.mark.skipif("content_layers" not in config.ROW_FIELDS, reason="layers cannot be set per row")
@pytest.mark.parametrize("path", sorted(PAPER.glob("*.csv")), ids=lambda path: path.stem)
def test_the_papers_figures_are_valid_manifests(path: Path) -> None:
    settings = config_file.load(str(path.with_suffix(".yaml")))
    assert settings.init == "noise", "the paper starts from white noise"
    info = Manifest(str(path)).check(settings)
    assert not info.warnings
    assert {"figure_row", "figure_column"} <= set(info.carried)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["figure_row"], row["figure_column"]) for row in rows}) == len(rows) == info.rows


def test_figure_3_is_five_layers_by_four_ratios() -> None:
    with (PAPER / "figure3.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        assert row["content_weight"] == row["figure_column"]
        assert row["figure_row"].endswith(row["style_layers"].split(",")[-1])


def test_the_script_says_which_picture_it_lacks(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "gatys2015.py"), "figure3", "--pictures", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no picture tubingen.jpg" in done.stderr
