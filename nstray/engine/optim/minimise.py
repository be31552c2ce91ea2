"""The two loops of an optimisation: L-BFGS and Adam over a batch of images, every pair with its own budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nstray.engine.optim.dct import Spectrum
from nstray.engine.optim.lbfgs import BatchedLBFGS
from nstray.engine.settings import StylizeConfig

# Root mean square change of a pixel (0..1) in the first trial: visible, far from saturating; the line search mends the rest.
FIRST_STEP = 0.01
# How often the host asks whether any pair is still moving; each question waits for the device.
STOP_CHECK = 16
# The share of the evaluations in which lbfgs-spectral keeps pixels in their range. A tenth to a fifth end lowest, 40 % 0.5 % higher;
# kept from the first evaluation on, pictures stick to the bounds and end at up to ten times the loss (128 px, the authors' layers).
PIXEL_PHASE = 0.1
# What a pixel may be on the way; black is 0, white is 1.
BOUNDS: dict[str, tuple[float, float] | None] = {"free": None, "clamped": (0.0, 1.0)}


@dataclass
class OptimResult:
    """The best points of B pairs: x (B, 3, H, W), loss (B,), terms (T, B), curve (B, K), used and iterations (B,)."""

    x: Tensor
    loss: Tensor
    terms: Tensor
    curve: Tensor
    used: Tensor
    iterations: Tensor


Evaluate = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
Progress = Callable[[int], None] | None


def lbfgs_loop(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    config: StylizeConfig,
    on_evaluation: Progress,
) -> OptimResult:
    """L-BFGS on pixels; or on frequencies, in the last of the evaluations within the range, where pixels are to be `clamped`."""
    if config.optimizer == "lbfgs":
        return _on_pixels(evaluate, x, budgets, BOUNDS[config.value_range], on_evaluation)
    if config.value_range == "clamped" and min(budgets) < 2:
        return _on_pixels(evaluate, x, budgets, BOUNDS["clamped"], on_evaluation)
    return _on_frequencies(evaluate, x, budgets, BOUNDS[config.value_range], on_evaluation)


def _joined(first: OptimResult, second: OptimResult, budgets: Sequence[int]) -> OptimResult:
    """Two outcomes of one optimizer, the second later; each pair's curve goes on where its own first one ended."""
    curve = torch.zeros(len(budgets), max(budgets), device=first.curve.device)
    for i, (n, k) in enumerate(zip(first.used.tolist(), second.used.tolist(), strict=True)):
        curve[i, :n], curve[i, n : n + k] = first.curve[i, :n], second.curve[i, :k]
    return OptimResult(
        second.x, second.loss, second.terms, curve, first.used + second.used, second.iterations
    )


def _on_frequencies(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    bounds: tuple[float, float] | None,
    on_evaluation: Progress,
) -> OptimResult:
    spectrum = Spectrum(x.shape[2], x.shape[3], x.device)
    forward, inverse = spectrum.forward, spectrum.inverse
    start = forward(x)
    optimizer = BatchedLBFGS(
        start, first_step=FIRST_STEP, bands=spectrum.bands, change=(forward, inverse)
    )
    if bounds is None:
        return _minimised(optimizer, evaluate, forward, inverse, budgets, on_evaluation)
    last = [max(1, round(PIXEL_PHASE * budget)) for budget in budgets]
    first = _minimised(
        optimizer,
        evaluate,
        forward,
        inverse,
        [n - k for n, k in zip(budgets, last, strict=True)],
        on_evaluation,
    )
    done = first.curve.shape[1]
    later = None if on_evaluation is None else lambda count: on_evaluation(done + count)
    optimizer.within(bounds)
    # clamped once more, since the change there and back rounds
    second = _minimised(
        optimizer, evaluate, forward, lambda values: inverse(values).clamp(*bounds), last, later
    )
    return _joined(first, second, budgets)


def _on_pixels(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    bounds: tuple[float, float] | None,
    on_evaluation: Progress,
) -> OptimResult:
    optimizer = BatchedLBFGS(x.flatten(1), first_step=FIRST_STEP, bounds=bounds)
    return _minimised(
        optimizer,
        evaluate,
        partial(torch.flatten, start_dim=1),
        partial(torch.reshape, shape=x.shape),
        budgets,
        on_evaluation,
    )


def _minimised(
    optimizer: BatchedLBFGS,
    evaluate: Evaluate,
    forward: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    budgets: Sequence[int],
    on_evaluation: Progress,
) -> OptimResult:
    limits = torch.tensor(budgets, device=optimizer.x.device)
    used = torch.zeros_like(limits)
    best = torch.zeros((), device=optimizer.x.device)
    curve = torch.zeros(len(budgets), max(budgets), device=optimizer.x.device)
    for k in range(max(budgets)):
        loss, gradient, terms = evaluate(inverse(optimizer.trial))
        used += optimizer.active
        good = optimizer.tell(loss, forward(gradient))
        best = torch.where(good, terms, best)
        curve[:, k] = optimizer.loss
        optimizer.stop(used >= limits)
        if on_evaluation:
            on_evaluation(k + 1)
        if (k + 1) % STOP_CHECK == 0 and not bool(optimizer.active.any()):
            break
    return OptimResult(
        inverse(optimizer.x), optimizer.loss, best, curve, used, optimizer.iterations
    )


def adam_loop(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    config: StylizeConfig,
    on_evaluation: Progress,
) -> OptimResult:
    """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1, its default betas); the point kept is the best one evaluated."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    b, bounds = x.shape[0], BOUNDS[config.value_range]
    limits = torch.tensor(budgets, device=x.device)
    x = x if bounds is None else x.clamp(*bounds)
    x, kept = x.clone(), x.clone()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    lowest = torch.full((b,), float("inf"), device=x.device)
    best = torch.zeros((), device=x.device)
    curve = torch.zeros(b, max(budgets), device=x.device)
    for k in range(max(budgets)):
        loss, gradient, terms = evaluate(x)
        better = (limits > k) & (loss < lowest)
        lowest, best = torch.where(better, loss, lowest), torch.where(better, terms, best)
        kept = torch.where(better.view(-1, 1, 1, 1), x, kept)
        curve[:, k] = lowest
        mean = mean.lerp(gradient, 1 - beta1)
        square = square * beta2 + gradient.square() * (1 - beta2)
        x = x - config.learning_rate * (mean / (1 - beta1 ** (k + 1))) / (
            (square / (1 - beta2 ** (k + 1))).sqrt() + epsilon
        )
        x = x if bounds is None else x.clamp(*bounds)
        if on_evaluation:
            on_evaluation(k + 1)
    return OptimResult(kept, lowest, best, curve, limits, limits)
