"""Content, style and pixel terms: equations 1 to 7 of arXiv 1508.06576, one number per pair.

With F, P in R^(N x M) the activations of a layer (N filters, M positions):

    content (eq. 1)      1/2 sum (F - P)^2
    Gram    (eq. 3)      G = F F^T
    style   (eq. 4, 5)   sum_l w_l 1/(4 N^2 M^2) sum (G - A)^2,  w_l = 1/k over k layers
    total   (eq. 7)      alpha content + beta style

A style image of another size has its own M, so G/M is compared with A/M_A. If the sizes agree, this
is the equation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nstray.engine.settings import LossScale


def gram(features: Tensor) -> Tensor:
    """G / M of activations (B, N, H, W): (B, N, N) float32, M = H W.

    Equation 3, divided by the number of positions.
    """
    flat = features.flatten(2).float()
    return torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]


class _StyleTap(torch.autograd.Function):
    """The activations, passed on, and E_l per pair, with the closed form of its gradient.

    dE/dF = 1/(N^2 M) (G/M - A/M_A) F (equation 6) is one matrix product; differentiating F F^T
    through autograd costs two. The same product adds it to the gradient that comes back from the
    layers behind.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        difference = gram(features) - target
        ctx.save_for_backward(features, difference)
        ctx.set_materialize_grads(False)
        n = features.shape[1]
        return features, difference.square().sum(dim=(1, 2)) / (4 * n * n)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None]:
        behind, upstream = grads
        if upstream is None:
            return behind, None
        features, difference = ctx.saved_tensors
        n, m = features.shape[1], features.shape[2] * features.shape[3]
        # In the features' own dtype: the gradient is rounded to it in any case.
        scaled = (difference * (upstream / (n * n * m)).view(-1, 1, 1)).to(features.dtype)
        flat = features.flatten(2)
        if not features.is_contiguous(memory_format=torch.channels_last):
            own = torch.bmm(scaled, flat).view(features.shape)
            return own if behind is None else own + behind, None
        # (M x N)(N x N): the product has the layout that the convolution before it reads
        flat = flat.transpose(1, 2)
        if behind is not None and behind.is_contiguous(memory_format=torch.channels_last):
            behind.flatten(2).transpose(1, 2).baddbmm_(flat, scaled)
            return behind, None
        own = torch.bmm(flat, scaled).transpose(1, 2).view(features.shape)
        return own if behind is None else own.add_(behind), None


def style_tap(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The activations (B, N, H, W) for the next layer, and E_l (equation 4), (B,) float32.

    Overwrites the gradient that the next layer hands back. What consumes the activations must make
    a gradient of its own, as convolutions and poolings do. `target`: A/M_A (B, N, N).
    """
    on, loss = _StyleTap.apply(features, target)
    return on, loss


def style_loss(features: Tensor, target: Tensor) -> Tensor:
    """E_l (equation 4) of activations (B, N, H, W) and targets A/M_A (B, N, N): (B,) float32."""
    return style_tap(features, target)[1]


def content_loss(features: Tensor, target: Tensor, scale: LossScale) -> Tensor:
    """1/2 sum (F - P)^2 (equation 1) of activations and targets (B, N, H, W): (B,) float32.

    Divided by N M on the scale ``mean``.
    """
    half = (features.float() - target.float()).square().sum(dim=(1, 2, 3)) / 2
    return half / features[0].numel() if scale == "mean" else half


def range_loss(images: Tensor, scale: LossScale) -> Tensor:
    """Squared excess over 0..1 of images (B, 3, H, W), (B,): sum max(0, x - 1)^2 + max(0, -x)^2.

    Not in the paper. Divided by the number of values, 3 H W, on the scale ``mean``.
    """
    total = (images - images.detach().clamp(0, 1)).square().sum(dim=(1, 2, 3))
    return total / images[0].numel() if scale == "mean" else total


def tv_loss(images: Tensor, scale: LossScale) -> Tensor:
    """Squared total variation of images (B, 3, H, W) over 0..1: (B,).

    sum (x[i,j+1] - x[i,j])^2 + (x[i+1,j] - x[i,j])^2. Not in the paper. Divided by the number of
    values, 3 H W, on the scale ``mean``.
    """
    down = images.diff(dim=2).square().sum(dim=(1, 2, 3))
    across = images.diff(dim=3).square().sum(dim=(1, 2, 3))
    total = down + across
    return total / images[0].numel() if scale == "mean" else total
