"""The weights of a VGG-19 of any widths, and the conventions that belong to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nstray.engine.settings import CONV_LAYERS, Pooling
from nstray.errors import WeightsError

Input = Literal["rgb", "bgr"]
Padding = Literal["zero", "reflect"]

# torchvision's constants for VGG19_Weights.IMAGENET1K_V1, RGB over 0..1
RGB_MEAN = torch.tensor([0.485, 0.456, 0.406])
RGB_STD = torch.tensor([0.229, 0.224, 0.225])
# the mean of the original Caffe networks, over 0..255, here in RGB order
CAFFE_MEAN = torch.tensor([123.680, 116.779, 103.939])


@dataclass(frozen=True)
class VGGWeights:
    """The convolutions of a VGG-19, from conv1_1 to the deepest one present without a gap.

    The number of filters of each is the file's: N and C below are any.

    Attributes:
        tensors: ``conv1_1.weight`` (N, C, 3, 3) float32, ``conv1_1.bias`` (N,), and so on.
        id: ``sha256:...`` of the file, or the recipe's name for random weights.
        source: as the user named it.
        input: ``rgb``: torchvision's mean and standard deviation over 0..1; ``bgr``: Caffe's 0..255
            minus a mean.
        padding: what surrounds a picture: ``zero``, or ``reflect`` for its mirror image.
        pooling: the one that the network was trained with or normalised under; None if its file
            does not say.
        gap: the convolution that the source lacks although deeper ones are there; or empty.
    """

    tensors: Mapping[str, Tensor]
    id: str
    source: str
    input: Input
    padding: Padding = "zero"
    pooling: Pooling | None = None
    gap: str = ""

    @property
    def layers(self) -> tuple[str, ...]:
        """The convolutions present, in order."""
        return tuple(n for n in CONV_LAYERS if f"{n}.weight" in self.tensors)

    @property
    def widths(self) -> dict[str, int]:
        """The number of filters of each convolution."""
        return {layer: len(self.tensors[f"{layer}.bias"]) for layer in self.layers}

    def require(self, taps: Iterable[str]) -> None:
        """Raise WeightsError unless every tap (``conv4_2``, ``pre:conv4_2``) can be computed."""
        missing = [t for t in taps if t.removeprefix("pre:") not in self.layers]
        if missing:
            gap = f" ({self.gap} is missing, deeper ones are there)" if self.gap else ""
            raise WeightsError(
                f"weights {self.source} hold {self.layers[0]} to {self.layers[-1]}{gap}; "
                f"the job asks for {', '.join(missing)}: "
                "choose shallower content_layers and style_layers, or weights that hold these"
            )

    def require_no_gap(self) -> None:
        """Raise WeightsError if a layer is missing before deeper ones.

        What is made of such weights would lack these, and not show why.
        """
        if not self.gap:
            return
        vgg16 = "; a VGG-16 lacks it, and nstray needs a VGG-19" if self.gap == "conv3_4" else ""
        raise WeightsError(
            f"weights {self.source}: the weight or the bias of {self.gap} is missing, and deeper "
            f"layers are there{vgg16}; mend the keys of the file, or take another one"
        )

    def up_to(self, taps: Iterable[str]) -> VGGWeights:
        """The same weights without the layers behind the deepest tap."""
        layers = layers_up_to(taps)
        tensors = {k: v for k, v in self.tensors.items() if k.split(".")[0] in layers}
        return replace(self, tensors=tensors)


def layers_up_to(taps: Iterable[str]) -> tuple[str, ...]:
    """The convolutions from the first to the deepest of `taps`."""
    return CONV_LAYERS[
        : 1 + max((CONV_LAYERS.index(t.removeprefix("pre:")) for t in taps), default=0)
    ]
