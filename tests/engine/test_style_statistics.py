"""Summaries and distances of the style term against the formulas, written once more in float64 numpy."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from nets import pair, picture, stylizer
from torch import Tensor

from nstray.engine.losses.gatys import gram, style_loss
from nstray.engine.losses.style_statistics import COVARIANCE_EPSILON, STD_EPSILON, distance, summarise
from nstray.engine.settings import StyleStatistic

STATISTICS = get_args(StyleStatistic)


def features(seed: int, b: int = 2, n: int = 6, h: int = 7, w: int = 9) -> Tensor:
    return torch.rand(b, n, h, w, generator=torch.Generator().manual_seed(seed)) ** 2


def whole(f: Tensor, statistic: Any) -> Tensor:
    return summarise(f, statistic, 1 / (f.shape[2] * f.shape[3]))


def formula(statistic: str, f: np.ndarray, s: np.ndarray) -> float:
    """E of activations (N, M) against those of the style (N, M'), from the definitions alone."""
    n = f.shape[0]
    if statistic == "gram":
        return float(((f @ f.T / f.shape[1] - s @ s.T / s.shape[1]) ** 2).sum() / (4 * n**2))
    means = ((f.mean(1) - s.mean(1)) ** 2).sum()
    if statistic == "mean-std":
        return float((means + ((np.sqrt(f.var(1) + STD_EPSILON) - np.sqrt(s.var(1) + STD_EPSILON)) ** 2).sum()) / n)
    c, t = (np.cov(a, bias=True) + COVARIANCE_EPSILON * np.eye(n) for a in (f, s))
    # tr (T^1/2 C T^1/2)^1/2 is the sum of the roots of the eigenvalues of C T, which is not symmetric
    root = np.sqrt(np.linalg.eigvals(c @ t).real).sum()
    return float((means + np.trace(c) + np.trace(t) - 2 * root) / n)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_distance_is_the_formula(statistic: Any) -> None:
    f, s = features(1), features(2, h=5, w=11) * 1.5
    e = distance(whole(f, statistic), whole(s, statistic), statistic)
    assert e.shape == (2, 1)
    for i in range(2):
        expected = formula(statistic, f[i].flatten(1).double().numpy(), s[i].flatten(1).double().numpy())
        assert float(e[i, 0]) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_gradient_is_the_derivative(statistic: Any) -> None:
    f, target = features(3, 1, 4, 3, 3).double(), whole(features(4, 1, 4, 3, 3).double(), statistic).double()
    f.requires_grad_(True)

    def e(x: Tensor) -> Tensor:  # summarise makes float32 of what it is given: the summary of gradcheck's own
        flat = x.flatten(2)
        second, mean = flat @ flat.mT / flat.shape[2], flat.mean(2, keepdim=True)
        summary = {"gram": second, "wasserstein": torch.cat([second, mean], 2), "mean-std": torch.cat([flat.square().mean(2, keepdim=True), mean], 2)}
        return distance(summary[statistic].unsqueeze(1), target, statistic)

    assert torch.autograd.gradcheck(e, (f,))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_picture_is_at_no_distance_from_itself(statistic: Any) -> None:
    summary = whole(features(5), statistic)
    assert float(distance(summary, summary, statistic).abs().max()) < 1e-6


def test_gram_is_equation_4() -> None:
    f, s = features(6), features(7)
    assert torch.allclose(whole(f, "gram")[:, 0], gram(f), rtol=1e-6, atol=1e-8)
    assert torch.allclose(distance(whole(f, "gram"), whole(s, "gram"), "gram")[:, 0], style_loss(f, gram(s)), rtol=1e-5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_summaries_mix_linearly(statistic: Any) -> None:
    """Half the positions of one picture and half of another have the mean of their summaries, which a blend is made of."""
    a, b = features(8, 1), features(9, 1)
    both = whole(torch.cat([a, b], 3), statistic)
    assert torch.allclose(both, (whole(a, statistic) + whole(b, statistic)) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_engine_minimises_it(statistic: Any) -> None:
    s = stylizer(style_statistic=statistic, content_weight=0.0, style_weight=1.0, init="noise", evaluations=40)
    (r,) = s.run([pair(1)])
    assert r.loss_style is not None
    assert r.loss_style < 0.1 * r.loss_curve[0]
    target = s.style_target(picture(1001))
    found = s.style_target(r.image)
    for tap in target:
        e, start = (float(distance(x[tap], target[tap], statistic)) for x in (found, s.style_target(picture(3))))
        assert e < 0.2 * start


def test_a_pairs_own_statistic_beside_others() -> None:
    s = stylizer(evaluations=3)
    for statistic in STATISTICS:
        (own,) = s.run([pair(1, style_statistic=statistic)])
        (alone,) = stylizer(evaluations=3, style_statistic=statistic).run([pair(1)])
        assert own.loss_curve == alone.loss_curve
    with pytest.raises(ValueError, match="statistic"):
        s.run([pair(1), pair(2, style_statistic="wasserstein")])


def test_dead_filters_do_no_harm() -> None:
    """A filter that is 0 everywhere has no variance to take a root of."""
    f = features(10)
    f[:, 2] = 0
    for statistic in STATISTICS:
        x = f.clone().requires_grad_(True)
        distance(whole(x, statistic), whole(features(11), statistic), statistic).sum().backward()
        assert x.grad is not None
        assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_fewer_positions_than_filters(scale: float) -> None:
    """Covariances without full rank, whose least eigenvalues float32 rounds below the floor: the gradient stays the float64 one."""
    n = 48
    f, s = features(12, 1, n, 4, 5) * scale, features(13, 1, n, 9, 9) * scale
    x = f.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(distance(whole(x, "wasserstein"), whole(s, "wasserstein"), "wasserstein").sum(), x)
    flat, flat_s = (t[0].flatten(1).double() for t in (f, s))
    exact = flat.clone().requires_grad_(True)

    def covariance(t: Tensor) -> Tensor:
        centred = t - t.mean(1, keepdim=True)
        return centred @ centred.T / t.shape[1] + COVARIANCE_EPSILON * torch.eye(n, dtype=torch.float64)

    values, vectors = torch.linalg.eigh(covariance(flat_s))
    root = vectors * values.sqrt() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ covariance(exact) @ root)
    e = (exact.mean(1) - flat_s.mean(1)).square().sum() + covariance(exact).trace() + values.sum() - 2 * inner.clamp_min(1e-300).sqrt().sum()
    (expected,) = torch.autograd.grad(e / n, exact)
    assert float((gradient[0].flatten(1).double() - expected).norm()) < 0.02 * float(expected.norm())
