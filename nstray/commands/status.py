"""`nstray status`: where a job stands, from its output alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from nstray import storage
from nstray.commands.cost import cost_summary
from nstray.commands.next_command import next_command
from nstray.errors import OutputError, StorageError
from nstray.output.folder import Output
from nstray.output.live_status import read
from nstray.output.parts import FOOTER_THREADS
from nstray.output.reader import parts_by_window, read_rows
from nstray.output.records import DAMAGE, Counts, iso_time, unix_seconds


def status(out: str) -> dict[str, Any]:
    """How far the job of `out` is, from its record, indexes and footers alone; JSON-ready.

    ``state`` is complete once the summary is there and no row is missing. ``seconds`` are
    device-seconds. Times are ISO 8601 in UTC. ``run`` is what `run_status` gives; it is absent if
    no driver has written what it does. ``last_run`` is what the run that completed the job took,
    and ``estimate`` what a probe had forecast of it (`nstray.commands.cost`); both are empty if
    unknown. ``activity`` is complete, running, silent (its driver has not been heard of for
    `FRESH` seconds) or stopped. ``error_examples`` is one error row of each code, as far as some of
    the parts that hold error rows have one. ``next`` is the command to type next. Raises
    `OutputError` if there is no job.
    """
    output = Output(out)
    job = output.job.read()
    windows = parts_by_window(job)
    counts = Counts()
    failed: list[str] = []  # parts with error rows
    with (
        ThreadPoolExecutor(storage.LIST_THREADS) as outer,
        ThreadPoolExecutor(FOOTER_THREADS) as inner,
    ):
        for found in outer.map(
            lambda window: output.indexes.window_state(window[0], window[1], inner), windows
        ):
            if found is not None:
                counts.merge(found[0])
                failed += found[1]
    summary = output.summary.read()
    complete = summary is not None and counts.rows == job["rows"]
    run = run_status(output)
    if complete:
        activity = "complete"
    elif run is not None:
        activity = "running" if run["fresh"] else "silent"
    else:
        activity = "starting" if not counts.rows and _is_new(job) else "stopped"
    return {
        "out": str(output),
        "state": "complete" if complete else "incomplete",
        "activity": activity,
        "rows_total": job["rows"],
        "rows_done": counts.rows,
        "ok": counts.ok,
        "errors": dict(sorted(counts.errors.items())),
        "error_examples": error_examples(failed, counts.errors),
        "next": next_command(activity, sum(counts.errors.values()), job, output),
        "parts_total": sum(parts for _, parts in windows),
        "parts_done": counts.parts,
        "bytes": counts.bytes,
        "evaluations": counts.evaluations,
        "seconds": counts.seconds,
        "first_commit": iso_time(counts.started),
        "last_commit": iso_time(counts.finished),
        **cost_summary(summary),
        **{
            key: job.get(key)
            for key in (
                "created_at",
                "manifest",
                "manifest_digest",
                "shard_size",
                "weights",
                "weights_id",
                "fingerprint",
                "nstray_version",
            )
        },
        **({} if run is None else {"run": run}),
    }


def _is_new(job: Mapping[str, Any]) -> bool:
    """Whether the job was begun so lately that its first run may still be starting Ray."""
    try:
        begun = unix_seconds(job.get("created_at"))
    except DAMAGE:
        return False
    return begun is not None and 0 <= datetime.now(UTC).timestamp() - begun <= FRESH


def error_examples(uris: Sequence[str], codes: Collection[str]) -> dict[str, dict[str, str]]:
    """The pair id and the message of one error row of each of `codes`, from the parts at `uris`.

    Reads `LOOKED_AT` parts at most. A part that can't be read gives none: `verify` reports it.
    """
    found: dict[str, dict[str, str]] = {}
    for uri in uris[:LOOKED_AT]:
        if set(codes) <= set(found):
            break
        with suppress(OutputError, StorageError):
            for rows in read_rows(uri, ("pair_id", "error_code", "error_message")):
                for row in rows:
                    if row["error_code"] is not None:
                        example = {name: str(row[name]) for name in ("pair_id", "error_message")}
                        found.setdefault(str(row["error_code"]), example)
    return dict(sorted(found.items()))


LOOKED_AT = 40  # parts
FRESH = 60.0  # seconds; an older file counts as that of a dead driver


def run_status(output: Output) -> dict[str, Any] | None:
    """What the driver wrote to ``live.json``, whether that is fresh, and who straggles.

    Its age is in seconds. JSON-ready. None if there is no such file.
    """
    live = read(output)
    if live is None:
        return None
    age = max(0.0, (datetime.now(UTC) - live.written_at).total_seconds())
    stragglers = [worker.name for worker in live.workers if worker.straggler]
    return {
        "age_seconds": round(age, 1),
        "fresh": age <= FRESH,
        "stragglers": stragglers,
        **live.model_dump(mode="json"),
    }
