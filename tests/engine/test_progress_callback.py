"""What watches an optimisation: where it stands, the loss and the picture so far, without a change to the result."""

from __future__ import annotations

import pytest
import torch
from nets import THREE, config, pair, picture, stylizer, weights

from nstray.engine import stylize
from nstray.engine.batching import run_batches
from nstray.engine.pair import Result
from nstray.engine.progress import Progress

STAGES = {"coarse": "8:3,16:5", "evaluations": 6}
VARIANTS = [
    {"optimizer": "lbfgs"},
    {"optimizer": "adam", "learning_rate": 0.02},
    {"optimizer": "lbfgs-spectral", "value_range": "clamped"},
    {"optimizer": "lbfgs-spectral", "value_range": "free"},
    {"optimizer": "lbfgs", "color": "luminance"},
]


class Watch:
    """Remembers each call, with its losses and pictures if they are asked for."""

    def __init__(self, asks: bool = True) -> None:
        self.asks, self.calls = asks, []  # type: tuple[bool, list[Progress]]
        self.losses: list[list[float]] = []
        self.pictures: list[list[torch.Tensor]] = []

    def __call__(self, progress: Progress) -> None:
        self.calls.append(progress)
        if self.asks:
            self.losses.append(progress.losses())
            self.pictures.append(progress.pictures())


@pytest.mark.parametrize("values", VARIANTS)
def test_a_watched_run_gives_the_bits_of_one_that_is_not(values: dict[str, object]) -> None:
    s, pairs = stylizer(**THREE, **STAGES, **values, init="noise"), [pair(1), pair(2)]
    alone, seen, watch = s.run(pairs), [], Watch()
    watched = s.run(pairs, seen.append, watch)
    for a, b in zip(alone, watched, strict=True):
        assert torch.equal(a.image, b.image)
        assert a.loss_curve == b.loss_curve
    assert seen == [call.evaluation for call in watch.calls] == list(range(1, 15))


@pytest.mark.parametrize("values", VARIANTS)
def test_losses_and_pictures_so_far_lead_to_the_results(values: dict[str, object]) -> None:
    s, watch = stylizer(**THREE, **STAGES, **values, init="noise"), Watch()
    results = s.run([pair(1), pair(2)], on_progress=watch)
    for i, result in enumerate(results):
        assert [losses[i] for losses in watch.losses] == result.loss_curve
        last = watch.pictures[-1][i]
        assert torch.equal(last, result.image)
        assert last.data_ptr() != watch.pictures[-2][i].data_ptr()
        assert not torch.equal(last, watch.pictures[8][i])  # of the full size's first evaluation
    for call, pictures in zip(watch.calls, watch.pictures, strict=True):
        for image in pictures:
            assert image.shape == (3, *call.shape)
            assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_stages_are_numbered_and_their_evaluations_counted() -> None:
    watch = Watch(asks=False)
    stylizer(**THREE, **STAGES).run([pair(1), pair(2, evaluations=9)], on_progress=watch)
    assert [(c.stage, c.stages, c.shape) for c in watch.calls] == [
        *[(1, 3, (8, 8))] * 3,
        *[(2, 3, (16, 16))] * 5,
        *[(3, 3, (32, 32))] * 9,
    ]
    assert {c.evaluations for c in watch.calls} == {17}
    assert {c.indices for c in watch.calls} == {(0, 1)}


def test_nothing_is_computed_until_it_is_asked_for() -> None:
    """What a callback that asks for nothing costs: not one operation of torch."""
    s = stylizer(**THREE, **STAGES, optimizer="lbfgs-spectral")
    counts = []
    for watch in (None, lambda progress: None):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            s.run([pair(1)], on_progress=watch)
        counts.append(sum(event.count for event in profiler.key_averages() if event.key.startswith("aten::")))
    assert counts[0] == counts[1] > 0


def test_a_fine_style_is_not_told() -> None:
    watch, seen = Watch(asks=False), []
    stylizer(**THREE, evaluations=4, fine_layers=("conv1_1",)).run([pair(1, fine=picture(9))], seen.append, watch)
    assert seen == [0] * 4 + [1, 2, 3, 4]
    assert [call.evaluation for call in watch.calls] == [1, 2, 3, 4]


def test_batches_name_their_pairs() -> None:
    watch = Watch(asks=False)
    wide = pair(3, content=picture(3, 20, 40))
    found = dict(run_batches(stylizer(evaluations=2), [pair(1), wide, pair(2)], 4, on_progress=watch))
    assert all(isinstance(outcome, Result) for outcome in found.values())
    assert [(c.indices, c.evaluation) for c in watch.calls] == [((i,), n) for i in (0, 2, 1) for n in (1, 2)]


def test_stylize_tells_its_progress_and_ends_with_an_interrupt() -> None:
    watch = Watch()
    results = stylize([picture(1), picture(2)], [picture(3), picture(4)], config(), weights=weights(), device="cpu", on_progress=watch)
    assert [c.indices for c in watch.calls] == [(0,)] * 8 + [(1,)] * 8
    assert torch.equal(watch.pictures[7][0], results[0].image)
    assert torch.equal(watch.pictures[15][0], results[1].image)

    def interrupt(progress: Progress) -> None:
        if progress.evaluation == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stylize([picture(1)], [picture(3)], config(), weights=weights(), device="cpu", on_progress=interrupt)
