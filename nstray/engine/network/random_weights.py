"""Weights that need no file: seeded, orthogonal, calibrated layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.network.weights import RGB_MEAN, RGB_STD, VGGWeights
from nstray.engine.settings import BLOCK_WIDTHS, CONV_LAYERS

RANDOM_SEED = 0
# The recipe is the identity of random weights. Recomputed on another machine, their last bits
# differ and their pictures do not.
RANDOM_ID = f"random-v1-seed{RANDOM_SEED}"


def random_weights(
    layers: Sequence[str] = CONV_LAYERS,
    *,
    seed: int = RANDOM_SEED,
    widths: Sequence[int] = BLOCK_WIDTHS,
) -> VGGWeights:
    """Seeded weights that need no download: orthogonal filters, calibrated layer by layer.

    Each layer's filters and bias are scaled so that its pre-activations over the built-in images
    have mean 0 and variance 1 per channel (data-dependent initialisation, Kraehenbuehl et al.,
    arXiv 1511.06856). He-initialised filters give noise.

    Args:
        layers: the convolutions, from conv1_1 on.
        widths: filters of each of the five blocks.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (calibration_images() - RGB_MEAN.view(1, 3, 1, 1)) / RGB_STD.view(1, 3, 1, 1)
    tensors: dict[str, Tensor] = {}
    block = "1"
    with torch.no_grad():
        for layer in layers:
            if layer[4] != block:
                x, block = F.avg_pool2d(x, 2), layer[4]
            n = widths[int(block) - 1]
            weight = _orthogonal(n, x.shape[1] * 9, generator).view(n, x.shape[1], 3, 3)
            y = F.conv2d(x, weight, padding=1)
            std, mean = torch.std_mean(y, dim=(0, 2, 3))
            std = std.clamp_min(1e-6)
            tensors[f"{layer}.weight"] = weight / std.view(-1, 1, 1, 1)
            tensors[f"{layer}.bias"] = -mean / std
            x = F.relu((y - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1))
    name = f"random-v1-seed{seed}"
    if tuple(widths) != BLOCK_WIDTHS:
        name += f"-{'-'.join(map(str, widths))}"
    return VGGWeights(tensors, name, "random", "rgb")


def _orthogonal(n: int, m: int, generator: torch.Generator) -> Tensor:
    """(n, m) float32 with orthonormal rows, or orthonormal columns if n > m.

    By Cholesky QR in float64: 0.3 s for 512 x 4608; Householder's takes 1.4 s.
    """
    wide = torch.randn(min(n, m), max(n, m), generator=generator, dtype=torch.float64)
    rows: Tensor = torch.linalg.solve_triangular(
        torch.linalg.cholesky(wide @ wide.T), wide, upper=False
    )
    return (rows if n <= m else rows.T).float().contiguous()


def calibration_images(count: int = 4, side: int = 128) -> Tensor:
    """Built-in pictures (count, 3, side, side) over 0..1: coloured noise with hard-edged shapes.

    The noise has a 1/f spectrum. Natural images have both.
    """
    generator = torch.Generator().manual_seed(1508_06576)
    fy = torch.fft.fftfreq(side).view(-1, 1)
    fx = torch.fft.rfftfreq(side).view(1, -1)
    amplitude = 1 / torch.sqrt(fx**2 + fy**2).clamp_min(1 / side)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator)) * amplitude
    noise = torch.fft.irfft2(spectrum, s=(side, side))
    # colour channels of natural images are strongly correlated
    noise = noise + 1.5 * noise.mean(1, keepdim=True)
    noise = noise / noise.std(dim=(1, 2, 3), keepdim=True)
    images: Tensor = 0.5 + 0.18 * noise
    yy, xx = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for i in range(count):
        for _ in range(6):
            cx, cy, r = (
                torch.rand(3, generator=generator) * torch.tensor([side, side, side / 5])
            ).tolist()
            colour = torch.rand(3, 1, generator=generator)
            inside = (xx - cx) ** 2 + (yy - cy) ** 2 < r**2
            images[i][:, inside] = 0.6 * colour + 0.4 * images[i][:, inside]
    return images.clamp_(0, 1)
