"""The batched L-BFGS: against a plain two-loop recursion, on problems with known minima, and under misbehaving losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from nstray.engine.optim.lbfgs import FLOAT32_NOISE, MAX_STALLED, BatchedLBFGS
from nstray.engine.optim.minimise import lbfgs_loop
from nstray.engine.settings import StylizeConfig

Problem = Callable[[Tensor], tuple[Tensor, Tensor]]


def two_loop(gradient: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """-H g by algorithm 7.4 of Nocedal and Wright (2nd ed.), pairs (s, y) oldest first, H0 = s'y / y'y of the newest."""
    q, alphas = gradient.copy(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    s, y = pairs[-1]
    r = q * (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r += s * (alpha - (y @ r) / (s @ y))
    return -r


def quadratics(b: int, n: int, condition: float = 30.0) -> Problem:
    """1/2 x'Ax per problem, the eigenvalues of A spread from 1 to `condition`; the minimum, 0, is at 0."""
    generator = torch.Generator().manual_seed(b * 1000 + n)
    basis = torch.linalg.qr(torch.randn(b, n, n, generator=generator, dtype=torch.float64))[0]
    matrix = ((basis * torch.logspace(0, np.log10(condition), n, dtype=torch.float64)) @ basis.transpose(1, 2)).float()

    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.bmm(matrix, x.unsqueeze(2)).squeeze(2)
        return (x * gradient).sum(1) / 2, gradient

    return f


def rosenbrock(x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        loss = (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient


def start(b: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(b, n, generator=torch.Generator().manual_seed(seed))


def minimise(f: Problem, x: Tensor, evaluations: int, **options: float) -> BatchedLBFGS:
    optimizer = BatchedLBFGS(x, **{"first_step": 0.1, **options})  # type: ignore[arg-type]
    for _ in range(evaluations):
        optimizer.tell(*f(optimizer.trial))
    return optimizer


def test_direction_is_the_two_loop_recursions() -> None:
    """Every direction of three problems, one of them refused now and then so that their histories run out of step."""
    b, n, history = 3, 20, 5
    f, optimizer = quadratics(b, n), BatchedLBFGS(start(b, n), first_step=0.05, history=history)
    points: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(b)]
    compared = 0
    for k in range(18):
        trial = optimizer.trial.clone()
        loss, gradient = f(trial)
        if k in (3, 4, 9):
            loss[1] = float("nan")
        good = optimizer.tell(loss, gradient)
        for i in np.flatnonzero(good.numpy()):
            points[i].append((trial[i].double().numpy(), gradient[i].double().numpy()))
            pairs = [(x2 - x1, g2 - g1) for (x1, g1), (x2, g2) in zip(points[i], points[i][1:], strict=False)][-history:]
            if not pairs:
                continue
            expected = two_loop(points[i][-1][1], pairs)
            # after an accepted point the next trial is one whole direction away
            direction = (optimizer.trial[i] - optimizer.x[i]).double().numpy()
            assert np.linalg.norm(direction - expected) < 1e-4 * np.linalg.norm(expected), (k, i)
            compared += 1
    assert compared >= 35
    assert len(points[1]) < len(points[0])  # the refusals did happen


def test_quadratics_converge() -> None:
    optimizer = minimise(quadratics(4, 50), start(4, 50), 60)
    assert bool((optimizer.loss < 1e-8).all())
    assert bool((optimizer.x.abs() < 1e-3).all())


@pytest.mark.parametrize("n", [2, 10])
def test_rosenbrock_converges(n: int) -> None:
    x = torch.full((1, n), -1.2)
    x[:, 1::2] = 1.0
    optimizer = minimise(rosenbrock, x, 150)
    assert float(optimizer.loss) < 1e-6
    assert bool(((optimizer.x - 1).abs() < 1e-2).all())


def test_a_problem_in_a_batch_goes_the_way_it_goes_alone() -> None:
    x, n = start(5, 12), 12
    f = quadratics(5, n)

    def only(i: int) -> Problem:
        return lambda xi: tuple(t[i : i + 1] for t in f(xi.expand(5, n)))  # type: ignore[return-value]

    together = minimise(f, x, 12)
    for i in range(5):
        alone = minimise(only(i), x[i : i + 1], 12)
        assert torch.allclose(alone.x[0], together.x[i], rtol=1e-4, atol=1e-6)
        assert int(alone.iterations) == int(together.iterations[i])


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 1e30], ids=["inf", "nan", "huge"])
def test_refusals_of_one_problem_leave_the_others_alone(bad: float) -> None:
    f = quadratics(3, 12)

    def spoiled(x: Tensor, k: list[int]) -> tuple[Tensor, Tensor]:
        loss, gradient = f(x)
        k[0] += 1
        if k[0] > 3:
            loss[1], gradient[1] = bad, bad
        return loss, gradient

    count = [0]
    clean, dirty = minimise(f, start(3, 12), 15), minimise(lambda x: spoiled(x, count), start(3, 12), 15)
    for i in (0, 2):
        assert torch.equal(clean.x[i], dirty.x[i])
        assert torch.equal(clean.loss[i], dirty.loss[i])
    assert int(dirty.iterations[1]) == 2
    assert bool(torch.isfinite(dirty.x).all())
    assert float(dirty.loss[1]) > float(clean.loss[1])


def test_a_loss_that_is_not_finite_beyond_a_wall_is_walked_up_to() -> None:
    """sum -log(1 - x) + 3 x: not a number for x >= 1; the minimum at 2/3 lies near the wall and the first step, 5, behind it."""

    def barrier(x: Tensor) -> tuple[Tensor, Tensor]:
        return (-torch.log(1 - x) - 3 * x).sum(1), 1 / (1 - x) - 3

    optimizer = minimise(barrier, torch.zeros(2, 6), 40, first_step=5.0)
    assert torch.allclose(optimizer.x, torch.full((2, 6), 2 / 3), atol=1e-3)


