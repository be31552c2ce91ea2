"""nstray.images.decode on pictures of an output that others made: checked and made small in bounded memory."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from outputs import picture
from PIL import Image

from nstray.commands.verify import _Memory
from nstray.errors import ErrorCode, PairError
from nstray.images import decode as images
from nstray.images.decode import check, decode, decoding_bytes, thumbnail
from nstray.images.encode import encode
from nstray.images.resize import fit

CAPS: dict[str, Any] = {"what": "x", "max_pixels": 10**8}


def saved(mode: str, image_format: str, size: tuple[int, int] = (900, 700), **options: Any) -> bytes:
    drawn = Image.fromarray(picture(3, *size))
    if mode in ("LA", "RGBA"):
        drawn = drawn.convert(mode)
        drawn.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))))
    elif mode == "I;16":
        drawn = Image.fromarray(np.asarray(drawn.convert("L")).astype(np.uint16) * 257)
    elif mode != "RGB":
        drawn = drawn.convert(mode)
    out = io.BytesIO()
    drawn.save(out, image_format, **options)
    return out.getvalue()


FILES = {
    "rgb.png": saved("RGB", "PNG"),
    "rgba.png": saved("RGBA", "PNG"),
    "grey-alpha.png": saved("LA", "PNG"),
    "palette.png": saved("P", "PNG"),
    "palette-clear.png": saved("P", "PNG", transparency=3),
    "one-bit.png": saved("1", "PNG"),
    "deep-grey.png": saved("I;16", "PNG"),
    "grey-clear.png": saved("L", "PNG", transparency=40),
    "rgb.jpg": saved("RGB", "JPEG"),
    "grey.jpg": saved("L", "JPEG"),
    "cmyk.jpg": saved("CMYK", "JPEG", progressive=True),
    "turned.jpg": saved("RGB", "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    "lossless.webp": saved("RGBA", "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FILES)
def test_a_thumbnail_is_the_picture_made_small(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[name]
    whole = decode(data, max_bytes=len(data), **CAPS)
    assert np.array_equal(thumbnail(data, 100, max_memory=10**9, **CAPS), whole)  # not large: as it is
    monkeypatch.setattr(images, "_LARGE", 10_000)
    small = thumbnail(data, 100, max_memory=10**9, **CAPS)
    assert 200 <= max(small.shape[:2]) <= max(whole.shape[:2]) / 2
    assert (small.shape[0] > small.shape[1]) == (whole.shape[0] > whole.shape[1])
    one, other = (fit(p, 40, "longest", False, what="x").astype(int) for p in (small, whole))
    if name != "one-bit.png":  # whose dots are drawn by their places
        assert np.abs(one - other).mean() < 6


@pytest.mark.parametrize(
    ("name", "each"),
    [("rgb.png", 4), ("grey.jpg", 3), ("rgb.jpg", 10), ("cmyk.jpg", 12), ("lossless.webp", 16), ("deep-grey.png", 4)],
)
def test_the_memory_is_known_from_the_header(name: str, each: int) -> None:
    assert decoding_bytes(FILES[name][:4000]) == each * 900 * 700
    with pytest.raises(PairError, match="more than the 1,000,000 that are given to one picture") as caught:
        thumbnail(FILES[name], 100, max_memory=1_000_000, **CAPS)
    assert caught.value.code == ErrorCode.TOO_MANY_PIXELS


def test_a_tiff_of_ours_is_counted_at_its_depth() -> None:
    assert decoding_bytes(encode(picture(1, 30, 20).astype(np.uint16) * 257, "tiff"), own=True) == 10 * 600


def test_a_picture_is_checked_whole() -> None:
    for name, data in FILES.items():
        check(data, **CAPS)
        if not name.endswith(".webp"):
            with pytest.raises(PairError, match="truncated or corrupt"):
                check(data[: len(data) // 2], **CAPS)
    with pytest.raises(PairError, match="max_pixels"):
        check(FILES["rgb.png"], what="x", max_pixels=10)


def test_threads_share_memory_and_a_large_one_is_alone() -> None:
    memory, held, most = _Memory(100), list[int](), list[int]()
    lock = threading.Lock()

    def work(size: int) -> None:
        with memory.of(size):
            with lock:
                held.append(size)
                most.append(sum(held))
            time.sleep(0.005)
            with lock:
                held.remove(size)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [100, 30, 30, 30, 60, 50, 50, 100, 1, 99] * 3))
    assert max(most) == 100
    assert not held
