"""What is known about a job besides its pictures: its record, and what its parts add up to. Plain data, no storage.

Only `job.json` is a source; indexes and sums are derived from the footers of the parts and can be rebuilt from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from nstray.config import differences
from nstray.errors import OutputError

FORMAT = 1
GROWN_FORMAT = 2  # of the record of a job whose manifest has grown: an nstray that knows nothing of cuts must not resume it
# What a record may say: more windows than this many rows have would keep `status` busy for hours.
MAX_ROWS, MAX_SHARD = 2**32, 65_536
# A file name an output may carry: it is joined to a folder by `export`, so no separators, no leading dot.
PICTURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,140}\.(png|jpg|jpeg|webp|tiff)")
# What reading a stranger's JSON into numbers may raise.
DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, OSError)


@dataclass(frozen=True)
class PartInfo:
    """One committed part, as its own footer tells it.

    Attributes:
        uri: where it is.
        size: bytes of the whole file.
        rows, ok: rows in it, and those with a picture.
        errors: the number of error rows by code.
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
    """What a set of parts adds up to; seconds are device-seconds, started and finished are unix seconds."""

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
    """A time as unix seconds, from such a number or from ISO 8601 text (UTC where it names no zone)."""
    if value is None:
        return None
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(value)


def check_times(values: Mapping[str, Any]) -> None:
    """Raise one of `DAMAGE` where seconds, started or finished of a footer or index are no such thing."""
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
    """The job record in `data`, the bytes of the file `where`; raises `OutputError` where it is not one."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{where} is damaged ({error}); restore it, or use another OUT") from None
    if not isinstance(record, dict) or "format" not in record:
        raise OutputError(f"{where} is not a job record of nstray; use another OUT")
    if record["format"] not in (FORMAT, GROWN_FORMAT):
        raise OutputError(
            f"{where} has format {record['format']!r}, this nstray reads {FORMAT} and {GROWN_FORMAT}: it was written by another version; use that one"
        )
    missing = [
        k
        for k in (
            "manifest_digest",
            "rows",
            "shard_size",
            "fingerprint",
            "weights_id",
            "result",
            "config",
            "carried_schema",
        )
        if k not in record
    ]
    if missing:
        raise OutputError(f"{where} lacks {', '.join(missing)}; restore it, or use another OUT")
    texts = (
        "manifest",
        "manifest_digest",
        "weights",
        "weights_id",
        "fingerprint",
        "carried_schema",
        "nstray_version",
        "created_at",
    )
    wrong = [k for k in texts if not isinstance(record.get(k, ""), str)] + [
        k for k in ("result", "config") if not isinstance(record[k], dict)
    ]
    wrong += [
        k
        for k, most in (("rows", MAX_ROWS), ("shard_size", MAX_SHARD))
        if type(record[k]) is not int or not 1 <= record[k] <= most
    ]
    cuts = record.setdefault("cuts", [])  # of a record from before manifests could grow
    if not wrong and (
        not isinstance(cuts, list)
        or any(type(n) is not int for n in cuts)
        or not _ascending([0, *cuts, record["rows"]])
    ):
        wrong.append("cuts")
    if wrong:
        raise OutputError(
            f"{where} is damaged: it says of {', '.join(wrong)} what can't be; restore it, or use another OUT"
        )
    return record


def _ascending(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(numbers))


def has_grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` is the job `old` with rows added to its manifest since."""
    return bool(new["cuts"] == [*old["cuts"], old["rows"]])


def grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the job `old` once its manifest has grown to that of `new`."""
    taken = {
        name: new[name]
        for name in ("manifest", "manifest_digest", "rows", "rows_digest", "checked")
    }
    return {**old, **taken, "format": GROWN_FORMAT, "cuts": [*old["cuts"], old["rows"]]}


def conflicts(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What makes two job records different jobs, a line per setting; empty where one may resume the other."""

    def identity(record: Mapping[str, Any]) -> dict[str, Any]:
        result = json.loads(json.dumps(record["result"]))
        return {
            **result,
            "manifest digest": record["manifest_digest"],
            "manifest rows": record["rows"],
            "shard_size": record["shard_size"],
            "weights": record["weights_id"],
        }

    old, new = identity(there), identity(here)
    if (absent := sorted(set(new) - set(old))) and not differences(
        old, {k: v for k, v in new.items() if k in old}
    ):
        return [
            f"it was begun by nstray {there.get('nstray_version')}, which had no {', '.join(absent)}: finish it with that version"
        ]
    return differences(old, new)


def dump_index(window: int, parts: Sequence[tuple[int, PartInfo]]) -> bytes:
    """The index of one window of numbered parts, as the bytes of its JSON file."""
    counts = total(part for _, part in parts)
    values = {k: v for k, v in vars(counts).items() if k != "parts"}
    listed = [
        [number, p.rows, p.ok, p.size] for number, p in sorted(parts, key=lambda item: item[0])
    ]
    record = {"format": FORMAT, "window": window, **values, "parts": listed}
    return (json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n").encode()


def load_index(data: bytes, window: int) -> dict[str, Any] | None:
    """The index of `window` in `data`; None where it is damaged or of another format, since it can be rebuilt."""
    try:
        record = json.loads(data)
        sound = (
            record["format"] == FORMAT
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
