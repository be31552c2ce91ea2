"""Many pairs of any shapes through one `Stylizer`: batches, out of memory, and pairs that fail."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nstray.engine.pair import Pair, Result, batch_key
from nstray.engine.progress import OnEvaluation, OnProgress
from nstray.engine.settings import SMALLEST_TILE
from nstray.engine.stylizer import Stylizer


@dataclass
class Memory:
    """What a device's memory was found to take of each content shape.

    Attributes:
        fits: pairs in a batch.
        tiles: side of the tiles in pixels, if it takes no whole picture.
    """

    fits: dict[tuple[int, ...], int] = field(default_factory=dict)
    tiles: dict[tuple[int, ...], int] = field(default_factory=dict)


def run_batches(
    stylizer: Stylizer,
    pairs: Sequence[Pair],
    batch_size: int,
    *,
    memory: Memory | None = None,
    on_batch: Callable[[list[int]], None] | None = None,
    on_evaluation: OnEvaluation | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[tuple[int, Result | Exception]]:
    """Run pairs in batches of one shape, budget and `batch_key`, as each batch finishes.

    Yields (index, result or the pair's exception), each index once.

    Out of device memory halves the batch. A lone pair is then run in tiles, ever smaller ones.
    `memory` remembers what the shape takes. Any other exception of a batch is narrowed down by
    bisection: one bad pair costs its neighbours a rerun and nothing else.

    Args:
        batch_size: pairs in a batch at most. A stylizer that is not `batched` (on a CPU) runs pairs
            one by one.
        memory: what earlier calls have found; updated.
        on_batch: called with the indices about to run.
        on_evaluation, on_progress: as of `Stylizer.run`, with the indices of `pairs`. A batch that
            is run again begins from its first evaluation. They must not raise: that would count as
            the failure of a pair.
    """
    memory = memory or Memory()
    batch_size = batch_size if stylizer.batched else 1
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        try:
            config = stylizer.settings(pair.settings)
        except ValueError as error:
            yield i, error
            continue
        shape = tuple(pair.content.shape)
        key = (shape, config.evaluations, batch_key(config, pair))
        groups.setdefault(key, []).append(i)
    for (shape, _, _), indices in groups.items():
        group = _Group(stylizer, pairs, indices, shape, batch_size, memory)
        while group.queue:
            chunk = group.queue.popleft()
            if on_batch:
                on_batch(chunk)
            told = None if on_progress is None else _with_indices(on_progress, chunk)
            outcome = _result_or_error(stylizer, group.in_tiles(chunk), on_evaluation, told)
            if isinstance(outcome, list):
                group.remember_tiles(chunk)
                yield from zip(chunk, outcome, strict=True)
            elif not group.retry(chunk, outcome):
                yield chunk[0], outcome


class _Group:
    """The pairs of one group that are still to run, in chunks of indices.

    Attributes:
        queue: the chunks, the next one first.
    """

    def __init__(
        self,
        stylizer: Stylizer,
        pairs: Sequence[Pair],
        indices: list[int],
        shape: tuple[int, ...],
        batch_size: int,
        memory: Memory,
    ) -> None:
        self._stylizer, self._pairs = stylizer, pairs
        self._shape, self._memory = shape, memory
        size = min(batch_size, memory.fits.get(shape, batch_size))
        self.queue = deque(_chunks(indices, size))
        # the side of the smaller tiles that a lone pair is tried in
        self._tried: dict[int, int] = {}

    def in_tiles(self, chunk: list[int]) -> list[Pair]:
        """The pairs of a chunk, with the tiles that they are known or tried to need."""
        return [self._with_tile(i) for i in chunk]

    def remember_tiles(self, chunk: list[int]) -> None:
        """A chunk has run: note the tiles, if it was a lone pair that was tried in smaller ones."""
        if len(chunk) == 1 and chunk[0] in self._tried:
            self._memory.tiles[self._shape] = self._tried[chunk[0]]

    def retry(self, chunk: list[int], error: Exception) -> bool:
        """Queue a failed chunk in another form; False for a lone pair that has no other form."""
        if isinstance(error, torch.cuda.OutOfMemoryError):
            queued = self._halve(chunk) if len(chunk) > 1 else self._shrink_tiles(chunk)
            if queued:
                torch.cuda.empty_cache()
            return queued
        return self._bisect(chunk)

    def _halve(self, chunk: list[int]) -> bool:
        """Half the pairs in every batch of this shape from here on."""
        half = self._memory.fits[self._shape] = len(chunk) // 2
        rest = chunk + [i for later in self.queue for i in later]
        self.queue = deque(_chunks(rest, half))
        return True

    def _shrink_tiles(self, chunk: list[int]) -> bool:
        """A lone pair in tiles of half the side; False if they are as small as is worth it."""
        pair = self._pairs[chunk[0]]
        images = [pair.content, *pair.styles, *([] if pair.fine is None else [pair.fine])]
        longest = max(max(image.shape) for image in images)
        half = min(longest, self._tile_side(chunk[0]) or longest) // 2
        if half < 2 * SMALLEST_TILE:
            return False
        self._tried[chunk[0]] = half
        self.queue.appendleft(chunk)
        return True

    def _bisect(self, chunk: list[int]) -> bool:
        """Two halves, to find the pair that fails; False for a lone pair."""
        if len(chunk) == 1:
            return False
        self.queue.extendleft(reversed(_chunks(chunk, (len(chunk) + 1) // 2)))
        return True

    def _tile_side(self, index: int) -> int:
        """The smaller one of the pair's own tile size and the one that memory asks for; 0: none."""
        own = self._stylizer.settings(self._pairs[index].settings).tile_size
        found = self._tried.get(index) or self._memory.tiles.get(self._shape, 0)
        return min(own, found) if own and found else own or found

    def _with_tile(self, index: int) -> Pair:
        pair = self._pairs[index]
        if not (self._tried.get(index) or self._memory.tiles.get(self._shape, 0)):
            return pair
        settings = {**pair.settings, "tile_size": self._tile_side(index)}
        return dataclasses.replace(pair, settings=settings)


def _result_or_error(
    stylizer: Stylizer,
    pairs: list[Pair],
    on_evaluation: OnEvaluation | None,
    on_progress: OnProgress | None,
) -> list[Result] | Exception:
    try:
        return stylizer.run(pairs, on_evaluation, on_progress)
    except Exception as error:
        # The traceback holds references to the batch's tensors, on a device that may just have run
        # out of memory.
        return error.with_traceback(None)


def _with_indices(on_progress: OnProgress, chunk: list[int]) -> OnProgress:
    """`on_progress`, told of a chunk's pairs by these indices."""
    indices = tuple(chunk)
    return lambda progress: on_progress(dataclasses.replace(progress, indices=indices))


def _chunks(indices: list[int], size: int) -> list[list[int]]:
    return [indices[k : k + size] for k in range(0, len(indices), size)]
