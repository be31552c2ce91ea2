"""Local disk in trouble: full, limited, read-only, removed; nothing half-written under a part's name, and a rerun completes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import jobs
import pytest
from small import Small

from nstray import storage
from nstray.errors import AccessDenied, OutputError, StorageError
from nstray.storage import local

DATA = bytes(300_000)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; skips where mounting is not permitted."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".nstray-put-*"))


@pytest.mark.parametrize("put", [storage.put_new, storage.put_over])
def test_a_full_disk_leaves_nothing_behind(mounted: Path, put: Callable[[str, bytes], str]) -> None:
    room, uri = mounted / "filler", mounted / "out" / "data" / "part"
    room.write_bytes(bytes(900_000))
    with pytest.raises(StorageError, match=r"data/part: disk full or quota used up .*free space or choose another place"):
        put(str(uri), DATA)
    assert not uri.exists()
    assert not hidden(mounted)
    room.unlink()
    put(str(uri), DATA)
    assert uri.read_bytes() == DATA


def test_a_file_size_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    uri = tmp_path / "part"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"part: file too large: .*ulimit -f"):
            storage.put_new(str(uri), DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    storage.put_new(str(uri), DATA)


def test_a_read_only_output_says_so(mounted: Path) -> None:
    uri = mounted / "data" / "part"
    storage.put_new(str(uri), b"1")
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    for call in (
        lambda: storage.put_new(str(mounted / "data" / "other"), DATA),
        lambda: storage.put_new(str(mounted / "new" / "other"), DATA),
        lambda: storage.put_over(str(uri), DATA),
        lambda: storage.delete(str(uri)),
    ):
        with pytest.raises(AccessDenied, match="read-only file system; mount it for writing or choose another place"):
            call()
    subprocess.run(["mount", "-o", "remount,rw", mounted], check=True)
    assert [storage.name(info.uri) for info in storage.list_files(str(mounted))] == ["part"]
    assert storage.put_new(str(mounted / "data" / "other"), DATA)


def _hold(path: str, ready: object) -> None:
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ready.set()  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_stopped_writer_holds_nobody_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOCK_SECONDS", 0.3)
    uri = str(tmp_path / "index.json")
    storage.put_new(uri, b"1")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    writer = context.Process(target=_hold, args=(uri, ready))
    writer.start()
    try:
        assert ready.wait(10)
        with pytest.raises(StorageError, match=r"index\.json: another process has held its lock"):
            storage.put_over(uri, b"2")
    finally:
        writer.kill()
        writer.join(10)
    storage.put_over(uri, b"2")  # the lock went with its holder
    assert storage.read(uri) == b"2"


def test_a_disk_that_fills_up_costs_the_wait(mounted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Full while a part is written: tried again, and done once somebody frees space."""
    small = Small(str(tmp_path / "in"), str(mounted / "out"))
    small.worker.process(small.shards[0])
    filler = mounted / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    threading.Timer(2.0, filler.unlink).start()
    assert small.worker.process(small.shards[1]).won
    assert "disk full" in caplog.text
    assert len(jobs.parts(small.out)) == 2
    assert not hidden(mounted)


def test_an_output_removed_in_the_middle_ends_the_job_and_gets_no_orphans(tmp_path: Path) -> None:
    small = Small(str(tmp_path / "in"), str(tmp_path / "out"))
    small.worker.process(small.shards[0])
    shutil.rmtree(small.out)
    with pytest.raises(OutputError, match=r"out: its record .* is gone, so the output was removed .*run the same command again"):
        small.worker.process(small.shards[1])
    assert not Path(small.out).exists()


def test_an_input_removed_in_the_middle_is_its_pairs_error(tmp_path: Path) -> None:
    small = Small(str(tmp_path / "in"), str(tmp_path / "out"))
    (tmp_path / "in" / "c1.png").unlink()
    for shard in small.shards:
        small.worker.process(shard)
    found = {r["pair_id"]: (r["status"], r["error_code"], r["error_message"]) for r in jobs.rows(small.out)}
    gone = f"content: {tmp_path}/in/c1.png: no such file or folder"
    assert found == {p: ("error", "not_found", gone) if p.startswith("c1") else ("ok", None, None) for p in jobs.all_pairs(2, 2)}


def test_an_input_that_is_cut_short_is_its_pairs_error(tmp_path: Path) -> None:
    small = Small(str(tmp_path / "in"), str(tmp_path / "out"))
    path = tmp_path / "in" / "c1.png"
    path.write_bytes(path.read_bytes()[:200])
    for shard in small.shards:
        small.worker.process(shard)
    assert sorted({r["error_code"] for r in jobs.rows(small.out) if r["pair_id"].startswith("c1")}) == ["decode_failed"]
