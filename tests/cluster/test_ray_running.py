"""nstray.cluster.ray_session.ray_running: a Ray that does not start ends in one line; a signal meanwhile is not lost, and what was begun is ended."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import ray
from ray.exceptions import RaySystemError

from nstray.cluster import own_cluster, ray_session
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


MACHINE = "; the machine may be short of memory or processors"
FAILURES: list[tuple[Exception, str]] = [
    (
        Exception("The current node timed out during startup. This could happen because some of the raylet failed to startup."),
        "Ray did not start: Exception: The current node timed out during startup. This could happen because some of the raylet failed to startup."
        + MACHINE,
    ),
    (RaySystemError("boom\n\nlast line"), "Ray did not start: RaySystemError: last line" + MACHINE),
    (OSError(errno.ENOSPC, "x", "/data/ray"), "/data/ray: No space left on device; free some space there" + MACHINE),
    (MemoryError(), "Cannot allocate memory; give the machine or container more memory (ulimit -v limits it too)" + MACHINE),
    (
        RuntimeError("can't start new thread"),
        "Resource temporarily unavailable; raise the limit on processes (ulimit -u, or the container's pids limit)" + MACHINE,
    ),
    (AssertionError(""), "Ray did not start: AssertionError: " + MACHINE),
    (KeyError("node"), "Ray did not start: KeyError: 'node'" + MACHINE),
    (JobFailed("RAY_ADDRESS h:1: no Ray head answers there"), "RAY_ADDRESS h:1: no Ray head answers there"),
]


@pytest.mark.parametrize(("error", "line"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_ray_that_does_not_start_ends_in_one_line(error: Exception, line: str, ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing(error, monkeypatch)
    with pytest.raises(JobFailed) as caught, ray_session.ray_running():
        raise AssertionError("it did not start")
    assert str(caught.value) == line
    assert caught.value.exit_code == 1
    assert ended == ["shutdown"]


@pytest.mark.parametrize("error", [Exception("timed out"), JobFailed("timed out")])
def test_low_limits_are_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(error, monkeypatch)
    monkeypatch.setattr(surroundings, "low_limits", lambda: "ulimit -n is 60")
    with pytest.raises(JobFailed, match="ulimit -n is 60"), ray_session.ray_running():
        pass


def test_a_wrong_setting_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(UsageError("RAY_TMPDIR /a: too long"), monkeypatch)
    with pytest.raises(NstrayError, match=r"^RAY_TMPDIR /a: too long$") as caught, ray_session.ray_running():
        pass
    assert caught.value.exit_code == 2


def test_a_signal_while_it_starts_ends_what_was_begun(tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        own_cluster.make_folder(str(tmp_path))
        stop_signals._state.received = stop_signals.SIGNALS[0]

    monkeypatch.setattr(ray_session, "start_ray", start)
    with pytest.raises(stop_signals.StopRequested), ray_session.ray_running():
        raise AssertionError("it was told to stop")
    assert ended == ["shutdown"]
    assert list(tmp_path.iterdir()) == []


def test_a_signal_before_it_starts_starts_nothing(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing(AssertionError("it was told to stop"), monkeypatch)
    stop_signals._state.received = stop_signals.SIGNALS[0]
    with pytest.raises(stop_signals.StopRequested), ray_session.ray_running():
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
    with pytest.raises(JobFailed), ray_session.ray_running():
        pass
    assert os.listdir(style_folder.parent) == []
