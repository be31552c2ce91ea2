"""Carried columns that are too large to travel with the rows: read by the workers themselves.

A data set on the Hub holds its pictures in such a column. A window of 65,536 rows of them has
gigabytes, and the driver holds several windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from nstray import storage
from nstray.errors import ManifestError
from nstray.manifest.carried_types import cast, without_views
from nstray.manifest.files import find
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.parquet_files import open_parquet, read_rows
from nstray.output.layout import WINDOW_ROWS

# The carried values of a window that travel with its rows, at most. The driver holds five windows
# and more, and is to stay below 500 MB, 350 MB of which are Ray's and Arrow's.
APART_BYTES = 16 * 2**20


class CarriedBytes:
    """The most bytes of carried values that `WINDOW_ROWS` consecutive rows have, about."""

    def __init__(self) -> None:
        self.most = 0
        self._rows = self._bytes = 0

    def add(self, rows: int, size: int) -> None:
        """Count the next rows."""
        self._rows, self._bytes = self._rows + rows, self._bytes + size
        self.most = max(self.most, self._bytes)
        if self._rows >= WINDOW_ROWS:
            self._rows = self._bytes = 0


class CarriedRows:
    """The carried columns of a manifest in Parquet, by row.

    A row group is read for the rows wanted of it, in pieces, and none of it is kept.
    Raises: `ManifestError` if this machine does not see the manifest, or sees another one than the
        job's check, by the number of its files and of their rows.
    """

    def __init__(self, info: ManifestInfo) -> None:
        self._names = list(info.carried)
        self._schema = pa.schema([info.schema.field(name) for name in self._names])
        try:
            _, self._files = find(info.uri)
        except ManifestError as error:
            raise ManifestError(
                f"{error}. This machine has to see the manifest, since the columns that it carries "
                f"({', '.join(self._names)}) are too large to travel with its rows: put it on "
                "s3:// or into a shared folder, or leave them out"
            ) from None
        if len(self._files) != len(info.file_rows):
            raise ManifestError(
                f"{info.uri}: has {len(self._files)} files, and had {len(info.file_rows)} when it "
                "was checked"
            )
        self._rows = info.file_rows
        self._ends = np.cumsum(info.file_rows)
        self._groups: dict[int, np.ndarray] = {}

    def of(self, rows: Sequence[int]) -> pa.Table:
        """The carried columns of these rows of the manifest, in the order given."""
        places: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
        for nth, row in enumerate(rows):
            file = int(np.searchsorted(self._ends, row, side="right"))
            in_file = row - int(self._ends[file]) + self._rows[file]
            ends = self._group_ends(file)
            group = int(np.searchsorted(ends, in_file, side="right"))
            start = int(ends[group - 1]) if group else 0
            places[file, group][in_file - start] = nth
        tables, order = [], []
        for (file, group), found in sorted(places.items()):
            table = read_rows(self._files[file], group, list(found), self._names)
            tables.append(self._cast(self._files[file].name, table))
            order += [found[place] for place in sorted(found)]
        return pa.concat_tables(tables).take(pa.array(np.argsort(order)))

    def _group_ends(self, file: int) -> np.ndarray:
        """The number of rows up to the end of each row group of a file."""
        if file not in self._groups:
            given = self._files[file]
            with open_parquet(given) as source:
                meta = source.metadata
                sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            if sum(sizes) != self._rows[file]:
                raise ManifestError(
                    f"{storage.redact(given.uri)}: changed: {sum(sizes)} rows now, "
                    f"{self._rows[file]} when it was checked"
                )
            self._groups[file] = np.cumsum(sizes)
        return self._groups[file]

    def _cast(self, file: str, table: pa.Table) -> pa.Table:
        arrays = [
            cast(without_views(table[field.name].combine_chunks()), field, file)
            for field in self._schema
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)
