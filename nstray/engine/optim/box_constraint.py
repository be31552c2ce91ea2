"""Bounds on the variables of a batch of problems, for a projected quasi-Newton method."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# How far from its bound a value over 0..1 may be after an orthonormal change there and back in
# float32.
AT_BOUND = 1e-5

Projection = Callable[[Tensor], Tensor]
Change = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def identity(values: Tensor) -> Tensor:
    """The projection of problems without bounds."""
    return values


class BoxConstraint:
    """low <= z <= high for the variables z = x, or for the values z that the variables x stand for.

    Args:
        low, high: the bounds of every value.
        change: the orthonormal change (z -> x, x -> z): from values (B, ...) to variables (B, n),
            and back. None: the bounds are those of the variables themselves.
    """

    def __init__(self, low: float, high: float, change: Change | None = None) -> None:
        self.low, self.high = low, high
        self.change = change

    def project(self, x: Tensor) -> Tensor:
        """The nearest points (B, n) that satisfy the bounds."""
        if self.change is None:
            return x.clamp(self.low, self.high)
        to_variables, to_values = self.change
        return to_variables(to_values(x).clamp(self.low, self.high))

    def free_subspace(self, x: Tensor, gradient: Tensor) -> Projection:
        """The projection of vectors (B, n) onto the values that may move from x (B, n).

        A value is blocked if it stands at a bound and the loss falls beyond it (Bertsekas,
        "Projected Newton methods", SIAM J. Control Optim. 20, 1982).
        """
        if self.change is None:
            blocked = self._blocked(x, gradient, 0.0)
            return lambda vectors: vectors.masked_fill(blocked, 0.0)
        to_variables, to_values = self.change
        blocked = self._blocked(to_values(x), to_values(gradient), AT_BOUND)
        return lambda vectors: to_variables(to_values(vectors).masked_fill(blocked, 0.0))

    def _blocked(self, values: Tensor, gradient: Tensor, tolerance: float) -> Tensor:
        at_low = (values <= self.low + tolerance) & (gradient > 0)
        at_high = (values >= self.high - tolerance) & (gradient < 0)
        blocked: Tensor = at_low | at_high
        return blocked
