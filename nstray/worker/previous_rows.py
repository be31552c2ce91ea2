"""Rows that `nstray retry` carries over unchanged: those that are not to be made again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nstray.manifest.shards import Shard
from nstray.output.folder import Output


@dataclass(frozen=True)
class PreviousRows:
    """What a shard's part holds already.

    Attributes:
        rows: by place in the shard; None for a row that is to be made.
        attempts: how often each row was tried before.
        etag: of the part; None if there is no part yet.
        carried: the part's carried columns; None if they are those of the manifest.
    """

    rows: list[dict[str, Any] | None]
    attempts: list[int]
    etag: str | None = None
    carried: pa.Table | None = None

    @property
    def missing(self) -> list[int]:
        """The places of the rows that are to be made."""
        return [i for i, row in enumerate(self.rows) if row is None]

    def with_made(self, made: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
        """All rows of the shard; those that were missing are taken from `made` in order."""
        return [
            self.again(i, next(made)) if row is None else row for i, row in enumerate(self.rows)
        ]

    def again(self, index: int, row: dict[str, Any]) -> dict[str, Any]:
        """`row`, made anew at place `index`, with the attempts before it counted too."""
        return {**row, "attempt": row["attempt"] + self.attempts[index]}

    def carried_over(self, carried: pa.Table) -> pa.Table:
        """The carried columns of all rows: those that are kept as they are in the part.

        Args:
            carried: the manifest's, for the rows that were missing.
        """
        if self.carried is None or carried.num_columns == 0:
            return carried
        rows = [i if row is None else i + len(self.rows) for i, row in enumerate(self.rows)]
        there = self.carried.select(carried.column_names).cast(carried.schema)
        return pa.concat_tables([carried, there]).take(pa.array(rows, pa.int64()))


def no_rows(shard: Shard) -> PreviousRows:
    """The previous rows of a shard without a part."""
    return PreviousRows([None] * shard.table.num_rows, [0] * shard.table.num_rows)


def read_previous(
    output: Output, shard: Shard, codes: Collection[str], carried_changed: bool = False
) -> PreviousRows:
    """The rows of the shard's part without the error rows of `codes`.

    Args:
        carried_changed: whether the part may hold other carried values than the manifest.

    Raises `OutputError` if the part is gone or damaged, `StorageError`.
    """
    rows, carried, etag = output.parts.read(shard.name, carried=carried_changed)
    return PreviousRows(
        [None if row["error_code"] in codes else row for row in rows],
        [row["attempt"] for row in rows],
        etag,
        carried,
    )
