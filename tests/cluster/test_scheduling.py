"""nstray.cluster.scheduling: what goes to whom, and whose fault a death is."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from nstray.cluster.scheduling import (
    LOOK_AHEAD,
    MAX_DEATHS,
    MAX_NODE_FAULTS,
    Backlog,
    ErrorRateBreaker,
    FailureCounter,
    IsolatedShard,
    NodeHealth,
    Window,
)
from nstray.errors import ErrorCode
from nstray.manifest.shards import Shard
from nstray.output.records import PartInfo


def shard(number: int, style: str = "s.png", *, window: int = 0, rows: int = 1) -> Shard:
    table = pa.table({"pair_id": [f"p{number}-{i}" for i in range(rows)], "style": pa.array([[style]] * rows, pa.list_(pa.string()))})
    return Shard(window, number, table)


def backlog(styles: str, **more: Any) -> Backlog:
    """One shard per letter, numbered in order."""
    made = Backlog(**more)
    made.extend(shard(i, style) for i, style in enumerate(styles))
    return made


def take_all(made: Backlog, cached: set[tuple[str, ...]]) -> list[int]:
    return [made.take(cached).number for _ in range(len(made))]


def test_shards_leave_in_order_where_no_style_is_cached() -> None:
    assert take_all(backlog("abcab"), set()) == [0, 1, 2, 3, 4]


def test_a_worker_gets_the_styles_it_has_first_then_the_rest_in_order() -> None:
    assert take_all(backlog("abcabc"), {("b",)}) == [1, 4, 0, 2, 3, 5]


def test_styles_are_compared_as_a_whole_blend() -> None:
    made = Backlog()
    blend = Shard(0, 1, pa.table({"pair_id": ["p"], "style": pa.array([["a", "b"]], pa.list_(pa.string()))}))
    made.extend([shard(0, "a"), blend])
    assert made.take({("a", "b")}).number == 1


def test_it_looks_no_further_ahead_than_it_may() -> None:
    assert backlog("aaab", look_ahead=3).take({("b",)}).number == 0
    assert backlog("aaab", look_ahead=4).take({("b",)}).number == 3
    assert backlog("a" * LOOK_AHEAD + "b").take({("b",)}).number == 0
    assert backlog("a" * (LOOK_AHEAD - 1) + "b").take({("b",)}).number == LOOK_AHEAD - 1


def test_the_head_is_passed_over_a_bounded_number_of_times() -> None:
    made = backlog("a" + "b" * 100, look_ahead=5)
    taken = [made.take({("b",)}).number for _ in range(7)]
    assert taken == [1, 2, 3, 4, 5, 0, 6]


def test_every_shard_leaves_once_whatever_is_cached() -> None:
    made = backlog("abcdef" * 20, look_ahead=4)
    taken = [made.take({("abcdef"[i % 3],)}).number for i in range(120)]
    assert sorted(taken) == list(range(120))


def test_a_shard_that_comes_back_is_the_next_one_out() -> None:
    made = backlog("abc")
    first = made.take(set())
    made.put_back(first)
    assert len(made) == 3
    assert take_all(made, set()) == [0, 1, 2]


def test_an_empty_backlog_says_so() -> None:
    made = backlog("ab")
    made.clear()
    assert len(made) == 0
    assert not made
    with pytest.raises(IndexError):
        made.take(set())


def test_strikes_are_counted_per_shard_and_window() -> None:
    failures = FailureCounter()
    one, twin = shard(1), shard(1, window=1)
    assert not failures.add(one)
    assert not failures.add(twin)
    assert failures.of(one) == 1
    assert failures.add(one)
    assert failures.of(one) == 2
    failures.forget(one)
    assert failures.of(one) == 0
    assert failures.of(twin) == 1
    failures.forget(one)  # a shard without failures


def test_an_isolated_shard_goes_through_the_pairs_that_have_no_row() -> None:
    isolated = IsolatedShard(shard(0, rows=3), 3, 0.0)
    assert isolated.next() == 0
    isolated.rows[0] = isolated.rows[2] = {}
    assert isolated.next() == 1
    isolated.rows[1] = {}
    assert isolated.next() is None


@pytest.mark.parametrize(("stalled", "code"), [(False, ErrorCode.WORKER_DIED), (True, ErrorCode.TIMED_OUT)])
def test_the_pair_that_kills_a_lone_worker_twice_is_given_up(stalled: bool, code: ErrorCode) -> None:
    isolated = IsolatedShard(shard(0, rows=3), 3, 0.0)
    for kill in range(1, MAX_DEATHS + 1):
        assert isolated.lost == {}
        isolated.touching = 1
        isolated.blame(stalled=stalled, reason="SIGSEGV")
        assert isolated.kills == {1: kill}
        assert isolated.touching is None
    assert set(isolated.lost) == {1}
    assert isolated.lost[1][0] == code.value
    assert "SIGSEGV" in isolated.lost[1][1]
    assert "2 times" in isolated.lost[1][1]


def test_a_death_between_two_pairs_is_nobodys_fault() -> None:
    isolated = IsolatedShard(shard(0, rows=2), 3, 0.0)
    isolated.blame(stalled=False, reason="gone")
    assert isolated.kills == {}
    assert isolated.lost == {}


def test_deaths_on_different_pairs_do_not_add_up() -> None:
    isolated = IsolatedShard(shard(0, rows=2), 3, 0.0)
    for index in (0, 1):
        isolated.touching = index
        isolated.blame(stalled=False, reason="gone")
    assert isolated.kills == {0: 1, 1: 1}
    assert isolated.lost == {}


def fail_elsewhere_finish(nodes: NodeHealth, numbers: range) -> list[str]:
    """`bad` dies of each shard, which `good` then finishes; the nodes given up by it."""
    found = []
    for i in numbers:
        nodes.died("bad", [(0, i)], f"death {i}")
        found += nodes.finished("good", (0, i))
    return found


def test_a_node_that_dies_of_what_others_finish_is_given_up_once_with_its_last_reason() -> None:
    nodes = NodeHealth()
    assert fail_elsewhere_finish(nodes, range(MAX_NODE_FAULTS - 1)) == []
    assert nodes.excluded == {}
    assert fail_elsewhere_finish(nodes, range(MAX_NODE_FAULTS - 1, MAX_NODE_FAULTS + 5)) == ["bad"]
    assert nodes.excluded == {"bad": f"death {MAX_NODE_FAULTS - 1}"}


def test_a_node_that_finishes_something_begins_anew() -> None:
    nodes = NodeHealth()
    fail_elsewhere_finish(nodes, range(MAX_NODE_FAULTS - 1))
    nodes.died("bad", [(0, 90)], "x")
    assert nodes.finished("bad", (0, 91)) == []
    assert nodes.finished("good", (0, 90)) == []  # a death before that
    assert fail_elsewhere_finish(nodes, range(MAX_NODE_FAULTS - 1)) == []
    assert nodes.excluded == {}


def test_shards_that_nobody_finishes_are_held_against_no_node() -> None:
    nodes = NodeHealth()
    for i in range(10 * MAX_NODE_FAULTS):
        nodes.died("a", [(0, i)], "x")
        nodes.died("b", [(0, i)], "x")
        assert nodes.finished("c", (1, i)) == []
    assert nodes.excluded == {}


def test_a_death_counts_when_every_shard_on_board_is_finished_elsewhere() -> None:
    nodes = NodeHealth()
    for i in range(MAX_NODE_FAULTS):
        nodes.died("bad", [(0, 2 * i), (0, 2 * i + 1)], "x")
    assert [nodes.finished("good", (0, 2 * i)) for i in range(MAX_NODE_FAULTS)] == [[]] * MAX_NODE_FAULTS
    assert [nodes.finished("good", (0, 2 * i + 1)) for i in range(MAX_NODE_FAULTS)] == [[], [], ["bad"]]


def test_a_death_with_nothing_on_board_is_held_against_no_node() -> None:
    nodes = NodeHealth()
    for i in range(2 * MAX_NODE_FAULTS):
        nodes.died("idle", [], "x")
        assert nodes.finished("good", (0, i)) == []


def test_a_node_whose_workers_do_not_start_is_given_up() -> None:
    nodes = NodeHealth()
    assert [nodes.did_not_start("bad", "no such library") for _ in range(MAX_NODE_FAULTS + 1)] == [False] * (MAX_NODE_FAULTS - 1) + [True, False]
    assert nodes.excluded == {"bad": "no such library"}


def test_a_window_is_complete_with_its_last_part() -> None:
    window = Window(2)
    for number in (1, 0):
        assert not window.complete
        window.parts.append(PartInfo(f"/out/data/part-00000-000{number}.parquet", 10, 1, 1, {}, {}))
    assert window.complete


@pytest.mark.parametrize(
    ("rows", "errors", "allowed", "tripped"),
    [
        (99, 99, 0.01, False),  # too early to say
        (100, 4, 0.01, False),
        (100, 5, 0.01, True),
        (10_000, 130, 0.01, False),
        (10_000, 140, 0.01, True),
        (100, 1, 0.0, False),  # one bad picture is no trend
        (100, 2, 0.0, True),
        (1000, 1000, 1.0, False),  # everything is allowed
    ],
)
def test_the_breaker_takes_chance_into_account(rows: int, errors: int, allowed: float, tripped: bool) -> None:
    breaker = ErrorRateBreaker(allowed)
    breaker.add(rows - 1, {"not_found": errors}, "p1: no such image")
    breaker.add(1, {}, None)
    assert breaker.tripped is tripped
    assert f"{errors} of the {rows} rows made so far are error rows ({errors} not_found)" in str(breaker)
    assert "p1: no such image" in str(breaker)
