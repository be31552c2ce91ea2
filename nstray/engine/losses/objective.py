"""What is minimised: the losses of a batch of pictures against their targets, and the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nstray.engine.losses.gatys import content_loss, range_loss, style_tap, tv_loss
from nstray.engine.losses.style_statistics import distance, summarise, target_root
from nstray.engine.losses.tiles import Tile, split
from nstray.engine.network.vgg import VGGFeatures, positions
from nstray.engine.settings import LossScale, StyleStatistic

TERMS = ("content", "style", "tv", "range")


def activations(
    network: VGGFeatures, images: Tensor, taps: Sequence[str], tile_side: int = 0
) -> dict[str, Tensor]:
    """Activations (B, N, h, w) at `taps` of images (B, 3, H, W), without a graph.

    Computed in tiles of `tile_side` pixels; 0: at once.
    """
    out: dict[str, Tensor] = {}
    h, w = images.shape[2:]
    with torch.no_grad():
        for tile in split(h, w, tile_side, taps):
            for tap, part in network(images[..., *tile.crop], taps).items():
                if tap not in out:
                    out[tap] = torch.empty(
                        (*part.shape[:2], *positions(h, w, tap)),
                        dtype=part.dtype,
                        device=part.device,
                        memory_format=torch.channels_last,
                    )
                out[tap][..., *tile.of_picture(tap)] = part[..., *tile.of_crop(tap)]
    return out


def summaries(
    network: VGGFeatures,
    images: Tensor,
    taps: Sequence[str],
    statistic: StyleStatistic,
    position_weights: dict[str, Tensor] | None = None,
    tile_side: int = 0,
) -> dict[str, Tensor]:
    """Summaries (B, R, N, K) at `taps` of images (B, 3, H, W), without a graph: see `summarise`.

    Args:
        position_weights: at each tap (B, R, h, w); None or empty: all positions alike, R = 1.
        tile_side: of the tiles in pixels; 0: at once.
    """
    h, w = images.shape[2:]
    tiles = split(h, w, tile_side, taps)
    with torch.no_grad():
        return _sum_tiles(network, images, taps, statistic, position_weights or {}, tiles)


def _sum_tiles(
    network: VGGFeatures,
    images: Tensor,
    taps: Sequence[str],
    statistic: StyleStatistic,
    position_weights: dict[str, Tensor],
    tiles: Sequence[Tile],
) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for tile in tiles:
        for tap, part in network(images[..., *tile.crop], taps).items():
            weights = _weights_of(images, tap, position_weights, tile)
            summary = summarise(part[..., *tile.of_crop(tap)], statistic, weights)
            out[tap] = out[tap] + summary if tap in out else summary
    return out


def _weights_of(
    images: Tensor, tap: str, position_weights: dict[str, Tensor], tile: Tile
) -> Tensor | float:
    """The weights of a tile's positions; 1/M of the whole picture without guides."""
    if tap in position_weights:
        return position_weights[tap][..., *tile.of_picture(tap)]
    height, width = images.shape[2:]
    h, w = positions(height, width, tap)
    return 1.0 / (h * w)


