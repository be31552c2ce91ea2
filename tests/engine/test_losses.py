"""Losses and gradients against an independent float64 reference, and against the paper's closed forms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import picture, weights
from reference import Array, Reference, content_term, style_term
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.losses.gatys import content_loss, gram, style_loss, style_tap, tv_loss
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.network.weight_files import load_weights
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair
from nstray.engine.settings import CONV_LAYERS, StylizeConfig
from nstray.engine.stylizer import Stylizer

REAL = Path(__file__).parents[2].parent / "shared/data/weights/vgg19-normalised-conv1_1-conv3_1.safetensors"
TOLERANCE = 1e-5

CASES: dict[str, dict[str, Any]] = {
    "the paper's sums": {"loss_scale": "paper", "content_weight": 1e-3, "style_weight": 1.0},
    "content as a mean": {"loss_scale": "mean", "content_weight": 1.0, "style_weight": 1000.0},
    "max pooling": {"pooling": "max"},
    "bgr network": {"input": "bgr", "content_weight": 1.0, "style_weight": 1.0},
    "bgr network, max pooling, sums": {"input": "bgr", "pooling": "max", "loss_scale": "paper", "content_weight": 1e-3},
    "style of another size": {"style_sizes": [(20, 31)]},
    "blend of two styles": {"style_sizes": [(28, 23), (17, 20)], "blend": [0.3, 0.7]},
    "blend by default": {"style_sizes": [(24, 28), (24, 28)]},
    "several content layers": {"content_layers": ("conv1_2", "conv2_2", "conv3_1"), "content_weight": 5.0},
    "one tap for both": {"content_layers": ("conv2_1",), "style_layers": ("conv2_1",)},
    "total variation, mean": {"tv_weight": 200.0},
    "total variation, sums": {"tv_weight": 0.5, "loss_scale": "paper", "content_weight": 1e-3},
    "taps before rectification": {"content_layers": ("pre:conv2_2",), "style_layers": ("pre:conv1_1", "conv1_1", "pre:conv3_1")},
    "content alone": {"style_weight": 0.0},
    "style alone": {"content_weight": 0.0},
    "odd sides": {"size": (27, 33), "pooling": "max"},
}


def both(case: dict[str, Any], network: VGGWeights | None = None) -> tuple[dict[str, float], Tensor, Any]:
    """The engine's losses and gradient of the middle one of three pairs in a batch, and the reference's."""
    case = {"content_layers": ("conv2_2",), "style_layers": ("conv1_1", "conv2_1", "conv3_1"), **case}
    sizes, blend = case.pop("style_sizes", [(24, 28)]), case.pop("blend", None)
    size, convention = case.pop("size", (24, 28)), case.pop("input", None)
    network = network or weights(5)
    if convention:
        network = dataclasses.replace(network, input=convention)
    config = StylizeConfig(**case)
    contents = [picture(s, *size) for s in (1, 2, 3)]
    styles = [[picture(10 * s + k, *wh) for k, wh in enumerate(sizes)] for s in (1, 2, 3)]
    x = torch.stack([picture(s, *size) for s in (4, 5, 6)])
    stylizer = Stylizer(config, network)
    pairs = [Pair(c, s, blend=blend) for c, s in zip(contents, styles, strict=True)]
    total, gradient, terms = stylizer.objective(pairs, torch.stack(contents)).evaluate(x)
    ours = {"total": float(total[1]), "content": float(terms[0, 1]), "style": float(terms[1, 1]), "tv": float(terms[2, 1])}
    reference = Reference({k: v.double().numpy() for k, v in network.tensors.items()}, network.input, config.pooling)
    theirs = reference.losses(
        x[1].double().numpy(),
        contents[1].double().numpy(),
        [s.double().numpy() for s in styles[1]],
        content_layers=config.content_layers,
        style_layers=config.style_layers,
        alpha=config.content_weight,
        beta=config.style_weight,
        tv=config.tv_weight,
        scale=config.loss_scale,
        blend=blend,
    )
    return ours, gradient[1], theirs


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_losses_and_gradient_match_the_float64_reference(case: dict[str, Any]) -> None:
    ours, gradient, theirs = both(case)
    off = {"content": case.get("content_weight") == 0, "style": case.get("style_weight") == 0, "tv": not case.get("tv_weight")}
    for name in ("total", "content", "style", "tv"):
        expected = 0.0 if off.get(name) else getattr(theirs, name)
        assert ours[name] == pytest.approx(expected, rel=TOLERANCE), name
    assert _relative(gradient, theirs.gradient) < TOLERANCE


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_deep_layers_match_the_reference(pooling: str) -> None:
    """Deep enough, and large enough, for the convolutions that a CPU does by Winograd's algorithm."""
    network = random_weights(CONV_LAYERS[:9])
    layers = {"content_layers": ("conv3_3",), "style_layers": ("conv1_1", "conv2_1", "conv3_2", "conv4_1")}
    ours, gradient, theirs = both({"pooling": pooling, **layers, "size": (62, 68)}, network)
    assert ours["total"] == pytest.approx(theirs.total, rel=TOLERANCE)
    # One activation of half a million whose rounding puts it on the other side of zero moves the gradient by 1e-4 (seen on one of three CPUs).
    assert _relative(gradient, theirs.gradient) < 1e-3


