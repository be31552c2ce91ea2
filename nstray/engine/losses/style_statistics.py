"""What the style term compares: the paper's Gram matrix, and two statistics that others use.

A summary is one tensor (N, K) per picture, layer and region. It is linear in positions: it adds up
over tiles, and a weighted mean of several pictures' summaries is the summary of their blend.
Covariances and standard deviations have neither property.

    gram           K = N      G = sum_m p_m F_m F_m^T              E = 1/(4 N^2) sum (G - A)^2
    wasserstein    K = N + 1  G, and the mean mu = sum_m p_m F_m   E = 1/N W2^2
    mean-std       K = 2      E[F^2], and mu, filter by filter     E = 1/N sum (mu - mu')^2
                                                                           + (sigma - sigma')^2

p_m is each position's weight, of sum 1: 1/M or a guide's (`nstray.engine.losses.guides`).

``gram`` is equation 4 of the paper.

``wasserstein``: W2 is the 2-Wasserstein distance of two normal distributions,
|mu - mu'|^2 + tr(C + C' - 2 (C'^1/2 C C'^1/2)^1/2) with C = G - mu mu^T + 1e-4, divided by N as in
Crowson's style-transfer-pytorch (StyleLossW2).

``mean-std`` is equation 17 of Li et al. (arXiv 1701.01036), the statistics of AdaIN (Huang and
Belongie, arXiv 1703.06868, equation 13, whose 1e-5 stands under the root). It is W2 with the
covariance's diagonal alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nstray.engine.settings import StyleStatistic

STD_EPSILON = 1e-5
COVARIANCE_EPSILON = 1e-4


def summarise(features: Tensor, statistic: StyleStatistic, weights: Tensor | float) -> Tensor:
    """Summaries (B, R, N, K) float32 of activations (B, N, h, w) with weighted positions.

    Args:
        weights: (B or 1, R, h, w), of sum 1 over h and w; or one number for all, with R = 1.
    """
    flat = features.flatten(2).float()
    per_region = (
        [weights]
        if isinstance(weights, float)
        else [w.unsqueeze(1) for w in weights.flatten(2).unbind(1)]
    )
    return torch.stack([_summary(flat, flat * w, statistic) for w in per_region], 1)


def _summary(flat: Tensor, weighted: Tensor, statistic: StyleStatistic) -> Tensor:
    if statistic == "gram":
        return torch.bmm(weighted, flat.transpose(1, 2))
    mean = weighted.sum(2, keepdim=True)
    second = (
        torch.bmm(weighted, flat.transpose(1, 2))
        if statistic == "wasserstein"
        else (weighted * flat).sum(2, keepdim=True)
    )
    return torch.cat([second, mean], 2)


def distance(
    summary: Tensor, target: Tensor, statistic: StyleStatistic, root: Tensor | None = None
) -> Tensor:
    """E of summaries against targets, both (..., N, K): (...), float32.

    `root`: what `target_root` gives, if it is known already.
    """
    n = summary.shape[-2]
    if statistic == "gram":
        squares: Tensor = (summary - target).square().sum(dim=(-2, -1)) / (4 * n)
    elif statistic == "mean-std":
        (mean, std), (mean_t, std_t) = _mean_std(summary), _mean_std(target)
        squares = ((mean - mean_t).square() + (std - std_t).square()).sum(-1)
    else:
        (mean, covariance), (mean_t, covariance_t) = (
            _mean_covariance(summary),
            _mean_covariance(target),
        )
        trace = torch.diagonal(covariance + covariance_t, dim1=-2, dim2=-1).sum(-1)
        between = trace - 2 * _TraceOfRoot.apply(
            covariance, target_root(target) if root is None else root
        )
        squares = ((mean - mean_t).square().sum(-1) + between.clamp_min(0)).to(summary.dtype)
    return squares / n


def target_root(target: Tensor) -> Tensor:
    """The root (..., N, N) of a target's covariance, float64.

    It is the half of ``wasserstein`` that does not change during an optimisation.
    """
    values, vectors = torch.linalg.eigh(_mean_covariance(target)[1])
    root: Tensor = (
        vectors * values.clamp_min(COVARIANCE_EPSILON).sqrt().unsqueeze(-2)
    ) @ vectors.mT
    return root


def _mean_std(summary: Tensor) -> tuple[Tensor, Tensor]:
    second, mean = summary.unbind(-1)
    return mean, ((second - mean.square()).clamp_min(0) + STD_EPSILON).sqrt()


def _mean_covariance(summary: Tensor) -> tuple[Tensor, Tensor]:
    # float64: the smallest eigenvalues are 1e-8 of the largest, and the gradient divides by their
    # roots
    second, mean = summary[..., :-1].double(), summary[..., -1].double()
    identity = torch.eye(second.shape[-1], dtype=second.dtype, device=second.device)
    return mean, second - mean.unsqueeze(-1) * mean.unsqueeze(-2) + COVARIANCE_EPSILON * identity


class _TraceOfRoot(torch.autograd.Function):
    """tr((T^1/2 C T^1/2)^1/2) of a covariance C and T^1/2 (..., N, N), by eigenvectors.

    Its gradient is 1/2 T^1/2 (T^1/2 C T^1/2)^-1/2 T^1/2. T has none: it is a target.

    Both C and T are at least epsilon, so the eigenvalues of their product are at least its square.
    With fewer positions than filters, rounding puts some below. These are held at epsilon squared
    and have no gradient: their inverse root would be 1e4, and the gradient up to 200 times what it
    is.
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor, root: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(root @ covariance @ root)
        floor = COVARIANCE_EPSILON**2
        inverse = torch.where(values > floor, values.clamp_min(floor).rsqrt(), 0.0)
        ctx.save_for_backward(root, inverse, vectors)
        trace: Tensor = values.clamp_min(floor).sqrt().sum(-1)
        return trace

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        root, inverse, vectors = ctx.saved_tensors
        turned = root @ vectors
        gradient: Tensor = 0.5 * (turned * inverse.unsqueeze(-2)) @ turned.mT
        return grads[0][..., None, None] * gradient, None
