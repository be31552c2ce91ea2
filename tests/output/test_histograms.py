"""Histograms of footers and indexes: what they add up to, how large they get, and what lacks or damages them."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from outputs import error_row, footer, make_output, ok_row

from nstray import storage
from nstray.output import histograms
from nstray.output.folder import Output
from nstray.output.part_file import read_footer
from nstray.output.records import Counts


def test_an_index_adds_up_what_its_parts_say(tmp_path: Path) -> None:
    made = make_output(tmp_path, contents=6, styles=5, errors={"c1-s1": "too_small"})
    output = Output(made.out)
    found = histograms.load(output.indexes.read(0) or {})
    assert found is not None
    assert found.rows == 30
    assert found.values["ratio"].total == 29
    assert found.values["ratio"].quantile(0.5) == pytest.approx(3.5 / 9, rel=0.1)
    assert set(found.values) == {"ratio", "seconds"}, "losses of several styles are not one distribution"
    assert found.styles is not None
    places = {Path(key).name: (of.ok, of.errors, of.first, of.last) for key, of in found.styles.items()}
    assert places == {f"s{i}.png": (6 - (i == 1), int(i == 1), 3 * i, 3 * i + 2) for i in range(5)}
    assert found.splits == {str(i): 5 for i in range(6)}
    assert found.labels is None, "the manifest has no labels"
    assert found.finished is not None
    assert [sum(worker.rows) for worker in found.finished.values()] == [30]


def test_parts_of_earlier_versions_make_an_index_without_histograms(tmp_path: Path) -> None:
    made = make_output(tmp_path, histogram=False)
    output = Output(made.out)
    index = output.indexes.read(0)
    assert index is not None
    assert histograms.load(index) is None
    assert output.indexes.window_counts(0, 3) == Counts(3, 6, 6, {}, 18, 4.5, index["bytes"], 1_700_000_000.0, 1_700_000_012.0)


def test_one_part_without_them_leaves_the_window_without(tmp_path: Path) -> None:
    with_them = footer(["a"], rows=1, histograms=histograms.of_rows([ok_row("a")], None))
    assert histograms.of_parts([(0, with_them), (1, with_them)]) is not None
    assert histograms.of_parts([(0, with_them), (1, footer(["b"], rows=1))]) is None
    assert histograms.of_parts([(0, {**with_them, "rows": 2})]) is None, "they are of other rows"


@pytest.mark.parametrize(
    "damage", [1, [], {"rows": -1}, {"rows": "x"}, {"values": {"ratio": {"counts": {str(i): 1 for i in range(65)}}}}, {"styles": {"s": 3}}]
)
def test_damaged_ones_count_as_lacking(tmp_path: Path, damage: Any) -> None:
    made = make_output(tmp_path)
    output = Output(made.out)
    uri = output.index_uri(0)
    index = json.loads(storage.read(uri))
    storage.put_over(uri, json.dumps({**index, "histograms": damage}).encode())
    assert output.indexes.window_counts(0, 3) is not None
    assert histograms.load(output.indexes.read(0) or {}) is None
    assert histograms.load({"histograms": damage}) is None


def test_quantiles_are_right_to_the_width_of_a_bin() -> None:
    random.seed(1)
    values = [math.exp(random.gauss(0, 0.7)) for _ in range(5000)]
    found = histograms.bins(values)
    assert len(found.counts) <= 64
    for share, true in zip((0.1, 0.5, 0.9), (statistics.quantiles(values, n=10)[i] for i in (0, 4, 8)), strict=True):
        assert found.quantile(share) == pytest.approx(true, rel=0.1)
    wide = histograms.bins(10.0**k for k in range(-200, 200))
    assert len(wide.counts) <= 64
    assert wide.total == 400
    assert histograms.merged_bins([found, wide]).total == 5400
    assert histograms.bins([0.0, -1.0, math.inf, math.nan]).total == 0


def test_a_footer_stays_small_whatever_its_rows_are() -> None:
    many = [ok_row(f"p{i}", style=(f"{'long' * 60}/{i}.jpg",), loss_content=float(i + 1), seconds=1.0 + i) for i in range(64)]
    labels = pa.table({"label": [f"label {i}" for i in range(64)], "split": ["train"] * 64})
    record = histograms.of_rows(many, labels)
    assert len(json.dumps(record)) < 2 * histograms.FOOTER_BYTES
    assert record["rows"] == 64
    assert len(record["labels"]) == 64
    more = histograms.of_rows([*many, ok_row("p64", style=("other",))], None)
    assert "styles" not in more, "more than 64 styles are no histogram"
    few = histograms.of_rows([ok_row(f"p{i}", seconds=1.0 + i) for i in range(16)], labels.slice(0, 16))
    assert len(json.dumps(few)) < 1500


def test_labels_of_any_type_are_counted_as_text_or_not_at_all() -> None:
    rows = [ok_row("a"), error_row("b"), ok_row("c")]
    assert histograms.of_rows(rows, pa.table({"label": [3, None, 3]}))["labels"] == {"3": 2, "": 1}
    assert histograms.of_rows(rows, pa.table({"label": pa.array(["x", "y", "x"]).dictionary_encode()}))["labels"] == {"x": 2, "y": 1}
    assert "labels" not in histograms.of_rows(rows, pa.table({"label": [[1], [2], None]}))
    both = histograms.of_rows(rows, pa.table({"label": ["x", "y", "x"], "split": ["train", "train", "test"]}))
    assert both["split_labels"] == {"train\tx": 1, "train\ty": 1, "test\tx": 1}


def test_the_footer_of_a_part_says_them(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    found = histograms.load(read_footer(str(made.part("part-00000-0000.parquet"))).footer)
    assert found is not None
    assert found.rows == 2
