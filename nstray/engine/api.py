"""`stylize`: the function a notebook calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nstray.engine.batching import run_batches
from nstray.engine.network.weights import VGGWeights, load_weights
from nstray.engine.pair import Pair, Result, as_image, pair_seed
from nstray.engine.settings import StylizeConfig
from nstray.engine.stylizer import Stylizer


def stylize(
    contents: Sequence[Any],
    styles: Sequence[Any],
    config: StylizeConfig | None = None,
    *,
    weights: VGGWeights | str = "imagenet",
    device: str | torch.device | None = None,
    starts: Sequence[Any] | None = None,
) -> list[Result]:
    """Stylise contents[i] with styles[i], in batches of one shape.

    Args:
        contents: RGB images: tensors (3, H, W), arrays (H, W, 3) or PIL images; uint8, or float over 0..1. Any mix of shapes.
        styles: one per content: an image, a list of images to blend equally, or None with `style_weight` 0.
        config: settings; the paper's where None.
        weights: as `load_weights` takes or returns them.
        device: default: ``cuda`` where there is one.
        starts: optional images to begin with, instead of `config.init`.

    Returns one `Result` per pair, in order. A noise start's seed is `pair_seed(config.seed, str(i))`.
    Raises ValueError for a bad image or setting, `nstray.errors.WeightsError`.
    """
    config = config or StylizeConfig()
    if len(contents) != len(styles):
        raise ValueError(
            f"one style per content: got {len(contents)} contents and {len(styles)} styles"
        )
    loaded = load_weights(weights) if isinstance(weights, str) else weights
    # no pair has settings of its own here, so no layer behind these is needed
    loaded = loaded.cut((*config.content_layers, *config.style_layers))
    stylizer = Stylizer(config, loaded, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pairs, alive = [], []
    for i, (content, style) in enumerate(zip(contents, styles, strict=True)):
        listed = (
            [] if style is None else list(style) if isinstance(style, list | tuple) else [style]
        )
        start = None if starts is None else as_image(starts[i])
        alive.append(
            listed
        )  # an id names one image only while that lives, and a lazy sequence makes its items anew
        keys = [id(s) for s in listed]
        seed = pair_seed(config.seed, str(i))
        pairs.append(
            Pair(
                as_image(content),
                [as_image(s) for s in listed],
                style_keys=keys,
                seed=seed,
                start=start,
            )
        )
    results: dict[int, Result] = {}
    for index, outcome in run_batches(stylizer, pairs, config.batch_size):
        if isinstance(outcome, BaseException):
            raise outcome
        results[index] = outcome
    return [results[i] for i in range(len(pairs))]
