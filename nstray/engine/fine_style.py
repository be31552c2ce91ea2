"""Fine-scale statistics of one style on the coarse-scale ones of another.

Gatys et al. 2017, arXiv 1611.07865, section 6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor

from nstray.engine.pair import Pair, Result
from nstray.engine.progress import OnEvaluation
from nstray.engine.settings import StylizeConfig
from nstray.engine.targets import TensorCache

Optimise = Callable[[Sequence[Pair], OnEvaluation | None], list[Result]]


def refine_styles(
    pair: Pair,
    config: StylizeConfig,
    optimise: Optimise,
    cache: TensorCache,
    on_evaluation: OnEvaluation | None = None,
) -> Pair:
    """The pair with the fine-scale statistics of its `fine` image in its styles.

    Each style is optimised from itself, with the style term of the fine image at `fine_layers`
    alone and no content term. The styles do not change without `fine` or without a use for them.

    Args:
        config: with the pair's own settings.
        optimise: as `Stylizer.run`.
        cache: the new style is made once per pair of named images, shape and settings that matter.
        on_evaluation: called with 0 for each evaluation, since these are not the pair's own.

    Raises FloatingPointError if the loss is not a finite number.
    """
    uses_style = config.style_weight > 0 or config.init in ("style", "content-matched")
    if pair.fine is None or not uses_style:
        return dataclasses.replace(pair, fine=None)
    own = {
        "style_layers": config.fine_layers,
        "style_statistic": config.style_statistic,
        # also for lbfgs-spectral: on pixels, which stay in their range
        "optimizer": "adam" if config.optimizer == "adam" else "lbfgs",
        "learning_rate": config.learning_rate,
        "evaluations": config.evaluations,
    }
    what = tuple(own.values())
    own |= {
        "content_weight": 0.0,
        "style_weight": 1000.0,
        "tv_weight": 0.0,
        "range_weight": 0.0,
        "loss_scale": "mean",
        "style_layer_weights": (),
        "init": "content",
        "color": "style",
        "coarse": "none",
        "value_range": "clamped",
        "tile_size": config.tile_size,
    }
    counted = None if on_evaluation is None else lambda _: on_evaluation(0)
    styles, keys = [], []
    for style, key in zip(pair.styles, pair.style_keys or [None] * len(pair.styles), strict=True):
        task = Pair(style, [pair.fine], style_keys=[pair.fine_key], settings=own)

        def compute(task: Pair = task) -> dict[str, Tensor]:
            (result,) = optimise([task], counted)
            if result.diverged:
                raise FloatingPointError("fine style: the loss is not a finite number")
            return {"image": result.image}

        named = key is not None and pair.fine_key is not None
        name = ("fine", key, pair.fine_key, tuple(style.shape), what) if named else None
        styles.append(cache.get(name, compute)["image"])
        keys.append(name)
    return dataclasses.replace(pair, styles=styles, style_keys=keys, fine=None, fine_key=None)
