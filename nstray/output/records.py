"""What is known about a job besides its pictures: its record, and what its parts add up to.

Plain data, no storage. Only ``job.json`` is a source. Indexes and sums are derived from the footers
of the parts and can be rebuilt from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from nstray.config import VERSION, JobConfig
from nstray.errors import OutputError

# A record of this format may be resumed. A result setting that it lacks counts as its default, so a
# new setting needs no new format. A setting whose default changes needs one.
FORMAT = 3
# Records of nstray 0.1 are read and not resumed. Format 2 was for a manifest that had grown.
READ_ONLY_FORMATS = (1, 2)
_INDEX_FORMAT = 1
FIRST_ORDER = "style"
# The most that a record may say: `status` would be busy for hours with the windows of more rows.
MAX_ROWS, MAX_SHARD = 2**32, 65_536
# A file name an output may carry: `export` joins it to a folder, so no separators, no leading dot.
PICTURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,140}\.(png|jpg|jpeg|webp|tiff)")
# What reading untrusted JSON into numbers may raise.
DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, OSError)

_REQUIRED = (
    "manifest_digest",
    "rows",
    "shard_size",
    "fingerprint",
    "weights_id",
    "result",
    "config",
    "carried_schema",
)
_SINCE_FORMAT_3 = ("rows_digest", "cuts")  # some records of 0.1 lack them
_TEXTS = (
    "manifest",
    "manifest_digest",
    "weights",
    "weights_id",
    "fingerprint",
    "carried_schema",
    "carried_digest",
    "base",
    "nstray_version",
    "created_at",
)


@dataclass(frozen=True)
class PartInfo:
    """One committed part, as its own footer describes it.

    Attributes:
        uri: of the file.
        size: bytes of the whole file.
        rows: number of its rows.
        ok: number of its rows with a picture.
        errors: number of its error rows by code.
        footer: every key of the ``nstray`` metadata.
    """

    uri: str
    size: int
    rows: int
    ok: int
    errors: dict[str, int]
    footer: dict[str, Any]


@dataclass
class Counts:
    """What a set of parts adds up to.

    `seconds` are device-seconds. `started` and `finished` are unix seconds.
    """

    parts: int = 0
    rows: int = 0
    ok: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0
    bytes: int = 0
    started: float | None = None
    finished: float | None = None

    def add(self, part: PartInfo) -> None:
        """Count one part."""
        self.merge(
            Counts(
                parts=1,
                rows=part.rows,
                ok=part.ok,
                errors=part.errors,
                evaluations=int(part.footer.get("evaluations") or 0),
                seconds=float(part.footer.get("seconds") or 0.0),
                bytes=part.size,
                started=unix_seconds(part.footer.get("started")),
                finished=unix_seconds(part.footer.get("finished")),
            )
        )

    def merge(self, other: Counts) -> None:
        """Count everything another set counted."""
        self.parts += other.parts
        self.rows += other.rows
        self.ok += other.ok
        self.evaluations += other.evaluations
        self.seconds += other.seconds
        self.bytes += other.bytes
        for code, number in other.errors.items():
            self.errors[code] = self.errors.get(code, 0) + number
        self.started = min(
            (t for t in (self.started, other.started) if t is not None), default=None
        )
        self.finished = max(
            (t for t in (self.finished, other.finished) if t is not None), default=None
        )


def total(parts: Iterable[PartInfo]) -> Counts:
    """What `parts` add up to."""
    counts = Counts()
    for part in parts:
        counts.add(part)
    return counts


def unix_seconds(value: Any) -> float | None:
    """A time as unix seconds, from such a number or ISO 8601 text (UTC if it names no zone)."""
    if value is None:
        return None
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(value)


def check_times(values: Mapping[str, Any]) -> None:
    """Check ``seconds``, ``started`` and ``finished`` of a footer or index.

    Raises one of `DAMAGE` if one of them is no such number or time.
    """
    float(0.0 if values.get("seconds") is None else values["seconds"])
    for name in ("started", "finished"):
        iso_time(unix_seconds(values.get(name)))


def iso_time(seconds: float | None) -> str | None:
    """Unix seconds as ISO 8601 text in UTC."""
    return (
        None
        if seconds is None
        else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    )


def dump(record: Mapping[str, Any]) -> bytes:
    """A record as the bytes of its JSON file."""
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def load_job(data: bytes, where: str) -> dict[str, Any]:
    """The job record in `data`, the bytes of the file `where`; raises `OutputError` if it is none.

    Records of `READ_ONLY_FORMATS` are loaded too: see `check_resumable`.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{where} is damaged ({error}); restore it, or use another OUT") from None
    if not isinstance(record, dict) or "format" not in record:
        raise OutputError(f"{where} is not a job record of nstray; use another OUT")
    if record["format"] not in (FORMAT, *READ_ONLY_FORMATS):
        raise OutputError(
            f"{where} has format {record['format']!r}, this nstray reads {FORMAT} and earlier: "
            "it was written by another version; use that one"
        )
    required = _REQUIRED if record["format"] != FORMAT else (*_REQUIRED, *_SINCE_FORMAT_3)
    if missing := [name for name in required if name not in record]:
        raise OutputError(f"{where} lacks {', '.join(missing)}; restore it, or use another OUT")
    wrong = [name for name in _TEXTS if not isinstance(record.get(name, ""), str)]
    wrong += [name for name in ("result", "config") if not isinstance(record[name], dict)]
    wrong += [
        name
        for name, most in (("rows", MAX_ROWS), ("shard_size", MAX_SHARD))
        if type(record[name]) is not int or not 1 <= record[name] <= most
    ]
    if not re.fullmatch(r"[a-z-]{1,40}", order_of(record)):
        wrong.append("order")
    cuts = record.setdefault("cuts", [])
    if not wrong and (
        not isinstance(cuts, list)
        or any(type(n) is not int for n in cuts)
        or not _ascending([0, *cuts, record["rows"]])
    ):
        wrong.append("cuts")
    if not _are_times(record.setdefault("carried_changes", [])):
        wrong.append("carried_changes")
    if wrong:
        raise OutputError(
            f"{where} is damaged: it says of {', '.join(wrong)} what can't be; "
            "restore it, or use another OUT"
        )
    return record


