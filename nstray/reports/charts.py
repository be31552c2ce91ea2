"""Where the marks of a report's charts stand, in percent, so that a browser may stretch them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nstray.reports.page_text import number
from nstray.reports.report_data import Box, CurveBand, Distribution, SpeedLine
from nstray.text import duration

LOG_FROM = 30.0  # the least ratio of largest to smallest value that is drawn on a log axis
MOST_ROWS = 50  # styles or workers of one chart; more can't be read
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`, with ticks of (percent, text)."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...] = ()

    def at(self, value: float) -> float:
        """The place of `value` in percent of the axis, within 0 to 100."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)


def axis(values: Iterable[float], *, zero: bool = False, log: bool | None = None) -> Axis:
    """An axis that holds all finite `values`; logarithmic if they differ by a factor of 30.

    Args:
        zero: the axis begins at 0.
        log: whether it is logarithmic, if that is not for the values to say.
    """
    finite = [v for v in values if math.isfinite(v)]
    positive = [v for v in finite if v > 0]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if log is None:
        log = not zero and low > 0 and high / low >= LOG_FROM
    if log and positive:
        return _log_axis(min(positive), max(positive))
    low = min(0.0, low) if zero else low
    if high <= low:
        low, high = (0.0, 1.0) if zero or low == 0 else (low - abs(low) / 2, low + abs(low) / 2)
    span = high - low
    step = _step(span / 4)
    if not zero:
        low = step * math.floor(low / step)
    high = step * math.ceil(high / step - 1e-9)
    made = Axis(low, high, False)
    marks = [low + step * i for i in range(round((high - low) / step) + 1)]
    return Axis(low, high, False, tuple((made.at(v), number(v)) for v in marks))


def time_axis(end: float) -> Axis:
    """Seconds from 0 to `end`, with round durations as ticks."""
    end = max(end, 1.0)
    step = next((t for t in _TIMES if end / t <= 6), 86400.0 * math.ceil(end / 86400 / 6))
    made = Axis(0.0, end, False)
    marks = [step * i for i in range(int(end / step) + 1)]
    return Axis(0.0, end, False, tuple((made.at(v), duration(v)) for v in marks))


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(s for s in _STEPS if rough <= s * power * (1 + 1e-9))


def _log_axis(low: float, high: float) -> Axis:
    if high <= low:
        low, high = low / 2, high * 2
    low, high = low / 1.1, high * 1.1
    decades = math.log10(high / low)
    each = max(1, math.ceil(decades / 4))
    steps = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    made = Axis(low, high, True)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [s * 10.0**p for p in powers if p % each == 0 for s in steps]
    ticks = tuple((made.at(v), number(v)) for v in marks if low <= v <= high)
    return Axis(low, high, True, ticks)


@dataclass(frozen=True)
class BoxRow:
    """The marks of one style; `text` says them in words."""

    style: str
    low: float
    p10: float
    p25: float
    median: float
    p75: float
    p90: float
    high: float
    value: str
    n: int
    total: int
    text: str


@dataclass(frozen=True)
class BoxChart:
    """The rows of a distribution. `more` styles are not drawn."""

    name: str
    axis: Axis
    rows: tuple[BoxRow, ...]
    more: int


def boxes(distribution: Distribution) -> BoxChart:
    """A distribution as rows of boxes, in the order of the styles, not of their values."""
    found = [box for box in distribution.boxes if math.isfinite(box.median)]
    ends = [v for box in found for v in (box.low, box.high)]
    scale = axis(ends)
    rows = tuple(_box_row(box, scale) for box in found[:MOST_ROWS])
    more = max(0, len(found) - MOST_ROWS)
    return BoxChart(distribution.name, scale, rows, more)


def _box_row(box: Box, scale: Axis) -> BoxRow:
    return BoxRow(
        box.style,
        scale.at(box.low),
        scale.at(box.p10),
        scale.at(box.p25),
        scale.at(box.median),
        scale.at(box.p75),
        scale.at(box.p90),
        scale.at(box.high),
        number(box.median),
        box.of.n,
        box.of.total,
        f"from {number(box.low)} to {number(box.high)}; 80 % of the pairs from "
        f"{number(box.p10)} to {number(box.p90)}; half of them from {number(box.p25)} to "
        f"{number(box.p75)}",
    )


