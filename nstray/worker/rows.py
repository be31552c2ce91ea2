"""What becomes of a pair as a row, and of a shard's rows as a part."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from nstray import storage
from nstray.config import VERSION
from nstray.engine.pair import Result
from nstray.errors import PairError, Unreachable
from nstray.images.encode import encode, extension, quantize
from nstray.manifest.carried_rows import CarriedRows
from nstray.manifest.column_names import IMAGE_COLUMNS
from nstray.manifest.shards import Shard
from nstray.output import histograms
from nstray.output.part_file import encode_part
from nstray.output.schema import error_row, ok_row
from nstray.sources.read import relative_reference
from nstray.storage.backoff import retry
from nstray.worker.inputs import LoadedPair
from nstray.worker.messages import JobSpec, ShardReport
from nstray.worker.previous_rows import PreviousRows
from nstray.worker.timing import PhaseTimes


class Rows:
    """Makes the rows and parts of one worker. Methods may be called from several threads.

    Args:
        device: the device's name, for the rows.
        dtype: of the convolutions, for the rows.
        pool: where pictures are encoded.
        phases: told of the time that encoding takes.
        on_step: called for each row.

    Raises: `ManifestError` if carried columns are to be read here and the manifest is not seen.
    """

    def __init__(
        self,
        spec: JobSpec,
        device: str,
        dtype: str,
        pool: ThreadPoolExecutor,
        phases: PhaseTimes,
        on_step: Callable[[], None],
    ) -> None:
        self._spec, self._device, self._dtype = spec, device, dtype
        self._pool, self._phases, self._on_step = pool, phases, on_step
        self._apart = CarriedRows(spec.info) if spec.info.carried_apart else None

    def make(
        self,
        prepared: Sequence[LoadedPair],
        outcomes: Mapping[int, Result | PairError],
        attempt: int,
    ) -> Iterator[dict[str, Any]]:
        """The rows of `prepared` in order.

        Args:
            outcomes: what the device made, by index in `prepared`; none of a pair with an error.
            attempt: which attempt at the shard this is, from 1.
        """
        encoded = {
            i: self._pool.submit(self._encode, outcome)
            for i, outcome in outcomes.items()
            if isinstance(outcome, Result)
        }
        for i, ready in enumerate(prepared):
            common = self._common(ready, attempt)
            outcome = ready.error or outcomes[i]
            picture = b""
            if isinstance(outcome, Result):
                try:
                    picture = encoded[i].result()
                except PairError as error:  # a side longer than the format holds
                    outcome = error
            now = datetime.now(UTC)
            if isinstance(outcome, Result):
                path = f"{ready.pair.pair_id}.{extension(self._spec.config.image_format)}"
                row = ok_row(picture, path, **common, **_figures(outcome), created_at=now)
            else:
                message = self._shorten(storage.redact(outcome.message))
                row = error_row(outcome.code, message, **common, created_at=now)
            self._on_step()
            yield row

    def _common(self, ready: LoadedPair, attempt: int) -> dict[str, Any]:
        """The columns of a row with or without a picture."""
        pair, styles = ready.pair, ready.styles
        return {
            "pair_id": pair.pair_id,
            "content_uri": self._uri(pair.content or ""),
            "style_uri": [self._uri(uri) for uri in pair.styles],
            "content_sha256": ready.content.sha256 if ready.content else None,
            "content_width": ready.content.source[1] if ready.content else None,
            "content_height": ready.content.source[0] if ready.content else None,
            "style_sha256": (
                [style.sha256 for style in styles] if len(styles) == len(pair.styles) else None
            ),
            "seed": ready.seed,
            "device": self._device,
            "dtype": self._dtype,
            "weights_id": self._spec.weights_id,
            "config_fingerprint": self._spec.fingerprint,
            "nstray_version": VERSION,
            "attempt": attempt,
        }

    def _shorten(self, message: str) -> str:
        """A message with paths below the manifest's folder as seen from there."""
        base = storage.redact(self._spec.base).removesuffix("/")
        return re.sub(rf"(?<![^\s'\"(:]){re.escape(base)}/", "", message) if base else message

    def _uri(self, reference: str) -> str:
        return storage.redact(relative_reference(reference, self._spec.base))

    def _encode(self, result: Result) -> bytes:
        config = self._spec.config
        with self._phases.timed("encode"):
            pixels = quantize(result.image.numpy().transpose(1, 2, 0), config.image_format)
            return encode(pixels, config.image_format, config.quality)

    def footer(
        self, shard: Shard, rows: Sequence[Mapping[str, Any]], started: float, attempt: int
    ) -> dict[str, Any]:
        """What the part of a shard says of itself; `started` is in unix seconds."""
        return {
            "version": VERSION,
            "window": shard.window,
            "number": shard.number,
            "ids_digest": shard.ids_digest,
            "fingerprint": self._spec.fingerprint,
            "seconds": sum(row["seconds"] or 0.0 for row in rows),
            "evaluations": sum(row["evaluations"] or 0 for row in rows),
            "host": socket.gethostname(),
            "device": self._device,
            "pid": os.getpid(),
            "started": started,
            "finished": time.time(),
            "attempt": attempt,
        }

    def part(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        footer: dict[str, Any],
        previous: PreviousRows,
    ) -> bytes:
        """The bytes of a shard's part: `rows` with the carried columns of the manifest.

        Rows that `previous` keeps keep theirs. `footer` gets the part's histograms.
        """
        names = self._spec.info.carried_schema.names
        table = self._with_carried(shard)
        with self._phases.timed("encode"):
            carried = previous.carried_over(_redacted(table.select(names))) if names else None
            footer[histograms.KEY] = histograms.of_rows(rows, carried)
            return encode_part(rows, self._spec.schema, footer, carried)

    def _with_carried(self, shard: Shard) -> pa.Table:
        """The rows of a shard with the carried columns, which the manifest may still have."""
        if self._apart is None:
            return shard.table
        apart = self._apart
        with self._phases.timed("fetch"):
            carried = retry(
                shard.name,
                Unreachable,
                lambda: apart.of(shard.table["row"].to_pylist()),
                self._on_step,
            )
        return pa.Table.from_arrays(
            [*shard.table.columns, *carried.columns],
            schema=pa.schema([*shard.table.schema, *carried.schema]),
        )


