"""Draw pictures of many kinds from a seed, for training where photographs are few.

    python scripts/draw_pictures.py DIR [--number 300] [--size 384] [--seed 0]

Kinds, in turn: dead leaves (overlapping shapes whose sizes follow a power law, which have the
statistics of photographs: Lee, Mumford and Huang, IJCV 2001), brush strokes along a field, coloured
noise of 1/f^a, Julia sets, cells, waves, gradients, and lines of text. Writes JPEG of quality 92.
"""

from __future__ import annotations

import argparse
import colorsys
import math
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Array = np.ndarray
Draw = Callable[[np.random.Generator, int], Image.Image]


def palette(draw: np.random.Generator, number: int) -> list[tuple[int, int, int]]:
    """Colours around one to three hues, of any lightness."""
    hues = draw.uniform(0, 1, draw.integers(1, 4))
    found = []
    for _ in range(number):
        hue = (draw.choice(hues) + draw.normal(0, 0.04)) % 1
        red, green, blue = colorsys.hls_to_rgb(hue, draw.uniform(0.05, 0.95), draw.beta(1.5, 2))
        found.append((int(red * 255), int(green * 255), int(blue * 255)))
    return found


def noise(draw: np.random.Generator, size: int, exponent: float) -> Array:
    """(size, size) of spectrum 1/f^exponent, mean 0 and deviation 1."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    amplitude = np.maximum(np.hypot(fy, fx), 1 / size) ** -exponent
    spectrum = np.fft.rfft2(draw.standard_normal((size, size))) * amplitude
    made = np.fft.irfft2(spectrum, s=(size, size))
    return (made - made.mean()) / made.std()


def coloured(values: Array, draw: np.random.Generator, colours: int = 6) -> Image.Image:
    """(size, size) values as a picture: a colour scale through a palette."""
    low, high = values.min(), values.max()
    at = (values - low) / max(high - low, 1e-9) * (colours - 1)
    scale = np.array(palette(draw, colours), dtype=float)
    first = np.minimum(at.astype(int), colours - 2)
    share = (at - first)[..., None]
    picture = scale[first] * (1 - share) + scale[first + 1] * share
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def textured(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """The picture with light, grain and a little blur."""
    size = picture.size[0]
    values = np.asarray(picture, dtype=float)
    values = values * (1 + draw.uniform(0, 0.25) * noise(draw, size, 1.5)[..., None])
    values = values + draw.uniform(0, 14) * noise(draw, size, draw.uniform(0, 1))[..., None]
    made = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return made.filter(ImageFilter.GaussianBlur(float(draw.choice([0, 0, 0.5, 1]))))


def leaves(draw: np.random.Generator, size: int) -> Image.Image:
    picture = Image.new("RGB", (size, size))
    pen, colours = ImageDraw.Draw(picture), palette(draw, 24)
    for _ in range(int(draw.integers(300, 2500))):
        radius = 2 / (draw.uniform(2 / (size / 2.5), 1) + 1e-6)  # density 1/r^2
        x, y = draw.uniform(0, size, 2)
        colour = colours[draw.integers(len(colours))]
        kind = draw.integers(3)
        if kind == 0:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            corners = int(draw.integers(3, 8))
            angles = np.sort(draw.uniform(0, 2 * math.pi, corners))
            reach = radius * draw.uniform(0.5, 1.2, corners)
            pen.polygon(
                [(x + r * math.cos(a), y + r * math.sin(a)) for a, r in zip(angles, reach, strict=True)],
                fill=colour,
            )
    return textured(picture, draw)


def strokes(draw: np.random.Generator, size: int) -> Image.Image:
    colours = palette(draw, 16)
    picture = Image.new("RGB", (size, size), colours[0])
    pen = ImageDraw.Draw(picture)
    field = noise(draw, size, draw.uniform(1.5, 3)) * draw.uniform(0.3, 2)
    tone = noise(draw, size, 2)
    length, width = draw.uniform(6, 40), draw.uniform(1, 7)
    for _ in range(int(draw.integers(3000, 9000))):
        x, y = draw.integers(0, size, 2)
        angle = field[y, x] + draw.normal(0, 0.1)
        index = int((tone[y, x] + draw.normal(0, 0.5) + 2.5) / 5 * len(colours))
        red, green, blue = (int(v + draw.normal(0, 12)) for v in colours[min(max(index, 0), len(colours) - 1)])
        dx, dy = length * math.cos(angle) / 2, length * math.sin(angle) / 2
        pen.line((x - dx, y - dy, x + dx, y + dy), (red, green, blue), max(1, int(width)))
    return textured(picture, draw)


def clouds(draw: np.random.Generator, size: int) -> Image.Image:
    if draw.uniform() < 0.5:
        return coloured(noise(draw, size, draw.uniform(0.5, 2.2)), draw)
    common = noise(draw, size, draw.uniform(0.5, 2))
    planes = [common + draw.uniform(0.2, 1) * noise(draw, size, draw.uniform(0.5, 2)) for _ in "RGB"]
    values = 128 + 50 * np.stack(planes, -1)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def julia(draw: np.random.Generator, size: int) -> Image.Image:
    angle = draw.uniform(0, 2 * math.pi)
    c = 0.7885 * complex(math.cos(angle), math.sin(angle))
    reach = draw.uniform(0.3, 1.5)
    centre = draw.uniform(-0.5, 0.5, 2)
    line = np.linspace(-reach, reach, size)
    z = (line[None] + centre[0]) + 1j * (line[:, None] + centre[1])
    steps = np.zeros((size, size))
    inside = np.ones((size, size), dtype=bool)
    for n in range(120):
        z[inside] = z[inside] ** 2 + c
        gone = inside & (np.abs(z) > 8)
        steps[gone] = n - np.log2(np.log(np.abs(z[gone])))
        inside &= ~gone
    return coloured(np.sqrt(np.maximum(steps, 0)), draw, int(draw.integers(4, 12)))


def cells(draw: np.random.Generator, size: int) -> Image.Image:
    number = int(draw.integers(12, 250))
    points = draw.uniform(0, size, (number, 2))
    yy, xx = np.mgrid[:size, :size]
    nearest = np.full((size, size), np.inf)
    second, which = nearest.copy(), np.zeros((size, size), dtype=int)
    for i, (x, y) in enumerate(points):
        distance = np.hypot(xx - x, yy - y)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest, which = np.where(closer, distance, nearest), np.where(closer, i, which)
    if draw.uniform() < 0.4:
        return textured(coloured(nearest, draw), draw)
    picture = np.array(palette(draw, number), dtype=np.uint8)[which]
    picture[second - nearest < draw.uniform(0, 4)] = 0
    return textured(Image.fromarray(picture), draw)


def waves(draw: np.random.Generator, size: int) -> Image.Image:
    yy, xx = np.mgrid[:size, :size] / size
    total = np.zeros((size, size))
    bend = noise(draw, size, 2) * draw.uniform(0, 0.1)
    for _ in range(int(draw.integers(1, 4))):
        angle, frequency = draw.uniform(0, math.pi), 2 ** draw.uniform(1, 6)
        along = xx * math.cos(angle) + yy * math.sin(angle) + bend
        wave = np.sin(2 * math.pi * frequency * along)
        total += np.sign(wave) if draw.uniform() < 0.4 else wave
    return textured(coloured(total, draw, int(draw.integers(2, 6))), draw)


def gradients(draw: np.random.Generator, size: int) -> Image.Image:
    yy, xx = np.mgrid[:size, :size] / size
    if draw.uniform() < 0.5:
        x, y = draw.uniform(0, 1, 2)
        values = np.hypot(xx - x, yy - y)
    else:
        angle = draw.uniform(0, 2 * math.pi)
        values = xx * math.cos(angle) + yy * math.sin(angle)
    steps = int(draw.integers(2, 8))
    if draw.uniform() < 0.3:
        values = np.floor(values * 8) / 8
    return coloured(values, draw, steps)


def text(draw: np.random.Generator, size: int) -> Image.Image:
    paper, *inks = palette(draw, 5)
    picture = Image.new("RGB", (size, size), paper)
    pen = ImageDraw.Draw(picture)
    letters = list(string.ascii_letters + string.digits + " .,;!?&%")
    y = 0.0
    while y < size:
        height = draw.uniform(8, 60)
        words = "".join(draw.choice(letters, 60))
        pen.text((-draw.uniform(0, 40), y), words, inks[draw.integers(4)], ImageFont.load_default(height))
        y += height * draw.uniform(0.8, 1.4)
    return textured(picture.rotate(float(draw.normal(0, 15)), fillcolor=paper), draw)


KINDS: dict[str, Draw] = {
    "leaves": leaves,
    "strokes": strokes,
    "clouds": clouds,
    "julia": julia,
    "leaves2": leaves,
    "cells": cells,
    "waves": waves,
    "gradients": gradients,
    "text": text,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--size", type=int, default=384, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kinds = list(KINDS.items())
    for i in range(arguments.number):
        name, draw = kinds[i % len(kinds)]
        picture = draw(np.random.default_rng([arguments.seed, i]), arguments.size)
        picture.save(arguments.folder / f"{i:04d}-{name}.jpg", quality=92)


if __name__ == "__main__":
    main()
