"""Activation-normalised weights (Gatys, Ecker and Bethge, CVPR 2016), and their file."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nstray.engine.network.vgg import VGGFeatures, deepest
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import as_image
from nstray.engine.settings import Pooling, check
from nstray.errors import WeightsError

# A filter whose mean is at most this share of its layer's is dead on these images. Scaled to 1 it
# would be rounding errors multiplied by a million, in this layer's Gram matrix and into the next
# layer.
DEAD_SHARE = 1e-6


@dataclass(frozen=True)
class Normalised:
    """What `normalise` made, and what it measured.

    Attributes:
        weights: the normalised network, in the input convention of its source.
        means: per layer (N,) float64: the mean rectified activation of each filter before
            normalising.
        root_mean_squares: likewise the root of its mean square.
        largest: what these become at most, or None for no bound.
        dead: per layer the filters that keep their scale, since they hardly or never fire on these
            images.
        images: how many were measured.
        pooling: the one under which the means are 1; under the other they are not.
        source_id: the id of the weights it was made from.
    """

    weights: VGGWeights
    means: Mapping[str, Tensor]
    root_mean_squares: Mapping[str, Tensor]
    largest: float | None
    dead: Mapping[str, tuple[int, ...]]
    images: int
    pooling: Pooling
    source_id: str

    def scale(self, layer: str) -> Tensor:
        """(N,) float64: what this layer's activations were divided by; 1 for a dead filter."""
        scale = self.means[layer].clone()
        if self.largest is not None:
            scale = torch.maximum(scale, self.root_mean_squares[layer] / self.largest)
        scale[list(self.dead[layer])] = 1.0
        return scale

    def require_alive(self) -> None:
        """Raise WeightsError if no filter of a layer fires on these images."""
        for layer, filters in self.dead.items():
            if len(filters) == len(self.means[layer]):
                raise WeightsError(
                    f"weights {self.weights.source}: no filter of {layer} fires on these images, "
                    "so there is nothing to scale or to imitate; take other weights"
                )

    @property
    def metadata(self) -> dict[str, str]:
        """For `to_safetensors`: how these weights were made."""
        dead = {layer: filters for layer, filters in self.dead.items() if filters}
        bound = "" if self.largest is None else f", or root mean square {self.largest:g} if less"
        return {
            "normalised": f"mean rectified activation 1 per filter{bound}",
            "images": str(self.images),
            "source_id": self.source_id,
            "dead_filters": json.dumps(dead),
        }


def normalise(
    weights: VGGWeights,
    images: Iterable[Any],
    pooling: Pooling = "average",
    largest: float | None = None,
) -> Normalised:
    """The same network with every filter's mean rectified activation scaled to 1.

    The mean is over images and positions. With m_l the means of layer l, filter i of layer l and
    its bias are divided by m_l[i], and its input channel j is multiplied by m_{l-1}[j].
    Rectification and both poolings commute with positive factors, so every activation becomes
    F_l[i] / m_l[i] and nothing else changes. For the same reason one pass suffices: normalising the
    layers before a layer does not change its means.

    Args:
        weights: of any depth; all its layers are normalised.
        images: RGB, (3, H, W) or (H, W, 3), uint8 or float over 0..1, of any sizes. Each is read
            once. Memory is one image's activations, about 1.2 KB per pixel for all sixteen layers.
            Every position counts the same, so a larger image counts more.
        pooling: the one the network will be used with.
        largest: root mean square of a filter's activations, above which its mean becomes less
            than 1. At mean 1, a filter that fires seldom and strongly would rule the Gram matrices.

    Raises ValueError for no images, or one that is no image or leaves the deepest layer no
    position; WeightsError if activations overflow.
    """
    pooling = check("pooling", pooling)
    layers = weights.layers
    network = VGGFeatures(weights, layers, pooling)
    least = network.minimum_side(layers)
    # (2, N) per layer: of the activations and of their squares
    sums = {
        name: torch.zeros(2, len(weights.tensors[f"{name}.bias"]), dtype=torch.float64)
        for name in layers
    }
    positions = dict.fromkeys(layers, 0)
    count = 0
    with torch.no_grad():
        for given in images:
            try:
                image = as_image(given)
            except ValueError as error:
                raise ValueError(f"image {count}: {error}") from None
            height, width = image.shape[1:]
            if min(height, width) < least:
                raise ValueError(
                    f"image {count}: {width}x{height} pixels leave {deepest(layers)} no position; "
                    f"it needs {least}x{least}"
                )
            x = image.float() / 255 if image.dtype == torch.uint8 else image.float()
            for name, y in network(x[None], layers).items():
                sums[name][0] += y.sum((0, 2, 3), dtype=torch.float64)
                sums[name][1] += y.square().sum((0, 2, 3), dtype=torch.float64)
                positions[name] += y.shape[2] * y.shape[3]
            count += 1
    if not count:
        raise ValueError("no images to measure the activations on")
    means = {name: sums[name][0] / positions[name] for name in layers}
    squares = {name: (sums[name][1] / positions[name]).sqrt() for name in layers}
    dead = {name: dead_filters(means[name]) for name in layers}
    found = Normalised(weights, means, squares, largest, dead, count, pooling, weights.id)
    tensors = _divided(weights, {name: found.scale(name) for name in layers})
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"weights {weights.source}: {name} cannot be normalised: "
                "activations on these images leave the range of float32"
            )
        digest.update(tensor.numpy().tobytes())
    made = replace(
        weights,
        tensors=tensors,
        id=f"normalised-sha256:{digest.hexdigest()}",
        source=f"{weights.source}, normalised",
        pooling=pooling,
    )
    return replace(found, weights=made)


def dead_filters(means: Tensor) -> tuple[int, ...]:
    """The filters that hardly or never fire, from the mean of each (N,)."""
    return tuple(int(i) for i in torch.nonzero(means <= DEAD_SHARE * means.mean()).flatten())


def without_rare(weights: VGGWeights, means: Mapping[str, Tensor], share: float) -> VGGWeights:
    """The network without the filters whose mean is at most `share` of their layer's.

    They are zero, and so is what the next layer makes of them. Scaled to mean 1, such a filter
    would be a few spikes, and its values would leave the range of float16.

    Args:
        means: as of `Normalised`.
    """
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    for layer, following in itertools.zip_longest(weights.layers, weights.layers[1:]):
        rare = means[layer] <= share * means[layer].mean()
        tensors[f"{layer}.weight"][rare] = 0
        tensors[f"{layer}.bias"][rare] = 0
        if following is not None:
            tensors[f"{following}.weight"][:, rare] = 0
    return replace(weights, tensors=tensors)


def _divided(weights: VGGWeights, scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, float32, with each layer's output channels divided by its scale.

    Its input channels are multiplied by the scale of the layer before.
    """
    out: dict[str, Tensor] = {}
    before: Tensor | None = None
    for layer, scale in scales.items():
        weight = weights.tensors[f"{layer}.weight"].double() / scale.view(-1, 1, 1, 1)
        if before is not None:
            weight = weight * before.view(1, -1, 1, 1)
        out[f"{layer}.weight"] = weight.float()
        out[f"{layer}.bias"] = (weights.tensors[f"{layer}.bias"].double() / scale).float()
        before = scale
    return out
