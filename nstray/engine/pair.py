"""One content with its styles, and what comes out for it."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nstray.engine.settings import MAX_SEED


def pair_seed(job_seed: int, pair_id: str) -> int:
    """The seed of a pair from the job's and the pair's name, never from its place: 0 .. 2^63 - 1."""
    digest = hashlib.sha256(f"{job_seed}\n{pair_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


@dataclass(frozen=True)
class Pair:
    """One content, its styles, and what differs from the job's settings.

    Attributes:
        content: (3, H, W) RGB, uint8 over 0..255 or float over 0..1.
        styles: the same, each of its own size; several are blended by `blend`. Empty where there is no style term.
        blend: one weight per style, summing to 1; equal by default.
        guides: where in the content each style applies, (H, W) of the content's size, float over 0..1 or uint8: one per style, and then
            the styles are not blended. See `nstray.engine.losses.guides`.
        style_guides: which part of each style is used, (h, w) of its own size; None for the whole.
        fine: an image (3, h, w) from which the styles take their fine-scale statistics first, as in section 6 of arXiv 1611.07865: each is
            optimised from itself to the fine image's statistics at `fine_layers` alone, and the result is the style.
        style_keys: names of the styles, under which what is computed from them is kept; None computes it anew.
        style_guide_keys, fine_key: the same for `style_guides` and `fine`.
        seed: of a noise start.
        start: (3, H, W): an image to begin with, instead of the configuration's `init`.
        settings: what the pair has of its own, by the names of `StylizeConfig`; not pooling and dtype, and `seed` is the field above.
    """

    content: Tensor
    styles: Sequence[Tensor]
    blend: Sequence[float] | None = None
    style_keys: Sequence[Hashable] | None = None
    guides: Sequence[Tensor] | None = None
    style_guides: Sequence[Tensor | None] | None = None
    style_guide_keys: Sequence[Hashable] | None = None
    fine: Tensor | None = None
    fine_key: Hashable = None
    seed: int = 0
    start: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came out for one pair.

    Attributes:
        image: (3, H, W) float32 over 0..1 on the CPU, clamped; the losses are those of the image before clamping.
        loss_total: alpha content + beta style + tv + range, at the returned image.
        loss_content, loss_style, loss_tv, loss_range: the terms without their weights; None for a term that was off.
        loss_curve: total loss of the best point after each evaluation; the first is the start's. Coarse stages come first, each
            with the losses of its own size.
        iterations: accepted steps. evaluations: forward + backward passes used. Both over all stages, without those that made a fine style.
        seconds: the pair's share of its batch's time on the device.
        diverged: the loss was not a finite number; the image is then the start.
    """

    image: Tensor = field(repr=False)
    loss_total: float
    loss_content: float | None
    loss_style: float | None
    loss_tv: float | None
    loss_range: float | None
    loss_curve: list[float] = field(repr=False)
    iterations: int
    evaluations: int
    seconds: float
    seed: int
    diverged: bool = False


def as_image(value: Any) -> Tensor:
    """(3, H, W) from a tensor of that shape, an (H, W, 3) array, or a PIL image; uint8 stays uint8, floats are over 0..1. Raises ValueError."""
    image = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
    if image.ndim == 3 and image.shape[0] != 3 and image.shape[2] == 3:
        image = image.permute(2, 0, 1)
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"expected an RGB image (3, H, W) or (H, W, 3); got shape {tuple(image.shape)}"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"expected uint8 (0..255) or float (0..1) pixels; got {image.dtype}")
    if image.is_floating_point() and not bool(((image > -1) & (image < 2)).all()):
        raise ValueError(
            f"float pixels are over 0..1; these reach from {float(image.min()):g} to {float(image.max()):g}: divide by 255, or give uint8"
        )
    return image.contiguous()
