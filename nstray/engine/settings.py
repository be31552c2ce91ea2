"""The settings of the optimisation, their defaults and their rules.

Imports no torch, so that the command line can check a configuration in milliseconds. `check` is the
only place of a setting's rule. The job's configuration and the manifest's per-row overrides call it
too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from nstray.text import counted, did_you_mean

Pooling = Literal["average", "max"]
LossScale = Literal["mean", "paper"]
Optimizer = Literal["lbfgs", "lbfgs-spectral", "adam"]
Dtype = Literal["float32", "bfloat16", "auto"]
Color = Literal["style", "luminance", "match"]
ColorMatch = Literal["cholesky", "pca", "symmetric"]
StyleStatistic = Literal["gram", "wasserstein", "mean-std"]
ValueRange = Literal["free", "clamped"]

# Convolutions per block of VGG-19 (configuration E of Simonyan and Zisserman, arXiv 1409.1556,
# table 1).
BLOCKS = (2, 2, 4, 4, 4)
# Filters per block (the same table). A network may have others.
BLOCK_WIDTHS = (64, 128, 256, 512, 512)
CONV_LAYERS: tuple[str, ...] = tuple(
    f"conv{b}_{i}" for b, n in enumerate(BLOCKS, 1) for i in range(1, n + 1)
)
INITS = ("content", "content-matched", "noise", "style")
MAX_SEED = 2**63 - 1
# Longest side in pixels below which ``auto`` and ``sqrt2`` of `coarse` add no stage: nothing of the
# picture but its layout is left there.
COARSEST = 128
# Pixels: below this a tile is mostly the margin that its neighbours compute too.
SMALLEST_TILE = 64


# the networks that have a name: torchvision's, the one in the package, and seeded filters
NAMED_WEIGHTS = ("imagenet", "compact", "random")


def pooling_note(own: str | None, used: str | None) -> str | None:
    """What to say if a network is used with another pooling than its own; None if it is not.

    Args:
        own: the one that the network was trained with or normalised under; None if unknown.
    """
    if own is None or used is None or own == used:
        return None
    return f"made for {own} pooling, and used with {used}; --pooling {own} gives its own features"


def canonical_layer(name: str) -> str:
    """The one spelling of a layer: ``conv4_2`` (rectified) or ``pre:conv4_2`` (before that).

    ``relu4_2`` and ``conv4_2`` are the same tap: the paper's text writes conv and means the
    rectified output.

    Raises ValueError, naming the nearest layer, for anything VGG-19 does not have.
    """
    text = name.strip()
    prefix, bare = ("pre:", text[4:]) if text.startswith("pre:") else ("", text)
    conv = "conv" + bare[4:] if bare.startswith("relu") and not prefix else bare
    if conv not in CONV_LAYERS:
        raise ValueError(
            f"VGG-19 has no layer {name!r}{did_you_mean(conv, CONV_LAYERS)} "
            "(conv1_1 ... conv5_4, relu1_1 ... relu5_4, or pre:conv1_1 ...)"
        )
    return prefix + conv


def _layers(value: Sequence[str] | str) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else list(value)
    out = tuple(canonical_layer(n) for n in names if n.strip())
    if len(set(out)) != len(out):
        raise ValueError(f"a layer is named twice: {', '.join(out)}")
    return out


def _some_layers(value: Sequence[str] | str) -> tuple[str, ...]:
    out = _layers(value)
    if not out:
        raise ValueError("must name at least one layer")
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


def _tile(value: int) -> int:
    side = _count(0, 65_536)(value)
    if 0 < side < SMALLEST_TILE:
        raise ValueError(
            f"must be 0 (whole pictures) or from {SMALLEST_TILE} to 65536 pixels; got {side}"
        )
    return side


def _numbers(value: Sequence[float] | str) -> tuple[float, ...]:
    numbers = tuple(
        float(v) for v in (value.split(",") if isinstance(value, str) else value) if str(v).strip()
    )
    if not all(math.isfinite(v) and v >= 0 for v in numbers):
        raise ValueError(
            f"must be finite numbers of at least 0; got {', '.join(map(str, numbers))}"
        )
    if numbers and not any(numbers):
        raise ValueError("must not all be 0; use style_weight 0 for no style term")
    return numbers


def _coarse(value: str) -> str:
    if not isinstance(value, str):  # YAML reads 128:50 as minutes and seconds
        raise ValueError(
            f"must be text; got {value!r}: quote the stages in YAML, as in coarse: '128:50'"
        )
    if value in ("none", "auto", "half", "sqrt2"):
        return value
    stages = []
    for part in str(value).split(","):
        side, _, budget = part.strip().partition(":")
        relative = side.endswith("%")
        side = side.removesuffix("%")
        if not (
            side.isdigit()
            and budget.isdigit()
            and 1 <= int(side) <= (99 if relative else 65_536)
            and 1 <= int(budget) <= 1_000_000
        ):
            raise ValueError(
                "must be none, auto, half, sqrt2, or stages as SIDE:EVALUATIONS, "
                f"such as 128:200,256:100 or 25%:60,50%:40; got {value!r}"
            )
        stages.append((relative, int(side), int(budget)))
    if len({relative for relative, _, _ in stages}) > 1:
        raise ValueError(f"the stages' sides must all be pixels or all per cent; got {value!r}")
    if any(later <= earlier for (_, earlier, _), (_, later, _) in itertools.pairwise(stages)):
        raise ValueError(f"the sides of the stages must grow; got {value!r}")
    return ",".join(f"{side}{'%' * relative}:{budget}" for relative, side, budget in stages)


def _init(value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be {', '.join(INITS)}, or an image's path or URI")
    if value not in INITS and "/" not in value and "." not in value:
        raise ValueError(
            f"must be {', '.join(INITS)}, or an image's path or URI; "
            f"got {value!r}{did_you_mean(value, INITS)}"
        )
    return value


_RULES: dict[str, Callable[[Any], Any]] = {
    "pooling": _one_of(Pooling),
    "content_layers": _layers,
    "style_layers": _layers,
    "style_layer_weights": _numbers,
    "style_statistic": _one_of(StyleStatistic),
    "fine_layers": _some_layers,
    "content_weight": _weight,
    "style_weight": _weight,
    "tv_weight": _weight,
    "value_range": _one_of(ValueRange),
    "range_weight": _weight,
    "loss_scale": _one_of(LossScale),
    "init": _init,
    "seed": _count(0, MAX_SEED),
    "coarse": _coarse,
    "color": _one_of(Color),
    "color_match": _one_of(ColorMatch),
    "optimizer": _one_of(Optimizer),
    "learning_rate": _positive,
    "evaluations": _count(1, 1_000_000),
    "dtype": _one_of(Dtype),
    "batch_size": _count(1, 4096),
    "tile_size": _tile,
}


def check(name: str, value: Any) -> Any:
    """The value of setting `name` in canonical form.

    Raises ValueError with what is wrong and what is allowed.
    """
    return _RULES[name](value)


def check_terms(
    content_weight: float,
    style_weight: float,
    content_layers: Sequence[str],
    style_layers: Sequence[str],
) -> None:
    """Raise ValueError if nothing is left to optimise: no content term and no style term."""
    content = content_weight > 0 and len(content_layers) > 0
    style = style_weight > 0 and len(style_layers) > 0
    if not (content or style):
        raise ValueError(
            "nothing to optimise: give content_weight (alpha) or style_weight (beta) a value "
            "above 0, with layers for it"
        )


def check_layer_weights(style_layers: Sequence[str], style_layer_weights: Sequence[object]) -> None:
    """Raise ValueError if there are weights of layers, but not one for each."""
    if style_layer_weights and len(style_layer_weights) != len(style_layers):
        raise ValueError(
            f"style_layer_weights: {counted(len(style_layer_weights), 'weight')} for "
            f"{len(style_layers)} style_layers ({', '.join(style_layers)}); give one for "
            "each, or none for equal ones"
        )


def coarse_stages(coarse: str, longest: int) -> list[tuple[int, int | None]]:
    """The stages before the full size, smallest first.

    Each is (longest side in pixels, evaluations or None for the setting's). ``auto`` halves the
    longest side down to 128 pixels. ``sqrt2`` divides it by the root of two (Crowson's steps).
    ``half`` is one stage at half the size (Gatys' two stages). A side may be per cent of the
    picture's longest. A stage that is not smaller than the picture is left out.

    Args:
        coarse: in canonical form, as `check` gives it.
        longest: side of the picture in pixels.
    """
    if coarse == "none":
        return []
    if coarse == "half":
        return [(round(longest / 2), None)]
    if coarse in ("auto", "sqrt2"):
        ratio = 2.0 if coarse == "auto" else math.sqrt(2)
        sides = []
        k = 1
        while (side := round(longest / ratio**k)) >= COARSEST:
            sides.append(side)
            k += 1
        return [(side, None) for side in reversed(sides)]
    parts = [part.split(":") for part in coarse.split(",")]
    stages = [
        (round(longest * int(side[:-1]) / 100) if side.endswith("%") else int(side), int(budget))
        for side, budget in parts
    ]
    return [(side, budget) for side, budget in stages if side < longest]


def same_stages_at_any_size(coarse: str) -> bool:
    """Whether pictures of all sizes have equally many stages; a larger one never has fewer."""
    return len(coarse_stages(coarse, 1)) == len(coarse_stages(coarse, 2**20))


@dataclass(frozen=True)
class StylizeConfig:
    """The settings of the optimisation; names and defaults are the job configuration's.

    Attributes:
        pooling: ``average`` (the paper's choice) or ``max`` (the network as trained).
        content_layers: taps of the content term; ``conv4_2`` in the paper.
        style_layers: taps of the style term; ``conv1_1 ... conv5_1`` in the paper, each weighted
            1/k.
        style_layer_weights: w_l of equation 5, one per style layer, taken as they are; empty for
            the paper's 1/k.
        style_statistic: what of the activations is matched: ``gram``, as in the paper;
            ``wasserstein``, mean and covariance; or ``mean-std``. See
            `nstray.engine.losses.style_statistics`.
        fine_layers: if a pair has a second, fine style: the layers whose statistics the first one
            takes from it. See `Pair.fine`.
        content_weight: alpha of equation 7.
        style_weight: beta of equation 7. The paper's ratio alpha/beta is 1e-3 or 1e-4.
        tv_weight: weight of the squared differences of neighbouring pixels (0: not in the paper).
        value_range: ``clamped``: pixels stay within 0..1 during the whole optimisation, so that the
            picture in the file is the one that was optimised. ``free``: the picture is clamped at
            the end only. That raised the objective of the written picture to 3.4 to 12 times from
            noise, and 1.1 to 1.4 times from the content (500 evaluations, 128 px, the authors'
            first layers). The paper names no range.
        range_weight: weight of the squared excess of pixels below 0 and above 1 (0: not in the
            paper).
        loss_scale: ``mean`` (content divided by N M) or ``paper`` (the printed sums, literally).
        init: ``content``, ``content-matched`` (in the style's colours, see `color_match`),
            ``noise`` (uniform, seeded per pair) or ``style``; a path or URI in a job's
            configuration.
        coarse: stages at smaller sizes first. Each begins with the last one's result, enlarged, and
            the content's finest detail. ``none``, ``auto``, ``half``, ``sqrt2`` or
            SIDE:EVALUATIONS,... with pixels or per cent; see `coarse_stages`. Not in the paper.
        color: whose colours the picture has (Gatys et al. 2016, arXiv 1606.05897): ``style``, or
            the content's, by ``luminance`` (only luminance is optimised) or by ``match`` (the style
            image is recoloured like the content first).
        color_match: the affine map for it: ``cholesky``, ``pca`` or ``symmetric``; see
            `nstray.engine.color`.
        seed: of the job. A pair's own seed is derived from it and the pair's id, unless the row
            gives one.
        optimizer: ``lbfgs``; ``lbfgs-spectral``, which takes its steps on frequencies, each band
            with its own scale, and ends lower after as many evaluations (see
            `nstray.engine.optim.dct`); or ``adam``.
        learning_rate: Adam's step, in pixel units in which black is 0 and white is 1; L-BFGS finds
            its own.
        evaluations: forward + backward passes per pair, line search included; in each stage of
            ``auto``, ``half`` and ``sqrt2`` too.
        dtype: of the convolutions: ``float32``; ``bfloat16``; or ``auto``: bfloat16 if the device
            computes in it natively, else float32. Gram matrices and losses are float32 in any case.
        tile_size: side in pixels of the tiles that a larger picture is evaluated in, one after the
            other, to bound memory. 0: whole, and in tiles if a GPU's memory is short. Changes
            speed, not results beyond rounding.
        batch_size: pairs of one shape optimised together on a GPU; changes speed, not results
            beyond rounding. A CPU runs them one by one.

    Raises ValueError that begins with the name of the setting.
    """

    pooling: Pooling = "average"
    content_layers: tuple[str, ...] = ("conv4_2",)
    style_layers: tuple[str, ...] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    style_layer_weights: tuple[float, ...] = ()
    style_statistic: StyleStatistic = "gram"
    fine_layers: tuple[str, ...] = ("conv1_1", "conv2_1")
    content_weight: float = 1.0
    style_weight: float = 1000.0
    tv_weight: float = 0.0
    value_range: ValueRange = "clamped"
    range_weight: float = 0.0
    loss_scale: LossScale = "mean"
    init: str = "content"
    coarse: str = "none"
    color: Color = "style"
    color_match: ColorMatch = "cholesky"
    seed: int = 0
    optimizer: Optimizer = "lbfgs"
    learning_rate: float = 0.02
    evaluations: int = 500
    dtype: Dtype = "float32"
    batch_size: int = 8
    tile_size: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            try:
                object.__setattr__(self, field.name, check(field.name, getattr(self, field.name)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{field.name}: {error}") from None
        check_terms(self.content_weight, self.style_weight, self.content_layers, self.style_layers)
        check_layer_weights(self.style_layers, self.style_layer_weights)


NAMES: tuple[str, ...] = tuple(field.name for field in fields(StylizeConfig))
