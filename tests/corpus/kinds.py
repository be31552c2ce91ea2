"""Odd but well-formed pictures: depths, palettes, colour spaces, orientations, profiles, animations, and files that are two things at once."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
from PIL import Image, ImageCms

from corpus.case import FOREIGN, HEIGHT, WIDTH, Case, bad, base, chunk, either, good, header, png, riff, save, segment
from nstray.errors import ErrorCode

HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
# Colour type and the depths it may have (PNG third edition, table 8), with its channels.
PNG_TYPES = {0: ((1, 2, 4, 8, 16), 1), 2: ((8, 16), 3), 3: ((1, 2, 4, 8), 1), 4: ((8, 16), 2), 6: ((8, 16), 4)}


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(zipfile.ZipInfo("a.class"), b"\xca\xfe\xba\xbe")
    return out.getvalue()


def _pngs() -> list[Case]:
    out = []
    rng = np.random.default_rng(2)
    for colour, (depths, channels) in PNG_TYPES.items():
        for depth in depths:
            stride = -(-WIDTH * channels * depth // 8)
            rows = np.concatenate([np.zeros((HEIGHT, 1), np.uint8), rng.integers(0, 256, (HEIGHT, stride), dtype=np.uint8)], axis=1).tobytes()
            palette = (chunk(b"PLTE", rng.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()),) if colour == 3 else ()
            head = header(WIDTH, HEIGHT, depth, colour)
            out.append(good(f"colour-{colour}-depth-{depth}.png", png(head, rows, *palette)))
            for size in {0: (2,), 2: (6,), 3: (1, 2**depth)}.get(colour, ()):
                clear = chunk(b"tRNS", bytes(size))
                out.append(good(f"colour-{colour}-depth-{depth}-clear-{size}.png", png(head, rows, *palette, clear)))
    rows = b"".join(b"\0" + bytes(range(WIDTH)) for _ in range(HEIGHT))
    head = header(WIDTH, HEIGHT, 8, 3)
    few = chunk(b"PLTE", bytes(range(30)))
    grey = header(WIDTH, HEIGHT, 8, 0)
    out += [
        either("palette-of-ten.png", png(head, rows, few)),
        either("palette-missing.png", png(head, rows)),
        either("palette-empty.png", png(head, rows, chunk(b"PLTE"))),
        either("palette-of-31-bytes.png", png(head, rows, chunk(b"PLTE", bytes(31)))),
        either("palette-too-long.png", png(head, rows, chunk(b"PLTE", bytes(3000)))),
        either("clear-longer-than-palette.png", png(head, rows, few, chunk(b"tRNS", bytes(300)))),
        either("clear-of-one-byte.png", png(grey, rows, chunk(b"tRNS", b"\0"))),
        either("clear-of-nothing.png", png(grey, rows, chunk(b"tRNS"))),
        either("clear-beyond-depth.png", png(header(WIDTH, HEIGHT, 1, 0), (b"\0" + bytes(5)) * HEIGHT, chunk(b"tRNS", b"\xff\xff"))),
        either("clear-with-alpha.png", save(base("RGBA"), "PNG")[:33] + chunk(b"tRNS", bytes(6)) + save(base("RGBA"), "PNG")[33:]),
        good("gamma-and-colours.png", png(grey, rows, chunk(b"gAMA", bytes(4)), chunk(b"cHRM", b"\xff" * 32), chunk(b"sRGB", b"\xff"))),
        either("gamma-cut.png", png(grey, rows, chunk(b"gAMA", b"\0"), chunk(b"cHRM"), chunk(b"pHYs", b"\0"))),
        good("one-pixel.png", save(base(width=1, height=1), "PNG"), 1, 1),
        good("one-row.png", save(base(width=3000, height=1), "PNG"), 3000, 1),
        good("one-column.png", save(base(width=1, height=3000), "PNG"), 1, 3000),
    ]
    frames = [base(), base().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    plain = save(base(), "PNG")
    for n in (0, 1, 2**31, 2**32 - 1):
        out.append(either(f"animation-of-{n}.png", plain[:33] + chunk(b"acTL", struct.pack(">II", n, 0)) + plain[33:], FOREIGN))
    twice = chunk(b"acTL", struct.pack(">II", 2, 0)) * 2
    return [
        *out,
        good("animation-twice.png", plain[:33] + twice + plain[33:]),
        either("animation-header-cut.png", plain[:33] + chunk(b"acTL", b"\0") + plain[33:]),
        bad("animated.png", save(frames[0], "PNG", save_all=True, append_images=frames[1:]), FOREIGN),
        bad("animated.webp", save(frames[0], "WEBP", save_all=True, append_images=frames[1:]), FOREIGN),
        bad("animated.gif", save(frames[0], "GIF", save_all=True, append_images=frames[1:]), FOREIGN),
        either("animated-of-one.webp", save(frames[0], "WEBP", save_all=True), FOREIGN),
        good("interlaced.png", png(header(8, 8, 8, 0, 1), b"".join((b"\0" + bytes(w)) * h for w, h in ADAM7)), 8, 8),
    ]


ADAM7 = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))  # the passes of 8 x 8 pixels


def _adobe(data: bytes, transform: int | None) -> bytes:
    """A JPEG with its Adobe segment saying another colour transform, or gone."""
    at = data.index(b"\xff\xee")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    marker = b"" if transform is None else segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes((transform,)))
    return data[:at] + marker + data[end:]


def _jpegs() -> list[Case]:
    cmyk = save(base("CMYK"), "JPEG", quality=90)
    rgb, grey = save(base(), "JPEG", quality=90), save(base("L"), "JPEG", quality=90)
    at = rgb.index(b"\xff\xc0")
    dac = segment(0xCC, b"\0\x10\x10\x05")
    out = [good(f"cmyk-transform-{t}.jpg", _adobe(cmyk, t)) for t in (None, 0, 1, 2, 3, 255)]
    for transform in (0, 1, 2):
        adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes((transform,)))
        out += [good(f"{name}-transform-{transform}.jpg", data[:2] + adobe + data[2:]) for name, data in (("rgb", rgb), ("grey", grey))]
    return [
        *out,
        either("adobe-cut.jpg", rgb[:2] + segment(0xEE, b"Adobe\0") + rgb[2:]),
        *(good(f"subsampled-{s}.jpg", save(base(), "JPEG", subsampling=s)) for s in (0, 1, 2)),
        good("progressive.jpg", save(base(), "JPEG", progressive=True)),
        good("progressive-cmyk.jpg", save(base("CMYK"), "JPEG", progressive=True)),
        good("optimised.jpg", save(base(), "JPEG", optimize=True)),
        *(good(f"quality-{q}.jpg", save(base(), "JPEG", quality=q)) for q in (1, 100)),
        good("restarts.jpg", save(base(), "JPEG", restart_marker_blocks=1)),
        either("restarts-out-of-order.jpg", save(base(), "JPEG", restart_marker_blocks=1).replace(b"\xff\xd1", b"\xff\xd5")),
        either("no-end.jpg", rgb[:-2]),
        either("two-ends.jpg", rgb + b"\xff\xd9" * 5),
        either("end-at-once.jpg", rgb[:2] + b"\xff\xd9" + rgb[2:]),
        *(either(f"frame-{m:02x}.jpg", rgb[:at] + bytes((0xFF, m)) + rgb[at + 2 :]) for m in (0xC1, 0xC2, 0xC3, 0xC5, 0xC7, 0xCB, 0xCF)),
        *(either(f"arithmetic-{m:02x}.jpg", rgb[:at] + dac + bytes((0xFF, m)) + rgb[at + 2 :]) for m in (0xC9, 0xCA)),
        good("multi-picture.jpg", save(base(), "MPO", save_all=True, append_images=[base()])),
    ]


def _exif(order: str, count: int, kind: int, value: int, start: int = 8) -> bytes:
    """EXIF with the one entry, orientation, by hand."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return b"Exif\0\0" + mark + struct.pack(order + "IHHHIHH", start, count, 0x0112, kind, 1, value, 0) + bytes(4)


