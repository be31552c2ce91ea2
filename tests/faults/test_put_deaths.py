"""A process killed at every step of a put: the key is absent or whole, a rerun commits exactly once, leftovers are nobody's parts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from outputs import CARRIED, begun, footer, job_record, ok_row
from proxy import FaultProxy

from nstray import storage
from nstray.errors import NotFound
from nstray.output.folder import Output
from nstray.output.layout import part_name
from nstray.output.part_file import encode_part
from nstray.output.schema import part_schema
from nstray.storage import local

# Every call of `local` that changes something or may be the last before a death; a put of a part makes ten or so.
CALLS = ("mkdir", "open", "fsync", "link", "replace", "unlink", "close")
NAME = part_name(0, 0)
FORK = multiprocessing.get_context("fork")


def a_part(**more: Any) -> bytes:
    return encode_part([ok_row("a")], part_schema(CARRIED), footer(["a"], **more))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Counts calls and ends the process before (even number) or after (odd) one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            mine, self.calls = 2 * self.calls, self.calls + 1
            if self.at == mine:
                die()
            try:
                return inner(*arguments, **options)
            finally:
                if self.at == mine + 1:
                    die()

        return wrapped


class HalfWriting:
    """A file whose writer dies in the middle of a write."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> HalfWriting:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        die()


def _child(work: Callable[[], object], at: int | str, said: Any) -> None:
    """`work` with `local` made deadly; says how many calls there were where it survives."""
    deadly = Deadly(at if isinstance(at, int) else -1)
    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    local.open = deadly(open)  # type: ignore[attr-defined]
    if at == "half":
        local.open = lambda *arguments: HalfWriting(open(*arguments))  # type: ignore[attr-defined] # noqa: SIM115
    work()
    said.send(deadly.calls)
    os._exit(0)


def run_child(work: Callable[[], object], at: int | str) -> int | None:
    """The number of calls where the child survived; None where it was killed."""
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_child, args=(work, at, theirs))
    child.start()
    theirs.close()
    child.join(20)
    if child.exitcode == 0:
        return int(ours.recv())
    assert child.exitcode == -signal.SIGKILL
    return None


def whole_or_absent(output: Output, data: bytes) -> bool:
    """Whether the part is there: whole, under its own name, and nothing else in sight."""
    listed: list[str] = []
    with suppress(NotFound):
        listed = [storage.name(info.uri) for info in storage.list_files(storage.join(output.out, "data"))]
    assert listed in ([], [NAME])
    assert not listed or storage.read(output.data_uri(NAME)) == data
    assert set(output.parts.list_window(0)) == ({0} if listed else set())
    return bool(listed)


@pytest.mark.parametrize("put", ["put_new", "put_over"])
def test_killed_at_every_step_of_a_local_put(tmp_path: Path, put: str) -> None:
    first, second = a_part(), a_part(attempt=2)
    step, seen = 0, set()
    while True:
        output = begun(str(tmp_path / str(step)))
        uri = output.data_uri(NAME)
        if put == "put_over":
            storage.put_new(uri, first)
        work = (lambda: output.parts.commit(NAME, second)) if put == "put_new" else (lambda: storage.put_over(uri, second))  # noqa: B023
        survived = run_child(work, step)
        if put == "put_new":
            seen.add(whole_or_absent(output, second))
            assert output.parts.commit(NAME, second)  # the same bytes: a retry of our own
        else:
            assert storage.read(uri) in (first, second)
            seen.add(storage.read(uri) == second)
            storage.put_over(uri, second)
        assert whole_or_absent(output, second)
        left = [p for p in (tmp_path / str(step)).rglob("*") if p.is_file() and p.name not in (NAME, "job.json")]
        assert len(left) <= 1
        assert all(p.name.startswith(".nstray-put-") for p in left)
        if survived is not None:
            break
        step += 1
    assert step == 2 * survived  # killed before and after each of them
    assert survived >= 4
    assert seen == {False, True}


def test_killed_in_the_middle_of_a_write_and_swept_an_hour_later(tmp_path: Path) -> None:
    output, data = Output(str(tmp_path / "out")), a_part()
    output.job.open(job_record())
    assert run_child(lambda: output.parts.commit(NAME, data), "half") is None
    assert not whole_or_absent(output, data)
    (left,) = (tmp_path / "out" / "data").iterdir()
    assert left.stat().st_size == len(data) // 2
    assert output.parts.commit(NAME, data)
    output.job.open(job_record())
    assert left.exists(), "it may be a living writer's"
    os.utime(left, (time.time() - 3700,) * 2)
    output.job.open(job_record())
    assert [p.name for p in (tmp_path / "out" / "data").iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("fault", "there"),
    [("reset", False), ("cut_request", False), ("drop_reply", True)],
    ids=["head_arrived", "half_of_the_body", "answered_but_not_seen"],
)
def test_killed_at_every_step_of_a_put_to_s3(rgw: str, proxy: FaultProxy, fault: str, there: bool) -> None:
    output, data = begun(f"{rgw}/out"), a_part()
    children: list[Any] = []

    def kill() -> None:
        os.kill(children[0].pid, signal.SIGKILL)
        time.sleep(0.2)  # it is gone then; the test's own thread waits for it

    proxy.add(fault, method="PUT", count=1, action=kill)
    children.append(FORK.Process(target=output.parts.commit, args=(NAME, data)))
    children[0].start()
    children[0].join(20)
    assert children[0].exitcode == -signal.SIGKILL
    time.sleep(0.2)
    assert whole_or_absent(output, data) == there
    version = storage.head(output.data_uri(NAME))
    assert output.parts.commit(NAME, data)
    assert whole_or_absent(output, data)
    assert version is None or version == storage.head(output.data_uri(NAME))  # not written again
    assert not output.parts.commit(NAME, a_part(attempt=2))  # another driver's
