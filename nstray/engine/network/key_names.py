"""The names that programs give the convolutions of a VGG-19, and the conventions behind them.

    torchvision                features.0.weight              RGB
    Caffe's networks           conv1_1.weight                 BGR
    Collaborative Distillation conv0.weight, conv11.weight    RGB, reflected borders, max pooling

The third are the encoders of github.com/MingSun-Tse/Collaborative-Distillation. Their conv0 maps
RGB over 0..1 to what conv1_1 expects. It is folded into conv1_1, which is exact: a 1 x 1
convolution commutes with reflection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nstray.engine.network.weights import RGB_MEAN, RGB_STD, Input, Padding
from nstray.engine.settings import BLOCKS, CONV_LAYERS, Pooling
from nstray.errors import WeightsError


def _feature_index() -> dict[str, int]:
    index, found = 0, {}
    for block, convolutions in enumerate(BLOCKS, 1):
        for i in range(1, convolutions + 1):
            found[f"conv{block}_{i}"] = index
            index += 2  # a ReLU follows each convolution
        index += 1  # a pooling ends each block
    return found


# Position of each convolution in torchvision's `vgg19().features`.
FEATURE_INDEX = _feature_index()
_BY_INDEX = {v: k for k, v in FEATURE_INDEX.items()}
_KEY = re.compile(
    r"(?:module\.)?(?:features\.(?P<index>\d+)|conv(?P<caffe>\d_\d)|conv(?P<short>[1-5]\d|0))"
    r"\.(?P<kind>weight|bias)"
)


@dataclass(frozen=True)
class Convolutions:
    """What a state dict holds of a VGG-19.

    Attributes:
        tensors: float32, by names such as ``conv1_1.weight``, up to the first gap.
        input, padding, pooling: as the names tell; None for a pooling that they do not tell.
        gap: the convolution that is missing although deeper ones are there; or empty.
    """

    tensors: Mapping[str, Tensor]
    input: Input
    padding: Padding
    pooling: Pooling | None
    gap: str


def convolutions(state: Mapping[str, object], source: str) -> Convolutions:
    """The convolutions of a state dict, checked for shape and finite values.

    Raises WeightsError, naming `source` and the layer.
    """
    found: dict[str, Tensor] = {}
    schemes = set()
    for key, value in state.items():
        match = _KEY.fullmatch(str(key))
        if not match or not isinstance(value, Tensor):
            continue
        layer, scheme = _layer(match)
        if layer:
            found[f"{layer}.{match['kind']}"] = value
            schemes.add(scheme)
    folded = "short" in schemes
    if folded:
        _fold_pixels(found, source)
    present = {k.split(".")[0] for k in found}
    tensors: dict[str, Tensor] = {}
    before, channels, gap = "the picture", 3, ""
    for layer in CONV_LAYERS:
        weight, bias = found.get(f"{layer}.weight"), found.get(f"{layer}.bias")
        if weight is None or bias is None:
            gap = layer if any(f"{x}" in present for x in _behind(layer)) else ""
            break
        if not (weight.is_floating_point() and bias.is_floating_point()):
            raise WeightsError(
                f"weights {source}: {layer} holds {weight.dtype} and {bias.dtype}; weights are "
                "float16, bfloat16, float32 or float64"
            )
        n = bias.shape[0] if bias.ndim else 0
        if bias.ndim != 1 or n < 1 or tuple(weight.shape) != (n, channels, 3, 3):
            raise WeightsError(
                f"weights {source}: {layer} has shape {tuple(weight.shape)} and bias "
                f"{tuple(bias.shape)}; behind the {channels} channels of {before} VGG-19 has "
                f"(N, {channels}, 3, 3) and (N,) with any N"
            )
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise WeightsError(f"weights {source}: {layer} holds values that are not finite")
        tensors[f"{layer}.weight"] = weight.float().contiguous()
        tensors[f"{layer}.bias"] = bias.float().contiguous()
        before, channels = layer, n
    if not tensors:
        sample = ", ".join(list(map(str, state))[:3]) or "none"
        below = [str(key) for key, value in state.items() if isinstance(value, Mapping)]
        if below:
            raise WeightsError(
                f"weights {source}: its tensors lie below {below[0]!r}; save that alone"
            )
        raise WeightsError(
            f"weights {source}: no conv1_1 in it; "
            f"expected keys like features.0.weight or conv1_1.weight, found {sample}"
        )
    if any(str(key).endswith(".running_mean") for key in state):
        raise WeightsError(
            f"weights {source}: it has batch normalisation; nstray needs a VGG-19 without it"
        )
    return Convolutions(
        tensors,
        "bgr" if "caffe" in schemes else "rgb",
        "reflect" if folded else "zero",
        "max" if folded else None,
        gap,
    )


def _layer(match: re.Match[str]) -> tuple[str, str]:
    """The layer that a key names, or an empty text, and the scheme of the name."""
    if match["index"]:
        return _BY_INDEX.get(int(match["index"]), ""), "index"
    if match["caffe"]:
        return f"conv{match['caffe']}", "caffe"
    short = match["short"]
    return ("conv0" if short == "0" else f"conv{short[0]}_{short[1]}"), "short"


def _behind(layer: str) -> tuple[str, ...]:
    return CONV_LAYERS[CONV_LAYERS.index(layer) + 1 :]


def _fold_pixels(found: dict[str, Tensor], source: str) -> None:
    """Fold conv0 into conv1_1, whose input becomes RGB less torchvision's mean, over its deviation.

    With z that input, conv0 is W (std z + mean) + b. So conv1_1's filters are multiplied by W std,
    and its bias grows by the sum of its filters times W mean + b.
    """
    pixel, offset = found.pop("conv0.weight", None), found.pop("conv0.bias", None)
    if pixel is None or offset is None:
        raise WeightsError(
            f"weights {source}: it has conv11 and so on but no conv0, which maps the pixels; "
            "take the whole encoder of Collaborative Distillation"
        )
    weight, bias = found.get("conv1_1.weight"), found.get("conv1_1.bias")
    if tuple(pixel.shape) != (3, 3, 1, 1) or tuple(offset.shape) != (3,):
        raise WeightsError(
            f"weights {source}: conv0 has shape {tuple(pixel.shape)} and bias "
            f"{tuple(offset.shape)}; it should have (3, 3, 1, 1) and (3,)"
        )
    if weight is None or bias is None or weight.ndim != 4 or weight.shape[1] != 3:
        return  # `convolutions` says what is wrong with conv1_1
    matrix = pixel.double().view(3, 3)
    filters = weight.double()
    shift = matrix @ RGB_MEAN.double() + offset.double()
    found["conv1_1.bias"] = bias.double() + torch.einsum("nchw,c->n", filters, shift)
    found["conv1_1.weight"] = torch.einsum("nchw,cd->ndhw", filters, matrix * RGB_STD.double())
