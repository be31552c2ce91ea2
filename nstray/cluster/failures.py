"""What follows when a shard fails: another try, a try pair by pair, or the job's end."""

from __future__ import annotations

import threading
import time

import ray.exceptions as rex

from nstray.cluster.progress import Display
from nstray.cluster.ray_session import reason_of
from nstray.cluster.scheduling import FailureCounter, IsolatedShard
from nstray.cluster.worker_handle import WorkerHandle
from nstray.cluster.worker_pool import WorkerPool
from nstray.errors import AccessDenied, OutputError, StorageError
from nstray.manifest.shards import Shard

STORAGE_TRIES = 3  # shards in a row whose part can't be written before the job fails


class ShardFailures:
    """The failures of shards that are not committed yet.

    Args:
        stopping: set when the run stops.
    """

    def __init__(self, pool: WorkerPool, display: Display, stopping: threading.Event) -> None:
        self._pool, self._display, self._stopping = pool, display, stopping
        self._failures = FailureCounter()
        self._storage_failures = 0  # since a shard was committed

    def attempt(self, shard: Shard) -> int:
        """The number of the next try of a shard, from 1."""
        return self._failures.of(shard) + 1

    def committed(self, shard: Shard) -> None:
        """A shard is committed."""
        self._storage_failures = 0
        self._failures.forget(shard)

    async def add(
        self, worker: WorkerHandle, shard: Shard, error: Exception
    ) -> Shard | IsolatedShard | None:
        """Count a failure; returns what is to be tried again, and how.

        None if the run stops. Raises OutputError, AccessDenied, what `storage` raises, and
        JobFailed if too many workers have died in a row.

        Args:
            error: what the worker's call has raised.
        """
        raised = isinstance(error, rex.RayTaskError)  # the worker lives; else it is dead
        cause = getattr(error, "cause", None)
        if raised and isinstance(cause, OutputError | AccessDenied):
            raise cause
        if raised and isinstance(cause, StorageError):
            self.storage(shard, cause)
            return shard
        if self._stopping.is_set() and not raised:
            await self._pool.remove_dead(worker, error)
            return None
        node_lost = not raised and await self._pool.remove_dead(
            worker, error, [(shard.window, shard.number), *worker.in_flight]
        )
        if node_lost:
            self._display.log_event("retry", part=shard.name, reason="node_lost")
            return shard
        if self._failures.add(shard):
            self._display.log_event("careful", part=shard.name, reason=reason_of(error))
            return IsolatedShard(shard, self.attempt(shard), time.time())
        self._display.log_event("retry", part=shard.name, reason=reason_of(error))
        return shard

    def storage(self, shard: Shard, cause: StorageError) -> None:
        """Count a shard whose worker could not reach the store for as long as it retries.

        Raises `cause` at the `STORAGE_TRIES`th one with nothing committed between.
        """
        self._storage_failures += 1
        if self._storage_failures >= STORAGE_TRIES:
            raise cause
        self._display.log_event("retry", part=shard.name, reason="storage", error=cause)
