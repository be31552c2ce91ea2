"""What a job costs, from a few of its pairs, run as the job would run them: on its workers, in its batches, from its images. Writes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nstray.commands.cost import PairCost, row_costs
from nstray.commands.forecast import (
    CURVE_BYTES,
    SETTLED,
    Forecast,
    Measured,
    RemainingWork,
    SampleCost,
    full_seconds,
)
from nstray.commands.prepare import Job
from nstray.config import VERSION
from nstray.errors import JobFailed, UsageError
from nstray.manifest.overrides import OVERRIDE_TYPES
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output.part import encode_part
from nstray.output.schema import COLUMNS, OUTCOME_COLUMNS, ok_row
from nstray.text import duration
from nstray.worker.messages import JobSpec, ShardReport

if TYPE_CHECKING:
    from nstray.cluster.probe_pool import ProbePool

SECONDS = 60.0
SAMPLES = 6  # of pairs at most, spread over the manifest
SHORT = 4  # the shorter of a sample's two runs has this part of the job's evaluations at most
_SHORTENED = ("evaluations", "coarse")  # the columns that say how long a row lasts
_MANY = 16  # rows of a part that is large beside one of one row


@dataclass(frozen=True)
class ProbeOptions:
    """What a probe is asked for. Raises UsageError.

    Attributes:
        seconds: for its measuring, about; starting Ray and loading the network, and a first pass of a first sample, are not in it.
        devices: numbers of devices to give figures for; none for those at hand.
        price: of a device-hour.
    """

    seconds: float = SECONDS
    devices: tuple[int, ...] = ()
    price: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"--probe-seconds must be a number above 0; got {self.seconds:g}")
        if wrong := [n for n in self.devices if not 1 <= n <= 1_000_000]:
            raise UsageError(f"--devices must be from 1 to 1000000; got {wrong[0]}")
        if self.price is not None and not (math.isfinite(self.price) and self.price >= 0):
            raise UsageError(
                f"--price must be a number of at least 0, of one device-hour; got {self.price:g}"
            )


@dataclass(frozen=True)
class Sample:
    """Rows of one kind out of one shard."""

    kind: PairCost
    shard: Shard


def probe(job: Job, wish: ProbeOptions) -> dict[str, Any] | None:
    """Measure some pairs of what `job` has to do; JSON-ready. None where nothing is left to do.

    Starts Ray, as a run does, and on it the job's workers. Every sample runs on all of them at once, so that its times are those of
    a worker beside the others; three times: with one evaluation, which is not counted but for its host work, and with two numbers
    of evaluations that tell fixed costs from the cost of an evaluation (`nstray.commands.forecast`).
    Raises what keeps a run's workers from starting, JobFailed where no pair probed makes a picture, StorageError.
    """
    from nstray.cluster import probe_pool

    load = RemainingWork()
    indices: dict[frozenset[tuple[PairCost, int]], int] = {}
    for shard in to_do(job):
        mix = Counter(row_costs(shard.table, job.config))
        index = indices.setdefault(frozenset(mix.items()), len(load.mixes))
        if index == len(load.mixes):
            load.mixes.append(dict(mix))
        load.shards.append(index)
    if not load.shards:
        return None
    with probe_pool.ProbePool(_spec(job), job.weights) as trial:
        session = _Session(trial, pick(job, load.rows, whole=not trial.cpu), wish.seconds)
        session.run()
        measured_in = time.monotonic() - session.began
    part_bytes = _part_bytes(job.spec)
    samples = [
        dataclasses.replace(s, bytes=max(0.0, s.bytes - part_bytes / n)) for s, n in session.samples
    ]
    measured = Measured(
        samples,
        trial.per_device,
        trial.cpu,
        trial.ray_seconds,
        trial.start_seconds,
        session.warm_up,
        part_bytes,
    )
    forecast = Forecast(load, measured, job.config.depth, job.config.image_format)
    return {
        "device": trial.device,
        "workers": trial.workers,
        "seconds": measured_in,
        "pairs": session.pairs,
        "error_rows": session.errors,
        "kinds": len(load.rows),
        "kinds_measured": len({s.kind for s in samples}),
        "seconds_per_evaluation": forecast.seconds_per_evaluation,
        "ray_seconds": trial.ray_seconds,
        "start_seconds": trial.start_seconds,
        "warm_up_seconds": measured.warm_up,
        "rows": sum(load.rows.values()),
        "forecasts": [
            forecast.on(n, wish.price)
            for n in wish.devices or (max(1, trial.wanted // trial.per_device),)
        ],
    }


def recorded(job: Job, found: Mapping[str, Any]) -> dict[str, Any]:
    """The record of what `probe` found, which a run of the same job shows its own figures beside."""
    made = {
        "fingerprint": job.spec.fingerprint,
        "nstray_version": VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {"format": 1, **made, **found}


def table(forecasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for a terminal: a forecast each, under a heading; every figure with its spread."""
    shown: dict[str, Callable[[float], str]] = {
        "device_hours": "{:.3g}".format,
        "wall_seconds": duration,
        "bytes": lambda n: f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB",
        "money": "{:,.2f}".format,
    }
    names = [name for name in shown if name in forecasts[0]]
    lines = [["devices", *(name.replace("_seconds", "").replace("_", "-") for name in names)]]
    for each in forecasts:
        cells = [[shown[name](each[name + end]) for end in ("", "_low", "_high")] for name in names]
        lines.append(
            [str(each["devices"]), *(f"{middle} ({low} to {high})" for middle, low, high in cells)]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def to_do(job: Job) -> Iterator[Shard]:
    """The shards of a job that have no part yet, in order."""
    for window, table in cut_windows(job.manifest.tables(job.info), job.spec.cuts):
        there = job.output.parts.list_window(window)
        yield from (
            shard
            for shard in cut_shards(window, table, job.config.shard_size)
            if shard.number not in there
        )


def pick(job: Job, rows: Counter[PairCost], *, whole: bool) -> list[Sample]:
    """Samples of what is to do, each first one of its kind before any second; at most `SAMPLES`.

    The kinds are those with the most work; a kind's samples are as many as its work allows, at even distances in the order of the
    shards. `whole`: all rows of the kind in the row's shard, since a GPU runs them in batches, not one row.
    """
    shares = _shares(rows)
    wanted = {
        kind: [rows[kind] * (2 * i + 1) // (2 * n) for i in range(n)] for kind, n in shares.items()
    }
    found: dict[PairCost, list[Sample]] = {kind: [] for kind in shares}
    passed: Counter[PairCost] = Counter()
    for shard in to_do(job):
        there: dict[PairCost, list[int]] = {}
        for i, kind in enumerate(row_costs(shard.table, job.config)):
            there.setdefault(kind, []).append(i)
        for kind, places in there.items():
            for nth in [
                n - passed[kind]
                for n in wanted.get(kind, ())
                if 0 <= n - passed[kind] < len(places)
            ][: 1 if whole else None]:
                found[kind].append(Sample(kind, shard.rows(places if whole else [places[nth]])))
            passed[kind] += len(places)
        if all(passed[kind] > numbers[-1] for kind, numbers in wanted.items()):
            break
    return [found[kind][i] for i in range(SAMPLES) for kind in shares if i < len(found[kind])]


def _shares(rows: Counter[PairCost]) -> dict[PairCost, int]:
    """How many samples each kind gets: one for each of those with the most work, the rest by work too (d'Hondt's rule)."""
    ranked = sorted(rows, key=lambda kind: -rows[kind] * kind.work)[:SAMPLES]
    shares = dict.fromkeys(ranked, 1)
    for _ in range(SAMPLES - len(ranked)):
        open_kinds = [kind for kind in ranked if shares[kind] < rows[kind]]
        if not open_kinds:
            break
        shares[max(open_kinds, key=lambda kind: rows[kind] * kind.work / shares[kind])] += 1
    return shares


class _Session:
    """The measuring: goes through `picked` until all are measured or the time is over, but never without one.

    Attributes:
        samples: of each picked one on each worker, with the number of rows in its part.
        pairs, errors: rows run, and those of them that made no picture.
        warm_up: seconds that the first pairs took longer on the device than they should have.
    """

    def __init__(self, trial: ProbePool, picked: Sequence[Sample], seconds: float) -> None:
        self._trial, self._picked = trial, list(picked)
        self.samples: list[tuple[SampleCost, int]] = []
        self.pairs = self.errors = 0
        self.warm_up = 0.0
        self._example: str | None = None
        self.began = time.monotonic()
        self._end = self.began + seconds

    def run(self) -> None:
        """Fill `samples`; raises JobFailed where no pair makes a picture."""
        new = len({picked.kind for picked in self._picked})
        for i, picked in enumerate(self._picked):
            left = self._end - time.monotonic()
            if self.samples and left <= 0:
                break
            self._measure(picked, left, max(1, new - i), len(self._picked) - i)
        if not self.samples:
            raise JobFailed(
                f"none of the {self.pairs} pairs probed made a picture; the last one: {self._example}"
            )

    def _measure(self, picked: Sample, left: float, new: int, rest: int) -> None:
        """One sample with `left` seconds for the `rest` of them, this one included, `new` of which are the first of their kind."""
        began = time.monotonic()
        full = picked.kind.evaluations
        opening = self._trial.run(lasting(picked, 1))
        pace = time.monotonic() - began  # of one evaluation, at the most
        self.pairs += picked.shard.table.num_rows
        self.errors += opening[0].rows - opening[0].ok
        self._example = opening[0].example or self._example
        if not opening[0].ok:
            return
        # Rather few samples with settled pictures than many without.
        affordable = int(left / (pace * SETTLED * (1 + 1 / SHORT)))
        limit = began + left / max(new, min(rest, affordable))
        few = min(
            max(2, int((limit - time.monotonic()) / (pace * (SHORT + 1)))), max(1, full // SHORT)
        )
        short_began = time.monotonic()
        short = self._trial.run(lasting(picked, few))
        pace = (time.monotonic() - short_began) / few
        many = min(full, max(few + 1, int((limit - time.monotonic()) / pace)))
        long = self._trial.run(lasting(picked, many))
        first = not self.samples
        for reports in zip(opening, short, long, strict=True):
            self._add(picked.kind, reports, (few, many), first=first)

    def _add(
        self,
        kind: PairCost,
        reports: tuple[ShardReport, ...],
        evaluations: tuple[int, int],
        *,
        first: bool,
    ) -> None:
        """Count what one worker reported of a sample's three runs, the last two with so many evaluations."""
        opening, short, long = reports
        if not all(report.ok for report in reports):
            return
        kinds_run = [kind.shortened(n) for n in evaluations]
        low, high = (
            (run.work, report.seconds / report.ok)
            for run, report in zip(kinds_run, (short, long), strict=True)
        )
        if first:
            self.warm_up = max(
                self.warm_up,
                opening.seconds - opening.ok * full_seconds(low, high, kind.shortened(1).work),
            )
        sample = SampleCost(
            kind,
            device=full_seconds(low, high, kind.work),
            host=max(0.0, opening.footer["finished"] - opening.footer["started"] - opening.seconds)
            / opening.rows,
            bytes=long.size / long.rows + CURVE_BYTES * (kind.budget - kinds_run[1].budget),
            settled=evaluations[1] >= min(SETTLED, kind.evaluations),
        )
        self.samples.append((sample, long.rows))


def lasting(picked: Sample, evaluations: int) -> Shard:
    """The rows with so many evaluations each at full size, and stages of their own in proportion."""
    table, kind = picked.shard.table, picked.kind.shortened(evaluations)
    for name in _SHORTENED:
        column = pa.array([getattr(kind, name)] * table.num_rows, OVERRIDE_TYPES[name])
        table = (
            table.set_column(table.column_names.index(name), name, column)
            if name in table.column_names
            else table.append_column(name, column)
        )
    return dataclasses.replace(picked.shard, table=table)


def _made_up_row(name: str, number: int) -> dict[str, Any]:
    """A row with a picture of one byte; its texts are `name` and its numbers are `number`."""

    def value(kind: pa.DataType) -> Any:
        if pa.types.is_list(kind):
            return [value(kind.value_type)]
        if pa.types.is_string(kind):
            return name
        return datetime.fromtimestamp(number, UTC) if pa.types.is_timestamp(kind) else number

    filled = {c.name: value(c.type) for c in COLUMNS if c.name not in OUTCOME_COLUMNS}
    return ok_row(b"0", f"{name}.png", **filled)


def _part_bytes(spec: JobSpec) -> int:
    """Of a part besides its rows: what the bytes of parts of few and of many rows are, without the rows."""

    def size(number: int) -> int:
        names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(number)]
        rows = [_made_up_row(name, i + 1) for i, name in enumerate(names)]
        return len(encode_part(rows, spec.schema, {}))

    one, many = size(1), size(_MANY)
    return max(0, round((_MANY * one - many) / (_MANY - 1)))


def _spec(job: Job) -> JobSpec:
    """The job for workers whose rows all say how long they last."""
    info: ManifestInfo = job.info
    schema = info.schema
    new = [name for name in _SHORTENED if name not in info.overrides]
    for name in new:
        schema = schema.append(pa.field(name, OVERRIDE_TYPES[name]))
    return dataclasses.replace(
        job.spec, info=dataclasses.replace(info, schema=schema, overrides=(*info.overrides, *new))
    )
