"""Packed Parquet: files of a few hundred MB, named as Hugging Face's datasets expects."""

from __future__ import annotations

import io
import tempfile
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.exports.packing import Task, folder_of
from nstray.exports.plan import ORIGINAL, Plan
from nstray.exports.runs import payload, read_runs, temporary_folder
from nstray.output.part_file import dataset_writer

# A row group is what a reader holds at once. At 100 rows, as in parts, the footer of 500,000 rows
# of 1 KB would be 40 MB.
_GROUP_ROWS, _GROUP_BYTES = 10_000, 32 * 2**20
_SAMPLE = 1000  # rows whose columns are compressed to tell how large they become


def columns(table: pa.Table, original: pa.Array, plan: Plan) -> pa.Table:
    """The columns of a run: those of the file."""
    out = []
    for field in plan.schema:
        if field.name == ORIGINAL and plan.options.with_originals:
            out.append(pa.chunked_array([original]))
        else:
            out.append(table[field.name])
    return pa.Table.from_arrays(out, schema=plan.schema.remove_metadata())


class Sizes:
    """Bytes that rows become: those of their pictures, and of the other columns compressed.

    Args:
        rows: of a run. Some of them are compressed, to tell how large the columns become.
    """

    def __init__(self, rows: pa.Table) -> None:
        sample = payload(rows.slice(0, _SAMPLE)).drop_columns(["image"])
        self._ratio = (_size(sample) - _size(sample.slice(0, 0))) / max(1, sample.nbytes)

    def of(self, piece: pa.Table) -> int:
        """Bytes of the rows of a run in a file."""
        table = payload(piece)
        pictures = table["image"].combine_chunks().field("bytes").nbytes
        return int(pictures + self._ratio * table.drop_columns(["image"]).nbytes)


def _size(table: pa.Table) -> int:
    sink = io.BytesIO()
    with dataset_writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.tell()


def file_name(task: Task) -> str:
    """``data/train-00000-of-00012.parquet``."""
    folder = folder_of(task.number, task.of)
    return f"data/{folder}{task.split}-{task.number:05d}-of-{task.of:05d}.parquet"


def write(task: Task, runs: list[str], plan: Plan) -> dict[str, Any]:
    """Write a file; returns its ``name``, and the numbers of its ``rows`` and ``bytes``."""
    with tempfile.TemporaryFile(dir=temporary_folder(plan.scratch)) as file:
        rows = 0
        with dataset_writer(file, plan.schema) as writer:
            for first, last in task.chunks:
                tables = [table for _, table in read_runs(runs, task.split, first, last)]
                # One table, so that a row group is not smaller because a bucket ends in it.
                rows += _write(writer, pa.concat_tables(map(payload, tables)), plan.schema)
        size = _end(file)
        storage.put_file(storage.join(plan.target, file_name(task)), file)
    return {"name": file_name(task), "rows": rows, "bytes": size}


def _write(writer: Any, table: pa.Table, schema: pa.Schema) -> int:
    sizes = pc.fill_null(pc.binary_length(pc.struct_field(table["image"], "bytes")), 0).to_pylist()
    start = held = 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == _GROUP_ROWS or held + size > _GROUP_BYTES):
            _write_group(writer, table.slice(start, i - start), schema)
            start, held = i, 0
        held += size
    _write_group(writer, table.slice(start), schema)
    return int(table.num_rows)


def _write_group(writer: Any, table: pa.Table, schema: pa.Schema) -> None:
    table = pa.Table.from_arrays(table.columns, schema=schema)
    writer.write_table(table, row_group_size=max(1, table.num_rows))


def _end(file: IO[bytes]) -> int:
    return file.seek(0, io.SEEK_END)