@pytest.mark.skipif(not REAL.exists(), reason="the authors' weights are not at hand")
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_the_authors_layers_match_the_reference(pooling: str) -> None:
    network = load_weights(str(REAL))
    assert network.input == "bgr"
    ours, gradient, theirs = both({"pooling": pooling, "content_layers": ("conv3_1",), "loss_scale": "paper"}, network)
    assert ours["total"] == pytest.approx(theirs.total, rel=TOLERANCE)
    assert _relative(gradient, theirs.gradient) < TOLERANCE


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_the_reference_gradient_is_the_derivative_of_the_reference_loss(pooling: str) -> None:
    rng = np.random.default_rng(0)
    reference = Reference({k: v.double().numpy() for k, v in weights(3).tensors.items()}, "bgr", pooling)
    x, content, style = (picture(s, 9, 11).double().numpy() for s in (1, 2, 3))
    terms: dict[str, Any] = {
        "content_layers": ("pre:conv1_2", "conv2_1"),
        "style_layers": ("conv1_1", "conv2_1"),
        "alpha": 1e-4,
        "beta": 1e-3,
        "tv": 7.0,
    }
    direction = rng.standard_normal(x.shape)
    step = 1e-7 * direction
    gradient = reference.losses(x, content, [style], **terms).gradient
    up, down = (reference.losses(x + sign * step, content, [style], **terms).total for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-5)


