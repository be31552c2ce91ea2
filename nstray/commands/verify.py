"""`nstray verify`: every part against its footer, the job's record and the manifest."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.commands import moved
from nstray.commands.verify_report import VerifyReport, first_names
from nstray.errors import ErrorCode, NotFound, OutputError, PairError, StorageError
from nstray.images.decode import check, decoding_bytes, read_header
from nstray.manifest.cached_check import at_base
from nstray.manifest.duplicates import IdHashes
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output.folder import Output
from nstray.output.layout import ids_digest, parse_part, part_name
from nstray.output.part_file import open_part, read_batches
from nstray.output.reader import MAX_MEMORY, MAX_PIXELS, part_uris, parts_by_window, read_rows
from nstray.output.records import (
    PICTURE_NAME,
    PartInfo,
    has_both_digests,
    iso_time,
    order_of,
    unix_seconds,
)
from nstray.output.schema import job_schema, stored_schema
from nstray.text import counted

_DECODE_THREADS = 4
_RUN_AGAIN = "run the job again: it makes the parts that are missing"


class _Memory:
    """Memory that threads share: each waits until its own fits beside that of the others."""

    def __init__(self, bound: int) -> None:
        self._bound, self._used = bound, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, at most the bound."""
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= self._bound)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


_memory = _Memory(MAX_MEMORY)


