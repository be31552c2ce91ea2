"""`nstray plan --probe`: what a job costs, from a few of its pairs.

The pairs run as the job would run them: on its workers, in its batches, from its images. Nothing is
written.
"""

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
from nstray.commands.printing import fitting_table
from nstray.config import VERSION
from nstray.errors import JobFailed, UsageError
from nstray.manifest.overrides import OVERRIDE_TYPES
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output.part_file import encode_part
from nstray.output.schema import COLUMNS, OUTCOME_COLUMNS, ok_row
from nstray.text import duration
from nstray.worker.messages import JobSpec, ShardReport

if TYPE_CHECKING:
    from nstray.cluster.probe_pool import ProbePool

SECONDS = 60.0
SAMPLES = 6  # samples at most, spread over the manifest
SHORT = 4  # the shorter of a sample's two runs has at most 1/SHORT of the job's evaluations
_SHORTENED = ("evaluations", "coarse")  # the columns that decide a row's evaluations
_MANY = 16  # rows of a part that is compared with a part of one row


@dataclass(frozen=True)
class ProbeOptions:
    """What a probe is asked for. Raises `UsageError`.

    Attributes:
        seconds: about how long it measures. Starting Ray, loading the network and the warm-up of
            the first sample are not counted.
        devices: numbers of devices to give figures for; empty for those at hand.
        price: price of a device-hour.
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
                f"--price must be a number of at least 0, for one device-hour; got {self.price:g}"
            )


@dataclass(frozen=True)
class Sample:
    """Rows of one shard that have the same cost."""

    pair: PairCost
    shard: Shard


def probe(job: Job, options: ProbeOptions) -> dict[str, Any] | None:
    """Measure some of the pairs that `job` has to do. JSON-ready; None if nothing is left to do.

    Starts Ray, as a run does, and the job's workers on it. Every sample runs on all workers at
    once, so that its times are those of a worker beside the others. Each sample runs three times: a
    warm-up of one evaluation, a few evaluations, many evaluations. Of the warm-up only the host
    work counts. The difference of the other two separates the fixed cost from the cost per
    evaluation (`nstray.commands.forecast`).
    Raises what keeps a run's workers from starting, `JobFailed` if no pair makes a picture, and
    `StorageError`.
    """
    from nstray.cluster import probe_pool

    remaining = remaining_work(job)
    if not remaining.shards:
        return None
    rows = remaining.rows
    with probe_pool.ProbePool(_spec(job), job.weights) as pool:
        session = _Session(pool, pick(job, rows, whole=not pool.cpu), options.seconds)
        session.run()
        measured_in = time.monotonic() - session.began
    part_bytes = _part_bytes(job.spec)
    samples = [
        dataclasses.replace(sample, bytes=max(0.0, sample.bytes - part_bytes / part_rows))
        for sample, part_rows in session.costs
    ]
    measured = Measured(
        samples,
        pool.per_device,
        pool.cpu,
        pool.ray_seconds,
        pool.start_seconds,
        session.warm_up,
        part_bytes,
    )
    forecast = Forecast(remaining, measured, job.config.depth, job.config.image_format)
    devices = options.devices or (max(1, pool.wanted // pool.per_device),)
    return {
        "device": pool.device,
        "workers": pool.workers,
        "seconds": measured_in,
        "pairs": session.pairs,
        "error_rows": session.errors,
        "kinds": len(rows),
        "kinds_measured": len({sample.pair for sample in samples}),
        "seconds_per_evaluation": forecast.seconds_per_evaluation,
        "ray_seconds": pool.ray_seconds,
        "start_seconds": pool.start_seconds,
        "warm_up_seconds": measured.warm_up,
        "rows": sum(rows.values()),
        "forecasts": [forecast.on(n, options.price) for n in devices],
    }


def recorded(job: Job, estimate: Mapping[str, Any]) -> dict[str, Any]:
    """The record of what `probe` returned; a run of the job shows its own figures beside it."""
    origin = {
        "fingerprint": job.spec.fingerprint,
        "nstray_version": VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {"format": 1, **origin, **estimate}


def forecast_table(forecasts: Sequence[Mapping[str, Any]], columns: int | None = None) -> list[str]:
    """The forecasts for a terminal: headings and a line each, every figure with its spread.

    If they are wider than `columns`, a line for each figure.
    """
    formats: dict[str, Callable[[float], str]] = {
        "device_hours": "{:.3g}".format,
        "wall_seconds": duration,
        "bytes": lambda n: f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB",
        "money": "{:,.2f}".format,
    }
    names = [name for name in formats if name in forecasts[0]]
    headings = [name.removesuffix("_seconds").replace("_", "-") for name in names]

    def cell(forecast: Mapping[str, Any], name: str) -> str:
        middle, low, high = (
            formats[name](forecast[f"{name}{end}"]) for end in ("", "_low", "_high")
        )
        return f"{middle} ({low} to {high})"

    return fitting_table(
        ["devices", *headings],
        [[str(each["devices"]), *(cell(each, name) for name in names)] for each in forecasts],
        columns,
    )


def remaining_work(job: Job) -> RemainingWork:
    """What `job` has still to do."""
    remaining = RemainingWork()
    indices: dict[frozenset[tuple[PairCost, int]], int] = {}
    for shard in to_do(job):
        composition = Counter(row_costs(shard.table, job.config))
        index = indices.setdefault(frozenset(composition.items()), len(remaining.compositions))
        if index == len(remaining.compositions):
            remaining.compositions.append(dict(composition))
        remaining.shards.append(index)
    return remaining


def to_do(job: Job) -> Iterator[Shard]:
    """The shards of `job` that have no part yet, in order."""
    for window, table in cut_windows(job.manifest.tables(job.info), job.spec.cuts):
        there = job.output.parts.list_window(window)
        yield from (
            shard
            for shard in cut_shards(window, table, job.config.rows_per_shard, job.spec.order)
            if shard.number not in there
        )


def pick(job: Job, rows: Counter[PairCost], *, whole: bool) -> list[Sample]:
    """At most `SAMPLES` samples of what is to do; a cost has its second after all have a first.

    The costs sampled are those with the most work. Each has as many samples as its work allows, at
    even distances in the order of the shards.

    Args:
        rows: pairs to do, by their cost.
        whole: take all rows of the cost in the row's shard, since a GPU runs them in batches;
            otherwise one row.
    """
    counts = _shares(rows)
    wanted = {
        cost: [rows[cost] * (2 * i + 1) // (2 * n) for i in range(n)] for cost, n in counts.items()
    }
    found: dict[PairCost, list[Sample]] = {cost: [] for cost in counts}
    passed: Counter[PairCost] = Counter()
    for shard in to_do(job):
        positions: dict[PairCost, list[int]] = {}
        for i, cost in enumerate(row_costs(shard.table, job.config)):
            positions.setdefault(cost, []).append(i)
        for cost, places in positions.items():
            here = [
                number - passed[cost]
                for number in wanted.get(cost, ())
                if 0 <= number - passed[cost] < len(places)
            ]
            for nth in here[:1] if whole else here:
                found[cost].append(Sample(cost, shard.rows(places if whole else [places[nth]])))
            passed[cost] += len(places)
        if all(passed[cost] > numbers[-1] for cost, numbers in wanted.items()):
            break
    return [found[cost][i] for i in range(SAMPLES) for cost in counts if i < len(found[cost])]


def _shares(rows: Counter[PairCost]) -> dict[PairCost, int]:
    """How many samples each cost gets.

    Each of those with the most work gets one. The rest goes by work too (d'Hondt's rule).
    """
    ranked = sorted(rows, key=lambda cost: -rows[cost] * cost.work)[:SAMPLES]
    counts = dict.fromkeys(ranked, 1)
    for _ in range(SAMPLES - len(ranked)):
        open_costs = [cost for cost in ranked if counts[cost] < rows[cost]]
        if not open_costs:
            break
        counts[max(open_costs, key=lambda cost: rows[cost] * cost.work / counts[cost])] += 1
    return counts


class _Session:
    """Measures samples until all are measured or the time is over, but at least one.

    Attributes:
        costs: what each sample took on each worker, with the number of rows in its part.
        pairs, errors: rows run, and those of them that made no picture.
        warm_up: seconds that the first pairs took longer on the device than they should have.
        began: when it began, on the monotonic clock.
    """

    def __init__(self, pool: ProbePool, samples: Sequence[Sample], seconds: float) -> None:
        self._pool, self._samples = pool, list(samples)
        self.costs: list[tuple[SampleCost, int]] = []
        self.pairs = self.errors = 0
        self.warm_up = 0.0
        self._example: str | None = None
        self.began = time.monotonic()
        self._end = self.began + seconds

    def run(self) -> None:
        """Fill `costs`; raises `JobFailed` if no pair makes a picture."""
        distinct = len({sample.pair for sample in self._samples})
        for i, sample in enumerate(self._samples):
            left = self._end - time.monotonic()
            if self.costs and left <= 0:
                break
            self._measure(sample, left, max(1, distinct - i), len(self._samples) - i)
        if not self.costs:
            raise JobFailed(
                f"none of the {self.pairs} pairs probed made a picture; "
                f"the last one: {self._example}"
            )

    def _measure(self, sample: Sample, left: float, new: int, rest: int) -> None:
        """Run one sample three times.

        Args:
            left: seconds for this sample and those after it.
            new: how many of them are the first of their cost.
            rest: how many there are, this one included.
        """
        began = time.monotonic()
        warm_up = self._pool.run(shortened(sample, 1))
        pace = time.monotonic() - began  # of one evaluation, at most
        self.pairs += sample.shard.table.num_rows
        self.errors += warm_up[0].rows - warm_up[0].ok
        self._example = warm_up[0].example or self._example
        if not warm_up[0].ok:
            return
        # A few samples with settled pictures tell more than many without.
        affordable = int(left / (pace * SETTLED * (1 + 1 / SHORT)))
        limit = began + left / max(new, min(rest, affordable))
        few = min(
            max(2, int((limit - time.monotonic()) / (pace * (SHORT + 1)))),
            max(1, sample.pair.evaluations // SHORT),
        )
        short_began = time.monotonic()
        short = self._pool.run(shortened(sample, few))
        pace = (time.monotonic() - short_began) / few
        many = max(few + 1, int((limit - time.monotonic()) / pace))
        many = min(sample.pair.evaluations, many)
        long = self._pool.run(shortened(sample, many))
        first = not self.costs
        for reports in zip(warm_up, short, long, strict=True):
            self._add(sample.pair, reports, (few, many), first=first)

    def _add(
        self,
        pair: PairCost,
        reports: tuple[ShardReport, ...],
        evaluations: tuple[int, int],
        *,
        first: bool,
    ) -> None:
        """Add what one worker reported of a sample's three runs.

        evaluations: those of the second and the third run.
        """
        warm_up, short, long = reports
        if not all(report.ok for report in reports):
            return
        costs = [pair.shortened(n) for n in evaluations]
        low, high = (
            (cost.work, report.seconds / report.ok)
            for cost, report in zip(costs, (short, long), strict=True)
        )
        if first:
            expected = full_seconds(low, high, pair.shortened(1).work)
            self.warm_up = max(self.warm_up, warm_up.seconds - warm_up.ok * expected)
        busy = warm_up.footer["finished"] - warm_up.footer["started"]
        sample = SampleCost(
            pair,
            device=full_seconds(low, high, pair.work),
            host=max(0.0, busy - warm_up.seconds) / warm_up.rows,
            bytes=long.size / long.rows + CURVE_BYTES * (pair.budget - costs[1].budget),
            settled=evaluations[1] >= min(SETTLED, pair.evaluations),
        )
        self.costs.append((sample, long.rows))


def shortened(sample: Sample, evaluations: int) -> Shard:
    """The sample's rows with so many evaluations at full size; their stages in proportion."""
    table, pair = sample.shard.table, sample.pair.shortened(evaluations)
    for name in _SHORTENED:
        column = pa.array([getattr(pair, name)] * table.num_rows, OVERRIDE_TYPES[name])
        table = (
            table.set_column(table.column_names.index(name), name, column)
            if name in table.column_names
            else table.append_column(name, column)
        )
    return dataclasses.replace(sample.shard, table=table)


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
    """Bytes of a part besides its rows, from the sizes of a part of one row and one of many."""

    def size(number: int) -> int:
        names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(number)]
        rows = [_made_up_row(name, i + 1) for i, name in enumerate(names)]
        return len(encode_part(rows, spec.schema, {}))

    one, many = size(1), size(_MANY)
    return max(0, round((_MANY * one - many) / (_MANY - 1)))


def _spec(job: Job) -> JobSpec:
    """The job's spec with every row's evaluations and stages as columns of its own."""
    info: ManifestInfo = job.info
    schema = info.schema
    new = [name for name in _SHORTENED if name not in info.overrides]
    for name in new:
        schema = schema.append(pa.field(name, OVERRIDE_TYPES[name]))
    return dataclasses.replace(
        job.spec, info=dataclasses.replace(info, schema=schema, overrides=(*info.overrides, *new))
    )
