"""Pixels within 0..1: the penalty by its formula, and the box that L-BFGS and Adam keep to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from nets import pair, picture, stylizer

from nstray.engine.losses.gatys import range_loss
from nstray.engine.optim.lbfgs import BatchedLBFGS


def test_the_penalty_is_the_squared_excess() -> None:
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    for scale, divisor in (("paper", 1), ("mean", 3 * 5 * 7)):
        loss = range_loss(x, scale)  # type: ignore[arg-type]
        values = x.detach().double().numpy()
        excess = np.maximum(0, values - 1) + np.minimum(0, values)
        assert loss.detach().numpy() == pytest.approx((excess**2).sum((1, 2, 3)) / divisor, rel=1e-6)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert gradient.numpy() == pytest.approx(2 * excess / divisor, rel=1e-5, abs=1e-9)


def test_the_penalty_pulls_pixels_inside() -> None:
    free, held = (stylizer(style_weight=1e4, evaluations=30, range_weight=w, init="noise") for w in (0.0, 1e4))
    p = pair(3, start=(picture(3) * 3 - 1).clamp(-0.9, 1.9))
    (a,), (b,) = free.run([p]), held.run([p])
    assert a.loss_range is None
    assert b.loss_range is not None
    outside = [float(range_loss(s.run([p])[0].image.unsqueeze(0), "mean")) for s in (held,)]
    assert outside == [0.0]  # the picture itself is clamped
    assert b.loss_range < 1e-3
    assert b.loss_total == pytest.approx((b.loss_content or 0) + 1e4 * (b.loss_style or 0) + 1e4 * b.loss_range, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_clamped_picture_is_the_one_whose_loss_is_told(optimizer: str) -> None:
    """Free, the losses are those of the picture before it is clamped; clamped, of the picture itself."""
    bright = picture(5) * 0.2 + 0.8
    own = {"style_weight": 1e5, "optimizer": optimizer, "evaluations": 25}
    p = pair(1, content=bright, start=picture(2) * 1.5 - 0.25)
    told = {}
    for value_range in ("free", "clamped"):
        s = stylizer(**own, value_range=value_range)
        (r,) = s.run([p])
        again, _, _ = s.objective([p], bright.unsqueeze(0)).evaluate(r.image.unsqueeze(0))
        told[value_range] = r.loss_total / float(again)
        assert r.loss_total < r.loss_curve[0]
    assert told["clamped"] == pytest.approx(1, rel=1e-5)
    assert told["free"] < 0.999


def test_lbfgs_in_a_box_ends_where_the_boxed_quadratic_does() -> None:
    """Convex quadratics with an ill-conditioned, coupled Hessian; the answer by projected gradient steps until nothing moves."""
    rng = np.random.default_rng(0)
    b, n = 4, 30
    roots = rng.standard_normal((b, n, n))
    hessian = torch.tensor(roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(n))
    centre = torch.tensor(rng.uniform(-1, 2, (b, n)))

    def f(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        g = torch.einsum("bij,bj->bi", hessian, x.double() - centre)
        return ((x.double() - centre) * g).sum(1) / 2, g

    x = torch.full((b, n), 0.5, dtype=torch.float64)
    step = 1 / torch.linalg.eigvalsh(hessian).amax(1, keepdim=True)
    for _ in range(200_000):
        moved = (x - step * f(x)[1]).clamp(0, 1)
        if float((moved - x).abs().max()) < 1e-12:
            break
        x = moved
    assert 0 < int(((x == 0) | (x == 1)).sum()) < b * n
    optimizer = BatchedLBFGS(torch.full((b, n), 3.0), first_step=0.01, bounds=(0.0, 1.0))
    for _ in range(300):
        assert 0 <= float(optimizer.trial.min()) <= float(optimizer.trial.max()) <= 1
        loss, gradient = f(optimizer.trial)
        optimizer.tell(loss.float(), gradient.float())
    assert optimizer.x.double().numpy() == pytest.approx(x.numpy(), abs=2e-3)
    assert optimizer.loss.double().numpy() == pytest.approx(f(x)[0].numpy(), rel=1e-5)


def quadratics(b: int, n: int, beyond: float) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Convex ones whose lowest points lie up to `beyond` outside of the box (negative: within it)."""
    rng = np.random.default_rng(1)
    roots = rng.standard_normal((b, n, n))
    hessian = torch.tensor(roots @ roots.transpose(0, 2, 1) + 0.01 * np.eye(n)).float()
    centre = torch.tensor(rng.uniform(-beyond, 1 + beyond, (b, n))).float()

    def f(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        g = torch.einsum("bij,bj->bi", hessian, x - centre)
        return ((x - centre) * g).sum(1) / 2, g

    return f


def test_bounds_hold_for_what_an_orthonormal_change_of_variables_stands_for() -> None:
    """L-BFGS takes the same steps in any orthonormal basis, so a box that is turned with it must change nothing."""
    f = quadratics(3, 20, 1.0)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(2)))[0]
    plain = BatchedLBFGS(torch.full((3, 20), 0.4), first_step=0.01, bounds=(0.0, 1.0))
    turned = BatchedLBFGS(torch.full((3, 20), 0.4) @ turn, first_step=0.01, bounds=(0.0, 1.0), change=(lambda x: x @ turn, lambda x: x @ turn.T))
    for _ in range(12):
        plain.tell(*f(plain.trial))
        x = turned.trial @ turn.T
        assert -1e-5 < float(x.min()) <= float(x.max()) < 1 + 1e-5
        loss, gradient = f(x)
        turned.tell(loss, gradient @ turn)
        assert turned.loss.numpy() == pytest.approx(plain.loss.numpy(), rel=1e-3)
    x = turned.x @ turn.T
    assert bool(((x < 1e-5) | (x > 1 - 1e-5)).any())
    assert x.numpy() == pytest.approx(plain.x.numpy(), abs=1e-2)


def test_what_was_learnt_before_the_bounds_is_used_within_them() -> None:
    f = quadratics(4, 60, -0.1)
    known = BatchedLBFGS(torch.full((4, 60), 0.5), first_step=0.01, history=50)
    for _ in range(25):
        known.tell(*f(known.trial))
    known.stop(torch.tensor([True, False, True, False]))  # those that ended go on too
    fresh = BatchedLBFGS(known.x, first_step=0.01, history=50, bounds=(0.0, 1.0))
    known.restart_within((0.0, 1.0))
    assert torch.equal(known.trial, fresh.trial)
    iterations = known.iterations.clone()
    for k in range(8):
        for optimizer in (known, fresh):
            optimizer.tell(*f(optimizer.trial))
        if k == 0:
            assert torch.equal(known.loss, fresh.loss)  # that of the point moved inside, not the lower one outside
    assert bool((known.iterations > iterations).all())
    assert 0 <= float(known.x.min()) <= float(known.x.max()) <= 1
    assert bool((known.loss < fresh.loss).all()), (known.loss, fresh.loss)


def test_a_start_with_nowhere_to_go_ends_at_once() -> None:
    """Every variable at its bound, the gradient pointing out."""
    optimizer = BatchedLBFGS(torch.zeros(1, 5), first_step=0.01, bounds=(0.0, 1.0))
    optimizer.tell(torch.tensor([1.0]), torch.ones(1, 5))
    assert not bool(optimizer.active.any())
    assert torch.equal(optimizer.x, torch.zeros(1, 5))
