"""What follows when a worker does not start: a pause, a node that is excluded, or the job's end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from nstray.cluster.progress import Display
from nstray.cluster.ray_session import failed_node, lost_node, reason_of
from nstray.cluster.resources import Devices, devices
from nstray.cluster.scheduling import NodeHealth
from nstray.cluster.worker_handle import WorkerHandle
from nstray.config import JobConfig
from nstray.errors import JobFailed, NstrayError, OutputError

START_TRIES = 3  # workers in a row that fail to start before the job fails


class StartFailures:
    """The failed starts since a worker started.

    Args:
        nodes: told of the failures that are a fault of their node.

    Attributes:
        not_before: when the next worker may be made, by time.monotonic.
    """

    def __init__(self, config: JobConfig, display: Display, nodes: NodeHealth) -> None:
        self.config, self._display, self._nodes = config, display, nodes
        self.not_before = 0.0
        self._in_a_row = 0
        self._worked = False  # a worker has finished a shard
        self._failed_on: set[str | None] = set()  # nodes
        self._lost: set[str] = set()  # nodes that were lost with workers that were starting there

    def note_finished(self) -> None:
        """A worker has finished a shard: the failures before it are no longer in a row."""
        self._in_a_row = 0
        self._worked = True

    def note_started(self) -> None:
        """A worker has started."""
        self._in_a_row = 0
        self._failed_on.clear()
        self._lost.clear()

    async def add(
        self,
        worker: WorkerHandle,
        error: Exception,
        workers: Sequence[WorkerHandle],
        target: Devices | None,
    ) -> str | None:
        """Count a start that failed with `error`; returns the node that is to be excluded for it.

        Raises what ends the job: starts in a row failed, and no worker works.

        Args:
            workers: the others. target: what the cluster has room for.
        """
        reason, cause = reason_of(error), getattr(error, "cause", None)
        if (lost := await asyncio.to_thread(lost_node, error)) is not None:
            # That says nothing about the job. The pause grows with the machines, not with the
            # workers, because one machine may hold eight of them.
            self._lost.add(lost)
            self._pause(len(self._lost))
            self._display.log_event(
                "start_lost",
                worker=worker.name,
                node=lost,
                nodes_in_a_row=len(self._lost),
                reason=reason,
            )
            return None
        self._in_a_row += 1
        self._display.log_event("start_failed", worker=worker.name, reason=reason)
        # A folder that one node does not see is not the folder that was meant. A run that has
        # worked goes on without that node.
        if isinstance(cause, OutputError) and not self._worked:
            raise cause from None
        self._pause(self._in_a_row)
        # A bad machine does not end the job while other workers work or may. If none does, the
        # reason is the job's.
        node = await asyncio.to_thread(failed_node, error)
        self._failed_on.add(node)
        alone = not any(w.ready for w in workers) and not (
            len(self._failed_on) == 1 and await self._room_without(node, target)
        )
        if alone:
            if isinstance(cause, NstrayError):
                raise cause from None
            if self._in_a_row >= START_TRIES:
                raise JobFailed(
                    f"{START_TRIES} workers in a row failed to start; the last one: {reason}"
                ) from None
            return None
        if node is None or any(w.ready and w.node == node for w in workers):
            return None
        return node if self._nodes.did_not_start(node, reason) else None

    def _pause(self, failures: int) -> None:
        """Make no further worker for a while, which grows with the failures in a row."""
        self.not_before = time.monotonic() + min(60.0, 2.0 ** min(failures, 6))

    async def _room_without(self, node: str | None, target: Devices | None) -> bool:
        """Whether a worker fits another node than this one."""
        if node is None:
            return False
        excluded = (*self._nodes.excluded, node)
        found = await asyncio.to_thread(devices, self.config, target, excluded)
        return bool(found.count)
