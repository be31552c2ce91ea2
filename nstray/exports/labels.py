"""Tables beside an output: columns that are joined to its rows, and ids that are left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from nstray import storage
from nstray.errors import OutputError, UsageError
from nstray.manifest import files
from nstray.manifest.carried_types import without_views
from nstray.manifest.column_metadata import ColumnMetadata
from nstray.output.schema import features
from nstray.text import counted, did_you_mean

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_IDS_BYTES = 2**30


class Labels:
    """A table that is joined to rows by one column, held in memory.

    Attributes:
        table: its columns without `on`. features: their Hugging Face features.
        places: the row of each value of `on`, as text.
    """

    def __init__(self, uri: str, on: str) -> None:
        """Read the table: Parquet, CSV or JSON Lines. Raises `UsageError`."""
        self.on = on
        where = storage.redact(uri)
        _, found = files.find(storage.absolute(uri))
        metadata = ColumnMetadata()
        tables = []
        for file in found:
            for batch in files.read(file):
                if batch.schema is not None:
                    metadata.add(file, batch.schema)
                tables.append(
                    pa.Table.from_arrays(
                        [without_views(column) for column in batch.columns], names=list(batch.names)
                    )
                )
        if not tables:
            raise UsageError(f"--join {where}: it has no rows")
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise UsageError(f"--join {where}: its files do not go together ({error})") from None
        names = table.column_names
        if on not in names or len(set(names)) < len(names):
            raise UsageError(
                f"--join {where}: it needs a column {on}, and every column once; it has "
                f"{', '.join(names)}{did_you_mean(on, names)}"
            )
        if len(names) < 2:
            raise UsageError(f"--join {where}: it has no column besides {on}")
        keys = table[on].cast(pa.string()).to_pylist()
        self.places = {key: i for i, key in enumerate(keys)}
        self.places.pop(None, None)
        if len(self.places) < len(keys):
            twice = next(k for i, k in enumerate(keys) if k is None or self.places[k] != i)
            raise UsageError(
                f"--join {where}: {on} {'null' if twice is None else repr(twice)} stands there "
                "for more than one row, or for none; give each value once"
            )
        self.table = table.drop_columns([on])
        on_schema = metadata.on(self.table.schema, self.table.column_names)
        self.features: dict[str, Any] = features(on_schema)
        self.table = self.table.cast(on_schema)

    def rows_of(self, values: pa.ChunkedArray) -> list[int | None]:
        """The row of the table for each of the `values` of the join column; None if none."""
        return [self.places.get(value) for value in values.cast(pa.string()).to_pylist()]


def class_numbers(column: pa.ChunkedArray, names: Sequence[str], name: str) -> pa.Array:
    """A column of class names, or of numbers as text, as the numbers of a ClassLabel of `names`.

    Raises `UsageError` for a text that is neither.
    """
    numbers = {text: i for i, text in enumerate(names)}
    out: list[int | None] = []
    for text in column.to_pylist():
        if text is None or text in numbers:
            out.append(None if text is None else numbers[text])
        elif text.isascii() and text.isdigit():
            out.append(int(text))
        else:
            raise UsageError(
                f"--join: {name} {text!r} is no class of the dataset's {name}"
                f"{did_you_mean(text, numbers)}"
            )
    return pa.array(out, pa.int64())


def read_ids(uri: str) -> frozenset[str]:
    """The pair ids in a text file, one a line; empty lines and lines after # are left out."""
    text = storage.read(uri, max_bytes=_MAX_IDS_BYTES).decode("utf-8-sig", "replace")
    ids = [line.strip() for line in text.splitlines()]
    ids = [line for line in ids if line and not line.startswith("#")]
    if wrong := [line for line in ids if not _ID.fullmatch(line)]:
        raise OutputError(
            f"{storage.redact(uri)}: {counted(len(wrong), 'line')} can be no pair id, such as "
            f"{wrong[0][:60]!r}; write one id a line"
        )
    return frozenset(ids)
