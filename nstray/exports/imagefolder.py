"""Class folders: SPLIT/CLASS/NAME.ext, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import pyarrow as pa

from nstray import storage
from nstray.errors import AlreadyExists, OutputError
from nstray.exports.keys import number
from nstray.exports.names import safe_name, stem, style_name
from nstray.exports.packing import Task, folder_of
from nstray.exports.plan import Plan
from nstray.exports.runs import payload, read_runs

_SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("ending", pa.string()),
        ("folder", pa.string()),
        ("stem", pa.string()),
        ("style", pa.string()),
    ]
)
_BETWEEN = "--"
_THREADS = 8  # puts at once of each process: a store takes 20 to 100 ms for one


def columns(table: pa.Table, splits: pa.Array, classes: pa.Array) -> pa.Table:
    """The columns of a run: the picture, and what its name is made of."""
    image = table["image"].combine_chunks()
    labels = [text or "" for text in classes.to_pylist()]
    stems = [
        stem(uri or pair_id, split, label)
        for uri, pair_id, split, label in zip(
            table["content_uri"].to_pylist(),
            table["pair_id"].to_pylist(),
            splits.to_pylist(),
            labels,
            strict=True,
        )
    ]
    return pa.Table.from_arrays(
        [
            image.field("bytes"),
            pa.array([p.rpartition(".")[2] for p in image.field("path").to_pylist()], pa.string()),
            pa.array(map(safe_name, labels), pa.string()),
            pa.array(stems, pa.string()),
            pa.array(map(style_name, table["style_uri"].to_pylist()), pa.string()),
        ],
        schema=_SCHEMA,
    )


def keys(table: pa.Table, splits: pa.Array) -> list[int]:
    """A key for each row: pictures whose names might become the same have the same key."""
    return [
        number(split, folder, name.partition(_BETWEEN)[0])
        for split, folder, name in zip(
            splits.to_pylist(),
            table["folder"].to_pylist(),
            table["stem"].to_pylist(),
            strict=True,
        )
    ]


def names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The names of pictures with the same key, without folder and ending, in the order of `rows`.

    A picture keeps its content's name if that occurs once in the class folder. Else it is
    NAME--STYLE, and NAME--STYLE--PAIR_ID if two are the same still. A content that was added is
    NAME--original.

    Raises `OutputError` if two names are the same after that.
    """
    often = Counter((row["folder"], row["stem"]) for row in rows if not row["original"])
    out = []
    for row in rows:
        name = row["stem"]
        if row["original"]:
            name += f"{_BETWEEN}original"
        elif often[row["folder"], row["stem"]] > 1:
            name += f"{_BETWEEN}{row['style']}"
        out.append(name)
    same = Counter((row["folder"], name) for row, name in zip(rows, out, strict=True))
    for i, row in enumerate(rows):
        if same[row["folder"], out[i]] > 1:
            what = "original" if row["original"] else row["style"]
            out[i] = f"{row['stem']}{_BETWEEN}{what}{_BETWEEN}{row['pair']}"
    paths = Counter((row["folder"], name) for row, name in zip(rows, out, strict=True))
    if (twice := next((p for p, n in paths.items() if n > 1), None)) is not None:
        raise OutputError(f"two pictures would be called {'/'.join(twice)}; rename a content")
    return out


def write(task: Task, runs: list[str], plan: Plan) -> dict[str, Any]:
    """Write the pictures of some buckets; returns the numbers of ``rows`` and ``bytes``.

    Raises `OutputError` if a file is there that has other bytes.
    """
    written = dict(task.folders)
    rows = size = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for first, last in task.chunks:
            for _, table in read_runs(runs, task.split, first, last):
                files = []
                for _, group in groupby(_rows(table), key=lambda row: row["key"]):
                    same = list(group)
                    for row, name in zip(same, names(same), strict=True):
                        folder = row["folder"]
                        place = folder_of(written.get(folder, 0), task.totals[folder])
                        written[folder] = written.get(folder, 0) + 1
                        path = f"{task.split}/{folder}/{place}{name}.{row['ending']}"
                        files.append((storage.join(plan.target, path), row["image"]))
                        size += len(row["image"])
                rows += sum(pool.map(_put, files))
    return {"name": f"{task.split}/", "rows": rows, "bytes": size}


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    own = payload(table).to_pylist()
    internal = zip(*(table.column(i).to_pylist() for i in range(3)), strict=True)
    return [
        {**row, "key": key, "pair": pair, "original": original}
        for row, (key, pair, original) in zip(own, internal, strict=True)
    ]


def _put(file: tuple[str, bytes]) -> int:
    uri, data = file
    try:
        storage.put_new(uri, data)
    except AlreadyExists:
        raise OutputError(
            f"{storage.redact(uri)} exists with other bytes; export into another folder"
        ) from None
    return 1
