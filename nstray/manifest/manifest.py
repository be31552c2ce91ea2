"""What a pair is, and a manifest of them as a stream of record batches; `build` makes one from two folders.

files reads the files, names knows the columns, rows and columns parse and check, ids finds ids that stand twice, build writes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nstray import storage
from nstray.config import ROW_FIELDS, JobConfig
from nstray.errors import ManifestError
from nstray.manifest.arrow_columns import DOUBLES, STRINGS, Problems
from nstray.manifest.build import build
from nstray.manifest.canonical import IMAGE_TYPES, OVERRIDE_TYPES, Canonical, adapter, canonical
from nstray.manifest.column_names import HINTS, IMAGE_COLUMNS, check_names, near_miss
from nstray.manifest.duplicates import IdHashes
from nstray.manifest.files import ManifestFile, RawBatch, digest, find, read
from nstray.manifest.rows_digest import RowsDigest
from nstray.output.reserved import RESERVED

__all__ = ["Manifest", "ManifestInfo", "Pair", "build", "pairs"]


@dataclass(frozen=True)
class Pair:
    """One row of a manifest, without the carried columns: those stay in the table, since Python can't hold all of Arrow's values.

    Attributes:
        row: its place in the whole manifest, from 0.
        content: resolved path or URI.
        styles: resolved paths or URIs; empty where there is no style term.
        style_weights: one per style, of sum 1.
        overrides: the job's settings this row sets for itself, parsed.
        content_masks: resolved; one per style, white where in the content it applies; or empty.
        style_masks: resolved; one per style, white where it is used, None for all of it; or empty.
        fine_style: resolved; what the style takes its fine-scale statistics from first.
    """

    row: int
    pair_id: str
    content: str | None
    styles: tuple[str, ...]
    style_weights: tuple[float, ...]
    overrides: dict[str, Any]
    content_masks: tuple[str, ...] = ()
    style_masks: tuple[str | None, ...] = ()
    fine_style: str | None = None


@dataclass(frozen=True)
class ManifestInfo:
    """What `Manifest.check` found.

    Attributes:
        uri: absolute.
        digest: ``sha256:...`` of the bytes of the file or, for a folder, of its files' names and digests.
        schema: of the tables that `Manifest.tables` yields.
        carried: columns that are only carried through.
        overrides: columns that set one of the job's settings per row.
        layers: that rows name in overrides.
        warnings: for a person; nothing is wrong.
        images: those of the columns content_masks, style_masks and fine_style that it has, in this order.
        local: whether its rows may name local files: those of a manifest on s3:// may not, unless `allow_local` says so.
        rows_digest: ``sha256:...`` of its rows, whatever files they stand in (`RowsDigest`).
        marked_digest: the same of as many of its first rows as `Manifest.check` was told to mark; None where it has fewer.
    """

    uri: str
    rows: int
    digest: str
    schema: pa.Schema
    carried: tuple[str, ...]
    overrides: tuple[str, ...]
    layers: tuple[str, ...]
    warnings: tuple[str, ...]
    images: tuple[str, ...] = ()
    local: bool = False
    rows_digest: str = ""
    marked_digest: str | None = None

    @property
    def kept(self) -> pa.Schema:
        """The columns of the output that come from the manifest.

        The overrides that the output has no column of its own for, then masks and fine styles, then the carried ones.
        """
        own = [name for name in self.overrides if name not in RESERVED]
        return pa.schema([self.schema.field(name) for name in (*own, *self.images, *self.carried)])


class Manifest:
    """A manifest at a path or URI: a Parquet, CSV or JSON Lines file, or a folder of files of one of them."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)

    def digest(self) -> str:
        """``sha256:...`` of its bytes (`ManifestInfo.digest`); raises as `check` does where they can't be read."""
        base, files = find(self.uri)
        return digest(files, folder=base == self.uri)

    def check(self, config: JobConfig, mark: int = 0, known_digest: str | None = None) -> ManifestInfo:
        """Read the whole manifest once, as a stream, and check every row against the rules and the job's settings.

        Args:
            mark: a number of first rows of which the digest is wanted too.
            known_digest: what `digest` has just returned.
        Raises: `ManifestError` with the first ten problems, a line each; `StorageError` where the files can't be read.
        """
        base, files = find(self.uri)
        local = config.allow_local or not storage.is_uri(base)
        problems = Problems()
        present: dict[str, None] = {}
        carried: dict[str, pa.DataType] = {}
        large: set[str] = set()  # columns with integers that a double does not hold
        layers: set[str] = set()
        rows = 0
        sums = RowsDigest(mark)
        with IdHashes() as hashes:
            for batch in _batches(files):
                check_names(batch.file.name, batch.names, config)
                found = canonical(batch, base, config, problems, local=local)
                present.update(dict.fromkeys(found.columns))
                for name, array in found.carried.items():
                    if _holds_large(array):
                        large.add(name)
                    carried[name] = _merged(carried.get(name), array.type, name, batch.file.name, name in large)
                for name in ("content_layers", "style_layers", "fine_layers"):
                    if name in found.columns:
                        layers.update(layer for text in found.columns[name].unique().drop_null().to_pylist() for layer in text.split(",") if layer)
                sums.add({**found.columns, **found.carried}, batch.rows)
                hashes.add(IdHashes.of(found.columns["pair_id"].to_pylist()))
                rows += batch.rows
            problems.raise_any()
            if not rows:
                raise ManifestError(f"{self.uri}: no rows; a manifest needs at least one pair")
            repeated, count = hashes.twice()
        if count:
            _raise_duplicates(files, base, repeated, count)
        info = ManifestInfo(
            uri=self.uri,
            rows=rows,
            digest=known_digest or digest(files, folder=base == self.uri),
            schema=_schema(present, carried),
            carried=tuple(carried),
            overrides=tuple(name for name in ROW_FIELDS if name in present),
            layers=tuple(sorted(layers)),
            warnings=tuple(text for name in carried if (text := near_miss(name))),
            images=tuple(name for name in IMAGE_COLUMNS if name in present),
            local=local,
            rows_digest=str(sums),
            marked_digest=sums.marked,
        )
        _check_writable(self.uri, info)
        return info

    def tables(self, info: ManifestInfo) -> Iterator[pa.Table]:
        """The rows in order, as tables of `info.schema` of bounded size.

        Raises: `ManifestError` where a row can't be read any more, names a local file that it may not, or there are more or fewer rows
            than `check` saw. Nothing else is compared: a manifest that changed to other rows of the same number is not noticed.
        """
        base, files = find(self.uri)
        problems = Problems()
        rows = 0
        for batch in _batches(files):
            found = canonical(batch, base, None, problems, local=info.local)
            problems.raise_any()
            yield _table(found, batch, rows, info.schema)
            rows += batch.rows
        if rows != info.rows:
            raise ManifestError(f"{self.uri}: changed while it was read: {rows} rows now, {info.rows} when it was checked")


