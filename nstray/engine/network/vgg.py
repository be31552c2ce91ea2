"""The feature network: VGG-19's convolutions up to the deepest tap, frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nstray.engine.network.ops import AveragePool2d, PixelConv2d, relu_in_place
from nstray.engine.network.weights import CAFFE_MEAN, RGB_MEAN, RGB_STD, Padding, VGGWeights
from nstray.engine.network.winograd import WinogradConv2d, suits
from nstray.engine.settings import CONV_LAYERS, Dtype, Pooling

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_dtype(dtype: Dtype, device: torch.device) -> Dtype:
    """``float32`` or ``bfloat16``; for ``auto``, bfloat16 if `device` multiplies in it natively.

    Torch says whether it does: of a CPU by AVX512-BF16 or AMX, in releases that have
    `torch.cpu.get_capabilities`. If it says nothing, float32.
    """
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    capabilities: Mapping[str, Any] = (
        getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    )
    return (
        "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"
    )


def deepest(taps: Sequence[str]) -> str:
    """The convolution behind which nothing needs to be computed."""
    return CONV_LAYERS[max(CONV_LAYERS.index(t.removeprefix("pre:")) for t in taps)]


def block(tap: str) -> int:
    """The block of a tap, 1 to 5: it lies behind one pooling less."""
    return int(tap.removeprefix("pre:")[4])


def stride(taps: Sequence[str]) -> int:
    """The side, in pixels, of what a position of the deepest tap stands for."""
    return 2 ** (block(deepest(taps)) - 1) if taps else 1


def minimum_side(taps: Sequence[str], padding: Padding) -> int:
    """The least height and width, in pixels, of a picture whose `taps` can be computed.

    The deepest tap needs one position, and two if borders are reflected.
    """
    if not taps:
        return 1
    return stride(taps) * (2 if padding == "reflect" else 1)


def positions(height: int, width: int, tap: str) -> tuple[int, int]:
    """Height and width of the activations of a picture at `tap`."""
    side = stride([tap])
    return height // side, width // side


Hook = Callable[[str, Tensor], Tensor]


class TappedConvolutions(nn.Module):
    """Convolutions in blocks with a pooling between them, each rectified, read at named taps.

    Args:
        convs: modules by name, in order; ``conv4_2`` is of block 4.
        mean: (1, 3, 1, 1): what is subtracted from the pixels.
        pool: 2 x 2 with stride 2.
        padding: how the convolutions treat the border.
    """

    mean: Tensor

    def __init__(
        self,
        convs: Mapping[str, nn.Module],
        mean: Tensor,
        pool: nn.Module,
        padding: Padding = "zero",
    ) -> None:
        super().__init__()
        self.layers, self.padding = tuple(convs), padding
        self.convs = nn.ModuleDict(convs)
        self.register_buffer("mean", mean)
        self.pool = pool

    def minimum_side(self, taps: Sequence[str]) -> int:
        """The least side, in pixels, of a picture whose `taps` this network can compute."""
        return minimum_side(taps, self.padding)

    def forward(
        self, x: Tensor, taps: Sequence[str], hook: Hook | None = None
    ) -> dict[str, Tensor]:
        """Activations at `taps` of images x (B, 3, H, W), RGB over 0..1, as (B, N, H', W').

        Args:
            taps: ``conv4_2`` for a rectified output, ``pre:conv4_2`` for the one before it.
            hook: called with each tap's name and activations; its result replaces them.
        """
        wanted = set(taps)
        last = deepest(taps)
        out: dict[str, Tensor] = {}
        x = (x - self.mean).to(memory_format=torch.channels_last)
        level = 1
        for name in self.layers:
            if block(name) != level:
                x, level = self.pool(x), level + 1
            x = self.convs[name](x)
            pre = f"pre:{name}"
            if pre in wanted:
                out[pre] = x = hook(pre, x) if hook else x
                x = torch.relu(x)  # not in place: the tap keeps what it holds
            else:
                x = relu_in_place(x)
            if name in wanted:
                out[name] = x = hook(name, x) if hook else x
            if name == last:
                break
        return out

    def exact(self) -> TappedConvolutions:
        """The same network, filters shared, with direct convolutions alone.

        Its gradients are zero to the last bit where nothing reaches, and not only up to rounding.
        """
        convs = {
            name: conv.direct if isinstance(conv, WinogradConv2d) else conv
            for name, conv in self.convs.items()
        }
        return TappedConvolutions(convs, self.mean, self.pool, self.padding)


class VGGFeatures(TappedConvolutions):
    """Activations of a frozen VGG-19 at named taps, in the network's dtype.

    The network's input convention is folded into its first convolution (channel order and scale
    into the filters), so that one subtraction of the mean remains. Zero padding then means the mean
    colour, as in the networks' training.

    Convolutions are `WinogradConv2d` if their filters suit it and zeros surround the picture, else
    torch's own.

    Args:
        weights: convolutions at least as deep as the deepest of `taps`.
        taps: that will be asked for.
        pooling: ``average`` or ``max``.
        dtype: of the activations and of all convolutions but the first, which is 2 % of the work at
            most and takes float32 pixels.

    Raises WeightsError if the weights do not hold a tap.
    """

    def __init__(
        self, weights: VGGWeights, taps: Sequence[str], pooling: Pooling, dtype: Dtype = "float32"
    ) -> None:
        weights.require(taps)
        last = CONV_LAYERS.index(deepest(taps))
        own_dtype = _DTYPES[dtype]
        scale, mean, order = (
            (1 / RGB_STD, RGB_MEAN, [0, 1, 2])
            if weights.input == "rgb"
            else (torch.full((3,), 255.0), CAFFE_MEAN / 255, [2, 1, 0])
        )
        convs: dict[str, nn.Module] = {}
        for name in CONV_LAYERS[: last + 1]:
            first = name == "conv1_1"
            weight = weights.tensors[f"{name}.weight"]
            conv = _convolution(weight.shape[1], weight.shape[0], weights.padding)
            if first:
                # `order` is its own inverse: filters for BGR planes become filters for RGB planes
                weight = weight[:, order] * scale.view(1, 3, 1, 1)
            dtype_of = torch.float32 if first else own_dtype
            state = {
                "weight": weight.to(dtype_of),
                "bias": weights.tensors[f"{name}.bias"].to(dtype_of),
            }
            conv.load_state_dict(state, assign=True)
            if first and own_dtype != torch.float32:
                convs[name] = PixelConv2d(conv, own_dtype)
            else:
                winograd = weights.padding == "zero" and suits(conv.weight)
                convs[name] = WinogradConv2d(conv) if winograd else conv
        pool = AveragePool2d() if pooling == "average" else nn.MaxPool2d(2)
        super().__init__(convs, mean.view(1, 3, 1, 1).clone(), pool, weights.padding)
        # No gradients for the weights: 1.5 times faster.
        self.requires_grad_(False)
        # channels_last: 1.3 to 1.5 times faster on a CPU, native to tensor cores.
        self.to(memory_format=torch.channels_last)


def _convolution(channels: int, filters: int, padding: Padding) -> nn.Conv2d:
    """A 3 x 3 convolution without values, which keeps height and width."""
    mode: Literal["reflect", "zeros"] = "reflect" if padding == "reflect" else "zeros"
    return nn.Conv2d(channels, filters, 3, padding=1, padding_mode=mode, device="meta")
