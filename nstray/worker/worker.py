"""What a worker does with a shard: fetch, decode, optimise, encode, commit. Knows nothing of Ray.

Several threads use a `Worker` at once: while one shard is optimised, the next one is fetched and
decoded, and the last one is encoded and put. So the device waits for none of it.

One thread alone uses torch, the device's own. Every thread that runs a parallel operation gets a
team of OpenMP threads. With a second team there are more threads than cores, and libgomp then puts
threads to sleep between operations instead of letting them spin: an evaluation of a small picture
takes 1.4 times as long (measured, 96 px on two cores).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from nstray import storage
from nstray.engine import settings
from nstray.engine.batching import Memory, run_batches
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair as EnginePair
from nstray.engine.pair import Result
from nstray.engine.stylizer import Stylizer
from nstray.errors import ErrorCode, PairError, StorageError
from nstray.manifest.pair import pairs
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.output.latest import LatestPictures
from nstray.storage.backoff import retry
from nstray.text import log_event
from nstray.worker import previous_rows
from nstray.worker.batch_progress import BatchProgress
from nstray.worker.engine_pairs import as_pair_error, engine_pair
from nstray.worker.inputs import Inputs, LoadedPair
from nstray.worker.messages import JobSpec, ShardReport, WorkerProgress
from nstray.worker.previous_rows import PreviousRows
from nstray.worker.rows import Rows, report_of
from nstray.worker.timing import PhaseTimes

log = logging.getLogger(__name__)
FETCH_THREADS = 8


class Worker:
    """One device with a loaded network. Methods may be called from several threads.

    Args:
        weights: gives the weights; called in the device's thread.
        threads: CPU threads of an evaluation; None for torch's own choice.
    """

    def __init__(
        self,
        spec: JobSpec,
        weights: Callable[[], VGGWeights],
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        storage.request_payer(spec.config.request_payer)
        storage.allow_remote(spec.config.allow_remote)
        self.spec, self.output = spec, Output(spec.out)
        # If `init` is an image, the engine takes it as each pair's `start`.
        init = spec.init if spec.init in settings.INITS else "content"
        config = spec.config.model_copy(update={"init": init})
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")

        def load() -> Stylizer:
            if threads:
                torch.set_num_threads(threads)
            return Stylizer(config.engine(), weights(), device)

        self.stylizer = self._device.submit(load).result()
        self.device_name = (
            torch.cuda.get_device_name() if self.stylizer.device.type == "cuda" else "cpu"
        )
        self._latest = LatestPictures(self.output)
        self._memory = Memory()
        self._pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="io")
        self._progress = WorkerProgress()
        self._draining = False
        self._phases = PhaseTimes()
        self._inputs = Inputs(
            spec,
            self._pool,
            self.stylizer.settings,
            self.stylizer.network.minimum_side,
            self._phases,
            self._step,
        )
        self._rows = Rows(
            spec, self.device_name, self.stylizer.dtype, self._pool, self._phases, self._step
        )

    # called by the driver

    def process(self, shard: Shard, attempt: int = 1) -> ShardReport:
        """Make and commit a shard.

        A pair's own trouble becomes its row. Raises `StorageError` if the part can't be written.
        """
        started = time.time()
        previous = self._previous(shard)
        prepared = self._inputs.prepare(shard.rows(previous.missing))
        outcomes = self._device.submit(
            lambda: None if self._draining else self._optimise(prepared)
        ).result()
        if outcomes is None:
            return ShardReport(
                shard.window,
                shard.number,
                rows=shard.table.num_rows,
                ok=0,
                errors={},
                evaluations=0,
                seconds=0.0,
                size=0,
                won=False,
                skipped=True,
            )
        rows = previous.with_made(self._rows.make(prepared, outcomes, attempt))
        return self._commit(shard, rows, started, attempt, previous)

    def process_single(self, shard: Shard, index: int, attempt: int) -> dict[str, Any]:
        """The row of one pair of a shard, made alone: for a shard whose process died.

        In a retry, a row that is not to be made again is returned as it is.
        """
        previous = self._previous(shard)
        if (row := previous.rows[index]) is not None:
            return row
        alone = Shard(shard.window, shard.number, shard.table.slice(index, 1))
        prepared = self._inputs.prepare(alone)
        outcomes = self._device.submit(self._optimise, prepared).result()
        return previous.again(index, next(self._rows.make(prepared, outcomes, attempt)))

    def failed_row(
        self, shard: Shard, index: int, attempt: int, code: str, message: str
    ) -> dict[str, Any]:
        """The error row of a pair that is not tried again."""
        pair = pairs(shard.table.slice(index, 1), self.spec.info)[0]
        lost = LoadedPair(pair, self._inputs.seed(pair), error=PairError(ErrorCode(code), message))
        return self._previous(shard).again(index, next(self._rows.make([lost], {}, attempt)))

    def commit_isolated(
        self, shard: Shard, rows: Sequence[dict[str, Any]], started: float, attempt: int
    ) -> ShardReport:
        """Write a shard whose rows were made one by one."""
        return self._commit(shard, list(rows), started, attempt, self._previous(shard))

    def drain(self) -> None:
        """Shards that have not reached the device come back as skipped."""
        self._draining = True

    def close(self) -> None:
        """End the worker's use of what it shares with others on its machine."""
        self._inputs.close()

    def progress(self) -> WorkerProgress:
        """What the worker is doing; answers while the device is busy."""
        seconds = self._phases.seconds()
        return replace(self._progress, phase_seconds=seconds, now=time.monotonic())

    def _step(self) -> None:
        self._progress.steps += 1

    def _previous(self, shard: Shard) -> PreviousRows:
        """The rows of a shard's part that a retry carries over; none in an ordinary run.

        Raises `OutputError` if the part is gone or damaged.
        """
        if not self.spec.retry:
            return previous_rows.no_rows(shard)
        return retry(
            shard.name,
            StorageError,
            lambda: previous_rows.read_previous(
                self.output, shard, self.spec.retry, self.spec.carried_changed
            ),
            self._step,
        )

    # optimise

    def _optimise(self, prepared: list[LoadedPair]) -> dict[int, Result | PairError]:
        """Optimise what has no error; outcomes by index in `prepared`. In the device's thread."""
        indices = [i for i, p in enumerate(prepared) if p.error is None]
        pairs = [engine_pair(prepared[i], self._inputs.own_settings) for i in indices]
        outcomes: dict[int, Result | PairError] = {}
        now = self._progress
        batch: BatchProgress | None = None
        worked = now.worked  # before this shard

        def on_batch(chunk: list[int]) -> None:
            nonlocal batch
            now.pairs = tuple(prepared[indices[k]].pair.pair_id for k in chunk)
            now.stage, batch = None, self._batch_progress([pairs[k] for k in chunk])

        def on_evaluation(count: int) -> None:
            self._step()
            if not count:
                return
            now.evaluations += len(now.pairs)
            if batch is not None:
                now.stage = batch.stage(count)
                now.under_way = len(outcomes) + batch.pairs * batch.share(count)
                now.worked = worked + now.under_way

        self._progress.first = self._progress.first or time.monotonic()
        with self._phases.timed("optimise"):
            for k, outcome in run_batches(
                self.stylizer,
                pairs,
                self.spec.config.batch_size,
                memory=self._memory,
                on_batch=on_batch,
                on_evaluation=on_evaluation,
            ):
                if isinstance(outcome, Exception) and not isinstance(
                    outcome, torch.cuda.OutOfMemoryError
                ):
                    self._exit_if_device_lost()
                outcomes[indices[k]] = as_pair_error(outcome, prepared[indices[k]].pair.pair_id)
        now.pairs, now.stage, now.under_way = (), None, 0.0
        now.worked = worked + len(outcomes)
        return outcomes

    def _batch_progress(self, batch: list[EnginePair]) -> BatchProgress | None:
        """The stages of a batch; None if its settings are wrong, which its run will say."""
        height, width = batch[0].content.shape[1:]
        try:
            config = self.stylizer.settings(batch[0].settings)
            least = self.stylizer.network.minimum_side(
                (*config.content_layers, *config.style_layers)
            )
        except (ValueError, KeyError):
            return None
        return BatchProgress.of(len(batch), config, height, width, least)

    def _exit_if_device_lost(self) -> None:
        """End the process if its GPU no longer computes.

        After an illegal access or a hardware fault every later call fails too, and pair after pair
        would become an error row. The driver treats the exit as any death of a worker.
        """
        if self.stylizer.device.type != "cuda":
            return
        try:
            torch.zeros(1, device=self.stylizer.device).add_(1).item()
        except Exception as error:
            log_event("device_lost", log.critical, device=self.device_name, error=error)
            os._exit(1)

    # commit

    def _commit(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        started: float,
        attempt: int,
        previous: PreviousRows,
    ) -> ShardReport:
        footer = self._rows.footer(shard, rows, started, attempt)
        data = self._rows.part(shard, rows, footer, previous)
        with self._phases.timed("put"):
            won = self._put(shard.name, data, previous.etag)
        if won and not self.spec.trial:
            self._latest.add(rows)
        return report_of(shard, rows, footer, len(data), won)

    def _put(self, name: str, data: bytes, etag: str | None) -> bool:
        if self.spec.trial:
            return True

        def put() -> bool:
            if etag is None:
                return self.output.parts.commit(name, data)
            return self.output.parts.replace(name, data, etag)

        return retry(name, StorageError, put, self._step)
