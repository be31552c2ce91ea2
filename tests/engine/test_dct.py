"""L-BFGS on frequencies: the change of variables, the measured diagonal, and what comes of it in the engine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from nets import FIVE, pair, picture, stylizer
from torch import Tensor

from nstray.engine.batching import run_batches
from nstray.engine.optim.dct import BANDS, Spectrum
from nstray.engine.optim.lbfgs import BatchedLBFGS


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 40), (1, 5), (3, 2)])
def test_the_change_of_variables_is_orthonormal(height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    spectrum = Spectrum(height, width)
    z = spectrum.forward(x)
    assert z.shape == (2, 3 * height * width)
    assert torch.allclose(spectrum.inverse(z), x, atol=1e-5)
    assert torch.allclose(z.norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-5)
    assert spectrum.bands.shape == (height * width, BANDS)
    assert torch.equal(spectrum.bands.sum(1), torch.ones(height * width))


def test_the_cosine_transform_by_its_formula() -> None:
    n, x = 7, np.random.default_rng(1).standard_normal((1, 7))
    grey = torch.tensor(np.repeat(x[None, None], 3, 1), dtype=torch.float32)
    z = Spectrum(1, n).forward(grey).view(3, n)
    k = np.arange(n)
    expected = [(np.sqrt((1 if f == 0 else 2) / n) * (x[0] * np.cos(np.pi / n * (k + 0.5) * f)).sum()) * np.sqrt(3) for f in range(n)]
    assert z[0].numpy() == pytest.approx(np.array(expected), abs=1e-5)
    assert float(z[1:].abs().max()) < 1e-5  # grey has no colour
    assert Spectrum(32, 32).bands[0].argmax() == 0
    assert Spectrum(32, 32).bands[-1].argmax() == BANDS - 1


def quadratic(scales: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Diagonal curvatures (b, n), one scale for each third and band of the variables, with a factor of 1 to 3 on each; and the minimum."""
    g = torch.Generator().manual_seed(seed)
    return scales * (1 + 2 * torch.rand(scales.shape, generator=g)), torch.randn(scales.shape, generator=g)


def run(curvature: Tensor, centre: Tensor, bands: Tensor | None, evaluations: int) -> Tensor:
    optimizer = BatchedLBFGS(torch.zeros_like(centre), first_step=0.01, history=10, bands=bands)
    for _ in range(evaluations):
        difference = optimizer.trial - centre
        optimizer.tell((curvature * difference.square()).sum(1) / 2, curvature * difference)
    return optimizer.loss


def test_bands_of_other_curvature_are_found_out() -> None:
    """Curvatures that differ a thousandfold between bands and little within: the diagonal makes one easy problem of it."""
    n, k = 60, 4
    bands = torch.nn.functional.one_hot(torch.arange(n) % k, k).float()
    scales = torch.logspace(-3, 3, 3 * k).view(3, k)
    curvature, centre = quadratic((scales @ bands.T).flatten().repeat(2, 1), 1)
    plain, measured = run(curvature, centre, None, 60), run(curvature, centre, bands, 60)
    assert bool((measured < 1e-3 * plain).all())


def test_one_band_is_the_plain_optimizer() -> None:
    """A single value for all variables is the number that there is without bands, where all three planes are alike."""
    n = 40
    g = torch.Generator().manual_seed(3)
    curvature, centre = (torch.rand(1, n, generator=g).repeat(2, 3) + 0.1 for _ in range(2))
    plain, banded = run(curvature, centre, None, 12), run(curvature, centre, torch.ones(n, 1), 12)
    assert banded.numpy() == pytest.approx(plain.numpy(), rel=1e-3)


