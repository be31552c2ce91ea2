"""What the painters of the example pictures share: grids, ramps, mixing, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # float32 throughout, where it is not a mask or an index
RNG = np.random.Generator


def grid(height: int, width: int) -> tuple[Array, Array]:
    """Row and column of every pixel, float32."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return y, x


def smooth(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high` (or the other way round where low > high), smoothstep between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array, b: Array | Sequence[float], share: Array) -> Array:
    """Colours a (..., 3) turned into b by share (...)."""
    return a + (np.asarray(b, np.float32) - a) * share[..., None]


def ramp(value: Array, stops: Sequence[tuple[float, tuple[int, int, int]]]) -> Array:
    """Colours (..., 3) of a scalar, linear between stops."""
    at = [s for s, _ in stops]
    return np.stack([np.interp(value, at, [c[i] for _, c in stops]) for i in range(3)], axis=-1).astype(np.float32)


def bilinear(field: Array, y: Array, x: Array) -> Array:
    """`field` at fractional positions, wrapped around."""
    y0, x0 = np.floor(y), np.floor(x)
    fy, fx = y - y0, x - x0
    h, w = field.shape
    a, b = y0.astype(np.int32) % h, x0.astype(np.int32) % w
    c, d = (a + 1) % h, (b + 1) % w
    top: Array = field[a, b] * (1 - fx) + field[a, d] * fx
    bottom: Array = field[c, b] * (1 - fx) + field[c, d] * fx
    blend: Array = top + (bottom - top) * fy
    return blend


class Noise:
    """Fractal value noise in about -1..1 at any position; one lattice, its octaves offset against each other."""

    def __init__(self, rng: RNG) -> None:
        self.lattice = rng.uniform(-1, 1, (128, 128)).astype(np.float32)

    def __call__(self, y: Array, x: Array, octaves: int = 4, ridged: bool = False) -> Array:
        total, norm = np.zeros(np.broadcast(y, x).shape, np.float32), 0.0
        for i in range(octaves):
            yy, xx = y * 2**i + 17.3 * i, x * 2**i + 31.7 * i
            # smoothstep inside each cell, so that slopes are continuous
            fy, fx = yy - np.floor(yy), xx - np.floor(xx)
            n = bilinear(
                self.lattice,
                np.floor(yy) + fy * fy * (3 - 2 * fy),
                np.floor(xx) + fx * fx * (3 - 2 * fx),
            )
            total += (1 - 2 * np.abs(n) if ridged else n) * 0.5**i
            norm += 0.5**i
        return total / np.float32(norm)
