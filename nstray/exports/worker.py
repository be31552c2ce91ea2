"""What one process of an export does: a unit of the first pass, or a file of the second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.errors import OutputError, PairError
from nstray.exports import imagefolder, keys, parquet, runs, webdataset
from nstray.exports.originals import add_originals
from nstray.exports.packing import Task
from nstray.exports.pictures import Pictures
from nstray.exports.plan import Plan
from nstray.exports.selection import MISSING_ORIGINAL, Note, Selected, Selection
from nstray.sources.read import relative_reference

# Marks that a unit's rows are not written: another file of labels is needed, and all of it again.
BLOCKING = ("unlabelled", "no_split", "no_class", "bad_class")


class Worker:
    """The work of one process of an export."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._selection = Selection(plan)
        self._pictures = Pictures(plan)

    def spread(self, unit: int) -> dict[str, Any]:
        """The first pass over a unit: its rows into a run. Returns its note, which is stored."""
        note = Note()
        tables: list[pa.Table] = []
        splits: list[str] = []
        for part in self._plan.units[unit]:
            for selected in self._selection.read(part, note):
                if not selected.table.num_rows or set(note.problems) & {*BLOCKING}:
                    continue
                table, theirs = self._rows(selected, note, storage.redact(part.uri))
                tables.append(table)
                splits += theirs
        if tables and not set(note.problems) & {*BLOCKING}:
            self._write_run(unit, pa.concat_tables(tables), splits, note)
        values = vars(note)
        storage.put_over(note_uri(self._plan.scratch, unit), json.dumps(values).encode())
        return values

    def _rows(self, selected: Selected, note: Note, where: str) -> tuple[pa.Table, list[str]]:
        """The rows of a run, and their splits."""
        plan = self._plan
        absolute = selected.table
        failed: list[str] = []
        try:
            selected.table = self._pictures.apply(absolute)
        except PairError as error:
            raise OutputError(f"{where}: {error.message}; see nstray verify") from None
        if plan.options.with_originals:
            selected, original = add_originals(selected, absolute, self._pictures, plan, failed)
        else:
            original = np.zeros(selected.table.num_rows, bool)
        for text in failed:
            note.add_problem(MISSING_ORIGINAL, text)
        note.originals += int(original.sum())
        flags = pa.array(original)
        table = relative(selected.table, plan.base)
        match plan.options.format:
            case "parquet":
                payload = parquet.columns(table, flags, plan)
            case "webdataset":
                payload = webdataset.columns(table, flags, selected.classes, plan)
            case _:
                assert selected.classes is not None
                payload = imagefolder.columns(selected.table, selected.splits, selected.classes)
        ids = selected.table["pair_id"].combine_chunks()
        return (
            runs.with_keys(self._keys(selected, original, payload), ids, flags, payload),
            selected.splits.to_pylist(),
        )

    def _keys(
        self, selected: Selected, original: np.ndarray[Any, Any], payload: pa.Table
    ) -> keys.Keys:
        options = self._plan.options
        if options.format == "imagefolder":
            return np.array(imagefolder.keys(payload, selected.splits), np.uint64)
        if options.shuffle is None:
            positions = selected.positions.to_numpy(zero_copy_only=False)
            return keys.position_keys(positions, original)
        ids = selected.table["pair_id"].to_pylist()
        return keys.shuffled(options.shuffle, zip(ids, original.tolist(), strict=True))

    def _write_run(self, unit: int, table: pa.Table, splits: list[str], note: Note) -> None:
        plan = self._plan
        numbers = table.column(0).to_numpy()
        if plan.options.format != "imagefolder" and plan.options.shuffle is None:
            buckets = keys.position_buckets(numbers, plan.parts, plan.buckets)
        else:
            buckets = keys.hash_buckets(numbers, plan.buckets)
        sizes = parquet.Sizes(table) if plan.options.format == "parquet" else None
        uri = run_uri(plan.scratch, unit)
        for split, bucket, piece in runs.write_run(
            uri, plan.scratch, table, splits, buckets.tolist()
        ):
            match plan.options.format:
                case "parquet":
                    assert sizes is not None
                    size = sizes.of(piece)
                case "webdataset":
                    size = webdataset.size_of(piece)
                case _:
                    size = piece.nbytes
                    _count_folders(note, split, bucket, piece)
            note.splits.setdefault(split, {})[str(bucket)] = [piece.num_rows, size]

    def write(self, task: Task, used: list[int], numbers: Mapping[str, int]) -> dict[str, Any]:
        """The second pass: a file from the runs of the units `used`. Its note is stored.

        Args:
            numbers: of the classes, for webdataset.

        Raises `OutputError` if its rows are not as many as the first pass counted.
        """
        uris = [run_uri(self._plan.scratch, unit) for unit in used]
        match self._plan.options.format:
            case "parquet":
                done = parquet.write(task, uris, self._plan)
            case "webdataset":
                done = webdataset.write(task, uris, self._plan, numbers)
            case _:
                done = imagefolder.write(task, uris, self._plan)
        if done["rows"] != task.rows:
            raise OutputError(
                f"{storage.redact(self._plan.scratch)}: {done['rows']} rows for {task.name}, "
                f"{task.rows} were counted before: the scratch folder is damaged; remove it, and "
                "run the same command again"
            )
        uri = task_uri(self._plan.scratch, task)
        storage.put_over(uri, json.dumps(done).encode())
        return done


def _count_folders(note: Note, split: str, bucket: int, piece: pa.Table) -> None:
    for each in pc.value_counts(piece["folder"]).to_pylist():
        counts = note.folders.setdefault(split, {}).setdefault(each["values"], {})
        counts[str(bucket)] = counts.get(str(bucket), 0) + each["counts"]


def relative(table: pa.Table, base: str) -> pa.Table:
    """A table with the URIs of its images relative to `base`, if they lie below it.

    They are in outputs of this version. Those of earlier ones hold absolute URIs.
    """
    if not base:
        return table

    def shorten(uri: str | None) -> str | None:
        return uri and relative_reference(uri, base)

    for name in ("content_uri", "style_uri"):
        if name not in table.column_names:
            continue
        values = table[name].to_pylist()
        new = (
            [shorten(uri) for uri in values]
            if name == "content_uri"
            else [uris and [shorten(uri) for uri in uris] for uris in values]
        )
        index = table.column_names.index(name)
        field = table.schema.field(index)
        table = table.set_column(index, field, pa.array(new, field.type))
    return table


def run_uri(scratch: str, unit: int) -> str:
    """Where the run of a unit is."""
    return storage.join(scratch, f"runs/{unit:06d}.run")


def note_uri(scratch: str, unit: int) -> str:
    """Where the note of a unit is. It is written last: a unit without one is done again."""
    return storage.join(scratch, f"units/{unit:06d}.json")


def task_uri(scratch: str, task: Task) -> str:
    """Where the note of a file is. It is written last."""
    return storage.join(scratch, f"files/{task.name}.json")
