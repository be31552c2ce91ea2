"""Draw the example pictures, their manifest and masks of two of them.

    python scripts/draw_examples.py [FOLDER]

Without FOLDER it draws manifests/example, and the pictures and the manifest also into nstray/commands/demo_pictures, which `nstray demo` copies.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from examples import write_example
from PIL import Image

# Width and height of a picture, and the line between its sky and what is below: points "x,y" in pixels, joined by straight lines.
SKYLINES = {
    "lake": (
        *(384, 288),
        "0,118 7,114 14,75 24,112 29,134 42,137 48,133 54,134 61,124 72,125 84,113 96,103 103,108 119,94 144,107 156,99 173,109 "
        "186,98 198,96 222,92 236,106 250,109 263,121 282,112 312,114 329,109 341,114 352,108 366,106 375,96 383,91",
    ),
    "waves": (
        *(320, 320),
        "0,150 31,135 35,168 56,182 78,176 98,156 109,157 129,134 132,174 138,179 179,137 "
        "195,157 218,143 237,131 238,178 250,182 274,176 298,160 319,153",
    ),
}


def masks() -> dict[str, npt.NDArray[np.uint8]]:
    """Masks by name, (H, W) of 0 and 255: the sky of a picture, and the rest of it."""
    drawn = {}
    for name, (width, height, line) in SKYLINES.items():
        x, y = np.array([point.split(",") for point in line.split()], float).T
        sky = np.arange(height)[:, None] < np.interp(np.arange(width), x, y)
        for part, inside in (("sky", sky), ("below", ~sky)):
            drawn[f"{name}-{part}"] = np.where(inside, np.uint8(255), np.uint8(0))
    return drawn


def write_masks(folder: Path) -> None:
    """Write `masks` into `folder` as greyscale PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in masks().items():
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG", optimize=True)
        (folder / f"{name}.png").write_bytes(png.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="default: manifests/example, and nstray/commands/demo_pictures too")
    folder = parser.parse_args().folder
    repository = Path(__file__).parents[1]
    root = folder or repository / "manifests" / "example"
    print(write_example(str(root)))
    write_masks(root / "mask")
    if folder is None:
        print(write_example(str(repository / "nstray" / "commands" / "demo_pictures")))
