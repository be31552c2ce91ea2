"""Guides: where in a picture a style applies.

Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer", section 4 (arXiv
1611.07865).

A guide is 0..1 per pixel. At layer l it becomes T_l, the mean over the pixels that a position
pools, scaled so that sum T_l^2 = 1. The guided Gram matrix is that of F_l o T_l: a weighted mean
over positions with the weights T_l^2. With a guide of ones it is the paper's G / M.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.network.vgg import block


class EmptyGuide(ValueError):
    """A guide that marks no position of a layer."""


def position_weights(guides: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    """T_l^2 at each tap, (B, R, h, w), of sum 1 over h and w, from guides (B, R, H, W) over 0..1.

    Raises EmptyGuide for a guide that is 0 at every position of a tap.
    """
    at: dict[int, Tensor] = {}
    pooled = guides.float()
    for level in range(1, max((block(t) for t in taps), default=0) + 1):
        if level > 1:
            pooled = F.avg_pool2d(pooled, 2)
        squared = pooled.square()
        total = squared.sum(dim=(2, 3), keepdim=True)
        at[level] = squared / total
        if not bool((total > 0).all()):
            _, region = torch.nonzero(total[:, :, 0, 0] == 0)[0].tolist()
            raise EmptyGuide(
                f"mask {region + 1} marks no position of block {level} of the network; "
                "give a larger region or size"
            )
    return {t: at[block(t)] for t in taps}


def region_weights(guides: Tensor) -> Tensor:
    """Each region's share of the sum of all of them, (B, R), from guides (B, R, H, W).

    It is the paper's lambda_r, which the paper leaves open. Style then has the same strength per
    pixel in small and in large regions. Regions of one style that cover the picture weigh what that
    style would weigh without guides.
    """
    size = guides.float().sum(dim=(2, 3))
    return size / size.sum(1, keepdim=True)
