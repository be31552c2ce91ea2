"""What a worker does with a shard: fetch, decode, optimise, encode, commit. Knows nothing of Ray.

A `Worker` is used by several threads at once: while one shard is optimised, the next one is fetched and decoded and the
last one is encoded and put, so that the device waits for none of it.

Torch is used by one thread alone, the device's own. Every thread that runs a parallel operation gets a team of OpenMP
threads; with a second team there are more of them than cores, and libgomp then puts threads to sleep between operations
instead of letting them spin: an evaluation of a small picture takes 1.4 times as long (measured, 96 px on two cores).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from nstray import __version__, images, manifest, storage
from nstray.engine import settings
from nstray.engine.batches import Memory, run_batches
from nstray.engine.pair import Pair as EnginePair
from nstray.engine.pair import Result, pair_seed
from nstray.engine.stylizer import Stylizer
from nstray.engine.vgg import minimum_side
from nstray.engine.weights import VGGWeights
from nstray.errors import AccessDenied, ErrorCode, NotFound, PairError, StorageError, TooLarge, Unreachable
from nstray.manifest import Pair
from nstray.manifest.names import IMAGE_COLUMNS
from nstray.output import Output, encode_part
from nstray.plan import Shard
from nstray.spec import JobSpec, Progress, ShardReport

T = TypeVar("T")
log = logging.getLogger("nstray.worker")
FETCH_THREADS = 8
_MASK = "mask"  # the rule of an image that is decoded to one channel and fitted to its picture later
CACHE_BYTES = 256 * 2**20
# While a store is out of reach: pauses of 1, 2, 4, 8, 16 and then 30 s, on top of the storage client's own retries. Ten minutes of
# outage cost nothing but the wait; after that the shard goes back to the driver.
STORAGE_TRIES = 24
LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class _Image:
    """Pixels (H, W, 3), or (H, W) of a mask; `source` is height and width before resizing."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    sha256: str
    source: tuple[int, int]


@dataclass
class _Prepared:
    """A pair on its way: its images, or the reason why it ends here."""

    pair: Pair
    seed: int
    content: _Image | None = None
    styles: list[_Image] = field(default_factory=list)
    masks: list[_Image] = field(default_factory=list)  # of the content, one per style, or none
    style_masks: list[_Image | None] = field(default_factory=list)
    fine: _Image | None = None
    start: _Image | None = None
    error: PairError | None = None


