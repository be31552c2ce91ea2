"""What a worker does with a shard: fetch, decode, optimise, encode, commit. Knows nothing of Ray.

A `Worker` is used by several threads at once: while one shard is optimised, the next one is fetched and decoded and the
last one is encoded and put, so that the device waits for none of it.

Torch is used by one thread alone, the device's own. Every thread that runs a parallel operation gets a team of OpenMP
threads; with a second team there are more of them than cores, and libgomp then puts threads to sleep between operations
instead of letting them spin: an evaluation of a small picture takes 1.4 times as long (measured, 96 px on two cores).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch

from nstray import storage
from nstray.config import VERSION
from nstray.engine import settings
from nstray.engine.batching import Memory, run_batches
from nstray.engine.losses.guides import EmptyGuide
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair as EnginePair
from nstray.engine.pair import Result
from nstray.engine.stylizer import Stylizer
from nstray.errors import ErrorCode, PairError, StorageError
from nstray.images.encode import encode, extension, quantize
from nstray.manifest.column_names import IMAGE_COLUMNS
from nstray.manifest.pair import pairs
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.output.part import encode_part
from nstray.storage.backoff import retry
from nstray.text import log_event
from nstray.worker import previous_rows
from nstray.worker.inputs import Inputs, LoadedPair, Picture
from nstray.worker.messages import JobSpec, ShardReport, WorkerProgress
from nstray.worker.previous_rows import PreviousRows
from nstray.worker.timing import PhaseTimes

log = logging.getLogger("nstray.worker.worker")
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
        self.spec, self.output = spec, Output(spec.out)
        # The config's init may be an image, which the engine takes as each pair's `start`.
        config = spec.config.model_copy(
            update={"init": spec.init if spec.init in settings.INITS else "content"}
        )
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")

        def load() -> Stylizer:
            if threads:
                torch.set_num_threads(threads)
            return Stylizer(config.engine(), weights(), device)

        self.stylizer = self._device.submit(load).result()
        self.device_name = (
            torch.cuda.get_device_name() if self.stylizer.device.type == "cuda" else "cpu"
        )
        self._memory = Memory()
        self._pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="io")
        self._progress = WorkerProgress()
        self._draining = False
        self._stages = PhaseTimes()
        self._inputs = Inputs(spec, self._pool, self.stylizer.settings, self._stages, self._step)

    # called by the driver

    def process(self, shard: Shard, attempt: int = 1) -> ShardReport:
        """The whole way of a shard. Raises StorageError where its part can't be written; a pair's own trouble is its row."""
        started = time.time()
        there = self._kept(shard)
        prepared = self._inputs.prepare(shard.rows(there.missing))
        outcomes = self._device.submit(
            lambda: None if self._draining else self._optimise(prepared)
        ).result()
        if outcomes is None:
            return ShardReport(
                shard.window,
                shard.number,
                shard.table.num_rows,
                0,
                {},
                0,
                0.0,
                0,
                won=False,
                skipped=True,
            )
        rows = there.with_made(self._rows(prepared, outcomes, attempt))
        return self._commit(shard, rows, started, attempt, there.etag)

    def process_single(self, shard: Shard, index: int, attempt: int) -> dict[str, Any]:
        """The row of one pair of a shard, alone: for a shard that took its worker along. Of a retry, the row it has where that stays."""
        there = self._kept(shard)
        if (row := there.rows[index]) is not None:
            return row
        alone = Shard(shard.window, shard.number, shard.table.slice(index, 1))
        prepared = self._inputs.prepare(alone)
        outcomes = self._device.submit(self._optimise, prepared).result()
        return there.again(index, next(self._rows(prepared, outcomes, attempt)))

    def failed_row(
        self, shard: Shard, index: int, attempt: int, code: str, message: str
    ) -> dict[str, Any]:
        """The error row of a pair that is not touched again."""
        pair = pairs(shard.table.slice(index, 1), self.spec.info)[0]
        lost = LoadedPair(pair, self._inputs.seed(pair), error=PairError(ErrorCode(code), message))
        return self._kept(shard).again(index, next(self._rows([lost], {}, attempt)))

    def commit_isolated(
        self, shard: Shard, rows: Sequence[dict[str, Any]], started: float, attempt: int
    ) -> ShardReport:
        """Write a shard whose rows were made one by one."""
        return self._commit(shard, list(rows), started, attempt, self._kept(shard).etag)

    def drain(self) -> None:
        """Shards that have not reached the device come back as skipped."""
        self._draining = True

    def close(self) -> None:
        """The worker is at its end: what it shares with others on its machine is given up."""
        self._inputs.leave()

    def progress(self) -> WorkerProgress:
        """What is going on; answers while the device is busy."""
        return replace(self._progress, stages=self._stages.seconds(), now=time.monotonic())

    def _step(self) -> None:
        self._progress.steps += 1

    def _kept(self, shard: Shard) -> PreviousRows:
        """The rows that a retry keeps of a shard's part; of an ordinary run, none. Raises OutputError where the part is gone or damaged."""
        if not self.spec.retry:
            return previous_rows.no_rows(shard)
        return retry(
            shard.name,
            StorageError,
            lambda: previous_rows.read_previous(self.output, shard, self.spec.retry),
            self._step,
        )

    # optimise

    def _optimise(self, prepared: list[LoadedPair]) -> dict[int, Result | PairError]:
        """Run what can run; by the index in `prepared`. In the device's thread."""
        indices = [i for i, p in enumerate(prepared) if p.error is None]
        pairs = [self._engine_pair(prepared[i]) for i in indices]
        outcomes: dict[int, Result | PairError] = {}

        def on_batch(chunk: list[int]) -> None:
            self._progress.pairs = tuple(prepared[indices[k]].pair.pair_id for k in chunk)

        def on_evaluation(count: int) -> None:
            self._step()
            self._progress.evaluations += len(self._progress.pairs) if count else 0

        self._progress.first = self._progress.first or time.monotonic()
        with self._stages.timed("optimise"):
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
                    self._leave_a_broken_device()
                outcomes[indices[k]] = _as_pair_error(outcome, prepared[indices[k]].pair.pair_id)
        self._progress.pairs = ()
        return outcomes

    def _leave_a_broken_device(self) -> None:
        """End the process if its GPU no longer computes: after an illegal access or a hardware fault every later call fails too,
        and would write off pair after pair. The driver then treats it as any death of a worker."""
        if self.stylizer.device.type != "cuda":
            return
        try:
            torch.zeros(1, device=self.stylizer.device).add_(1).item()
        except Exception as error:
            log_event("device_lost", log.critical, device=self.device_name, error=error)
            os._exit(1)

    def _engine_pair(self, ready: LoadedPair) -> EnginePair:
        own = ready.pair.overrides
        assert ready.content is not None
        size, rule = (
            own.get("size", self.spec.config.size),
            own.get("size_rule", self.spec.config.size_rule),
        )
        scale = own.get("style_scale", self.spec.config.style_scale)
        parts = ready.style_masks or [None] * len(ready.styles)
        return EnginePair(
            content=_tensor(ready.content),
            styles=[_tensor(s) for s in ready.styles],
            blend=ready.pair.style_weights,
            style_keys=[(s.sha256, size, rule, scale) for s in ready.styles],
            style_guide_keys=[m and m.sha256 for m in parts],
            guides=[_tensor(m) for m in ready.masks] or None,
            style_guides=[None if m is None else _tensor(m) for m in parts],
            fine=None if ready.fine is None else _tensor(ready.fine),
            fine_key=ready.fine and (ready.fine.sha256, size, rule, scale),
            seed=ready.seed,
            start=None if ready.start is None else _tensor(ready.start),
            settings=self._inputs.own_settings(ready.pair),
        )

    # encode and commit

    def _rows(
        self, prepared: Sequence[LoadedPair], outcomes: dict[int, Result | PairError], attempt: int
    ) -> Iterator[dict[str, Any]]:
        encoded = {
            i: self._pool.submit(self._encode, o)
            for i, o in outcomes.items()
            if isinstance(o, Result)
        }
        for i, ready in enumerate(prepared):
            outcome = ready.error or outcomes[i]
            row: dict[str, Any] = {
                "pair_id": ready.pair.pair_id,
                "content_uri": storage.redact(ready.pair.content or ""),
                "style_uri": [storage.redact(s) for s in ready.pair.styles],
                "content_sha256": ready.content.sha256 if ready.content else None,
                "style_sha256": [s.sha256 for s in ready.styles]
                if len(ready.styles) == len(ready.pair.styles)
                else None,
                "seed": ready.seed,
                "device": self.device_name,
                "dtype": self.stylizer.dtype,
                "weights_id": self.spec.weights_id,
                "config_fingerprint": self.spec.fingerprint,
                "nstray_version": VERSION,
                "attempt": attempt,
            }
            picture = b""
            if isinstance(outcome, Result):
                try:
                    picture = encoded[i].result()
                except PairError as error:  # a side longer than the format holds
                    outcome = error
            if isinstance(outcome, Result):
                path = f"{ready.pair.pair_id}.{extension(self.spec.config.image_format)}"
                height, width = outcome.image.shape[1:]
                row |= {
                    "image": {"bytes": picture, "path": path},
                    "status": "ok",
                    "width": width,
                    "height": height,
                    "loss_total": outcome.loss_total,
                    "loss_content": outcome.loss_content,
                    "loss_style": outcome.loss_style,
                    "loss_tv": outcome.loss_tv,
                    "loss_range": outcome.loss_range,
                    "loss_curve": outcome.loss_curve,
                    "iterations": outcome.iterations,
                    "evaluations": outcome.evaluations,
                    "seconds": outcome.seconds,
                }
            else:
                row |= {
                    "image": None,
                    "status": "error",
                    "error_code": outcome.code.value,
                    "error_message": storage.redact(outcome.message),
                }
            row["created_at"] = datetime.now(UTC)
            self._step()
            yield row

    def _encode(self, result: Result) -> bytes:
        kind = self.spec.config.image_format
        with self._stages.timed("encode"):
            return encode(
                quantize(result.image.numpy().transpose(1, 2, 0), kind),
                kind,
                self.spec.config.quality,
            )

    def _commit(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        started: float,
        attempt: int,
        etag: str | None,
    ) -> ShardReport:
        evaluations = sum(r.get("evaluations") or 0 for r in rows)
        seconds = sum(r.get("seconds") or 0.0 for r in rows)
        footer = {
            "version": VERSION,
            "window": shard.window,
            "number": shard.number,
            "ids_digest": shard.ids_digest,
            "fingerprint": self.spec.fingerprint,
            "seconds": seconds,
            "evaluations": evaluations,
            "host": socket.gethostname(),
            "device": self.device_name,
            "pid": os.getpid(),
            "started": started,
            "finished": time.time(),
            "attempt": attempt,
        }
        names = self.spec.info.kept.names
        with self._stages.timed("encode"):
            data = encode_part(
                rows,
                self.spec.schema,
                footer,
                _redacted(shard.table.select(names)) if names else None,
            )
        with self._stages.timed("put"):
            won = self._put(shard.name, data, etag)
        errors: dict[str, int] = {}
        for row in rows:
            if row["status"] == "error":
                errors[row["error_code"]] = errors.get(row["error_code"], 0) + 1
        example = next(
            (
                f"{row['pair_id']}: {row['error_message']}"
                for row in rows
                if row["status"] == "error"
            ),
            None,
        )
        ok = len(rows) - sum(errors.values())
        return ShardReport(
            shard.window,
            shard.number,
            len(rows),
            ok,
            errors,
            evaluations,
            seconds,
            len(data),
            won,
            footer=footer,
            example=example,
        )

    def _put(self, name: str, data: bytes, etag: str | None) -> bool:
        if self.spec.trial:
            return True

        def put() -> bool:
            return (
                self.output.commit_part(name, data)
                if etag is None
                else self.output.replace_part(name, data, etag)
            )

        return retry(name, StorageError, put, self._step)