def pairs(table: pa.Table, info: ManifestInfo) -> list[Pair]:
    """The rows of a canonical table as `Pair` objects."""
    fixed = [table[name].to_pylist() for name in ("row", "pair_id", "content", "style", "style_weights")]
    images = [table[name].to_pylist() if name in info.images else [None] * table.num_rows for name in IMAGE_COLUMNS]
    own = {name: _parsed(name, table[name].to_pylist()) for name in info.overrides}
    return [
        Pair(
            row=row,
            pair_id=pair_id,
            content=content,
            styles=tuple(styles),
            style_weights=tuple(weights),
            overrides={name: column[i] for name, column in own.items() if column[i] is not None},
            content_masks=tuple(content_masks or ()),
            style_masks=tuple(mask or None for mask in style_masks or ()),
            fine_style=fine_style,
        )
        for i, (row, pair_id, content, styles, weights, content_masks, style_masks, fine_style) in enumerate(zip(*fixed, *images, strict=True))
    ]


def _parsed(name: str, values: list[Any]) -> list[Any]:
    good = iter(adapter(name).validate_python([v for v in values if v is not None]))
    return [None if v is None else next(good) for v in values]


def _batches(files: list[ManifestFile]) -> Iterator[RawBatch]:
    for file in files:
        yield from read(file)


def _holds_large(array: pa.Array) -> bool:
    """Whether integers above 2**53 in size are in it, which not every double can tell apart."""
    if not pa.types.is_integer(array.type) or array.type.bit_width < 64:
        return False
    found = pc.min_max(array).as_py()
    return found["max"] is not None and max(abs(found["min"]), abs(found["max"])) > 2**53


