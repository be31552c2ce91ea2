"""Pictures and masks brought to size."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from nstray.errors import ErrorCode, PairError
from nstray.images import Mask, Pixels


def target_shape(
    width: int, height: int, size: int | str, size_rule: str, upsample: bool
) -> tuple[int, int]:
    """Width and height that `size` and `size_rule` make of a picture.

    ``longest`` and ``shortest``: that side becomes `size`. ``area``: about size x size pixels. All three keep the aspect,
    no side falls below 1, and without `upsample` a smaller picture keeps its own size. ``exact``: `size` x `size` or the
    ``WxH`` it spells; raises `PairError` TOO_SMALL for a picture that would have to grow, unless `upsample`.
    """
    sides = [int(s) for s in str(size).split("x")]
    if size_rule == "exact":
        wide, high = sides[0], sides[-1]
        if (width < wide or height < high) and not upsample:
            raise PairError(
                ErrorCode.TOO_SMALL,
                f"{width}x{height} pixels cannot fill exactly {wide}x{high}; set upsample, a smaller size, or another size_rule",
            )
        return wide, high
    if len(sides) != 1:
        raise ValueError(
            f"size {size!r} needs size_rule exact; {size_rule} takes one number of pixels"
        )
    rules = {
        "longest": max(width, height),
        "shortest": min(width, height),
        "area": math.sqrt(width * height),
    }
    if size_rule not in rules:
        raise ValueError(f"size_rule must be longest, shortest, area or exact; got {size_rule!r}")
    measure = rules[size_rule]
    if measure <= sides[0] and not upsample:
        return width, height
    return max(1, math.floor(width * sides[0] / measure + 0.5)), max(
        1, math.floor(height * sides[0] / measure + 0.5)
    )


def fit(
    pixels: Pixels,
    size: int | str,
    size_rule: str,
    upsample: bool,
    *,
    what: str,
    max_pixels: int = 100_000_000,
) -> Pixels:
    """`pixels` at the size that `target_shape` gives, by Lanczos; ``exact`` scales to cover and crops the centre.

    Raises `PairError`: TOO_SMALL as `target_shape`; TOO_MANY_PIXELS where growing would pass `max_pixels` (a picture
    1 pixel high and 10,000 wide would become 2.6 billion pixels under ``shortest`` 512).
    """
    height, width = pixels.shape[:2]
    try:
        wide, high = target_shape(width, height, size, size_rule, upsample)
    except PairError as error:
        raise PairError(error.code, f"{what}: {error.message}") from None
    if wide * high > max(max_pixels, width * height):
        raise PairError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{what}: {width}x{height} would grow to {wide}x{high}, the limit (max_pixels) is {max_pixels}",
        )
    left, top, right, bottom = box = _box(width, height, wide, high, size_rule)
    if (right - left, bottom - top) == (
        wide,
        high,
    ):  # at most a crop: whole pixels, none interpolated
        return np.ascontiguousarray(pixels[int(top) : int(bottom), int(left) : int(right)])
    return np.array(
        Image.fromarray(np.ascontiguousarray(pixels)).resize(
            (wide, high), Image.Resampling.LANCZOS, box=box
        )
    )


def fit_mask(
    mask: Mask, source: tuple[int, int], shape: tuple[int, int], size_rule: str, *, what: str
) -> Mask:
    """`mask` brought to where `fit` brought its picture, so that each value stays over its pixels; averaged by a triangle, without ringing.

    Args:
        mask: (h, w) uint8, of any size but of its picture's aspect, but for 1 % and what rounding makes of it.
        source: height and width of the picture as decoded.
        shape: height and width of the picture after `fit`.
        size_rule: the one it was fitted by; ``exact`` crops the mask like the picture.
        what: role and URI of the mask, for messages.

    Returns `shape` uint8. Raises `PairError` BAD_MASK for another aspect, or where no white is left.
    """
    (height, width), (high, wide) = source, shape
    mask_height, mask_width = mask.shape
    if not _same_aspect((height, width), (mask_height, mask_width)):
        raise PairError(
            ErrorCode.BAD_MASK,
            f"{what}: the mask is {mask_width}x{mask_height} pixels, its picture {width}x{height}: give a mask of the same aspect",
        )
    across, down = mask_width / width, mask_height / height
    left, top, right, bottom = _box(width, height, wide, high, size_rule)
    box = (
        left * across,
        top * down,
        min(right * across, mask_width),
        min(bottom * down, mask_height),
    )
    out: Mask = np.array(
        Image.fromarray(np.ascontiguousarray(mask)).resize(
            (wide, high), Image.Resampling.BILINEAR, box=box
        )
    )
    if not out.any():
        kept = (
            " within the centre that size_rule exact keeps"
            if mask.any() and size_rule == "exact"
            else ""
        )
        raise PairError(
            ErrorCode.BAD_MASK,
            f"{what}: the mask is black all over{kept}, at {wide}x{high} pixels: it marks no region",
        )
    return out


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are of one picture: to 1 %, or as near as sides that were each rounded to whole pixels can tell."""
    (h, w), (g, v) = one, other
    low, high = (
        (h - 0.5) * (v - 0.5) - (g + 0.5) * (w + 0.5),
        (h + 0.5) * (v + 0.5) - (g - 0.5) * (w - 0.5),
    )
    return low <= 0 <= high or abs(g * w - h * v) <= 0.01 * h * v


def _box(
    width: int, height: int, wide: int, high: int, size_rule: str
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what becomes wide x high of a picture: all of it, or the centre that ``exact`` keeps."""
    if size_rule != "exact":
        return 0.0, 0.0, float(width), float(height)
    scale = max(wide / width, high / height)
    if scale == 1:  # at whole pixels
        left, top = float((width - wide) // 2), float((height - high) // 2)
        return left, top, left + wide, top + high
    left, top = max(0.0, (width - wide / scale) / 2), max(0.0, (height - high / scale) / 2)
    return left, top, width - left, height - top
