"""Example pictures drawn from a seed: two contents and three styles in which style transfer shows, and their manifest.

Everything is drawn twice as large as it is returned and averaged down. Inside, coordinates are (y, x) and colours RGB in 0..255,
float32 until the end. All five take about 10 s on one core, together.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from examples.contents import lake, still_life
from examples.styles import mosaic, swirls, waves
from examples.tools import RNG, Array
from nstray.images.encode import encode

# painter, width, height
_PICTURES: dict[str, tuple[Callable[[RNG, int, int], Array], int, int]] = {
    "lake": (lake, 384, 288),
    "still_life": (still_life, 384, 288),
    "swirls": (swirls, 320, 320),
    "mosaic": (mosaic, 320, 320),
    "waves": (waves, 320, 320),
}
CONTENTS = ("lake", "still_life")
STYLES = ("swirls", "mosaic", "waves")
MANIFEST = "manifest.csv"
_JPEG_QUALITY = 90


def draw(name: str, seed: int = 0) -> npt.NDArray[np.uint8]:
    """The picture `name` (one of `CONTENTS` or `STYLES`) as (H, W, 3) uint8: contents 384 x 288, styles 320 x 320.

    The same seed gives the same pixels. Raises ValueError for another name.
    """
    if name not in _PICTURES:
        raise ValueError(f"no example picture {name!r}; there are {', '.join(_PICTURES)}")
    painter, width, height = _PICTURES[name]
    canvas = painter(np.random.default_rng([seed, list(_PICTURES).index(name)]), 2 * height, 2 * width)
    small: Array = canvas.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    return np.asarray(np.clip(small + 0.5, 0, 255), np.uint8)


def write_example(folder: str) -> str:
    """Draw all five pictures into `folder` (content/, style/) and a manifest of their six pairs; returns the manifest's path."""
    root = Path(folder)
    for kind, names in (("content", CONTENTS), ("style", STYLES)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / kind / f"{name}.jpg").write_bytes(encode(draw(name), "jpeg", _JPEG_QUALITY))
    manifest = root / MANIFEST
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pair_id", "content", "style", "split"])
        for i, content in enumerate(CONTENTS):
            split = "train" if i == 0 else "test"
            writer.writerows([f"{content}-{style}", f"content/{content}.jpg", f"style/{style}.jpg", split] for style in STYLES)
    return str(manifest)
