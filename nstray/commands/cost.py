"""What a pair costs by its settings alone: its evaluations, its pixels, its picture's bytes.

This is arithmetic: nothing is measured here. Also the figures of a run beside a recorded forecast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeGuard

import pyarrow as pa

from nstray.config import JobConfig
from nstray.engine import settings
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo

# Bytes per pixel of a stylised picture, which has more detail than a photograph. For an estimate.
# png, jpeg and webp: the mean of 15 pictures through the authors' layers (2.07, 0.89, 1.92) and of
# the demo's six (2.51, 1.47, 2.45), at 256 px. tiff: the demo's six (5.75 to 5.86 of at most 6).
BYTES_PER_PIXEL = {"png": 2.3, "jpeg": 1.2, "webp": 2.2, "tiff": 5.8}


@dataclass(frozen=True)
class PairCost:
    """The settings that decide what a pair costs; a row may have its own."""

    evaluations: int
    coarse: str
    size: str
    size_rule: str

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


def cost_of(config: JobConfig) -> PairCost:
    """The cost of a pair without settings of its own."""
    return PairCost(config.evaluations, config.coarse, str(config.size), config.size_rule)


def picture_bytes(config: JobConfig) -> float:
    """About how many bytes the picture of a pair without settings of its own has."""
    return cost_of(config).pixels * BYTES_PER_PIXEL[config.image_format]


def row_costs(table: pa.Table, config: JobConfig) -> list[PairCost]:
    """The cost of every row of a canonical table."""
    default = cost_of(config)
    own = [name for name in COST_FIELDS if name in table.column_names]
    if not own:
        return [default] * table.num_rows
    costs: dict[tuple[Any, ...], PairCost] = {}
    rows = list(zip(*(table[name].to_pylist() for name in own), strict=True))
    for row in rows:
        if row not in costs:
            costs[row] = _with(default, dict(zip(own, row, strict=True)))
    return [costs[row] for row in rows]


def _with(default: PairCost, own: Mapping[str, Any]) -> PairCost:
    """The cost of a row with settings of its own; those that are None are the job's."""
    return replace(default, **{name: value for name, value in own.items() if value is not None})


def evaluations(manifest: Manifest, info: ManifestInfo, config: JobConfig) -> int:
    """Evaluations of the whole job, coarse stages included."""
    default = cost_of(config)
    own = [name for name in COST_FIELDS if name in info.overrides]
    if not own:
        return info.rows * default.budget
    total = 0
    for table in manifest.tables(info, carried=False):
        for group in table.select(own).group_by(own).aggregate([([], "count_all")]).to_pylist():
            total += group.pop("count_all") * _with(default, group).budget
    return total


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
