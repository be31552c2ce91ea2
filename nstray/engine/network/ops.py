"""Layers of the feature network whose gradients are cheaper than torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _InPlaceReLU(torch.autograd.Function):
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
        if not gradient.is_contiguous(memory_format=torch.channels_last):
            # an expanded gradient has no memory of its own
            gradient = gradient.clone(memory_format=torch.channels_last)
        return _zero_where_off(gradient, out)


def _zero_where_off(gradient: Tensor, rectified: Tensor) -> Tensor:
    """`gradient` with zeros where `rectified` is 0, in place.

    The only use of an operator of torch that has no public name. No public one writes into the
    gradient in a single pass.
    """
    torch.ops.aten.threshold_backward.grad_input(gradient, rectified, 0.0, grad_input=gradient)
    return gradient


def relu_in_place(x: Tensor) -> Tensor:
    """max(x, 0) in place, and its gradient in place too.

    Allocating a large gradient costs as much as computing it. The layers behind must hand back a
    gradient of their own, as convolutions and poolings do.
    """
    out: Tensor = _InPlaceReLU.apply(x)
    return out


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape[2:]
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        repeated = F.interpolate(grads[0] * 0.25, scale_factor=2, mode="nearest")
        (h, w), (height, width) = repeated.shape[2:], ctx.shape
        if (h, w) == (height, width):
            return repeated
        # the last row or column of an odd side is in no mean
        return F.pad(repeated, (0, width - w, 0, height - h))


class AveragePool2d(nn.Module):
    """Means of 2 x 2 positions, and their gradient by repeating it.

    The numbers are those of torch's own. In bfloat16 on a CPU it is eight times as fast.
    """

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _AveragePool.apply(x)
        return out


class _PixelConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: int, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        gradient = F.conv_transpose2d(grads[0], weight.to(grads[0].dtype), padding=ctx.padding)
        return gradient.float(), None, None, None, None


class PixelConv2d(nn.Module):
    """A 3 x 3 convolution over float32 pixels whose output and gradient have another dtype.

    bfloat16 does not tell pixels apart that differ by less than its precision, so pixels stay
    float32. Their gradient loses no more by bfloat16 than any other gradient.

    Args:
        conv: with float32 filters; its border is zeros or a reflection, one position wide.
        dtype: of the output.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv, self.dtype = conv, dtype

    def forward(self, x: Tensor) -> Tensor:
        reflected = self.conv.padding_mode == "reflect"
        if reflected:
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        out: Tensor = _PixelConvolution.apply(
            x, self.conv.weight, self.conv.bias, 0 if reflected else 1, self.dtype
        )
        return out
