"""Frozen 3 x 3 convolutions on a CPU in a quarter of the multiplications.

Winograd's minimal filtering F(4 x 4, 3 x 3): equation 8 of Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks" (arXiv 1509.09308). With d a 6 x 6 tile of the input and g a filter,
the 4 x 4 tile of the output is A [(G g G') * (B d B')] A', primes for transposes. That is 36
products for 144. The sum over input channels is then one matrix product for each of the 36. The
filters never change here, so G g G' is computed once.

torch computes these convolutions directly, at the rate of a matrix product and above
(scripts/results/engine-cpu.md). The only gain left is to do fewer multiplications. On a GPU cuDNN
chooses among such algorithms by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE, WINDOW = 4, 6  # sides of a tile of the output, and of the input that it needs
# Where the polynomials are sampled besides infinity: 0, c, -c, 1/c, -1/c as in Alam et al.
# (arXiv 2201.10369). c = 2/3 has a third to a half of the rounding of the usual 0, 1, -1, 2, -2:
# 9e-7 of the output on rectified noise of 256 channels. A direct sum has 2e-7.
POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
# Tiles computed at once: enough that the products are large, few enough that they stay in the cache
# between the three steps.
BLOCK = 128
# Least number of channels, and of tiles of the output, from which Winograd's way is the faster one.
# Time of the direct way over Winograd's, forward and backward, on one core and on two: 256 to 256
# channels at 64 x 64 1.8 and 1.4, 512 to 512 at 32 x 32 2.2 and 1.8; but 0.9 at 8 x 8, where
# reading the filters is most of it. 128 to 128 channels 1.5 and 0.9, 64 to 64 1.2 and 0.6.
LEAST_CHANNELS = 256
LEAST_TILES = 16


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """A (4, 6), G (6, 3) and B (6, 6) in float64.

    Each point's three parts are scaled so that those of A and B have norm 1.
    """
    a, g, b = np.zeros((TILE, WINDOW)), np.zeros((WINDOW, 3)), np.zeros((WINDOW, WINDOW))
    for j, point in enumerate(POINTS):
        others = [p for p in POINTS if p != point]
        a[:, j] = point ** np.arange(TILE)
        g[j] = point ** np.arange(3) / np.prod([point - p for p in others])
        b[j, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(POINTS)[::-1]
    of_a, of_b = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1)
    scaled = (a / of_a, g * (of_a * of_b)[:, None], b / of_b[:, None])
    return tuple(torch.from_numpy(m) for m in scaled)  # type: ignore[return-value]


def _both_axes(matrix: Tensor) -> Tensor:
    """The matrix that applies `matrix` to the rows and columns of a flattened tile, float32."""
    return torch.kron(matrix.contiguous(), matrix.contiguous()).float()


_A, _G, _B = _matrices()
# A correlation with filters turned by half a turn is the correlation of the turned picture, turned
# back. So the input's gradient needs no filters of its own.
_INTO, _OUT_OF = _both_axes(_B), _both_axes(_A)
_INTO_TURNED, _OUT_OF_TURNED = _both_axes(_B.flip(1)), _both_axes(_A.flip(0))


class WinogradConv2d(nn.Module):
    """A frozen 3 x 3 convolution that takes Winograd's way for inputs on which it is faster.

    Gradients leave rounding where a direct convolution leaves zeros. For exact zeros use `direct`.

    Attributes:
        direct: the convolution that it stands for, whose filters `suits` accepts.
    """

    def __init__(self, direct: nn.Conv2d) -> None:
        super().__init__()
        self.direct = direct
        # Made at first use: they are four times as large as the filters.
        self._filters: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        tiles = -(-x.shape[2] // TILE) * -(-x.shape[3] // TILE)
        if x.device.type != "cpu" or tiles < LEAST_TILES:
            out: Tensor = self.direct(x)
            return out
        if self._filters is None:
            self._filters = transformed(self.direct.weight)
        assert self.direct.bias is not None
        return convolve(x, self._filters, self.direct.bias)


def suits(weight: Tensor) -> bool:
    """Whether Winograd's way may be faster with filters (N, C, 3, 3): float32, of many channels."""
    return weight.dtype == torch.float32 and min(weight.shape[:2]) >= LEAST_CHANNELS


def transformed(weight: Tensor) -> Tensor:
    """Filters (N, C, 3, 3) as `convolve` takes them: (36, C, N) float32, four times as large."""
    n, c = weight.shape[:2]
    return (
        torch.einsum("ik,nckl,jl->ijcn", _G, weight.double(), _G)
        .reshape(WINDOW * WINDOW, c, n)
        .float()
        .contiguous()
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(filters)
        return _correlate(x, filters, _INTO, _OUT_OF, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (filters,) = ctx.saved_tensors
        turned = filters.transpose(1, 2)
        return _correlate(grads[0], turned, _INTO_TURNED, _OUT_OF_TURNED, None), None, None


def convolve(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """A 3 x 3 convolution of x (B, C, H, W) with a border of zeros: (B, N, H, W), channels last.

    Differentiable by x alone. `filters`: as of `transformed`. `bias`: (N,).
    """
    out: Tensor = _Convolution.apply(x, filters, bias)
    return out


def _correlate(
    x: Tensor, filters: Tensor, into: Tensor, out_of: Tensor, bias: Tensor | None
) -> Tensor:
    batch, c, h, w = x.shape
    n = filters.shape[2]
    down, across = -(-h // TILE), -(-w // TILE)
    rows = max(1, BLOCK // across)
    lines = x.permute(0, 2, 3, 1)
    # a tensor of its own, not a view: what follows may work in place
    whole = torch.empty((batch, n, TILE * down, TILE * across), memory_format=torch.channels_last)
    out = whole.permute(0, 2, 3, 1).view(batch, down, TILE, across, TILE, n)
    for i in range(batch):
        for first in range(0, down, rows):
            k = min(rows, down - first)
            top, bottom = TILE * first - 1, TILE * (first + k) + 1
            border = (0, 0, 1, TILE * across + 1 - w, max(0, -top), max(0, bottom - h))
            part = F.pad(lines[i, max(0, top) : min(bottom, h)], border).contiguous()
            line, step = part.stride(0), part.stride(1)
            windows = part.as_strided(
                (WINDOW, WINDOW, k, across, c), (line, step, TILE * line, TILE * step, 1)
            )
            tiles = (into @ windows.reshape(WINDOW * WINDOW, -1)).view(
                WINDOW * WINDOW, k * across, c
            )
            products = torch.bmm(tiles, filters).view(WINDOW * WINDOW, -1)
            made = (
                out_of @ products
                if bias is None
                else torch.addmm(bias.repeat(k * across), out_of, products)
            )
            out[i, first : first + k] = made.view(TILE, TILE, k, across, n).permute(2, 0, 3, 1, 4)
    if whole.shape[2:] == (h, w):
        return whole
    return whole[..., :h, :w].clone(memory_format=torch.channels_last)
