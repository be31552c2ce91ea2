"""How far the batch on a device is: its stage, and its share of the work.

The work of an evaluation is its pixels, and `FIXED_PIXELS` for what does not shrink with the
picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nstray.engine.settings import StylizeConfig
from nstray.engine.stages import stages_of
from nstray.worker.messages import FIXED_PIXELS


@dataclass(frozen=True)
class BatchProgress:
    """The stages of a batch.

    Attributes:
        pairs: of the batch.
        ends: evaluations at the end of each stage.
        weights: the work of one evaluation in each stage.
    """

    pairs: int
    ends: Sequence[int]
    weights: Sequence[float]

    @classmethod
    def of(
        cls, pairs: int, config: StylizeConfig, height: int, width: int, least: int
    ) -> BatchProgress:
        """Of pairs of height x width pixels; `least` as `nstray.engine.stages.stages_of` has it."""
        ends: list[int] = []
        weights = []
        for stage in stages_of(config, height, width, least):
            ends.append((ends[-1] if ends else 0) + (stage.evaluations or config.evaluations))
            weights.append(FIXED_PIXELS + float(stage.shape[0] * stage.shape[1]))
        return cls(pairs, ends, weights)

    def stage(self, count: int) -> tuple[int, int]:
        """The number of the stage after `count` evaluations, and how many stages there are."""
        number = sum(count > end for end in self.ends[:-1])
        return number + 1, len(self.ends)

    def share(self, count: int) -> float:
        """The share of the work that `count` evaluations are."""
        begins = [0, *self.ends[:-1]]
        done = whole = 0.0
        for begin, end, weight in zip(begins, self.ends, self.weights, strict=True):
            done += weight * max(0, min(count, end) - begin)
            whole += weight * (end - begin)
        return done / whole if whole else 0.0
