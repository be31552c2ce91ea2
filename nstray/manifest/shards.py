"""Rows to windows and windows to shards, in the same way on every run of a job.

Windows follow the manifest's order; inside, rows are sorted by a rule that a job keeps from its
beginning to its end. No image is read, and no more than one window is in memory. A part's name
comes from its window and its number there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nstray.manifest.references import split_members
from nstray.output.layout import ids_digest, part_name, window_sizes
from nstray.output.records import FIRST_ORDER

# The rules, by the names that job.json holds. A record without a name means the first one.
BY_STYLE, BY_ARCHIVE = FIRST_ORDER, "archive"
ORDERS = (BY_STYLE, BY_ARCHIVE)
# Rows of an archive that count as one row group. The rule can't take them from the columns that say
# where pictures lie: these may be written anew while a job is under way, and its order may not
# change. `datasets` writes 100 pictures to a row group; of larger groups several blocks follow one
# another.
BLOCK_ROWS = 100
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


def first_order(archives: bool) -> str:
    """The rule of a job that begins now; `archives` as in `ManifestInfo`."""
    return BY_ARCHIVE if archives else BY_STYLE


def cut_shards(window: int, table: pa.Table, shard_size: int, order: str = BY_STYLE) -> list[Shard]:
    """Cut a window into shards of `shard_size` rows; the last one may be shorter.

    Rows that may share a shape are next to each other: the first sort keys are size_rule, size,
    width and height, without those that the manifest does not have. Then follow

    - with `BY_STYLE` style, content and row, so that rows that share styles come together;
    - with `BY_ARCHIVE` the content's archive, its block of `BLOCK_ROWS` rows there (of Parquet and
      Arrow), style, the content if it is a loose file, and row, so that what is read of an archive
      serves many rows.

    The order is total, because row numbers are distinct.

    Args:
        order: one of `ORDERS`.
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
    styles = pc.binary_join(style.combine_chunks(), "\0")
    if order == BY_ARCHIVE:
        archives, members = split_members(content.combine_chunks())
        rows = pc.struct_field(pc.extract_regex(members, r"(?s)\[(?P<row>[0-9]{1,18})\]$"), 0)
        of_tar = pc.match_substring_regex(archives, r"(?i)\.tar$")
        rows = pc.if_else(of_tar, pa.scalar(None, pa.string()), rows)
        keys["archive"] = pc.fill_null(archives, "")
        keys["block"] = pc.fill_null(pc.divide(pc.cast(rows, pa.int64()), BLOCK_ROWS), 0)
        keys["style"] = styles
        keys["content"] = pc.if_else(pc.is_valid(archives), "", content.combine_chunks())
    else:
        keys["style"], keys["content"] = styles, content
    keys["row"] = table["row"]
    table = table.drop_columns([n for n in ORDER_KEYS.values() if n in table.column_names])
    places = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
    ordered = table.take(places).combine_chunks()
    return [
        Shard(window, number, ordered.slice(start, shard_size))
        for number, start in enumerate(range(0, table.num_rows, shard_size))
    ]
