"""What one stylisation is told: the settings of the optimisation, their defaults and their rules.

Imports no torch, so that the command line can check a configuration in milliseconds. `check` is the one place where a
setting's rule stands; the job's configuration and the manifest's per-row overrides call it too.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Pooling = Literal["average", "max"]
LossScale = Literal["mean", "paper"]
Optimizer = Literal["lbfgs", "adam"]
Dtype = Literal["float32", "bfloat16"]

# Convolutions per block of VGG-19 (configuration E of Simonyan and Zisserman, arXiv 1409.1556, table 1).
BLOCKS = (2, 2, 4, 4, 4)
CONV_LAYERS: tuple[str, ...] = tuple(f"conv{b}_{i}" for b, n in enumerate(BLOCKS, 1) for i in range(1, n + 1))
INITS = ("content", "noise", "style")
MAX_SEED = 2**63 - 1


def canonical_layer(name: str) -> str:
    """The one spelling of a layer: ``conv4_2`` (rectified) or ``pre:conv4_2`` (before the rectification).

    ``relu4_2`` and ``conv4_2`` are the same tap: the paper's text writes conv and means the rectified output.
    Raises ValueError, naming the nearest layer, for anything VGG-19 does not have.
    """
    text = name.strip()
    prefix, bare = ("pre:", text[4:]) if text.startswith("pre:") else ("", text)
    conv = "conv" + bare[4:] if bare.startswith("relu") and not prefix else bare
    if conv not in CONV_LAYERS:
        near = difflib.get_close_matches(conv, CONV_LAYERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"VGG-19 has no layer {name!r}{hint} (conv1_1 ... conv5_4, relu1_1 ... relu5_4, or pre:conv1_1 ...)")
    return prefix + conv


def _layers(value: Sequence[str] | str) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else list(value)
    out = tuple(canonical_layer(n) for n in names if n.strip())
    if len(set(out)) != len(out):
        raise ValueError(f"a layer is named twice: {', '.join(out)}")
    return out


def _one_of(literal: Any) -> Callable[[Any], Any]:
    allowed = get_args(literal)

    def rule(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}; got {value!r}")
        return value

    return rule


def _weight(value: float) -> float:
    value = float(value)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"must be a finite number of at least 0; got {value}")
    return value


def _positive(value: float) -> float:
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"must be a finite number above 0; got {value}")
    return value


def _count(low: int, high: int) -> Callable[[int], int]:
    def rule(value: int) -> int:
        if isinstance(value, bool) or int(value) != value or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}; got {value}")
        return int(value)

    return rule


def _init(value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be content, noise, style, or an image's path or URI")
    if value not in INITS and "/" not in value and "." not in value:
        near = difflib.get_close_matches(value, INITS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"must be content, noise, style, or an image's path or URI; got {value!r}{hint}")
    return value


_RULES: dict[str, Callable[[Any], Any]] = {
    "pooling": _one_of(Pooling),
    "content_layers": _layers,
    "style_layers": _layers,
    "content_weight": _weight,
    "style_weight": _weight,
    "tv_weight": _weight,
    "loss_scale": _one_of(LossScale),
    "init": _init,
    "seed": _count(0, MAX_SEED),
    "optimizer": _one_of(Optimizer),
    "learning_rate": _positive,
    "evaluations": _count(1, 1_000_000),
    "dtype": _one_of(Dtype),
    "batch_size": _count(1, 4096),
}


def check(name: str, value: Any) -> Any:
    """The value of setting `name` in canonical form; raises ValueError with what is wrong and what is allowed."""
    return _RULES[name](value)


def check_terms(content_weight: float, style_weight: float, content_layers: Sequence[str], style_layers: Sequence[str]) -> None:
    """Raise ValueError where nothing is left to optimise: no content term and no style term."""
    content = content_weight > 0 and len(content_layers) > 0
    style = style_weight > 0 and len(style_layers) > 0
    if not (content or style):
        raise ValueError("nothing to optimise: give content_weight (alpha) or style_weight (beta) a value above 0, with layers for it")


@dataclass(frozen=True)
class StylizeConfig:
    """The settings of the optimisation; names and defaults are the job configuration's.

    Attributes:
        pooling: ``average`` (the paper's choice) or ``max`` (the network as trained).
        content_layers: taps of the content term; ``conv4_2`` in the paper.
        style_layers: taps of the style term; ``conv1_1 ... conv5_1`` in the paper, each weighted 1/k.
        content_weight: alpha of equation 7.
        style_weight: beta of equation 7. The paper's ratio alpha/beta is 1e-3 or 1e-4.
        tv_weight: weight of the squared differences of neighbouring pixels (0: not in the paper).
        loss_scale: ``mean`` (content divided by N M) or ``paper`` (the printed sums, literally).
        init: ``content``, ``noise`` (uniform, seeded per pair) or ``style``; a path or URI in a job's configuration.
        seed: of the job; a pair's own seed is derived from it and the pair's id where the row gives none.
        optimizer: ``lbfgs`` or ``adam``.
        learning_rate: Adam's step, in pixel units where black is 0 and white is 1; L-BFGS finds its own.
        evaluations: forward + backward passes per pair, line search included.
        dtype: of the convolutions; Gram matrices and losses are float32 in any case.
        batch_size: pairs of one shape optimised together on a GPU; changes speed, not results beyond rounding. A CPU runs them one by one.
    """

    pooling: Pooling = "average"
    content_layers: tuple[str, ...] = ("conv4_2",)
    style_layers: tuple[str, ...] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    content_weight: float = 1.0
    style_weight: float = 1000.0
    tv_weight: float = 0.0
    loss_scale: LossScale = "mean"
    init: str = "content"
    seed: int = 0
    optimizer: Optimizer = "lbfgs"
    learning_rate: float = 0.02
    evaluations: int = 500
    dtype: Dtype = "float32"
    batch_size: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            try:
                object.__setattr__(self, field.name, check(field.name, getattr(self, field.name)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{field.name}: {error}") from None
        check_terms(self.content_weight, self.style_weight, self.content_layers, self.style_layers)
