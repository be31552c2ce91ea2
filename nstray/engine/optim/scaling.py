"""The initial inverse Hessian H0 of L-BFGS: one number per problem, or one per plane and band."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.optim.history import CurvaturePair, History


class Scaling(Protocol):
    """A diagonal H0 and the inner products of the stored y under it."""

    def push(self, pair: CurvaturePair, history: History) -> None:
        """Learn from a pair that `history` has just stored and not yet counted."""

    def diagonal(self, history: History) -> tuple[Tensor, Tensor]:
        """H0 as (B, 1) or (B, n) float32, and y_i^T H0 y_j of the slots, (B, m, m) float64."""


class ScalarScaling:
    """H0 = gamma I with gamma = s^T y / y^T y of the newest pair.

    Nocedal and Wright, Numerical Optimization, 2nd ed., equation 7.20.
    """

    def __init__(self, problems: int, history: int, device: torch.device) -> None:
        self._yy = torch.zeros(problems, history, history, dtype=torch.float64, device=device)
        self._gamma = torch.ones(problems, device=device)

    def push(self, pair: CurvaturePair, history: History) -> None:
        rows, slot = history.rows, pair.slot
        column = torch.where(
            pair.valid.view(-1, 1), history.products(history.y, pair.y), self._yy[rows, :, slot]
        )
        self._yy[rows, :, slot] = column
        self._yy[rows, slot] = column
        self._gamma = torch.where(pair.valid, pair.sy / pair.yy.clamp_min(1e-38), self._gamma)

    def diagonal(self, history: History) -> tuple[Tensor, Tensor]:
        gamma = self._gamma.view(-1, 1)
        return gamma, gamma.double().unsqueeze(2) * self._yy


class BandScaling:
    """A diagonal H0 with one value for each of three planes and each of their k bands.

    The value is sqrt(sum s^2 / sum y^2) over the band, each pair (s, y) of the history divided by
    its s^T y. All values are scaled so that the newest pair fits, as gamma of `ScalarScaling` does.

    Args:
        bands: (n / 3, k) float32, one-hot: the band of each variable within its plane.
    """

    def __init__(self, problems: int, history: int, bands: Tensor) -> None:
        self.bands = bands
        values = 3 * bands.shape[1]
        # the inner products of every plane and band, apart
        self._ss = torch.zeros(problems, history, values, device=bands.device)
        self._yy = torch.zeros(problems, history, history, values, device=bands.device)

    def push(self, pair: CurvaturePair, history: History) -> None:
        rows, slot, pick = history.rows, pair.slot, pair.valid.view(-1, 1)
        problems, filled = len(pair.y), history.filled
        self._ss[rows, slot] = torch.where(
            pick, self._sum_bands(pair.s * pair.s), self._ss[rows, slot]
        )
        # One product with the history, with the bands as columns. It takes 0.6 of the time of
        # multiplying first and summing over bands afterwards.
        columns = self.bands * pair.y.view(problems, 3, -1, 1)
        planes = history.y[:, :filled].view(problems, filled, 3, -1).transpose(1, 2)
        products = (planes @ columns).transpose(1, 2).flatten(2)
        products = torch.where(
            pick.unsqueeze(2),
            F.pad(products, (0, 0, 0, history.size - filled)),
            self._yy[rows, :, slot],
        )
        self._yy[rows, :, slot] = products
        self._yy[rows, slot] = products

    def diagonal(self, history: History) -> tuple[Tensor, Tensor]:
        values = self._values(history)
        yy = (self._yy @ values.view(-1, 1, values.shape[1], 1)).squeeze(3).double()
        return self._expand_bands(values), yy

    def _values(self, history: History) -> Tensor:
        """H0's value for each plane and band, (B, 3 k); 1 without a history."""
        sy = history.sy.diagonal(dim1=1, dim2=2)
        slots = torch.arange(history.size, device=sy.device).view(1, -1)
        used = slots < history.count.view(-1, 1)
        weight = torch.where(used & (sy > 0), 1 / sy, 0.0).float().unsqueeze(1)
        yy_of_slots = self._yy.diagonal(dim1=1, dim2=2).transpose(1, 2)
        ss, yy = (torch.bmm(weight, t).squeeze(1) for t in (self._ss, yy_of_slots))
        floor = 1e-12 * ss.sum(1, keepdim=True) / yy.sum(1, keepdim=True).clamp_min(1e-38)
        values = torch.sqrt((ss / yy.clamp_min(1e-38)).clamp_min(floor))
        values = torch.where(history.count.view(-1, 1) > 0, values, 1.0)
        rows, newest = history.rows, history.newest_slot()
        fitted = (values * yy_of_slots[rows, newest]).sum(1).clamp_min(1e-38)
        return values * (sy[rows, newest] / fitted).float().view(-1, 1)

    def _sum_bands(self, values: Tensor) -> Tensor:
        """Sums of values (B, n) over each plane's bands: (B, 3 k)."""
        sums: Tensor = values.reshape(*values.shape[:-1], 3, -1) @ self.bands
        return sums.flatten(-2)

    def _expand_bands(self, values: Tensor) -> Tensor:
        """Values (B, 3 k) of planes and bands at every variable: (B, n)."""
        each: Tensor = values.view(len(values), 3, -1) @ self.bands.T
        return each.flatten(1)