def report_of(
    shard: Shard,
    rows: Sequence[Mapping[str, Any]],
    footer: dict[str, Any],
    size: int,
    won: bool,
) -> ShardReport:
    """The report of a shard whose part, of `size` bytes, was put; `won` as in `ShardReport`."""
    failed = [row for row in rows if row["status"] == "error"]
    errors: dict[str, int] = {}
    for row in failed:
        errors[row["error_code"]] = errors.get(row["error_code"], 0) + 1
    return ShardReport(
        shard.window,
        shard.number,
        len(rows),
        len(rows) - len(failed),
        errors,
        footer["evaluations"],
        footer["seconds"],
        size,
        won,
        footer=footer,
        example=f"{failed[0]['pair_id']}: {failed[0]['error_message']}" if failed else None,
    )


def _figures(result: Result) -> dict[str, Any]:
    """The columns that say what the optimisation came to."""
    height, width = result.image.shape[1:]
    return {
        "width": width,
        "height": height,
        "loss_total": result.loss_total,
        "loss_content": result.loss_content,
        "loss_style": result.loss_style,
        "loss_tv": result.loss_tv,
        "loss_range": result.loss_range,
        "loss_curve": result.loss_curve,
        "iterations": result.iterations,
        "evaluations": result.evaluations,
        "seconds": result.seconds,
    }


def _redacted(columns: pa.Table) -> pa.Table:
    """The manifest's columns as the output holds them: what names an image may be a signed URI."""

    def redacted(value: Any) -> Any:
        if isinstance(value, list):
            return [redacted(each) for each in value]
        return value and storage.redact(value)

    for name in ("init", *IMAGE_COLUMNS):
        if name in columns.column_names:
            field = columns.schema.field(name)
            values = pa.array([redacted(v) for v in columns[name].to_pylist()], field.type)
            columns = columns.set_column(columns.column_names.index(name), field, values)
    return columns
