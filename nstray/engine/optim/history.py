"""The (s, y) pairs that L-BFGS remembers of each problem of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class CurvaturePair(NamedTuple):
    """One new pair of every problem: s the step, y the change of the gradient.

    Attributes:
        s, y: (B, n).
        sy, yy: (B,), their inner products.
        valid: (B,) bool: the problems that remember it. The others keep what they have.
        slot: (B,): where it is stored.
    """

    s: Tensor
    y: Tensor
    sy: Tensor
    yy: Tensor
    valid: Tensor
    slot: Tensor


class History:
    """The last `size` pairs of B problems of n variables, in slots that are used in turn.

    Attributes:
        s, y: (B, size, n).
        sy: (B, size, size) float64: row i, column j holds s_i^T y_j.
        count: (B,): the pairs stored since the last reset, overwritten ones included.
        filled: the number of slots, from the front, that any problem may have used. The slots
            behind are neither read nor multiplied.
        rows: (B,) 0, 1, ...: the first index of an assignment to one slot per problem.
    """

    def __init__(self, problems: int, size: int, variables: int, device: torch.device) -> None:
        self.size = size
        self.s = torch.zeros(problems, size, variables, device=device)
        self.y = torch.zeros(problems, size, variables, device=device)
        self.sy = torch.zeros(problems, size, size, dtype=torch.float64, device=device)
        self.count = torch.zeros(problems, dtype=torch.long, device=device)
        self.rows = torch.arange(problems, device=device)
        self.filled = 0

    def next_slot(self) -> Tensor:
        """(B,): the slot that each problem's next pair is stored in."""
        return self.count % self.size

    def newest_slot(self) -> Tensor:
        """(B,): the slot of each problem's newest pair; undefined without one."""
        return (self.count - 1) % self.size

    def push(self, pair: CurvaturePair) -> None:
        """Store a pair. `count` does not change before `advance`."""
        self.filled = min(self.size, self.filled + 1)
        pick, at = pair.valid.view(-1, 1), (self.rows, pair.slot)
        self.s[at] = torch.where(pick, pair.s, self.s[at])
        self.y[at] = torch.where(pick, pair.y, self.y[at])
        column = (self.rows, slice(None), pair.slot)
        self.sy[column] = torch.where(pick, self.products(self.s, pair.y), self.sy[column])

    def advance(self, valid: Tensor) -> None:
        """Count the pair of the problems marked in `valid` (B,) bool."""
        self.count += valid.long()

    def reset(self, which: Tensor) -> None:
        """Forget the pairs of the problems marked in `which` (B,) bool."""
        self.count = torch.where(which, 0, self.count)

    def products(self, stored: Tensor, vector: Tensor) -> Tensor:
        """Inner products of vectors (B, n) with each slot of `s` or `y`: (B, size) float64."""
        products = torch.bmm(stored[:, : self.filled], vector.unsqueeze(2)).squeeze(2)
        return F.pad(products.double(), (0, self.size - self.filled))

    def combination(self, stored: Tensor, factors: Tensor) -> Tensor:
        """Sums (B, n) of the slots of `s` or `y`, each times its factor (B, size)."""
        return torch.bmm(
            factors[:, : self.filled].float().unsqueeze(1), stored[:, : self.filled]
        ).squeeze(1)

    def by_age(self) -> tuple[Tensor, Tensor]:
        """The slots oldest first (B, size), and which of these are used (B, size) bool.

        The unused ones come first.
        """
        size = self.size
        stored = self.count.clamp_max(size).view(-1, 1)
        position = torch.arange(size, device=self.count.device).view(1, -1)
        order = (self.count.view(-1, 1) - size + position) % size
        return order, position >= size - stored
