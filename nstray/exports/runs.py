"""Runs: the rows of one unit in the order of an export, as one file of the scratch folder.

A run is a row of Arrow streams, then their list as JSON, then the length of the list in 8 bytes.
Each stream holds the rows of one split and bucket, so a reader takes those of its buckets alone.
They are streams of their own because the batches of one Arrow file share their dictionaries.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.errors import OutputError
from nstray.exports.keys import Keys

_LENGTH = 8  # bytes of the length of the list
# Columns before those of a format.
INTERNAL = (("key", pa.uint64()), ("pair", pa.string()), ("original", pa.bool_()))


def temporary_folder(scratch: str) -> str | None:
    """Where large temporary files go: the scratch folder if it is local; None is TMPDIR."""
    bucket, path = storage.split(scratch)
    return path if bucket is None else None


def with_keys(keys: Keys, pairs: pa.Array, original: pa.Array, payload: pa.Table) -> pa.Table:
    """A table of `INTERNAL` columns and those of a format."""
    fields = [pa.field(name, kind) for name, kind in INTERNAL]
    columns = [pa.array(keys, pa.uint64()), pairs, original, *payload.columns]
    return pa.Table.from_arrays(columns, schema=pa.schema([*fields, *payload.schema]))


def payload(table: pa.Table) -> pa.Table:
    """The columns of a format, of a table that `read_runs` gave."""
    fields = [table.schema.field(i) for i in range(len(INTERNAL), table.num_columns)]
    return pa.Table.from_arrays(table.columns[len(INTERNAL) :], schema=pa.schema(fields))


def write_run(
    uri: str,
    scratch: str,
    table: pa.Table,
    splits: Sequence[str],
    buckets: Sequence[int],
) -> Iterator[tuple[str, int, pa.Table]]:
    """Write the rows of a unit; yields the rows of each split and bucket as they are written.

    Args:
        splits, buckets: of each row.
    """
    table = table.combine_chunks()  # else each `take` would do it
    names, codes = np.unique(np.asarray(splits, dtype=object), return_inverse=True)
    keys = table.column(0).to_numpy()
    order = np.lexsort((keys, np.asarray(buckets), codes))
    by = np.stack([codes[order], np.asarray(buckets)[order]])
    cuts = [0, *(np.flatnonzero((by[:, 1:] != by[:, :-1]).any(axis=0)) + 1), len(order)]
    pieces = [(str(names[by[0, i]]), int(by[1, i]), int(i), int(j)) for i, j in pairwise(cuts)]
    with tempfile.TemporaryFile(dir=temporary_folder(scratch)) as file:
        listed = []
        for split, bucket, i, j in pieces:
            piece = table.take(pa.array(order[i:j])).combine_chunks()
            start = file.tell()
            with pa.ipc.new_stream(file, piece.schema) as writer:
                writer.write_table(piece)
            listed.append((split, bucket, start, file.tell() - start))
            yield split, bucket, piece
        index = json.dumps(listed).encode()
        file.write(index + len(index).to_bytes(_LENGTH, "big"))
        storage.put_file(uri, file)


def read_runs(uris: Sequence[str], split: str, first: int, last: int) -> list[tuple[int, pa.Table]]:
    """The rows of a split in buckets `first` to `last` (excluded), each bucket in its order.

    Raises `OutputError` if a row stands twice in the output.
    """
    found: dict[int, list[pa.Table]] = {}
    for uri in uris:
        with storage.open_input(uri, tail=storage.BLOCK) as source:
            for name, bucket, start, length in _listed(source):
                if name == split and first <= bucket < last:
                    source.seek(start)
                    piece = pa.ipc.open_stream(source.read(length)).read_all()
                    found.setdefault(bucket, []).append(piece)
    return [(bucket, _in_order(pa.concat_tables(found.pop(bucket)))) for bucket in sorted(found)]


def _listed(source: io.BufferedReader) -> Any:
    end = source.seek(-_LENGTH, io.SEEK_END)
    length = int.from_bytes(source.read(_LENGTH), "big")
    source.seek(end - length)
    return json.loads(source.read(length))


def _in_order(table: pa.Table) -> pa.Table:
    table = table.combine_chunks()
    by = [(name, "ascending") for name, _ in INTERNAL]
    index = pc.sort_indices(pa.table(table.columns[:3], names=[n for n, _ in INTERNAL]), by)
    table = table.take(index)
    keys, pairs, original = (table.column(i) for i in range(3))
    if table.num_rows > 1:
        same = pc.and_(
            pc.equal(pairs.slice(1), pairs.slice(0, table.num_rows - 1)),
            pc.equal(original.slice(1), original.slice(0, table.num_rows - 1)),
        )
        same = pc.and_(same, pc.equal(keys.slice(1), keys.slice(0, table.num_rows - 1)))
        if (twice := pc.index(same, True).as_py()) >= 0:
            raise OutputError(
                f"pair_id {pairs[twice]} stands in the output twice; see nstray verify"
            )
    return table
