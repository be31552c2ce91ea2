"""nstray.cluster.resume: what a window still needs, while its store comes and goes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, pair, weights

from nstray.cluster import resume as intake_module
from nstray.cluster.resume import pending_windows
from nstray.errors import Unreachable
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output import layout
from nstray.output.part_file import read_footer
from nstray.output.parts import Parts

__all__ = ["weights"]  # a fixture


def test_a_window_is_looked_at_again_and_none_is_passed_over(tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = Bench(tmp_path, weights).worker([pair("a"), pair("b")])
    worker.process(shard)
    real, away, pauses = Parts.list_window, [1, 2], []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def listed(self: Parts, window: int) -> Any:
        if away:
            away.pop()
            raise Unreachable("s3://b/out: no answer")
        return real(self, window)

    monkeypatch.setattr(Parts, "list_window", listed)
    taken = cut_windows(Manifest(worker.spec.info.uri).tables(worker.spec.info))
    (found,) = pending_windows(taken, worker.spec, worker.output)
    assert (found.number, list(found.present), len(pauses)) == (0, [0], 2)


def test_who_waits_may_be_called_off(tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, _ = Bench(tmp_path, weights).worker([pair("a")])

    def away(self: Parts, window: int) -> Any:
        raise Unreachable("s3://b/out: no answer")

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "list_window", away)
    with pytest.raises(KeyboardInterrupt):
        next(pending_windows(cut_windows(Manifest(worker.spec.info.uri).tables(worker.spec.info)), worker.spec, worker.output, stop))


def test_finished_windows_are_listed_ahead_and_come_in_order(tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the answers come in: each once, in the manifest's order, what is unfinished with its shards; none far ahead of need."""
    worker, _ = Bench(tmp_path, weights).worker([pair(f"p{i}") for i in range(22)])
    monkeypatch.setattr(layout, "WINDOW_ROWS", 2)
    info = worker.spec.info
    shards = [cut_shards(number, table, 2)[0] for number, table in cut_windows(Manifest(info.uri).tables(info))]
    for shard in shards[:8]:
        if shard.window != 5:
            report = worker.process(shard)
            part = read_footer(worker.output.data_uri(shard.name))
            assert report.won
            worker.output.indexes.write(shard.window, [part])
    real, lock, now, most, listed = Parts.list_window, threading.Lock(), [0], [0], []

    def slow(self: Parts, window: int) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            listed.append(window)
        time.sleep(0.02 * (1 + window % 3))
        with lock:
            now[0] -= 1
        return real(self, window)

    monkeypatch.setattr(Parts, "list_window", slow)
    found = []
    for intake in pending_windows(cut_windows(Manifest(info.uri).tables(info)), worker.spec, worker.output):
        assert max(listed) < intake.number + intake_module.AHEAD
        found.append((intake.number, intake.finished is not None, len(intake.shards)))
    assert found == [(n, n < 8 and n != 5, 0 if n < 8 and n != 5 else 1) for n in range(11)]
    assert sorted(listed) == list(range(11))
    assert 1 < most[0] <= intake_module.AHEAD


def test_a_new_job_waits_for_no_later_window(tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, _ = Bench(tmp_path, weights).worker([pair(f"p{i}") for i in range(6)])
    monkeypatch.setattr(layout, "WINDOW_ROWS", 2)
    listed: list[int] = []
    real = Parts.list_window
    monkeypatch.setattr(Parts, "list_window", lambda self, window: listed.append(window) or real(self, window))
    tables = Manifest(worker.spec.info.uri).tables(worker.spec.info)
    for intake in pending_windows(cut_windows(tables), worker.spec, worker.output):
        assert listed == list(range(intake.number + 1))
