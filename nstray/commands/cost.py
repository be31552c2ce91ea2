"""What a pair costs by its settings alone: its evaluations, its pixels, its picture's bytes.

This is arithmetic: nothing is measured here. Also the figures of a run beside a recorded forecast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeGuard

import pyarrow as pa

from nstray.config import ORIGINAL, JobConfig
from nstray.engine import settings
from nstray.images.resize import target_shape
from nstray.manifest.column_names import HINTS
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo

# Bytes per pixel of a stylised picture, which has more detail than a photograph. For an estimate.
# png, jpeg and webp: the mean of 15 pictures through the authors' layers (2.07, 0.89, 1.92) and of
# the demo's six (2.51, 1.47, 2.45), at 256 px. tiff: the demo's six (5.75 to 5.86 of at most 6).
BYTES_PER_PIXEL = {"png": 2.3, "jpeg": 1.2, "webp": 2.2, "tiff": 5.8}
_ROUNDING = 16  # pixels


@dataclass(frozen=True)
class PairCost:
    """The settings that decide what a pair costs; a row may have its own."""

    evaluations: int
    coarse: str
    size: str
    size_rule: str

    def at(self, width: int | None, height: int | None, config: JobConfig) -> PairCost:
        """The same cost for a content of width x height, if the manifest gives them.

        A picture that is smaller than its size keeps its own, and one of size original does too.
        The picture's side, as of a square, is rounded to `_ROUNDING`, so that there are few costs.
        """
        original = self.size == ORIGINAL
        size, upsample = str(config.max_side) if original else self.size, config.upsample
        if width is None or height is None or self.size_rule == "exact":
            return replace(self, size=size)
        shape = target_shape(width, height, size, self.size_rule, upsample and not original)
        if not original and shape == target_shape(width, height, size, self.size_rule, True):
            return self
        side = math.sqrt(shape[0] * shape[1])
        rounded = max(1, round(side / _ROUNDING)) * _ROUNDING
        return replace(self, size=str(rounded), size_rule="area")

    @property
    def stages(self) -> list[tuple[float, int]]:
        """(pixels, evaluations) of every stage, the full size last.

        If the picture has its image's own aspect, 4:3 is assumed.
        """
        width, height = shape(self.size, self.size_rule)
        longest = round(max(width, height))
        coarse = settings.coarse_stages(self.coarse, longest)
        return [
            (width * height * (side / longest) ** 2, n or self.evaluations) for side, n in coarse
        ] + [(width * height, self.evaluations)]

    @property
    def budget(self) -> int:
        """Evaluations over all stages."""
        return sum(n for _, n in self.stages)

    @property
    def work(self) -> float:
        """Evaluations x pixels over all stages."""
        return sum(pixels * n for pixels, n in self.stages)

    @property
    def pixels(self) -> float:
        """Pixels of the picture."""
        return self.stages[-1][0]

    def shortened(self, evaluations: int) -> PairCost:
        """The same cost with `evaluations` at full size.

        Each stage that has a number of its own gets fewer in proportion, but at least one.
        """
        if ":" not in self.coarse:
            return replace(self, evaluations=evaluations)
        parts = [part.split(":") for part in self.coarse.split(",")]
        coarse = ",".join(
            f"{side}:{max(1, round(int(n) * evaluations / self.evaluations))}" for side, n in parts
        )
        return replace(self, evaluations=evaluations, coarse=coarse)


COST_FIELDS = tuple(field.name for field in fields(PairCost))
_READ = (*COST_FIELDS, *HINTS)  # the columns that decide a row's cost


def cost_of(config: JobConfig) -> PairCost:
    """The cost of a pair without settings of its own."""
    size = config.max_side if config.size == ORIGINAL else config.size
    return PairCost(config.evaluations, config.coarse, str(size), config.size_rule)


def row_costs(table: pa.Table, config: JobConfig) -> list[PairCost]:
    """The cost of every row of a canonical table."""
    costs = _Costs(config)
    own = [name for name in _READ if name in table.column_names]
    if not own:
        return [costs.of({})] * table.num_rows
    found: dict[tuple[Any, ...], PairCost] = {}
    rows = list(zip(*(table[name].to_pylist() for name in own), strict=True))
    for row in rows:
        if row not in found:
            found[row] = costs.of(dict(zip(own, row, strict=True)))
    return [found[row] for row in rows]


class _Costs:
    """The costs of rows by their own settings and their contents' sizes; None is not given."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._default = replace(cost_of(config), size=str(config.size))

    def of(self, own: Mapping[str, Any]) -> PairCost:
        """The cost of a row with these values of the columns `_READ`."""
        given = {name: own[name] for name in COST_FIELDS if own.get(name) is not None}
        cost = replace(self._default, **given)
        return cost.at(own.get("width"), own.get("height"), self._config)


@dataclass(frozen=True)
class Total:
    """What a job's rows add up to: evaluations, coarse stages included, and pictures' pixels."""

    evaluations: int
    pixels: float