def verify(
    out: str,
    manifest: str | None = None,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Check every part of `out` against its own footer, the job's record and the manifest.

    Args:
        out: the output folder.
        manifest: the job's manifest; default: where the job's record says it is.
        decode: decode every picture. Without it the pictures' bytes are not read.
        progress: called with the number of parts done and of all parts.

    Streams one row group at a time. Stores a hash of 8 bytes of every id to find ids that occur
    twice; many hashes are stored on disk. Raises `OutputError` if there is no job, `ManifestError`
    if the manifest can't be read.
    """
    output = Output(out)
    job = output.job.read()
    source, info = moved.checked_manifest(job, output, manifest)
    report = VerifyReport()
    difference, remedy, carried_differ = _compare(job, info)
    if difference:
        report.add(difference, remedy)
    info = at_base(info, storage.redact(source.base()), job)
    changed = max((unix_seconds(time) or 0.0 for time in job["carried_changes"]), default=None)
    windows = parts_by_window(job)
    expected = dict(windows)
    total = sum(expected.values())
    _check_names(output, expected, report)
    schema = stored_schema(job_schema(job))
    missing: list[str] = []
    tables = (
        cut_windows(source.tables(info, carried=False), job["cuts"])
        if not difference
        else ((window, None) for window in expected)
    )
    with ThreadPoolExecutor(_DECODE_THREADS) as pool, IdHashes() as seen:
        for window, table in tables:
            shards = (
                {s.number: s for s in cut_shards(window, table, job["shard_size"], order_of(job))}
                if table is not None
                else {}
            )
            listed = output.parts.list_window(window)
            for number in range(expected.get(window, 0)):
                name = part_name(window, number)
                if number not in listed:
                    missing.append(name)
                else:
                    uri = listed[number].uri
                    ids = _check_part(
                        uri, schema, job, shards.get(number), decode, pool, report, changed
                    )
                    seen.add(IdHashes.of(ids))
                if progress:
                    progress(report.parts + len(missing), total)
        if missing:
            report.add(
                f"{len(missing)} of {counted(total, 'part')} missing: {first_names(missing)}",
                _RUN_AGAIN,
            )
        _check_duplicates(output, job, seen, report)
    if changed is not None and report.earlier:
        report.notes.append(
            f"{counted(report.earlier, 'row was', 'rows were')} made before "
            f"{iso_time(changed)}, when columns that the manifest only carries got "
            "other values; they hold those of before"
        )
    if carried_differ:
        report.notes.append(
            f"the manifest {info.uri} has the job's rows, but columns that it only carries have "
            "other values now"
        )
    return report


def _compare(job: dict[str, Any], info: ManifestInfo) -> tuple[str, str, bool]:
    """How a manifest's rows differ from the job's, empty if not; the remedy; and carried columns.

    The last says whether carried columns differ. They are compared if the manifest begins with the
    job's rows.
    """
    both = has_both_digests(job)
    if both and info.marked_digest == job["rows_digest"]:
        grown = (
            f"the manifest {info.uri} has grown from the job's {job['rows']} rows to {info.rows}"
            if info.rows > job["rows"]
            else ""
        )
        return (
            grown,
            "run the job with --extend, which makes the new rows",
            info.marked_carried != job["carried_digest"],
        )
    if not both and info.digest == job["manifest_digest"]:
        return "", "", False
    there = job["rows_digest" if both else "manifest_digest"]
    here = info.rows_digest if both else info.digest
    return (
        f"the manifest {info.uri} is not the job's: it has {counted(info.rows, 'row')} "
        f"and the digest {here}, the job's {job['rows']} and {there}",
        "give the manifest that the job was run with: --manifest MANIFEST",
        False,
    )


def _check_names(output: Output, expected: dict[int, int], report: VerifyReport) -> None:
    unexpected: list[str] = []
    try:
        for info in storage.list_files(storage.join(output.out, "data")):
            name = storage.name(info.uri)
            place = parse_part(name)
            # A killed local writer leaves its temporary file. Its name begins with a dot, and
            # readers skip it.
            if not name.startswith(".") and (
                place is None or place[1] >= expected.get(place[0], 0)
            ):
                unexpected.append(name)
    except NotFound:
        return
    if unexpected:
        report.add(
            f"{counted(len(unexpected), 'unexpected file')} in data/: {first_names(unexpected)}",
            "move the unexpected files out of data/, where readers would take them for rows",
        )


def _check_part(
    uri: str,
    schema: pa.Schema,
    job: dict[str, Any],
    shard: Shard | None,
    decode: bool,
    pool: Executor,
    report: VerifyReport,
    changed: float | None,
) -> list[str]:
    """Check one part. Returns its pair ids, as far as they can be read.

    Args:
        changed: when the manifest's carried columns last got other values, in unix seconds.
    """
    name = storage.name(uri)
    ids: list[str] = []
    counts: dict[str, int] = {}  # rows by ok or error code
    report.parts += 1
    try:
        with open_part(uri) as (file, info):
            if (
                not file.schema_arrow.equals(schema)
                or (file.schema_arrow.metadata or {}).get(b"huggingface")
                != schema.metadata[b"huggingface"]
            ):
                report.add_to_part(name, "its schema is not the job's")
                return []
            image = "image" if decode else "image.path"
            columns = ["pair_id", image, "status", "error_code", "width", "height"]
            when = [] if changed is None else ["created_at"]
            for batch in read_batches(uri, file, [*columns, *when]):
                if changed is not None:
                    report.earlier += _made_before(batch["created_at"], changed)
                rows = batch.drop_columns(when).to_pylist()
                for row, problem in zip(
                    rows, pool.map(lambda row: _row_problem(row, decode), rows), strict=True
                ):
                    ids.append(row["pair_id"])
                    key = "ok" if row["status"] == "ok" else str(row["error_code"])
                    counts[key] = counts.get(key, 0) + 1
                    if problem:
                        report.add_to_part(name, f"{row['pair_id']}: {problem}")
    except NotFound:
        report.add(f"{name}: was removed while it was being checked", _RUN_AGAIN)
        return ids
    except (pa.ArrowException, OSError, UnicodeDecodeError, OutputError) as error:
        report.add_to_part(name, f"can't be read: {error}")
        return ids
    ok = counts.pop("ok", 0)
    report.rows += len(ids)
    report.ok += ok
    for code, number in counts.items():
        report.errors[code] = report.errors.get(code, 0) + number
    _check_footer(name, info, job, ids, ok, counts, report)
    if shard is not None:
        _check_shard(name, shard, ids, report)
    return ids


def _made_before(made: pa.ChunkedArray, moment: float) -> int:
    """How many of these times are before `moment`, in unix seconds."""
    # In Arrow: Python lacks times after the year 9999.
    limit = pa.scalar(round(moment * 1e6), pa.int64()).cast(made.type)
    return int(pc.sum(pc.less(made, limit)).as_py() or 0)


def _check_footer(
    name: str,
    info: PartInfo,
    job: dict[str, Any],
    ids: list[str],
    ok: int,
    errors: dict[str, int],
    report: VerifyReport,
) -> None:
    """Compare a part's footer with what was read from the part, and with the job."""
    footer = info.footer
    if (info.rows, info.ok, info.errors) != (len(ids), ok, errors):
        report.add_to_part(
            name,
            f"its footer counts {counted(info.rows, 'row')}, {info.ok} ok, {info.errors}; "
            f"it has {len(ids)}, {ok}, {errors}",
        )
    if footer.get("ids_digest") != ids_digest(ids):
        report.add_to_part(name, "its pair ids are not those its footer's digest was made from")
    if footer.get("fingerprint") != job["fingerprint"]:
        report.add_to_part(
            name,
            f"its fingerprint {footer.get('fingerprint')} is not the job's, {job['fingerprint']}",
        )
    if (footer.get("window"), footer.get("number")) != parse_part(name):
        report.add_to_part(
            name,
            f"its footer says it is part {footer.get('number')} of window {footer.get('window')}",
        )


def _check_shard(name: str, shard: Shard, ids: list[str], report: VerifyReport) -> None:
    """Compare a part's pair ids with those of the manifest's shard."""
    if shard.ids_digest == ids_digest(ids):
        return
    wanted = shard.table.column("pair_id").to_pylist()
    lacks, extra = sorted(set(wanted) - set(ids)), sorted(set(ids) - set(wanted))
    differences = []
    if lacks:
        differences.append(f"lacks {first_names(lacks)}")
    if extra:
        differences.append(f"has {first_names(extra)} that belong elsewhere")
    words = " and ".join(differences) or "has another order"
    report.add_to_part(name, f"against the manifest's shard it {words}")


def _row_problem(row: dict[str, Any], decode: bool) -> str | None:
    """What is wrong with one row; None if nothing is."""
    image = row["image"]
    if row["status"] == "error":
        if image is not None:
            return "an error row whose image is not null"
        if row["error_code"] not in set(ErrorCode):
            return f"an error row with the unknown code {row['error_code']!r}"
        return None
    if row["status"] != "ok":
        return f"status is {row['status']!r}"
    if row["error_code"] is not None:
        return f"status is ok and error_code is {row['error_code']!r}"
    if image is None:
        return "status is ok and there is no picture"
    if not PICTURE_NAME.fullmatch(image["path"] or ""):
        return f"its picture's path {image['path']!r} is not a bare file name"
    return _picture_problem(row) if decode else None


def _picture_problem(row: dict[str, Any]) -> str | None:
    """What is wrong with the picture of a row; None if nothing is."""
    data, size = row["image"]["bytes"] or b"", (row["width"], row["height"])
    try:
        _, width, height = read_header(data, own=True)
        if (width, height) != size:
            return f"its picture is {width}x{height}, the row says {size[0]}x{size[1]}"
        if width * height > MAX_PIXELS:
            return (
                f"its picture has {width}x{height} pixels, "
                f"more than the {MAX_PIXELS:,} that are decoded"
            )
        needed = decoding_bytes(data, own=True)
        if needed > MAX_MEMORY:
            return (
                f"its picture has {width}x{height} pixels, whose decoding takes {needed:,} bytes "
                f"of memory, more than the {MAX_MEMORY:,} that are given to one"
            )
        with _memory.of(needed):
            check(data, what="its picture", max_pixels=width * height, own=True)
    except PairError as error:
        return str(error)
    return None


def _check_duplicates(
    output: Output, job: dict[str, Any], seen: IdHashes, report: VerifyReport
) -> None:
    """Report ids that occur twice.

    Two ids may share a hash, so the ids of every repeated hash are read a second time.
    """
    repeated, _ = seen.duplicates()
    if not len(repeated):
        return
    where: dict[str, list[str]] = {}
    for uri in part_uris(output, job):
        with contextlib.suppress(OutputError, StorageError):
            for rows in read_rows(uri, ["pair_id"]):
                ids = [row["pair_id"] for row in rows]
                for i in np.flatnonzero(np.isin(IdHashes.of(ids), repeated)):
                    where.setdefault(ids[i], []).append(storage.name(uri))
    for pair_id, parts in where.items():
        if len(parts) > 1:
            # If the manifest is the job's, one of the parts differs from its shard, which is said.
            report.add(
                f"the pair id {pair_id} occurs {len(parts)} times: in {first_names(parts)}", None
            )
