"""Loose pictures as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from nstray.sources.listing.folder_pictures import below
from nstray.sources.listing.pictures import Pictures, stem
from nstray.storage import ObjectInfo

_BATCH = 8192  # pictures


class LoosePictures:
    """Loose pictures below a root; see `pictures.Source`."""

    kind = "loose picture"
    archives: Sequence[ObjectInfo] = ()
    sidecars = False

    def __init__(self, root: str, uris: list[str], left_out: list[str]) -> None:
        self.root, self._uris, self._left_out = root, uris, left_out

    def paths(self) -> Sequence[str]:
        return [below(self.root, uri) for uri in self._uris]

    def names(self) -> Sequence[str] | None:
        return ()

    def pictures(self) -> Iterator[Pictures]:
        for at in range(0, len(self._uris), _BATCH):
            uris = self._uris[at : at + _BATCH]
            relative = [below(self.root, uri) for uri in uris]
            yield Pictures(None, uris, relative, [stem(path) for path in relative])

    def finish(self, raw: pa.Table) -> pa.Table:
        return raw

    def left_out(self) -> list[str]:
        return self._left_out
