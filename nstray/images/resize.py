"""Pictures resized by the job's size rules, and masks that follow their picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from nstray.errors import ErrorCode, PairError
from nstray.images import Mask, Pixels


def target_shape(
    width: int, height: int, size: int | str, size_rule: str, upsample: bool
) -> tuple[int, int]:
    """Width and height of a picture of width x height after resizing by `size_rule`.

    - ``longest`` and ``shortest``: that side becomes `size`.
    - ``area``: about size x size pixels.
    - ``exact``: `size` x `size`, or the ``WxH`` that `size` spells.

    The first three keep the aspect, and no side falls below 1. Without `upsample` a smaller picture
    keeps its own size; under ``exact`` it raises `PairError` TOO_SMALL. Raises ValueError for a
    size that does not go with the rule, or for an unknown rule.
    """
    sides = [int(s) for s in str(size).split("x")]
    if size_rule == "exact":
        new_width, new_height = sides[0], sides[-1]
        if (width < new_width or height < new_height) and not upsample:
            raise PairError(
                ErrorCode.TOO_SMALL,
                f"{width}x{height} pixels cannot fill exactly {new_width}x{new_height}; "
                "set upsample, a smaller size, or another size_rule",
            )
        return new_width, new_height
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
    new_width, new_height = (math.floor(s * sides[0] / measure + 0.5) for s in (width, height))
    return max(1, new_width), max(1, new_height)


def fit(
    pixels: Pixels,
    size: int | str,
    size_rule: str,
    upsample: bool,
    *,
    what: str,
    max_pixels: int = 100_000_000,
) -> Pixels:
    """`pixels` at the size that `target_shape` gives, by Lanczos.

    ``exact`` scales the picture to cover the size and crops the centre.

    Args:
        what: role and URI of the picture, for messages.
        max_pixels: cap on a picture that grows. One of 10,000 x 1 pixels, for example, would become
            2.6 billion pixels under ``shortest`` 512.

    Raises `PairError`: TOO_SMALL as `target_shape`, or TOO_MANY_PIXELS over the cap.
    """
    height, width = pixels.shape[:2]
    try:
        new_width, new_height = target_shape(width, height, size, size_rule, upsample)
    except PairError as error:
        raise PairError(error.code, f"{what}: {error.message}") from None
    if new_width * new_height > max(max_pixels, width * height):
        raise PairError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{what}: {width}x{height} would grow to {new_width}x{new_height}, "
            f"the limit (max_pixels) is {max_pixels}",
        )
    left, top, right, bottom = box = _box(width, height, new_width, new_height, size_rule)
    if (right - left, bottom - top) == (new_width, new_height):  # whole pixels: at most a crop
        return np.ascontiguousarray(pixels[int(top) : int(bottom), int(left) : int(right)])
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(image.resize((new_width, new_height), Image.Resampling.LANCZOS, box=box))


def fit_mask(
    mask: Mask, source: tuple[int, int], shape: tuple[int, int], size_rule: str, *, what: str
) -> Mask:
    """`mask` resized as `fit` resized its picture, so that each value stays over its pixels.

    The filter is a triangle: it averages without ringing.

    Args:
        mask: (h, w) uint8, of any size. Its aspect is that of its picture, to 1 % or to the
            rounding of its sides.
        source: height and width of the picture as decoded.
        shape: height and width of the picture after `fit`.
        size_rule: that of the picture; ``exact`` crops the mask like the picture.
        what: role and URI of the mask, for messages.

    Returns `shape` uint8. Raises `PairError` BAD_MASK for another aspect, or if no white is left.
    """
    (height, width), (new_height, new_width) = source, shape
    mask_height, mask_width = mask.shape
    if not _same_aspect((height, width), (mask_height, mask_width)):
        raise PairError(
            ErrorCode.BAD_MASK,
            f"{what}: the mask is {mask_width}x{mask_height} pixels, "
            f"its picture {width}x{height}: give a mask of the same aspect",
        )
    scale_x, scale_y = mask_width / width, mask_height / height
    left, top, right, bottom = _box(width, height, new_width, new_height, size_rule)
    box = (
        left * scale_x,
        top * scale_y,
        min(right * scale_x, mask_width),
        min(bottom * scale_y, mask_height),
    )
    image = Image.fromarray(np.ascontiguousarray(mask))
    out: Mask = np.array(image.resize((new_width, new_height), Image.Resampling.BILINEAR, box=box))
    if not out.any():
        crop = (
            " within the centre that size_rule exact keeps"
            if mask.any() and size_rule == "exact"
            else ""
        )
        raise PairError(
            ErrorCode.BAD_MASK,
            f"{what}: the mask is black all over{crop}, at {new_width}x{new_height} pixels: "
            "it marks no region",
        )
    return out


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes, height and width, have one aspect.

    They have it if it agrees to 1 %, or as nearly as sides that were rounded to whole pixels can
    tell.
    """
    (height, width), (other_height, other_width) = one, other
    low = (height - 0.5) * (other_width - 0.5) - (other_height + 0.5) * (width + 0.5)
    high = (height + 0.5) * (other_width + 0.5) - (other_height - 0.5) * (width - 0.5)
    difference = abs(other_height * width - height * other_width)
    return low <= 0 <= high or difference <= 0.01 * height * other_width


def _box(
    width: int, height: int, new_width: int, new_height: int, size_rule: str
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the part of a picture that is resized.

    It is the whole picture, or under ``exact`` the centre.
    """
    if size_rule != "exact":
        return 0.0, 0.0, float(width), float(height)
    scale = max(new_width / width, new_height / height)
    if scale == 1:  # at whole pixels
        left, top = float((width - new_width) // 2), float((height - new_height) // 2)
        return left, top, left + new_width, top + new_height
    left = max(0.0, (width - new_width / scale) / 2)
    top = max(0.0, (height - new_height / scale) / 2)
    return left, top, width - left, height - top
