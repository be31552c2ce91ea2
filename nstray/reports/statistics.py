"""What rows add up to, style by style: distributions, curves, ranks.

Losses of two styles are not comparable. So nothing here ranks across styles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nstray.output.histograms import VALUES, Bins, bins, merged_bins, row_values
from nstray.reports.report_data import Box, CurveBand, Distribution, Sampled
from nstray.reports.sampling import Row, Sample
from nstray.reports.survey import Survey, Window

UNITS = {"ratio": "ratio", "seconds": "s", "loss_content": "loss", "loss_style": "loss"}
POINTS = 64  # of a curve
CURVES = 3  # single ones of a style
UNMOVED = 0.9  # a loss that ends above this share of its start hardly moved
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def style_names(keys: Sequence[str]) -> dict[str, str]:
    """A name for each style key: the last segments of its URIs, as many as tell it from others."""
    names: dict[str, str] = {}
    for length in range(1, 5):
        left = [key for key in keys if key not in names]
        tried = {key: _name(key, length) for key in left}
        taken = [*names.values(), *tried.values()]
        names |= {key: name for key, name in tried.items() if taken.count(name) == 1}
        if len(names) == len(keys):
            return names
    return names | {key: key.replace("\n", " + ") for key in keys if key not in names}


def _name(key: str, length: int) -> str:
    if not key:
        return "no style"
    return " + ".join("/".join(uri.rstrip("/").split("/")[-length:]) for uri in key.split("\n"))


class StyleValues:
    """The values of each style's pictures: exact, from indexes, or sampled.

    Windows whose index holds them are counted whole. Of the others the sampled rows are counted.
    If the sample has every row, no index is asked.

    Args:
        names: of styles, by key; others are left out.
    """

    def __init__(self, survey: Survey, sample: Sample, names: Mapping[str, str]) -> None:
        self._names = names
        closed = {w.number: w for w in survey.windows if has_style_values(w)}
        if sample.whole:
            closed = {}
        self._rows: dict[str, list[Row]] = {key: [] for key in names}
        for row in sample.rows:
            if row["status"] == "ok" and row["style"] in names and row["window"] not in closed:
                self._rows[row["style"]].append(row)
        self._bins: dict[str, dict[str, list[Bins]]] = {key: {} for key in names}
        self._ok: dict[str, int] = dict.fromkeys(names, 0)
        for window in closed.values():
            for key, of in _styles(window).items():
                if key in names:
                    self._ok[key] += of.ok
                    for name, each in of.values.items():
                        self._bins[key].setdefault(name, []).append(each)
        open_rows = sample.total - sum(window.rows_done for window in closed.values())
        read = sum(row["window"] not in closed for row in sample.rows)
        self._scale = open_rows / read if read else 0.0

    def of_style(self, key: str) -> int:
        """Number of a style's pictures; of windows that are sampled it is an estimate."""
        return self._ok[key] + round(len(self._rows[key]) * self._scale)

    @property
    def estimated(self) -> bool:
        """Whether `of_style` is an estimate."""
        return self._scale > 1.0

    def distributions(self) -> tuple[Distribution, ...]:
        """The distributions of `VALUES`, the styles with the most pictures first."""
        return tuple(
            Distribution(
                name,
                UNITS[name],
                tuple(
                    box
                    for key in sorted(self._names, key=lambda key: -self.of_style(key))
                    if (box := self._box(key, name)) is not None
                ),
            )
            for name in VALUES
        )

    def _box(self, key: str, name: str) -> Box | None:
        values = [v[name] for row in self._rows[key] if name in (v := row_values(row))]
        binned = self._bins[key].get(name, [])
        total = self.of_style(key)
        if not binned:
            if not values:
                return None
            of = Sampled(len(values), max(total, len(values)))
            ends = (min(values), max(values))
            return _box(self._names[key], of, np.quantile(values, _SHARES), ends)
        found = merged_bins([*binned, bins(values)])
        if not found.total:
            return None
        of = Sampled(found.total, max(total, found.total))
        shares = [found.quantile(share) for share in _SHARES]
        return _box(self._names[key], of, shares, (found.quantile(0.0), found.quantile(1.0)))


def _box(style: str, of: Sampled, shares: Iterable[float], ends: tuple[float, float]) -> Box:
    p10, p25, median, p75, p90 = map(float, shares)
    return Box(style, of, p10, p25, median, p75, p90, *ends)


def has_style_values(window: Window) -> bool:
    """Whether a window's index holds the values of each of its styles."""
    return all(of.values or not of.ok for of in _styles(window).values()) and bool(_styles(window))


def _styles(window: Window) -> Mapping[str, Any]:
    return (window.small.styles if window.small else None) or {}


def curve_of(row: Row) -> tuple[float, ...]:
    """A row's curve at `POINTS` evaluations at most, the first and the last among them."""
    curve = row["loss_curve"] or ()
    places = _places(len(curve))
    return tuple(float(curve[i]) for i in places if math.isfinite(curve[i]))


def _places(length: int) -> list[int]:
    if length <= POINTS:
        return list(range(length))
    return [round(i * (length - 1) / (POINTS - 1)) for i in range(POINTS)]


def curve_bands(
    rows: Sequence[Row], names: Mapping[str, str], values: StyleValues
) -> tuple[CurveBand, ...]:
    """The curves of sampled rows by style, each divided by its first value.

    A curve that ends before others keeps its last value: it is that of the best picture so far.
    """
    found = []
    for key, name in names.items():
        curves = [
            np.asarray(row["loss_curve"], float) / row["loss_curve"][0]
            for row in rows
            if row["style"] == key and row["status"] == "ok" and _sound(row["loss_curve"])
        ]
        if not curves:
            continue
        places = _places(max(map(len, curves)))
        table = np.array([curve[np.minimum(places, len(curve) - 1)] for curve in curves])
        low, middle, high = (_line(each) for each in np.quantile(table, (0.1, 0.5, 0.9), axis=0))
        of = Sampled(len(curves), max(len(curves), values.of_style(key)))
        samples = tuple(_line(each) for each in table[:CURVES])
        found.append(CurveBand(name, of, tuple(places), low, middle, high, samples))
    return tuple(found)


def _sound(curve: Sequence[float] | None) -> bool:
    return bool(curve) and all(map(math.isfinite, curve or ())) and bool(curve and curve[0] > 0)


def _line(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def ranked(rows: Sequence[Row], most: int) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """The worst and the best rows of each style, by their loss at the end, worst and best first.

    A style of fewer than two pictures has no ranks.
    """
    by_style: dict[str, list[Row]] = {}
    for row in rows:
        loss = row["loss_total"] if row["status"] == "ok" else None
        if loss is not None and math.isfinite(loss):
            by_style.setdefault(row["style"], []).append(row)
    worst, best = {}, {}
    for key, own in by_style.items():
        own.sort(key=lambda row: (row["loss_total"], row["pair_id"]))
        number = min(most, len(own) // 2)
        if number:
            worst[key], best[key] = own[::-1][:number], own[:number]
    return worst, best


def unmoved(rows: Sequence[Row], most: int) -> list[Row]:
    """Rows whose loss ends above `UNMOVED` of its start; those that moved least come first."""
    found = [
        (ratio, row)
        for row in rows
        if row["status"] == "ok"
        and (ratio := row_values(row).get("ratio")) is not None
        and ratio >= UNMOVED
    ]
    found.sort(key=lambda each: (-each[0], each[1]["pair_id"]))
    return [row for _, row in found[:most]]
