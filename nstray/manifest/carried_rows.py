"""Carried columns that are too large to travel with the rows: read by the workers themselves.

A data set on the Hub holds its pictures in such a column. A window of 65,536 rows of them has
gigabytes, and the driver holds several windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import ManifestError
from nstray.manifest.carried_types import cast, without_views
from nstray.manifest.files import find
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.parquet_files import open_parquet, read_rows
from nstray.output.layout import WINDOW_ROWS
from nstray.text import counted

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
                f"{info.uri}: has {counted(len(self._files), 'file')}, and had "
                f"{len(info.file_rows)} when it was checked"
            )
        self._rows = info.file_rows
        self._ends = np.cumsum(info.file_rows)

    def of(self, rows: Sequence[int]) -> pa.Table:
        """The carried columns of these rows of the manifest, in the order given."""
        places: dict[int, dict[int, int]] = defaultdict(
            dict
        )  # by file: row there, and which of `rows`
        for nth, row in enumerate(rows):
            file = int(np.searchsorted(self._ends, row, side="right"))
            places[file][row - int(self._ends[file]) + self._rows[file]] = nth
        tables: list[pa.Table] = []
        order: list[int] = []
        for file, wanted in sorted(places.items()):
            given = self._files[file]
            with open_parquet(given) as source:
                for group, start, found in self._by_group(file, source, sorted(wanted)):
                    table = read_rows(
                        given, source, group, [row - start for row in found], self._names
                    )
                    tables.append(self._cast(given.name, table))
                    order += [wanted[row] for row in found]
        return pa.concat_tables(tables).take(pa.array(np.argsort(order)))

    def _by_group(
        self, file: int, source: pq.ParquetFile, wanted: Sequence[int]
    ) -> Iterator[tuple[int, int, list[int]]]:
        """The row groups that hold rows of a file: each with its first row and those rows."""
        meta = source.metadata
        if meta.num_rows != self._rows[file]:
            raise ManifestError(
                f"{storage.redact(self._files[file].uri)}: changed: "
                f"{counted(meta.num_rows, 'row')} now, "
                f"{self._rows[file]} when it was checked"
            )
        start = 0
        for group in range(meta.num_row_groups):
            end = start + meta.row_group(group).num_rows
            if found := [row for row in wanted if start <= row < end]:
                yield group, start, found
            start = end

    def _cast(self, file: str, table: pa.Table) -> pa.Table:
        arrays = [
            cast(without_views(table[field.name].combine_chunks()), field, file)
            for field in self._schema
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)
