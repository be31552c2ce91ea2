"""Images as cosine coefficients of three opponent colours, an orthonormal change of variables.

In these variables the scales of an image are apart. Measured on the authors' layers (192 px, from
noise): the distance left after 100 evaluations falls with frequency as 1/f in grey and half as fast
in the colours. The curvature is flat in grey, and falls over three to four decades in the colours.
No fixed power of the frequency helps every pair. One value per colour and band, measured during the
optimisation, does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

BANDS = 6
# Grey, red against blue, green against both; orthonormal.
_OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))


class Spectrum:
    """Images (B, 3, H, W) to coefficients (B, 3 H W) and back, for one shape.

    Attributes:
        bands: (H W, BANDS) float32, one-hot: the band of each coefficient of a plane. The edges are
            evenly spaced in the logarithm of the frequency, from 1.5 periods in the shorter side up
            to 0.6 cycles per pixel.
    """

    def __init__(self, height: int, width: int, device: torch.device | str = "cpu") -> None:
        self.shape = (3, height, width)
        self._down, self._across = _cosines(height).to(device), _cosines(width).to(device)
        colours = torch.tensor(_OPPONENT)
        self._colours = (colours / colours.norm(dim=1, keepdim=True)).to(device)
        rows, columns = (
            torch.arange(height).view(-1, 1) / (2 * height),
            torch.arange(width).view(1, -1) / (2 * width),
        )
        frequency = torch.hypot(rows, columns)  # cycles per pixel
        edges = torch.logspace(math.log10(1.5 / min(height, width)), math.log10(0.6), BANDS - 1)
        self.bands = (
            F.one_hot(torch.bucketize(frequency, edges).flatten(), BANDS).float().to(device)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Coefficients of images; also of a gradient, since the change is orthonormal."""
        return torch.einsum(
            "ij,bjhw->bihw", self._colours, self._down @ images @ self._across.T
        ).flatten(1)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Images of coefficients."""
        planes = coefficients.view(-1, *self.shape)
        return torch.einsum("ji,bjhw->bihw", self._colours, self._down.T @ planes @ self._across)


def _cosines(n: int) -> Tensor:
    """The orthonormal discrete cosine transform (type II) as a matrix (n, n)."""
    k = torch.arange(n, dtype=torch.float64)
    c = torch.cos(math.pi / n * (k + 0.5).view(1, -1) * k.view(-1, 1)) * math.sqrt(2 / n)
    c[0] /= math.sqrt(2)
    return c.float()
