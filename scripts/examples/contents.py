"""The two contents: a lake under mountains (a height field) and a still life (sphere tracing)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from examples.tools import RNG, Array, Noise, bilinear, grid, mix, ramp, smooth


def lake(rng: RNG, height: int, width: int) -> Array:
    """Mountains over a lake in evening light: a height field seen column by column, its reflection, and firs in front."""
    noise = Noise(rng)
    # Height field: x from -16 to 16 and z from 0 to 32 km, heights in km.
    n, span = 720, 32.0
    gz, gx = grid(n, n)
    z, x = gz / n * span, (gx / n - 0.5) * span
    ridges = noise(z * 0.14 + 3, x * 0.14, 6, ridged=True)
    basin = smooth(5.5, 15, z + 0.16 * x * x * np.exp(-z / 14) + 1.2 * noise(z * 0.4, x * 0.4 + 9, 2))
    land = basin * (0.3 + 3.3 * np.maximum(ridges + 0.30, 0) ** 1.4) + 0.25 * noise(z * 0.9, x * 0.9, 4) * basin - 0.10
    sun = np.array([0.80, 0.42, -0.10])  # towards the sun: right, up, a little towards us
    slope_z: Array = np.asarray(np.gradient(land, span / n, axis=0))
    slope_x: Array = np.asarray(np.gradient(land, span / n, axis=1))
    facing = (-slope_x * sun[0] + sun[1] - slope_z * sun[2]) / np.sqrt(1 + slope_x**2 + slope_z**2)
    ceiling = np.full_like(land, -1)
    for k in range(1, 90):  # highest ground between here and the sun, lowered by the sun's elevation
        shifted = np.roll(land, -2 * k, axis=1) - 2 * k * span / n * np.float32(sun[1] / sun[0])
        shifted[:, n - 2 * k :] = -1
        np.maximum(ceiling, shifted, out=ceiling)
    light: Array = np.clip(facing, 0, 1) * (1 - 0.85 * smooth(-0.02, 0.12, ceiling - land))
    # First depth step whose ground covers each pixel.
    horizon, focal, eye = 0.60 * height, 1.02 * width, 0.55
    depth = (0.6 * (30.5 / 0.6) ** np.linspace(0, 1, 640)).astype(np.float32)
    column = (np.arange(width, dtype=np.float32) - width / 2) / focal
    sz = np.broadcast_to((depth / span * n)[:, None], (640, width))
    sx: Array = (depth[:, None] * column[None] / span + 0.5) * n
    seen = np.maximum.accumulate(focal * (bilinear(land, sz, np.clip(sx, 0, n - 2)) - eye) / depth[:, None], axis=0)
    rows = horizon - np.arange(height, dtype=np.float32)
    step = np.stack([np.searchsorted(seen[:, c], rows) for c in range(width)], axis=1)
    sky_mask = step >= 640
    step = np.minimum(step, 639)
    pz, px = np.take_along_axis(sz, step, 0), np.clip(np.take_along_axis(sx, step, 0), 0, n - 2)
    ground, lit, dist = bilinear(land, pz, px), bilinear(light, pz, px), depth[step]
    flat = 1 / np.sqrt(1 + bilinear(slope_x, pz, px) ** 2 + bilinear(slope_z, pz, px) ** 2)
    grain = noise(pz * 0.45, px * 0.45, 3)
    rock = ramp(
        ground + 0.35 * grain,
        [
            (0.0, (112, 124, 54)),
            (0.35, (62, 92, 50)),
            (0.7, (84, 94, 66)),
            (1.0, (124, 108, 100)),
            (3, (146, 130, 124)),
        ],
    )
    snow = smooth(0.0, 0.35, ground - 1.05 + 0.35 * grain) * smooth(0.58, 0.78, flat)
    colour = mix(rock, (246, 244, 250), snow)
    colour *= (np.array([0.42, 0.48, 0.68], np.float32) + lit[..., None] * np.array([1.45, 1.12, 0.74], np.float32)) * (1 + 0.16 * grain[..., None])
    # Sky: gradient, sun, clouds lit from its side.
    y, xx = grid(height, width)
    up = np.clip((horizon - y) / horizon, 0, 1)
    sky = ramp(
        up,
        [
            (0, (255, 214, 160)),
            (0.25, (250, 190, 150)),
            (0.5, (178, 176, 196)),
            (0.8, (96, 136, 190)),
            (1, (58, 100, 166)),
        ],
    )
    sun_r = np.hypot(y - 0.23 * height, xx - 0.82 * width) / height
    sky = mix(sky, (255, 236, 190), 0.85 * np.exp(-((sun_r / 0.20) ** 2)) + 0.25 * np.exp(-sun_r / 0.5))
    cy, cx = y / height * 9 * (1.5 - up), xx / width * 5
    cloud = smooth(0.02, 0.42, noise(cy, cx, 5))
    relief = noise(cy, cx, 5) - noise(cy - 0.12, cx + 0.22, 5)
    sky = mix(
        sky,
        ramp(relief, [(-0.3, (150, 140, 170)), (0, (238, 206, 196)), (0.3, (255, 244, 224))]),
        0.85 * cloud,
    )
    sky = mix(sky, (255, 252, 232), 1 - smooth(0.050, 0.060, sun_r))
    haze = (1 - np.exp(-np.maximum(dist - 4, 0) / 26))[..., None]
    scene = np.where(sky_mask[..., None], sky, colour + (np.array([214, 190, 190], np.float32) - colour) * haze)
    water = (ground < 0.0) & ~sky_mask
    for i in range(46):  # firs of the far shore, small, mirrored with the rest
        c = int(rng.uniform(0, width))
        first = int(np.argmax(water[:, c]))
        if first:
            _fir(scene, rng, first + rng.uniform(-1, 2), c, rng.uniform(14, 34), 0.55, water, i)
    # The lake mirrors what stands above each column's shore.
    shore = np.where(water.any(0), np.argmax(water, axis=0), height).astype(np.float32)
    shore = np.convolve(np.pad(shore, 8, mode="edge"), np.ones(17) / 17, mode="valid").astype(np.float32)
    below = y - shore[None]
    ripple = noise(1800 / (np.maximum(below, 0) + 12), xx * 0.008 + y * 0.002, 3)
    source = np.clip(shore[None] - below * 1.05 + ripple * (2 + 0.09 * below), 0, height - 1)
    mirror = scene[source.astype(np.int32), np.clip(xx + ripple * 3, 0, width - 1).astype(np.int32)]
    depth_tint = smooth(0, 0.40 * height, below)
    lake = mix(mirror * 0.93, (28, 66, 92), 0.08 + 0.40 * depth_tint)
    lake = mix(
        lake,
        (255, 226, 186),
        0.5 * smooth(0.25, 0.6, ripple) * smooth(4, 60, below) * np.exp(-(((xx - 0.80 * width) / (0.16 * width)) ** 2)),
    )
    scene = np.where(water[..., None], lake, scene)
    # Near bank and its firs.
    bank = height * (0.955 + 0.03 * noise(xx[0] * 0, xx[0] * 0.006, 3)) - 0.10 * height * np.abs(xx[0] / width - 0.5) ** 2 * 4
    blades = noise(y * 0.05, xx * 0.35, 3)
    grass = ramp(
        blades + 0.25 * noise(y * 0.02, xx * 0.02, 2),
        [(-0.8, (20, 30, 16)), (0, (66, 82, 32)), (0.7, (176, 160, 70))],
    )
    scene = mix(scene, grass, smooth(-1, 1, y - bank[None] - 7 * blades))
    firs = [
        (0.04, 0.62),
        (0.115, 0.44),
        (0.175, 0.30),
        (0.235, 0.17),
        (0.965, 0.50),
        (0.905, 0.33),
        (0.86, 0.19),
        (-0.01, 0.40),
        (0.79, 0.10),
    ]
    for i, (at, tall) in enumerate(firs):
        foot = bank[int(np.clip(at * width, 0, width - 1))] + 6
        _fir(scene, rng, foot, at * width, tall * height, 1.0, None, 100 + i)
    return scene


def _fir(
    scene: Array,
    rng: RNG,
    base: float,
    centre: float,
    tall: float,
    contrast: float,
    keep_off: npt.NDArray[np.bool_] | None,
    tag: int,
) -> None:
    """A fir of `tall` pixels standing at (base, centre), lit from the right, painted into `scene`."""
    height, width = scene.shape[:2]
    half = int(0.24 * tall) + 2
    y0, y1, x0, x1 = (
        max(0, int(base - tall)),
        min(height, int(base)),
        max(0, int(centre) - half),
        min(width, int(centre) + half),
    )
    if y0 >= y1 or x0 >= x1:
        return
    y, x = grid(y1 - y0, x1 - x0)
    v, u = (y + y0 - (base - tall)) / tall, (x + x0 - centre) / tall
    tiers = 11 + tag % 4
    lean = v * tiers + rng.uniform(0, 1) + 0.9 * np.abs(u) * 6 + 0.25 * np.sin(u * 40 + tag)
    tooth = lean - np.floor(lean)
    needles = rng.uniform(-1, 1, v.shape).astype(np.float32)
    reach = 0.205 * np.maximum(v, 0) ** 0.85 * (0.48 + 0.52 * tooth) + 0.004 + 0.012 * needles
    body = (np.abs(u) < reach) & (v < 0.95)
    trunk = (np.abs(u) < 0.012) & (v >= 0.9)
    shade = np.clip(0.30 + 0.30 * tooth + 1.5 * u / (0.05 + 0.2 * v) * 0.22 + 0.16 * needles, 0, 1)
    colour = ramp(
        shade * contrast + 0.25 * (1 - contrast),
        [(0, (10, 22, 20)), (0.45, (30, 58, 38)), (0.75, (86, 104, 48)), (1, (196, 170, 88))],
    )
    colour[trunk & ~body] = (52, 36, 26)
    cover = body | trunk
    if keep_off is not None:
        cover &= ~keep_off[y0:y1, x0:x1]
    scene[y0:y1, x0:x1][cover] = colour[cover]


# Fruit of the still life: kind, x, z, radius (table units: the vase is 1.75 high).
_FRUIT = (
    ("apple", -0.22, -0.55, 0.36),
    ("apple", 0.50, 0.10, 0.37),
    ("pear", 1.12, -0.30, 0.36),
    ("lemon", 0.42, -0.98, 0.25),
    ("apple", 1.62, 0.42, 0.35),
)
_VASE_X, _VASE_Z = -0.85, 0.35
_VASE_Y = np.linspace(0, 1.8, 181)
_VASE_R = np.interp(
    _VASE_Y,
    (0, 0.05, 0.30, 0.62, 0.95, 1.25, 1.42, 1.60, 1.72, 1.80),
    (0.33, 0.36, 0.50, 0.61, 0.53, 0.26, 0.20, 0.23, 0.33, 0.36),
)
_VASE_R = np.convolve(
    np.pad(_VASE_R, 12, mode="reflect", reflect_type="odd"),
    np.hanning(25) / np.hanning(25).sum(),
    mode="valid",
)


def _distances(x: Array, y: Array, z: Array) -> Array:
    """Signed distance bounds (objects, n) from points to the vase and each fruit."""
    radius = np.interp(y, _VASE_Y, _VASE_R).astype(np.float32)
    out = [np.maximum((np.hypot(x - _VASE_X, z - _VASE_Z) - radius) * 0.72, np.maximum(y - 1.75, -y))]
    for kind, cx, cz, r in _FRUIT:
        u, w = x - np.float32(cx), z - np.float32(cz)
        if kind == "apple":  # a spindle torus, a little narrower below
            side = np.hypot(u, w) * (1.06 - 0.18 * (y / r - 1))
            stem = (
                np.hypot(
                    np.hypot(u - 0.25 * (y - 1.3 * r), w),
                    np.maximum(np.abs(y - 1.60 * r) - 0.28 * r, 0),
                )
                - 0.022
            )
            out.append(np.minimum((np.hypot(side - 0.42 * r, (y - 0.80 * r) * 0.94) - 0.72 * r) * 0.84, stem * 0.9))
        elif kind == "pear":
            low, high = (
                np.sqrt(u * u + w * w + (y - r) ** 2) - r,
                np.sqrt((u + 0.06) ** 2 + w * w + (y - 2.25 * r) ** 2) - 0.50 * r,
            )
            blend = np.clip(0.5 + (high - low) / 0.7, 0, 1)
            stem = (
                np.hypot(
                    np.hypot(u + 0.06 + 0.3 * (y - 2.7 * r), w),
                    np.maximum(np.abs(y - 2.9 * r) - 0.25 * r, 0),
                )
                - 0.022
            )
            out.append(np.minimum(high + (low - high) * blend - 0.35 * blend * (1 - blend), stem) * 0.9)
        else:  # a lemon lying at an angle, with its two tips
            a, b = 0.86 * u + 0.51 * w, -0.51 * u + 0.86 * w
            body = np.sqrt((a / 1.28) ** 2 + b * b + (y - r) ** 2) - r
            tip = np.sqrt((np.abs(a) - 1.30 * r) ** 2 + b * b + (y - r) ** 2) - 0.16 * r
            blend = np.clip(0.5 + (tip - body) / 0.3, 0, 1)
            out.append((tip + (body - tip) * blend - 0.15 * blend * (1 - blend)) * 0.8)
    return np.stack(out)


def _march(origin: Sequence[Array], ray: Sequence[Array], far: Array, soft: float | None = None) -> Array:
    """Sphere tracing: distance along each ray to the objects (`far` where none), or with `soft` the light that passes (0..1)."""
    t, light = np.full(far.shape, 0.03 if soft else 2.5, np.float32), np.ones(far.shape, np.float32)
    alive = np.arange(far.size)
    for _ in range(60 if soft is None else 26):
        o = [a[alive] + r[alive] * t[alive] for a, r in zip(origin, ray, strict=True)]
        d = _distances(*o).min(axis=0)
        if soft is not None:
            light[alive] = np.minimum(light[alive], np.clip(0.5 + 0.5 * soft * d / t[alive], 0, 1))
            t[alive] += np.clip(d, 0.05, 0.5)
            keep = (t[alive] < far[alive]) & (light[alive] > 0)
        else:
            keep = d > 0.002
            t[alive] += np.where(keep, d, 0)
            keep &= t[alive] < far[alive]
        alive = alive[keep]
        if not alive.size:
            break
    return np.minimum(t, far) if soft is None else light


def still_life(rng: RNG, height: int, width: int) -> Array:
    """A painted vase and fruit on a cloth before a curtain, lit from the upper left, with soft shadows."""
    noise = Noise(rng)
    row, col = grid(height, width)
    rx, ry, rz = (
        (col - width / 2).ravel() / width * 0.80,
        (height * 0.435 - row).ravel() / width * 0.80,
        np.ones(height * width, np.float32),
    )
    pitch = 0.17
    ry, rz = ry * np.cos(pitch) - rz * np.sin(pitch), rz * np.cos(pitch) + ry * np.sin(pitch)
    norm = np.sqrt(rx * rx + ry * ry + rz * rz)
    ray = [(a / norm).astype(np.float32) for a in (rx, ry, rz)]
    eye = [np.full(rx.shape, v, np.float32) for v in (0.22, 1.72, -5.0)]
    wall_z = 2.3
    table, wall = (
        np.where(ray[1] < -1e-3, -eye[1] / np.minimum(ray[1], -1e-3), 99),
        (wall_z - eye[2]) / ray[2],
    )
    far = np.minimum(table, wall).astype(np.float32)
    t = _march(eye, ray, far)
    solid, on_table = t < far - 1e-3, table < wall
    x, y, z = (e + r * t for e, r in zip(eye, ray, strict=True))
    # Normals, bumps, colours.
    normal = np.zeros((3, x.size), np.float32)
    normal[1, ~solid & on_table] = 1
    back = ~solid & ~on_table
    fold = np.sin(x * 5.2 + 1.6 * noise(y * 0.5, x * 0.8, 2) + 0.7 * np.sin(y * 0.8)) + 0.4 * np.sin(x * 11.7 + y * 1.3)
    slope = np.cos(x * 5.2 + 1.6 * noise(y * 0.5, x * 0.8, 2) + 0.7 * np.sin(y * 0.8)) + 0.5 * np.cos(x * 11.7 + y * 1.3)
    normal[0, back], normal[2, back] = -0.62 * slope[back], -1
    s = np.flatnonzero(solid)
    which = _distances(x[s], y[s], z[s]).argmin(axis=0)
    e = np.float32(0.004)
    base = _distances(x[s], y[s], z[s]).min(axis=0)
    for axis, moved in enumerate(((x[s] + e, y[s], z[s]), (x[s], y[s] + e, z[s]), (x[s], y[s], z[s] + e))):
        normal[axis, s] = _distances(*moved).min(axis=0) - base
    wrinkle = noise(z * 1.1, x * 0.7 + z, 4)
    cloth = ~solid & on_table
    normal[0, cloth] += 0.8 * (noise(z * 1.1, x * 0.7 + z + 0.05, 4) - wrinkle)[cloth] * 4
    normal[2, cloth] += 0.8 * (noise(z * 1.1 + 0.05, x * 0.7 + z, 4) - wrinkle)[cloth] * 4
    normal /= np.sqrt((normal**2).sum(axis=0)) + 1e-9
    colour = ramp(fold, [(-1.4, (52, 20, 30)), (0, (112, 34, 42)), (1.4, (150, 52, 48))])
    stripe = np.abs((z * 0.9 + 0.35 * x + 0.05 * wrinkle) % 0.62 - 0.31)
    linen = mix(
        ramp(wrinkle, [(-0.6, (206, 196, 176)), (0.6, (240, 232, 212))]),
        (58, 96, 148),
        smooth(0.235, 0.25, stripe),
    )
    linen = mix(linen, (196, 70, 50), smooth(0.012, 0.004, np.abs(stripe - 0.17)))
    wood = ramp(
        np.sin((z + 0.10 * noise(z * 2, x * 0.5, 3)) * 40) * 0.35 + noise(z * 14, x * 0.8, 3),
        [(-1, (82, 46, 26)), (0, (124, 74, 40)), (1, (160, 104, 60))],
    )
    edge = smooth(-0.015, 0.015, z + 1.28 - 0.10 * np.sin(x * 1.9 + 0.6) - 0.03 * wrinkle) * smooth(0.015, -0.015, x * 0.9 + 0.25 * z - 2.15)
    colour[cloth] = mix(wood, linen, edge)[cloth]
    gloss = np.zeros(x.size, np.float32)
    colour[s], gloss[s] = _skins(noise, x[s], y[s], z[s], which)
    # Light: a window to the upper left, the cool room, and what the table throws back.
    lamp = np.array([-0.62, 0.66, -0.42], np.float32)
    lamp /= np.linalg.norm(lamp)
    shadow = _march(
        [a + n * 0.02 for a, n in zip((x, y, z), normal, strict=True)],
        [np.full(x.shape, v, np.float32) for v in lamp],
        np.minimum(4.5, (2.0 - y) / lamp[1]),  # above 2.0 there is nothing to cast a shadow
        11.0,
    )
    shadow = smooth(0.08, 0.95, shadow)
    open_sky = np.ones(x.shape, np.float32)
    for reach in (0.08, 0.2, 0.45):
        near = _distances(*(a + n * np.float32(reach) for a, n in zip((x, y, z), normal, strict=True))).min(axis=0)
        open_sky *= np.clip(
            0.35 + 0.65 * np.minimum(near, np.where(solid, np.maximum(y + normal[1] * reach, 0), reach)) / reach,
            0.25,
            1,
        )
    direct = np.clip(np.tensordot(lamp, normal, 1), 0, 1) * shadow
    pool = np.exp(-(((x + 0.2) / 2.6) ** 2) - ((y - 0.7) / 2.2) ** 2)  # the window's light falls off to the sides
    half = lamp[:, None] - np.stack(ray)
    half /= np.sqrt((half**2).sum(axis=0))
    shine = gloss * np.clip((half * normal).sum(axis=0), 0, 1) ** 60 * shadow
    lit = (0.30 + 0.95 * pool * direct)[:, None] * np.array([1.12, 1.02, 0.84], np.float32)
    lit += (0.26 * open_sky * (0.6 + 0.4 * normal[1]))[:, None] * np.array([0.72, 0.86, 1.15], np.float32) - 0.14
    lit += (0.16 * np.clip(-normal[1], 0, 1) * np.exp(-y))[:, None] * np.array([1.2, 1.0, 0.8], np.float32)
    lit *= (0.45 + 0.55 * open_sky)[:, None]
    colour = colour * np.maximum(lit, 0.02) * 1.18 + 235 * shine[:, None]
    exposed: Array = 255 * (1 - np.exp(-1.55 * colour / 255)) * 1.16
    return exposed.reshape(height, width, 3)


def _skins(noise: Noise, x: Array, y: Array, z: Array, which: npt.NDArray[np.intp]) -> tuple[Array, Array]:
    """Colour (n, 3) and gloss (n,) of points on the objects: glaze, apple, pear and lemon."""
    angle = np.arctan2(z - _VASE_Z, x - _VASE_X)
    glaze = ramp(noise(y * 3, angle * 2, 3), [(-0.7, (214, 216, 208)), (0.7, (240, 238, 226))])
    leaf = np.sin(angle * 7 + 5 * np.sin(y * 6.0)) * np.cos((y - 0.62) * 7.5)
    ink = smooth(0.30, 0.42, leaf) * smooth(0.36, 0.30, np.abs(y - 0.62))
    for ring in (0.22, 1.03, 1.09, 1.40, 1.66):
        ink = np.maximum(ink, smooth(0.022, 0.014, np.abs(y - ring)))
    colour, gloss = mix(glaze, (34, 66, 138), 0.92 * ink), np.full(x.shape, 0.9, np.float32)
    for i, (kind, cx, cz, r) in enumerate(_FRUIT, 1):
        m = which == i
        u, w, v = x[m] - cx, z[m] - cz, y[m] / r
        turn = np.arctan2(w, u)
        if kind == "apple":
            streak = noise(v * 0.6, turn * 5 + i * 3, 4) + 0.7 * np.sin(turn + 1.1 * i) + 0.5 * (v - 0.9)
            stops = [
                (-1.0, (196, 186, 66)),
                (-0.4, (222, 150, 52)),
                (0.1, (190, 42, 34)),
                (1.2, (126, 14, 30)),
            ]
            colour[m] = mix(
                ramp(streak, stops),
                (74, 66, 26),
                smooth(0.30 * r, 0.04 * r, np.hypot(u, w)) * (v > 1),
            )
            colour[m] = mix(colour[m], (70, 48, 28), smooth(1.58, 1.62, v))
            gloss[m] = 0.75
        elif kind == "pear":
            colour[m] = ramp(
                noise(v * 2, turn * 2, 3) + 0.6 * np.sin(turn + 2.6),
                [(-1, (120, 140, 48)), (0.1, (186, 180, 66)), (0.9, (204, 132, 60))],
            )
            colour[m] *= 1 - 0.28 * smooth(0.35, 0.6, noise(v * 9, turn * 12, 2))[:, None]
            colour[m] = mix(colour[m], (70, 48, 28), smooth(2.76, 2.80, v))
            gloss[m] = 0.40
        else:
            colour[m] = ramp(noise(v * 7, turn * 9, 2), [(-0.8, (214, 168, 28)), (0.5, (246, 212, 58))])
            gloss[m] = 0.45
    return colour, gloss
