"""An actor as the driver sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from nstray.manifest.shards import Shard
from nstray.output.live import WorkerState
from nstray.worker.messages import WorkerProgress


@dataclass(eq=False)
class WorkerHandle:
    """One actor as the driver sees it.

    Attributes:
        node, host, device: where it is: Ray's id of the node, its name, what it computes on; None before it is ready.
        careful: the shard that it runs pair by pair; it then has no other.
        inflight: the shards that it has otherwise, the one that it works on first.
        recent: styles that it is taken to have cached.
        seen: what it said last. moved: when it last got on with its work. since: when it turned to the shard it works on.
    """

    name: str
    actor: Any
    node: str | None = None
    host: str | None = None
    device: str | None = None
    ready: bool = False
    careful: Shard | None = None
    inflight: dict[tuple[int, int], Shard] = field(default_factory=dict)
    recent: dict[tuple[str, ...], None] = field(default_factory=dict)
    seen: WorkerProgress = field(default_factory=WorkerProgress)
    moved: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)
    stalled: bool = False
    leaving: bool = (
        False  # its node is about to go: it finishes what is on its device and takes nothing more
    )
    born: float | None = None  # when its process began, once it is ready; time.monotonic

    @property
    def free(self) -> bool:
        """Whether it may be handed shards."""
        return self.ready and not self.careful and not self.stalled and not self.leaving

    @property
    def at_hand(self) -> Shard | None:
        """The shard that it works on."""
        return self.careful or next(iter(self.inflight.values()), None)

    @property
    def state(self) -> WorkerState:
        """What it is doing, in a word."""
        if not self.ready:
            return "starting"
        return (
            "stalled"
            if self.stalled
            else "leaving"
            if self.leaving
            else "busy"
            if self.at_hand
            else "idle"
        )

    def turn_to_next(self) -> float:
        """It is done with the shard it worked on: seconds that it had it."""
        now = time.monotonic()
        took, self.since = now - self.since, now
        return took
