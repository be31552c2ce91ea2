"""The pairs that a job keeps, and after them those of pictures that came since."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import OutputError
from nstray.output.schema import changed_columns

_ROWS = 65_536


def extended(kept: str, now: str, target: str, *, every: bool) -> int:
    """Write the rows of `kept` at `target`, then those of `now` that are new; returns their number.

    A row is new if its content is. If `now` has `every` pair, it is new if its style is, too. So
    the styles that were drawn for a content stay. Memory: the references of `kept`.

    Args:
        kept, now: manifests as `build` writes them, of the same sources.
        target: a local file.

    Raises `OutputError` if the pictures have other columns now.
    """
    added = 0
    with storage.open_input(kept) as source:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
        _check_columns(schema, pq.read_schema(now))
        known: dict[str, list[pa.Array]] = {"content": [], "style": []}
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for batch in file.iter_batches(_ROWS):
                writer.write_batch(batch)
                for name, seen in known.items():
                    seen.append(pc.unique(batch.column(name)))
            there = {name: pc.unique(pa.chunked_array(seen)) for name, seen in known.items()}
            for table in _new_rows(now, there, every):
                writer.write_table(table.cast(schema))
                added += table.num_rows
    return added


def _new_rows(now: str, known: dict[str, pa.Array], every: bool) -> Iterator[pa.Table]:
    with pq.ParquetFile(now) as file:
        for batch in file.iter_batches(_ROWS):
            table = pa.Table.from_batches([batch])
            old = pc.is_in(table["content"], value_set=known["content"])
            if every:
                old = pc.and_(old, pc.is_in(table["style"], value_set=known["style"]))
            yield table.filter(pc.invert(old))


def _check_columns(then: pa.Schema, now: pa.Schema) -> None:
    changed, renamed = changed_columns(then, now)
    differing = [
        f"{name}: {schema.field(name).type}"
        for name in changed
        for schema in (then, now)
        if name in schema.names
    ]
    differing += [f"{name} (other names of classes)" for name in renamed]
    if differing:
        raise OutputError(
            f"the pictures have other columns than when the job was begun: {', '.join(differing)}; "
            "all parts of a dataset have the same columns: use another OUT for the new pictures"
        )
