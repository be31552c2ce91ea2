"""What a pair takes by its settings alone: its size, its evaluations, the bytes of its picture. Arithmetic; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nstray.config import JobConfig
from nstray.engine import settings
from nstray.manifest import Manifest, ManifestInfo

# Bytes per pixel of a stylised picture, which is busier than a photograph: the mean of 15 pictures through the authors' layers
# (2.07, 0.89, 1.92) and the demo's six (2.51, 1.47, 2.45), at 256 px; tiff the demo's six (5.75 to 5.86 of at most 6). For an estimate only.
BYTES_PER_PIXEL = {"png": 2.3, "jpeg": 1.2, "webp": 2.2, "tiff": 5.8}


def evaluations(manifest: Manifest, info: ManifestInfo, config: JobConfig) -> int:
    """Of the whole job, coarse stages included; where the aspect is the image's own, those of 4:3."""
    names = [name for name in ("evaluations", "coarse", "size", "size_rule") if name in info.overrides]
    if not names:
        return info.rows * budget(config, {})
    total = 0
    for table in manifest.tables(info):
        for group in table.select(names).group_by(names).aggregate([([], "count_all")]).to_pylist():
            total += group.pop("count_all") * budget(config, {name: value for name, value in group.items() if value is not None})
    return total


def budget(config: JobConfig, own: Mapping[str, Any]) -> int:
    """Evaluations of a pair with settings of its own."""
    each: int = own.get("evaluations", config.evaluations)
    longest = round(max(shape(own.get("size", config.size), own.get("size_rule", config.size_rule))))
    return each + sum(n or each for _, n in settings.coarse_stages(own.get("coarse", config.coarse), longest))


def shape(size: int | str, size_rule: str) -> tuple[float, float]:
    """Width and height of an output picture, taking 4:3 where the aspect is the image's own."""
    sides = [float(side) for side in str(size).split("x")]
    if size_rule == "exact":
        return sides[0], sides[-1]
    width = sides[0] * {"longest": 1.0, "shortest": 4 / 3, "area": math.sqrt(4 / 3)}[size_rule]
    return width, width * 3 / 4


def pixels(config: JobConfig) -> float:
    """Pixels of an output picture."""
    width, height = shape(config.size, config.size_rule)
    return width * height