class Worker:
    """One device with a loaded network. Methods may be called from several threads.

    Args:
        weights: gives the weights; called in the device's thread.
        threads: CPU threads of an evaluation; None for torch's own choice.
    """

    def __init__(self, spec: JobSpec, weights: Callable[[], VGGWeights], device: str = "cpu", threads: int | None = None) -> None:
        self.spec, self.output = spec, Output(spec.out)
        # The config's init may be an image, which the engine takes as each pair's `start`.
        config = spec.config.model_copy(update={"init": spec.init if spec.init in settings.INITS else "content"})
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")

        def load() -> Stylizer:
            if threads:
                torch.set_num_threads(threads)
            return Stylizer(config.engine(), weights(), device)

        self.stylizer = self._device.submit(load).result()
        self.device_name = torch.cuda.get_device_name() if self.stylizer.device.type == "cuda" else "cpu"
        self._memory = Memory()
        self._cache = _ImageCache(CACHE_BYTES)
        self._pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="io")
        self._progress = Progress()
        self._draining = False
        self._reached: dict[str, float] = {}  # when each store last gave an image
        self._busy_before = 0.0
        self._busy_since: float | None = None

    # called by the driver

    def process(self, shard: Shard, attempt: int = 1) -> ShardReport:
        """The whole way of a shard. Raises StorageError where its part can't be written; a pair's own trouble is its row."""
        started = time.time()
        prepared = self._prepare(shard)
        outcomes = self._device.submit(lambda: None if self._draining else self._optimise(prepared)).result()
        if outcomes is None:
            return ShardReport(shard.window, shard.number, shard.table.num_rows, 0, {}, 0, 0.0, 0, won=False, skipped=True)
        return self._commit(shard, list(self._rows(prepared, outcomes, attempt)), started, attempt)

    def one(self, shard: Shard, index: int, attempt: int) -> dict[str, Any]:
        """The row of one pair of a shard, alone: for a shard that took its worker along."""
        alone = Shard(shard.window, shard.number, shard.table.slice(index, 1))
        prepared = self._prepare(alone)
        outcomes = self._device.submit(self._optimise, prepared).result()
        return next(self._rows(prepared, outcomes, attempt))

    def failed_row(self, shard: Shard, index: int, attempt: int, code: str, message: str) -> dict[str, Any]:
        """The error row of a pair that is not touched again."""
        pair = manifest.pairs(shard.table.slice(index, 1), self.spec.info)[0]
        lost = _Prepared(pair, self._seed(pair), error=PairError(ErrorCode(code), message))
        return next(self._rows([lost], {}, attempt))

    def commit_rows(self, shard: Shard, rows: Sequence[dict[str, Any]], started: float, attempt: int) -> ShardReport:
        """Write a shard whose rows were made one by one."""
        return self._commit(shard, list(rows), started, attempt)

    def drain(self) -> None:
        """Shards that have not reached the device come back as skipped."""
        self._draining = True

    def progress(self) -> Progress:
        """What is going on; answers while the device is busy."""
        now, since = time.time(), self._busy_since
        self._progress.now = now
        self._progress.busy = self._busy_before + (now - since if since else 0.0)
        return self._progress

    # fetch and decode

    def _seed(self, pair: Pair) -> int:
        own = pair.overrides.get("seed")
        return int(own) if own is not None else pair_seed(self.spec.config.seed, pair.pair_id)

    def _prepare(self, shard: Shard) -> list[_Prepared]:
        pairs = manifest.pairs(shard.table, self.spec.info)
        # By role too: an error names what the image is to its pair.
        wanted = dict.fromkeys((role, *key) for pair in pairs for role, key in self._images_of(pair))
        futures = {each: self._pool.submit(self._fetch, *each) for each in wanted}
        return [self._assemble(pair, futures) for pair in pairs]

    def _images_of(self, pair: Pair) -> list[tuple[str, tuple[Any, ...]]]:
        """(role, (uri, size, rule, upsample)) of every image a pair needs; `size` None leaves an image as it is, rule ``mask`` makes it one."""
        config, own = self.spec.config, pair.overrides
        size, rule = own.get("size", config.size), own.get("size_rule", config.size_rule)
        out: list[tuple[str, tuple[Any, ...]]] = [("content", (pair.content, size, rule, config.upsample))]
        # A style keeps its own aspect: the rule that crops would cut away statistics, so it takes the area of the crop.
        style_size, style_rule = (_area(size), "area") if rule == "exact" else (size, rule)
        style_size = max(1, round(style_size * own.get("style_scale", config.style_scale)))
        out += [("style", (uri, style_size, style_rule, False)) for uri in pair.styles]
        out += [("fine style", (uri, style_size, style_rule, False)) for uri in (pair.fine_style,) if uri]
        for role, masks in (("content mask", pair.content_masks), ("style mask", pair.style_masks)):
            out += [(role, (uri, None, _MASK, False)) for uri in masks if uri]
        init = own.get("init", self.spec.init)
        if init not in settings.INITS:
            out.append(("init", (init, None, "", False)))
        return out

    def _assemble(self, pair: Pair, futures: dict[tuple[Any, ...], Any]) -> _Prepared:
        ready = _Prepared(pair, self._seed(pair))
        try:
            masks: dict[str, list[_Image]] = {"content mask": [], "style mask": []}
            for role, key in self._images_of(pair):
                image = futures[role, *key].result()
                if role == "content":
                    ready.content = image
                elif role == "style":
                    ready.styles.append(image)
                elif role == "fine style":
                    ready.fine = image
                elif role == "init":
                    ready.start = image
                else:
                    masks[role].append(image)
            self._fit_masks(ready, masks["content mask"], masks["style mask"])
            self._check_sides(ready)
        except PairError as error:
            ready.error = error
        except StorageError:
            raise  # the store is away, which is no pair's fault
        except Exception as error:
            log.exception("pair=%s", pair.pair_id)
            ready.error = PairError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
        return ready

    def _fit_masks(self, ready: _Prepared, masks: Sequence[_Image], style_masks: Sequence[_Image]) -> None:
        """Every mask brought to its picture; raises PairError BAD_MASK."""
        pair, content = ready.pair, ready.content
        assert content is not None
        taps = self.stylizer.settings(self._settings(pair)).style_layers
        rule = pair.overrides.get("size_rule", self.spec.config.size_rule)
        ready.masks = [_fitted(m, content, rule, taps, f"content mask {storage.redact(u)}") for m, u in zip(masks, pair.content_masks, strict=True)]
        given = iter(style_masks)
        # a style keeps its aspect whatever the rule
        ready.style_masks = [
            _fitted(next(given), style, "area", taps, f"style mask {storage.redact(uri)}") if uri else None
            for uri, style in zip(pair.style_masks, ready.styles, strict=bool(pair.style_masks))
        ]

    def _check_sides(self, ready: _Prepared) -> None:
        config = self.stylizer.settings(self._settings(ready.pair))
        content_taps = config.content_layers if config.content_weight > 0 else ()
        style_taps = config.style_layers if ready.styles and config.style_weight > 0 else ()
        least, least_style = minimum_side((*content_taps, *style_taps)), minimum_side(style_taps)
        assert ready.content is not None
        sides = [("content", ready.pair.content or "", ready.content, least)]
        sides += [("style", uri, image, least_style) for uri, image in zip(ready.pair.styles, ready.styles, strict=True)]
        if ready.fine is not None:
            least_fine = minimum_side(config.fine_layers)
            sides += [("style", uri, image, least_fine) for uri, image in zip(ready.pair.styles, ready.styles, strict=True)]
            sides += [("fine style", ready.pair.fine_style or "", ready.fine, least_fine)]
        for role, uri, image, side in sides:
            h, w = image.pixels.shape[:2]
            if min(h, w) < side:
                raise PairError(
                    ErrorCode.TOO_SMALL,
                    f"{role} {storage.redact(uri)} is {w} x {h} pixels after resizing; the deepest layer needs {side} a side: "
                    "use a larger size or image, or shallower layers",
                )

    def _fetch(self, role: str, uri: str, size: Any, rule: str, upsample: bool) -> _Image:
        """One image, decoded and resized. Kept in the cache.

        Raises PairError for what is wrong with this image, StorageError where its store stays out of reach.
        """
        key = (uri, size, rule, upsample)
        if (kept := self._cache.get(key)) is not None:
            return kept
        config = self.spec.config
        what = f"{role} {storage.redact(uri)}"
        began = time.monotonic()
        try:
            data = self._patiently(storage.redact(uri), Unreachable, lambda: self._read(uri), lambda: self._reached.get(_store(uri), 0.0) > began)
        except NotFound as error:
            raise PairError(ErrorCode.NOT_FOUND, f"{role}: {error}") from None
        except AccessDenied as error:
            raise PairError(ErrorCode.ACCESS_DENIED, f"{role}: {error}") from None
        except TooLarge as error:
            raise PairError(ErrorCode.TOO_MANY_BYTES, f"{role}: {error}") from None
        except Unreachable as error:
            if self._reached.get(_store(uri), 0.0) <= began:
                raise
            # others were read meanwhile: it is this object that its store can't give
            raise PairError(ErrorCode.FETCH_FAILED, f"{role}: {error}") from None
        except StorageError as error:
            raise PairError(ErrorCode.FETCH_FAILED, f"{role}: {error}") from None
        decode = images.decode_mask if rule == _MASK else images.decode
        pixels = decode(data, what=what, max_bytes=config.max_bytes, max_pixels=config.max_pixels)
        source = pixels.shape[:2]
        if size is not None:
            pixels = images.fit(pixels, size, rule, upsample, what=what, max_pixels=config.max_pixels)
        image = _Image(pixels, hashlib.sha256(data).hexdigest(), source)
        self._cache.put(key, image)
        self._progress.steps += 1
        return image

    # optimise

    def _optimise(self, prepared: list[_Prepared]) -> dict[int, Result | PairError]:
        """Run what can run; by the index in `prepared`. In the device's thread."""
        indices = [i for i, p in enumerate(prepared) if p.error is None]
        pairs = [self._engine_pair(prepared[i]) for i in indices]
        outcomes: dict[int, Result | PairError] = {}

        def on_batch(chunk: list[int]) -> None:
            self._progress.pairs = tuple(prepared[indices[k]].pair.pair_id for k in chunk)

        def on_evaluation(_: int) -> None:
            self._progress.steps += 1
            self._progress.evaluations += len(self._progress.pairs)

        with self._busy():
            for k, outcome in run_batches(
                self.stylizer, pairs, self.spec.config.batch_size, memory=self._memory, on_batch=on_batch, on_evaluation=on_evaluation
            ):
                if isinstance(outcome, Exception) and not isinstance(outcome, torch.cuda.OutOfMemoryError):
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
            log.critical("event=device_lost device=%s error=%s", self.device_name, error)
            os._exit(1)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        started = self._busy_since = time.time()
        self._progress.first = self._progress.first or started
        try:
            yield
        finally:
            self._busy_before += time.time() - started
            self._busy_since = None

    def _settings(self, pair: Pair) -> dict[str, Any]:
        """What the engine is told of the row's own settings; an `init` that is an image is the pair's `start` instead."""
        own = {name: value for name, value in pair.overrides.items() if name in settings.NAMES and name != "seed"}
        if own.get("init", "content") not in settings.INITS:
            del own["init"]
        return own

    def _engine_pair(self, ready: _Prepared) -> EnginePair:
        own = ready.pair.overrides
        assert ready.content is not None
        size, rule = own.get("size", self.spec.config.size), own.get("size_rule", self.spec.config.size_rule)
        scale = own.get("style_scale", self.spec.config.style_scale)
        parts = ready.style_masks or [None] * len(ready.styles)
        return EnginePair(
            content=_tensor(ready.content),
            styles=[_tensor(s) for s in ready.styles],
            blend=ready.pair.style_weights,
            style_keys=[(s.sha256, m and m.sha256, size, rule, scale) for s, m in zip(ready.styles, parts, strict=True)],
            guides=[_tensor(m) for m in ready.masks] or None,
            style_guides=[None if m is None else _tensor(m) for m in parts],
            fine=None if ready.fine is None else _tensor(ready.fine),
            fine_key=ready.fine and (ready.fine.sha256, size, rule, scale),
            seed=ready.seed,
            start=None if ready.start is None else _tensor(ready.start),
            settings=self._settings(ready.pair),
        )

    # encode and commit

    def _rows(self, prepared: Sequence[_Prepared], outcomes: dict[int, Result | PairError], attempt: int) -> Iterator[dict[str, Any]]:
        encoded = {i: self._pool.submit(self._encode, o) for i, o in outcomes.items() if isinstance(o, Result)}
        for i, ready in enumerate(prepared):
            outcome = ready.error or outcomes[i]
            row: dict[str, Any] = {
                "pair_id": ready.pair.pair_id,
                "content_uri": storage.redact(ready.pair.content or ""),
                "style_uri": [storage.redact(s) for s in ready.pair.styles],
                "content_sha256": ready.content.sha256 if ready.content else None,
                "style_sha256": [s.sha256 for s in ready.styles] if len(ready.styles) == len(ready.pair.styles) else None,
                "seed": ready.seed,
                "device": self.device_name,
                "weights_id": self.spec.weights_id,
                "config_fingerprint": self.spec.fingerprint,
                "nstray_version": __version__,
                "attempt": attempt,
            }
            picture = b""
            if isinstance(outcome, Result):
                try:
                    picture = encoded[i].result()
                except PairError as error:  # a side longer than the format holds
                    outcome = error
            if isinstance(outcome, Result):
                path = f"{ready.pair.pair_id}.{images.extension(self.spec.config.image_format)}"
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
                row |= {"image": None, "status": "error", "error_code": outcome.code.value, "error_message": storage.redact(outcome.message)}
            row["created_at"] = datetime.now(UTC)
            self._progress.steps += 1
            yield row

    def _encode(self, result: Result) -> bytes:
        kind = self.spec.config.image_format
        return images.encode(images.quantize(result.image.numpy().transpose(1, 2, 0), kind), kind, self.spec.config.quality)

    def _commit(self, shard: Shard, rows: list[dict[str, Any]], started: float, attempt: int) -> ShardReport:
        evaluations = sum(r.get("evaluations") or 0 for r in rows)
        seconds = sum(r.get("seconds") or 0.0 for r in rows)
        footer = {
            "version": __version__,
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
        data = encode_part(rows, self.spec.schema, footer, _redacted(shard.table.select(names)) if names else None)
        won = self._put(shard.name, data)
        errors: dict[str, int] = {}
        for row in rows:
            if row["status"] == "error":
                errors[row["error_code"]] = errors.get(row["error_code"], 0) + 1
        return ShardReport(
            shard.window, shard.number, len(rows), len(rows) - sum(errors.values()), errors, evaluations, seconds, len(data), won, footer=footer
        )

    def _put(self, name: str, data: bytes) -> bool:
        return self._patiently(name, StorageError, lambda: self.output.commit_part(name, data))

    def _patiently(self, what: str, trouble: type[StorageError], call: Callable[[], T], others_answer: Callable[[], bool] | None = None) -> T:
        """What `call` returns; tried again on `trouble`, but for want of permission, as long as patience lasts.

        `others_answer` says whether the store has meanwhile answered somebody else: then three tries are enough.
        """
        for attempt in range(STORAGE_TRIES):
            try:
                return call()
            except AccessDenied:
                raise
            except trouble as error:
                if attempt + 1 == STORAGE_TRIES or (attempt >= 2 and others_answer and others_answer()):
                    raise
                log.warning("event=storage_retry what=%s try=%d error=%s", what, attempt + 1, error)
                self._progress.steps += 1
                time.sleep(min(LONGEST_PAUSE, 2.0**attempt))
        raise AssertionError("the last try returns or raises")

    def _read(self, uri: str) -> bytes:
        data = storage.read(uri, max_bytes=self.spec.config.max_bytes)
        self._reached[_store(uri)] = time.monotonic()
        return data


class _ImageCache:
    """Decoded images under a bound of bytes, least recently used out first; safe for threads."""

    def __init__(self, bound: int) -> None:
        self._bound, self._used = bound, 0
        self._kept: OrderedDict[tuple[Any, ...], _Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> _Image | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[Any, ...], image: _Image) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = image
                self._used += image.pixels.nbytes
            while self._used > self._bound:
                self._used -= self._kept.popitem(last=False)[1].pixels.nbytes


def _store(uri: str) -> str:
    """The bucket of a URI, or "" for local files."""
    return uri.split("/")[2] if storage.is_uri(uri) else ""


def _redacted(kept: pa.Table) -> pa.Table:
    """The manifest's columns as they go into the output: what names an image may be a signed URI."""

    def shown(value: Any) -> Any:
        return [shown(v) for v in value] if isinstance(value, list) else value and storage.redact(value)

    for name in ("init", *IMAGE_COLUMNS):
        if name in kept.column_names:
            field = kept.schema.field(name)
            kept = kept.set_column(kept.column_names.index(name), field, pa.array([shown(v) for v in kept[name].to_pylist()], field.type))
    return kept


def _fitted(mask: _Image, picture: _Image, rule: str, taps: Sequence[str], what: str) -> _Image:
    """A mask brought to its picture; raises PairError BAD_MASK, also where none of it is left at the deepest of `taps`."""
    height, width = picture.pixels.shape[:2]
    pixels = images.fit_mask(mask.pixels, picture.source, (height, width), rule, what=what)
    block = minimum_side(taps)  # pooling leaves out what does not fill a position
    if not pixels[: height // block * block, : width // block * block].any():
        raise PairError(ErrorCode.BAD_MASK, f"{what}: its region holds no position of the deepest style layer; give a larger region or size")
    return _Image(pixels, mask.sha256, mask.source)


def _tensor(image: _Image) -> torch.Tensor:
    """(3, H, W), or (H, W) of a mask."""
    pixels = torch.from_numpy(image.pixels)
    return pixels if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _area(size: int | str) -> int:
    """The side of the square with as many pixels as ``WIDTHxHEIGHT``."""
    if isinstance(size, int):
        return size
    width, height = (int(s) for s in size.split("x"))
    return max(1, round(math.sqrt(width * height)))


def _as_pair_error(outcome: Result | Exception, pair_id: str) -> Result | PairError:
    if isinstance(outcome, Result):
        if outcome.diverged:
            return PairError(ErrorCode.DIVERGED, "the loss is not a finite number; lower the weights of the terms or use float32")
        return outcome
    if isinstance(outcome, torch.cuda.OutOfMemoryError):
        return PairError(ErrorCode.OUT_OF_MEMORY, "this pair alone does not fit the device's memory, in tiles either; use a smaller size")
    log.error("pair=%s error=%s: %s", pair_id, type(outcome).__name__, outcome)
    return PairError(ErrorCode.INTERNAL, f"{type(outcome).__name__}: {outcome}")