def _features(seed: int, b: int, n: int, h: int, w: int) -> Tensor:
    return torch.rand(b, n, h, w, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_style_gradient_is_equation_6(layout: torch.memory_format) -> None:
    f, s = _features(1, 3, 8, 5, 6), _features(2, 3, 8, 5, 6)
    x = f.clone(memory_format=layout).requires_grad_(True)
    loss = style_loss(x, gram(s))
    upstream = torch.tensor([1.0, 0.5, -2.0])  # each pair's share is its own
    (gradient,) = torch.autograd.grad((loss * upstream).sum(), x)
    for i in range(3):
        flat, flat_s = f[i].detach().flatten(1).double().numpy(), s[i].flatten(1).double().numpy()
        n, m = flat.shape
        difference = flat @ flat.T - flat_s @ flat_s.T
        assert float(loss[i].detach()) == pytest.approx((difference**2).sum() / (4 * n**2 * m**2), rel=TOLERANCE)
        equation_6 = (flat.T @ difference).T / (n**2 * m**2)
        assert _relative(gradient[i].flatten(1), float(upstream[i]) * equation_6) < TOLERANCE
        assert _relative(gradient[i].flatten(1), float(upstream[i]) * style_term(flat, flat_s @ flat_s.T, m)[1]) < TOLERANCE


def test_style_gradient_agrees_with_automatic_differentiation() -> None:
    f, target = _features(3, 2, 6, 7, 7).double(), gram(_features(4, 2, 6, 9, 4)).double()
    x = f.clone().requires_grad_(True)
    flat = x.flatten(2)
    ((flat @ flat.transpose(1, 2) / 49 - target) ** 2).sum().div(4 * 36).backward()
    y = f.float().requires_grad_(True)
    style_loss(y, target.float()).sum().backward()
    assert _relative(y.grad, x.grad.numpy()) < TOLERANCE


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_style_is_added_to_the_gradient_from_the_layers_behind(layout: torch.memory_format) -> None:
    f, target, kernel = _features(3, 2, 6, 7, 8), gram(_features(4, 2, 6, 9, 4)), torch.randn(5, 6, 3, 3, generator=torch.Generator().manual_seed(9))
    x = f.double().requires_grad_(True)
    flat = x.flatten(2)
    style = ((flat @ flat.transpose(1, 2) / 56 - target.double()) ** 2).sum().div(4 * 36)
    (300 * style + F.conv2d(x, kernel.double()).square().sum()).backward()
    y = f.clone(memory_format=layout).requires_grad_(True)
    on, loss = style_tap(y, target)
    (300 * loss.sum() + F.conv2d(on, kernel.to(memory_format=layout)).square().sum()).backward()
    assert _relative(y.grad, x.grad.numpy()) < TOLERANCE
    # without the style term what comes from behind goes through untouched
    z = f.clone(memory_format=layout).requires_grad_(True)
    F.conv2d(style_tap(z, target)[0], kernel).square().sum().backward()
    alone = f.clone().requires_grad_(True)
    F.conv2d(alone, kernel).square().sum().backward()
    assert torch.allclose(z.grad, alone.grad, rtol=1e-5, atol=1e-5)


def test_the_network_takes_a_gradient_that_has_no_memory_of_its_own() -> None:
    """The gradient of a plain sum is one number seen everywhere; rectification, which works in place, must not write into it."""
    network, x = VGGFeatures(weights(3), ["conv1_2"], "average"), picture(1).unsqueeze(0)
    gradients = []
    for loss in (lambda f: f.sum(), lambda f: (f * torch.ones_like(f)).sum()):
        image = x.clone().requires_grad_(True)
        loss(network(image, ["conv1_2"])["conv1_2"]).backward()
        gradients.append(image.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    assert float(gradients[0].abs().max()) > 0


def test_style_is_zero_on_the_style_itself_and_on_its_tiling() -> None:
    f = _features(5, 1, 4, 6, 6)
    tiled = f.repeat(1, 1, 2, 3)  # six times the positions, the same statistics
    assert float(style_loss(f, gram(f))) == 0
    assert float(style_loss(tiled, gram(f))) < 1e-12


def test_content_gradient_is_equation_2() -> None:
    f, p = _features(6, 2, 4, 5, 5), _features(7, 2, 4, 5, 5)
    x = f.clone().requires_grad_(True)
    loss = content_loss(x, p, "paper")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    expected, equation_2 = content_term(f[1].double().numpy(), p[1].double().numpy())
    assert float(loss[1].detach()) == pytest.approx(expected, rel=TOLERANCE)
    assert _relative(gradient[1], equation_2) < TOLERANCE
    assert float(content_loss(f, p, "mean")[1]) == pytest.approx(expected / 100, rel=TOLERANCE)


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(4.0).repeat(3, 5, 1).unsqueeze(0) / 10  # (1, 3, 5, 4): 3 x 5 x 3 steps of 0.1
    assert float(tv_loss(ramp, "paper")) == pytest.approx(45 * 0.01)
    assert float(tv_loss(ramp, "mean")) == pytest.approx(45 * 0.01 / 60)


def test_half_precision_features_give_float32_losses() -> None:
    """Activations of 300 over 64 x 64 positions: their Gram sums pass 65504, the largest float16, by far."""
    for dtype in (torch.float16, torch.bfloat16):
        f = (300 * _features(8, 1, 4, 64, 64)).to(dtype)
        g = gram(f)
        assert g.dtype == torch.float32
        assert _relative(g[0], (f[0].flatten(1).double() @ f[0].flatten(1).double().T / 4096).numpy()) < TOLERANCE
        x = f.requires_grad_(True)
        loss = style_loss(x, g * 0.5)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert loss.dtype == torch.float32
        assert gradient.dtype == dtype
        assert bool(torch.isfinite(gradient).all())


def test_bfloat16_convolutions_stay_near_float32() -> None:
    pairs = [Pair(picture(1), [picture(2)])]
    x = picture(3).unsqueeze(0)
    totals = []
    for dtype in ("float32", "bfloat16"):
        stylizer = Stylizer(StylizeConfig(content_layers=("conv2_1",), style_layers=("conv1_1", "conv2_1"), dtype=dtype), weights(3))
        total, gradient, _ = stylizer.objective(pairs, pairs[0].content.unsqueeze(0)).evaluate(x)
        assert total.dtype == gradient.dtype == torch.float32
        totals.append(float(total))
    assert totals[0] != totals[1]
    assert totals[1] == pytest.approx(totals[0], rel=0.05)


def _relative(ours: Tensor, theirs: Array) -> float:
    """Norm of the difference over the norm of the reference."""
    a = ours.detach().double().numpy()
    return float(np.linalg.norm(a - theirs) / np.linalg.norm(theirs))
