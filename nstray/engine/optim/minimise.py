"""One optimisation: L-BFGS or Adam on a batch of images, each with its own budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nstray.engine.optim.dct import Spectrum
from nstray.engine.optim.lbfgs import BatchedLBFGS
from nstray.engine.settings import StylizeConfig

# Root mean square change of a pixel (0..1) in the first trial. It is visible and far from
# saturating; the line search corrects it.
FIRST_STEP = 0.01
# Evaluations between two questions of the host whether any pair still moves. Each question waits
# for the device.
STOP_CHECK = 16
# The share of the evaluations in which lbfgs-spectral keeps pixels in their range. A tenth to a
# fifth end lowest, and 40 % end 0.5 % higher. If the range holds from the first evaluation on,
# pictures stick to the bounds and end at up to ten times the loss (128 px, the authors' layers).
PIXEL_PHASE = 0.1
# What a pixel may be during the optimisation; black is 0, white is 1.
BOUNDS: dict[str, tuple[float, float] | None] = {"free": None, "clamped": (0.0, 1.0)}


@dataclass
class OptimResult:
    """The best points of B pairs.

    Attributes:
        x: (B, 3, H, W).
        loss: (B,). terms: (T, B), the terms of the loss without their weights.
        curve: (B, K): the lowest loss after each evaluation.
        used: (B,): evaluations. iterations: (B,): accepted steps.
    """

    x: Tensor
    loss: Tensor
    terms: Tensor
    curve: Tensor
    used: Tensor
    iterations: Tensor


Evaluate = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
# Called after each evaluation with their count, the lowest losses (B,), and what gives the images
# (B, 3, H, W) of these losses. It launches nothing on the device unless the last one is called.
Watch = Callable[[int, Tensor, Callable[[], Tensor]], None] | None


def lbfgs_loop(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    config: StylizeConfig,
    watch: Watch,
) -> OptimResult:
    """L-BFGS on pixels, or with ``lbfgs-spectral`` on frequencies.

    With ``clamped``, the frequencies' last evaluations are within the range of pixels. A budget of
    one evaluation has no room for two phases: then the one is on pixels.

    Args:
        evaluate: images (B, 3, H, W) to losses (B,), gradients like the images, terms (T, B).
        x: start (B, 3, H, W).
        budgets: evaluations of each pair.
        config: `optimizer` and `value_range` count.
        watch: as `Watch` says.
    """
    bounds = BOUNDS[config.value_range]
    one_phase = config.value_range == "clamped" and min(budgets) < 2
    if config.optimizer == "lbfgs" or one_phase:
        return _on_pixels(evaluate, x, budgets, bounds, watch)
    return _on_frequencies(evaluate, x, budgets, bounds, watch)


def _on_pixels(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    bounds: tuple[float, float] | None,
    watch: Watch,
) -> OptimResult:
    optimizer = BatchedLBFGS(x.flatten(1), first_step=FIRST_STEP, bounds=bounds)
    forward = partial(torch.flatten, start_dim=1)
    inverse = partial(torch.reshape, shape=x.shape)
    return _minimise(optimizer, evaluate, forward, inverse, budgets, watch)


def _on_frequencies(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    bounds: tuple[float, float] | None,
    watch: Watch,
) -> OptimResult:
    spectrum = Spectrum(x.shape[2], x.shape[3], x.device)
    forward, inverse = spectrum.forward, spectrum.inverse
    optimizer = BatchedLBFGS(
        forward(x), first_step=FIRST_STEP, bands=spectrum.bands, change=(forward, inverse)
    )
    if bounds is None:
        return _minimise(optimizer, evaluate, forward, inverse, budgets, watch)
    pixel_budgets = [max(1, round(PIXEL_PHASE * budget)) for budget in budgets]
    free_budgets = [n - k for n, k in zip(budgets, pixel_budgets, strict=True)]
    first = _minimise(optimizer, evaluate, forward, inverse, free_budgets, watch)
    done = first.curve.shape[1]
    counted = None if watch is None else _counting_from(done, watch)
    optimizer.restart_within(bounds)

    def clamped(values: Tensor) -> Tensor:
        # clamped once more, since the change there and back rounds
        return inverse(values).clamp(*bounds)

    second = _minimise(optimizer, evaluate, forward, clamped, pixel_budgets, counted)
    return _join(first, second, budgets)


def _counting_from(done: int, watch: Callable[[int, Tensor, Callable[[], Tensor]], None]) -> Watch:
    return lambda count, loss, images: watch(done + count, loss, images)


def _join(first: OptimResult, second: OptimResult, budgets: Sequence[int]) -> OptimResult:
    """Two successive results of one optimizer: each pair's second curve follows its first one."""
    curve = torch.zeros(len(budgets), max(budgets), device=first.curve.device)
    for i, (n, k) in enumerate(zip(first.used.tolist(), second.used.tolist(), strict=True)):
        curve[i, :n], curve[i, n : n + k] = first.curve[i, :n], second.curve[i, :k]
    used = first.used + second.used
    return OptimResult(second.x, second.loss, second.terms, curve, used, second.iterations)


