"""What is minimised: the losses of a batch of pictures against their targets, and the gradient, whole or in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nstray.engine.losses.gatys import content_loss, range_loss, style_tap, tv_loss
from nstray.engine.losses.style_statistics import distance, summarise, target_root
from nstray.engine.losses.tiles import Tile, cut
from nstray.engine.network.vgg import VGGFeatures, minimum_side
from nstray.engine.settings import LossScale, StyleStatistic

TERMS = ("content", "style", "tv", "range")


def activations(
    network: VGGFeatures, images: Tensor, taps: Sequence[str], side: int = 0
) -> dict[str, Tensor]:
    """Activations at `taps` of images (B, 3, H, W), without a graph, computed in tiles of `side` pixels (0: at once)."""
    out: dict[str, Tensor] = {}
    h, w = images.shape[2:]
    with torch.no_grad():
        for tile in cut(h, w, side, taps):
            for tap, part in network(images[..., *tile.crop], taps).items():
                if tap not in out:
                    shape = positions(h, w, tap)
                    out[tap] = torch.empty(
                        (*part.shape[:2], *shape),
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
    shares: dict[str, Tensor] | None = None,
    side: int = 0,
) -> dict[str, Tensor]:
    """Summaries (B, R, N, K) at `taps` of images (B, 3, H, W), by `shares` per tap (see `summarise`), or of whole pictures."""
    h, w = images.shape[2:]
    with torch.no_grad():
        return _summed(network, images, taps, statistic, shares or {}, cut(h, w, side, taps))


def _summed(
    network: VGGFeatures,
    images: Tensor,
    taps: Sequence[str],
    statistic: StyleStatistic,
    shares: dict[str, Tensor],
    tiles: Sequence[Tile],
) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for tile in tiles:
        for tap, part in network(images[..., *tile.crop], taps).items():
            summary = summarise(
                part[..., *tile.of_crop(tap)], statistic, _share(images, tap, shares, tile)
            )
            out[tap] = out[tap] + summary if tap in out else summary
    return out


def _share(images: Tensor, tap: str, shares: dict[str, Tensor], tile: Tile) -> Tensor | float:
    if tap in shares:
        return shares[tap][..., *tile.of_picture(tap)]
    height, width = images.shape[2:]
    h, w = positions(height, width, tap)
    return 1.0 / (h * w)


def positions(height: int, width: int, tap: str) -> tuple[int, int]:
    """Height and width of the activations of a picture at `tap`."""
    side = minimum_side([tap])
    return height // side, width // side


@dataclass
class Objective:
    """Targets and weights of B pairs of one shape, on the device.

    Attributes:
        content: P (B, N, h, w) at each content tap. style: targets (B, R, N, K) at each style tap, of R regions.
        layer_weights: w_l of each style tap.
        weights: (4, B): alpha, beta, and those of total variation and range.
        shares: of each style tap's positions in each region (B, R, h, w); empty where style applies to the whole picture.
        region_weights: lambda_r (B, R), with `shares`.
        tile: side in pixels of the tiles; 0: whole.
    """

    network: VGGFeatures
    content: dict[str, Tensor]
    style: dict[str, Tensor]
    layer_weights: dict[str, float]
    weights: Tensor
    scale: LossScale = "mean"
    statistic: StyleStatistic = "gram"
    shares: dict[str, Tensor] = field(default_factory=dict)
    region_weights: Tensor | None = None
    tile: int = 0

    def __post_init__(self) -> None:
        self.taps = tuple(dict.fromkeys((*self.content, *self.style)))
        self._roots = (
            {tap: target_root(t) for tap, t in self.style.items()}
            if self.statistic == "wasserstein"
            else {}
        )
        self._tv_on, self._range_on = (bool((w > 0).any()) for w in self.weights[2:])

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One forward and backward pass at images x (B, 3, H, W): losses (B,), gradients like x, terms (4, B) without their weights."""
        h, w = x.shape[2:]
        tiles = cut(h, w, self.tile, self.taps)
        if len(tiles) > 1:
            return self._in_tiles(x.detach(), tiles)
        x = x.detach().requires_grad_(True)
        total, terms = self._losses(x, tiles[0])
        # pairs do not see each other: the gradient of the sum holds each pair's own
        (gradient,) = torch.autograd.grad(total.sum(), x)
        return total.detach(), gradient, terms.detach()

    def _losses(self, x: Tensor, whole: Tile) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(self.weights[0])
        contents, styles = [], []
        equation_4 = self.statistic == "gram" and not self.shares

        def through(tap: str, features: Tensor) -> Tensor:
            if tap in self.content:
                contents.append(content_loss(features, self.content[tap], self.scale))
            if tap in self.style and equation_4:
                features, loss = style_tap(features, self.style[tap][:, 0])
                styles.append(loss * self.layer_weights[tap])
            elif tap in self.style:
                styles.append(
                    self._style(
                        tap, summarise(features, self.statistic, _share(x, tap, self.shares, whole))
                    )
                )
            return features

        # a region's pixels have exactly no gradient of another's style
        self.network(x, self.taps, through, direct=bool(self.shares))
        return self._total(x, sum(contents, zero), sum(styles, zero))

    def _style(self, tap: str, summary: Tensor) -> Tensor:
        """w_l sum_r lambda_r E of one tap: (B,)."""
        each = distance(summary, self.style[tap], self.statistic, self._roots.get(tap))
        each = each if self.region_weights is None else each * self.region_weights
        return each.sum(1) * self.layer_weights[tap]

    def _total(self, x: Tensor, content: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(content)
        tv = tv_loss(x, self.scale) if self._tv_on else zero
        beyond = range_loss(x, self.scale) if self._range_on else zero
        alpha, beta, gamma, delta = self.weights
        total = alpha * content + beta * style + gamma * tv
        return (total + delta * beyond if self._range_on else total), torch.stack(
            [content, style, tv, beyond]
        )

    def _in_tiles(self, x: Tensor, tiles: Sequence[Tile]) -> tuple[Tensor, Tensor, Tensor]:
        """The same in two passes over the tiles: the summaries of the whole picture, then each tile's share of the gradient.

        The style term's gradient is that of <dE/dS, S> with dE/dS held fixed, and S is a sum over tiles.
        """
        zero = torch.zeros_like(self.weights[0])
        alpha, beta = self.weights[:2]
        slopes: dict[str, Tensor] = {}
        styles, content = [], zero
        if self.style:
            with torch.no_grad():
                found = _summed(
                    self.network, x, tuple(self.style), self.statistic, self.shares, tiles
                )
            for tap, summary in found.items():
                summary.requires_grad_(True)
                loss = self._style(tap, summary)
                (slopes[tap],) = torch.autograd.grad((beta * loss).sum(), summary)
                styles.append(loss.detach())
        gradient = torch.zeros_like(x)
        for tile in tiles:
            part = x[..., *tile.crop].clone().requires_grad_(True)
            features = self.network(part, self.taps, direct=bool(self.shares))
            pieces = []
            for tap, target in self.content.items():
                each = content_loss(
                    features[tap][..., *tile.of_crop(tap)],
                    target[..., *tile.of_picture(tap)],
                    "paper",
                )
                each = each / target[0].numel() if self.scale == "mean" else each
                content = content + each.detach()
                pieces.append((alpha * each).sum())
            for tap, slope in slopes.items():
                summary = summarise(
                    features[tap][..., *tile.of_crop(tap)],
                    self.statistic,
                    _share(x, tap, self.shares, tile),
                )
                pieces.append((slope * summary).sum())
            (own,) = torch.autograd.grad(torch.stack(pieces).sum(), part)
            gradient[..., *tile.crop] += own
        leaf = x.requires_grad_(True)
        total, terms = self._total(leaf, content, sum(styles, zero))
        if self._tv_on or self._range_on:
            gradient += torch.autograd.grad(total.sum(), leaf)[0]
        return total.detach(), gradient, terms.detach()
