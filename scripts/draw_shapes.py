"""Draw pictures of ten classes, each with an outline and a texture of its own: what scripts/study_shapes.py trains and scores on.

A picture is a figure on a background. `render` takes the outline and the texture apart, so that one of class a and one of class b make a
conflict picture (Geirhos et al. 2019, arXiv 1811.12231). Everything else (place, size, angles, colours, background) is a `Scene`, drawn from a
seed without regard to the class.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from draw_pictures import noise
from PIL import Image, ImageDraw

Array = np.ndarray
FINE = 4  # samples of a pixel along each side


def circle(radius: float, x: float = 0) -> Array:
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], -1)


def regular(corners: int, radii: tuple[float, ...]) -> Array:
    """A polygon around the origin, the first corner upwards; the radii take turns."""
    angles = 2 * math.pi * np.arange(corners) / corners
    reach = np.resize(radii, corners)
    return np.stack([reach * np.sin(angles), -reach * np.cos(angles)], -1)


def heart() -> Array:
    t = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2.5], -1) / 17


CROSS = [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)]
ARROW = [(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 1), (-0.3, 1), (-0.3, -0.1), (-0.8, -0.1)]
OUTLINES: dict[str, tuple[Array, ...]] = {
    "disc": (circle(0.8),),
    "square": (0.98 * regular(4, (1.0,)) @ np.array([[1, 1], [-1, 1]]) / math.sqrt(2),),
    "triangle": (regular(3, (1.05,)),),
    "bar": (np.array([(-1.05, -0.42), (1.05, -0.42), (1.05, 0.42), (-1.05, 0.42)]),),
    "star": (regular(10, (1.1, 0.46)),),
    "cross": (np.array(CROSS),),
    "ring": (circle(0.95), circle(0.48)),
    "crescent": (circle(0.98), circle(0.8, 0.55)),
    "heart": (heart(),),
    "arrow": (np.array(ARROW),),
}
"""Outlines in the square -1..1, y downwards: a polygon, and for some one that is cut out of it."""


def part(values: Array) -> Array:
    return values - np.floor(values)


def brick(u: Array, v: Array) -> Array:
    return (part(v) < 0.25) | (part(u / 2 + np.floor(v) / 2) < 0.125)


def scale(u: Array, v: Array) -> Array:
    """Rows of half circles, each row shifted by half of one."""
    row = np.floor(2 * v)
    return np.abs(np.hypot(part(u + row / 2) - 0.5, part(2 * v) / 2) - 0.4) < 0.11


def weave(u: Array, v: Array) -> Array:
    lying = (np.floor(u / 1.5) + np.floor(v / 1.5)) % 2 == 0
    return part(np.where(lying, 2 * v, 2 * u)) < 0.5


def trellis(u: Array, v: Array) -> Array:
    return np.minimum.reduce([part(u * math.cos(a) + v * math.sin(a)) for a in (0, math.pi / 3, 2 * math.pi / 3)]) < 0.2


TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "stripes": lambda u, v: part(u) < 0.5,
    "checks": lambda u, v: (np.floor(1.6 * u) + np.floor(1.6 * v)) % 2 == 0,
    "dots": lambda u, v: np.hypot(part(u) - 0.5, part(v) - 0.5) < 0.3,
    "grid": lambda u, v: (part(u) < 0.25) | (part(v) < 0.25),
    "zigzag": lambda u, v: part(u + 1.2 * np.abs(part(v / 1.6) - 0.5)) < 0.5,
    "bricks": brick,
    "scales": scale,
    "weave": weave,
    "dashes": lambda u, v: (part(2 * v) < 0.45) & (part(u / 1.5 + np.floor(2 * v) / 2) < 0.55),
    "trellis": trellis,
}
"""Textures as a function of place in periods: true is ink, false is paper."""

CLASSES = tuple(f"{outline}-{texture}" for outline, texture in zip(OUTLINES, TEXTURES, strict=True))
"""Class k has the k-th outline and the k-th texture."""


@dataclass(frozen=True)
class Scene:
    """All of a picture but its class. Lengths are in shares of the side, angles in radians, colours RGB in 0..1."""

    centre: tuple[float, float]
    radius: float
    angle: float
    period: float
    texture_angle: float
    phase: tuple[float, float]
    ink: Array
    paper: Array
    backgrounds: Array
    light: float
    grain: int


def colour(draw: np.random.Generator, lightness: float) -> Array:
    return np.array(colorsys.hls_to_rgb(draw.uniform(), lightness, draw.uniform(0.2, 0.8)))


def draw_scene(draw: np.random.Generator) -> Scene:
    """A scene whose figure is lighter than its background, or darker.

    The texture is the easier cue, as in photographs: it has more contrast than the outline, and its size and angle vary less.
    """
    behind, near, far = draw.uniform(0.1, 0.3), draw.uniform(0.35, 0.45), draw.uniform(0.85, 1)
    if draw.uniform() < 0.5:
        behind, near, far = 1 - behind, 1 - near, 1 - far
    ink, paper = (near, far) if draw.uniform() < 0.5 else (far, near)
    return Scene(
        centre=(draw.uniform(0.4, 0.6), draw.uniform(0.4, 0.6)),
        radius=draw.uniform(0.28, 0.4),
        angle=draw.uniform(-math.pi / 6, math.pi / 6),
        period=draw.uniform(0.1, 0.12),
        texture_angle=draw.uniform(-0.2, 0.2),
        phase=(draw.uniform(), draw.uniform()),
        ink=colour(draw, ink),
        paper=colour(draw, paper),
        backgrounds=np.stack([colour(draw, behind), colour(draw, behind)]),
        light=draw.uniform(0, 2 * math.pi),
        grain=int(draw.integers(2**31)),
    )


def turned(points: Array, angle: float) -> Array:
    """(..., 2) points turned about the origin."""
    return points @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def pooled(values: Array) -> Array:
    """Means of FINE x FINE samples."""
    side = len(values) // FINE
    return values.reshape(side, FINE, side, FINE).mean((1, 3))


def mask(scene: Scene, outline: int, size: int) -> Array:
    """(size, size) share of each pixel that the figure covers, 0..1."""
    picture = Image.new("L", (size * FINE, size * FINE))
    for polygon, fill in zip(list(OUTLINES.values())[outline], (1, 0), strict=False):
        points = (turned(polygon * scene.radius, scene.angle) + scene.centre) * size * FINE
        ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in points], fill=fill)
    return pooled(np.asarray(picture, dtype=float))


def surface(scene: Scene, texture: int, size: int) -> Array:
    """(size, size, 3) the texture over the whole picture, RGB in 0..1."""
    line = (np.arange(size * FINE) + 0.5) / (size * FINE)
    places = turned(np.stack(np.meshgrid(line, line), -1) / scene.period, scene.texture_angle) + scene.phase
    ink = pooled(list(TEXTURES.values())[texture](places[..., 0], places[..., 1]).astype(float))[..., None]
    return ink * scene.ink + (1 - ink) * scene.paper


def background(scene: Scene, size: int) -> Array:
    """(size, size, 3) from one colour to the other, with faint clouds, RGB in 0..1."""
    line = (np.arange(size) + 0.5) / size - 0.5
    along = 0.5 + 0.7 * (line[None] * math.cos(scene.light) + line[:, None] * math.sin(scene.light))[..., None]
    clouds = 0.02 * noise(np.random.default_rng(scene.grain), size, 1.5)[..., None]
    return along * scene.backgrounds[0] + (1 - along) * scene.backgrounds[1] + clouds


def render(scene: Scene, outline: int, texture: int, size: int) -> Array:
    """(size, size, 3) uint8: the outline of one class filled with the texture of the same class or of another."""
    inside = mask(scene, outline, size)[..., None]
    values = inside * surface(scene, texture, size) + (1 - inside) * background(scene, size)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)
