"""Archives of pictures for tests: tars, Parquet and Arrow files, sound and not."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def tar(members: Mapping[str, bytes] | Sequence[tuple[str | tarfile.TarInfo, bytes]], **options: Any) -> bytes:
    """A tar of members in order."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", **options) as file:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(name, tarfile.TarInfo) or info.isreg():
                info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def offsets(data: bytes) -> dict[str, tuple[int, int]]:
    """Offset and size of each member of a tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        return {m.name: (m.offset_data, m.size) for m in file}


def table(pictures: Sequence[bytes | None], **more: pa.Array) -> pa.Table:
    """The column ``image`` as Hugging Face has it, ``raw`` as bytes, and others."""
    cells = [None if p is None else {"bytes": p, "path": f"{i}.png"} for i, p in enumerate(pictures)]
    return pa.table({"label": pa.array(range(len(pictures))), **more, "image": pa.array(cells, IMAGE), "raw": pa.array(pictures, pa.large_binary())})


def parquet(rows: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, **{"row_group_size": 100, **options})
    return sink.getvalue()


def arrow(rows: pa.Table, batch: int = 100, *, stream: bool = True, **options: Any) -> bytes:
    """An IPC stream, as `datasets.save_to_disk` writes it, or an IPC file."""
    sink = pa.BufferOutputStream()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(rows, max_chunksize=batch)
    return bytes(sink.getvalue())


@contextlib.contextmanager
def peak_below(bound: int) -> Iterator[None]:
    """A context in which Python allocates fewer than `bound` bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < bound
    finally:
        tracemalloc.stop()
