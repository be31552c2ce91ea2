"""One content with its styles, what comes out for it, and what holds for a pair alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nstray.engine.settings import MAX_SEED, NAMES, StylizeConfig
from nstray.text import counted


def pair_seed(job_seed: int, pair_id: str) -> int:
    """A pair's seed from the job's and the pair's name, never from its place: 0 .. 2^63 - 1."""
    digest = hashlib.sha256(f"{job_seed}\n{pair_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


@dataclass(frozen=True)
class Pair:
    """One content, its styles, and what differs from the job's settings.

    Attributes:
        content: (3, H, W) RGB, uint8 over 0..255 or float over 0..1.
        styles: the same, each of its own size; several are blended by `blend`. Empty without a
            style term.
        blend: one weight per style, summing to 1; equal by default.
        guides: where in the content each style applies, (H, W) of the content's size, float over
            0..1 or uint8: one per style. The styles are then not blended. See
            `nstray.engine.losses.guides`.
        style_guides: which part of each style is used, (h, w) of its own size; None for the whole.
        fine: an image (3, h, w) from which the styles first take their fine-scale statistics, as in
            section 6 of arXiv 1611.07865. Each style is optimised from itself to the fine image's
            statistics at `fine_layers` alone, and the result is the style.
        style_keys: names of the styles, under which what is computed from them is cached; None
            computes it anew.
        style_guide_keys, fine_key: the same for `style_guides` and `fine`.
        seed: of a noise start.
        start: (3, H, W): an image to begin with, instead of the configuration's `init`.
        settings: the pair's own settings, by the names of `StylizeConfig`. Pooling and dtype cannot
            be a pair's own, and `seed` is the field above.
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
        image: (3, H, W) float32 over 0..1 on the CPU, clamped. The losses are those of the image
            before clamping.
        loss_total: alpha content + beta style + tv + range, at the returned image.
        loss_content, loss_style, loss_tv, loss_range: the terms without their weights; None for a
            term that was off.
        loss_curve: total loss of the best point after each evaluation; the first is the start's.
            Coarse stages come first, each with the losses of its own size.
        iterations: accepted steps.
        evaluations: forward + backward passes used. Both count all stages, and not the evaluations
            that made a fine style.
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
    """(3, H, W) from a tensor of that shape, an (H, W, 3) array, or a PIL image.

    uint8 stays uint8; floats are over 0..1. Raises ValueError for another shape, type or range.
    """
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
        low, high = float(image.min()), float(image.max())
        raise ValueError(
            f"float pixels are over 0..1; these reach from {low:g} to {high:g}: "
            "divide by 255, or give uint8"
        )
    return image.contiguous()


def pixels(image: Tensor, device: torch.device) -> Tensor:
    """An image or guide of any shape on the device, float32 over 0..1."""
    moved = image.to(device)
    return moved.float() / 255 if moved.dtype == torch.uint8 else moved.float()


def pair_settings(config: StylizeConfig, own: Mapping[str, Any]) -> StylizeConfig:
    """`config` with a pair's own settings. Raises ValueError for an unknown name or a bad value."""
    if unknown := sorted(set(own) - set(NAMES)):
        raise ValueError(
            f"no such setting of a pair: {', '.join(unknown)}; there are {', '.join(NAMES)}"
        )
    return dataclasses.replace(config, **own) if own else config


def blend_weights(pair: Pair) -> Sequence[float]:
    """The weight of each style of a pair."""
    return pair.blend or [1 / len(pair.styles)] * len(pair.styles)


def batch_key(config: StylizeConfig, pair: Pair) -> tuple[Hashable, ...]:
    """What all pairs of a batch share: what is computed, and in which stages.

    Weights, starts and budgets may differ. `config`: with the pair's own settings.
    """
    return (
        config.content_layers,
        config.style_layers,
        config.style_layer_weights,
        config.style_statistic,
        len(pair.guides or ()),
        config.loss_scale,
        config.coarse,
        config.optimizer,
        config.learning_rate,
        config.value_range,
        config.pooling,
        config.dtype,
        config.tile_size,
    )


def check_images(pairs: Sequence[Pair]) -> None:
    """Raise ValueError unless all images and guides have the shapes that a batch needs."""
    for pair in pairs:
        images = [("content", pair.content), *(("style", s) for s in pair.styles)]
        optional = (("start", pair.start), ("fine", pair.fine))
        images += [(role, image) for role, image in optional if image is not None]
        for role, image in images:
            if image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(
                    f"{role}: expected an image of shape (3, H, W); got {tuple(image.shape)}"
                )
    shapes = {tuple(p.content.shape) for p in pairs}
    if len(shapes) != 1:
        raise ValueError(f"a batch needs contents of one shape; got {sorted(shapes)}")
    for pair in pairs:
        if pair.guides is not None:
            content_side = pair.content.shape[1:]
            _check_guides("guides", pair.guides, [content_side] * len(pair.styles))
        if pair.style_guides is not None:
            _check_guides("style_guides", pair.style_guides, [s.shape[1:] for s in pair.styles])


def _check_guides(
    name: str, guides: Sequence[Tensor | None], sides: Sequence[Sequence[int]]
) -> None:
    if len(guides) != len(sides):
        raise ValueError(
            f"{name}: {counted(len(guides), 'guide')} for {counted(len(sides), 'style')}; "
            "give one for each"
        )
    for guide, side in zip(guides, sides, strict=True):
        if guide is not None and tuple(guide.shape) != tuple(side):
            raise ValueError(
                f"{name}: expected a guide of shape {tuple(side)}, that of its picture; "
                f"got {tuple(guide.shape)}"
            )