def test_problems_do_not_see_each_other() -> None:
    bands = torch.nn.functional.one_hot(torch.arange(20) % 3, 3).float()
    curvature, centre = quadratic(torch.logspace(-1, 2, 60).repeat(3, 1), 5)
    together = run(curvature, centre, bands, 25)
    for i in range(3):
        assert float(run(curvature[i : i + 1], centre[i : i + 1], bands, 25)) == pytest.approx(float(together[i]), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["noise", "content"])
def test_the_engine_ends_lower_after_as_many_evaluations(init: str) -> None:
    shares = []
    for seed in range(8):
        p = pair(seed, content=picture(seed, 48, 40), style_weight=1e4)
        (plain,), (spectral,) = (
            stylizer(**FIVE, init=init, evaluations=60, optimizer=o, value_range="free").run([p]) for o in ("lbfgs", "lbfgs-spectral")
        )
        assert spectral.loss_total == spectral.loss_curve[-1] == min(spectral.loss_curve)
        assert spectral.evaluations == 60
        shares.append(spectral.loss_total / plain.loss_total)
    # of 32 px through random layers; larger pictures gain from both. One pair's share is another on every kind of processor, by 3 %.
    assert np.mean(shares) < {"noise": 1.0, "content": 1.1}[init]


def test_in_batches_stages_and_luminance() -> None:
    values = {"optimizer": "lbfgs-spectral", "value_range": "free", "evaluations": 6}
    s = stylizer(**values, coarse="16:4")
    s.batched = True
    pairs = [pair(1), pair(2, content=picture(2, 24, 40)), pair(3), pair(4, color="luminance")]
    outcomes = dict(run_batches(s, pairs, 8))
    for i, p in enumerate(pairs):
        (alone,) = stylizer(**values, coarse="16:4").run([p])
        outcome = outcomes[i]
        assert not isinstance(outcome, Exception)
        assert outcome.loss_curve == pytest.approx(alone.loss_curve, rel=1e-2)
        assert outcome.loss_total < outcome.loss_curve[4]
    (grey,) = stylizer(**values, color="luminance").run([dataclasses.replace(pairs[0], start=picture(9))])
    assert grey.loss_total < grey.loss_curve[0]


def test_the_last_evaluations_keep_pixels_in_their_range() -> None:
    p = pair(1, style_weight=1e4)
    settings = {**FIVE, "optimizer": "lbfgs-spectral", "init": "noise", "evaluations": 40}
    told = {}
    for value_range in ("free", "clamped"):
        s = stylizer(**settings, value_range=value_range)
        (r,) = s.run([p])
        content = (p.content.float() / 255 if p.content.dtype == torch.uint8 else p.content)[None]
        again = float(s.objective([p], content).evaluate(r.image[None])[0])
        told[value_range] = again
        assert (r.evaluations, len(r.loss_curve), r.loss_curve[-1]) == (40, 40, r.loss_total)
        if value_range == "clamped":
            assert r.loss_total == pytest.approx(again, rel=1e-5)
    assert told["clamped"] < told["free"]


@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_few_evaluations_are_shared_out_too(evaluations: int) -> None:
    (r,) = stylizer(**FIVE, optimizer="lbfgs-spectral", evaluations=evaluations).run([pair(1)])
    assert (r.evaluations, len(r.loss_curve)) == (evaluations, evaluations)
    assert 0 <= float(r.image.min()) <= float(r.image.max()) <= 1


def test_every_pair_of_a_batch_has_its_own_share() -> None:
    # the penalty, since moving far to come inside enlarges what rounding differs by
    s = stylizer(**FIVE, optimizer="lbfgs-spectral", range_weight=1e3)
    pairs = [pair(i, evaluations=n) for i, n in enumerate((4, 30, 12))]
    for p, r in zip(pairs, s.run(pairs), strict=True):
        (alone,) = s.run([p])
        assert len(r.loss_curve) == len(alone.loss_curve) == p.settings["evaluations"]
        assert r.loss_curve == pytest.approx(alone.loss_curve, rel=2e-2)
        assert r.loss_total == r.loss_curve[-1]
