"""Parquet files with a column of pictures, as a source.

Only the pictures' names and the carried columns are read, unless shapes or digests are asked for,
or a row group may hold rows without bytes.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import BadArchive, ManifestError
from nstray.images.shape import shape_of_start
from nstray.sources import parquet
from nstray.sources.cells import first_line
from nstray.sources.listing import image_column as columns
from nstray.sources.listing.cell_pictures import CellPictures
from nstray.sources.listing.folder_pictures import below
from nstray.sources.listing.pictures import Counts, Options, Pictures, Shape, stem
from nstray.sources.reference import Place
from nstray.storage import ObjectInfo

_ROWS = 4096  # of a batch
_ROWS_OF_BYTES = 64  # of a batch with the pictures themselves
_BUFFER = 2**20  # bytes of a column that are read at once
MOST_ROWS = 2**24  # of a row group, as `nstray.sources.parquet` reads them
NO_BYTES = "rows without a picture's bytes"
NOT_OK = "error rows of an output of nstray"


class ParquetPictures(CellPictures):
    """The pictures of Parquet files; see `pictures.Source`."""

    kind = "Parquet file"

    def __init__(
        self, root: str, archives: Sequence[ObjectInfo], options: Options, left_out: list[str]
    ) -> None:
        self.root, self.archives, self._options = root, archives, options
        self._left_out, self._counts = left_out, Counts()
        with open_file(archives[0]) as file:
            what = archives[0].uri
            self._columns = columns.Columns.choose(file.schema_arrow, options, what)
            self._check_bytes(file, what)

    def _check_bytes(self, file: pq.ParquetFile, what: str) -> None:
        """Raise `ManifestError` if a column of plain bytes does not begin with a picture."""
        name, schema = self._columns.image, file.schema_arrow
        if self._options.column is not None or not columns.holds_bytes(schema.field(name).type):
            return
        for batch in file.iter_batches(batch_size=1, columns=[name]):
            value = batch.column(0)[0].as_py()
            if value is None:
                continue
            if shape_of_start(value, whole=True) is None:
                raise ManifestError(
                    f"{what}: its only column of bytes, {name}, does not begin with a JPEG, PNG or "
                    f"WebP; its columns are {', '.join(schema.names)}. {self._options.option} "
                    f"{name} takes it all the same"
                )
            return

    def _list(self, info: ObjectInfo) -> Iterator[Pictures]:
        with open_file(info) as file:
            schema = file.schema_arrow
            self._columns.check(schema, info.uri)
            own = columns.is_own_output(schema)
            first = 0
            for group in range(file.metadata.num_row_groups):
                yield from self._list_group(info, file, group, first, own)
                first += file.metadata.row_group(group).num_rows

    def _list_group(
        self, info: ObjectInfo, file: pq.ParquetFile, group: int, first: int, own: bool
    ) -> Iterator[Pictures]:
        """The pictures of a row group whose first row is row `first` of the file.

        Args:
            own: the file is a part of an output of nstray: rows that are not ok have no picture.
        """
        image, carried = self._columns.image, self._columns.carried
        kind = file.schema_arrow.field(image).type
        leaf = image if columns.holds_bytes(kind) else f"{image}.bytes"
        nulls = null_count(file, group, leaf)
        whole = self._options.shapes or self._options.digests
        whole = whole or nulls is None or (nulls > 0 and not own)
        wanted = [*carried]
        if whole:
            wanted.append(image)
        elif columns.has_path(kind):
            wanted.append(f"{image}.path")
        if own and "status" not in wanted:
            wanted.append("status")
        at = 0
        for table in _tables(file, group, wanted, _ROWS_OF_BYTES if whole else _ROWS):
            keep = np.ones(table.num_rows, dtype=np.bool_)
            if own:
                keep &= to_flags(pc.fill_null(pc.equal(table.column("status"), "ok"), False))
                self._count(NOT_OK, int((~keep).sum()), info)
            data = paths = None
            if image in table.column_names:
                images = table.column(image).combine_chunks()
                paths = pc.struct_field(images, "path") if columns.has_path(images.type) else None
                if whole:
                    data = images if columns.holds_bytes(kind) else pc.struct_field(images, "bytes")
                    there = to_flags(pc.is_valid(data))
                    self._count(NO_BYTES, int((keep & ~there).sum()), info)
                    keep &= there
            numbers = np.flatnonzero(keep)
            if len(numbers):
                said = table.select(carried) if carried else None
                where = (first + at, group, at)
                yield cells(
                    info, self.root, image, where, numbers, paths, data, said, self._options
                )
            at += table.num_rows

    def _count(self, reason: str, number: int, info: ObjectInfo) -> None:
        if number:
            self._counts.add(reason, info.uri, number)


def _tables(file: pq.ParquetFile, group: int, wanted: list[str], rows: int) -> Iterator[pa.Table]:
    """Some columns of a row group, with the file's metadata, in batches of at most `rows` rows."""
    metadata = file.schema_arrow.metadata
    if wanted:
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=wanted):
            yield pa.Table.from_batches([batch]).replace_schema_metadata(metadata)
    elif number := file.metadata.row_group(group).num_rows:
        batch = pa.RecordBatch.from_struct_array(pa.array([{}] * number, pa.struct([])))
        yield pa.Table.from_batches([batch])


