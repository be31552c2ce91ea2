"""Which shard goes to which worker, and what is to blame when a worker dies.

This is policy alone, without Ray, so that it can be tested without it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nstray.errors import ErrorCode
from nstray.manifest.shards import Shard
from nstray.output.records import PartInfo

LOOK_AHEAD = 32  # shards behind the head among which one of a cached style is looked for
MAX_FAILURES = 2  # deaths of workers that had the shard, before it runs pair by pair
MIN_ROWS = 100  # finished rows before a job may be stopped for its share of error rows
MAX_DEATHS = 2  # deaths of a lone worker on one pair, before the pair becomes an error row
MAX_NODE_FAULTS = 3  # faults of a node in a row, with nothing finished there, before it is excluded

ShardKey = tuple[int, int]


class Backlog:
    """Shards that wait for a worker, in order.

    A worker may take a shard of a style that it has cached from up to `look_ahead` places behind
    the head. The head is passed over at most `look_ahead` times, so that no window waits for ever.
    """

    def __init__(self, look_ahead: int = LOOK_AHEAD) -> None:
        self.look_ahead = look_ahead
        self._shards: deque[tuple[tuple[str, ...], Shard]] = deque()
        self._passed = 0

    def __len__(self) -> int:
        return len(self._shards)

    def extend(self, shards: Iterable[Shard]) -> None:
        """Append shards in order."""
        self._shards.extend((s.style_key, s) for s in shards)

    def put_back(self, shard: Shard) -> None:
        """Return a shard to the front, because its worker went away."""
        self._shards.appendleft((shard.style_key, shard))

    def clear(self) -> None:
        """Drop all of them."""
        self._shards.clear()

    def take(self, cached: Collection[tuple[str, ...]]) -> Shard:
        """The next shard for a worker that has the styles in `cached`.

        Raises IndexError if none is left.
        """
        if self._passed < self.look_ahead:
            for i in range(min(self.look_ahead, len(self._shards))):
                if self._shards[i][0] in cached:
                    self._passed = self._passed + 1 if i else 0
                    shard = self._shards[i][1]
                    del self._shards[i]
                    return shard
        self._passed = 0
        return self._shards.popleft()[1]


@dataclass
class IsolatedShard:
    """A shard that is run pair by pair, by a worker that does nothing else.

    Attributes:
        attempt: of the shard, which its rows record. started: when it was isolated, by time.time.
        rows: finished rows by index in the shard.
        kills: deaths of workers by index.
        lost: (code, message) by index of the pairs that are not run again.
        touching: index of the pair that is with the worker.
        commit_deaths: deaths of workers while they wrote the part.
        nodes: where lone workers died of it. The next worker that tries it is elsewhere, if
            there is one.
    """

    shard: Shard
    attempt: int
    started: float
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    kills: dict[int, int] = field(default_factory=dict)
    lost: dict[int, tuple[str, str]] = field(default_factory=dict)
    touching: int | None = None
    commit_deaths: int = 0
    nodes: set[str] = field(default_factory=set)

    def next(self) -> int | None:
        """The index of the next pair without a row, or None."""
        return next((i for i in range(self.shard.table.num_rows) if i not in self.rows), None)

    def blame(self, *, stalled: bool, reason: str) -> None:
        """Count the death of the lone worker against the pair that it had.

        At the second death the pair becomes an error row.
        """
        if self.touching is None:
            return
        i = self.touching
        self.kills[i] = self.kills.get(i, 0) + 1
        if self.kills[i] >= MAX_DEATHS:
            code = ErrorCode.TIMED_OUT if stalled else ErrorCode.WORKER_DIED
            what = "made no progress before its deadline" if stalled else "killed its worker"
            self.lost[i] = (code.value, f"{what} {MAX_DEATHS} times, alone: {reason}")
        self.touching = None


class ErrorRateBreaker:
    """Tells when more of the rows are error rows than is allowed and chance explains.

    Args:
        allowed: share of error rows that is allowed.
    """

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self._rows = 0
        self._errors: Counter[str] = Counter()
        self._example: str | None = None

    def add(self, rows: int, errors: Mapping[str, int], example: str | None) -> None:
        """Count rows, and the error rows among them by code.

        `example` is the pair of an error row with its reason.
        """
        self._rows += rows
        self._errors.update(errors)
        self._example = example or self._example

    @property
    def tripped(self) -> bool:
        """Whether the errors are three standard deviations of the binomial above its mean.

        Never before `MIN_ROWS` rows.
        """
        spread = math.sqrt(self.allowed * (1 - self.allowed) * self._rows)
        return (
            self._rows >= MIN_ROWS
            and self._errors.total() > self.allowed * self._rows + 3 * spread + 1
        )

    def __str__(self) -> str:
        codes = ", ".join(f"{n} {code}" for code, n in self._errors.most_common())
        return (
            f"{self._errors.total()} of the {self._rows} rows made so far are error rows "
            f"({codes}), far above the share of {self.allowed:g} allowed (max_error_rate); "
            f"the last: {self._example}. What is written stays. Mend the cause and run the same "
            "command again, then nstray retry OUT for the error rows; or raise --max-error-rate"
        )


class FailureCounter:
    """How many workers died while they had a shard, by shard."""

    def __init__(self) -> None:
        self._counts: dict[ShardKey, int] = {}

    def add(self, shard: Shard) -> bool:
        """Count one; returns whether the shard must run pair by pair from now on."""
        key = (shard.window, shard.number)
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key] >= MAX_FAILURES

    def of(self, shard: Shard) -> int:
        """Deaths so far."""
        return self._counts.get((shard.window, shard.number), 0)

    def forget(self, shard: Shard) -> None:
        """Drop the count of a shard that is committed."""
        self._counts.pop((shard.window, shard.number), None)


class NodeHealth:
    """Which machines are broken: their workers die of shards that other machines then finish.

    A death is a fault of its node once every shard that the worker had is finished elsewhere. So a
    shard that kills its workers everywhere is a fault of no node. A worker that does not start is a
    fault of its node if others work. What a node finishes clears its faults.

    Attributes:
        excluded: nodes that are not used again, with the reason.
    """

    def __init__(self) -> None:
        self.excluded: dict[str, str] = {}
        self._faults: dict[str, int] = {}
        # deaths by node, each with its reason and the shards that are not finished elsewhere yet
        self._open: dict[str, list[tuple[set[ShardKey], str]]] = {}

    def died(self, node: str, in_flight: Iterable[ShardKey], reason: str) -> None:
        """Note the death of a worker on `node` that had the shards `in_flight`."""
        if unfinished := set(in_flight):
            self._open.setdefault(node, []).append((unfinished, reason))

    def finished(self, node: str, shard: ShardKey) -> list[str]:
        """Note that a worker on `node` finished every pair of a shard.

        Returns the nodes that this excludes.
        """
        self._faults.pop(node, None)
        self._open.pop(node, None)
        found = []
        for other, deaths in self._open.items():
            for unfinished, _ in deaths:
                unfinished.discard(shard)
            found += [
                other
                for unfinished, reason in deaths
                if not unfinished and self._fault(other, reason)
            ]
            deaths[:] = [death for death in deaths if death[0]]
        return found

    def did_not_start(self, node: str, reason: str) -> bool:
        """Note that a worker on `node` failed to start while others work.

        Returns whether this excludes the node.
        """
        return self._fault(node, reason)

    def _fault(self, node: str, reason: str) -> bool:
        self._faults[node] = self._faults.get(node, 0) + 1
        if self._faults[node] < MAX_NODE_FAULTS or node in self.excluded:
            return False
        self.excluded[node] = reason
        return True


@dataclass
class Window:
    """A window whose parts are not all committed yet: how many it will have, and those it has."""

    expected: int
    parts: list[PartInfo] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every part is there."""
        return len(self.parts) >= self.expected
