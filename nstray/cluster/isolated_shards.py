"""A shard whose workers died, run pair by pair: so the pair that kills them is found."""

from __future__ import annotations

import threading
import time

import ray.exceptions as rex

from nstray.cluster.failures import ShardFailures
from nstray.cluster.progress import Display
from nstray.cluster.ray_session import reason_of
from nstray.cluster.scheduling import MAX_DEATHS, IsolatedShard
from nstray.cluster.worker_handle import WorkerHandle
from nstray.cluster.worker_pool import WorkerPool
from nstray.errors import AccessDenied, ErrorCode, JobFailed, NstrayError, StorageError
from nstray.worker.messages import ShardReport


class IsolatedRunner:
    """Runs shards pair by pair, each on a worker that does nothing else.

    Args:
        failures: told of storage that a worker could not reach.
        stopping: set when the run stops.
    """

    def __init__(
        self,
        pool: WorkerPool,
        display: Display,
        failures: ShardFailures,
        stopping: threading.Event,
    ) -> None:
        self._pool, self._display = pool, display
        self._failures, self._stopping = failures, stopping

    async def run(self, worker: WorkerHandle, isolated: IsolatedShard) -> ShardReport | None:
        """Run what is left of a shard; None if it is not committed yet.

        Each pair is named before the worker gets it. Rows that are made stay in `isolated`. Raises
        what ends the job.
        """
        shard = isolated.shard
        try:
            while (index := isolated.next()) is not None:
                lost = isolated.lost.get(index)
                isolated.touching = None if lost else index
                worker.moved = time.monotonic()
                isolated.rows[index] = await worker.process_single(
                    shard, index, isolated.attempt, lost
                )
                isolated.touching = None
                self._pool.note_pair()
                if self._stopping.is_set() or worker.leaving:
                    return None
            rows = [isolated.rows[i] for i in range(shard.table.num_rows)]
            return await worker.commit_isolated(shard, rows, isolated.started, isolated.attempt)
        except rex.RayTaskError as error:
            self._raised(isolated, error)
        except rex.RayError as error:
            await self._died(worker, isolated, error)
        return None

    def _raised(self, isolated: IsolatedShard, error: rex.RayTaskError) -> None:
        """The worker's code has raised: the pair that it had gets an error row, or the job ends."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, StorageError) and not isinstance(cause, AccessDenied):
            self._failures.storage(isolated.shard, cause)
            isolated.touching = None
            return
        if isinstance(cause, NstrayError):
            raise cause from None
        if isolated.touching is None:
            raise JobFailed(f"{isolated.shard.name}: {reason_of(error)}") from None
        isolated.lost[isolated.touching] = (ErrorCode.INTERNAL.value, reason_of(error))

    async def _died(
        self, worker: WorkerHandle, isolated: IsolatedShard, error: rex.RayError
    ) -> None:
        """The worker has died: the pair it had is to blame, unless its node was lost."""
        shard, index, reason = isolated.shard, isolated.touching, reason_of(error)
        pair = None if index is None else shard.table["pair_id"][index].as_py()
        self._display.log_event("worker_died", part=shard.name, pair=pair, reason=reason)
        if await self._pool.remove_dead(worker, error, [(shard.window, shard.number)]):
            isolated.touching = None
        elif isolated.next() is None:
            isolated.commit_deaths += 1
            if isolated.commit_deaths >= MAX_DEATHS:
                raise JobFailed(
                    f"{shard.name}: writing it killed its worker {MAX_DEATHS} times "
                    f"({reason}); use a smaller shard_size"
                )
        if isolated.touching is not None and worker.node:
            isolated.nodes.add(worker.node)
        isolated.blame(stalled=worker.stalled, reason=reason)