class JobCost:
    """What a whole job costs. The manifest is read at most once, and only for what needs it.

    Each property raises what `Manifest.tables` raises.
    """

    def __init__(self, manifest: Manifest, info: ManifestInfo, config: JobConfig) -> None:
        self._manifest, self._info, self._config = manifest, info, config
        self._costs = _Costs(config)
        self._own = [name for name in _READ if name in info.schema.names]

    @cached_property
    def total(self) -> Total:
        """The sum over all rows; reads the manifest if its rows may cost differently."""
        if not self._own:
            each = self._costs.of({})
            return Total(self._info.rows * each.budget, self._info.rows * each.pixels)
        evaluations, pixels = 0, 0.0
        for table in self._manifest.tables(self._info, carried=False):
            counted = table.select(self._own).group_by(self._own).aggregate([([], "count_all")])
            for group in counted.to_pylist():
                rows, each = group.pop("count_all"), self._costs.of(group)
                evaluations += rows * each.budget
                pixels += rows * each.pixels
        return Total(evaluations, pixels)

    @property
    def evaluations(self) -> int:
        """Those of `total`; reads the manifest if its rows may have different numbers of them."""
        own = {*self._own}
        if not settings.same_stages_at_any_size(self._config.coarse):
            differ = bool(own)
        else:
            differ = not own.isdisjoint(("evaluations", "coarse"))
        return self.total.evaluations if differ else self._info.rows * self._costs.of({}).budget

    @property
    def most_pixels(self) -> float:
        """A bound of each picture's pixels that the settings give, infinite if rows may pass it.

        Rows may if they set sizes of their own, and under size_rule shortest if the manifest gives
        their contents' sides: those of a small content may have any proportion.
        """
        default = cost_of(self._config)
        passed = ("size", "size_rule", *(HINTS if default.size_rule == "shortest" else ()))
        if not {*self._own}.isdisjoint(passed):
            return math.inf
        # A square is the largest picture of a longest side. `PairCost.at` rounds its side.
        return (max(shape(default.size, default.size_rule)) + _ROUNDING) ** 2

    def row_bytes(self, rows: int, enough: float) -> float:
        """Bytes of a row's picture: a bound of all rows' if that is at most `enough`, or the mean.

        The mean over `rows` may read the manifest.
        """
        each = BYTES_PER_PIXEL[self._config.image_format]
        if self.most_pixels * each <= enough:
            return self.most_pixels * each
        return self.total.pixels / rows * each


def shape(size: int | str, size_rule: str) -> tuple[float, float]:
    """Width and height of an output picture; 4:3 is assumed if the aspect is the image's own."""
    sides = [float(side) for side in str(size).split("x")]
    if size_rule == "exact":
        return sides[0], sides[-1]
    width = sides[0] * {"longest": 1.0, "shortest": 4 / 3, "area": math.sqrt(4 / 3)}[size_rule]
    return width, width * 3 / 4


# The figures of a forecast (`nstray.commands.forecast`), and their names in a run's summary.
COMPARED = {
    "devices": "last_run_devices",
    "device_hours": "last_run_device_hours",
    "wall_seconds": "last_run_seconds",
    "bytes": "last_run_bytes",
    "evaluations_per_s": "last_run_evaluations_per_s",
}


def recorded_forecast(
    recorded: Mapping[str, Any] | None, fingerprint: str, summary: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The forecast that ``plan --probe --record`` wrote for the run of `summary`.

    None if the record is of another job, of other rows to do (because another run came between),
    or of other numbers of devices.
    """
    record = recorded or {}
    if record.get("fingerprint") != fingerprint or record.get("rows") != summary["last_run_rows"]:
        return None
    forecasts = record.get("forecasts")
    if not isinstance(forecasts, list):
        return None
    for forecast in forecasts:
        if isinstance(forecast, dict) and forecast.get("devices") == summary["last_run_devices"]:
            return forecast
    return None


def cost_fields(summary: Mapping[str, Any]) -> dict[str, str]:
    """The fields of the log's ``event=cost``."""
    told = cost_summary(summary)
    words = [(name, value) for name, value in told["last_run"].items()]
    words += [
        (f"estimated_{name}", value)
        for name, value in told["estimate"].items()
        if name != "devices"
    ]
    return {name: f"{value}" if type(value) is int else f"{value:.4g}" for name, value in words}


def cost_summary(summary: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """``last_run`` and ``estimate`` of a summary, by the names of a forecast.

    Takes numbers only: another person's file may hold anything.
    """
    found = summary or {}
    estimate = found.get("estimate")
    return {
        "last_run": {name: n for name, key in COMPARED.items() if _is_number(n := found.get(key))},
        "estimate": {
            name: n
            for name in COMPARED
            if isinstance(estimate, dict) and _is_number(n := estimate.get(name))
        },
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return (type(value) is int and abs(value) < 2**63) or (
        type(value) is float and math.isfinite(value)
    )