@dataclass(frozen=True)
class CurvePanel:
    """Paths in a box of 100 by 100 units, and the last median in words."""

    style: str
    n: int
    total: int
    band: str
    median: str
    samples: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class CurveChart:
    """A panel for each style on common axes. `more` styles are not drawn."""

    x: Axis
    y: Axis
    panels: tuple[CurvePanel, ...]
    more: int


def curves(bands: Sequence[CurveBand]) -> CurveChart:
    """The losses of each style over the evaluations, as shares of the first loss, on a log axis."""
    found = [band for band in bands if band.evaluations]
    x = axis([e for band in found for e in band.evaluations], zero=True)
    lines = [v for band in found for line in (band.p10, band.p90, *band.samples) for v in line]
    y = axis(lines, log=any(v > 0 for v in lines))
    panels = tuple(_panel(band, x, y) for band in found[:MOST_ROWS])
    return CurveChart(x, y, panels, max(0, len(found) - MOST_ROWS))


def _panel(band: CurveBand, x: Axis, y: Axis) -> CurvePanel:
    upper, lower = (list(_points(band.evaluations, line, x, y)) for line in (band.p90, band.p10))
    outline = " ".join([*upper, *reversed(lower)])
    return CurvePanel(
        band.style,
        band.of.n,
        band.of.total,
        outline,
        " ".join(_points(band.evaluations, band.median, x, y)),
        tuple(" ".join(_points(band.evaluations, line, x, y)) for line in band.samples),
        f"after {band.evaluations[-1]:,} evaluations the median is {number(band.median[-1])} of "
        f"the first loss; 80 % of the pairs are from {number(band.p10[-1])} to "
        f"{number(band.p90[-1])}",
    )


def _points(at: Sequence[float], values: Sequence[float], x: Axis, y: Axis) -> Iterator[str]:
    for where, value in zip(at, values, strict=False):
        if math.isfinite(value) and math.isfinite(where):
            yield f"{x.at(where):g},{100 - y.at(value):g}"


@dataclass(frozen=True)
class SpeedRow:
    """A worker's line in a box of 100 by 100 units, and its gaps as (start, width) in percent."""

    worker: str
    where: str
    line: str
    gaps: tuple[tuple[float, float], ...]
    value: str  # the mean rate
    gap_text: str


@dataclass(frozen=True)
class SpeedChart:
    """A row for each worker on common axes. `more` workers are not drawn."""

    x: Axis
    top: str
    rows: tuple[SpeedRow, ...]
    more: int


def speed(lines: Sequence[SpeedLine]) -> SpeedChart:
    """The rate of each worker over the time since the first commit."""
    ends = [t for line in lines for t, _ in line.points] + [g[1] for li in lines for g in li.gaps]
    x = time_axis(max((t for t in ends if math.isfinite(t)), default=0.0))
    y = axis([rate for line in lines for _, rate in line.points], zero=True)
    rows = tuple(_speed_row(line, x, y) for line in lines[:MOST_ROWS])
    return SpeedChart(x, number(y.high), rows, max(0, len(lines) - MOST_ROWS))


def _speed_row(line: SpeedLine, x: Axis, y: Axis) -> SpeedRow:
    rates = [rate for _, rate in line.points if math.isfinite(rate)]
    points = _points([t for t, _ in line.points], [rate for _, rate in line.points], x, y)
    lost = sum(end - start for start, end in line.gaps)
    many = "gap" if len(line.gaps) == 1 else "gaps"
    return SpeedRow(
        line.worker,
        ", ".join(part for part in (line.device, line.host) if part),
        " ".join(points),
        tuple((x.at(a), round(max(0.3, x.at(b) - x.at(a)), 2)) for a, b in line.gaps),
        number(sum(rates) / len(rates)) if rates else "?",
        f"{len(line.gaps)} {many}, {duration(lost)} in all" if line.gaps else "no gap",
    )
