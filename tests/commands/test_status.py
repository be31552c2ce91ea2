"""nstray status: where a job stands comes first, and the rest only if it is asked for."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jobs
import pytest
from outputs import job_record, make_output
from terminal import Terminal

from nstray import cli, storage
from nstray.commands import next_command, prepare, status, status_lines, watch
from nstray.commands.config_file import load
from nstray.config import make
from nstray.errors import OutputError
from nstray.output.folder import Output
from nstray.output.live_status import Live
from nstray.text import speed

Call = Callable[..., tuple[int, str, str]]


def live(output: Output, **more: Any) -> None:
    """A driver that works says so."""
    now = datetime.now(UTC)
    unknown = dict.fromkeys(("evaluations_per_second", "busy", "median_shard_seconds"))
    values = {"rows": 6, "rows_done": 4, "backlog_shards": 0, "in_flight_shards": 1, "pairs_per_second": 0.05, "eta_seconds": 40.0}
    times = {"begun_at": now, "written_at": now}
    about = Live(writer="me", host="here", workers=(), **{**unknown, **values, **times, **more})
    storage.put_over(output.live_uri, about.model_dump_json().encode())


def complete(out: str) -> None:
    Output(out).summary.write({"rows": 6, "ok": 6, "errors": {}})


def incomplete(out: str) -> str:
    """The last run has not written its summary yet."""
    Path(Output(out).summary_uri).unlink()
    return out


def lead(out: str) -> list[str]:
    return status_lines.status_lines(status.status(out))


# what comes first


def test_it_leads_with_state_progress_errors_and_what_to_type(tmp_path: Path, call: Call) -> None:
    made = make_output(tmp_path, errors={"c0-s1": "not_found", "c1-s0": "not_found", "c1-s2": "decode_failed"})
    complete(made.out)
    code, out, err = call("status", made.out)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "state   complete: 6 of 6 pairs (100 %), 3 error rows"
    assert re.fullmatch(r"errors  1 decode_failed, such as c1-s2: .+", lines[1])
    assert re.fullmatch(r"        2 not_found, such as c(0-s1|1-s0): .+", lines[2])
    assert lines[3:] == [f"next    nstray retry {made.out}"]
    told = json.loads(call("status", made.out, "--json")[1])
    assert (told["state"], told["activity"]) == ("complete", "complete")
    assert set(told["error_examples"]) == {"decode_failed", "not_found"}
    assert told["error_examples"]["decode_failed"]["pair_id"] == "c1-s2"


def test_hashes_and_settings_are_for_those_who_ask(tmp_path: Path, call: Call) -> None:
    made = make_output(tmp_path)
    record = Output(made.out).job.read()
    for key in ("fingerprint", "weights_id", "manifest_digest"):
        assert record[key] not in call("status", made.out)[1]
        assert record[key] in call("status", made.out, "--verbose")[1]


def test_a_job_that_runs_says_when_it_ends(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    incomplete(made.out)
    live(Output(made.out), eta_low_seconds=30.0, eta_high_seconds=50.0)
    lines = lead(made.out)
    assert lines[0] == "state    running: 6 of 6 pairs (100 %)"
    assert lines[1] == "eta      40s (30s to 50s in 8 of 10 cases)"
    assert lines[2] == "rate     3 pairs/min"
    assert lines[-1] == f"next     nstray status {made.out} --watch"
    live(Output(made.out), eta_seconds=None, pairs_per_second=0.0)  # it has just begun
    assert [line.split()[0] for line in lead(made.out)] == ["state", "workers", "next"]


def test_a_job_that_was_begun_just_now_is_not_taken_for_stopped(tmp_path: Path) -> None:
    job = begun(tmp_path)
    assert lead(job.output.out) == ["state  starting: 0 of 6 pairs (0 %)", f"next   nstray status {job.output.out} --watch"]
    record = {**job.output.job.read(), "created_at": "2026-01-02T03:04:05+00:00"}
    storage.put_over(job.output.job_uri, json.dumps(record).encode())
    assert lead(job.output.out)[0] == "state  stopped: 0 of 6 pairs (0 %)"
    record["created_at"] = "yesterday"
    storage.put_over(job.output.job_uri, json.dumps(record).encode())
    assert lead(job.output.out)[0] == "state  stopped: 0 of 6 pairs (0 %)"


def test_a_driver_that_is_silent_is_said_to_be(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    incomplete(made.out)
    live(Output(made.out), written_at=datetime(2026, 1, 1, tzinfo=UTC))
    lines = lead(made.out)
    assert lines[0].startswith("state  silent: 6 of 6 pairs")
    assert lines[1].startswith("run    silent; last heard of")


@pytest.mark.parametrize(
    ("rate", "text"), [(12.0, "12 pairs/s"), (1.0, "1 pairs/s"), (0.2, "12 pairs/min"), (0.001, "3.6 pairs/h"), (0.0, "0 pairs/h")]
)
def test_a_rate_is_in_the_unit_that_reads_well(rate: float, text: str) -> None:
    assert speed(rate) == text


def test_a_damaged_part_gives_no_example_and_no_traceback(tmp_path: Path) -> None:
    assert status.error_examples([str(tmp_path / "none.parquet")], ["not_found"]) == {}


def test_examples_are_looked_for_in_few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(status, "read_rows", lambda uri, _: read.append(uri) or [])
    assert status.error_examples([str(n) for n in range(1000)], ["not_found"]) == {}
    assert len(read) == status.LOOKED_AT


# at 80 columns


def test_no_line_but_the_command_is_wider_than_the_terminal(tmp_path: Path) -> None:
    made = make_output(tmp_path, errors={"c0-s1": "not_found"})
    answer = status.status(made.out)
    answer["error_examples"]["not_found"]["error_message"] = "a word " * 60 + "x" * 200 + "\nand a line\x1b[2J"
    lines = status_lines.status_lines(answer, columns=80)
    assert all(len(line) <= 80 for line in lines if not line.startswith("next"))
    assert lines[1].startswith("errors  1 not_found, such as c0-s1: a word")
    assert lines[2].startswith("        ")
    assert not any("\x1b" in line or "\n" in line for line in lines)
    assert len(status_lines.status_lines(answer)) == 3


# the next command


SETTINGS: dict[str, Any] = {"weights": "random", "size": 24, "evaluations": 3, "style_layers": "conv1_1,conv2_1", "upsample": True, "init": "noise"}


@pytest.mark.parametrize("settings", [SETTINGS, {"preset": "quick", "size": 64, "tv_weight": 0.125}, {"style_weight": 1234.56789012345}], ids=str)
def test_the_next_command_of_a_stopped_job_resumes_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    """It has the same settings, so that it is the same job."""
    out = Output(str(tmp_path / "a folder's"))
    config = make({**settings, "shard_size": 4})
    record = job_record(config=config.model_dump(mode="json"), manifest="/my data/pairs.csv", shard_size=4)
    words = shlex.split(next_command.next_command("stopped", 0, record, out))
    assert words[:4] == ["nstray", "run", "/my data/pairs.csv", str(out)]
    context = cli.run_command.make_context("run", words[2:])
    options = {k: v for k, v in context.params.items() if v is not None and k in type(config).model_fields}
    assert load(None, options.items()).result_fields() == config.result_fields()


def test_a_record_of_another_version_names_no_command_that_fails(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    for record in (job_record(format=1), job_record(config={"size": "huge"})):
        assert next_command.next_command("stopped", 0, record, output) == f"nstray status {output} --verbose"


def test_the_other_next_commands(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    assert next_command.next_command("running", 3, {}, output) == f"nstray status {output} --watch"
    assert next_command.next_command("complete", 0, {}, output) == f"nstray report {output} -o report.html"


# --watch


def begun(tmp_path: Path) -> prepare.Job:
    manifest, _ = jobs.write_inputs(str(tmp_path), contents=2, styles=3)
    job = prepare.check(manifest, str(tmp_path / "out"), make({**jobs.SETTINGS, "weights": "random"}))
    job.output.job.open(prepare.record(job))
    return job


def scripted(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> None:
    left = list(answers)
    monkeypatch.setattr(watch, "status", lambda out: left.pop(0))
    monkeypatch.setattr(watch, "LOCAL", 0.0)
    monkeypatch.setattr(watch, "SHARE", 1e9)


def answer(activity: str, done: int, **errors: int) -> dict[str, Any]:
    run = {"eta_seconds": 5.0} if activity == "running" else {}
    return {"activity": activity, "rows_done": done, "rows_total": 6, "errors": errors, "run": run, "error_examples": {}, "next": "x"}


def test_in_a_pipe_there_is_a_line_at_each_change(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (answer("stopped", 0), answer("running", 0), answer("running", 0), answer("running", 2, not_found=1), answer("complete", 6, not_found=1))
    scripted(monkeypatch, *steps)
    code, out, err = call("status", "out", "--watch")
    assert (code, err) == (0, "")
    assert [line.split(" ", 1)[1] for line in out.splitlines()] == [
        "stopped: 0 of 6 pairs (0 %)",
        "running: 0 of 6 pairs (0 %), ETA 5s",
        "running: 2 of 6 pairs (33 %), 1 error row, ETA 5s",
        "complete: 6 of 6 pairs (100 %), 1 error row",
    ]
    scripted(monkeypatch, *steps)
    lines = call("status", "out", "--watch", "--json")[1].splitlines()
    assert [json.loads(line)["rows_done"] for line in lines] == [0, 0, 2, 6]


def test_looks_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [0.0], []
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])

    def slow(out: str) -> dict[str, Any]:
        clock[0] += 7.0
        return answer("complete" if len(slept) > 1 else "running", 1)

    monkeypatch.setattr(watch, "status", slow)
    assert len(list(watch.looks("out", slept.append))) == 3
    assert slept == [pytest.approx(70.0)] * 2


def test_no_job_is_an_error_as_without_it(call: Call, tmp_path: Path) -> None:
    code, out, err = call("status", tmp_path, "--watch")
    assert (code, out) == (2, "")
    assert "no nstray job" in err
    with pytest.raises(OutputError):
        watch.watch(str(tmp_path))


def test_a_terminal_is_refreshed_in_place_until_ctrl_c(tmp_path: Path) -> None:
    job = begun(tmp_path)
    shown = Terminal(*jobs.NSTRAY, "status", job.output.out, "--watch", NO_COLOR="1")
    jobs.until(lambda: "starting: 0 of 6 pairs" in shown.text, "the first look", alive=shown.process)
    live(job.output, rows_done=0)
    jobs.until(lambda: "running: 0 of 6 pairs" in shown.text, "the driver is seen", alive=shown.process)
    assert "\x1b[2K" in shown.text  # the line is written anew
    assert "--watch" not in shown.text  # it is what runs
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown.text)
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == 4
    assert "Traceback" not in shown.text
    assert "interrupted" not in shown.text


def test_a_terminal_s_watch_ends_with_the_job(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    incomplete(made.out)
    shown = Terminal(*jobs.NSTRAY, "status", made.out, "--watch")
    jobs.until(lambda: "stopped: 6 of 6" in shown.text, "the first look", alive=shown.process)
    complete(made.out)
    assert shown.end() == 0
    assert "complete: 6 of 6 pairs (100 %)" in shown.text


def test_a_pipe_s_watch_ends_with_ctrl_c(tmp_path: Path) -> None:
    job = begun(tmp_path)
    process = subprocess.Popen([*jobs.NSTRAY, "status", job.output.out, "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().endswith("starting: 0 of 6 pairs (0 %)\n")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 4)
