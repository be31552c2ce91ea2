"""Fine-scale statistics of one style on the coarse-scale ones of another (Gatys et al. 2017, arXiv 1611.07865, section 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from nstray.engine.pair import Pair

if TYPE_CHECKING:
    from nstray.engine.stylizer import Stylizer


def refined(stylizer: Stylizer, pair: Pair, on_evaluation: Callable[[int], None] | None) -> Pair:
    """The pair with the fine-scale statistics of its `fine` image in its styles; itself where it has none, or no use for a style.

    Begun with the coarse-scale style image, the style term of the fine-scale one at `fine_layers` alone, without content. Made
    once per pair of images, shape and settings that matter; its evaluations are not the pair's, and `on_evaluation` is told 0 for each.
    Raises FloatingPointError where the loss is not a finite number.
    """
    config = stylizer.settings(pair.settings)
    if pair.fine is None or not (
        config.style_weight > 0 or config.init in ("style", "content-matched")
    ):
        return dataclasses.replace(pair, fine=None)
    own = {
        **{
            name: getattr(config, name)
            for name in ("style_statistic", "learning_rate", "evaluations")
        },
        "content_weight": 0.0,
        "style_weight": 1000.0,
        "tv_weight": 0.0,
        "range_weight": 0.0,
        "loss_scale": "mean",
        "style_layers": config.fine_layers,
        "style_layer_weights": (),
        "init": "content",
        "color": "style",
        "coarse": "none",
        "value_range": "clamped",
        "optimizer": "adam"
        if config.optimizer == "adam"
        else "lbfgs",  # on pixels, which are kept in their range
    }
    what = tuple(
        own[name]
        for name in ("style_layers", "style_statistic", "optimizer", "learning_rate", "evaluations")
    )
    styles, keys = [], []
    for style, key in zip(pair.styles, pair.style_keys or [None] * len(pair.styles), strict=True):
        alone = Pair(
            style,
            [pair.fine],
            style_keys=[pair.fine_key],
            settings={**own, "tile_size": config.tile_size},
        )

        def compute(alone: Pair = alone) -> dict[str, Tensor]:
            (result,) = stylizer.run([alone], on_evaluation and (lambda _: on_evaluation(0)))
            if result.diverged:
                raise FloatingPointError("fine style: the loss is not a finite number")
            return {"image": result.image.to(stylizer.device)}

        name = (
            None
            if key is None or pair.fine_key is None
            else ("fine", key, pair.fine_key, tuple(style.shape), what)
        )
        styles.append(stylizer.remembered(name, compute)["image"])
        keys.append(name)
    return dataclasses.replace(pair, styles=styles, style_keys=keys, fine=None, fine_key=None)
