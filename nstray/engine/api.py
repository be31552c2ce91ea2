"""`stylize`: the function a notebook calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from nstray.engine.batching import run_batches
from nstray.engine.network.weight_files import load_weights
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair, Result, as_image, pair_seed
from nstray.engine.progress import OnProgress
from nstray.engine.settings import StylizeConfig, pooling_note
from nstray.engine.stylizer import Stylizer
from nstray.text import counted


def stylize(
    contents: Sequence[Any],
    styles: Sequence[Any],
    config: StylizeConfig | None = None,
    *,
    weights: VGGWeights | str = "imagenet",
    device: str | torch.device | None = None,
    starts: Sequence[Any] | None = None,
    on_progress: OnProgress | None = None,
) -> list[Result]:
    """Stylise contents[i] with styles[i], in batches of one shape.

    Args:
        contents: RGB images: tensors (3, H, W), arrays (H, W, 3) or PIL images; uint8, or float
            over 0..1. Any mix of shapes.
        styles: one per content: an image, a list of images to blend equally, or None with
            `style_weight` 0.
        config: settings; default the paper's.
        weights: as `load_weights` takes or returns them.
        device: default ``cuda`` if there is one, else ``cpu``.
        starts: optional images to begin with, instead of `config.init`.
        on_progress: called with where a batch stands after each evaluation
            (`nstray.engine.progress`). It must not raise an `Exception`: that would count as the
            failure of a pair. A KeyboardInterrupt ends the call.

    Returns one `Result` per pair, in order. The seed of a noise start is
    `pair_seed(config.seed, str(i))`.

    Raises ValueError for a bad image or setting, `nstray.errors.WeightsError` for the weights.
    """
    config = config or StylizeConfig()
    if len(contents) != len(styles):
        raise ValueError(
            f"one style per content: got {counted(len(contents), 'content')} and "
            f"{counted(len(styles), 'style')}"
        )
    loaded = load_weights(weights) if isinstance(weights, str) else weights
    if (note := pooling_note(loaded.pooling, config.pooling)) is not None:
        warnings.warn(f"weights {loaded.source}: {note}", stacklevel=2)
    # no pair has settings of its own here, so no layer behind these is needed
    loaded = loaded.up_to((*config.content_layers, *config.style_layers))
    stylizer = Stylizer(config, loaded, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pairs = []
    # An id names one image only while that image lives. A lazy sequence makes its items anew at
    # each access, so they are held here.
    alive = []
    for i, (content, style) in enumerate(zip(contents, styles, strict=True)):
        images = _as_list(style)
        alive.append(images)
        pairs.append(
            Pair(
                as_image(content),
                [as_image(s) for s in images],
                style_keys=[id(s) for s in images],
                seed=pair_seed(config.seed, str(i)),
                start=None if starts is None else as_image(starts[i]),
            )
        )
    results: dict[int, Result] = {}
    for index, outcome in run_batches(stylizer, pairs, config.batch_size, on_progress=on_progress):
        if isinstance(outcome, BaseException):
            raise outcome
        results[index] = outcome
    return [results[i] for i in range(len(pairs))]


def _as_list(style: Any) -> list[Any]:
    if style is None:
        return []
    return list(style) if isinstance(style, list | tuple) else [style]
