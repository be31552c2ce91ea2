"""Parts that a copy has cut short, emptied or overwritten: every command names them and what to do, and none replaces them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
from outputs import error_row, footer, ok_row

from nstray import config, storage
from nstray.commands import prepare, run
from nstray.errors import OutputError
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output.folder import Output
from nstray.output.layout import part_name
from nstray.output.part_file import encode_part, open_part, read_footer
from nstray.output.records import Counts

Call = Callable[..., tuple[int, str, str]]
REMEDY = "remove it and run the job again to remake it"


class Finished:
    """A job whose parts, index and summary are there, local or on a store."""

    def __init__(self, folder: str) -> None:
        self.manifest, weights = jobs.write_inputs(folder, contents=2, styles=3)
        self.out = storage.join(folder, "out")
        self.settings = {**jobs.SETTINGS, "weights": weights, "shard_size": 2, "max_error_rate": 1.0}
        self.job = prepare.check(self.manifest, self.out, config.make(self.settings))
        self.output = Output(self.out)
        self.output.job.open(prepare.record(self.job))
        for number in range(3):
            self.commit(number)
        self.finish()

    def commit(self, number: int, bad: str = "c0-s0") -> None:
        ((window, table),) = cut_windows(self.job.manifest.tables(self.job.info))
        shard = cut_shards(window, table, self.job.config.shard_size)[number]
        ids = shard.table["pair_id"].to_pylist()
        rows = [error_row(i) if i == bad else ok_row(i) for i in ids]
        foot = footer(ids, window=window, number=number, fingerprint=self.job.spec.fingerprint)
        storage.put_over(self.output.data_uri(shard.name), encode_part(rows, self.job.spec.schema, foot))

    def finish(self) -> Counts:
        parts = self.output.parts.read_footers(self.output.parts.list_window(0))
        self.output.indexes.write(0, parts)
        counts = self.output.indexes.window_counts(0, 3)
        assert counts is not None
        self.output.summary.write({name: getattr(counts, name) for name in run._SUMMED})
        return counts

    def uri(self, number: int = 1) -> str:
        return self.output.data_uri(part_name(0, number))

    def run(self, call: Call) -> tuple[int, str, str]:
        return call("run", self.manifest, self.out, *jobs.options(self.settings))


pytestmark = pytest.mark.usefixtures("weights_once")


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    return Finished(str(tmp_path))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The outputs whose runs would have started Ray."""
    started: list[str] = []
    monkeypatch.setattr(run, "_run_on_ray", lambda job, *_: started.append(job.output.out) or run.EXIT_STOPPED)
    return started


