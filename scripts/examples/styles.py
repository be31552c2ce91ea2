"""The three styles: strokes along a whirling field, a mosaic, a woodblock print."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from examples.tools import RNG, Array, Noise, grid, mix, ramp, smooth


def _paint(
    canvas: Array,
    relief: Array,
    rng: RNG,
    count: int,
    length: int,
    breadth: int,
    along: Array,
    shade: Callable[[Array, Array], Array],
) -> None:
    """Brush strokes that follow a direction field, painted one over the other into `canvas` and the paint's `relief`.

    Args:
        along: (2, H, W), unit vectors (y, x).
        shade: colours (n, 3) of strokes from their starting points y, x.
    """
    height, width = relief.shape
    y, x = (
        rng.uniform(0, height, count).astype(np.float32),
        rng.uniform(-0.6 * length, width, count).astype(np.float32),
    )
    colour = shade(y, x)
    length_of = length * rng.uniform(0.6, 1.2, count).astype(np.float32)
    path, heading = (
        np.empty((length, 2, count), np.float32),
        np.empty((length, 2, count), np.float32),
    )
    for t in range(length):
        heading[t] = along[:, np.clip(y, 0, height - 1).astype(np.int32), np.clip(x, 0, width - 1).astype(np.int32)]
        y, x = y + heading[t, 0] * length_of / length, x + heading[t, 1] * length_of / length
        path[t] = y, x
    across = np.linspace(-1, 1, 2 * breadth, dtype=np.float32)
    hairs = rng.normal(0, 1, (count, across.size + 4)).astype(np.float32)
    hairs = (hairs[:, :-4] + 2 * hairs[:, 1:-3] + 3 * hairs[:, 2:-2] + 2 * hairs[:, 3:-1] + hairs[:, 4:]) / 4.4
    s = np.linspace(0, 1, length, dtype=np.float32)
    taper = np.sqrt(np.clip(np.minimum(s * 9, (1 - s) * 5), 0, 1))
    # (count, length, across): in stroke order, so that the later stroke of two stays on top
    offset = across[None, None] * (breadth / 2 * taper)[None, :, None]
    yy = (path[:, 0].T[:, :, None] - heading[:, 1].T[:, :, None] * offset).astype(np.int32)
    xx = (path[:, 1].T[:, :, None] + heading[:, 0].T[:, :, None] * offset).astype(np.int32)
    inside = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width) & (hairs[:, None] > -2.3 + 1.6 * s[None, :, None])
    at = (yy * width + xx)[inside]
    paint = colour[:, None] * (1 + 0.085 * hairs[:, :, None])
    stroke, _, hair = np.nonzero(inside)
    top = np.full(height * width, -1, np.int64)
    np.maximum.at(top, at, np.arange(at.size))
    hit = top >= 0
    canvas.reshape(-1, 3)[hit] = paint[stroke[top[hit]], hair[top[hit]]]
    relief.reshape(-1)[hit] = (np.sqrt(1 - 0.9 * across[hair[top[hit]]] ** 2) + 0.32 * hairs[stroke[top[hit]], hair[top[hit]]]).astype(np.float32)


def swirls(rng: RNG, height: int, width: int) -> Array:
    """A night of whirling lights over hills in thick strokes: ultramarine, cobalt, cream and yellow."""
    noise = Noise(rng)
    y, x = grid(height, width)
    y, x = y / height, x / width
    # (y, x, reach, turn) of each light
    lights = (
        (0.27, 0.66, 0.19, 1.0),
        (0.20, 0.17, 0.11, -1.0),
        (0.55, 0.36, 0.135, 1.0),
        (0.52, 0.88, 0.085, -1.0),
        (0.06, 0.42, 0.07, 1.0),
        (0.44, 0.06, 0.07, 1.0),
    )
    flow_y, flow_x = (
        0.55 * np.sin(x * 7 + 3 * y) + 0.5 * noise(y * 2, x * 2, 2),
        np.full_like(y, 1.0),
    )
    glow, rings = np.zeros_like(y), np.zeros_like(y)
    for ly, lx, reach, turn in lights:
        dy, dx = y - ly, x - lx
        r = np.hypot(dy, dx) + 1e-4
        pull = 4.5 * np.exp(-((r / (1.5 * reach)) ** 2))
        flow_y += pull * (turn * dx + 0.22 * dy) / r
        flow_x += pull * (-turn * dy + 0.22 * dx) / r
        glow = np.maximum(glow, np.exp(-((r / (0.62 * reach)) ** 2)) + 0.42 * np.exp(-((r / (1.55 * reach)) ** 2)))
        rings += np.cos(r / reach * 9 - 1) * np.exp(-((r / (1.6 * reach)) ** 2))
    hills = smooth(-0.012, 0.012, y - 0.80 - 0.055 * np.sin(x * 5 + 0.5) - 0.03 * np.sin(x * 13))
    flow_y, flow_x = (
        flow_y + (0.5 * np.cos(x * 8 + 0.5 + y * 22) - flow_y) * hills,
        flow_x + (1 - flow_x) * hills,
    )
    along = np.stack([flow_y, flow_x]) / np.hypot(flow_y, flow_x)
    tone = (
        0.24 + 0.17 * noise(y * 3 + 5, x * 3, 3) + 0.12 * np.sin(y * 34 + 5 * np.sin(x * 5)) * (1 - np.minimum(glow, 1)) + 0.62 * glow + 0.13 * rings
    )
    night = (
        (0, (14, 22, 62)),
        (0.2, (28, 52, 132)),
        (0.38, (46, 96, 178)),
        (0.52, (120, 172, 206)),
        (0.66, (206, 220, 190)),
        (0.82, (246, 220, 112)),
        (1.05, (250, 178, 36)),
    )
    earth = (
        (0, (10, 24, 44)),
        (0.3, (22, 58, 74)),
        (0.5, (44, 98, 88)),
        (0.75, (120, 140, 72)),
        (1, (206, 184, 84)),
    )
    furrow = 0.42 + 0.40 * noise(y * 7, x * 4 + y * 9, 3) + 0.16 * np.sin((y - 0.05 * np.sin(x * 5 + 0.5)) * 75)

    def shade(sy: Array, sx: Array) -> Array:
        at = sy.astype(np.int32), np.maximum(sx, 0).astype(np.int32)
        jitter = rng.normal(0, 0.085, sy.size).astype(np.float32)
        out = mix(ramp(tone[at] + jitter, night), ramp(furrow[at] + jitter, earth), hills[at])
        odd = rng.random(sy.size) < 0.07  # a stroke of another colour here and there
        out[odd] = 0.45 * out[odd] + 0.55 * np.array([70, 150, 150], np.float32)
        return out * rng.uniform(0.93, 1.06, (sy.size, 1)).astype(np.float32)

    canvas, relief = (
        mix(ramp(tone - 0.08, night), ramp(furrow, earth), hills),
        np.zeros((height, width), np.float32),
    )
    for count, length, breadth in ((1500, 92, 20), (2600, 74, 13), (1800, 50, 8)):
        _paint(canvas, relief, rng, count, length, breadth, along, shade)
    return _lit_paint(canvas, relief, 26)


def _lit_paint(canvas: Array, relief: Array, strength: float) -> Array:
    """Thick paint under light from the upper left."""
    soft = (relief + np.roll(relief, 1, 0) + np.roll(relief, 1, 1) + np.roll(relief, (1, 1), (0, 1))) / 4
    slope = np.gradient(soft, axis=0) + np.gradient(soft, axis=1)
    return canvas + (strength * np.clip(slope, -0.9, 1.1))[..., None] * np.array([1.0, 1.0, 0.9], np.float32)


def mosaic(rng: RNG, height: int, width: int) -> Array:
    """A rosette of glass tesserae laid in rings, with dark joints: crimson, vermilion, gold, ivory, and some teal."""
    noise = Noise(rng)
    cy, cx, pitch = 0.53 * height, 0.46 * width, 0.0275 * height
    rings = [(0.0, 0.0)]
    for k in range(1, int(0.80 * height / pitch)):
        n = max(5, int(2 * np.pi * k * 0.92))
        turn = rng.uniform(0, 1) + np.arange(n) + rng.normal(0, 0.08, n)
        rings += [(k * pitch * (1 + 0.10 / k * d), a / n * 2 * np.pi) for a, d in zip(turn, rng.normal(0, 1, n), strict=True)]
    laid, angle = np.array(rings, np.float32).T
    # Ring by ring a little wavy, as a hand lays them.
    radius = laid * (1 + 0.035 * np.sin(6 * angle + laid / (0.12 * height)))
    site_y, site_x = cy + radius * np.sin(angle), cx + radius * np.cos(angle)
    near, second, owner = (
        np.empty((height, width), np.float32),
        np.empty((height, width), np.float32),
        np.empty((height, width), np.int64),
    )
    block = 40
    for y0 in range(0, height, block):
        for x0 in range(0, width, block):
            reach = block / 2 + 2.6 * pitch
            close = np.flatnonzero((np.abs(site_y - y0 - block / 2) < reach) & (np.abs(site_x - x0 - block / 2) < reach))
            y, x = grid(block, block)
            d = np.hypot(y[..., None] + y0 - site_y[close], x[..., None] + x0 - site_x[close])
            order = np.argpartition(d, 1, axis=2)[..., :2]
            two = np.take_along_axis(d, order, 2)
            here = np.s_[y0 : y0 + block, x0 : x0 + block]
            near[here], second[here] = two[..., 0], two[..., 1]
            owner[here] = close[order[..., 0]]
    # The design, asked once per tessera.
    r, a = radius / height, angle
    petal = np.abs(np.sin(6 * a))
    other = np.abs(np.cos(6 * a))
    gold, ivory, red, orange, wine, teal = (
        np.array(c, np.float32)
        for c in (
            (232, 170, 44),
            (244, 226, 184),
            (190, 30, 34),
            (228, 92, 34),
            (92, 14, 34),
            (28, 104, 108),
        )
    )
    tile = np.broadcast_to(wine, (r.size, 3)).copy()
    for inside, paint in (
        (r < 0.62 + 0.04 * other, red),
        (np.abs(r - 0.60 - 0.05 * other) < 0.022, gold),
        (r < 0.49, wine),
        (r < 0.30 + 0.17 * other**1.2, orange),
        (np.abs(r - 0.28 - 0.17 * other**1.2) < 0.022, ivory),
        ((np.abs(r - 0.43) < 0.022) & (petal > 0.86), teal),
        (r < 0.13 + 0.18 * petal**1.1, red),
        (np.abs(r - 0.115 - 0.18 * petal**1.1) < 0.019, gold),
        (r < 0.125, teal),
        (r < 0.092, ivory),
        (r < 0.065, gold),
        (r < 0.03, red),
    ):
        tile[inside] = paint
    corner = r > 0.67
    tile[corner] = np.where((np.sin(24 * a[corner] + r[corner] * 30) > 0.2)[:, None], orange, wine)
    tile *= rng.normal(1, 0.13, (r.size, 1)).astype(np.float32)
    tile += rng.normal(0, 9, tile.shape).astype(np.float32)
    # Each piece tilts its own way, is brighter at one edge, and has its own streaks.
    y, x = grid(height, width)
    tilt = rng.normal(0, 1, (r.size, 2)).astype(np.float32)
    dy, dx = (y - site_y[owner]) / pitch, (x - site_x[owner]) / pitch
    glint = 1 + 0.20 * (tilt[owner, 0] * dy + tilt[owner, 1] * dx) - 0.16 * (dy + dx) + 0.10 * noise(y * 0.05, x * 0.05, 3)
    edge = second - near
    canvas: Array = tile[owner] * glint[..., None]
    canvas *= (1 - 0.35 * smooth(0.36 * pitch, 0.12 * pitch, edge))[..., None]
    canvas += 46 * (smooth(0.55, 0.1, np.hypot(dy + 0.22, dx + 0.22)) ** 2)[..., None]
    joint = ramp(noise(y * 0.12, x * 0.12, 3), [(-0.6, (20, 12, 12)), (0.6, (48, 34, 28))])
    return mix(
        canvas,
        joint,
        smooth(0.15 * pitch, 0.07 * pitch, edge + 0.04 * pitch * noise(y * 0.06, x * 0.06, 2)),
    )


_CREAM, _PRUSSIAN, _BLUE, _PALE = (np.array(c, np.float32) for c in ((238, 226, 196), (20, 42, 84), (52, 98, 148), (150, 182, 190)))


def _wave_row(
    canvas: Array,
    noise: Noise,
    v: Array,
    u: Array,
    k: int,
    shape: tuple[float, float, float, float, float],
) -> Array:
    """One row of breaking waves, the k-th from the back, printed over `canvas`; v, u in heights and widths of the picture."""
    base, tall, long, phase, lean = shape
    pixel = float(u[0, 1] - u[0, 0])
    h = (base - v) / tall
    wobble = 0.02 * noise(v * 6, u * 6 + k, 3)
    bent = (u + wobble) / long - phase - lean * np.maximum(h, 0) ** 2.2 * (1 + 0.35 * np.maximum(h, 0))
    crest = np.floor(bent + 0.5)
    across = bent - crest
    size = 0.86 + 0.14 * np.cos(crest * 2.4 + k)
    top = size * (1.04 * np.exp(-np.abs(across) * 4.2) + 0.10 * np.cos(across * 2 * np.pi))
    claw = np.abs(np.sin(across * 52 + 5 * h + 0.8 * noise(v * 9, u * 9, 2)))
    foamy = smooth(0.34, 0.05, np.abs(across - 0.02)) * smooth(0.05, 0.45, h)
    top = top + 0.085 * foamy * (claw - 0.5)
    depth = (top - h) * tall  # below the crest line, in heights of the picture
    body = smooth(-pixel, pixel, depth)
    lines = (across + 0.10 * depth / tall) * long * 34 + 1.1 * noise(v * 3, u * 3 + k, 2)
    saw = np.abs(lines - np.floor(lines) - 0.5) * 2
    swell = 0.50 + 0.34 * np.sin(across * 9 + k) + 0.25 * h
    sea = np.where(
        (saw < np.clip(swell, 0.15, 0.85))[..., None],
        _PRUSSIAN,
        np.where((saw < np.clip(swell, 0.15, 0.85) + 0.2)[..., None], _BLUE, _PALE),
    )
    contour = np.abs((depth / tall * 7) % 1 - 0.5)
    sea = np.where(((h < 0.12) & (contour < 0.16))[..., None], _PALE, sea)
    foam = (0.030 + 0.085 * foamy * (0.55 + 0.45 * np.abs(np.sin(across * 31 + 9 * h))) + 0.012 * noise(v * 14, u * 14, 2)) * (0.45 + tall * 1.3)
    sea = mix(sea, _CREAM * 1.03, smooth(pixel, -pixel, depth - foam))
    sea = mix(sea, _PRUSSIAN, smooth(2.4 * pixel, 1.2 * pixel, np.abs(depth - foam)))
    curls = np.abs(np.hypot((across * long * 30) % 1 - 0.5, (depth * 30) % 1 - 0.5) - 0.33)
    sea = mix(
        sea,
        _BLUE,
        0.8 * smooth(0.09, 0.04, curls) * smooth(pixel, -pixel, depth - foam * 0.8) * (foamy > 0.2),
    )
    canvas = canvas + (sea - canvas) * body[..., None]
    return mix(canvas, _PRUSSIAN, smooth(2.6 * pixel, 1.3 * pixel, np.abs(depth)))


def waves(rng: RNG, height: int, width: int) -> Array:
    """A woodblock print: breaking waves in Prussian blue, foam with claws, a snowy cone and a low sun on cream paper."""
    noise = Noise(rng)
    y, x = grid(height, width)
    v, u = y / height, x / width
    pixel = 1 / height
    canvas = ramp(
        v + 0.02 * noise(v * 3, u * 3, 2),
        [
            (0, (96, 116, 136)),
            (0.12, (176, 180, 168)),
            (0.30, (238, 222, 188)),
            (1, (238, 226, 196)),
        ],
    )
    canvas = mix(canvas, (204, 84, 56), smooth(0.094, 0.090, np.hypot(v - 0.23, u - 0.20)))
    drift = noise(v * 16, u * 2.2 + 4, 3)  # long clouds
    canvas = mix(canvas, (250, 240, 216), smooth(0.26, 0.30, drift) * smooth(0.44, 0.36, v))
    canvas = mix(
        canvas,
        _PRUSSIAN,
        0.5 * smooth(2.5 * pixel, pixel, np.abs(drift - 0.27) / 16) * smooth(0.44, 0.36, v),
    )
    slope = np.abs(u - 0.56) ** 0.88 * 0.74 + 0.43
    cone = v - slope - 0.006 * noise(v * 0, u * 20, 2)
    canvas = mix(
        canvas,
        mix(np.broadcast_to(_BLUE, canvas.shape), _PRUSSIAN, smooth(0.42, 0.60, v)),
        smooth(-pixel, pixel, cone),
    )
    snow = smooth(-pixel, pixel, 0.475 + 0.030 * np.abs(np.sin(u * 75)) + 0.02 * noise(v * 0, u * 25, 2) - v)
    canvas = mix(canvas, (246, 240, 222), smooth(-pixel, pixel, cone - 0.004) * snow)
    # (baseline, amplitude, wavelength, phase, lean), from the back to the front
    rows = (
        (0.57, 0.09, 0.30, 0.10, 0.16),
        (0.70, 0.27, 0.62, 0.93, 0.17),
        (0.82, 0.15, 0.40, 0.30, 0.16),
        (1.00, 0.68, 1.30, 0.16, 0.16),
        (1.03, 0.20, 0.50, 0.85, 0.15),
    )
    for k, (base, tall, long, phase, lean) in enumerate(rows):
        rows_of = np.s_[max(0, int((base - 1.35 * tall) * height)) :]  # nothing of this row stands higher
        canvas[rows_of] = _wave_row(canvas[rows_of], noise, v[rows_of], u[rows_of], k, (base, tall, long, phase, lean))
        for _ in range(26 if tall > 0.2 else 8):  # spray thrown off the crests
            at = rng.integers(-1, 3)
            sy, sx = (
                base - tall * rng.uniform(0.75, 1.25),
                (at + phase + lean * 1.35 + rng.normal(0.02, 0.12)) * long,
            )
            r = rng.uniform(0.003, 0.008)
            top_left = [int(np.clip((c - r) * side, 2, side - 16)) for c, side in ((sy, height), (sx, width))]
            here = np.s_[top_left[0] - 2 : top_left[0] + 14, top_left[1] - 2 : top_left[1] + 14]
            dot = np.hypot(v[here] - sy, u[here] - sx) - np.float32(r)
            canvas[here] = mix(
                mix(canvas[here], _PRUSSIAN, smooth(2 * pixel, 0, dot)),
                _CREAM * 1.03,
                smooth(0, -2 * pixel, dot),
            )
    grain = noise(v * 90, u * 3, 3) + 0.6 * noise(v * 200, u * 200, 2)
    return canvas * (1 + 0.045 * grain[..., None]) + 2.0
