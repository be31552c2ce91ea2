"""What a pair takes by its settings alone: its size, its evaluations, the bytes of its picture. Arithmetic; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa

from nstray.config import JobConfig
from nstray.engine import settings
from nstray.manifest.manifest import Manifest, ManifestInfo

# Bytes per pixel of a stylised picture, which is busier than a photograph: the mean of 15 pictures through the authors' layers
# (2.07, 0.89, 1.92) and the demo's six (2.51, 1.47, 2.45), at 256 px; tiff the demo's six (5.75 to 5.86 of at most 6). For an estimate only.
BYTES_PER_PIXEL = {"png": 2.3, "jpeg": 1.2, "webp": 2.2, "tiff": 5.8}


@dataclass(frozen=True)
class Kind:
    """The settings of a pair that decide its cost; a row may have its own."""

    evaluations: int
    coarse: str
    size: str
    size_rule: str

    @property
    def stages(self) -> list[tuple[float, int]]:
        """(pixels, evaluations) of every stage, the full size last; where the aspect is the image's own, those of 4:3."""
        width, height = shape(self.size, self.size_rule)
        longest = round(max(width, height))
        coarse = settings.coarse_stages(self.coarse, longest)
        return [(width * height * (side / longest) ** 2, n or self.evaluations) for side, n in coarse] + [(width * height, self.evaluations)]

    @property
    def budget(self) -> int:
        """Evaluations of a pair, over all stages."""
        return sum(n for _, n in self.stages)

    @property
    def work(self) -> float:
        """Evaluations x pixels of a pair, over all stages."""
        return sum(pixels * n for pixels, n in self.stages)

    @property
    def pixels(self) -> float:
        """Pixels of the picture."""
        return self.stages[-1][0]

    def shortened(self, evaluations: int) -> Kind:
        """The same with `evaluations` at full size, and in proportion, but at least one, in each stage that has a number of its own."""
        if ":" not in self.coarse:
            return replace(self, evaluations=evaluations)
        parts = [part.split(":") for part in self.coarse.split(",")]
        coarse = ",".join(f"{side}:{max(1, round(int(n) * evaluations / self.evaluations))}" for side, n in parts)
        return replace(self, evaluations=evaluations, coarse=coarse)


NAMES = tuple(field.name for field in fields(Kind))


def kind_of(config: JobConfig) -> Kind:
    """The kind of a pair without settings of its own."""
    return Kind(config.evaluations, config.coarse, str(config.size), config.size_rule)


def kinds(table: pa.Table, config: JobConfig) -> list[Kind]:
    """The kind of every row of a canonical table."""
    default = kind_of(config)
    own = [name for name in NAMES if name in table.column_names]
    if not own:
        return [default] * table.num_rows
    made: dict[tuple[Any, ...], Kind] = {}
    rows = list(zip(*(table[name].to_pylist() for name in own), strict=True))
    for row in rows:
        if row not in made:
            made[row] = _with(default, dict(zip(own, row, strict=True)))
    return [made[row] for row in rows]


def _with(default: Kind, own: Mapping[str, Any]) -> Kind:
    """The kind of a row with settings of its own; those that are None are the job's."""
    return replace(default, **{name: value for name, value in own.items() if value is not None})


def evaluations(manifest: Manifest, info: ManifestInfo, config: JobConfig) -> int:
    """Evaluations of the whole job, coarse stages included."""
    default = kind_of(config)
    own = [name for name in NAMES if name in info.overrides]
    if not own:
        return info.rows * default.budget
    total = 0
    for table in manifest.tables(info):
        for group in table.select(own).group_by(own).aggregate([([], "count_all")]).to_pylist():
            total += group.pop("count_all") * _with(default, group).budget
    return total


def shape(size: int | str, size_rule: str) -> tuple[float, float]:
    """Width and height of an output picture, taking 4:3 where the aspect is the image's own."""
    sides = [float(side) for side in str(size).split("x")]
    if size_rule == "exact":
        return sides[0], sides[-1]
    width = sides[0] * {"longest": 1.0, "shortest": 4 / 3, "area": math.sqrt(4 / 3)}[size_rule]
    return width, width * 3 / 4
