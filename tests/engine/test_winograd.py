"""Winograd's convolutions against torch's in float64, and the network that takes them."""

from __future__ import annotations

import pytest
import torch
from nets import picture, relative
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.network import winograd
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.network.weights import VGGWeights
from nstray.engine.settings import CONV_LAYERS

TAPS = ("conv3_3",)


@pytest.fixture(scope="module")
def network() -> VGGWeights:
    return random_weights(CONV_LAYERS[: CONV_LAYERS.index(TAPS[0]) + 1])


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what went through Winograd's convolutions."""
    shapes: list[tuple[int, ...]] = []
    convolve = winograd.convolve

    def noted(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return convolve(x, filters, bias)

    monkeypatch.setattr(winograd, "convolve", noted)
    return shapes


# exact tiles; a rest below, to the right, both; several pictures; less than a tile; many blocks of tiles
@pytest.mark.parametrize("shape", [(1, 16, 24), (1, 18, 24), (1, 16, 27), (3, 17, 21), (1, 2, 3), (1, 1, 1), (1, 64, 90)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_those_of_a_direct_convolution(shape: tuple[int, int, int], layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(3)
    b, h, w = shape
    x = torch.randn(b, 20, h, w, generator=generator).relu().to(memory_format=layout).requires_grad_(True)
    weight, bias = torch.randn(12, 20, 3, 3, generator=generator), torch.randn(12, generator=generator)
    upstream = torch.randn(b, 12, h, w, generator=generator)
    y = winograd.convolve(x, winograd.transformed(weight), bias)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    exact = x.detach().double().requires_grad_(True)
    expected = F.conv2d(exact, weight.double(), bias.double(), padding=1)
    (slope,) = torch.autograd.grad(expected, exact, upstream.double())
    assert y.shape == expected.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert relative(y, expected) < 2e-6
    assert relative(gradient, slope) < 2e-6


@pytest.mark.parametrize("shape", [(16, 16), (14, 16), (16, 14)])
def test_what_follows_may_work_in_place(shape: tuple[int, int]) -> None:
    """As the rectification does: the output is a tensor of its own, not a view of a larger one."""
    x = torch.randn(1, 8, *shape, generator=torch.Generator().manual_seed(4)).requires_grad_(True)
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(5))
    y = winograd.convolve(x, winograd.transformed(weight), torch.zeros(8)).relu_()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, padding=1).relu().sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-4)


def test_the_network_takes_them_where_they_pay(network: VGGWeights, taken: list[tuple[int, ...]]) -> None:
    features = VGGFeatures(network, TAPS, "average")
    x = picture(1, 64, 80).unsqueeze(0)
    fast, direct = features(x, TAPS)["conv3_3"], features.exact()(x, TAPS)["conv3_3"]
    assert taken == [(1, 256, 16, 20)] * 2  # conv3_2 and conv3_3
    assert 0 < relative(fast, direct.double()) < 3e-6
    features(picture(1, 40, 40).unsqueeze(0), TAPS)  # too few tiles
    VGGFeatures(network, TAPS, "average", "bfloat16")(x, TAPS)
    assert len(taken) == 2


def test_directly_nothing_comes_from_where_nothing_reaches(network: VGGWeights) -> None:
    """Winograd's tiles leave rounding where a direct convolution leaves zeros; masks rely on the zeros."""
    features = VGGFeatures(network, TAPS, "average")
    x = picture(2, 64, 80).unsqueeze(0).requires_grad_(True)
    reached = {}
    for direct in (True, False):
        slope = torch.autograd.grad((features.exact() if direct else features)(x, TAPS)["conv3_3"][..., :8].square().sum(), x)[0]
        reached[direct] = float(slope[..., 32 + 24 :].abs().max())
    assert reached[True] == 0
    assert reached[False] > 0