def _redacted(columns: pa.Table) -> pa.Table:
    """The manifest's columns as they go into the output: what names an image may be a signed URI."""

    def shown(value: Any) -> Any:
        return (
            [shown(v) for v in value]
            if isinstance(value, list)
            else value and storage.redact(value)
        )

    for name in ("init", *IMAGE_COLUMNS):
        if name in columns.column_names:
            field = columns.schema.field(name)
            columns = columns.set_column(
                columns.column_names.index(name),
                field,
                pa.array([shown(v) for v in columns[name].to_pylist()], field.type),
            )
    return columns


def _tensor(image: Picture) -> torch.Tensor:
    """(3, H, W), or (H, W) of a mask."""
    pixels = torch.from_numpy(image.pixels)
    return pixels if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _as_pair_error(outcome: Result | Exception, pair_id: str) -> Result | PairError:
    if isinstance(outcome, Result):
        if outcome.diverged:
            return PairError(
                ErrorCode.DIVERGED,
                "the loss is not a finite number; lower the weights of the terms or use float32",
            )
        return outcome
    if isinstance(outcome, FloatingPointError):
        return PairError(ErrorCode.DIVERGED, str(outcome))
    if isinstance(outcome, EmptyGuide):
        return PairError(ErrorCode.BAD_MASK, f"{outcome} (with coarse, at its smallest size)")
    if isinstance(outcome, torch.cuda.OutOfMemoryError):
        return PairError(
            ErrorCode.OUT_OF_MEMORY,
            "this pair alone does not fit the device's memory, in tiles either; use a smaller size",
        )
    log.error("pair=%s error=%s: %s", pair_id, type(outcome).__name__, outcome)
    return PairError(ErrorCode.INTERNAL, f"{type(outcome).__name__}: {outcome}")
