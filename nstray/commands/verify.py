"""What an output says, without its driver: how far it is (`status`), whether it is whole (`verify`), and as plain files (`export`)."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nstray import config, storage
from nstray.commands import spent
from nstray.errors import AlreadyExists, ErrorCode, ManifestError, NotFound, OutputError, PairError, StorageError
from nstray.images.decode import decode as decode_picture
from nstray.images.decode import read_header
from nstray.manifest.duplicates import IdHashes
from nstray.manifest.manifest import Manifest, ManifestInfo
from nstray.manifest.shards import Shard, cut_shards, cut_windows, ids_digest, parse_part, part_name, parts_per_window
from nstray.output import live
from nstray.output.folder import Output, carried_schema, footer_of, part_schema, stored_schema
from nstray.output.records import PICTURE_NAME, Counts, PartInfo, iso_time

_FOOTER_THREADS = 16
_DECODE_THREADS = 4
MAX_PROBLEMS = 1000
# A stranger's output may hold pictures that unpack to anything; no optimiser's memory has held one as large.
MAX_PIXELS: int = config.JobConfig.model_fields["max_pixels"].default
_NAMED = 10


def _windows(job: dict[str, Any]) -> list[tuple[int, int]]:
    """Every window of a job with the number of its parts."""
    return list(enumerate(parts_per_window(job["rows"], job["shard_size"], job["cuts"])))


def status(out: str) -> dict[str, Any]:
    """How far the job of `out` is, from its record, indexes and footers alone; JSON-ready.

    ``state`` is complete once the summary is there and no row is missing. ``seconds`` are device-seconds; times are ISO 8601 in UTC.
    ``run``, where a driver says what it is doing, is what `nstray.output.live.status` gives.
    ``last_run`` is what the run that completed it took, ``estimate`` what a probe had said of it (`nstray.commands.cost`);
    empty where neither is known.
    Raises `OutputError` where there is no job.
    """
    output = Output(out)
    job = output.read_job()
    windows = _windows(job)
    counts = Counts()
    with ThreadPoolExecutor(storage.LIST_THREADS) as outer, ThreadPoolExecutor(_FOOTER_THREADS) as inner:
        for found in outer.map(lambda window: output.window_counts(window[0], window[1], inner), windows):
            counts.merge(found or Counts())
    summary = output.read_summary()
    complete = summary is not None and counts.rows == job["rows"]
    run = live.status(output)
    return {
        "out": str(output),
        "state": "complete" if complete else "incomplete",
        "rows_total": job["rows"],
        "rows_done": counts.rows,
        "ok": counts.ok,
        "errors": dict(sorted(counts.errors.items())),
        "parts_total": sum(parts for _, parts in windows),
        "parts_done": counts.parts,
        "bytes": counts.bytes,
        "evaluations": counts.evaluations,
        "seconds": counts.seconds,
        "first_commit": iso_time(counts.started),
        "last_commit": iso_time(counts.finished),
        **spent.shown(summary),
        **{
            key: job.get(key)
            for key in ("created_at", "manifest", "manifest_digest", "shard_size", "weights", "weights_id", "fingerprint", "nstray_version")
        },
        **({} if run is None else {"run": run}),
    }


@contextlib.contextmanager
def _open(uri: str) -> Iterator[tuple[pq.ParquetFile, PartInfo]]:
    with storage.open_input(uri) as source:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        file = pq.ParquetFile(source)
        yield file, footer_of(file.metadata, uri, size)


def read_rows(uri: str, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a part, one row group (at most 100 rows or 64 MiB of pictures) at a time; raises `OutputError` where it is damaged."""
    try:
        with _open(uri) as (file, _):
            _check_columns(uri, file.schema_arrow, columns)
            for group in range(file.num_row_groups):
                yield _rows(file.read_row_group(group, columns=columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{storage.redact(uri)} is damaged ({error}); remove it and run the job again to remake it") from None


def _check_columns(uri: str, there: pa.Schema, columns: Sequence[str] | None) -> None:
    """Raise `OutputError` where a part lacks one of `columns`, or one of nstray's own is of another type."""
    own = stored_schema(part_schema(pa.schema([])))
    for name in own.names if columns is None else columns:
        if there.names.count(name) != 1 or (name in own.names and there.field(name).type != own.field(name).type):
            raise OutputError(f"{storage.redact(uri)}: its column {name} is missing, or not what nstray writes; it is not a part of this job")


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table; columns of values that Python has not (nanoseconds, the year 20000) as text."""
    columns = {column.name: _values(table.column(i)) for i, column in enumerate(table.schema)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if "[ns" not in str(column.type):
        with contextlib.suppress(ValueError, OverflowError, TypeError, pa.ArrowException):
            return cast("list[Any]", column.to_pylist())
    return [str(value) if value.is_valid else None for value in column]


def part_uris(output: Output, job: dict[str, Any]) -> Iterator[str]:
    """The committed parts of a job in order."""
    for window, _ in _windows(job):
        for _, info in sorted(output.list_window(window).items()):
            yield info.uri


# verify


@dataclass
class VerifyReport:
    """What `verify` found: the problems (at most 1000 of them, the rest counted in `more`), and what is really there."""

    problems: list[str] = field(default_factory=list)
    parts: int = 0
    rows: int = 0
    ok: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    more: int = 0

    @property
    def passed(self) -> bool:
        """Whether there is no problem at all."""
        return not self.problems

    def add(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more += 1


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _job_manifest(job: dict[str, Any], manifest: str | None) -> tuple[Manifest, ManifestInfo]:
    settings = config.make({**job["config"], "allow_local": True})  # its images are not opened here
    if manifest is not None:
        given = Manifest(manifest)
        return given, given.check(settings)
    try:
        named = Manifest(job["manifest"])
        return named, named.check(settings)
    except (StorageError, ManifestError) as error:
        raise ManifestError(f"the manifest that the job names can't be used: {error}; say where it is with --manifest") from None


def verify(out: str, manifest: str | None = None, decode: bool = True, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Hold every part of `out` against its own footer, the job's record and the manifest.

    Args:
        out: the output folder.
        manifest: the job's manifest; default: where the job's record says it is.
        decode: decode every picture; without it the pictures' bytes are not read.
        progress: called with parts done and parts in all.

    Streams one row group at a time; hashes of the ids, 8 bytes each, are kept to see ids that stand twice, on disk where they are many.
    Raises `OutputError` where there is no job, `ManifestError` where the manifest can't be read.
    """
    output = Output(out)
    job = output.read_job()
    source, info = _job_manifest(job, manifest)
    report = VerifyReport()
    same = info.digest == job["manifest_digest"]
    if not same:
        report.add(f"the manifest {info.uri} is not the job's: its digest is {info.digest}, the job's {job['manifest_digest']}")
    windows = _windows(job)
    expected = dict(windows)
    total = sum(expected.values())
    _check_names(output, expected, report)
    schema = stored_schema(part_schema(carried_schema(job)))
    missing: list[str] = []
    tables = cut_windows(source.tables(info), job["cuts"]) if same else ((window, None) for window in expected)
    with ThreadPoolExecutor(_DECODE_THREADS) as pool, IdHashes() as seen:
        for window, table in tables:
            shards = {s.number: s for s in cut_shards(window, table, job["shard_size"])} if table is not None else {}
            listed = output.list_window(window)
            for number in range(expected.get(window, 0)):
                name = part_name(window, number)
                if number not in listed:
                    missing.append(name)
                else:
                    ids = _check_part(listed[number].uri, schema, job, shards.get(number), decode, pool, report)
                    seen.add(IdHashes.of(ids))
                if progress:
                    progress(report.parts + len(missing), total)
        if missing:
            report.add(f"{len(missing)} of {total} parts missing: {_some(missing)}")
        _check_twice(output, job, seen, report)
    return report


def _check_names(output: Output, expected: dict[int, int], report: VerifyReport) -> None:
    unexpected: list[str] = []
    try:
        for info in storage.list_files(storage.join(output.out, "data")):
            name = storage.name(info.uri)
            place = parse_part(name)
            # A killed local writer leaves its temporary file, whose name begins with a dot; readers skip those.
            if not name.startswith(".") and (place is None or place[1] >= expected.get(place[0], 0)):
                unexpected.append(name)
    except NotFound:
        return
    if unexpected:
        report.add(f"{len(unexpected)} unexpected files in data/: {_some(unexpected)}")


def _check_part(
    uri: str, schema: pa.Schema, job: dict[str, Any], shard: Shard | None, decode: bool, pool: Executor, report: VerifyReport
) -> list[str]:
    """Check one part; returns its pair ids, as far as they can be read."""
    name = storage.name(uri)
    ids: list[str] = []
    counts: dict[str, int] = {}
    report.parts += 1
    try:
        with _open(uri) as (file, info):
            if not file.schema_arrow.equals(schema) or (file.schema_arrow.metadata or {}).get(b"huggingface") != schema.metadata[b"huggingface"]:
                report.add(f"{name}: its schema is not the job's")
                return []
            columns = ["pair_id", "image" if decode else "image.path", "status", "error_code", "width", "height"]
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=columns).to_pylist()
                for row, problem in zip(rows, pool.map(lambda row: _row_problem(row, decode), rows), strict=True):
                    ids.append(row["pair_id"])
                    key = "ok" if row["status"] == "ok" else str(row["error_code"])
                    counts[key] = counts.get(key, 0) + 1
                    if problem:
                        report.add(f"{name}: {row['pair_id']}: {problem}")
    except (pa.ArrowException, OSError, UnicodeDecodeError, NotFound, OutputError) as error:
        report.add(f"{name}: can't be read: {error}")
        return ids
    ok = counts.pop("ok", 0)
    report.rows += len(ids)
    report.ok += ok
    for code, number in counts.items():
        report.errors[code] = report.errors.get(code, 0) + number
    footer = info.footer
    digest = ids_digest(ids)
    if (info.rows, info.ok, info.errors) != (len(ids), ok, counts):
        report.add(f"{name}: its footer counts {info.rows} rows, {info.ok} ok, {info.errors}; it has {len(ids)}, {ok}, {counts}")
    if footer.get("ids_digest") != digest:
        report.add(f"{name}: its pair ids are not those its footer's digest was made from")
    if footer.get("fingerprint") != job["fingerprint"]:
        report.add(f"{name}: its fingerprint {footer.get('fingerprint')} is not the job's, {job['fingerprint']}")
    if (footer.get("window"), footer.get("number")) != parse_part(name):
        report.add(f"{name}: its footer says it is part {footer.get('number')} of window {footer.get('window')}")
    if shard is not None and shard.ids_digest != digest:
        wanted = shard.table.column("pair_id").to_pylist()
        lacks, extra = sorted(set(wanted) - set(ids)), sorted(set(ids) - set(wanted))
        said = [f"lacks {_some(lacks)}"] * bool(lacks) + [f"has {_some(extra)} that belong elsewhere"] * bool(extra)
        report.add(f"{name}: against the manifest's shard it {' and '.join(said) or 'has another order'}")
    return ids


def _row_problem(row: dict[str, Any], pictures: bool) -> str | None:
    """What is wrong with one row, or None."""
    image = row["image"]
    if row["status"] == "error":
        if image is not None:
            return "an error row whose image is not null"
        return None if row["error_code"] in set(ErrorCode) else f"an error row with the unknown code {row['error_code']!r}"
    if row["status"] != "ok":
        return f"status is {row['status']!r}"
    if row["error_code"] is not None:
        return f"status is ok and error_code is {row['error_code']!r}"
    if image is None:
        return "status is ok and there is no picture"
    if not PICTURE_NAME.fullmatch(image["path"] or ""):
        return f"its picture's path {image['path']!r} is not a bare file name"
    if not pictures:
        return None
    data, size = image["bytes"] or b"", (row["width"], row["height"])
    try:
        _, *found = read_header(data, own=True)
        if tuple(found) != size:
            return f"its picture is {found[0]}x{found[1]}, the row says {size[0]}x{size[1]}"
        if found[0] * found[1] > MAX_PIXELS:
            return f"its picture has {found[0]}x{found[1]} pixels, more than the {MAX_PIXELS:,} that are decoded"
        decode_picture(data, what="its picture", max_bytes=len(data), max_pixels=found[0] * found[1], own=True)
    except PairError as error:
        return str(error)
    return None


def _check_twice(output: Output, job: dict[str, Any], seen: IdHashes, report: VerifyReport) -> None:
    """Look for the ids behind equal hashes, which a second reading of that column tells apart."""
    repeated, _ = seen.twice()
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
            report.add(f"the pair id {pair_id} stands {len(parts)} times: in {_some(parts)}")


# export


def export(out: str, to: str, *, overwrite: bool = False) -> dict[str, int]:
    """Write the pictures of `out` as plain files into the folder `to`, local or s3://, with the rest in ``metadata.jsonl``.

    The folder is what Hugging Face calls an imagefolder. A file that is there with the same bytes is left; with other
    bytes it is an `OutputError` unless `overwrite`. ``metadata.jsonl`` is held in memory: about 1 KB per picture.
    Returns the numbers of ``images`` written or already there, ``errors`` (rows without a picture) and ``bytes`` of pictures.
    """
    output = Output(out)
    job = output.read_job()
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
                        raise OutputError(f"{storage.redact(uri)}: {row['pair_id']}: its picture has no bytes; see nstray verify")
                    if not PICTURE_NAME.fullmatch(name or ""):
                        raise OutputError(
                            f"{storage.redact(uri)}: {row['pair_id']}: its picture's path {name!r} is not a bare file name; nothing is written there"
                        )
                    _put_picture(storage.join(folder, name), image["bytes"], overwrite)
                    # A carried column may be called file_name; the imagefolder's own must win.
                    renamed = {("manifest_file_name" if k == "file_name" else k): v for k, v in row.items()}
                    lines.write((json.dumps({"file_name": name, **_plain(renamed)}, ensure_ascii=False) + "\n").encode())
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
            raise OutputError(f"{storage.redact(uri)} is there with other bytes; use another folder, or --overwrite") from None
        storage.put_over(uri, data)


def _refuse_other_listing(uri: str, to: str, job: dict[str, Any]) -> None:
    """Raise `OutputError` where `uri` is a listing that this job's export did not write."""
    refusal = OutputError(f"{storage.redact(to)} holds a metadata.jsonl of something else; use another folder, or --overwrite")
    if storage.head(uri) is None:
        return
    with storage.open_input(uri) as source:
        first = source.read(65_536).split(b"\n", 1)[0]
    try:
        row = json.loads(first) if first else None
        same = row is None or (row["weights_id"], row["config_fingerprint"]) == (job["weights_id"], job["fingerprint"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise refusal from None
    if not same:
        raise refusal


def _plain(value: Any) -> Any:
    """A value as JSON has it: times as ISO 8601, bytes as base64, numbers that JSON lacks as null."""
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
