"""How well the features of one network stand for those of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.network.weights import VGGWeights
from nstray.engine.settings import Pooling

RIDGE = 1e-4  # of a regression, relative to the mean variance of a feature


@dataclass(frozen=True)
class Fidelity:
    """How well a student's layer stands for the teacher's, on pictures it was not trained on.

    Attributes:
        variance: the share of the teacher's variance that a linear regression on the student's
            features explains, over all filters and positions; at most 1.
        gram: |Y Y' - T T'| / |T T'|, the mean over pictures, with Y the regression's result.
    """

    variance: float
    gram: float


@torch.no_grad()
def fidelity(
    teacher: VGGWeights,
    student: VGGWeights,
    pooling: Pooling,
    taps: Sequence[str],
    fitted: Iterable[Tensor],
    held_out: Iterable[Tensor],
    device: str | torch.device = "cpu",
) -> dict[str, Fidelity]:
    """The fidelity of each of `taps`.

    Args:
        fitted: pictures (3, H, W) uint8 on which the regressions are fitted.
        held_out: those on which they are judged.
    """
    networks = [VGGFeatures(w, taps, pooling).to(device) for w in (teacher, student)]

    def features(picture: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        x = (picture.float() / 255)[None].to(device)
        return networks[0](x, taps), networks[1](x, taps)

    sums = {tap: _Moments() for tap in taps}
    for picture in fitted:
        theirs, ours = features(picture)
        for tap in taps:
            sums[tap].add(positions_by_filter(ours[tap]), positions_by_filter(theirs[tap]))
    maps = {tap: moments.regression() for tap, moments in sums.items()}
    error = dict.fromkeys(taps, 0.0)
    total = {tap: _Moments() for tap in taps}
    grams: dict[str, list[float]] = {tap: [] for tap in taps}
    for picture in held_out:
        theirs, ours = features(picture)
        for tap in taps:
            t = positions_by_filter(theirs[tap])
            matrix, offset = maps[tap]
            y = positions_by_filter(ours[tap]) @ matrix.T + offset
            error[tap] += float((y - t).double().square().sum())
            total[tap].add(t, t[:, :1])
            gram = t.T @ t
            grams[tap].append(float((y.T @ y - gram).norm() / gram.norm()))
    return {
        tap: Fidelity(1 - error[tap] / total[tap].spread(), sum(grams[tap]) / len(grams[tap]))
        for tap in taps
    }


def regression(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(M, N) matrix and (M,) offset of the least squares of y (P, M) on x (P, N)."""
    moments = _Moments()
    moments.add(x, y)
    return moments.regression()


class _Moments:
    """Sums over positions from which a regression follows."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """x (P, N) and y (P, M)."""
        x, y = x.double(), y.double()
        new = [x.sum(0), y.sum(0), x.T @ x, y.T @ x]
        self.count += len(x)
        self.sums = new if not self.sums else [a + b for a, b in zip(self.sums, new, strict=True)]

    def spread(self) -> float:
        """The sum over positions and columns of (x - mean)^2."""
        x, _, xx, _ = self.sums
        return float(xx.diagonal().sum() - x.square().sum() / self.count)

    def regression(self) -> tuple[Tensor, Tensor]:
        x, y, xx, yx = (s / self.count for s in self.sums)
        covariance = xx - x[:, None] * x
        # a feature that is constant has a variance of rounding errors
        ridge = RIDGE * covariance.diagonal().mean() + 1e-9 * xx.diagonal().mean() + 1e-30
        covariance = covariance + ridge * torch.eye(len(x), dtype=x.dtype, device=x.device)
        matrix = torch.linalg.solve(covariance, (yx - y[:, None] * x).T).T
        return matrix.float(), (y - matrix @ x).float()


def positions_by_filter(features: Tensor) -> Tensor:
    """Features (B, N, H, W) as (B H W, N)."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
