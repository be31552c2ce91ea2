"""nstray.cluster.ray_running: a Ray that does not start ends in one line; a signal meanwhile is not lost, and what was begun is ended."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import ray

from nstray.cluster import own_cluster, ray_session
from nstray.cluster.ray_running import ray_running
from nstray.errors import JobFailed, NstrayError, UsageError
from nstray.system import stop_signals, surroundings


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to end Ray. There is none; and the machine has no limits but those that a test gives it."""
    done: list[str] = []
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(surroundings, "low_limits", lambda: "")
    monkeypatch.setattr(stop_signals, "_state", stop_signals._State())
    return done


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise error

    monkeypatch.setattr(ray_session, "start_ray", start)


def test_a_ray_that_does_not_start_ends_what_was_begun(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing(JobFailed("Ray did not start: no"), monkeypatch)
    with pytest.raises(JobFailed, match=r"^Ray did not start: no$"), ray_running():
        raise AssertionError("it did not start")
    assert ended == ["shutdown"]


@pytest.mark.parametrize("limits", ["ulimit -n is 60", "ulimit -v is 4000000, ulimit -u is 100"])
def test_low_limits_are_named(limits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(JobFailed("Ray did not start: no"), monkeypatch)
    monkeypatch.setattr(surroundings, "low_limits", lambda: limits)
    with pytest.raises(JobFailed, match=f"^Ray did not start: no; {limits}: that may be too low for Ray$"), ray_running():
        pass


def test_a_wrong_setting_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(UsageError("RAY_TMPDIR /a: too long"), monkeypatch)
    with pytest.raises(NstrayError, match=r"^RAY_TMPDIR /a: too long$") as caught, ray_running():
        pass
    assert caught.value.exit_code == 2


def test_a_signal_while_it_starts_ends_what_was_begun(tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        own_cluster.make_folder(str(tmp_path))
        stop_signals._state.received = stop_signals.SIGNALS[0]

    monkeypatch.setattr(ray_session, "start_ray", start)
    with pytest.raises(stop_signals.StopRequested), ray_running():
        raise AssertionError("it was told to stop")
    assert ended == ["shutdown"]
    assert list(tmp_path.iterdir()) == []


def test_a_signal_before_it_starts_starts_nothing(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing(AssertionError("it was told to stop"), monkeypatch)
    stop_signals._state.received = stop_signals.SIGNALS[0]
    with pytest.raises(stop_signals.StopRequested), ray_running():
        pass
    assert ended == []


@pytest.fixture
def style_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (path := tmp_path / "nstray-styles-of-a-killed-run").mkdir(mode=0o700)
    (path / "image").write_bytes(b"x")
    return path


def test_caches_of_killed_runs_go_whatever_the_next_run_fetches(style_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(JobFailed("no"), monkeypatch)
    with pytest.raises(JobFailed), ray_running():
        pass
    assert os.listdir(style_folder.parent) == []
