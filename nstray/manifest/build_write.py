"""The rows of a manifest that is built, as Parquet, CSV or JSON Lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nstray.errors import ManifestError

# A cell of these characters alone means the same to every reader of CSV.
_PLAIN_CELL = re.compile(r"[\w./:-](?:[\w./: -]*[\w./:-])?")


def write(file: IO[bytes], kind: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write tables of one schema; returns the number of rows.

    Raises: `ManifestError` for a column that CSV or JSON Lines can't hold.
    """
    if kind != "parquet":
        for field in schema:
            if not _is_writable(field.type, kind):
                raise ManifestError(
                    f"the column {field.name} holds {field.type}, which no {_NAMES[kind]} file "
                    "holds; write .parquet, or leave it out with --columns"
                )
    return {"parquet": _parquet, "csv": _csv, "jsonl": _json_lines}[kind](file, schema, tables)


_NAMES = {"csv": "CSV", "jsonl": "JSON Lines"}


def _is_writable(kind: pa.DataType, form: str) -> bool:
    if pa.types.is_nested(kind):
        return form == "jsonl" and all(
            _is_writable(kind.field(i).type, form) for i in range(kind.num_fields)
        )
    if pa.types.is_dictionary(kind):
        return _is_writable(kind.value_type, form)
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return not any(check(kind) for check in checks)


def _parquet(file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    rows = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _csv(file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    file.write((",".join(_cell(name) for name in schema.names) + "\n").encode())
    rows = 0
    for table in tables:
        columns = [_cells(table.column(i), table.field(i)) for i in range(table.num_columns)]
        lines = (",".join(cells) + "\n" for cells in zip(*columns, strict=True))
        file.write("".join(lines).encode())
        rows += table.num_rows
    return rows


def _cells(column: pa.ChunkedArray, field: pa.Field) -> Iterator[str]:
    values = _texts(column)
    if field.name == "style":
        # A cell that starts with "[" would be read as a JSON list.
        values = (json.dumps([s]) if s is not None and s.startswith("[") else s for s in values)
    return ("" if value is None else _cell(value) for value in values)


def _texts(column: pa.ChunkedArray) -> Iterator[str | None]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return iter(cast("list[str | None]", pc.cast(column, pa.string()).to_pylist()))


def _cell(text: str) -> str:
    """`text` as a cell, in quotes if a reader could take it otherwise."""
    if _PLAIN_CELL.fullmatch(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _json_lines(file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    rows = 0
    for table in tables:
        columns = [_json_values(column) for column in table.columns]
        for row in zip(*columns, strict=True):
            line = json.dumps(dict(zip(schema.names, row, strict=True)), ensure_ascii=False)
            file.write(line.encode() + b"\n")
        rows += table.num_rows
    return rows


def _json_values(column: pa.ChunkedArray) -> list[Any]:
    """Values as JSON has them; times are Arrow's text."""
    if pa.types.is_temporal(column.type) or pa.types.is_decimal(column.type):
        return list(_texts(column))
    values = column.to_pylist()
    plain: Callable[[Any], Any] = lambda v: v  # noqa: E731
    if pa.types.is_nested(column.type):
        plain = lambda v: json.loads(json.dumps(v, default=str))  # noqa: E731
    return [plain(value) for value in values]
