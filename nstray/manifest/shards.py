"""Rows -> shards, cut the same way on every run: windows in the manifest's order, sorted inside by shape and style.

Reads no image and keeps no more than one window. A part's name is its window and its number there, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nstray.output.layout import ids_digest, part_name, window_sizes


@dataclass(frozen=True)
class Shard:
    """The rows of one part: `table` has the canonical columns of a manifest. Pickles as its own rows alone, not the window they are cut from."""

    window: int
    number: int
    table: pa.Table

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrow pickles a slice with the whole of its buffers: 5 MB for 16 rows of a window, 3 KB once they are taken out.
        return Shard, (
            self.window,
            self.number,
            self.table.take(pa.array(range(self.table.num_rows))),
        )

    def rows(self, indices: Sequence[int]) -> Shard:
        """The shard with these of its rows alone."""
        return Shard(self.window, self.number, self.table.take(pa.array(indices, pa.int64())))

    @property
    def name(self) -> str:
        """File name of its part."""
        return part_name(self.window, self.number)

    @property
    def style_key(self) -> tuple[str, ...]:
        """Styles of its first row: what an actor may have cached."""
        return tuple(self.table["style"][0].as_py())

    @property
    def ids_digest(self) -> str:
        """sha256 (hex) of its pair ids in order, joined by newlines."""
        return ids_digest(self.table["pair_id"].to_pylist())


def cut_windows(
    tables: Iterable[pa.Table], cuts: Sequence[int] = ()
) -> Iterator[tuple[int, pa.Table]]:
    """Consecutive tables -> (number, table of `WINDOW_ROWS` rows), the last one shorter; however long the tables are.

    Args:
        cuts: numbers of rows, ascending, that the manifest had before rows were added to it: a window ends at each, as it did then.
    """
    held: list[pa.Table] = []
    rows = number = 0
    sizes = window_sizes(cuts)
    size = next(sizes)
    for table in tables:
        held.append(table)
        rows += table.num_rows
        while rows >= size:
            whole = pa.concat_tables(held)
            yield number, whole.slice(0, size)
            held, rows, number = [whole.slice(size)], rows - size, number + 1
            size = next(sizes)
    if rows:
        yield number, pa.concat_tables(held)


def cut_shards(window: int, table: pa.Table, shard_size: int) -> list[Shard]:
    """Cut a window into shards of `shard_size` rows, its last one shorter.

    Rows that may share a shape stand together, and among them those that share styles, then contents: sorted by size_rule, size, width, height,
    style, content, row, columns that the manifest has not left out. A total order: rows are distinct.
    """
    keys = {
        name: table[name]
        for name in ("size_rule", "size", "width", "height")
        if name in table.column_names
    }
    keys["style"] = pc.binary_join(table["style"].combine_chunks(), "\0")
    keys["content"] = table["content"]
    keys["row"] = table["row"]
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
    ordered = table.take(order).combine_chunks()
    return [
        Shard(window, number, ordered.slice(start, shard_size))
        for number, start in enumerate(range(0, table.num_rows, shard_size))
    ]
