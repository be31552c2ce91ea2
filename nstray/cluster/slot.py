"""An actor as the driver sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from nstray.plan import Shard
from nstray.spec import Progress


@dataclass(eq=False)
class Slot:
    """One actor as the driver sees it."""

    name: str
    actor: Any
    node: str | None = None
    ready: bool = False
    careful: bool = False  # reserved for a shard that runs pair by pair
    inflight: dict[tuple[int, int], Shard] = field(default_factory=dict)
    recent: dict[tuple[str, ...], None] = field(default_factory=dict)
    seen: Progress = field(default_factory=Progress)
    moved: float = field(default_factory=time.monotonic)
    stalled: bool = False
    since: float | None = None  # when its process began, once it is ready; time.monotonic

    @property
    def free(self) -> bool:
        """Whether it may be handed shards."""
        return self.ready and not self.careful and not self.stalled
