"""nstray.cluster.intake: what a window still needs, while its store comes and goes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from test_worker import Bench, pair, weights

from nstray.cluster.intake import next_window
from nstray.errors import Unreachable
from nstray.manifest import Manifest
from nstray.output import Output
from nstray.plan import windows

__all__ = ["weights"]  # a fixture


def test_a_window_is_looked_at_again_and_none_is_passed_over(tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = Bench(tmp_path, weights).worker([pair("a"), pair("b")])
    worker.process(shard)
    real, away, pauses = Output.list_window, [1, 2], []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def listed(self: Output, window: int) -> Any:
        if away:
            away.pop()
            raise Unreachable("s3://b/out: no answer")
        return real(self, window)

    monkeypatch.setattr(Output, "list_window", listed)
    taken = windows(Manifest(worker.spec.info.uri).tables(worker.spec.info))
    found = next_window(taken, worker.spec, worker.output)
    assert found is not None
    assert (found.number, list(found.present), len(pauses)) == (0, [0], 2)
    assert next_window(taken, worker.spec, worker.output) is None


def test_who_waits_may_be_called_off(tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, _ = Bench(tmp_path, weights).worker([pair("a")])

    def away(self: Output, window: int) -> Any:
        raise Unreachable("s3://b/out: no answer")

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Output, "list_window", away)
    with pytest.raises(KeyboardInterrupt):
        next_window(windows(Manifest(worker.spec.info.uri).tables(worker.spec.info)), worker.spec, worker.output, stop)
