"""Rows to windows and windows to shards, in the same way on every run of a job.

Windows follow the manifest's order; inside, rows are sorted by shape and style. No image is read,
and no more than one window is in memory. A part's name comes from its window and its number there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nstray.output.layout import ids_digest, part_name, window_sizes

# Columns of a table that is put in order by other contents and styles than those that it names:
# those before its manifest moved. No manifest has columns of these names, which are the output's.
ORDER_KEYS = {"content": "content_uri", "style": "style_uri"}


@dataclass(frozen=True)
class Shard:
    """The rows of one part.

    Attributes:
        window: its number.
        number: of the shard in its window.
        table: the rows, with the columns of `ManifestInfo.schema`.
    """

    window: int
    number: int
    table: pa.Table

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrow pickles a slice with all of its window's buffers: 5 MB for 16 rows, and 3 KB after
        # `take` has copied them out.
        rows = self.table.take(pa.array(range(self.table.num_rows)))
        return Shard, (self.window, self.number, rows)

    def rows(self, indices: Sequence[int]) -> Shard:
        """The shard with only these of its rows."""
        return Shard(self.window, self.number, self.table.take(pa.array(indices, pa.int64())))

    @property
    def name(self) -> str:
        """The file name of its part."""
        return part_name(self.window, self.number)

    @property
    def style_key(self) -> tuple[str, ...]:
        """The styles of its first row; a worker may have them in its cache."""
        return tuple(self.table["style"][0].as_py())

    @property
    def ids_digest(self) -> str:
        """sha256 (hex) of its pair ids in order, joined by newlines."""
        return ids_digest(self.table["pair_id"].to_pylist())


def cut_windows(
    tables: Iterable[pa.Table], cuts: Sequence[int] = ()
) -> Iterator[tuple[int, pa.Table]]:
    """The windows of consecutive tables: their numbers and tables of `WINDOW_ROWS` rows.

    The last window may be shorter. The tables may have any length.

    Args:
        cuts: how many rows the manifest had before each time it grew, ascending. A window ends at
            each of them, as it did then.
    """
    pending: list[pa.Table] = []
    rows = number = 0
    sizes = window_sizes(cuts)
    size = next(sizes)
    for table in tables:
        pending.append(table)
        rows += table.num_rows
        while rows >= size:
            joined = pa.concat_tables(pending)
            yield number, joined.slice(0, size)
            pending, rows, number = [joined.slice(size)], rows - size, number + 1
            size = next(sizes)
    if rows:
        yield number, pa.concat_tables(pending)


def cut_shards(window: int, table: pa.Table, shard_size: int) -> list[Shard]:
    """Cut a window into shards of `shard_size` rows; the last one may be shorter.

    Rows that may share a shape are next to each other, and among them those that share styles,
    then contents. The sort keys are size_rule, size, width, height, style, content and row, without
    those that the manifest does not have. The order is total, because row numbers are distinct.
    """
    keys = {
        name: table[name]
        for name in ("size_rule", "size", "width", "height")
        if name in table.column_names
    }
    content, style = (
        table[other if (other := ORDER_KEYS[name]) in table.column_names else name]
        for name in ("content", "style")
    )
    keys["style"] = pc.binary_join(style.combine_chunks(), "\0")
    keys["content"] = content
    keys["row"] = table["row"]
    table = table.drop_columns([n for n in ORDER_KEYS.values() if n in table.column_names])
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
    ordered = table.take(order).combine_chunks()
    return [
        Shard(window, number, ordered.slice(start, shard_size))
        for number, start in enumerate(range(0, table.num_rows, shard_size))
    ]
