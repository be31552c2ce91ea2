"""Which rows of an output are exported, with their splits, classes and joined columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.errors import OutputError
from nstray.exports.labels import read_ids
from nstray.exports.plan import Plan, class_names, prepare_labels
from nstray.exports.source import Slice
from nstray.output.part_file import damaged, read_batches
from nstray.output.reader import reading
from nstray.output.records import PICTURE_NAME

SPLIT = "train"  # of an output without splits
_ROWS, _BYTES = 2000, 16 * 2**20
EXAMPLES = 5  # rows that a message names
# Reasons why rows can't be exported, with what to do. Only the last one loses nothing else.
UNLABELLED, NO_SPLIT, NO_CLASS, BAD_CLASS = "unlabelled", "no_split", "no_class", "bad_class"
MISSING_ORIGINAL = "missing_original"


@dataclass
class Note:
    """What became of the rows of one unit; JSON by `vars`.

    Attributes:
        rows, ok: that were read. footer_rows, footer_ok: that footers promise.
        excluded: rows that were left out by their ids. errors: rows without a picture that were
            left out.
        kept: rows of the output that are exported; `kept_errors` of them have no picture.
        originals: contents that are added.
        splits: by split and bucket, the number of rows and of bytes.
        classes: rows of each class. folders: by split and class folder, rows of each bucket.
        problems: by reason, the number of rows and examples of them.
    """

    rows: int = 0
    ok: int = 0
    footer_rows: int = 0
    footer_ok: int = 0
    excluded: int = 0
    errors: int = 0
    kept: int = 0
    kept_errors: int = 0
    originals: int = 0
    splits: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    folders: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    problems: dict[str, list[Any]] = field(default_factory=dict)

    def add_problem(self, reason: str, example: str, number: int = 1) -> None:
        """Count rows that have a problem."""
        found = self.problems.setdefault(reason, [0, []])
        found[0] += number
        if len(found[1]) < EXAMPLES:
            found[1].append(example)


@dataclass
class Selected:
    """Rows to export.

    Attributes:
        table: every column that is needed, and `positions` of the rows in the output.
        splits: the split of each row. classes: the class of each row as text; None if there are no
            classes.
    """

    table: pa.Table
    positions: pa.Array
    splits: pa.Array
    classes: pa.Array | None


class Selection:
    """Chooses rows of tables of a part. It holds the joined table and the excluded ids."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        options = plan.options
        self._labels = (
            None
            if options.join is None
            else prepare_labels(options.join, options.on, plan.job_features)
        )
        ids = read_ids(options.exclude) if options.exclude is not None else ()
        self._excluded = pa.array(sorted(ids), pa.string())

    def read(self, part: Slice, note: Note, *, joined: bool = True) -> Iterator[Selected]:
        """The rows of a slice of a part, about 64 MiB at a time.

        Args:
            joined: whether small reads are joined. It takes more memory and less time.

        Raises `OutputError` if the part is damaged, or has other columns than the job's record
        says.
        """
        # Outside of `_tables`, which takes every error of Arrow for one of the part.
        for first, table in self._tables(part, note, joined):
            begin = (part.position << 17) + first
            yield self.choose(table, range(begin, begin + table.num_rows), part.uri, note)

    def _tables(self, part: Slice, note: Note, joined: bool) -> Iterator[tuple[int, pa.Table]]:
        """Rows of a slice of a part, and the number of the first of them in the part."""
        with reading(part.uri, self._plan.read) as (file, info):
            groups = file.num_row_groups
            chosen = range(part.index * groups // part.of, (part.index + 1) * groups // part.of)
            if part.index == 0:
                note.footer_rows += info.rows
                note.footer_ok += info.ok
            first = sum(file.metadata.row_group(i).num_rows for i in range(chosen.start))
            batches = read_batches(part.uri, file, self._plan.read, groups=chosen)
            for table in _joined(batches) if joined else batches:
                if not _same_types(table.schema, self._plan.read_schema):
                    raise damaged(part.uri, "its columns have other types than the job's record")
                table.validate(full=True)  # text that is not UTF-8 would fail somewhere later
                yield first, pa.Table.from_arrays(table.columns, schema=self._plan.read_schema)
                first += table.num_rows

    def choose(self, table: pa.Table, positions: range, where: str, note: Note) -> Selected:
        """The rows of a table that are exported.

        Args:
            positions: of the rows in the output. where: the part, for messages.
        """
        options = self._plan.options
        ok = pc.equal(table["status"], "ok")
        note.rows += table.num_rows
        note.ok += pc.sum(ok).as_py() or 0
        _check_pictures(table.filter(ok), where)
        keep = pc.invert(pc.is_in(table["pair_id"], value_set=self._excluded))
        note.excluded += table.num_rows - (pc.sum(keep).as_py() or 0)
        if not options.with_errors:
            note.errors += pc.sum(pc.and_(keep, pc.invert(ok))).as_py() or 0
            keep = pc.and_(keep, ok)
        places = pa.array(positions, pa.uint64()).filter(pc.fill_null(keep, False).combine_chunks())
        table = table.filter(keep)
        if self._labels is not None:
            table = self._join(table, note)
        splits = self._splits(table, note)
        classes = self._classes(table, note)
        note.kept += table.num_rows
        note.kept_errors += table.num_rows - (pc.sum(pc.equal(table["status"], "ok")).as_py() or 0)
        return Selected(table, places, splits, classes)

    def _join(self, table: pa.Table, note: Note) -> pa.Table:
        labels = self._labels
        assert labels is not None
        found = labels.rows_of(table[labels.on])
        for i, row in enumerate(found):
            if row is None:
                note.add_problem(UNLABELLED, f"{table[labels.on][i]}")
        theirs = labels.table.take(pa.array(found, pa.int64()))
        for i, column in enumerate(theirs.schema):
            table = table.append_column(column, theirs.column(i))
        return table

    def _splits(self, table: pa.Table, note: Note) -> pa.Array:
        name = self._plan.split_column
        if name is None:
            return pa.array([SPLIT] * table.num_rows, pa.string())
        names = self._class_label_names(name)
        return self._named(table, name, names, NO_SPLIT, note)

    def _classes(self, table: pa.Table, note: Note) -> pa.Array | None:
        name = self._plan.class_column
        if name is None:
            return None
        # Elsewhere a row may be without a class.
        reason = NO_CLASS if self._plan.options.format == "imagefolder" else None
        found = self._named(table, name, self._plan.class_names, reason, note)
        for text, number in Counter(found.to_pylist()).items():
            if text is not None:
                note.classes[text] = note.classes.get(text, 0) + number
        return found

    def _class_label_names(self, name: str) -> tuple[str, ...] | None:
        if self._labels is not None and name in self._plan.joined:
            return class_names(self._labels.features.get(name))
        return class_names(self._plan.job_features.get(name))

    def _named(
        self,
        table: pa.Table,
        column: str,
        names: tuple[str, ...] | None,
        null: str | None,
        note: Note,
    ) -> pa.Array:
        """A column as text; the numbers of a ClassLabel as its `names`."""
        values = table[column].combine_chunks()
        if names is not None and pa.types.is_integer(values.type):
            numbers = [v if v is None or 0 <= v < len(names) else -1 for v in values.to_pylist()]
            for i, number in enumerate(numbers):
                if number == -1 and values[i].as_py() != -1:
                    note.add_problem(BAD_CLASS, f"{table['pair_id'][i]} ({column} {values[i]})")
            # -1 is how datasets writes that a row has no class.
            values = pa.array(
                [None if n is None or n == -1 else names[n] for n in numbers], pa.string()
            )
        else:
            values = values.cast(pa.string())
        if null is not None and (values.null_count or pc.any(pc.equal(values, "")).as_py()):
            for i, value in enumerate(values.to_pylist()):
                if not value:
                    note.add_problem(null, f"{table['pair_id'][i]}")
        return values


def _joined(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of about `_ROWS` rows or `_BYTES`. A call of Arrow takes 50 us, whatever its rows."""
    held: list[pa.Table] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= _ROWS or size >= _BYTES:
            yield pa.concat_tables(held).combine_chunks()
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _same_types(one: pa.Schema, other: pa.Schema) -> bool:
    return bool(one.names == other.names and one.types == other.types)


def _check_pictures(table: pa.Table, where: str) -> None:
    """Raise `OutputError` if a row that is ok has no picture under a bare file name."""
    if not table.num_rows:
        return
    image = table["image"].combine_chunks()
    paths, sizes = image.field("path"), pc.binary_length(image.field("bytes"))
    named = pc.fill_null(pc.match_substring_regex(paths, f"^(?:{PICTURE_NAME.pattern})$"), False)
    sound = pc.and_(named, pc.fill_null(pc.greater(sizes, 0), False))
    if (bad := pc.index(sound, False).as_py()) < 0:
        return
    who = f"{storage.redact(where)}: {table['pair_id'][bad]}"
    if not sizes[bad].as_py():
        raise OutputError(f"{who}: its picture has no bytes; see nstray verify")
    raise OutputError(
        f"{who}: its picture's path {paths[bad].as_py()!r} is not a bare file name; "
        "nothing is written there"
    )