def _merged(old: pa.DataType | None, new: pa.DataType, name: str, file: str, large: bool) -> pa.DataType:
    """The type that holds both, and the `large` integers seen; raises `ManifestError` where none does."""
    if old is None or (old == new and not (large and pa.types.is_floating(old))):
        return new
    if not large and {True} == {pa.types.is_integer(k) or k == pa.float64() for k in (old, new)} and pa.float64() in (old, new):
        return pa.float64()
    try:
        both = pa.unify_schemas([pa.schema([(name, old)]), pa.schema([(name, new)])], promote_options="permissive").field(0).type
    except pa.ArrowException:
        both = None
    if both is None or _too_narrow(old, both) or _too_narrow(new, both):
        raise ManifestError(f"{file}: column {name} holds {new}, where the rows before hold {old}; make it one type in all rows and files")
    return both


def _too_narrow(kind: pa.DataType, both: pa.DataType) -> bool:
    """Whether `both`, which Arrow promotes `kind` to, lacks some of its integers: those above 2**53 in a double, say."""
    if pa.types.is_integer(kind):
        if pa.types.is_floating(both):
            return bool(kind.bit_width > {16: 11, 32: 24, 64: 53}[both.bit_width])
        return bool(pa.types.is_uint64(kind) and pa.types.is_int64(both))
    if pa.types.is_struct(kind) and pa.types.is_struct(both):
        return any(_too_narrow(field.type, both.field(field.name).type) for field in kind)
    return kind.num_fields == both.num_fields == 1 and _too_narrow(kind.field(0).type, both.field(0).type)  # lists and maps


def _schema(present: dict[str, None], carried: dict[str, pa.DataType]) -> pa.Schema:
    fields = [("row", pa.int64()), ("pair_id", pa.string()), ("content", pa.string()), ("style", STRINGS), ("style_weights", DOUBLES)]
    fields += [(name, IMAGE_TYPES[name]) for name in IMAGE_COLUMNS if name in present]
    fields += [(name, OVERRIDE_TYPES[name]) for name in ROW_FIELDS if name in present]
    fields += [(name, pa.int32()) for name in HINTS if name in present]
    return pa.schema([*fields, *carried.items()])


def _table(found: Canonical, batch: RawBatch, start: int, schema: pa.Schema) -> pa.Table:
    columns = {"row": pa.array(np.arange(start, start + batch.rows)), **found.columns, **found.carried}
    arrays = []
    for field in schema:
        array = columns.get(field.name)
        try:
            arrays.append(pa.nulls(batch.rows, field.type) if array is None else array if array.type == field.type else pc.cast(array, field.type))
        except pa.ArrowException as error:
            raise ManifestError(f"{batch.file.name}: column {field.name}: {error}; make it {field.type} in all rows and files") from None
    return pa.Table.from_arrays(arrays, schema=schema)


def _check_writable(uri: str, info: ManifestInfo) -> None:
    """Raise `ManifestError` for a carried type that can't be sorted into shards, or written as Parquet and read: now, not after the work is done."""
    for name in info.carried:
        try:
            pa.nulls(1, info.schema.field(name).type).take(pa.array([0]))
            sink = io.BytesIO()
            pq.ParquetWriter(sink, pa.schema([info.schema.field(name)])).close()
            pq.read_schema(sink)
        except (pa.ArrowException, OSError) as error:  # OSError: lists in lists beyond the depth that Parquet's reader takes
            raise ManifestError(f"{uri}: column {name} can't be carried into Parquet: {error}") from None


def _raise_duplicates(files: list[ManifestFile], base: str, repeated: np.ndarray[Any, np.dtype[np.int64]], count: int) -> None:
    """A second pass, for those ids only: raise `ManifestError` with both places of each."""
    problems = Problems()
    seen: dict[str, str] = {}
    lines: list[str] = []
    for batch in _batches(files):
        found = canonical(batch, base, None, problems)
        ids = found.columns["pair_id"].to_pylist()
        for i in np.flatnonzero(np.isin(IdHashes.of(ids), repeated)):
            place = f"{batch.file.name} row {batch.first + int(i) + 1}"
            earlier = seen.setdefault(ids[i], place)
            if earlier == place:
                continue
            if found.default_ids[i]:
                lines.append(
                    f"{earlier} and {place}: the same content, style and settings, so the same default pair_id; give each a pair_id, or remove one"
                )
            else:
                lines.append(f"pair_id {ids[i]!r} stands twice: {earlier} and {place}; each row needs its own")
            if len(lines) == Problems.LIMIT:
                rest = count - len(lines)
                raise ManifestError("\n".join([*lines, *([f"... and {rest} more rows that repeat an id"] if rest > 0 else [])]))
    if lines:
        raise ManifestError("\n".join(lines))
