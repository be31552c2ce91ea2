"""A file of a manifest, and a batch of its rows as the file has them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

# Names, columns and number of rows of a batch, as a reader of one format gives them.
Rows = tuple[tuple[str, ...], tuple[pa.Array, ...], int]


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest; `kind` is ``parquet``, ``csv`` or ``jsonl``, `size` is in bytes."""

    uri: str
    name: str
    kind: str
    size: int


@dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of one file, as the file has them.

    Attributes:
        file: for messages.
        first: number of the first row among the file's data rows, from 0.
        names: as in the file, which may name a column twice.
        columns: one Arrow array per name, each of `rows` values. Of JSON Lines, `style` and masks
            are always list<string>.
        how: how a CSV file was read (separator and encoding), for messages; else empty.
        schema: of a Parquet file's batch, with its metadata; else None.
    """

    file: ManifestFile
    first: int
    rows: int
    names: tuple[str, ...]
    columns: tuple[pa.Array, ...]
    how: str = ""
    schema: pa.Schema | None = None