def _orientations() -> list[Case]:
    out = []
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        size = (HEIGHT, WIDTH) if value >= 5 else (WIDTH, HEIGHT)
        out += [good(f"orientation-{value}.{f.lower()}", save(base(), f, exif=exif), *size) for f in ("JPEG", "PNG", "WEBP")]
    broken = {
        "orientation-0": _exif("<", 1, 3, 0),
        "orientation-9": _exif(">", 1, 3, 9),
        "orientation-65535": _exif("<", 1, 3, 65_535),
        "many-entries": _exif("<", 65_535, 3, 1),
        "start-beyond-the-end": _exif("<", 1, 3, 6, 2**32 - 1),
        "start-at-itself": _exif(">", 1, 3, 6, 0),
        "wrong-kind": _exif("<", 1, 255, 1),
        "empty": b"Exif\0\0",
        "half-a-header": b"Exif\0\0II*",
        "no-order": b"Exif\0\0XX*\0" + bytes(20),
        "noise": b"Exif\0\0II*\0\x08\0\0\0" + np.random.default_rng(3).integers(0, 256, 4000, dtype=np.uint8).tobytes(),
    }
    rgb, plain, lossless = save(base(), "JPEG"), save(base(), "PNG"), save(base(), "WEBP", lossless=True)
    canvas = b"\x08\0\0\0" + (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    for name, exif in broken.items():
        out += [
            either(f"exif-{name}.jpg", rgb[:2] + segment(0xE1, exif) + rgb[2:], size=None),
            either(f"exif-{name}.png", plain[:33] + chunk(b"eXIf", exif[6:]) + plain[33:], size=None),
            either(f"exif-{name}.webp", riff((b"VP8X", canvas), (b"VP8L", lossless[20:]), (b"EXIF", exif)), size=None),
        ]
    return out


def _profiles() -> list[Case]:
    made = [ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "LAB")]
    srgb, lab = (data[:24] + bytes(12) + data[36:] for data in made)  # without the time they were made
    rng = np.random.default_rng(4)
    hit = np.frombuffer(srgb, np.uint8).copy()
    hit[rng.integers(128, hit.size, 60)] = 255
    tags = srgb[:128] + struct.pack(">I", 2**32 - 1) + srgb[132:]
    found = {
        "srgb": srgb,
        "lab": lab,
        "cut": srgb[:200],
        "empty": b" ",
        "header-alone": srgb[:128],
        "endless-tags": tags,
        "hit": hit.tobytes(),
        "of-grey": srgb[:16] + b"GRAY" + srgb[20:],
        "length-of-4-gib": b"\xff" * 4 + srgb[4:],
        "noise": rng.integers(0, 256, 3000, dtype=np.uint8).tobytes(),
        "2-mib": srgb + bytes(2 << 20),
    }
    out = [good(f"profile-{name}.{f.lower()}", save(base(), f, icc_profile=p)) for name, p in found.items() for f in ("JPEG", "PNG", "WEBP")]
    rgb = save(base(), "JPEG")

    def part(number: int, count: int) -> bytes:
        return segment(0xE2, b"ICC_PROFILE\0" + bytes((number, count)) + srgb[:200])

    parts = {
        "missing": part(2, 3),
        "of-none": part(0, 0),
        "twice": part(1, 2) * 2,
        "many": part(1, 255) * 255,
        "cut": segment(0xE2, b"ICC_PROFILE\0"),
    }
    return [*out, *(good(f"profile-part-{name}.jpg", rgb[:2] + p + rgb[2:]) for name, p in parts.items())]