@dataclass
class Objective:
    """Targets and weights of B pairs of one shape, on the device.

    Attributes:
        content: P (B, N, h, w) at each content tap.
        style: targets (B, R, N, K) at each style tap, of R regions.
        layer_weights: w_l of each style tap.
        weights: (4, B): alpha, beta, and those of total variation and range.
        position_weights: of each style tap's positions in each region (B, R, h, w); empty if style
            applies to the whole picture.
        region_weights: lambda_r (B, R), with `position_weights`.
        tile: side in pixels of the tiles; 0: whole.
    """

    network: VGGFeatures
    content: dict[str, Tensor]
    style: dict[str, Tensor]
    layer_weights: dict[str, float]
    weights: Tensor
    scale: LossScale = "mean"
    statistic: StyleStatistic = "gram"
    position_weights: dict[str, Tensor] = field(default_factory=dict)
    region_weights: Tensor | None = None
    tile: int = 0

    def __post_init__(self) -> None:
        self.taps = tuple(dict.fromkeys((*self.content, *self.style)))
        # A region's pixels have exactly no gradient of another region's style.
        self._differentiable = self.network.exact() if self.position_weights else self.network
        self._roots = (
            {tap: target_root(t) for tap, t in self.style.items()}
            if self.statistic == "wasserstein"
            else {}
        )
        self._tv_on, self._range_on = (bool((w > 0).any()) for w in self.weights[2:])

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One forward and backward pass at images x (B, 3, H, W).

        Returns the losses (B,), gradients like x, and the terms (4, B) without their weights.
        """
        h, w = x.shape[2:]
        tiles = split(h, w, self.tile, self.taps)
        if len(tiles) > 1:
            return self._evaluate_tiles(x.detach(), tiles)
        x = x.detach().requires_grad_(True)
        total, terms = self._losses(x, tiles[0])
        # pairs do not see each other: the gradient of the sum holds each pair's own
        (gradient,) = torch.autograd.grad(total.sum(), x)
        return total.detach(), gradient, terms.detach()

    def _losses(self, x: Tensor, whole: Tile) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(self.weights[0])
        contents, styles = [], []
        equation_4 = self.statistic == "gram" and not self.position_weights

        def take_losses(tap: str, features: Tensor) -> Tensor:
            if tap in self.content:
                contents.append(content_loss(features, self.content[tap], self.scale))
            if tap in self.style and equation_4:
                features, loss = style_tap(features, self.style[tap][:, 0])
                styles.append(loss * self.layer_weights[tap])
            elif tap in self.style:
                weights = _weights_of(x, tap, self.position_weights, whole)
                styles.append(self._style(tap, summarise(features, self.statistic, weights)))
            return features

        self._differentiable(x, self.taps, take_losses)
        return self._total(x, sum(contents, zero), sum(styles, zero))

    def _style(self, tap: str, summary: Tensor) -> Tensor:
        """w_l sum_r lambda_r E of one tap: (B,)."""
        each = distance(summary, self.style[tap], self.statistic, self._roots.get(tap))
        each = each if self.region_weights is None else each * self.region_weights
        return each.sum(1) * self.layer_weights[tap]

    def _total(self, x: Tensor, content: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum (B,) and the terms (4, B), with those on the pixels of x."""
        zero = torch.zeros_like(content)
        tv = tv_loss(x, self.scale) if self._tv_on else zero
        beyond = range_loss(x, self.scale) if self._range_on else zero
        alpha, beta, gamma, delta = self.weights
        total = alpha * content + beta * style + gamma * tv
        total = total + delta * beyond if self._range_on else total
        return total, torch.stack([content, style, tv, beyond])

    def _evaluate_tiles(self, x: Tensor, tiles: Sequence[Tile]) -> tuple[Tensor, Tensor, Tensor]:
        """`evaluate` in two passes over the tiles.

        The first pass sums up the summaries S of the whole picture, the second each tile's part of
        the gradient. The style term's gradient is that of <dE/dS, S> with dE/dS held fixed, and S
        is a sum over tiles.
        """
        zero = torch.zeros_like(self.weights[0])
        alpha, beta = self.weights[:2]
        slopes: dict[str, Tensor] = {}
        styles, content = [], zero
        if self.style:
            with torch.no_grad():
                found = _sum_tiles(
                    self.network,
                    x,
                    tuple(self.style),
                    self.statistic,
                    self.position_weights,
                    tiles,
                )
            for tap, summary in found.items():
                summary.requires_grad_(True)
                loss = self._style(tap, summary)
                (slopes[tap],) = torch.autograd.grad((beta * loss).sum(), summary)
                styles.append(loss.detach())
        gradient = torch.zeros_like(x)
        for tile in tiles:
            part = x[..., *tile.crop].clone().requires_grad_(True)
            features = self._differentiable(part, self.taps)
            pieces = []
            for tap, target in self.content.items():
                of_core = features[tap][..., *tile.of_crop(tap)]
                each = content_loss(of_core, target[..., *tile.of_picture(tap)], "paper")
                each = each / target[0].numel() if self.scale == "mean" else each
                content = content + each.detach()
                pieces.append((alpha * each).sum())
            for tap, slope in slopes.items():
                of_core = features[tap][..., *tile.of_crop(tap)]
                weights = _weights_of(x, tap, self.position_weights, tile)
                pieces.append((slope * summarise(of_core, self.statistic, weights)).sum())
            (own,) = torch.autograd.grad(torch.stack(pieces).sum(), part)
            gradient[..., *tile.crop] += own
        leaf = x.requires_grad_(True)
        total, terms = self._total(leaf, content, sum(styles, zero))
        if self._tv_on or self._range_on:
            gradient += torch.autograd.grad(total.sum(), leaf)[0]
        return total.detach(), gradient, terms.detach()
