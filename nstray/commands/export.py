"""`nstray export`: the pictures as plain image files, the other columns in metadata.jsonl."""

from __future__ import annotations

import base64
import json
import math
import tempfile
from datetime import date, datetime, time
from typing import Any

from nstray import storage
from nstray.commands import ray_job
from nstray.errors import AlreadyExists, OutputError
from nstray.output.folder import Output
from nstray.output.reader import part_uris, read_rows
from nstray.output.records import PICTURE_NAME
from nstray.output.schema import carried_schema, part_schema


def export(out: str, to: str, *, overwrite: bool = False) -> dict[str, int]:
    """Write the pictures of `out` as plain files into the folder `to`, local or s3://.

    The other columns go to ``metadata.jsonl``, so that the folder is what Hugging Face calls an
    imagefolder. A file that exists with the same bytes stays; one with other bytes raises
    `OutputError` unless `overwrite`. ``metadata.jsonl`` is collected in a temporary file, in memory
    up to 64 MiB: about 1 KB per picture.
    Returns the numbers of ``images`` written or already there, of ``errors`` (rows without a
    picture) and of the pictures' ``bytes``.
    """
    ray_job.refuse_its_folder("--to", to)
    output = Output(out)
    job = output.job.read()
    folder = storage.absolute(to)
    listing = storage.join(folder, "metadata.jsonl")
    if not overwrite:
        _refuse_other_listing(listing, to, job)
    columns = [c for c in part_schema(carried_schema(job)).names if c != "loss_curve"]
    counts = {"images": 0, "errors": 0, "bytes": 0}
    with tempfile.SpooledTemporaryFile(max_size=64 * 2**20) as lines:
        for uri in part_uris(output, job):
            for rows in read_rows(uri, columns):
                for row in rows:
                    image = row.pop("image")
                    if image is None:
                        counts["errors"] += 1
                        continue
                    name = image["path"]
                    if not image["bytes"]:
                        raise OutputError(
                            f"{storage.redact(uri)}: {row['pair_id']}: its picture has no bytes; "
                            "see nstray verify"
                        )
                    if not PICTURE_NAME.fullmatch(name or ""):
                        raise OutputError(
                            f"{storage.redact(uri)}: {row['pair_id']}: its picture's path "
                            f"{name!r} is not a bare file name; nothing is written there"
                        )
                    _put_picture(storage.join(folder, name), image["bytes"], overwrite)
                    # A carried column may be called file_name, which an imagefolder reserves.
                    renamed = {
                        ("manifest_file_name" if k == "file_name" else k): v for k, v in row.items()
                    }
                    line = json.dumps({"file_name": name, **_plain(renamed)}, ensure_ascii=False)
                    lines.write(f"{line}\n".encode())
                    counts["images"] += 1
                    counts["bytes"] += len(image["bytes"])
        lines.seek(0)
        storage.put_over(listing, lines.read())
    return counts


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


def _plain(value: Any) -> Any:
    """A value as JSON: times as ISO 8601, bytes as base64, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
