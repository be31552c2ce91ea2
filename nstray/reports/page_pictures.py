"""Pictures inside a page: each once, as a data URI, as many as the page's size allows."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

_KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"))


def kind_of(data: bytes) -> str | None:
    """``jpeg``, ``png`` or ``webp`` by the first bytes; None for what a browser can't draw."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in _KINDS if data.startswith(start)), None)


def cost(data: bytes) -> int:
    """Bytes that a picture takes in the page."""
    return 4 * ((len(data) + 2) // 3)


class Pictures:
    """The pictures of one page by key. `fit` decides which ones there are."""

    def __init__(self) -> None:
        self._keys: dict[bytes, str] = {}
        self._data: dict[str, bytes] = {}
        self._drawn: set[str] = set()
        self._refused: set[bytes] = set()
        self.bytes = 0  # that the pictures take in the page

    @property
    def asked(self) -> int:
        """How many different pictures were wanted."""
        return len(self._keys) + len(self._refused)

    def fit(self, wanted: Iterable[bytes | None], budget: float) -> int:
        """Take pictures in their order of priority up to `budget` bytes of page; how many did not.

        A picture that is wanted twice counts once. What is no picture is never taken.
        """
        for data in wanted:
            if data is None or kind_of(data) is None:
                continue
            digest = hashlib.sha256(data).digest()
            if digest in self._keys or digest in self._refused:
                continue
            if self._refused or self.bytes + cost(data) > budget:
                self._refused.add(digest)
                continue
            self.bytes += cost(data)
            key = f"p{len(self._keys)}"
            self._keys[digest], self._data[key] = key, data
        return len(self._refused)

    def key(self, data: bytes | None) -> str | None:
        """The key of a picture, if the page has it."""
        return self._keys.get(hashlib.sha256(data).digest()) if data is not None else None

    def why_not(self, data: bytes | None, reason: str | None) -> str:
        """Why a picture is not shown."""
        if data is None:
            return reason or "there is none"
        if kind_of(data) is None:
            return "its bytes are no picture that a browser draws"
        return "left out, since the page would be too large"

    def source(self, key: str) -> str | None:
        """The data URI where `key` is drawn first; None from then on: the script copies it."""
        if key in self._drawn:
            return None
        self._drawn.add(key)
        data = self._data[key]
        return f"data:image/{kind_of(data)};base64,{base64.b64encode(data).decode()}"
