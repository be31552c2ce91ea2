"""`nstray report`: the file, what is refused, and how many requests it takes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from outputs import begun, footer, job_record, make_output, ok_row

from nstray import cli, storage
from nstray.commands.report import cost_rows, report
from nstray.errors import OutputError, UsageError
from nstray.output import histograms
from nstray.output.folder import Output
from nstray.output.layout import part_name
from nstray.output.part_file import encode_part, read_footer
from nstray.output.records import PartInfo
from nstray.output.schema import encode_schema, part_schema
from nstray.reports import sampling
from nstray.storage import s3_client

LIMIT = 5_000_000
NONE = pa.schema([])


def test_a_report_is_one_page_that_replaces_an_earlier_one(tmp_path: Path) -> None:
    made = make_output(tmp_path, contents=6, styles=3, errors={"c1-s1": "too_small"})
    page = tmp_path / "report.html"
    page.write_text("earlier")
    found = report(made.out, str(page))
    text = page.read_text()
    assert text.lower().startswith("<!doctype html>")
    assert len(text.encode()) < LIMIT
    assert found.errors == 1
    assert f"nstray retry {made.out}" in text
    assert "data:image/jpeg;base64," in text


def test_the_command_says_what_it_shows(tmp_path: Path) -> None:
    made = make_output(tmp_path, contents=6, styles=3)
    page = tmp_path / "r.html"
    done = CliRunner().invoke(cli.cli, ["report", made.out, "-o", str(page), "--limit", "6", "--seed", "3"])
    assert done.exit_code == 0, done.output
    first, second = done.output.splitlines()
    assert re.fullmatch(rf"{page}: complete, 18 of 18 rows, \d+ pairs shown", first)
    assert second.startswith("All 18 rows.")
    assert "seed 3" in second


@pytest.mark.parametrize("name", ["report.pdf", "report", "html"])
def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        report(str(tmp_path / "no-such-output"), str(tmp_path / name))


def test_what_is_no_job_or_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no nstray job"):
        report(str(tmp_path / "nothing"), str(tmp_path / "r.html"))
    with pytest.raises(UsageError, match="limit must be at least 1"):
        report(make_output(tmp_path).out, str(tmp_path / "r.html"), limit=0)
    assert not (tmp_path / "r.html").exists()


def test_an_empty_job_has_a_page_that_says_so(tmp_path: Path) -> None:
    output = begun(str(tmp_path / "out"))
    assert report(output.out, str(tmp_path / "r.html")).state == "empty"
    assert "no pair is done" in (tmp_path / "r.html").read_text()


def test_the_cost_stands_beside_the_estimate() -> None:
    summary = {"last_run_devices": 2, "last_run_seconds": 7200.0, "last_run_bytes": 5_000_000, "estimate": {"devices": 2, "wall_seconds": 3600.0}}
    rows = {name: (took, estimate) for name, took, estimate in cost_rows(summary)}
    assert rows == {"devices": ("2", "2"), "wall seconds": ("2h00m", "1h00m"), "bytes": ("5.0 MB", "")}
    assert cost_rows(None) == ()


@pytest.fixture
def requests(s3: str) -> Counter[str]:
    """The requests to the store by kind."""
    counts: Counter[str] = Counter()

    def sent(event_name: str, **_: Any) -> None:
        counts[event_name.rpartition(".")[2]] += 1

    s3_client.client().meta.events.register("before-send.s3", sent)
    return counts


def test_150_rows_on_s3_take_few_requests(s3: str, requests: Counter[str], tmp_path: Path) -> None:
    made = make_output(tmp_path, out=f"{s3}/out", contents=30, styles=5)
    requests.clear()
    found = report(made.out, f"{s3}/report.html")
    assert found.shown.total == 150
    assert {pair.style for pair in found.pairs} == {f"s{i}.png" for i in range(5)}
    parts = len(made.rows)
    groups = len(found.pairs)  # each in a part of its own at most
    assert requests["GetObject"] <= parts + groups + 10
    assert requests["ListObjectsV2"] == 1
    assert requests["PutObject"] == 1
    assert len(storage.read(f"{s3}/report.html")) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("left_open", [False, True])
def test_10_000_rows_on_s3_take_at_most_1000_requests(s3: str, requests: Counter[str], tmp_path: Path, left_open: bool) -> None:
    output = Output(f"{s3}/out")
    output.job.open(job_record(rows=10_000, shard_size=16, carried_schema=encode_schema(NONE)))
    infos = []
    for number in range(625):
        rows = [ok_row(f"p{number * 16 + i}", seed=i, style=(f"s{number * 5 // 625}.png",)) for i in range(16)]
        foot = footer([row["pair_id"] for row in rows], number=number, histograms=histograms.of_rows(rows, None))
        data = encode_part(rows, part_schema(NONE), foot)
        uri = output.data_uri(part_name(0, number))
        if number == 300 and left_open:
            continue
        storage.put_new(uri, data)
        infos.append(PartInfo(uri, len(data), 16, 16, {}, foot))
    assert read_footer(infos[0].uri).rows == 16
    if not left_open:
        output.indexes.write(0, infos)
    requests.clear()
    found = report(output.out, str(tmp_path / "r.html"))
    assert {pair.style for pair in found.pairs} == {f"s{i}.png" for i in range(5)}
    assert (found.windows.n, found.windows.total) == (int(not left_open), 1)
    assert found.distributions[0].boxes[0].of.n == (2000 if not left_open else found.distributions[0].boxes[0].of.n)
    assert sum(requests.values()) <= 1000
    assert requests["GetObject"] <= sampling.MOST_PARTS + len(found.pairs) + 10
    assert (tmp_path / "r.html").stat().st_size < LIMIT
