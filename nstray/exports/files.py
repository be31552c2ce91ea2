"""Plain files: the pictures in one folder, their columns in metadata.jsonl."""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from collections.abc import Callable
from typing import Any

from nstray import storage
from nstray.errors import AlreadyExists, OutputError, PairError
from nstray.exports.json_values import row_json
from nstray.exports.options import ExportOptions
from nstray.exports.packing import FILES_PER_FOLDER
from nstray.exports.pictures import Pictures
from nstray.exports.plan import make_plan
from nstray.exports.selection import UNLABELLED, Note, Selection
from nstray.exports.source import Slice, find_source
from nstray.exports.target import refuse_inside
from nstray.exports.worker import relative
from nstray.output.folder import Output
from nstray.output.paths import first_other_file
from nstray.output.reader import part_uris, table_rows

# Pictures of a numbered folder on average. Their spread is the root of that: 80.
_MEAN = 0.8 * FILES_PER_FOLDER
_JOB = ("weights_id", "config_fingerprint")  # by which a later export knows its own listing


def export_files(
    out: str,
    to: str,
    options: ExportOptions,
    *,
    overwrite: bool = False,
    on_warning: Callable[[str], object] = lambda text: None,
) -> dict[str, int]:
    """Write the pictures of `out` as plain files into the folder `to`, local or s3://.

    More than `FILES_PER_FOLDER` go into numbered folders. The other columns go to
    ``metadata.jsonl``, so that the folder is what Hugging Face calls an imagefolder. A file that
    exists with the same bytes stays; one with other bytes raises `OutputError` unless `overwrite`.
    ``metadata.jsonl`` is collected in a temporary file, in memory up to 64 MiB, and put from there:
    about 1 KB per picture.
    `on_warning` is called with a line if the folder holds files and no such listing.
    Returns the numbers of ``images`` written or already there, of ``errors`` (rows without a
    picture), of the pictures' ``bytes``, and with ``exclude`` of rows that are ``excluded``.
    """
    output = Output(out)
    job = output.job.read()
    folder = storage.absolute(to)
    refuse_inside(output.out, folder)
    listing = storage.join(folder, "metadata.jsonl")
    if options.columns is not None:
        options = options.with_columns(_JOB)
    plan = make_plan(options, job, find_source(output, job), folder, folder)
    if not overwrite:
        _refuse_other_listing(listing, to, job)
    if storage.head(listing) is None and (found := first_other_file(folder)) is not None:
        on_warning(
            f"{storage.redact(to)} holds files already, such as {found}, and no metadata.jsonl of "
            "an export: none of them is replaced, and the pictures go in among them"
        )
    selection, pictures, note = Selection(plan), Pictures(plan), Note()
    columns = [name for name in plan.schema.names if name != "image"]
    counts = {"images": 0, "errors": 0, "bytes": 0}
    with tempfile.SpooledTemporaryFile(max_size=64 * 2**20) as lines:
        for position, uri in enumerate(part_uris(output, job)):
            for selected in selection.read(Slice(uri, position), note, joined=False):
                if UNLABELLED in note.problems:
                    raise OutputError(
                        f"--join has no row for {note.problems[UNLABELLED][1][0]}; add it there, "
                        "or --exclude it"
                    )
                try:
                    table = relative(pictures.apply(selected.table), plan.base)
                except PairError as error:
                    raise OutputError(
                        f"{storage.redact(uri)}: {error.message}; see nstray verify"
                    ) from None
                images = table["image"].to_pylist()
                for image, row in zip(images, table_rows(table.select(columns)), strict=True):
                    path = _path(image["path"], job["rows"])
                    _put_picture(storage.join(folder, path), image["bytes"], overwrite)
                    lines.write(f"{row_json(path, row)}\n".encode())
                    counts["images"] += 1
                    counts["bytes"] += len(image["bytes"])
        storage.put_file(listing, lines)
    counts["errors"] = note.errors
    return counts if options.exclude is None else {**counts, "excluded": note.excluded}


def _path(name: str, rows: int) -> str:
    """Where a picture of a job of so many rows goes, below the folder.

    Of more than `FILES_PER_FOLDER` the name decides on a numbered folder. So a picture keeps its
    place when the rest of the output is there too.
    """
    if rows <= FILES_PER_FOLDER:
        return name
    return f"{zlib.crc32(name.encode()) % math.ceil(rows / _MEAN):05d}/{name}"


def _put_picture(uri: str, data: bytes, overwrite: bool) -> None:
    try:
        storage.put_new(uri, data)
    except AlreadyExists:
        if not overwrite:
            raise OutputError(
                f"{storage.redact(uri)} exists with other bytes; use another folder, or --overwrite"
            ) from None
        storage.put_over(uri, data)


def _refuse_other_listing(uri: str, to: str, job: dict[str, Any]) -> None:
    """Raise `OutputError` if `uri` is a listing that this job's export did not write."""
    refusal = OutputError(
        f"{storage.redact(to)} holds a metadata.jsonl of something else; "
        "use another folder, or --overwrite"
    )
    if storage.head(uri) is None:
        return
    with storage.open_input(uri) as source:
        first = source.read(65_536).split(b"\n", 1)[0]
    try:
        row = json.loads(first) if first else None
        same = row is None or (row["weights_id"], row["config_fingerprint"]) == (
            job["weights_id"],
            job["fingerprint"],
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise refusal from None
    if not same:
        raise refusal
