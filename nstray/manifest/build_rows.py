"""Contents and styles as columns, and the rows that pair them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray.errors import ManifestError
from nstray.manifest.build_columns import Names, renamed, schema_of
from nstray.manifest.build_draw import Numbers, drawn
from nstray.manifest.build_listing import Listing
from nstray.manifest.build_shapes import shapes
from nstray.sources.reference import AT_COLUMNS, ETAG_COLUMNS
from nstray.text import counted, did_you_mean

BATCH_ROWS = 65_536
BATCH_BYTES = 64 * 2**20
_TEXT = pa.string()


class ContentColumns:
    """The contents with all columns that the manifest says of them, batch after batch.

    Raises: `ManifestError` for a label or split that was asked for and is not there.

    Attributes:
        fields, features: of the columns that are written as they are, ``content`` included.
    """

    def __init__(
        self, listing: Listing, names: Names, shaped: bool, wanted: Sequence[str] | None
    ) -> None:
        self._listing, self._shaped = listing, shaped
        self._unknown = 0
        source, rules = listing.columns, listing.rules
        carried = dict.fromkeys(source.names)
        self._label_of: str | None = None  # the column of the source that becomes `label`
        by_path = {"label": listing.label_by_path, "split": listing.split_by_path}
        asked = set(wanted or ())
        if rules.label == "sidecar" and "cls" in carried:
            self._label_of = "cls"
        elif rules.required and "label" not in carried:
            raise ManifestError(
                f"--labels sidecar: {listing.source.root}: no picture has a sidecar .cls, or a "
                "field label in a sidecar .json"
            )
        for rule, column in ((rules.label, "label"), (rules.split, "split")):
            if rule == "column" and column not in carried:
                raise ManifestError(
                    f"--{column}s column: {listing.source.root}: no column {column}; there are "
                    f"{', '.join(carried) or 'none'}"
                )
            if rule == "none" and column not in asked:
                carried.pop(column, None)
        if listing.source.sidecars and rules.label == "none" and "cls" not in asked:
            carried.pop("cls", None)
        if self._label_of is not None:
            carried.pop(self._label_of)
        fields = [pa.field("content", _TEXT)]
        if listing.placed:
            fields += [
                pa.field(AT_COLUMNS["content"], _TEXT),
                pa.field(ETAG_COLUMNS["content"], _TEXT),
            ]
        if shaped:
            fields += [pa.field(name, pa.int32()) for name in ("width", "height")]
        for name, found in by_path.items():
            if name == "label" and self._label_of is not None:
                fields.append(source.field(self._label_of).with_name(names.own("label")))
            elif found:
                fields.append(pa.field(names.own(name), _TEXT))
        for name in asked:
            if name not in carried and name not in names.used:
                raise ManifestError(
                    f"--columns {name}: {listing.source.root} has no such column; there are "
                    f"{', '.join(carried) or 'none'}{did_you_mean(name, carried)}"
                )
        self._names = names.carried(carried)
        more, self.features = renamed(source, self._names)
        self.fields = [*fields, *more]

    def tables(self) -> Iterator[pa.Table]:
        """The contents' columns, with ``slug`` and ``relative``."""
        for own, source in self._listing.batches():
            columns: dict[str, Any] = {
                "slug": own.column("slug"),
                "relative": own.column("relative"),
                "content": own.column("written"),
                AT_COLUMNS["content"]: own.column("at"),
                ETAG_COLUMNS["content"]: own.column("etag"),
            }
            if self._label_of is not None:
                columns["label"] = source.column(self._label_of)
            elif self._listing.label_by_path:
                columns["label"] = own.column("label")
            if self._listing.split_by_path:
                columns["split"] = own.column("split")
            if self._shaped:
                columns["width"], columns["height"] = self._shapes(own)
            columns |= {new: source.column(old) for old, new in self._names.items()}
            yield pa.table(
                {n: columns[n] for n in ("slug", "relative", *(f.name for f in self.fields))}
            )

    def splits(self) -> Iterator[list[str | None]]:
        """The contents' column ``split`` as text, batch after batch.

        Raises: `ManifestError` if there is none.
        """
        old = next((old for old, new in self._names.items() if new == "split"), None)
        if old is None and not self._listing.split_by_path:
            raise ManifestError(
                "--style-splits: the contents have no column split; --splits says where it comes "
                "from"
            )
        for own, source in self._listing.batches():
            found = own.column("split") if old is None else source.column(old)
            yield found.cast(_TEXT).to_pylist()

    def _shapes(self, own: pa.Table) -> tuple[pa.Array, pa.Array]:
        if self._listing.shaped:
            widths, heights = own.column("width"), own.column("height")
        else:
            found = shapes(own.column("uri").to_pylist())
            widths, heights = (
                pa.array([None if s is None else s[i] for s in found], pa.int32()) for i in (0, 1)
            )
        self._unknown += widths.null_count
        return widths, heights

    def say_unknown(self, say: Callable[[str], object]) -> None:
        """Say of how many contents the shape is not known."""
        if self._unknown:
            say(
                f"width and height of {counted(self._unknown, 'content')} can't be told; left empty"
            )


