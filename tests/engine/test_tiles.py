"""Tiles change nothing but rounding: positions are covered once, losses and gradients are the whole picture's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import pair, picture, stylizer, weights

from nstray.engine import load_weights
from nstray.engine.batching import Memory, run_batches
from nstray.engine.losses.tiles import margin, split
from nstray.engine.pair import Pair, Result
from nstray.engine.settings import CONV_LAYERS, StylizeConfig
from nstray.engine.stylizer import Stylizer

REAL = Path(__file__).parents[3] / "shared" / "data" / "weights" / "vgg19-normalised-conv1_1-conv3_1.safetensors"


@pytest.mark.parametrize(("taps", "expected"), [(["conv1_1"], 1), (["conv1_2", "pre:conv1_1"], 2), (["conv3_1"], 12), (["conv5_1", "conv4_2"], 80)])
def test_margins(taps: list[str], expected: int) -> None:
    """By hand: conv3_1 sees 2 positions of block 1, 2 of block 2 (2 pixels each) and 1 of block 3 (4 pixels): 10, in blocks of 4: 12."""
    assert margin(taps) == expected


@pytest.mark.parametrize("seed", range(20))
def test_every_position_belongs_to_one_tile(seed: int) -> None:
    rng = np.random.default_rng(seed)
    taps = [str(t) for t in rng.choice(CONV_LAYERS, 3, replace=False)]
    h, w, side = (int(n) for n in rng.integers(40, 500, 3))
    tiles = split(h, w, side, taps)
    assert len(tiles) > 1 or max(h, w) < 2 * side
    for tap in taps:
        factor = 2 ** (int(tap[4]) - 1)
        count = np.zeros((h // factor, w // factor), int)
        for tile in tiles:
            count[tile.of_picture(tap)] += 1
            inner = tile.of_crop(tap)
            assert [s.stop - s.start for s in inner] == [s.stop - s.start for s in tile.of_picture(tap)]
            assert all(s.start >= 0 for s in inner)
            for crop, length in zip(tile.crop, (h, w), strict=True):
                assert crop.start % factor == 0
                assert crop.stop == length or crop.stop % factor == 0
        assert (count == 1).all()


CASES: dict[str, dict[str, Any]] = {
    "gram": {},
    "wasserstein": {"style_statistic": "wasserstein"},
    "mean-std": {"style_statistic": "mean-std"},
    "max pooling": {"pooling": "max"},
    "paper's sums": {"loss_scale": "paper", "content_weight": 1e-3},
    "content alone": {"style_weight": 0.0},
    "style alone": {"content_weight": 0.0},
    "with terms on pixels": {"tv_weight": 3.0, "range_weight": 5.0},
    "before the rectification": {"content_layers": ("pre:conv2_2",), "style_layers": ("pre:conv1_1", "conv2_1", "conv3_1")},
    "weights of layers": {"style_layer_weights": (1.0, 0.0, 2.0)},
}


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_losses_and_gradients_are_the_whole_pictures(case: dict[str, Any], guided: bool) -> None:
    values = {"content_layers": ("conv3_1",), "style_layers": ("conv1_1", "conv2_1", "conv3_1"), **case}
    h, w = 150, 203
    guide = torch.rand(h, w, generator=torch.Generator().manual_seed(1))
    own = {"guides": [guide, 1 - guide]} if guided else {}
    p = Pair(picture(1, h, w), [picture(2, 170, 90), picture(3, 80, 99)], **own)
    x = (picture(4, h, w) * 1.2 - 0.1).unsqueeze(0)
    found = []
    for tile in (0, 64):
        s = Stylizer(StylizeConfig(**values, tile_size=tile), weights(5))
        objective = s.objective([p], p.content.unsqueeze(0))
        found.append([*objective.evaluate(x), *objective.content.values(), *objective.style.values()])
        passes = len(split(h, w, tile, objective.taps))
    assert passes == 3 * 4
    for whole, tiled in zip(*found, strict=True):
        assert whole.shape == tiled.shape
        assert float((whole - tiled).norm()) <= 2e-5 * float(whole.norm()) + 1e-12


@pytest.mark.parametrize(("optimizer", "evaluations"), [("lbfgs", 6), ("adam", 12)])
def test_the_pictures_are_the_same(optimizer: str, evaluations: int) -> None:
    """Few evaluations, and free pixels: L-BFGS carries rounding on, the sooner where a pixel reaches a bound or not by its last digit."""
    own = {"optimizer": optimizer, "evaluations": evaluations, "value_range": "free"}
    (whole,), (tiled,) = (stylizer(**own, tile_size=t).run([pair(1, content=picture(1, 100, 140))]) for t in (0, 64))
    assert float((whole.image - tiled.image).abs().max()) <= 2 / 255
    assert tiled.loss_total == pytest.approx(whole.loss_total, rel=1e-3)
    assert tiled.loss_total < 0.9 * tiled.loss_curve[0]


@pytest.mark.skipif(not REAL.exists(), reason="the authors' weights are not at hand")
def test_no_seam_with_the_authors_layers() -> None:
    """After ten evaluations, and at the seams no more than elsewhere; later the two drift apart as any two runs do that rounding differs by."""
    values: dict[str, Any] = {"content_layers": ("conv3_1",), "style_layers": ("conv1_1", "conv2_1", "conv3_1"), "evaluations": 10}
    network = load_weights(str(REAL))
    h, w = 150, 203
    p = Pair(picture(1, h, w), [picture(2, 120, 120)])
    (whole,), (tiled,) = (Stylizer(StylizeConfig(**values, tile_size=t), network).run([p]) for t in (0, 64))
    difference = (whole.image - tiled.image).abs().amax(0)
    at_seams = torch.zeros(h, w, dtype=torch.bool)
    for tile in split(h, w, 64, values["style_layers"]):
        rows, columns = tile.core
        at_seams[max(0, rows.start - 2) : rows.start + 2] |= rows.start > 0
        at_seams[:, max(0, columns.start - 2) : columns.start + 2] |= columns.start > 0
    assert float(difference.max()) <= 2 / 255
    assert float(difference[at_seams].mean()) <= 1.5 * float(difference[~at_seams].mean()) + 1e-5


class Small(Stylizer):
    """A device that takes tiles of `side` pixels and no larger ones."""

    def __init__(self, side: int) -> None:
        super().__init__(StylizeConfig(content_layers=("conv2_1",), style_layers=("conv1_1",), evaluations=1), weights(3))
        self.batched, self.side = True, side
        self.asked: list[tuple[int, int]] = []

    def run(self, pairs: Sequence[Pair], *callbacks: object) -> list[Result]:
        tile = self.settings(pairs[0].settings).tile_size
        self.asked.append((len(pairs), tile))
        if not 0 < tile <= self.side:
            raise torch.cuda.OutOfMemoryError("no room")
        return [Result(torch.zeros(3, 1, 1), 0.0, None, None, None, None, [], 0, 1, 0.0, p.seed) for p in pairs]


def test_a_picture_beyond_the_devices_memory_is_run_in_tiles_and_the_next_one_at_once() -> None:
    s, memory = Small(300), Memory()
    pairs = [pair(i, content=picture(i, 700, 900)) for i in range(2)]
    outcomes = dict(run_batches(s, pairs, 2, memory=memory))
    assert all(isinstance(o, Result) for o in outcomes.values())
    assert s.asked == [(2, 0), (1, 0), (1, 450), (1, 225), (1, 225)]
    assert memory.tiles == {(3, 700, 900): 225}
    s.asked.clear()
    assert isinstance(dict(run_batches(s, pairs[:1], 2, memory=memory))[0], Result)
    assert s.asked == [(1, 225)]


def test_a_picture_that_does_not_fit_in_tiles_either_is_its_own_error_and_no_rule_for_others() -> None:
    s, memory = Small(10), Memory()
    (outcome,) = dict(run_batches(s, [pair(1, content=picture(1, 700, 900))], 2, memory=memory)).values()
    assert isinstance(outcome, torch.cuda.OutOfMemoryError)
    assert s.asked == [(1, 0), (1, 450), (1, 225)]
    assert memory.tiles == {}


def test_a_style_may_be_what_is_too_large() -> None:
    s = Small(300)
    (outcome,) = dict(run_batches(s, [pair(1, content=picture(1, 100, 100), styles=[picture(2, 1100, 500)])], 2)).values()
    assert isinstance(outcome, Result)
    assert s.asked == [(1, 0), (1, 550), (1, 275)]


def test_tiles_asked_for_are_where_the_search_begins() -> None:
    s = Small(200)
    s.config = dataclasses.replace(s.config, tile_size=300)
    (outcome,) = dict(run_batches(s, [pair(1, content=picture(1, 700, 900))], 2)).values()
    assert isinstance(outcome, Result)
    assert s.asked == [(1, 300), (1, 150)]
