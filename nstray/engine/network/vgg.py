"""The feature network: VGG-19's convolutions up to the deepest tap, frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from nstray.engine.network import winograd
from nstray.engine.network.weights import CAFFE_MEAN, FEATURE_INDEX, RGB_MEAN, RGB_STD, VGGWeights
from nstray.engine.settings import CONV_LAYERS, Dtype, Pooling

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_dtype(dtype: Dtype, device: torch.device) -> Dtype:
    """``float32`` or ``bfloat16``; for ``auto``, bfloat16 where `device` multiplies in it and does not only imitate it.

    Torch says whether it does: of a CPU by AVX512-BF16 or AMX, in releases that have `torch.cpu.get_capabilities`. Where it says
    nothing, float32.
    """
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    told: Mapping[str, Any] = (
        getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    )
    return "bfloat16" if told.get("avx512_bf16") or told.get("amx_bf16") else "float32"


def deepest(taps: Sequence[str]) -> str:
    """The convolution behind which nothing needs to be computed."""
    return CONV_LAYERS[max(CONV_LAYERS.index(t.removeprefix("pre:")) for t in taps)]


def block(tap: str) -> int:
    """The block of a tap, 1 to 5: it lies behind one pooling less."""
    return int(tap.removeprefix("pre:")[4])


def minimum_side(taps: Sequence[str]) -> int:
    """The least height and width, in pixels, that leave the deepest tap at least one position."""
    return 2 ** (block(deepest(taps)) - 1) if taps else 1


class _ReLU(torch.autograd.Function):
    """max(x, 0) in place, and its gradient in place too: the allocation of a large gradient costs as much as computing it.

    The layers behind must hand back a gradient of their own, as convolutions and poolings do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x = x.relu_()
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (out,) = ctx.saved_tensors
        gradient: Tensor = grads[0]
        if not gradient.is_contiguous(
            memory_format=torch.channels_last
        ):  # an expanded one has no memory of its own
            gradient = gradient.clone(memory_format=torch.channels_last)
        torch.ops.aten.threshold_backward.grad_input(gradient, out, 0.0, grad_input=gradient)
        return gradient


class _AveragePool(torch.autograd.Function):
    """Means of 2 x 2 positions, and their gradient by repeating it: the same numbers as torch's own, in bfloat16 on a CPU eight times as fast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape[2:]
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        repeated = F.interpolate(grads[0] * 0.25, scale_factor=2, mode="nearest")
        (h, w), (height, width) = (
            repeated.shape[2:],
            ctx.shape,
        )  # of an odd side the last row or column is in no mean
        return (
            repeated
            if (h, w) == (height, width)
            else F.pad(repeated, (0, width - w, 0, height - h))
        )


class _PixelConvolution(torch.autograd.Function):
    """A convolution of padding 1 over float32 pixels whose output and gradient are in another dtype.

    Pixels that differ by less than bfloat16 tells apart would be the same to it; their gradient loses no more by it than any other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(x, weight, bias, padding=1).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        gradient = F.conv_transpose2d(grads[0], weight.to(grads[0].dtype), padding=1)
        return gradient.float(), None, None, None


Through = Callable[[str, Tensor], Tensor]


class VGGFeatures(nn.Module):
    """Activations of a frozen VGG-19 at named taps.

    The network's input convention is folded into its first convolution (channel order and scale into the filters), so that
    one subtraction of the mean remains; zero padding then means the mean colour, as in the networks' training.

    Args:
        weights: convolutions at least as deep as the deepest of `taps`.
        taps: ``conv4_2`` for a rectified output, ``pre:conv4_2`` for the one before rectification.
        pooling: ``average`` or ``max``, 2 x 2 with stride 2.
        dtype: of the activations and of all convolutions but the first, which is 2 % of the work at most and takes float32 pixels.
    """

    mean: Tensor

    def __init__(
        self, weights: VGGWeights, taps: Sequence[str], pooling: Pooling, dtype: Dtype = "float32"
    ) -> None:
        super().__init__()
        weights.require(taps)
        last = CONV_LAYERS.index(deepest(taps))
        self.layers = CONV_LAYERS[: last + 1]
        self.dtype = _DTYPES[dtype]
        with torch.device("meta"):
            features = make_layers(cfgs["E"], batch_norm=False)
        scale, mean, order = (
            (1 / RGB_STD, RGB_MEAN, [0, 1, 2])
            if weights.input == "rgb"
            else (torch.full((3,), 255.0), CAFFE_MEAN / 255, [2, 1, 0])
        )
        self.register_buffer("mean", mean.view(1, 3, 1, 1).clone())
        self.convs = nn.ModuleDict()
        for name in self.layers:
            conv = features[FEATURE_INDEX[name]]
            weight = weights.tensors[f"{name}.weight"]
            if name == "conv1_1":
                # `order` is its own inverse: filters for BGR planes become filters for RGB planes
                weight = weight[:, order] * scale.view(1, 3, 1, 1)
            dtype_of = torch.float32 if name == "conv1_1" else self.dtype
            state = {
                "weight": weight.to(dtype_of),
                "bias": weights.tensors[f"{name}.bias"].to(dtype_of),
            }
            conv.load_state_dict(state, assign=True)
            self.convs[name] = conv
        self._transformed: dict[str, Tensor] = {}
        self.pool: Callable[[Tensor], Tensor] = (
            _AveragePool.apply if pooling == "average" else nn.MaxPool2d(2)
        )
        # No gradients for the weights: 1.5 times faster. channels_last: 1.3 to 1.5 times faster on CPU, native to tensor cores.
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        x: Tensor,
        taps: Sequence[str],
        through: Through | None = None,
        *,
        direct: bool = False,
    ) -> dict[str, Tensor]:
        """Activations at `taps` of images x (B, 3, H, W), RGB over 0..1; each (B, N, H', W') in the network's dtype.

        Args:
            through: called with each tap's name and activations, its result goes on in their place.
            direct: no fast algorithm: gradients are then zero to the last bit where nothing reaches, not up to rounding.
        """
        wanted = set(taps)
        last = deepest(taps)
        out: dict[str, Tensor] = {}
        x = (x - self.mean).to(memory_format=torch.channels_last)
        level = 1
        for name in self.layers:
            if block(name) != level:
                x, level = self.pool(x), level + 1
            x = self._convolved(name, x, direct)
            pre = f"pre:{name}"
            if pre in wanted:
                out[pre] = x = through(pre, x) if through else x
                x = torch.relu(x)  # not in place: the tap keeps what it holds
            else:
                x = _ReLU.apply(x)
            if name in wanted:
                out[name] = x = through(name, x) if through else x
            if name == last:
                break
        return out

    def _convolved(self, name: str, x: Tensor, direct: bool) -> Tensor:
        conv = self.convs[name]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        if x.dtype != self.dtype:
            of_pixels: Tensor = _PixelConvolution.apply(x, conv.weight, conv.bias, self.dtype)
            return of_pixels
        if direct or not winograd.is_faster(x, conv.weight):
            out: Tensor = conv(x)
            return out
        if name not in self._transformed:
            self._transformed[name] = winograd.transformed(conv.weight)
        return winograd.convolve(x, self._transformed[name], conv.bias)
