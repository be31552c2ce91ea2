"""The files of a manifest as a stream of raw record batches: Parquet, CSV and JSON Lines.

Nothing here knows what a pair is. No file is held whole in memory. A file that is wrong as a file
(unreadable, ragged, not UTF-8, not JSON) raises a `ManifestError` that names the file and the line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa

from nstray import storage
from nstray.errors import ManifestError, NotFound
from nstray.manifest import csv_rows, json_lines, parquet_files
from nstray.manifest.raw_batches import ManifestFile, RawBatch, Rows
from nstray.text import counted

# Formats that `nstray manifest build` writes.
WRITTEN = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
ENDINGS = {
    **WRITTEN,
    ".tsv": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
}
BATCH_ROWS = 65_536
BLOCK_BYTES = 8 * 2**20


def _kind(name: str, endings: Mapping[str, str] = ENDINGS) -> str | None:
    """The format of a manifest of this name; None for an unknown ending."""
    return next((kind for end, kind in endings.items() if name.lower().endswith(end)), None)


def kind_of(uri: str, endings: Mapping[str, str] = ENDINGS) -> str:
    """The format of a manifest by its name's ending; raises `ManifestError` for an unknown one."""
    kind = _kind(storage.name(uri), endings)
    if kind is None:
        raise ManifestError(f"{uri}: a manifest's name must end with one of {', '.join(endings)}")
    return kind


def find(uri: str) -> tuple[str, list[ManifestFile]]:
    """The folder that relative paths start from, and the manifest's files sorted by name.

    The files of a folder are those directly in it with one of `ENDINGS`, all of one format. Names
    that start with "." or "_" are skipped. Raises `ManifestError` if there is none.
    """
    found = None if storage.is_folder_name(uri) else storage.head(uri)
    if found is not None:
        return storage.parent(uri), [ManifestFile(uri, storage.name(uri), kind_of(uri), found.size)]

    def on_left_out(path: str, what: str) -> None:
        name = storage.name(path)
        if name[:1] not in (".", "_") and _kind(name) is not None:
            raise ManifestError(
                f"{path}: a {what}, so rows of this manifest would be missing: "
                "put the file there, or remove it from the folder"
            )

    try:
        listed = [
            o
            for o in storage.list_files(uri, recursive=False, on_left_out=on_left_out)
            if storage.name(o.uri)[:1] not in (".", "_")
        ]
    except NotFound as error:
        raise ManifestError(
            f"{uri}: no such manifest, neither a file nor a folder ({error})"
        ) from None
    if not listed and storage.is_uri(uri):
        raise ManifestError(
            f"{uri}: no such manifest, neither an object nor a prefix with objects below it"
        )
    files = [
        ManifestFile(o.uri, name, kind, o.size)
        for o in listed
        if (kind := _kind(name := storage.name(o.uri))) is not None
    ]
    files.sort(key=lambda f: f.name)
    if not files:
        raise ManifestError(
            f"{uri}: no manifest in this folder: of its {counted(len(listed), 'file')} "
            f"none ends with {', '.join(ENDINGS)}"
        )
    other = next((f for f in files if f.kind != files[0].kind), None)
    if other is not None:
        raise ManifestError(
            f"{uri}: files of more than one format: {files[0].name} and {other.name}; "
            "keep one format in a folder"
        )
    return uri, files


def digest(files: list[ManifestFile], folder: bool) -> str:
    """``sha256:...`` of the bytes of one file, or of a `folder` of files.

    A folder's digest is over its sorted lines ``name NUL sha256``.
    """
    sums = []
    for file in files:
        total = hashlib.sha256()
        with storage.open_input(file.uri) as stream:
            while chunk := stream.read(BLOCK_BYTES):
                total.update(chunk)
        sums.append((file.name, total.hexdigest()))
    if not folder:
        return f"sha256:{sums[0][1]}"
    return "sha256:" + hashlib.sha256("".join(f"{n}\0{s}\n" for n, s in sums).encode()).hexdigest()


def read(
    file: ManifestFile,
    types: Mapping[str, pa.DataType] | None = None,
    skip: Collection[str] = (),
) -> Iterator[RawBatch]:
    """The file's rows in order, in batches of bounded size.

    Args:
        types: of carried columns of CSV, which are text otherwise.
        skip: columns that need not be read. Those of Parquet are not.
    Raises: `ManifestError` for a file that can't be read in the format of its ending.
    """
    if file.size == 0:
        return
    if file.kind == "parquet":
        yield from _parquet(file, skip)
        return
    batches: Iterator[tuple[Rows, str]]
    match file.kind:
        case "csv":
            batches = csv_rows.read(file, types or {}, BLOCK_BYTES)
        case _:
            batches = ((rows, "") for rows in json_lines.read(file, BATCH_ROWS, BLOCK_BYTES))
    first = 0
    for (names, columns, rows), how in batches:
        if rows:
            yield RawBatch(file, first, rows, names, columns, how)
            first += rows


def _parquet(file: ManifestFile, skip: Collection[str]) -> Iterator[RawBatch]:
    first = 0
    for batch in parquet_files.read_batches(file, BATCH_ROWS, skip=skip):
        if batch.num_rows:
            names, columns = tuple(batch.schema.names), tuple(batch.columns)
            yield RawBatch(file, first, batch.num_rows, names, columns, schema=batch.schema)
            first += batch.num_rows
