"""What the sources of pictures in cells, Parquet and Arrow files, have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import pyarrow as pa

from nstray.sources.listing.ahead import in_order
from nstray.sources.listing.folder_pictures import below
from nstray.sources.listing.image_column import Columns
from nstray.sources.listing.pictures import Counts, Options, Pictures
from nstray.storage import ObjectInfo


class CellPictures(ABC):
    """The pictures of files that hold them in a column; see `pictures.Source`."""

    sidecars = False
    root: str
    archives: Sequence[ObjectInfo]
    _options: Options
    _left_out: list[str]
    _counts: Counts
    _columns: Columns

    def paths(self) -> Sequence[str]:
        return [below(self.root, info.uri) for info in self.archives]

    def names(self) -> Sequence[str] | None:
        return self._columns.others

    def pictures(self) -> Iterator[Pictures]:
        return in_order(self.archives, self._list)

    def finish(self, raw: pa.Table) -> pa.Table:
        return raw

    def left_out(self) -> list[str]:
        columns_left_out = self._columns.left_out(self._options)
        return [*self._left_out, *columns_left_out, *self._counts.lines()]

    @abstractmethod
    def _list(self, info: ObjectInfo) -> Iterator[Pictures]:
        """The pictures of one file."""
