"""The optimisation of Gatys, Ecker and Bethge on batches of pairs, in torch alone.

    from nstray.engine import StylizeConfig, stylize
    results = stylize([content], [style], StylizeConfig(evaluations=300), weights="imagenet")

Names are imported on first use, so that reading a configuration does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nstray.engine.settings import StylizeConfig

if TYPE_CHECKING:
    from nstray.engine.api import stylize
    from nstray.engine.network.weights import VGGWeights, load_weights
    from nstray.engine.pair import Pair, Result
    from nstray.engine.stylizer import Stylizer

_HOMES = {
    "Pair": "pair",
    "Result": "pair",
    "Stylizer": "stylizer",
    "stylize": "batches",
    "VGGWeights": "weights",
    "load_weights": "weights",
}
__all__ = ["Pair", "Result", "StylizeConfig", "Stylizer", "VGGWeights", "load_weights", "stylize"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