def _two_at_once() -> list[Case]:
    wholes = {"jpg": save(base(), "JPEG"), "png": save(base(), "PNG"), "webp": save(base(), "WEBP", lossless=True)}
    out = []
    for ending, data in wholes.items():
        behind = {"zip": archive(), "html": HTML, "itself": data, "zeros": bytes(5000), "jpg": wholes["jpg"]}
        out += [good(f"with-{name}-behind.{ending}", data + more) for name, more in behind.items()]
    gif = save(base(), "GIF")
    return [
        *out,
        good("with-html-inside.jpg", wholes["jpg"][:2] + segment(0xFE, HTML) + wholes["jpg"][2:]),
        good("with-zip-inside.png", wholes["png"][:-12] + chunk(b"zIPo", archive()) + wholes["png"][-12:]),
        good("with-html-inside.png", wholes["png"][:33] + chunk(b"tEXt", b"Title\0" + HTML) + wholes["png"][33:]),
        bad("archive-in-gif.jpg", gif + archive(), FOREIGN),
        bad("picture-in-archive.zip", archive() + wholes["png"], frozenset({ErrorCode.NOT_AN_IMAGE})),
        bad("script-before-picture.html", HTML + wholes["jpg"], frozenset({ErrorCode.NOT_AN_IMAGE})),
        *(
            good(f"{'-'.join((ending, 'named', other))}.{other}", data)
            for ending, data in wholes.items()
            for other in ("jpg", "png", "gif", "txt")
            if other != ending
        ),
    ]


def cases() -> list[Case]:
    return [*_pngs(), *_jpegs(), *_orientations(), *_profiles(), *_two_at_once()]
