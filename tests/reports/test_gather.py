"""What a report gathers: each number against one computed from the rows, states of a job, and what can't be read."""

from __future__ import annotations

import io
import json
import random
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from outputs import WEIGHTS_ID, Made, begun, error_row, footer, job_record, make_output, ok_row, picture
from PIL import Image

from nstray import storage
from nstray.errors import OutputError
from nstray.images.encode import encode
from nstray.output import histograms
from nstray.output.folder import Output
from nstray.output.layout import part_name
from nstray.output.live_status import Live
from nstray.output.part_file import encode_part, read_footer
from nstray.output.schema import encode_schema, part_schema
from nstray.reports import gather as gathering
from nstray.reports.gather import gather
from nstray.reports.report_data import Report
from nstray.reports.sampling import draw
from nstray.reports.thumbnails import jpegs

LABELS = pa.schema([("label", pa.int64()), ("split", pa.string())]).with_metadata(
    {"huggingface": json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "fox"]}}}})}
)


def output_of(
    out: str, rows: list[dict[str, Any]], *, shard_size: int = 10, skip: tuple[int, ...] = (), index: bool = True, **footers: Any
) -> Output:
    """An output of one window with these rows; the parts of `skip` are missing."""
    output = Output(out)
    output.job.open(job_record(rows=len(rows), shard_size=shard_size, carried_schema=encode_schema(LABELS)))
    for number, start in enumerate(range(0, len(rows), shard_size)):
        own = rows[start : start + shard_size]
        carried = pa.Table.from_pylist([{n: row[n] for n in LABELS.names} for row in own], LABELS)
        more = {name: value(number) for name, value in footers.items()}
        foot = footer([row["pair_id"] for row in own], number=number, histograms=histograms.of_rows(own, carried), **more)
        if number not in skip:
            output.parts.commit(part_name(0, number), encode_part(own, part_schema(LABELS), foot))
    if index and not skip:
        output.indexes.write(0, [read_footer(info.uri) for info in output.parts.list_window(0).values()])
    return output


