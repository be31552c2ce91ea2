"""nstray.cluster.eta: the time to go with its spread, and who is behind."""

from __future__ import annotations

import random
import statistics

import pytest

from nstray.cluster.eta import LEAST, RECENT, Eta, ShardTimes


def pace(*seconds: float, rows: int = 10) -> ShardTimes:
    made = ShardTimes()
    for each in seconds:
        made.add(each, rows)
    return made


def test_nothing_is_said_of_too_few_shards_or_without_a_worker() -> None:
    few = pace(*[1.0] * (LEAST - 1))
    assert (few.median, few.eta(100, 2), few.straggles(1e9)) == (None, None, False)
    assert pace(*[1.0] * LEAST).eta(100, 0) is None


def test_workers_that_take_the_same_time_have_no_spread() -> None:
    even = pace(*[5.0] * 8)
    eta = even.eta(600, 3)
    assert eta is not None
    assert (eta.seconds, eta.low, eta.high) == (100, 100, 100)
    assert even.eta(0, 3).seconds == 0  # type: ignore[union-attr]


def test_the_percentiles_are_those_of_jobs_that_really_went_on() -> None:
    """Many jobs whose shards take random times: a tenth ends before the lower bound, a tenth after the upper one."""
    rng = random.Random(0)
    before = after = 0
    jobs = 2000
    for _ in range(jobs):
        eta = pace(*(rng.uniform(5, 15) for _ in range(40))).eta(600, 1)
        assert eta is not None
        took = sum(rng.uniform(5, 15) for _ in range(60))
        before, after = before + (took < eta.low), after + (took > eta.high)
    assert before / jobs == pytest.approx(0.1, abs=0.02)
    assert after / jobs == pytest.approx(0.1, abs=0.02)


def test_the_spread_never_begins_before_now() -> None:
    eta = pace(0.1, 0.1, 0.1, 100.0).eta(10, 1)
    assert eta is not None
    assert eta.low == 0 < eta.seconds < eta.high


def test_only_the_last_shards_count() -> None:
    changed = pace(*[100.0] * RECENT, *[1.0] * RECENT)
    assert (changed.median, changed.eta(10, 1)) == (1, Eta(1, 1, 1))


def test_a_straggler_takes_more_than_three_times_the_median() -> None:
    seconds = [1.0, 2.0, 3.0, 50.0]
    assert statistics.median(seconds) == 2.5
    assert not pace(*seconds).straggles(7.5)
    assert pace(*seconds).straggles(7.6)
