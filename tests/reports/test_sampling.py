"""A sample of a dataset's rows: every style in it, errors too, the same for the same seed, in bounded requests."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from outputs import begun, error_row, footer, job_record, ok_row

from nstray.output import histograms
from nstray.output.folder import Output
from nstray.output.layout import WINDOW_ROWS, part_name
from nstray.output.part_file import encode_part, read_footer
from nstray.output.schema import encode_schema, part_schema
from nstray.reports import sampling
from nstray.reports.sampling import by_strata, draw
from nstray.reports.survey import survey

LABELS = pa.schema([("label", pa.string()), ("split", pa.string())])
SIZE = 10


def job_of(
    out: str, styles: list[int], *, shard_size: int = SIZE, index: bool = True, skip: set[int] | None = None, errors: set[int] | None = None
) -> Output:
    """An output of one window, of `styles[i]` rows in style i, with 3 labels; every part has the same picture."""
    output = Output(out)
    output.job.open(job_record(rows=sum(styles), shard_size=shard_size, carried_schema=encode_schema(LABELS)))
    names = [f"s{i:02d}.jpg" for i, number in enumerate(styles) for _ in range(number)]
    sample = ok_row("x")
    for number, start in enumerate(range(0, len(names), shard_size)):
        if skip and number in skip:
            continue
        rows: list[dict[str, Any]] = []
        for i, style in enumerate(names[start : start + shard_size], start):
            own = {"style": (style,), "label": f"l{i % 3}", "split": "train"}
            row = error_row(f"p{i}", **own) if errors and i in errors else {**sample, **ok_row_parts(i, style)}
            rows.append(row)
        carried = pa.Table.from_pylist([{n: row[n] for n in LABELS.names} for row in rows], LABELS)
        foot = footer([row["pair_id"] for row in rows], number=number)
        if index:
            foot[histograms.KEY] = histograms.of_rows(rows, carried)
        output.parts.commit(part_name(0, number), encode_part(rows, part_schema(LABELS), foot))
    if index and not skip:
        output.indexes.write(0, [read_footer(info.uri) for info in output.parts.list_window(0).values()])
    return output


def ok_row_parts(i: int, style: str) -> dict[str, Any]:
    return {
        "pair_id": f"p{i}",
        "style_uri": [style],
        "label": f"l{i % 3}",
        "split": "train",
        "loss_curve": [9.0, 9.0 / (1 + i % 7)],
    }


def styles_of(rows: list[dict[str, Any]]) -> set[str]:
    return {row["style"] for row in rows}


@pytest.mark.parametrize("index", [True, False])
def test_every_style_appears_however_few_rows_it_has(tmp_path: Path, index: bool) -> None:
    output = job_of(str(tmp_path), [700, 3, 400, 12, 300, 1, 584], index=index)
    found = survey(output, output.job.read())
    for seed in range(5):
        sample = draw(found, output.job.read(), seed=seed, parts=40)
        assert len(styles_of(sample.rows)) == 7
        assert sample.parts_read <= 40
        assert sample.total == 2000
        assert not sample.whole
        assert f"{len(sample.rows):,} of 2,000 rows" in sample.words
        assert styles_of(by_strata(sample.rows, 7, seed)) == styles_of(sample.rows)


def test_a_few_parts_are_read_whole(tmp_path: Path) -> None:
    output = job_of(str(tmp_path), [30, 25], index=False)
    sample = draw(survey(output, output.job.read()), output.job.read())
    assert sample.whole
    assert [row["pair_id"] for row in sample.rows] == [f"p{i}" for i in range(55)]
    assert sample.words == "all 55 rows"
    assert {row["label"] for row in sample.rows} == {"l0", "l1", "l2"}


def test_the_same_seed_draws_the_same_rows_and_another_one_others(tmp_path: Path) -> None:
    output = job_of(str(tmp_path), [400, 400])
    job = output.job.read()
    found = survey(output, job)
    drawn = [[row["pair_id"] for row in draw(found, job, seed=seed, parts=10).rows] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_parts_with_errors_are_found_through_the_index(tmp_path: Path) -> None:
    output = job_of(str(tmp_path), [1000, 1000], errors={333})
    job = output.job.read()
    sample = draw(survey(output, job), job, parts=40)
    assert [row["pair_id"] for row in sample.rows if row["status"] == "error"] == ["p333"]


def test_a_window_that_is_open_is_sampled(tmp_path: Path) -> None:
    output = job_of(str(tmp_path), [500, 500], skip={3, 50})
    job = output.job.read()
    found = survey(output, job)
    (window,) = found.windows
    assert window.index is None
    assert found.rows_done == 980
    sample = draw(found, job, parts=20)
    assert sample.total == 980
    assert sample.parts_read <= 20
    assert len(styles_of(sample.rows)) == 2


def test_an_index_of_other_parts_is_not_taken(tmp_path: Path) -> None:
    output = job_of(str(tmp_path), [50])
    Path(output.data_uri(part_name(0, 2))).unlink()
    (window,) = survey(output, output.job.read()).windows
    assert window.index is None
    assert window.rows_done == 40


def test_large_parts_are_read_by_row_groups_that_have_each_style(tmp_path: Path) -> None:
    output = job_of(str(tmp_path), [900, 100, 1000, 400], shard_size=2400)
    job = output.job.read()
    sample = draw(survey(output, job), job, rows=600)
    assert len(sample.rows) == 600
    assert len(styles_of(sample.rows)) == 4


def test_damaged_parts_are_noted_and_nothing_else_is_lost(tmp_path: Path) -> None:
    output = job_of(str(tmp_path), [100], index=False)
    Path(output.data_uri(part_name(0, 1))).write_bytes(b"no part at all")
    uri = Path(output.data_uri(part_name(0, 4)))
    uri.write_bytes(uri.read_bytes()[:300] + b"\0" * 200 + uri.read_bytes()[500:])
    job = output.job.read()
    sample = draw(survey(output, job), job)
    assert {row["pair_id"] for row in sample.rows} >= {f"p{i}" for i in range(100) if i // 10 not in (1, 4)}
    assert any(part_name(0, 1) in note for note in sample.damaged)
    assert sample.total == 100


def test_an_empty_job_has_an_empty_sample(tmp_path: Path) -> None:
    output = begun(str(tmp_path))
    job = output.job.read()
    sample = draw(survey(output, job), job)
    assert sample.rows == []
    assert sample.total == 0


def test_of_very_many_windows_some_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(str(tmp_path))
    output.job.open(job_record(rows=20 * WINDOW_ROWS, shard_size=1000))
    monkeypatch.setattr("nstray.reports.survey.MOST_WINDOWS", 5)
    found = survey(output, output.job.read())
    assert (len(found.windows), found.all_windows) == (5, 20)


def row(i: int, style: str, label: str | None = None, status: str = "ok") -> sampling.Row:
    return {"pair_id": f"{i}", "style": style, "label": label, "status": status}


def test_strata_take_turns() -> None:
    random.seed(0)
    rows = [row(i, "a", f"l{i % 4}", "error" if i % 10 == 0 else "ok") for i in range(1000)] + [row(i, "b") for i in range(1000, 1003)]
    chosen = by_strata(rows, 23, 0)
    assert len(chosen) == 23
    assert Counter(each["style"] for each in chosen) == {"a": 20, "b": 3}
    labels = Counter(each["label"] for each in chosen if each["style"] == "a" and each["status"] == "ok")
    assert set(labels.values()) == {4}, "labels in turn, and errors as one stratum of a style"
    assert len({each["pair_id"] for each in chosen}) == 23
    assert by_strata(rows, 23, 0) == chosen != by_strata(rows, 23, 1)
    assert by_strata([], 5, 0) == []