def rows_of(number: int, styles: int = 3) -> list[dict[str, Any]]:
    """Rows sorted by style, with losses, labels, and an error row in each 40."""
    random.seed(number)
    found = []
    for i in range(number):
        more = {"label": i % 3, "split": "test" if i % 5 == 4 else "train"}
        style = (f"s{i * styles // number}.png",)
        if i % 40 == 7:
            found.append(error_row(f"p{i:05d}", ("not_found", "too_small")[i % 80 == 7], style=style, **more))
            continue
        end = random.lognormvariate(1, 0.4) * (1 + i * styles // number)
        figures = {"loss_curve": [50.0, 20.0 + end, end], "loss_total": end, "loss_content": end / 3, "loss_style": end / 2000}
        found.append(ok_row(f"p{i:05d}", seed=i % 20, style=style, seconds=random.uniform(1, 3), **figures, **more))
    return found


def check_boxes(report: Report, rows: list[dict[str, Any]], tolerance: float) -> None:
    values = {
        "ratio": lambda row: row["loss_curve"][-1] / row["loss_curve"][0],
        "loss_content": lambda row: row["loss_content"],
        "loss_style": lambda row: row["loss_style"],
        "seconds": lambda row: row["seconds"],
    }
    assert [d.name for d in report.distributions] == ["ratio", "seconds", "loss_content", "loss_style"]
    for distribution in report.distributions:
        assert {box.style for box in distribution.boxes} == set(report.styles)
        for box in distribution.boxes:
            own = [values[distribution.name](row) for row in rows if row["status"] == "ok" and row["style_uri"] == [box.style]]
            assert box.median == pytest.approx(statistics.median(own), rel=tolerance)
            assert box.p10 == pytest.approx(np.quantile(own, 0.1), rel=tolerance)
            assert box.p90 == pytest.approx(np.quantile(own, 0.9), rel=tolerance)
            assert box.low <= box.p10 <= box.p25 <= box.median <= box.p75 <= box.p90 <= box.high


def test_a_small_output_is_read_whole_and_its_numbers_are_exact(tmp_path: Path) -> None:
    rows = rows_of(150)
    report = gather(output_of(str(tmp_path), rows).out)
    assert (report.rows_total, report.rows_done, report.ok, report.errors) == (150, 150, 146, 4)
    assert report.styles == ("s0.png", "s1.png", "s2.png")
    assert set(report.labels) == {"cat", "dog", "fox"}
    assert report.splits == ("train", "test")
    check_boxes(report, rows, 1e-6)
    assert [(f.code, f.count, f.of.n, f.of.total) for f in report.failures] == [("not_found", 2, 150, 150), ("too_small", 2, 150, 150)]
    assert report.failures[0].examples[0][1] == "c.png: no such file"
    assert report.retry == f"nstray retry {tmp_path}"
    tables = {table.name: table for table in report.tables}
    assert tables["by style"].columns == ("style", "rows", "ok", "errors")
    assert sum(int(row[1]) for row in tables["by style"].rows) == 150
    assert sorted(tables["by label"].rows) == [("cat", "50"), ("dog", "50"), ("fox", "50")]
    assert tables["by split"].rows == (("train", "120"), ("test", "30"))
    assert sum(int(row[2]) for row in tables["by split and label"].rows) == 150
    assert ("network id", WEIGHTS_ID) in report.header
    assert ("size", "24", "512") in report.settings
    assert "shard_size" in {name for name, _, _ in report.settings}
    assert "pooling" not in {name for name, _, _ in report.settings}
    for curve in report.curves:
        assert curve.median[0] == 1.0
        assert curve.of.n == curve.of.total
        assert all(a <= b <= c for a, b, c in zip(curve.p10, curve.median, curve.p90, strict=True))


def test_indexes_stand_for_the_rows_of_a_large_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(2000)
    output = output_of(str(tmp_path), rows)
    monkeypatch.setattr(gathering, "draw", lambda found, job, seed: draw(found, job, seed=seed, parts=30))
    report = gather(output.out)
    assert report.windows.n == report.windows.total == 1
    check_boxes(report, rows, 0.1)  # the width of a bin
    ratio = report.distributions[0].boxes[0]
    assert ratio.of.n == ratio.of.total == sum(row["status"] == "ok" and row["style_uri"] == [ratio.style] for row in rows)
    assert (report.ok, report.errors) == (1950, 50)
    assert all(f.of.n == f.of.total == 2000 for f in report.failures)
    assert sum(int(row[1]) for table in report.tables if table.name == "by label" for row in table.rows) == 2000
    assert "300 of 2,000 rows" in report.sample
    assert all(curve.of.n < curve.of.total for curve in report.curves), "curves are of the sample alone"


def test_an_open_window_is_sampled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_of(str(tmp_path), rows_of(2000), skip=(5,))
    monkeypatch.setattr(gathering, "draw", lambda found, job, seed: draw(found, job, seed=seed, parts=30))
    report = gather(output.out)
    assert report.state == "incomplete"
    assert report.rows_done == 1990
    assert (report.windows.n, report.windows.total) == (0, 1)
    assert report.ok + report.errors == 300
    assert any("300 of the 1,990 rows" in note for note in report.notes)
    assert any("estimate" in note for note in report.notes)
    for table in report.tables:
        assert (table.of.n, table.of.total) == (300, 1990)
    box = report.distributions[0].boxes[0]
    assert box.of.n < box.of.total


def test_worst_and_best_are_ranked_within_their_style(tmp_path: Path) -> None:
    rows = rows_of(150)
    report = gather(output_of(str(tmp_path), rows).out)
    losses = {row["pair_id"]: row["loss_total"] for row in rows}
    shown = {pair.pair_id: pair for pair in report.pairs}
    for style in report.styles:
        own = sorted((row["loss_total"], row["pair_id"]) for row in rows if row["status"] == "ok" and row["style_uri"] == [style])
        assert report.best[style] == tuple(pair_id for _, pair_id in own[:3])
        assert report.worst[style] == tuple(pair_id for _, pair_id in own[:-4:-1])
        for pair_id in (*report.best[style], *report.worst[style]):
            assert shown[pair_id].style == style
            assert shown[pair_id].loss_total == losses[pair_id]


def test_pairs_that_hardly_moved_are_found(tmp_path: Path) -> None:
    rows = rows_of(60)
    rows[3]["loss_curve"] = [50.0, 49.9, 49.9]
    rows[30]["loss_curve"] = [50.0, 50.0, 50.0]
    report = gather(output_of(str(tmp_path), rows).out)
    assert report.unmoved == ("p00030", "p00003")


def test_every_style_is_in_the_gallery_and_pictures_are_those_of_the_rows(tmp_path: Path) -> None:
    made = make_output(tmp_path, contents=6, styles=8, errors={"c1-s1": "too_small"})
    report = gather(made.out, limit=8)
    gallery = [pair for pair in report.pairs if "gallery" in pair.why]
    assert {pair.style for pair in gallery} == {f"s{i}.png" for i in range(8)}
    for pair in report.pairs:
        content, style = (int(word[1:]) for word in pair.pair_id.split("-"))
        for data, seed, sides in ((pair.content, content, (60, 40)), (pair.style_image, 100 + style, (60, 40))):
            assert near(data, picture(seed, *sides))
        if pair.status == "ok":
            row = next(row for rows in made.rows.values() for row in rows if row["pair_id"] == pair.pair_id)
            assert near(pair.result, picture(row["seed"]))
        else:
            assert pair.result is None
            assert pair.missing["result"] == "an error row has no picture"


def near(data: bytes | None, pixels: np.ndarray) -> bool:
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        found = np.asarray(image.convert("RGB")).astype(int)
    return found.shape == pixels.shape and float(np.abs(found - pixels).mean()) < 15


def test_originals_that_are_gone_or_changed_are_noted(tmp_path: Path) -> None:
    made = make_output(tmp_path, contents=3, styles=2)
    inputs = Path(made.manifest).parent
    (inputs / "c0.png").unlink()
    (inputs / "s1.png").write_bytes(encode(picture(7), "png"))
    report = gather(made.out)
    reasons = {pair.pair_id: pair.missing for pair in report.pairs}
    assert reasons["c0-s0"] == {"content": "the file is gone"}
    assert reasons["c1-s1"] == {"style_image": "the file has changed since"}
    assert reasons["c1-s0"] == {}
    assert any("2 of 6 content images" in note for note in report.notes)


def test_damaged_parts_and_broken_pictures_lose_nothing_else(tmp_path: Path) -> None:
    def change(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
        for row in rows:
            if row["pair_id"] == "c2-s0":
                row["image"] = {"bytes": b"\x89PNG no picture", "path": "c2-s0.png"}

    made = make_output(tmp_path, contents=4, styles=3, change=change)
    made.part("part-00000-0003.parquet").write_bytes(b"cut short")
    report = gather(made.out)
    assert len(report.pairs) == 10
    broken = next(pair for pair in report.pairs if pair.pair_id == "c2-s0")
    assert broken.result is None
    assert "not readable" in broken.missing["result"]
    assert any("c2-s0" in note for note in report.notes)
    assert any("part-00000-0003.parquet is damaged" in note for note in report.notes)
    assert all(pair.result for pair in report.pairs if pair is not broken)


def test_states(tmp_path: Path) -> None:
    empty = gather(begun(str(tmp_path / "empty")).out)
    assert (empty.state, empty.rows_done, empty.pairs, empty.tables) == ("empty", 0, (), ())
    assert empty.rows_total == 6
    assert gather(make_output(tmp_path / "done").out).state == "complete"
    half = make_output(tmp_path / "half", skip=["part-00000-0001.parquet"], finish=False)
    assert gather(half.out).state == "incomplete"
    now = datetime.now(UTC)
    live = Live(
        writer="w", host="h", begun_at=now, written_at=now, rows=6, rows_done=4, backlog_shards=1, in_flight_shards=0, pairs_per_second=1.0,
        evaluations_per_second=None, busy=None, median_shard_seconds=None, eta_seconds=None, workers=(),
    )  # fmt: skip
    storage.put_over(Output(half.out).live_uri, live.model_dump_json().encode())
    assert gather(half.out).state == "running"
    failed = make_output(tmp_path / "failed", contents=1, styles=2, errors={"c0-s0": "not_found", "c0-s1": "not_found"})
    report = gather(failed.out)
    assert (report.state, report.ok, report.errors) == ("failed", 0, 2)
    with pytest.raises(OutputError, match="no nstray job"):
        gather(str(tmp_path / "nothing"))


def test_speed_is_by_worker_and_gaps_are_marked(tmp_path: Path) -> None:
    def finished(number: int) -> float:
        return 1_700_000_000.0 + 10 * number + (1000 if number >= 30 else 0)

    output = output_of(str(tmp_path), rows_of(600), finished=finished, host=lambda number: f"node{number % 2}")
    first, second = gather(output.out).speed
    assert {first.host, second.host} == {"node0", "node1"}
    for line in (first, second):
        step = line.points[1][0] - line.points[0][0]
        assert sum(rate for _, rate in line.points) * step == pytest.approx(300, rel=0.02)
        ((start, end),) = line.gaps
        assert 900 < end - start < 1100
        assert all(rate == 0 for at, rate in line.points if start + 2 * step < at < end - 2 * step)


def test_tables_of_many_values_have_the_largest_and_the_rest(tmp_path: Path) -> None:
    rows = [ok_row(f"p{i:04d}", label=None, split=f"split {max(0, i - 60)}") for i in range(130)]
    report = gather(output_of(str(tmp_path), rows, shard_size=130).out)
    table = next(table for table in report.tables if table.name == "by split")
    assert len(table.rows) == 50
    assert table.rows[0] == ("split 0", "61")
    assert table.rest == "and 20 others with 20 rows"


def test_the_same_seed_gives_the_same_report(tmp_path: Path) -> None:
    output = output_of(str(tmp_path), rows_of(300))
    drawn = [[pair.pair_id for pair in gather(output.out, seed=seed, limit=12).pairs] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_pictures_shrink_to_fit_a_page() -> None:
    rng = np.random.default_rng(0)
    noise = {f"p{i}": rng.integers(0, 256, (256, 256, 3)).astype(np.uint8) for i in range(24)}
    small = jpegs(noise, 200_000)
    assert set(small) == set(noise)
    assert sum(map(len, small.values())) <= 200_000
    assert sum(map(len, jpegs(noise).values())) > 400_000
    assert jpegs({}) == {}


def test_styles_of_one_name_are_told_apart(tmp_path: Path) -> None:
    def change(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
        for row in rows:
            row["style_uri"] = [f"{'a' if row['style_uri'][0].endswith('s0.png') else 'b'}/x.png"]

    made: Made = make_output(tmp_path, styles=2, change=change)
    assert set(gather(made.out).styles) == {"a/x.png", "b/x.png"}