def test_not_finite_at_the_start_ends_that_problem_alone() -> None:
    f = quadratics(2, 6)

    def broken(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = f(x)
        loss[0] = float("nan")
        return loss, gradient

    x = start(2, 6)
    optimizer = minimise(broken, x, 30)
    assert optimizer.active.tolist()[0] is False
    assert torch.equal(optimizer.x[0], x[0])
    assert not torch.isfinite(optimizer.loss[0])
    assert float(optimizer.loss[1]) < 1e-6


def test_a_gradient_that_is_not_finite_ends_the_problem_where_it_is() -> None:
    f = quadratics(2, 6)
    count = [0]

    def broken(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = f(x)
        count[0] += 1
        if count[0] > 4:
            gradient[0] = float("nan")
        return loss, gradient

    optimizer = minimise(broken, start(2, 6), 30)
    assert bool(torch.isfinite(optimizer.x).all())
    assert not bool(optimizer.active[0])
    assert float(optimizer.loss[1]) < 1e-6


def test_accepted_losses_do_not_rise() -> None:
    optimizer = BatchedLBFGS(start(6, 10, seed=3), first_step=1.0)
    previous = torch.full((6,), float("inf"))
    refused = 0
    for k in range(80):
        good = optimizer.tell(*rosenbrock(optimizer.trial))
        refused += int((~good).sum()) if k else 0
        assert bool((optimizer.loss <= previous * (1 + FLOAT32_NOISE)).all())
        previous = optimizer.loss
    assert refused > 0  # the safeguard had something to refuse


def test_a_flat_loss_ends() -> None:
    def flat(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(x),), 3.0), torch.zeros_like(x)

    optimizer = minimise(flat, start(2, 5), 1)
    assert not bool(optimizer.active.any())
    assert torch.equal(optimizer.trial, start(2, 5))


def test_a_gradient_that_promises_what_the_loss_never_keeps_ends() -> None:
    """The loss stands still whatever the step: as on a plateau of float32."""
    x = start(2, 5)
    optimizer = BatchedLBFGS(x, first_step=0.1)
    told = 0
    while bool(optimizer.active.any()) and told < 5 * MAX_STALLED:
        optimizer.tell(torch.full((2,), 3.0), torch.ones_like(x))
        told += 1
    assert not bool(optimizer.active.any())
    assert told <= MAX_STALLED + 1
    assert torch.equal(optimizer.loss, torch.full((2,), 3.0))


def test_a_loss_that_only_rises_ends_at_the_start() -> None:
    x = start(2, 5)
    optimizer = BatchedLBFGS(x, first_step=0.1)
    for k in range(5 * MAX_STALLED):
        optimizer.tell(torch.full((2,), 3.1 if k else 3.0), torch.ones_like(x))
    assert not bool(optimizer.active.any())
    assert torch.equal(optimizer.x, x)


def test_history_that_misleads_is_thrown_away() -> None:
    """A problem whose landscape turns over between two evaluations finds its way again by steepest descent."""
    f, g = quadratics(1, 8), quadratics(1, 9)
    optimizer = minimise(f, start(1, 8), 10)

    def turned(x: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = g(torch.cat([x - 40, torch.zeros(1, 1)], 1))
        return loss, gradient[:, :8]

    # the loss accepted last belongs to the old landscape: everything is refused until both it and the history are let go
    first, _ = turned(optimizer.x)
    optimizer.loss = first
    for _ in range(120):
        optimizer.tell(*turned(optimizer.trial))
    assert float(optimizer.loss) < 1e-3 * float(first)


def test_each_problem_stops_at_its_own_budget() -> None:
    f, shape = quadratics(3, 12), (3, 3, 2, 2)
    seen: list[Tensor] = []
    ticks: list[int] = []

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(x.clone())
        loss, gradient = f(x.flatten(1))
        return loss, gradient.view(shape), torch.stack([loss, loss, loss])

    x = start(3, 12).view(shape)
    outcome = lbfgs_loop(evaluate, x, [1, 5, 9], StylizeConfig(value_range="free"), lambda count, *_: ticks.append(count))
    assert outcome.used.tolist() == [1, 5, 9]
    assert ticks == list(range(1, 10))
    assert torch.equal(outcome.x[0], x[0])
    # after its budget a problem's point no longer moves
    assert all(torch.equal(points[1], outcome.x[1]) for points in seen[6:])
    for i, budget in enumerate((1, 5, 9)):
        assert float(outcome.loss[i]) == float(outcome.curve[i, budget - 1])
        assert float(outcome.terms[0, i]) == float(outcome.loss[i])  # the terms are those of the point that is returned
        alone = minimise(lambda xi, i=i: tuple(t[i : i + 1] for t in f(xi.expand(3, 12))), x[i : i + 1].flatten(1), budget, first_step=0.01)
        assert float(outcome.loss[i]) == pytest.approx(float(alone.loss), rel=1e-4)


def test_the_loop_ends_early_where_nothing_moves() -> None:
    calls = [0]

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        calls[0] += 1
        return torch.zeros(2), torch.zeros_like(x), torch.zeros(3, 2)

    outcome = lbfgs_loop(evaluate, torch.rand(2, 3, 4, 4), [1000, 1000], StylizeConfig(), None)
    assert calls[0] < 50
    assert outcome.used.tolist() == [1, 1]
