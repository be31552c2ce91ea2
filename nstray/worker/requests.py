"""Which images a pair needs, and at what size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nstray.config import ORIGINAL, JobConfig
from nstray.engine import settings
from nstray.manifest.pair import Pair
from nstray.sources.reference import Place


@dataclass(frozen=True)
class Request:
    """An image that a pair needs, and how.

    Attributes:
        role: what the image is to its pair; an error names it.
        size: as the setting of that name; None leaves the image as it is.
        rule: the size rule for `size`.
        upsample: as the setting of that name.
        mask: decoded to one channel; it is fitted to its picture later.
        place: where the image lies in its archive, if its row says it.
    """

    role: str
    uri: str
    size: int | str | None = None
    rule: str = ""
    upsample: bool = False
    mask: bool = False
    place: Place | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the pixels, for the cache: all but the role."""
        return (self.uri, self.size, self.rule, self.upsample, self.mask, self.place)


class Requests:
    """The images that the pairs of a job need.

    Args:
        init: as in `JobSpec`.
    """

    def __init__(self, config: JobConfig, init: str) -> None:
        self._config, self._init = config, init

    def depend_on_content(self, pair: Pair) -> bool:
        """Whether the sizes of the other images follow from the content's."""
        return self._size(pair)[0] == ORIGINAL

    def content(self, pair: Pair) -> Request:
        """The pair's content."""
        size, rule = self._size(pair)
        side, upsample = size, self._config.upsample
        if size == ORIGINAL:
            side, upsample = self._config.max_side, False
        return Request(
            "content", pair.content or "", side, rule, upsample, place=pair.content_place
        )

    def others(self, pair: Pair, content_pixels: int | None = None) -> list[Request]:
        """Every image that a pair needs besides its content.

        Args:
            content_pixels: of the content once resized, if the others depend on it.
        """
        config, own = self._config, pair.overrides
        size, rule = self._size(pair)
        # A style keeps its own aspect: the rule that crops would cut away statistics, so the style
        # takes the area of the crop. It also takes that of a content of its own size.
        if size == ORIGINAL:
            assert content_pixels is not None
            side, style_rule = math.sqrt(content_pixels), "area"
        else:
            side, style_rule = (_area(size), "area") if rule == "exact" else (int(size), rule)
        style_size = max(1, round(side * own.get("style_scale", config.style_scale)))
        places = pair.style_places or (None,) * len(pair.styles)
        out = [
            Request("style", uri, style_size, style_rule, place=place)
            for uri, place in zip(pair.styles, places, strict=True)
        ]
        if pair.fine_style:
            out.append(Request("fine style", pair.fine_style, style_size, style_rule))
        for role, masks in (("content mask", pair.content_masks), ("style mask", pair.style_masks)):
            out += [Request(role, uri, mask=True) for uri in masks if uri]
        init = own.get("init", self._init)
        if init not in settings.INITS:
            out.append(Request("init", init))
        return out

    def _size(self, pair: Pair) -> tuple[int | str, str]:
        """The size of a pair's picture, and its rule."""
        own, config = pair.overrides, self._config
        return own.get("size", config.size), own.get("size_rule", config.size_rule)


def _area(size: int | str) -> int:
    """The side of the square with as many pixels as ``WIDTHxHEIGHT``."""
    if isinstance(size, int):
        return size
    width, height = (int(s) for s in size.split("x"))
    return max(1, round(math.sqrt(width * height)))
