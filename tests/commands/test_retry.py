"""Error rows made again: what stays, what changes, and who wins when two do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jobs
import pyarrow.parquet as pq
import pytest
from bench import Bench, pair, read, weights
from outputs import picture

from nstray.cluster.resume import pending_windows
from nstray.commands import status, verify
from nstray.errors import OutputError
from nstray.images.encode import encode
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard, cut_windows
from nstray.output.folder import Output
from nstray.worker import previous_rows
from nstray.worker.worker import Worker

__all__ = ["weights"]  # a fixture


@pytest.fixture
def bench(tmp_path: Path, weights: Any) -> Bench:
    return Bench(tmp_path, weights)


ROWS = [pair("a"), pair("b", content="late.png"), pair("c", content="text.png"), pair("d", style="late.png"), pair("e", content="c1.png")]


def begun(bench: Bench) -> tuple[Worker, Shard, dict[str, dict[str, Any]]]:
    """A part with two rows whose image was not there, which now is, and one whose image is none."""
    bench.save("text.png", b"<html>no picture</html>")
    worker, shard = bench.worker(ROWS)
    report = worker.process(shard)
    assert report.errors == {"not_found": 2, "not_an_image": 1}
    before = read(worker, shard)
    bench.save("late.png", picture(7, 36, 30))
    return worker, shard, before


def again(bench: Bench, worker: Worker, *codes: str) -> Worker:
    return Worker(dataclasses.replace(worker.spec, retry=codes), lambda: bench.weights, "cpu")


def test_error_rows_of_a_code_are_made_again_and_nothing_else_changes(bench: Bench) -> None:
    worker, shard, before = begun(bench)
    report = again(bench, worker, "not_found").process(shard)
    assert (report.won, report.rows, report.ok, report.errors) == (True, 5, 4, {"not_an_image": 1})
    after = read(worker, shard)
    for name in "ace":
        assert after[name] == before[name]
    for name in "bd":
        assert (after[name]["status"], after[name]["attempt"], after[name]["evaluations"]) == ("ok", 2, after["a"]["evaluations"])
    again(bench, worker, "not_an_image", "not_found").process(shard)
    assert (read(worker, shard)["c"]["error_code"], read(worker, shard)["c"]["attempt"]) == ("not_an_image", 2)
    assert read(worker, shard)["b"] == after["b"]


def test_pair_by_pair_as_after_a_death(bench: Bench) -> None:
    worker, shard, before = begun(bench)
    retrying = again(bench, worker, "not_found", "not_an_image")
    rows = [retrying.process_single(shard, i, 1) for i in range(4)]
    order = shard.table["pair_id"].to_pylist()
    died = (2, "worker_died", "killed its worker")
    rows.append(retrying.failed_row(shard, 4, *died) if order[4] in "bcd" else retrying.process_single(shard, 4, 1))
    assert retrying.commit_isolated(shard, rows, 0.0, 1).won
    after = read(worker, shard)
    assert (after["a"], after["e"]) == (before["a"], before["e"])
    assert all(after[name]["attempt"] >= 2 for name in "bcd")


def test_of_two_retries_the_first_put_wins(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard, _ = begun(bench)
    first, second = again(bench, worker, "not_found"), again(bench, worker, "not_found")
    optimise = Worker._optimise

    def meanwhile(self: Worker, prepared: Sequence[Any]) -> Any:
        if self is second:
            monkeypatch.setattr(Worker, "_optimise", optimise)
            assert first.process(shard).won
        return optimise(self, list(prepared))

    monkeypatch.setattr(Worker, "_optimise", meanwhile)
    assert not second.process(shard).won
    assert [row["attempt"] for row in read(worker, shard).values() if row["status"] == "ok"].count(2) == 2


def test_a_part_that_is_gone_or_damaged_is_said(bench: Bench) -> None:
    worker, shard, _ = begun(bench)
    path = Path(worker.output.data_uri(shard.name))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(OutputError, match="is damaged"):
        previous_rows.read_previous(worker.output, shard, ("not_found",))
    path.unlink()
    with pytest.raises(OutputError, match="is gone; run the job again"):
        previous_rows.read_previous(worker.output, shard, ("not_found",))


def test_the_intake_takes_parts_with_such_rows_alone(bench: Bench) -> None:
    worker = begun(bench)[0]

    def taken(*codes: str) -> Any:
        tables = Manifest(worker.spec.info.uri).tables(worker.spec.info)
        spec = dataclasses.replace(worker.spec, retry=codes)
        return next(pending_windows(cut_windows(tables), spec, worker.output))

    assert [s.number for s in taken("timed_out").shards if s.number not in taken("timed_out").present] == []
    assert [s.number for s in taken("not_found").shards if s.number not in taken("not_found").present] == [0]
    part = next(iter(taken("timed_out").present.values()))
    worker.output.indexes.write(0, [part])
    assert taken("timed_out").finished.errors == {"not_found": 2, "not_an_image": 1}
    assert taken("not_found").finished is None
    assert worker.output.indexes.read(0) is None  # it would be wrong from the first replaced part on


@pytest.mark.slow
@pytest.mark.usefixtures("weights_once")
def test_a_whole_retry(local_ray: None, tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    out = str(tmp_path / "out")
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=2, styles=2, rows={"c1-s0": {"init": "late.png"}, "c0-s1": {"size": 24}})
    words = ["run", manifest, out, *jobs.options({**jobs.SETTINGS, "weights": weights, "actors": 1})]
    code, _, said = call(*words)
    assert (code, "error_not_found=1" in said) == (3, True), said
    parts, rows = jobs.parts(out), jobs.rows(out)
    assert [(r["pair_id"], r["error_code"]) for r in rows if r["status"] == "error"] == [("c1-s0", "not_found")]
    code, _, said = call("retry", out, "--code", "timed_out")
    assert (code, "event=retry rows=0 codes=timed_out" in said) == (3, True), said
    (tmp_path / "in" / "late.png").write_bytes(encode(picture(9, 24, 24), "png"))
    code, _, said = call("retry", out)
    assert (code, "event=retry rows=1 codes=all" in said, "event=complete rows=4 ok=4" in said) == (0, True, True), said
    now = jobs.parts(out)
    assert [name for name in parts if now[name] != parts[name]] == ["part-00000-0002.parquet"]
    assert [(r["pair_id"], r["status"], r["attempt"]) for r in jobs.rows(out)] == [(p, "ok", 2 if p == "c1-s0" else 1) for p in jobs.all_pairs(2, 2)]
    report = verify.verify(out)
    assert (report.problems, report.ok) == ([], 4)
    assert Output(out).summary.read()["errors"] == {}  # type: ignore[index]
    assert status.status(out)["state"] == "complete"
    assert pq.read_metadata(Output(out).data_uri("part-00000-0002.parquet")).num_rows == 1
    code, _, err = call("retry", out, "--evaluations", "7")
    assert (code, "--evaluations" in err) == (2, True)
    code, _, err = call("retry", out, "--manifest", str(tmp_path / "elsewhere.csv"))
    assert (code, "elsewhere.csv" in err) == (2, True)