def check_resumable(record: Mapping[str, Any], out: str) -> None:
    """Raise `OutputError` if this version can read the job of `record` and not go on with it.

    Args:
        out: the output, for the message.
    """
    if record["format"] == FORMAT:
        return
    wrote = record.get("nstray_version", "0.1")
    raise OutputError(
        f"{out} was written by nstray {wrote} (format {record['format']} of its record). "
        f"nstray {VERSION} reads it with status, verify, sheet, report and export, "
        f"and can't go on with it: finish it with nstray {wrote}, or use another OUT"
    )


def order_of(record: Mapping[str, Any]) -> str:
    """The rule of the order of rows in a window, which the job keeps (`nstray.manifest.shards`)."""
    return str(record.get("order", FIRST_ORDER))


def hashes_layout(record: Mapping[str, Any] | None) -> bool:
    """Whether the fingerprint of a record has the shard size in it.

    Development versions of 0.2 took it for a setting that decides results.
    """
    return record is not None and "shard_size" in record["result"]


def known_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record that this version knows: another version may have had others."""
    return {
        name: value for name, value in record["config"].items() if name in JobConfig.model_fields
    }


def _ascending(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def _are_times(values: Any) -> bool:
    """Whether `values` is a list of times in ISO 8601."""
    try:
        return isinstance(values, list) and all(
            isinstance(value, str) and unix_seconds(value) is not None for value in values
        )
    except DAMAGE:
        return False


def has_both_digests(record: Mapping[str, Any]) -> bool:
    """Whether a record tells the rows of its manifest from their carried columns.

    Records of development versions of 0.2 have one digest of both, over absolute references.
    """
    return bool(record.get("carried_digest"))


def dump_index(
    window: int, parts: Sequence[tuple[int, PartInfo]], more: Mapping[str, Any] | None = None
) -> bytes:
    """The index of one window of numbered parts and `more` keys, as the bytes of its JSON file."""
    counts = total(part for _, part in parts)
    values = {k: v for k, v in vars(counts).items() if k != "parts"}
    listed = [
        [number, p.rows, p.ok, p.size] for number, p in sorted(parts, key=lambda item: item[0])
    ]
    record = {"format": _INDEX_FORMAT, "window": window, **values, "parts": listed, **(more or {})}
    return (json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n").encode()


def load_index(data: bytes, window: int) -> dict[str, Any] | None:
    """The index of `window` in `data`; None if it is damaged or of another format.

    An index can be rebuilt.
    """
    try:
        record = json.loads(data)
        sound = (
            record["format"] == _INDEX_FORMAT
            and record["window"] == window
            and record["rows"] == sum(p[1] for p in record["parts"])
            and record["ok"] == sum(p[2] for p in record["parts"])
            and record["rows"] == record["ok"] + sum(record["errors"].values())
            and {"evaluations", "seconds", "bytes", "started", "finished"} <= set(record)
            and all(
                isinstance(n, int) and n >= 0
                for n in (*record["errors"].values(), record["evaluations"], record["bytes"])
            )
        )
        check_times(record)
    except (*DAMAGE, AttributeError):
        return None
    return record if sound else None


def index_counts(index: Mapping[str, Any]) -> Counts:
    """The sums of a window's index."""
    names = [n for n in Counts.__dataclass_fields__ if n != "parts"]
    counts = Counts(parts=len(index["parts"]), **{n: index[n] for n in names})
    counts.errors = dict(counts.errors)
    return counts
