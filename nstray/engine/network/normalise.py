"""Activation-normalised weights (Gatys, Ecker and Bethge, CVPR 2016), and their file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nstray.engine.network.vgg import VGGFeatures, deepest, minimum_side
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
        dead: per layer the filters that keep their scale, since they hardly or never fire on these
            images.
        images: how many were measured.
        pooling: the one under which the means are 1; under the other they are not.
        source_id: the id of the weights it was made from.
    """

    weights: VGGWeights
    means: Mapping[str, Tensor]
    dead: Mapping[str, tuple[int, ...]]
    images: int
    pooling: Pooling
    source_id: str

    def scale(self, layer: str) -> Tensor:
        """(N,) float64: what this layer's activations were divided by; 1 for a dead filter."""
        return _scale(self.means[layer], self.dead[layer])

    @property
    def metadata(self) -> dict[str, str]:
        """For `to_safetensors`: how these weights were made."""
        dead = {layer: filters for layer, filters in self.dead.items() if filters}
        return {
            "normalised": "mean rectified activation 1 per filter",
            "pooling": self.pooling,
            "images": str(self.images),
            "source_id": self.source_id,
            "dead_filters": json.dumps(dead),
        }


def normalise(
    weights: VGGWeights, images: Iterable[Any], pooling: Pooling = "average"
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

    Raises ValueError for no images, or one that is no image or leaves the deepest layer no
    position; WeightsError if activations overflow.
    """
    pooling = check("pooling", pooling)
    layers = weights.layers
    network = VGGFeatures(weights, layers, pooling)
    least = minimum_side(layers)
    sums = {
        name: torch.zeros(len(weights.tensors[f"{name}.bias"]), dtype=torch.float64)
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
                sums[name] += y.sum((0, 2, 3), dtype=torch.float64)
                positions[name] += y.shape[2] * y.shape[3]
            count += 1
    if not count:
        raise ValueError("no images to measure the activations on")
    means = {name: sums[name] / positions[name] for name in layers}
    dead = {name: _dead(means[name]) for name in layers}
    tensors = _divided(weights, {name: _scale(means[name], dead[name]) for name in layers})
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"weights {weights.source}: {name} cannot be normalised: "
                "activations on these images leave the range of float32"
            )
        digest.update(tensor.numpy().tobytes())
    made = VGGWeights(
        tensors,
        f"normalised-sha256:{digest.hexdigest()}",
        f"{weights.source}, normalised",
        weights.input,
    )
    return Normalised(made, means, dead, count, pooling, weights.id)


def _dead(means: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.nonzero(means <= DEAD_SHARE * means.mean()).flatten())


def _scale(means: Tensor, dead: tuple[int, ...]) -> Tensor:
    scale = means.clone()
    scale[list(dead)] = 1.0
    return scale


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


def to_safetensors(weights: VGGWeights, metadata: Mapping[str, str] | None = None) -> bytes:
    """A .safetensors file with the keys ``conv1_1.weight`` and so on; `parse_weights` reads it.

    Its metadata says the input convention. The same weights and `metadata` give the same bytes and
    hence the same id. safetensors itself writes metadata in an order that changes.
    """
    from safetensors.torch import save

    data: bytes = save(
        {k: v.contiguous() for k, v in weights.tensors.items()},
        {**(metadata or {}), "input": weights.input},
    )
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(
        json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")
    ).encode()
    # tensors begin at a multiple of 8; their offsets count from the header's end
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
