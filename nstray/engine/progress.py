"""Where a batch stands after an evaluation, for whoever watches an optimisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """A batch after one evaluation.

    Nothing of it is computed or copied from the device before `losses` or `pictures` is called.
    Each call waits for the device. Call them within the callback alone, in its thread: what they
    hold takes memory on the device.

    Attributes:
        indices: the batch's pairs, by their places in what `stylize`, `run_batches` or
            `Stylizer.run` was given.
        evaluation: evaluations so far, those of earlier stages included. A stage that ends early,
            because no pair moves any more, counts in full.
        evaluations: evaluations of all stages, if none ends early.
        stage, stages: the stage that this evaluation belongs to, from 1, and how many there are.
        shape: height and width of the stage's pictures.
        losses: gives each pair's total loss at the best point of this stage, as `Result` has it.
        pictures: gives each pair's best picture of this stage, (3, height, width) float32 over
            0..1 on the CPU, clamped. After the last evaluation it is the result's.
    """

    indices: tuple[int, ...]
    evaluation: int
    evaluations: int
    stage: int
    stages: int
    shape: tuple[int, int]
    losses: Callable[[], list[float]] = field(repr=False)
    pictures: Callable[[], list[Tensor]] = field(repr=False)


OnEvaluation = Callable[[int], None]
OnProgress = Callable[[Progress], None]