class StyleColumns:
    """The styles as one table.

    Attributes:
        table: ``slug``, and the columns that are written as they are.
        paths: below the root, in order.
        fields, features: of the columns that are written.
    """

    def __init__(self, listing: Listing, names: Names, wanted: Sequence[str]) -> None:
        fields = [pa.field("style", _TEXT)]
        if listing.placed:
            fields += [pa.field(AT_COLUMNS["style"], _TEXT), pa.field(ETAG_COLUMNS["style"], _TEXT)]
        source = listing.columns
        # The source's own column of each name; None for what paths tell.
        there: dict[str, str | None] = {name: name for name in source.names}
        if listing.source.sidecars and "cls" in there:
            there.setdefault("label", "cls")
        by_path = {"label": listing.label_by_path, "split": listing.split_by_path}
        for name, found in by_path.items():
            if found:
                there.setdefault(name, None)
        for name in wanted:
            if name not in there:
                known = list(dict.fromkeys((*(listing.source.names() or ()), *there)))
                raise ManifestError(
                    f"--style-columns {name}: {listing.source.root} has no such column; there are "
                    f"{', '.join(known) or 'none'}{did_you_mean(name, known)}"
                )
        new = names.carried(wanted, "style_")
        typed = pa.schema(
            [
                pa.field(name, _TEXT)
                if (old := there[name]) is None
                else source.field(old).with_name(name)
                for name in wanted
            ],
            source.metadata,
        )
        more, self.features = renamed(typed, new)
        self.fields = [*fields, *more]
        tables = []
        for own, table in listing.batches():
            columns = {
                "slug": own.column("slug"),
                "relative": own.column("relative"),
                "style": own.column("written"),
                AT_COLUMNS["style"]: own.column("at"),
                ETAG_COLUMNS["style"]: own.column("etag"),
            }
            for name in wanted:
                old = there[name]
                columns[new[name]] = own.column(name) if old is None else table.column(old)
            tables.append(
                pa.table(
                    {n: columns[n] for n in ("slug", "relative", *(f.name for f in self.fields))}
                )
            )
        whole = pa.concat_tables(tables).combine_chunks()
        self.paths: list[str] = whole.column("relative").to_pylist()
        self.table = whole.drop_columns(["relative"])


class Rows:
    """The rows of the manifest.

    Args:
        each: how many styles each content gets; None: all.
        groups: the styles that contents of a split may get; None: any.
    """

    def __init__(
        self,
        contents: ContentColumns,
        styles: StyleColumns,
        each: int | None,
        seed: int,
        groups: Mapping[str | None, Numbers] | None,
    ) -> None:
        self._contents, self._styles = contents, styles
        self._each, self._seed, self._groups = each, seed, groups
        self._all = np.arange(styles.table.num_rows)
        first, *rest = contents.fields
        style, *style_rest = styles.fields
        places = [f for f in rest if f.name in (*AT_COLUMNS.values(), *ETAG_COLUMNS.values())]
        style_places = [
            f for f in style_rest if f.name in (*AT_COLUMNS.values(), *ETAG_COLUMNS.values())
        ]
        others = [f for f in (*rest, *style_rest) if f not in (*places, *style_places)]
        self.schema = schema_of(
            [pa.field("pair_id", _TEXT), first, style, *places, *style_places, *others],
            {**contents.features, **styles.features},
        )

    def tables(self) -> Iterator[pa.Table]:
        """The rows in order, as tables of `schema`, bounded in rows and roughly in bytes."""
        for table in self._contents.tables():
            per_row = (
                1 + (table.nbytes // table.num_rows) + self._styles.table.nbytes // len(self._all)
            )
            most = max(1, min(BATCH_ROWS, BATCH_BYTES // per_row))
            for c, s in self._numbers(table, most):
                yield self._paired(table, c, s)

    def _numbers(self, table: pa.Table, most: int) -> Iterator[tuple[Numbers, Numbers]]:
        """Numbers of contents in `table` and of their styles, at most `most` at once."""
        keys = table.column("relative").to_pylist()
        splits = None
        if self._groups is not None:
            splits = table.column("split").cast(_TEXT).to_pylist()
        waiting: list[tuple[int, Numbers]] = []
        rows = 0
        for i, key in enumerate(keys):
            styles = self._all
            if self._groups is not None and splits is not None:
                styles = self._groups[splits[i]]
            styles = drawn(self._each, styles, f"{self._seed}:{key}")
            for at in range(0, len(styles), most):
                piece = styles[at : at + most]
                if rows + len(piece) > most:
                    yield _joined(waiting)
                    waiting, rows = [], 0
                waiting.append((i, piece))
                rows += len(piece)
        if waiting:
            yield _joined(waiting)

    def _paired(self, table: pa.Table, c: Numbers, s: Numbers) -> pa.Table:
        contents = table.take(pa.array(c))
        styles = self._styles.table.take(pa.array(s))
        ids = pc.binary_join_element_wise(contents.column("slug"), styles.column("slug"), "--")
        columns = {"pair_id": ids}
        columns |= {f.name: contents.column(f.name) for f in self._contents.fields}
        columns |= {f.name: styles.column(f.name) for f in self._styles.fields}
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)


def _joined(pieces: list[tuple[int, Numbers]]) -> tuple[Numbers, Numbers]:
    lengths = [len(styles) for _, styles in pieces]
    contents = np.repeat(np.array([i for i, _ in pieces], dtype=np.int64), lengths)
    return contents, np.concatenate([styles for _, styles in pieces])