def _minimise(
    optimizer: BatchedLBFGS,
    evaluate: Evaluate,
    forward: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    budgets: Sequence[int],
    watch: Watch,
) -> OptimResult:
    """Run an optimizer of variables (B, n); `forward` makes them of images, `inverse` undoes it."""
    limits = torch.tensor(budgets, device=optimizer.x.device)
    used = torch.zeros_like(limits)
    best_terms = torch.zeros((), device=optimizer.x.device)
    curve = torch.zeros(len(budgets), max(budgets), device=optimizer.x.device)
    for k in range(max(budgets)):
        loss, gradient, terms = evaluate(inverse(optimizer.trial))
        used += optimizer.active
        good = optimizer.tell(loss, forward(gradient))
        best_terms = torch.where(good, terms, best_terms)
        curve[:, k] = optimizer.loss
        optimizer.stop(used >= limits)
        if watch:
            watch(k + 1, optimizer.loss, partial(inverse, optimizer.x))
        if (k + 1) % STOP_CHECK == 0 and not bool(optimizer.active.any()):
            break
    return OptimResult(
        inverse(optimizer.x), optimizer.loss, best_terms, curve, used, optimizer.iterations
    )


def adam_loop(
    evaluate: Evaluate,
    x: Tensor,
    budgets: Sequence[int],
    config: StylizeConfig,
    watch: Watch,
) -> OptimResult:
    """Adam, each pair's best point (Kingma and Ba, arXiv 1412.6980, algorithm 1, default betas).

    A pair whose budget is used up still moves with its batch; no later point of it is taken.

    The update is written out, since torch.optim.Adam rounds it in another order. That changes the
    loss by 2e-5 to 1e-3 of it after 12 evaluations and by 2e-4 to 5e-3 after 30 (64 px, random
    weights). A start moved by 1e-7 changes it by as much.

    Args: as of `lbfgs_loop`; of `config`, `learning_rate` and `value_range` count.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    b, bounds = x.shape[0], BOUNDS[config.value_range]
    limits = torch.tensor(budgets, device=x.device)
    x = x.clone() if bounds is None else x.clamp(*bounds)
    best_x = x.clone()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    best_loss = torch.full((b,), float("inf"), device=x.device)
    best_terms = torch.zeros((), device=x.device)
    curve = torch.zeros(b, max(budgets), device=x.device)
    for k in range(max(budgets)):
        loss, gradient, terms = evaluate(x)
        better = (limits > k) & (loss < best_loss)
        best_loss = torch.where(better, loss, best_loss)
        best_terms = torch.where(better, terms, best_terms)
        best_x = torch.where(better.view(-1, 1, 1, 1), x, best_x)
        curve[:, k] = best_loss
        mean = mean.lerp(gradient, 1 - beta1)
        square = square * beta2 + gradient.square() * (1 - beta2)
        unbiased_mean = mean / (1 - beta1 ** (k + 1))
        unbiased_square = square / (1 - beta2 ** (k + 1))
        x = x - config.learning_rate * unbiased_mean / (unbiased_square.sqrt() + epsilon)
        x = x if bounds is None else x.clamp(*bounds)
        if watch:
            watch(k + 1, best_loss, partial(_same, best_x))
    return OptimResult(best_x, best_loss, best_terms, curve, limits, limits)


def _same(images: Tensor) -> Tensor:
    return images
