"""bfloat16: which convolutions take it, what it changes, and where `auto` chooses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import FIVE, config, pair, picture, relative, weights
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.losses.gatys import style_tap
from nstray.engine.network.vgg import VGGFeatures, resolve_dtype
from nstray.engine.settings import Dtype
from nstray.engine.stylizer import Stylizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("told", "dtype"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_f": True, "avx512_bf16": False}, "float32"), (None, "float32")],
)
def test_auto_on_a_cpu_is_what_torch_tells_of_it(told: dict[str, Any] | None, dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if told is None:  # a torch that tells nothing
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert resolve_dtype("auto", CPU) == dtype
    assert [resolve_dtype(given, CPU) for given in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    stylizer = Stylizer(config(dtype="auto"), weights(3))
    assert (stylizer.dtype, stylizer.network.convs["conv1_2"].weight.dtype) == (dtype, getattr(torch, dtype))


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_gpu_does_not_take_what_it_only_imitates(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native)
    assert resolve_dtype("auto", GPU) == ("bfloat16" if native else "float32")


def test_pixels_are_not_rounded_before_the_first_convolution() -> None:
    taps = ["conv1_1", "conv1_2"]
    rounded, exact = (VGGFeatures(weights(3), taps, "average", dtype)(picture(1).unsqueeze(0), taps) for dtype in ("bfloat16", "float32"))
    assert torch.equal(rounded["conv1_1"], exact["conv1_1"].bfloat16())
    assert 0 < relative(rounded["conv1_2"], exact["conv1_2"]) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sides", [(8, 10), (9, 6), (7, 5), (2, 3)])
def test_average_pooling_is_torchs_to_the_last_bit(sides: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.rand(2, 4, *sides, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_(True)
    ours, theirs = VGGFeatures(weights(3), ["conv2_1"], "average").pool(x), F.avg_pool2d(x, 2)
    assert torch.equal(ours, theirs)
    slope = torch.rand(ours.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert torch.equal(torch.autograd.grad(ours, x, slope)[0], torch.autograd.grad(theirs, x, slope)[0])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("behind", [True, False])
def test_the_style_gradient_is_that_of_float32_rounded(layout: torch.memory_format, behind: bool) -> None:
    exact = torch.rand(2, 16, 9, 7, generator=torch.Generator().manual_seed(1)).bfloat16()
    target = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))

    def slope(features: Tensor) -> Tensor:
        features = features.to(memory_format=layout).requires_grad_(True)
        on, loss = style_tap(features, target)
        total = 1e3 * loss.sum() + (on.float().square().sum() if behind else 0.0)
        (gradient,) = torch.autograd.grad(total, features)
        assert gradient.dtype == features.dtype
        return gradient

    assert relative(slope(exact), slope(exact.float())) < 5e-3


def test_losses_gradients_and_ends_are_those_of_float32_up_to_rounding() -> None:
    pairs, judge, ends = [pair(s) for s in range(1, 5)], Stylizer(config(**FIVE), weights(5)), {}
    for dtype in ("float32", "bfloat16"):
        stylizer = Stylizer(config(**FIVE, dtype=dtype, evaluations=12), weights(5))
        contents, x = torch.stack([picture(s) for s in (1, 2)]), torch.stack([picture(s) for s in (3, 4)])
        loss, slope, _ = stylizer.objective(pairs[:2], contents).evaluate(x)
        images = torch.stack([r.image for r in stylizer.run(pairs)])
        ends[dtype] = loss, slope, judge.objective(pairs, torch.stack([p.content for p in pairs])).evaluate(images)[0]  # ends in float32
    (loss, slope, end), (loss32, slope32, end32) = ends["bfloat16"], ends["float32"]
    assert 0 < relative(loss, loss32) < 5e-3
    assert 0 < relative(slope, slope32) < 5e-2
    assert slope.dtype == torch.float32
    assert 0.97 < float((end / end32).log().mean().exp()) < 1.03
