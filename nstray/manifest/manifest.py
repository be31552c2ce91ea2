"""`Manifest`: all rows of a manifest, checked, and read as tables of one schema."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from nstray import storage
from nstray.config import ROW_FIELDS, JobConfig
from nstray.errors import ManifestError
from nstray.manifest.arrow_columns import DOUBLES, STRINGS, Lists
from nstray.manifest.canonical import IMAGE_TYPES, Canonical, canonical
from nstray.manifest.carried_rows import APART_BYTES, CarriedBytes
from nstray.manifest.carried_types import (
    cast,
    check_writable,
    holds_large_integers,
    loading_warning,
    merge_types,
)
from nstray.manifest.column_metadata import ColumnMetadata
from nstray.manifest.column_names import HINTS, IMAGE_COLUMNS, check_names, near_miss
from nstray.manifest.csv_types import check_used, named_types
from nstray.manifest.duplicates import IdHashes
from nstray.manifest.files import digest, find, read
from nstray.manifest.overrides import OVERRIDE_TYPES
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.places import PLACE_TYPES
from nstray.manifest.problems import Problems
from nstray.manifest.raw_batches import ManifestFile, RawBatch
from nstray.manifest.references import ReferenceRules, has_members, resolve
from nstray.manifest.rows_digest import RowsDigest
from nstray.manifest.shards import ORDER_KEYS
from nstray.text import counted


class Manifest:
    """A manifest at a path or URI.

    It is a Parquet, CSV or JSON Lines file, or a folder of files of one of these formats.

    Args:
        base: the folder that relative paths start from; default: the manifest's own.
    """

    def __init__(self, uri: str, base: str | None = None) -> None:
        self.uri = storage.absolute(uri)
        self._base = base

    def base(self) -> str:
        """The folder that its relative paths start from; raises as `digest` does."""
        return self._find()[0]

    def _find(self) -> tuple[str, list[ManifestFile]]:
        base, files = find(self.uri)
        return self._base or base, files

    def _digest(self, files: list[ManifestFile]) -> str:
        return digest(files, folder=files[0].uri != self.uri)

    def digest(self) -> str:
        """``sha256:...`` of its bytes (`ManifestInfo.digest`).

        Raises: what `check` raises for files that can't be read.
        """
        return self._digest(self._find()[1])

    def check(
        self, config: JobConfig, mark: int = 0, known_digest: str | None = None
    ) -> ManifestInfo:
        """Check every row against the rules and the job's settings.

        The whole manifest is read once, as a stream.

        Args:
            mark: how many first rows get digests of their own (`ManifestInfo.marked_digest`).
            known_digest: what `digest` has just returned.
        Raises: `ManifestError` with the first ten problems, a line each; `StorageError` for files
            that can't be read.
        """
        base, files = self._find()
        local = config.allow_local or not storage.is_uri(self.uri)
        types = named_types(config.column_types)
        problems = Problems()
        present: dict[str, None] = {}
        carried: dict[str, pa.DataType] = {}
        large: set[str] = set()  # columns with integers that a double does not hold
        layers: set[str] = set()
        rows, archives = 0, False
        rows_digest, carried_digest = RowsDigest(mark), RowsDigest(mark)
        carried_bytes = CarriedBytes()
        file_rows = dict.fromkeys(files, 0)
        metadata = ColumnMetadata()
        with IdHashes() as hashes:
            for batch in _batches(files, types):
                check_names(batch, config)
                if batch.schema is not None:
                    metadata.add(batch.file, batch.schema)
                found = canonical(batch, base, config, problems, local=local)
                present.update(dict.fromkeys([*found.columns, *found.places]))
                archives = archives or has_members(found.columns["content"])
                for name, array in found.carried.items():
                    if holds_large_integers(array):
                        large.add(name)
                    carried[name] = merge_types(
                        carried.get(name), array.type, name, batch.file.name, name in large
                    )
                for name in ("content_layers", "style_layers", "fine_layers"):
                    if name in found.columns:
                        layers.update(
                            layer
                            for text in found.columns[name].unique().drop_null().to_pylist()
                            for layer in text.split(",")
                            if layer
                        )
                rows_digest.add({**found.columns, **found.written}, batch.rows)
                carried_digest.add(found.carried, batch.rows)
                hashes.add(IdHashes.of(found.columns["pair_id"].to_pylist()))
                carried_bytes.add(batch.rows, sum(array.nbytes for array in found.carried.values()))
                file_rows[batch.file] += batch.rows
                rows += batch.rows
            problems.raise_any()
            if not rows:
                raise ManifestError(f"{self.uri}: no rows; a manifest needs at least one pair")
            check_used(types, list(carried), files[0].kind, self.uri)
            repeated, count = hashes.duplicates()
        if count:
            _raise_duplicates(files, base, repeated, count)
        info = ManifestInfo(
            uri=self.uri,
            rows=rows,
            digest=known_digest or self._digest(files),
            schema=metadata.on(_schema(present, carried), carried),
            carried=tuple(carried),
            overrides=tuple(name for name in ROW_FIELDS if name in present),
            layers=tuple(sorted(layers)),
            warnings=tuple(
                text
                for name, kind in carried.items()
                for text in (near_miss(name), loading_warning(name, kind))
                if text
            )
            + metadata.warnings(carried),
            images=tuple(name for name in IMAGE_COLUMNS if name in present),
            local=local,
            archives=archives,
            rows_digest=str(rows_digest),
            carried_digest=str(carried_digest),
            marked_digest=rows_digest.marked,
            marked_carried=carried_digest.marked,
            carried_apart=files[0].kind == "parquet" and carried_bytes.most > APART_BYTES,
            file_rows=tuple(file_rows.values()),
        )
        check_writable(self.uri, info)
        return info

    def tables(self, info: ManifestInfo, *, carried: bool = True) -> Iterator[pa.Table]:
        """The rows in order, as tables of `info.schema` of bounded size.

        With `info.order_base` they have the columns `shards.ORDER_KEYS` too.

        The tables lack the carried columns if `carried` is false or if `info.carried_apart` is
        true. Of Parquet these columns are not read then.

        A manifest that changed after `check` is noticed only by its number of rows and by rows
        that are wrong. Other rows of the same number are not noticed.

        Raises: `ManifestError` if a row can't be read any more, if a row names a local file and may
            not, or if there are more or fewer rows than `check` saw.
        """
        base, files = self._find()
        problems = Problems()
        skip = () if carried and not info.carried_apart else info.carried
        schema = pa.schema([field for field in info.schema if field.name not in skip])
        rows = 0
        types = {name: info.schema.field(name).type for name in info.carried}
        for batch in _batches(files, types, skip):
            found = canonical(batch, base, None, problems, local=info.local)
            problems.raise_any()
            table = _table(found, batch, rows, schema)
            yield table if info.order_base is None else _with_order(table, found, info.order_base)
            rows += batch.rows
        if rows != info.rows:
            raise ManifestError(
                f"{self.uri}: changed while it was read: "
                f"{counted(rows, 'row')} now, {info.rows} when it was checked"
            )


def _batches(
    files: list[ManifestFile],
    types: Mapping[str, pa.DataType] | None = None,
    skip: Collection[str] = (),
) -> Iterator[RawBatch]:
    for file in files:
        yield from read(file, types, skip)


def _schema(present: dict[str, None], carried: dict[str, pa.DataType]) -> pa.Schema:
    fields = [
        ("row", pa.int64()),
        ("pair_id", pa.string()),
        ("content", pa.string()),
        ("style", STRINGS),
        ("style_weights", DOUBLES),
    ]
    fields += [(name, IMAGE_TYPES[name]) for name in IMAGE_COLUMNS if name in present]
    fields += [(name, OVERRIDE_TYPES[name]) for name in ROW_FIELDS if name in present]
    fields += [(name, pa.int32()) for name in HINTS if name in present]
    fields += [(name, kind) for name, kind in PLACE_TYPES.items() if name in present]
    return pa.schema([*fields, *carried.items()])


def _table(found: Canonical, batch: RawBatch, start: int, schema: pa.Schema) -> pa.Table:
    columns = {
        "row": pa.array(np.arange(start, start + batch.rows)),
        **found.columns,
        **found.places,
        **found.carried,
    }
    arrays = [
        pa.nulls(batch.rows, field.type)
        if (array := columns.get(field.name)) is None
        else cast(array, field, batch.file.name)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _with_order(table: pa.Table, found: Canonical, base: str) -> pa.Table:
    """`table` with contents and styles as they were resolved when the job was begun."""
    styles, problems, rules = Lists(found.written["style"]), Problems(), ReferenceRules(local=True)
    content = resolve(base, found.written["content"], "content", None, problems, rules)
    style = styles.wrap(resolve(base, styles.values, "style", styles.parents, problems, rules))
    return table.append_column(ORDER_KEYS["content"], content).append_column(
        ORDER_KEYS["style"], style
    )


def _raise_duplicates(
    files: list[ManifestFile], base: str, repeated: np.ndarray[Any, np.dtype[np.int64]], count: int
) -> None:
    """Raise `ManifestError` with both places of each id that appears twice.

    The manifest is read a second time, for the ids with `repeated` hashes alone. Nothing is raised
    if they are different ids of equal hashes.
    """
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
                    f"{earlier} and {place}: the same content, style and settings, "
                    "so the same default pair_id; give each a pair_id, or remove one"
                )
            else:
                lines.append(
                    f"pair_id {ids[i]!r} appears twice: {earlier} and {place}; "
                    "each row needs its own"
                )
            if len(lines) == Problems.LIMIT:
                rest = count - len(lines)
                repeats = counted(rest, "more row that repeats", "more rows that repeat")
                more = [f"... and {repeats} an id"] if rest > 0 else []
                raise ManifestError("\n".join([*lines, *more]))
    if lines:
        raise ManifestError("\n".join(lines))