def to_flags(values: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """An Arrow column of booleans without nulls, for numpy."""
    found: np.ndarray[Any, np.dtype[np.bool_]] = np.asarray(values, dtype=np.bool_)
    return found


def cells(
    info: ObjectInfo,
    root: str,
    column: str,
    where: tuple[int, int, int],
    numbers: np.ndarray[Any, np.dtype[np.int64]],
    paths: pa.Array | None,
    data: pa.Array | None,
    carried: pa.Table | None,
    options: Options,
) -> Pictures:
    """Pictures of consecutive rows of a Parquet or Arrow file.

    Args:
        where: of the batch's first row, its number in the file, its group, and its number there.
        numbers: the rows of the batch that are taken.
        paths, data: names and bytes of all rows of the batch, if they were read.
        carried: columns of all rows of the batch.
    """
    first, group, offset = where
    members = [f"{column}[{first + i}]" for i in numbers.tolist()]
    archive = below(root, info.uri)
    short = stem(archive)
    taken = pa.array(numbers)
    names = [None] * len(members) if paths is None else paths.take(taken).to_pylist()
    values: list[bytes | None] = [None] * len(members)
    if data is not None and (options.digests or options.shapes):
        values = data.take(taken).to_pylist()
    at = []
    for i, value in zip(numbers.tolist(), values, strict=True):
        digest = zlib.crc32(value) if options.digests and value is not None else None
        at.append(str(Place((group, offset + i), digest)))
    shapes: list[Shape | None] | None = None
    if options.shapes:
        shapes = [None if v is None else shape_of_start(v, whole=True) for v in values]
    return Pictures(
        info,
        [f"{info.uri}::{member}" for member in members],
        [f"{archive}::{member}" for member in members],
        [
            stem(name) if name else f"{short}-{first + i}"
            for name, i in zip(names, numbers.tolist(), strict=True)
        ],
        at,
        None if carried is None else carried.take(taken),
        shapes,
    )


@contextlib.contextmanager
def open_file(info: ObjectInfo) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open for reading.

    Raises `BadArchive` for a footer that is none, and for what Arrow raises inside.
    """
    footer = parquet.read_footer(info.uri, info.etag)
    most = max(np.diff(footer.starts), default=0)
    if most > MOST_ROWS:
        raise BadArchive(
            f"{info.uri}: a row group claims {most:,} rows, more than the {MOST_ROWS:,} that are "
            "read; write the file with smaller row groups"
        )
    with storage.open_input(info.uri, tail=1) as stream:
        try:
            yield pq.ParquetFile(
                stream,
                metadata=footer.metadata,
                buffer_size=_BUFFER,
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadArchive(f"{info.uri}: is damaged: {first_line(error)}") from None


def null_count(file: pq.ParquetFile, group: int, path: str) -> int | None:
    """How many values of a leaf column are null in a row group; None if the file does not say."""
    found = file.metadata.row_group(group)
    for i in range(found.num_columns):
        chunk = found.column(i)
        if chunk.path_in_schema == path:
            if file.metadata.schema.column(i).max_definition_level == 0:
                return 0
            statistics = chunk.statistics
            return statistics.null_count if statistics and statistics.has_null_count else None
    return None
