"""L-BFGS over a batch of independent problems.

Each problem has its own history, step, line search and end. The batch advances in lockstep: one
evaluation of all problems per round. Nothing is shared between problems. A problem whose trial step
is rejected backtracks alone, and the others move on. No decision is read back to the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nstray.engine.optim.box_constraint import BoxConstraint, Change, identity
from nstray.engine.optim.history import CurvaturePair, History
from nstray.engine.optim.scaling import BandScaling, ScalarScaling, Scaling

# Armijo's constant (Nocedal and Wright, Numerical Optimization, 2nd ed., section 3.1).
SUFFICIENT_DECREASE = 1e-4
# Rejected trials in a row after which the history is dropped and the gradient's direction taken.
MAX_REJECTIONS = 8
# Evaluations in a row without a lower loss after which a problem has reached float32's floor.
MAX_STALLED = 3 * MAX_REJECTIONS
# Relative rounding of a loss summed in float32: a rise this small is not a rise.
FLOAT32_NOISE = 2e-7


class BatchedLBFGS:
    """Minimises B functions of n variables each, asked one point at a time.

        optimizer = BatchedLBFGS(x0, first_step=...)
        for _ in range(evaluations):
            loss, gradient = f(optimizer.trial)      # (B,), (B, n)
            optimizer.tell(loss, gradient)
        optimizer.x, optimizer.loss                  # the best accepted point and its loss

    Direction: the compact representation of the inverse Hessian (Byrd, Nocedal and Schnabel 1994,
    theorem 2.2). It equals the two-loop recursion, and is made of two products with the history and
    small triangular systems, which are solved in float64. A pair (s, y) without positive curvature
    is not stored.

    Step: 1, then Armijo backtracking by quadratic interpolation.

    Bounds: trial points are projected onto them, and a variable that stands at a bound with its
    gradient pointing out takes no part in the direction (see `BoxConstraint`).

    Args:
        x: start (B, n), float32; not changed.
        first_step: root mean square change of a variable in the first trial, in x's units.
        history: pairs (s, y) stored per problem. They take 2 x history x n floats per problem, and
            an evaluation reads them all some six times. After 100 evaluations at 128 px, 20 pairs
            end 2 to 5 % lower than 10, and 50 end within 1 to 3 % of 20. With bands, after 180
            evaluations, 50 end 0.4 % lower than 20 (2 % after 150 from noise), and 12 end 0.4 %
            higher. Of the time of bfloat16's evaluations on a CPU, 50 pairs take a fifth and 20 a
            tenth.
        bands: (n / 3, k) float32, one-hot: the band of each variable within each of the three
            planes that x is made of. H0 is then a `BandScaling`, otherwise a `ScalarScaling`.
        bounds: least and largest value; None: free. The start is moved inside.
        change: an orthonormal change of variables: from what the bounds apply to, (B, ...), to the
            variables (B, n), and back. None: the bounds apply to the variables themselves.

    Attributes:
        trial: (B, n): the points to evaluate next.
        x, loss: (B, n) and (B,): the best accepted points and their losses.
        active: (B,) bool: the problems that still move.
        iterations: (B,): accepted steps.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        first_step: float,
        history: int = 20,
        bands: Tensor | None = None,
        bounds: tuple[float, float] | None = None,
        change: Change | None = None,
    ) -> None:
        b, n = x.shape
        self.first_step = first_step
        self._change = change
        self._box = None if bounds is None else BoxConstraint(*bounds, change)
        self.x = self._project(x).clone()
        self.trial = self.x.clone()
        self.loss = torch.full((b,), float("inf"), device=x.device)
        self.active = torch.ones(b, dtype=torch.bool, device=x.device)
        self.iterations = torch.zeros(b, dtype=torch.long, device=x.device)
        self._gradient = torch.zeros_like(x)
        self._direction = torch.zeros_like(x)
        self._slope = torch.zeros(b, device=x.device)
        # change of the loss at the trial point, to first order
        self._expected = torch.zeros(b, device=x.device)
        self._step = torch.ones(b, device=x.device)
        self._rejections = torch.zeros(b, dtype=torch.long, device=x.device)
        self._stalled = torch.zeros(b, dtype=torch.long, device=x.device)
        self._started = False
        self._history = History(b, history, n, x.device)
        self._scaling: Scaling = (
            ScalarScaling(b, history, x.device) if bands is None else BandScaling(b, history, bands)
        )

    def tell(self, loss: Tensor, gradient: Tensor) -> Tensor:
        """Take the losses (B,) and gradients (B, n) at `trial`, and set the next `trial`.

        Returns which trials were accepted, (B,) bool. The caller may overwrite the tensors
        afterwards.
        """
        if self._started:
            allowed = (
                self.loss + SUFFICIENT_DECREASE * self._expected + FLOAT32_NOISE * self.loss.abs()
            )
            good = self.active & torch.isfinite(loss) & (loss <= allowed)
        else:
            good = torch.isfinite(loss)
            self.active = good.clone()
        if self._started:
            self._push_history(good, gradient)
        self._backtrack(loss, ~good & self.active)
        self.iterations += (good & self.active).long() if self._started else 0
        self._stalled = torch.where(good & (loss < self.loss), 0, self._stalled + 1)
        self.active = self.active & (self._stalled < MAX_STALLED)
        self.loss = torch.where(good, loss, self.loss)
        pick = good.view(-1, 1)
        self.x = torch.where(pick, self.trial, self.x)
        self._gradient = torch.where(pick, gradient, self._gradient)
        self._started = True
        self._update_direction(good)
        self.trial = torch.where(
            self.active.view(-1, 1), self.x + self._step.view(-1, 1) * self._direction, self.x
        )
        self._expected = self._step * self._slope
        if self._box is not None:
            self.trial = self._box.project(self.trial)
            # Projecting may turn a direction of descent into one of ascent: then no rise is
            # allowed.
            self._expected = (self._gradient * (self.trial - self.x)).sum(1).clamp_max(0)
        return good

    def restart_within(self, bounds: tuple[float, float]) -> None:
        """Apply `bounds` from here on: points are moved inside and evaluated anew.

        Histories stay, and problems that ended go on.
        """
        self._box = BoxConstraint(*bounds, self._change)
        self.x = self._project(self.x)
        self.trial = self.x.clone()
        self.loss = torch.full_like(self.loss, float("inf"))
        self.active = torch.ones_like(self.active)
        self._rejections = torch.zeros_like(self._rejections)
        self._started = False

    def stop(self, which: Tensor) -> None:
        """End the problems marked in `which` (B,) bool: their point no longer moves."""
        self.active = self.active & ~which

    def _project(self, x: Tensor) -> Tensor:
        return x if self._box is None else self._box.project(x)

    def _push_history(self, good: Tensor, gradient: Tensor) -> None:
        s, y = self.trial - self.x, gradient - self._gradient
        sy, ss, yy = (s * y).sum(1), (s * s).sum(1), (y * y).sum(1)
        valid = good & (sy > 1e-8 * torch.sqrt(ss * yy))
        pair = CurvaturePair(s, y, sy, yy, valid, self._history.next_slot())
        self._history.push(pair)
        self._scaling.push(pair, self._history)
        self._history.advance(valid)

    def _backtrack(self, loss: Tensor, rejected: Tensor) -> None:
        """Shorten the step of the problems marked in `rejected` (B,) bool."""
        slope = self._expected
        # minimum of the parabola through f(0), f'(0) and f(step), as a share of the step
        share = -slope / (2 * (loss - self.loss - slope)).clamp_min(1e-38)
        share = torch.where(
            torch.isfinite(loss) & torch.isfinite(share), share.clamp(0.1, 0.5), 0.1
        )
        self._step = torch.where(rejected, self._step * share, self._step)
        self._rejections = torch.where(rejected, self._rejections + 1, 0)

    def _update_direction(self, good: Tensor) -> None:
        """New directions for the problems whose trial was accepted, (B,) bool.

        A problem that was rejected too often takes the steepest descent. If it was rejected along
        the gradient itself, it ends.
        """
        hopeless = self._rejections >= MAX_REJECTIONS
        # No history is left that could be wrong: the loss is flat to rounding here.
        stuck = hopeless & (self._history.count == 0)
        self.active = self.active & ~stuck
        self._history.reset(hopeless)
        gradient = self._gradient
        free = identity if self._box is None else self._box.free_subspace(self.x, gradient)
        gradient = free(gradient)
        direction = free(self._lbfgs_direction(gradient))
        slope = (direction * gradient).sum(1)
        norm2 = (gradient * gradient).sum(1)
        self.active = self.active & (norm2 > 0)
        rms = torch.sqrt(norm2 / gradient.shape[1]).clamp_min(1e-38)
        steepest = (self._history.count == 0) | ~(slope < 0) | ~torch.isfinite(slope)
        self._history.reset(steepest)
        scale = torch.where(steepest, self.first_step / rms, 1.0)
        direction = torch.where(steepest.view(-1, 1), -gradient * scale.view(-1, 1), direction)
        slope = torch.where(steepest, -norm2 * scale, slope)
        new = good | hopeless
        self._direction = torch.where(new.view(-1, 1), direction, self._direction)
        self._slope = torch.where(new, slope, self._slope)
        self._step = torch.where(new, 1.0, self._step)
        self._rejections = torch.where(new, 0, self._rejections)

    def _lbfgs_direction(self, gradient: Tensor) -> Tensor:
        """-H g (B, n) by the compact representation; -H0 g for a problem without history.

        With S and Y the stored pairs as columns, oldest first, R the upper triangle of S^T Y and D
        its diagonal:

            H g = H0 g + S w - H0 Y u,  u = R^-1 S^T g,
            w = R^-T ((D + Y^T H0 Y) u - Y^T H0 g)
        """
        history = self._history
        h0, yy = self._scaling.diagonal(history)
        products_s = history.products(history.s, gradient)
        products_y = history.products(history.y, h0 * gradient)
        order, used = history.by_age()
        p = products_s.gather(1, order) * used
        q = products_y.gather(1, order) * used
        rows = order.unsqueeze(2).expand(-1, -1, history.size)
        columns = order.unsqueeze(1).expand(-1, history.size, -1)
        both = used.unsqueeze(2) & used.unsqueeze(1)
        sy = torch.where(both, history.sy.gather(1, rows).gather(2, columns), 0.0)
        yy = torch.where(both, yy.gather(1, rows).gather(2, columns), 0.0)
        diagonal = sy.diagonal(dim1=1, dim2=2)
        # ones on the diagonal of the unused slots: their equations then have the solution 0
        r = sy.triu() + torch.diag_embed((~used).double())
        u = torch.linalg.solve_triangular(r, p.unsqueeze(2), upper=True)
        middle = diagonal.unsqueeze(2) * u + torch.bmm(yy, u) - q.unsqueeze(2)
        w = torch.linalg.solve_triangular(r.transpose(1, 2), middle, upper=False).squeeze(2)
        in_slots = torch.zeros_like(w)
        step = history.combination(history.s, in_slots.scatter(1, order, w))
        back = history.combination(history.y, in_slots.scatter(1, order, -u.squeeze(2)))
        return -(h0 * (gradient + back) + step)
