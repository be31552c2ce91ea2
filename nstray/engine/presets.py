"""Named sets of settings: what a paper or a program uses, put on nstray's scale.

nstray's terms are on the scale ``mean`` (`nstray.engine.losses.gatys`). With MSE the mean squared
difference:

    term      here                        a program's         is here
    content   1/2 MSE(F, P)               a MSE(F, P)         content_weight 2 a
    style     1/4 MSE(G/M, A/M) per l     b MSE(G/M, A/M)     style_weight * w_l = 4 b
                                          b MSE(G/NM, A/NM)   style_weight * w_l = 4 b / N^2
    tv        sum / (3 H W), over 0..1    t/2 sum, over       tv_weight = t/2 255^2 3 H W
                                          0..255

Only `quick` names weights, those in the package. The others say which network they were made for.
docs/presets.md has them side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nstray.text import did_you_mean

_STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
_BY_WIDTH = tuple(1 / n**2 for n in (64, 128, 256, 512, 512))

GATYS_2015: Mapping[str, Any] = {
    "pooling": "average",
    "content_layers": ("conv4_2",),
    "style_layers": _STYLE,
    "content_weight": 1.0,
    "style_weight": 1e3,
    "value_range": "clamped",
    "loss_scale": "mean",
    "init": "noise",
    "optimizer": "lbfgs",
    "evaluations": 500,
}
"""arXiv 1508.06576, section Methods and the caption of figure 2: w_l = 1/5, alpha/beta 1e-3 (1e-4
for two of its pictures), average pooling, white noise. Network: VGG-19, normalised.

The number of evaluations is nstray's: the paper names none. It names no range of the pixels either.
Within 0..1 the losses are no higher, and the picture in the file keeps them. See
docs/performance.md."""

GATYS_2016: Mapping[str, Any] = {**GATYS_2015, "size": 512, "size_rule": "longest"}
"""Gatys, Ecker, Bethge, CVPR 2016, section 3 and the caption of figure 3: as in 2015, with L-BFGS
named and pictures of about 512 x 512; alpha/beta 1e-3, 8e-4, 5e-3 and 5e-4 over the figure's
pictures. Network: VGG-19, normalised."""

GATYS_PYTORCH: Mapping[str, Any] = {
    "pooling": "max",
    "content_layers": ("conv4_2",),
    "style_layers": _STYLE,
    "style_layer_weights": _BY_WIDTH,
    "content_weight": 2.0,
    "style_weight": 4e3,
    "value_range": "free",
    "loss_scale": "mean",
    "init": "content",
    "optimizer": "lbfgs",
    "evaluations": 500,
    "size": 512,
    "size_rule": "shortest",
}
"""github.com/leongatys/PytorchNeuralStyleTransfer: MSE content with weight 1; MSE of F F^T / M with
weights 1e3 / N^2; max pooling, 500 evaluations from the content, the shorter side 512. Network: its
vgg_conv.pth (Caffe's input; `nstray weights convert`).

The notebook's second stage at 800 pixels is `size: 800, evaluations: 200` with a coarse stage. Its
side is the longest one that belongs to a shorter one of 512: `coarse: 683:500` for pictures of 4:3.
"""

JOHNSON: Mapping[str, Any] = {
    "pooling": "max",
    "content_layers": ("conv4_2",),
    "style_layers": _STYLE,
    "style_layer_weights": _BY_WIDTH,
    "content_weight": 10.0,
    "style_weight": 4e2,
    "tv_weight": 1.9e7,
    "value_range": "free",
    "loss_scale": "mean",
    "init": "noise",
    "optimizer": "lbfgs",
    "evaluations": 1000,
    "size": 512,
    "size_rule": "longest",
}
"""github.com/jcjohnson/neural-style, its defaults: content 5 MSE, style 100 MSE of F F^T / (N M),
tv 1e-3, 1000 evaluations, max pooling. Network: VGG_ILSVRC_19_layers (Caffe's input).

Its tv term grows with the picture and nstray's does not; the weight here is right at 512 x 384. Its
start is noise of 0.001 around the mean colour; here it is white noise over the whole range."""

FAST: Mapping[str, Any] = {
    **GATYS_2015,
    "init": "content-matched",
    "coarse": "25%:30,50%:40",
    "optimizer": "lbfgs-spectral",
    "range_weight": 1000.0,
    "evaluations": 175,
    "dtype": "auto",
}
"""The objective of gatys2015 at the cost of 187 of its evaluations, or of half as many if the
device computes in bfloat16.

It begins with the content in the style's colours. It takes 30 evaluations at a quarter and 40 at
half the size (together the cost of 12), and 175 at full size, with steps on frequencies
(`nstray.engine.optim.dct`). The last evaluations keep pixels within 0..1. Until then the excess is
penalised, so that little is lost when it is cut off.

At 256 px, without the stage at a quarter, one pair of ten came to rest 2 to 3 % higher. With 160
evaluations at full size, two of ten were not yet below 500 evaluations of gatys2015. Pair by pair,
as files hold the pictures: scripts/results/fast-cpu.txt."""

QUICK: Mapping[str, Any] = {
    **FAST,
    "weights": "compact",
    "pooling": "max",
    "tv_weight": 10.0,
    "evaluations": 150,
    "dtype": "float32",
}
"""The paper's look in seconds, by the compact network in the package (docs/compact.md).

The stages and the optimiser are those of `fast`, and so is the ratio: at 3e-3 some pictures had
spots of false colour. The total variation calms a fine ripple that all narrow networks leave.
Judged by eye at 256 px, on two contents x four styles."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "gatys2015": GATYS_2015,
    "gatys2016": GATYS_2016,
    "gatys-pytorch": GATYS_PYTORCH,
    "johnson": JOHNSON,
    "fast": FAST,
    "quick": QUICK,
}


def preset(name: str) -> Mapping[str, Any]:
    """The settings of a preset; raises ValueError naming the nearest."""
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(
            f"no such preset: {name!r}; "
            f"there are {', '.join(PRESETS)}{did_you_mean(str(name), PRESETS)}"
        )
    return PRESETS[name]
