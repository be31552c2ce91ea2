"""The optimisation of Gatys, Ecker and Bethge on batches of pairs, in torch alone.

    from nstray.engine import StylizeConfig, stylize
    results = stylize([content], [style], StylizeConfig(evaluations=300), weights="imagenet")

Names are imported on first use, so that reading a configuration does not import torch.

    api         stylize: the function that a notebook calls
    batching    many pairs of any shapes through one Stylizer
    stylizer    one batch: prepare the pairs, optimise in stages, give the results
    pair        Pair and Result; pixels, own settings and checks of a pair
    progress    Progress: where a batch stands, for callbacks
    targets     style targets and their cache
    stages      coarse stages: sizes, shrinking, enlarging
    fine_style  a style with the fine-scale statistics of another one
    color       the content's colours
    settings    StylizeConfig and the rule of every setting
    presets     named sets of settings
    network/    VGG-19, its weights, their normalisation, fast convolutions
    losses/     content, style and pixel terms; guides; tiles
    optim/      L-BFGS, Adam, and the change of variables to frequencies
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nstray.engine.settings import StylizeConfig

if TYPE_CHECKING:
    from nstray.engine.api import stylize
    from nstray.engine.network.weight_files import load_weights
    from nstray.engine.network.weights import VGGWeights
    from nstray.engine.pair import Pair, Result
    from nstray.engine.progress import Progress
    from nstray.engine.stylizer import Stylizer

_MODULES = {
    "Pair": "pair",
    "Progress": "progress",
    "Result": "pair",
    "Stylizer": "stylizer",
    "stylize": "api",
    "VGGWeights": "network.weights",
    "load_weights": "network.weight_files",
}
__all__ = [
    "Pair",
    "Progress",
    "Result",
    "StylizeConfig",
    "Stylizer",
    "VGGWeights",
    "load_weights",
    "stylize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
