"""What the engine's tests run on: the first layers of the random network, and small pictures with structure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair
from nstray.engine.settings import CONV_LAYERS, NAMES, StylizeConfig
from nstray.engine.stylizer import Stylizer

FIVE = {"content_layers": ("conv2_2",), "style_layers": ("conv1_1", "conv2_1", "conv3_1")}
TWO = {"content_layers": ("conv1_2",), "style_layers": ("conv1_1", "conv1_2")}
THREE = {"content_layers": ("conv2_1",), "style_layers": ("conv1_1", "conv2_1")}


@lru_cache
def weights(layers: int = 3) -> VGGWeights:
    """conv1_1 up to conv2_1 (3) or conv3_1 (5)."""
    return weights(5).up_to([CONV_LAYERS[layers - 1]]) if layers < 5 else random_weights(CONV_LAYERS[:layers])


def picture(seed: int, height: int = 32, width: int = 32) -> Tensor:
    """(3, height, width) over 0..1: soft colour fields with a little grain."""
    generator = torch.Generator().manual_seed(seed)
    soft = F.interpolate(torch.rand(1, 3, 5, 5, generator=generator), (height, width), mode="bicubic", align_corners=False)[0]
    return (soft + 0.15 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)


def config(**values: Any) -> StylizeConfig:
    return StylizeConfig(**{**THREE, "evaluations": 8, **values})


def stylizer(**values: Any) -> Stylizer:
    """On the CPU, with as many layers as its taps ask for."""
    c = config(**values)
    taps = (*c.content_layers, *c.style_layers)
    return Stylizer(c, weights(5 if any(t.removeprefix("pre:") == "conv3_1" for t in taps) else 3))


def pair(seed: int, **values: Any) -> Pair:
    """Content and style pictures drawn from `seed`."""
    own = {name: values.pop(name) for name in list(values) if name in NAMES and name != "seed"}
    return Pair(**{"content": picture(seed), "styles": [picture(seed + 1000)], "seed": seed, "settings": own, **values})


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected, in float64."""
    return float(((found.double() - expected.double()).norm() / expected.double().norm()).detach())


def count_passes(s: Stylizer) -> list[int]:
    """A list that grows by the batch size at each pass through the network."""
    passes: list[int] = []
    s.network.register_forward_hook(lambda module, args, out: passes.append(len(args[0])))
    return passes
