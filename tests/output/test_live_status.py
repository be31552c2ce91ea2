"""nstray.output.live_status: what a driver writes of a running job, and what `nstray status` makes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from outputs import begun, make_output

from nstray import storage
from nstray.commands import status, status_lines
from nstray.errors import StorageError
from nstray.output import live_status
from nstray.output.folder import Output
from nstray.output.live_status import Live, LiveFile, WorkerStatus

Call = Callable[..., tuple[int, str, str]]


def worker(name: str, state: live_status.WorkerState = "busy", **more: Any) -> WorkerStatus:
    busy = {"part": "part-00000-0003.parquet", "rows": 16, "seconds": 60.0, "quiet": 1.0, "pairs": ("c0-s1",)} if state == "busy" else {}
    where = {"node": "3f" * 28, "host": "host-1", "device": "NVIDIA H100"}
    return WorkerStatus(name=name, state=state, evaluations=1200, **{**where, **busy, **more})


def standing(*workers: WorkerStatus, writer: str = "me", age: float = 5.0, **more: Any) -> Live:
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "rows": 1000,
        "rows_done": 400,
        "backlog_shards": 30,
        "in_flight_shards": 4,
        "pairs_per_second": 2.0,
        "evaluations_per_second": 512.0,
        "busy": 0.93,
        "median_shard_seconds": 60.0,
        "eta_seconds": 300.0,
        "eta_low_seconds": 270.0,
        "eta_high_seconds": 330.0,
    }
    times = {"begun_at": now - timedelta(hours=1), "written_at": now - timedelta(seconds=age)}
    return Live(writer=writer, host="driver-host", workers=workers, **times, **{**values, **more})


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return begun(str(tmp_path / "out"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def file(output: Output, said: list[str], monkeypatch: pytest.MonkeyPatch) -> LiveFile:
    monkeypatch.setattr(live_status, "EVERY", 0.0)
    return LiveFile(output, said.append)


def write(file: LiveFile, text: Live) -> None:
    file.write(text)
    file._thread.join(30)


def put(output: Output, text: Live) -> None:
    """As another driver does."""
    storage.put_over(output.live_uri, text.model_dump_json().encode())


# the file


def test_a_run_s_file_is_there_until_it_ends(output: Output, file: LiveFile, said: list[str]) -> None:
    assert live_status.read(output) is None
    now = standing(worker("worker-1"), writer=file.writer)
    write(file, now)
    assert live_status.read(output) == now
    file.end()
    assert not Path(output.live_uri).exists()
    assert said == []


def test_it_is_written_every_15_s_and_never_twice_at_once(output: Output, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert live_status.EVERY == 15
    clock, gate = [100.0], threading.Event()
    monkeypatch.setattr(live_status.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(storage, "put_over", lambda *_: gate.wait(30))
    file = LiveFile(output, said.append)
    assert file.due()
    file.write(standing())
    clock[0] += 100
    assert not file.due()  # the store is slow
    gate.set()
    file._thread.join(30)
    assert file.due()
    write(file, standing())
    clock[0] += 14.9
    assert not file.due()
    clock[0] += 0.1
    assert file.due()


def test_a_store_that_refuses_is_said_once(output: Output, file: LiveFile, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise StorageError("s3://bucket/out/.nstray/live.json: disk full")

    monkeypatch.setattr(storage, "put_over", refuse)
    for _ in range(3):
        write(file, standing())
    file.end()
    assert len(said) == 1
    assert said[0].startswith('event=live_failed error="StorageError: s3://bucket/out/.nstray/live.json: disk full" hint=')


def test_a_store_that_hangs_holds_up_no_end(output: Output, file: LiveFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_status, "END", 0.05)
    gate = threading.Event()
    monkeypatch.setattr(storage, "put_over", lambda *_: gate.wait(60))
    file.write(standing())
    file.end()
    assert file._thread.is_alive()
    assert file._thread.daemon
    gate.set()
    file._thread.join(30)


def test_an_output_that_was_removed_is_not_made_again(output: Output, file: LiveFile, said: list[str]) -> None:
    Path(output.job_uri).unlink()
    Path(output.job_uri).parent.rmdir()
    write(file, standing())
    file.end()
    assert not Path(output.job_uri).parent.exists()
    assert said == []


def test_two_drivers_know_of_each_other(output: Output, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(live_status.time, "monotonic", lambda: clock[0])
    put(output, standing(writer="dead"))  # what a killed one left
    one, two = LiveFile(output, said.append), LiveFile(output, said.append)

    def of(file: LiveFile) -> tuple[str, ...]:
        write(file, standing(writer=file.writer))
        found = live_status.read(output)
        assert found is not None
        assert found.writer == file.writer
        return found.others

    assert of(one) == ()
    assert of(two) == ()  # its first word
    assert of(one) == (two.writer,)
    assert of(two) == (one.writer,)
    one.end()
    assert live_status.read(output) is not None  # the other's
    assert of(two) == (one.writer,)
    clock[0] += live_status.MEETING
    assert of(two) == ()
    two.end()
    assert live_status.read(output) is None
    assert said == []


# what status makes of it


def test_status_without_the_file_says_what_it_always_said(call: Call, tmp_path: Path) -> None:
    made = make_output(tmp_path)
    told = json.loads(call("status", made.out, "--json")[1])
    assert "run" not in told
    text = call("status", made.out, "--verbose")[1]
    put(Output(made.out), standing(worker("worker-1")))
    more = call("status", made.out, "--verbose")[1]
    assert more.splitlines()[: len(text.splitlines())] == text.splitlines()
    assert {k: v for k, v in json.loads(call("status", made.out, "--json")[1]).items() if k != "run"} == told


def test_status_shows_a_run(call: Call, output: Output) -> None:
    workers = [
        worker("worker-1"),
        worker("worker-2", seconds=200.0, straggler=True),
        worker("worker-3", "idle"),
        worker("worker-4", "starting", node=None, host=None, device=None),
        worker("worker-5", "stalled", part="part-00000-0009.parquet", seconds=1000.0, quiet=900.0, pairs=("a", "b", "c", "d")),
    ]
    put(output, standing(*workers, others=("3c4d",)))
    code, out, err = call("status", output.out, "--verbose")
    assert (code, err) == (0, "")
    fields = dict(line.split(None, 1) for line in out.splitlines() if line)
    assert fields["run"].endswith("5s ago by driver me on driver-host")
    assert fields["workers"] == "2 busy, 1 idle, 1 stalled, 1 starting"
    assert fields["stragglers"] == "worker-2 (3m20s on part-00000-0003.parquet)"
    assert fields["shards"] == "4 with workers, 30 waiting, median 1m00s"
    assert fields["rate"] == "2 pairs/s, 512 evaluations/s, devices busy 93%"
    assert fields["eta"] == "5m00s (4m30s to 5m30s in 8 of 10 cases)"
    assert fields["drivers"] == "2 write to this output at once: me, 3c4d"
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("worker "))
    assert [line.split()[:2] for line in lines[head + 1 :]] == [
        ["worker-5", "stalled"],
        ["worker-2", "straggling"],
        ["worker-1", "busy"],
        ["worker-3", "idle"],
        ["worker-4", "starting"],
    ]
    assert lines[head + 1].endswith(" a, b, c and 1 more")
    assert "part-00000-0009.parquet" in lines[head + 1]
    run = json.loads(call("status", output.out, "--json")[1])["run"]
    assert (run["fresh"], run["stragglers"], run["eta_low_seconds"]) == (True, ["worker-2"], 270)
    assert 5 <= run["age_seconds"] < 30
    assert [w["name"] for w in run["workers"]] == [f"worker-{i}" for i in range(1, 6)]


def test_what_is_old_is_said_to_be_and_not_shown(call: Call, output: Output) -> None:
    put(output, standing(worker("worker-1"), age=3600.0))
    out = call("status", output.out)[1]
    assert "silent; last heard of 1h00m ago by driver me on driver-host" in out
    assert "worker-1" not in out
    assert json.loads(call("status", output.out, "--json")[1])["run"]["fresh"] is False


def test_many_workers_are_not_all_listed(output: Output) -> None:
    put(output, standing(*(worker(f"worker-{i}") for i in range(100))))
    run = status.run_status(output)
    assert run is not None
    assert status_lines.worker_table(run)[-1] == "and 60 more: see --json"
    assert len(status_lines.worker_table(run)) == 42


def test_a_run_that_has_just_begun(output: Output) -> None:
    unknown = dict.fromkeys(("evaluations_per_second", "busy", "median_shard_seconds", "eta_seconds", "eta_low_seconds", "eta_high_seconds"))
    put(output, standing(**unknown))
    run = status.run_status(output)
    assert run is not None
    words = status_lines.run_summary(run)
    assert (words["eta"], words["workers"], words["rate"]) == ("?", "none", "2 pairs/s")
    assert status_lines.worker_table(run) == []


HOSTILE: list[tuple[str, Any]] = [
    ("format", 2),
    ("rows", -1),
    ("rows", 10**400),
    ("written_at", "never"),
    ("written_at", "2026-01-01T00:00:00"),
    ("eta_seconds", "x"),
    ("eta_seconds", float("inf")),
    ("busy", float("nan")),
    ("host", "x" * 1000),
    ("host", {"a": 1}),
    ("workers", [{"name": "x"}]),
    ("workers", [[[[]]]]),
    ("others", [1]),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=str)
def test_a_file_that_can_t_be_is_as_if_it_were_not_there(call: Call, output: Output, key: str, value: Any) -> None:
    before = call("status", output.out)
    Path(output.live_uri).write_text(json.dumps({**standing().model_dump(mode="json"), key: value}))
    assert call("status", output.out) == before


def test_a_strangers_file_is_only_shown(call: Call, output: Output) -> None:
    odd = worker("\x1b[2J", host="\u202e", device="a\nb", seconds=None, straggler=True)
    put(output, standing(odd, worker("x", "stalled", pairs=("\x9b",)), writer="\x1b]0;t\x07", age=-1e9, others=("s3://me:pw@b",)))
    code, out, err = call("status", output.out)
    assert (code, err) == (0, "")
    assert not set("\x1b\x9b\x07\u202e") & set(out)
    assert "pw" not in out


# other ends


def test_nothing_is_written_after_the_end(output: Output, file: LiveFile) -> None:
    """The end may come from another thread, while the driver goes on."""
    write(file, standing(writer=file.writer))
    assert file.due()
    file.end()
    assert not file.due()


def test_the_file_of_a_killed_driver_goes_with_the_next_run(output: Output, file: LiveFile) -> None:
    """Also if that run is over before it writes its own; a file of a driver that may live stays."""
    put(output, standing(writer="lives", age=live_status.MEETING - 5))
    file.end()
    assert live_status.read(output) is not None
    put(output, standing(writer="dead", age=live_status.MEETING + 5))
    file.end()
    assert live_status.read(output) is None


@pytest.mark.parametrize(("age", "said"), [(5.0, False), (29.0, False), (40.0, True), (59.0, True)])
def test_a_file_that_is_late_is_said_to_be(output: Output, age: float, said: bool) -> None:
    put(output, standing(worker("worker-1")))
    run = status.run_status(output)
    assert run is not None
    assert ("a driver writes every 15s: it may have been killed" in status_lines.run_summary({**run, "age_seconds": age})["run"]) is said


def test_a_silent_driver_was_probably_killed(call: Call, output: Output) -> None:
    put(output, standing(age=125.0))
    out = call("status", output.out)[1]
    assert "silent; last heard of 2m0" in out
    assert "a driver writes every 15s, so it was probably killed, or can't write to the output; if it was killed, run the same command again" in out
