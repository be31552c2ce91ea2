"""A loaded pair as the engine takes it, and what the engine made of it as a pair's outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from nstray.engine.losses.guides import EmptyGuide
from nstray.engine.pair import Pair as EnginePair
from nstray.engine.pair import Result
from nstray.errors import ErrorCode, PairError
from nstray.manifest.pair import Pair
from nstray.worker.image_cache import Picture
from nstray.worker.inputs import LoadedPair

log = logging.getLogger(__name__)


def engine_pair(ready: LoadedPair, own_settings: Callable[[Pair], dict[str, Any]]) -> EnginePair:
    """The pair with its images as tensors.

    Args:
        ready: a pair without an error.
        own_settings: `Inputs.own_settings`.
    """
    assert ready.content is not None
    style_masks = ready.style_masks or [None] * len(ready.styles)
    return EnginePair(
        content=_tensor(ready.content),
        styles=[_tensor(s) for s in ready.styles],
        blend=ready.pair.style_weights,
        style_keys=[_resized_key(s) for s in ready.styles],
        style_guide_keys=[m and m.sha256 for m in style_masks],
        guides=[_tensor(m) for m in ready.masks] or None,
        style_guides=[None if m is None else _tensor(m) for m in style_masks],
        fine=None if ready.fine is None else _tensor(ready.fine),
        fine_key=ready.fine and _resized_key(ready.fine),
        seed=ready.seed,
        start=None if ready.start is None else _tensor(ready.start),
        settings=own_settings(ready.pair),
    )


def as_pair_error(outcome: Result | Exception, pair_id: str) -> Result | PairError:
    """A result that may be kept, or the reason why there is none."""
    if isinstance(outcome, Result):
        if outcome.diverged:
            return PairError(
                ErrorCode.DIVERGED,
                "the loss is not a finite number; lower the weights of the terms or use float32",
            )
        return outcome
    if isinstance(outcome, FloatingPointError):
        return PairError(ErrorCode.DIVERGED, str(outcome))
    if isinstance(outcome, EmptyGuide):
        return PairError(ErrorCode.BAD_MASK, f"{outcome} (with coarse, at its smallest size)")
    if isinstance(outcome, torch.cuda.OutOfMemoryError):
        return PairError(
            ErrorCode.OUT_OF_MEMORY,
            "this pair alone does not fit the device's memory, in tiles either; use a smaller size",
        )
    log.error("pair=%s error=%s: %s", pair_id, type(outcome).__name__, outcome)
    return PairError(ErrorCode.INTERNAL, f"{type(outcome).__name__}: {outcome}")


def _resized_key(image: Picture) -> tuple[str, int, int]:
    """What tells a resized style from others: a style keeps its aspect, so its height and width."""
    height, width = image.pixels.shape[:2]
    return image.sha256, height, width


def _tensor(image: Picture) -> torch.Tensor:
    """The pixels as (3, H, W), or (H, W) of a mask."""
    pixels = torch.from_numpy(image.pixels)
    return pixels if pixels.ndim == 2 else pixels.permute(2, 0, 1)
