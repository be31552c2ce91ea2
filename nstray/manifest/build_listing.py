"""Pictures listed once into a temporary file, so that a million of them take little memory.

In memory are 16 bytes of each picture: hashes that decide on names and on a sample.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nstray.errors import ManifestError, StorageError
from nstray.manifest import build_names
from nstray.manifest.build_columns import ListedSchema
from nstray.manifest.build_draw import sample_keys, sampled
from nstray.manifest.build_labels import Rules
from nstray.manifest.build_references import references
from nstray.sources.listing.pictures import Pictures, Source
from nstray.text import counted

_TEXT, _NUMBER = pa.string(), pa.int32()
# What a listing tells of every picture.
OWN = {
    **dict.fromkeys(("uri", "written", "relative", "stem", "at", "etag"), _TEXT),
    **dict.fromkeys(("label", "split"), _TEXT),
    **dict.fromkeys(("width", "height"), _NUMBER),
}
_PREFIX = "="  # of the names of the source's own columns in the temporary file
_ROWS = 8192  # of a batch, to which short ones are joined

Say = Callable[[str], object]


class Listing:
    """The pictures of a source in order, with what the manifest says of them.

    Attributes:
        rows: number of pictures that are taken.
        label_by_path, split_by_path: whether ``label`` and ``split`` come from paths.
        placed: whether pictures are members of archives.
        shaped: whether the listing told shapes.
        columns: the schema of the source's own columns.
    """

    def __init__(
        self,
        source: Source,
        rules: Rules,
        role: str,
        base: str,
        relative: bool,
        *,
        seed: int,
        sample: bool,
    ) -> None:
        self.source, self.rules, self.role = source, rules, role
        self.placed = bool(source.archives)
        self.label_by_path, self.split_by_path = False, False
        self.shaped = False
        self._base, self._relative = base, relative
        self._seed, self._sample = seed, sample
        self._listed = ListedSchema()
        self._slugs: list[build_names.Hashes] = []
        self._keys: list[build_names.Hashes] = []
        self._taken: npt.NDArray[np.bool_] | None = None
        self._longer: dict[str, str] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.rows = 0

    def __enter__(self) -> Listing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def fill(self) -> None:
        """List the source; raises as `Source.pictures` does, and `StorageError` for a full disk."""
        writer: pa.ipc.RecordBatchStreamWriter | None = None
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with _disk():
            for batch in self.source.pictures():
                table = self._table(batch)
                if writer is None:
                    writer = pa.ipc.new_stream(self._file, table.schema, options=options)
                writer.write_table(table)
                self.rows += table.num_rows
            if writer is None:
                raise ManifestError(
                    f"{self.role} {self.source.root}: no pictures in "
                    f"{counted(len(self.source.archives), self.source.kind)}"
                    + "".join(f"; {line}" for line in self.source.left_out())
                )
            writer.close()
        found = np.concatenate(self._slugs)
        self._slugs = []
        again = build_names.repeated(found)
        if len(again):
            self._lengthen(again)

    def say_what(self, say: Say) -> None:
        """One line on what was listed, then a line for each reason to leave something out."""
        source = self.source
        if self.placed:
            what = f"{counted(self.rows, 'picture')} in "
            what += counted(len(source.archives), source.kind)
        else:
            what = counted(self.rows, source.kind)
        say(f"{self.role} {source.root}: {what}")
        for line in source.left_out():
            say(f"{self.role} {source.root}: {line}")

    def draw(self, number: int) -> None:
        """Take `number` pictures alone."""
        self._taken = sampled(np.concatenate(self._keys), number)
        self.rows = number

    @property
    def columns(self) -> pa.Schema:
        """The source's own columns, in the types that the whole listing showed."""
        first = next(self._batches())
        return self._listed.on(self._own(first).schema.remove_metadata())

    def batches(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """What `OWN` lists with ``slug``, and the source's own columns, batch after batch."""
        for table in self._batches():
            own = table.select(list(OWN))
            paths = own.column("relative").to_pylist()
            slugs = build_names.first_slugs(own.column("stem").to_pylist(), paths)
            if self._longer:
                slugs = [self._longer.get(p, s) for p, s in zip(paths, slugs, strict=True)]
            yield own.append_column("slug", pa.array(slugs, _TEXT)), self._own(table)

    def _own(self, table: pa.Table) -> pa.Table:
        """The source's own columns of a batch of the temporary file."""
        names = [name for name in table.schema.names if name.startswith(_PREFIX)]
        raw = table.select(names).rename_columns([name[len(_PREFIX) :] for name in names])
        return self.source.finish(raw)

    def _batches(self) -> Iterator[pa.Table]:
        """The temporary file's batches, short ones joined, pictures that are taken alone."""
        waiting: list[pa.Table] = []
        number, at = 0, 0
        self._file.seek(0)
        with _disk(), pa.ipc.open_stream(self._file) as stream:
            for batch in stream:
                table = pa.Table.from_batches([batch])
                if self._taken is not None:
                    table = table.filter(pa.array(self._taken[at : at + batch.num_rows]))
                at += batch.num_rows
                if table.num_rows:
                    waiting.append(table)
                    number += table.num_rows
                if number >= _ROWS:
                    yield pa.concat_tables(waiting).combine_chunks()
                    waiting, number = [], 0
        if waiting:
            yield pa.concat_tables(waiting).combine_chunks()

    def _table(self, batch: Pictures) -> pa.Table:
        rows = len(batch.uris)
        written = references(
            batch.uris,
            self.role,
            self.source.root,
            self._base,
            self._relative,
            loose=batch.archive is None,
        )
        labels, splits = self.rules.values(self.source, batch)
        self.label_by_path, self.split_by_path = labels is not None, splits is not None
        etag = None if batch.archive is None else batch.archive.etag
        widths: list[int | None] = [None] * rows
        heights = widths
        if batch.shapes is not None:
            self.shaped = True
            widths = [None if s is None else s[0] for s in batch.shapes]
            heights = [None if s is None else s[1] for s in batch.shapes]
        self._slugs.append(build_names.hashes(build_names.first_slugs(batch.stems, batch.relative)))
        if self._sample:
            self._keys.append(sample_keys(batch.relative, self._seed))
        nothing = [None] * rows
        values = (
            batch.uris,
            written,
            batch.relative,
            batch.stems,
            batch.at or nothing,
            [etag] * rows,
            labels or nothing,
            splits or nothing,
            widths,
            heights,
        )
        columns = {
            name: pa.array(value, kind)
            for (name, kind), value in zip(OWN.items(), values, strict=True)
        }
        own = self._listed.take(batch)
        if own is not None:
            columns |= {f"{_PREFIX}{name}": own.column(name) for name in own.column_names}
        return pa.table(columns)

    def _lengthen(self, again: build_names.Hashes) -> None:
        """Give pictures of equal names longer ones."""
        stems: list[str] = []
        paths: list[str] = []
        for table in self._batches():
            s, p = (table.column(name).to_pylist() for name in ("stem", "relative"))
            found = build_names.hashes(build_names.first_slugs(s, p))
            for i in np.flatnonzero(np.isin(found, again)):
                stems.append(s[i])
                paths.append(p[i])
        self._longer = dict(zip(paths, build_names.slugs(stems, paths), strict=True))


@contextmanager
def _disk() -> Iterator[None]:
    """What the temporary file's disk raises as `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise StorageError(
            f"the temporary folder {tempfile.gettempdir()}: {error.strerror}; the listing needs "
            "space there: free some, or set TMPDIR"
        ) from None