# What is left of a part, and what is said of it.
LEFT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda data: b"", "it has 0 bytes, fewer than any Parquet file"),
    "one byte": (lambda data: data[:1], "it has 1 byte, fewer than any Parquet file"),
    "the first word": (lambda data: data[:4], "it has 4 bytes, fewer than any Parquet file"),
    "11 bytes": (lambda data: data[:11], "it has 11 bytes, fewer than any Parquet file"),
    "the two words alone": (lambda data: b"PAR1" + data[-8:], "it has 12 bytes, and its footer alone would have"),
    "the half": (lambda data: data[: len(data) // 2], "it does not end as a Parquet file does"),
    "all but a byte": (lambda data: data[:-1], "it does not end as a Parquet file does"),
    "all but the footer's length": (lambda data: data[:-8], "it does not end as a Parquet file does"),
    "a hole behind it": (lambda data: data + bytes(4096), "it does not end as a Parquet file does"),
    "its end alone": (lambda data: data[-100:], "it has 100 bytes, and its footer alone would have"),
}
COMMANDS = ["run", "retry", "plan", "status", "export", "sheet"]


def words(finished: Finished, command: str, folder: Path) -> tuple[Any, ...]:
    job = (finished.manifest, finished.out, *jobs.options(finished.settings))
    return {
        "run": ("run", *job),
        "plan": ("plan", *job),
        "retry": ("retry", finished.out, "--code", "too_small"),
        "export": ("export", finished.out, "--to", folder / "plain"),
        "sheet": ("sheet", finished.out, "-o", folder / "sheet.png"),
    }.get(command, (command, finished.out))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("left", LEFT)
def test_a_run_of_a_finished_output_names_the_part(finished: Finished, ray: list[str], left: str, index: bool) -> None:
    path = Path(finished.uri())
    change, said = LEFT[left]
    path.write_bytes(change(path.read_bytes()))
    there = path.read_bytes()
    if not index:
        finished.output.indexes.forget(0)
    with pytest.raises(OutputError) as caught:
        run.run(finished.job)
    assert f"{path} is damaged ({said}" in str(caught.value)
    assert REMEDY in str(caught.value)
    assert path.read_bytes() == there
    assert ray == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("left", ["nothing", "the half"])
def test_every_command_names_the_part(finished: Finished, call: Call, ray: list[str], tmp_path: Path, command: str, left: str) -> None:
    path = Path(finished.uri())
    path.write_bytes(LEFT[left][0](path.read_bytes()))
    code, _, err = call(*words(finished, command, tmp_path))
    assert code == 2, err
    assert f"{path} is damaged (" in err
    assert REMEDY in err
    assert ray == []


def test_verify_names_the_part_and_the_remedy(finished: Finished, call: Call) -> None:
    path = Path(finished.uri())
    path.write_bytes(b"")
    code, _, err = call("verify", finished.out)
    assert code == 1
    assert err.splitlines() == [
        f"problem: {path.name}: can't be read: {path} is damaged (it has 0 bytes, fewer than any Parquet file); {REMEDY}",
        f"remedy: remove {path.name} and run the job again to remake it",
    ]


def test_what_is_removed_is_made_again(finished: Finished, call: Call, ray: list[str]) -> None:
    Path(finished.uri()).write_bytes(b"")
    assert finished.run(call)[0] == 2
    Path(finished.uri()).unlink()
    assert finished.run(call)[0] == run.EXIT_STOPPED
    assert ray == [finished.out]


def test_all_damaged_parts_are_named_at_once(finished: Finished, call: Call) -> None:
    for number in (0, 2):
        Path(finished.uri(number)).write_bytes(b"")
    code, _, err = finished.run(call)
    assert code == 2
    assert [f"{finished.uri(number)} is damaged" in err for number in range(3)] == [True, False, True]


def test_many_damaged_parts_are_counted(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nstray.output.parts._NAMED", 2)
    for number in range(3):
        Path(finished.uri(number)).write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        finished.output.indexes.window_counts(0, 3)
    assert len(str(caught.value).splitlines()) == 3
    assert str(caught.value).endswith("\n... and 1 more; nstray verify names them")


@pytest.mark.parametrize("index", [True, False])
def test_a_whole_output_is_complete_and_no_part_is_read(
    finished: Finished, call: Call, ray: list[str], monkeypatch: pytest.MonkeyPatch, index: bool
) -> None:
    if not index:
        finished.output.indexes.forget(0)
    monkeypatch.setattr("nstray.output.parts.read_footer", lambda uri: pytest.fail("a part was read"))
    code, _, err = finished.run(call)
    assert code == 0, err
    assert "event=already_complete" in err
    assert ray == []


def test_error_rows_beyond_the_limit_name_the_ways_out(finished: Finished, call: Call, ray: list[str]) -> None:
    finished.settings["max_error_rate"] = 0.0
    code, _, err = finished.run(call)
    assert code == run.EXIT_ERROR_ROWS
    hint = err.splitlines()[-1].partition("hint=")[2]
    assert f"nstray retry {finished.out} " in hint
    assert "max_error_rate" in hint
    assert ray == []


def test_run_and_plan_among_other_files_say_so(finished: Finished, call: Call, ray: list[str], tmp_path: Path) -> None:
    finished.out = str(tmp_path / "cats")
    Path(finished.out).mkdir()
    Path(finished.out, "cat.jpg").write_bytes(b"cat")
    assert "holds other files, such as cat.jpg" in call(*words(finished, "plan", tmp_path))[1]
    for said in (True, False):
        err = finished.run(call)[2]
        assert any("event=warning" in line and "cat.jpg" in line for line in err.splitlines()) is said
    assert ray == [finished.out] * 2


def test_a_summary_that_a_killed_retry_left_is_made_again(finished: Finished, call: Call, ray: list[str]) -> None:
    """The retry has replaced a part, and its summary was never written."""
    finished.output.indexes.forget(0)
    finished.commit(0, bad="")
    assert finished.run(call)[0] == run.EXIT_STOPPED
    assert ray == [finished.out]
    finished.finish()
    code, _, err = finished.run(call)
    assert (code, "event=already_complete" in err) == (0, True)


@pytest.mark.parametrize("left", ["nothing", "11 bytes", "the half", "its end alone"])
def test_a_part_on_a_store(s3: str, ray: list[str], left: str) -> None:
    finished = Finished(f"{s3}/job")
    change, said = LEFT[left]
    storage.put_over(finished.uri(), change(storage.read(finished.uri())))
    with pytest.raises(OutputError) as caught:
        run.run(finished.job)
    assert f"{finished.uri()} is damaged ({said}" in str(caught.value)
    assert ray == []


@pytest.mark.parametrize("left", LEFT)
def test_every_reader_says_the_same(finished: Finished, left: str) -> None:
    path = Path(finished.uri())
    change, said = LEFT[left]
    path.write_bytes(change(path.read_bytes()))
    for read in (read_footer, lambda uri: open_part(uri).__enter__()):
        with pytest.raises(OutputError) as caught:
            read(finished.uri())
        assert f"is damaged ({said}" in str(caught.value)
        assert "not a part of this job" not in str(caught.value)
