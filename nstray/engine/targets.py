"""Style targets: what the style term of a batch is matched against, computed once per image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from nstray.engine.losses import guides
from nstray.engine.losses.objective import summaries
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.pair import Pair, blend_weights, pixels
from nstray.engine.settings import StylizeConfig


class TensorCache:
    """Named groups of tensors on a device, bounded in bytes, least recently used out first.

    The newest group stays, even if it is larger than the bound.

    Attributes:
        used_bytes: of all groups together.
    """

    def __init__(self, device: torch.device, max_bytes: int) -> None:
        self.device, self.max_bytes = device, max_bytes
        self.used_bytes = 0
        self._groups: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()

    def get(
        self, key: Hashable | None, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The group named `key`, or what `compute` gives. With None it is not stored."""
        if key is not None and key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        made = {name: tensor.to(self.device) for name, tensor in compute().items()}
        if key is not None:
            self._groups[key] = made
            self.used_bytes += _bytes(made)
            while self.used_bytes > self.max_bytes and len(self._groups) > 1:
                self.used_bytes -= _bytes(self._groups.popitem(last=False)[1])
        return made


class StyleTargets:
    """The style targets of one network.

    Args:
        network: with the layers that will be asked for.
        cache: where the targets of named images are stored.
    """

    def __init__(self, network: VGGFeatures, cache: TensorCache) -> None:
        self.network, self.cache = network, cache

    def of_image(
        self,
        style: Tensor,
        taps: Sequence[str],
        config: StylizeConfig,
        key: Hashable | None = None,
        guide: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The summary of one image (3, H, W) at each tap, (N, K): for ``gram`` A/M_A (N, N).

        Computed once per `key`, shape, taps and statistic.

        Args:
            config: `style_statistic` and `tile_size` count.
            key: names the image together with its guide; None computes anew.
            guide: (H, W): the part of the image that counts; None: the whole.

        Raises `EmptyGuide` for a guide that marks nothing.
        """
        taps, device = tuple(taps), self.cache.device

        def compute() -> dict[str, Tensor]:
            weights = (
                {}
                if guide is None
                else guides.position_weights(pixels(guide, device)[None, None], taps)
            )
            images = pixels(style, device).unsqueeze(0)
            found = summaries(
                self.network, images, taps, config.style_statistic, weights, config.tile_size
            )
            return {tap: summary[0, 0] for tap, summary in found.items()}

        name = (key, tuple(style.shape), taps, config.style_statistic)
        return self.cache.get(None if key is None else name, compute)

    def of_batch(
        self, pairs: Sequence[Pair], taps: Sequence[str], configs: Sequence[StylizeConfig]
    ) -> dict[str, Tensor]:
        """Targets (B, R, N, K) at each tap; 0 for a pair without style, which not all may be.

        With guides there is a region for each style, otherwise one region for their blend.
        `configs`: one per pair, with its own settings.
        """
        per_pair = [self._of_pair(p, taps, c) for p, c in zip(pairs, configs, strict=True)]
        like = next(t for t in per_pair if t is not None)
        return {
            tap: torch.stack(
                [torch.zeros_like(like[tap]) if t is None else t[tap] for t in per_pair]
            )
            for tap in taps
        }

    def _of_pair(
        self, pair: Pair, taps: Sequence[str], config: StylizeConfig
    ) -> dict[str, Tensor] | None:
        """Targets (R, N, K) at each tap; None without a style."""
        if not pair.styles:
            return None
        none = [None] * len(pair.styles)
        parts = pair.style_guides or none
        targets = [
            self.of_image(style, taps, config, _name(key, part, part_key), part)
            for style, key, part, part_key in zip(
                pair.styles,
                pair.style_keys or none,
                parts,
                pair.style_guide_keys or none,
                strict=True,
            )
        ]
        if pair.guides is not None:
            return {tap: torch.stack([t[tap] for t in targets]) for tap in taps}
        if len(targets) == 1:
            return {tap: targets[0][tap].unsqueeze(0) for tap in taps}
        blended = {
            tap: sum(
                (w * t[tap] for w, t in zip(blend_weights(pair), targets, strict=True)),
                torch.zeros_like(targets[0][tap]),
            )
            for tap in taps
        }
        return {tap: t.unsqueeze(0) for tap, t in blended.items()}


def _name(
    key: Hashable | None, guide: Tensor | None, guide_key: Hashable | None
) -> Hashable | None:
    """The name of an image together with its guide; None if one of them has no name."""
    if guide is None:
        return key
    return None if key is None or guide_key is None else ("guided", key, guide_key)


def _bytes(group: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in group.values())
