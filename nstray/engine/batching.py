"""Many pairs of any shapes through one `Stylizer`, in batches; and the function a notebook calls."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nstray.engine.pair import Pair, Result
from nstray.engine.settings import SMALLEST_TILE
from nstray.engine.stylizer import Stylizer, batch_key


@dataclass
class Memory:
    """What a device's memory was found to take of each shape: pairs in a batch, and the side of the tiles where it takes no whole picture."""

    fits: dict[tuple[int, ...], int] = field(default_factory=dict)
    tiles: dict[tuple[int, ...], int] = field(default_factory=dict)


def run_batches(
    stylizer: Stylizer,
    pairs: Sequence[Pair],
    batch_size: int,
    *,
    memory: Memory | None = None,
    on_batch: Callable[[list[int]], None] | None = None,
    on_evaluation: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Result | Exception]]:
    """Run pairs grouped by shape, budget and `batch_key`; yields (index, result or its exception) as batches finish, each index once.

    Out of device memory halves the batch, then runs the pair in tiles, ever smaller ones, and remembers in `memory` what that shape
    takes. Any other exception of a batch is narrowed down by bisection, so that one bad pair costs its neighbours a rerun and
    nothing else.
    `on_batch` is told the indices about to run. A stylizer that is not `batched` (on a CPU) runs pairs one by one.
    """
    memory = memory or Memory()
    fits = memory.fits
    batch_size = batch_size if stylizer.batched else 1
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, pair in enumerate(pairs):
        try:
            config = stylizer.settings(pair.settings)
        except ValueError as error:
            yield i, error
            continue
        groups.setdefault(
            (tuple(pair.content.shape), config.evaluations, batch_key(config, pair)), []
        ).append(i)
    for (shape, _, _), indices in groups.items():
        todo = deque(_chunks(indices, min(batch_size, fits.get(shape, batch_size))))
        trying: dict[int, int] = {}  # smaller tiles that a pair is tried in
        while todo:
            chunk = todo.popleft()
            if on_batch:
                on_batch(chunk)
            outcome = _attempt(
                stylizer,
                [
                    _tiled(stylizer, pairs[i], trying.get(i) or memory.tiles.get(shape, 0))
                    for i in chunk
                ],
                on_evaluation,
            )
            alone = chunk[0] if len(chunk) == 1 else -1
            if isinstance(outcome, list):
                if alone in trying:
                    memory.tiles[shape] = trying[alone]
                yield from zip(chunk, outcome, strict=True)
            elif (
                alone >= 0
                and isinstance(outcome, torch.cuda.OutOfMemoryError)
                and (
                    side := _smaller(
                        stylizer, pairs[alone], trying.get(alone) or memory.tiles.get(shape, 0)
                    )
                )
            ):
                trying[alone] = side
                todo.appendleft(chunk)
                torch.cuda.empty_cache()
            elif len(chunk) == 1:
                yield chunk[0], outcome
            elif isinstance(outcome, torch.cuda.OutOfMemoryError):
                fits[shape] = len(chunk) // 2
                rest = chunk + [i for later in todo for i in later]
                todo = deque(_chunks(rest, fits[shape]))
                torch.cuda.empty_cache()
            else:
                todo.extendleft(reversed(_chunks(chunk, (len(chunk) + 1) // 2)))


def _attempt(
    stylizer: Stylizer, pairs: list[Pair], on_evaluation: Callable[[int], None] | None
) -> list[Result] | Exception:
    try:
        return stylizer.run(pairs, on_evaluation)
    except Exception as error:
        # the traceback keeps the batch's tensors alive, on a device that may just have run out of memory
        return error.with_traceback(None)


def _side(stylizer: Stylizer, pair: Pair, side: int) -> int:
    """The side of the tiles that a pair runs in: the smaller one of its setting and `side`, where 0 is none."""
    own = stylizer.settings(pair.settings).tile_size
    return min(own, side) if own and side else own or side


def _tiled(stylizer: Stylizer, pair: Pair, side: int) -> Pair:
    return (
        dataclasses.replace(
            pair, settings={**pair.settings, "tile_size": _side(stylizer, pair, side)}
        )
        if side
        else pair
    )


def _smaller(stylizer: Stylizer, pair: Pair, side: int) -> int | None:
    """The next side of tiles to try where `side` was too large; None where they are as small as is worth it."""
    longest = max(
        max(image.shape)
        for image in (pair.content, *pair.styles, *([] if pair.fine is None else [pair.fine]))
    )
    half = min(longest, _side(stylizer, pair, side) or longest) // 2
    return half if half >= 2 * SMALLEST_TILE else None


def _chunks(indices: list[int], size: int) -> list[list[int]]:
    return [indices[k : k + size] for k in range(0, len(indices), size)]
