"""WebDataset: tar files whose samples are a picture, its columns as JSON, and its class."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.exports.json_values import row_json
from nstray.exports.packing import Task, folder_of
from nstray.exports.plan import ORIGINAL, Plan
from nstray.exports.runs import payload, read_runs, temporary_folder
from nstray.output.reader import table_rows

_SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("ending", pa.string()),
        ("json", pa.string()),
        ("class", pa.string()),
    ]
)
_BLOCK = 512  # of a tar: a header is one, and data fill whole ones


def columns(table: pa.Table, original: pa.Array, classes: pa.Array | None, plan: Plan) -> pa.Table:
    """The columns of a run: the files of each sample."""
    left_out = ("image", ORIGINAL) if plan.options.with_originals else ("image",)
    rows = table_rows(table.select([n for n in plan.schema.names if n not in left_out]))
    if plan.options.with_originals:
        rows = [{**row, ORIGINAL: flag.as_py()} for row, flag in zip(rows, original, strict=True)]
    if plan.class_names is not None and classes is not None:
        rows = [{"class_name": c.as_py(), **row} for row, c in zip(rows, classes, strict=True)]
    image = table["image"].combine_chunks()
    paths = image.field("path").to_pylist()
    if len(image) and image.null_count:
        present = image.is_valid().to_pylist()
        paths = [p if ok else None for p, ok in zip(paths, present, strict=True)]
    none = pa.nulls(len(rows), pa.string())
    return pa.Table.from_arrays(
        [
            pc.if_else(image.is_valid(), image.field("bytes"), pa.scalar(None, pa.binary())),
            pa.array([p and p.rpartition(".")[2] for p in paths], pa.string()),
            pa.array(map(row_json, paths, rows), pa.string()),
            none if classes is None else classes,
        ],
        schema=_SCHEMA,
    )


def size_of(piece: pa.Table) -> int:
    """Bytes of the rows of a run in a tar."""
    table = payload(piece)
    total = 0
    for name in ("image", "json", "class"):
        lengths = pc.binary_length(table[name])
        blocks = pc.add(pc.divide(pc.add(lengths, _BLOCK - 1), _BLOCK), 1)
        total += (pc.sum(blocks).as_py() or 0) * _BLOCK
    return total


def file_name(task: Task) -> str:
    """``train-000000.tar``."""
    return f"{folder_of(task.number, task.of)}{task.split}-{task.number:06d}.tar"


def class_numbers(classes: Mapping[str, int], plan: Plan) -> dict[str, int]:
    """The number of each class: that of a ClassLabel, the class itself, or its place by name."""
    if plan.class_names is not None:
        return {name: i for i, name in enumerate(plan.class_names)}
    if plan.class_is_number:
        return {text: int(text) for text in classes}
    return {text: i for i, text in enumerate(sorted(classes))}


def write(task: Task, runs: list[str], plan: Plan, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Write a tar; returns its ``name``, and the numbers of its ``rows`` and ``bytes``.

    Keys are the numbers of the samples in their split, with at least 9 digits. Times, owners and
    modes of members are constants, so the same rows give the same bytes.
    """
    with tempfile.TemporaryFile(dir=temporary_folder(plan.scratch)) as file:
        rows = 0
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for first, last in task.chunks:
                for _, table in read_runs(runs, task.split, first, last):
                    for row in payload(table).to_pylist():
                        _add(tar, f"{task.first + rows:09d}", row, numbers)
                        rows += 1
        size = file.seek(0, io.SEEK_END)
        storage.put_file(storage.join(plan.target, file_name(task)), file)
    return {"name": file_name(task), "rows": rows, "bytes": size}


def _add(
    tar: tarfile.TarFile, key: str, row: Mapping[str, Any], numbers: Mapping[str, int]
) -> None:
    members = [("json", row["json"].encode())]
    if row["image"] is not None:
        members.insert(0, (row["ending"], row["image"]))
    if row["class"] is not None:
        members.append(("cls", str(numbers[row["class"]]).encode()))
    for ending, data in members:
        info = tarfile.TarInfo(f"{key}.{ending}")
        info.size, info.mode = len(data), 0o644
        tar.addfile(info, io.BytesIO(data))


def classes_json(numbers: Mapping[str, int]) -> bytes:
    """``classes.json``: the number of each class in the .cls files."""
    return (json.dumps(numbers, ensure_ascii=False, indent=1) + "\n").encode()
