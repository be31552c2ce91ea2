"""nstray.storage.backoff: which errors are tried again, how often, and after which pauses."""

from __future__ import annotations

import logging
import time

import pytest

from nstray.errors import AccessDenied, NotFound, StorageError, Unreachable
from nstray.storage import backoff
from nstray.storage.backoff import LONGEST_PAUSE, STORAGE_TRIES, retry


class Failing:
    """Raises `error`, `times` times; then returns how often it was called."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return self.calls


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def test_the_pauses_double_up_to_the_longest(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    told: list[int] = []
    call = Failing(Unreachable("down"), STORAGE_TRIES - 1)
    with caplog.at_level(logging.WARNING):
        assert retry("window 3", Unreachable, call, lambda: told.append(len(pauses))) == STORAGE_TRIES
    assert pauses == [1, 2, 4, 8, 16, *[LONGEST_PAUSE] * (STORAGE_TRIES - 6)]
    assert told == list(range(STORAGE_TRIES - 1))  # before each pause
    assert caplog.messages[0] == 'event=storage_retry what="window 3" try=1 error=down'
    assert len(caplog.messages) == len(pauses)


def test_the_last_error_is_raised(pauses: list[float]) -> None:
    call = Failing(Unreachable("down"), 1000)
    with pytest.raises(Unreachable, match="down"):
        retry("k", StorageError, call, lambda: None)
    assert (call.calls, len(pauses)) == (STORAGE_TRIES, STORAGE_TRIES - 1)


@pytest.mark.parametrize("error", [AccessDenied("no"), NotFound("gone"), ValueError("a bug")])
def test_other_errors_are_raised_at_once(pauses: list[float], error: Exception) -> None:
    call = Failing(error, 1000)
    with pytest.raises(type(error)):
        retry("k", Unreachable if isinstance(error, NotFound) else StorageError, call, lambda: None)
    assert (call.calls, pauses) == (1, [])


def test_no_try_is_begun_after_the_longest_time(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(backoff, "MAX_SECONDS", 20.0)
    call = Failing(Unreachable("down"), 1000)
    with pytest.raises(Unreachable):
        retry("k", Unreachable, call, lambda: None)
    assert call.calls == 6  # at 0, 1, 3, 7, 15 and 31 s


def test_three_tries_are_enough_if_the_store_answers_others(pauses: list[float]) -> None:
    asked: list[int] = []
    call = Failing(Unreachable("down"), 1000)
    with pytest.raises(Unreachable):
        retry("k", Unreachable, call, lambda: None, lambda: bool(asked.append(call.calls) or len(asked) > 2))
    assert (asked, call.calls) == ([3, 4, 5], 5)
