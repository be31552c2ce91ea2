"""`nstray run`: runs a checked job and returns its exit code."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from nstray import storage
from nstray.cluster import ray_address
from nstray.cluster.progress import Display, JobProgress
from nstray.commands import cost
from nstray.commands.guess import guess
from nstray.commands.preflight import preflight
from nstray.commands.prepare import Job, naming_output, record
from nstray.config import VERSION
from nstray.engine import settings
from nstray.errors import ErrorCode, JobFailed, OutputError
from nstray.output.records import Counts
from nstray.system import stop_signals

if TYPE_CHECKING:
    from nstray.cluster.driver import Outcome

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE, EXIT_ERROR_ROWS = 0, 1, 2, 3
EXIT_STOPPED = stop_signals.EXIT_STOPPED
# What a job's summary takes from the counts of its parts.
_SUMMED = (
    "rows",
    "ok",
    "errors",
    "parts",
    "bytes",
    "evaluations",
    "seconds",
    "started",
    "finished",
)


_CARD = ("rows", "ok", "errors")  # the counts that the data card names


def run(job: Job) -> int:
    """Run or resume `job`; returns the exit code. Raises the errors of `nstray.errors`."""
    ray_address.given()  # raises, before anything is written; so may the next
    evaluations = job.cost.evaluations
    with naming_output(job.output):
        job, stored = _begin(job)
    progress = JobProgress(job.info.rows, expected_evaluations=float(evaluations))
    with Display(progress) as display:
        for warning in (*job.info.warnings, *stored["warnings"]):
            display.log_event("warning", text=warning)
        display.log_event(
            "job",
            rows=job.info.rows,
            shards=job.shards,
            shard_size=job.config.rows_per_shard,
            evaluations=evaluations,
            weights=job.weights.id,
            fingerprint=job.spec.fingerprint[:12],
            output=job.output,
        )
        if job.weights.source == "random":
            display.log_event(
                "warning",
                text="weights random: colours and texture, not what the trained network gives; "
                "see docs/glossary.md",
            )
        note = settings.pooling_note(job.weights.pooling, job.config.pooling)
        if note is not None:
            display.log_event("warning", text=f"weights {job.weights.source}: {note}")
        summary = job.output.summary.read()
        if job.spec.retry:
            rows = _to_retry(job)
            every = len(job.spec.retry) >= len(ErrorCode)
            display.log_event(
                "retry", rows=rows, codes="all" if every else ",".join(job.spec.retry)
            )
            if rows or summary is None:
                return _run_on_ray(job, stored, display)
        if summary is not None and _is_complete(job, summary):
            display.log_event("already_complete")
            if stored["carried_changes"]:
                job.output.card.write(stored, Counts(**{n: summary[n] for n in _CARD}))
            progress.done = progress.resumed = job.info.rows
            return _verdict(job, summary, display)
        preflight(job)
        job.output.card.write(stored)
        if not job.output.parts.list_window(0) and (guessed := guess(job)) is not None:
            progress.guess = guessed.pop("seconds")
            display.log_event("guess", **guessed)
        return _run_on_ray(job, stored, display)


def _begin(job: Job) -> tuple[Job, dict[str, Any]]:
    """Begin or resume `job`; returns it with its stored record.

    Another run may begin the same job between the check and now, and choose another shard size.
    Then the job is run in the shards of that one.
    """
    try:
        return job, job.output.job.open(record(job))
    except OutputError:
        there = job.output.job.find() if job.chosen_shards else None
        if there is None or there["shard_size"] == job.config.rows_per_shard:
            raise
    job = job.with_shard_size(there["shard_size"])
    return job, job.output.job.open(record(job))


def _to_retry(job: Job) -> int:
    """The number of error rows that a retry would make again."""
    errors = _counts(job).errors
    return sum(errors.get(code, 0) for code in job.spec.retry)


def _counts(job: Job) -> Counts:
    """What all parts add up to; raises `OutputError` for a damaged one whose footer is read."""
    counts = Counts()
    with ThreadPoolExecutor(storage.LIST_THREADS) as pool:
        for found in pool.map(
            lambda window: job.output.indexes.window_counts(*window), enumerate(job.layout)
        ):
            counts.merge(found or Counts())
    return counts


def _is_complete(job: Job, summary: dict[str, Any]) -> bool:
    """Whether the summary still counts the parts that are there, by a listing of each window.

    A damaged part may have been removed to be made again. If the bytes differ, a copy of the output
    may have broken off, or a retry may have been killed: then every window is counted anew. Raises
    `OutputError` that names the parts that are cut short.
    """
    if summary.get("rows") != job.info.rows or (size := _size(job)) is None:
        return False
    if size == summary.get("bytes"):
        return True
    counts = _counts(job)
    return all(getattr(counts, name) == summary.get(name) for name in _CARD)


def _size(job: Job) -> int | None:
    """The bytes of all parts by listings alone; None if a part is missing."""

    def size(window: int, parts: int) -> int | None:
        listed = job.output.parts.list_window(window)
        if set(listed) != set(range(parts)):
            return None
        return sum(info.size for info in listed.values())

    total = 0
    with ThreadPoolExecutor(storage.LIST_THREADS) as pool:
        for found in pool.map(lambda window: size(*window), enumerate(job.layout)):
            if found is None:
                return None
            total += found
    return total


def _run_on_ray(job: Job, stored: dict[str, Any], display: Display) -> int:
    # Ray takes a second to import, and the checks before it must be quick.
    from nstray.cluster import actor, driver, ray_running

    started = time.monotonic()
    spec = dataclasses.replace(job.spec, begun=stored.get("created_at"))
    display.begin("starting Ray")
    # A signal while Ray starts or ends waits. After the last commit the rest is a matter of
    # seconds, so it is finished.
    with stop_signals.deferred():
        with ray_running.ray_running():
            run_driver = driver.Driver(
                spec, job.manifest, job.output, actor.actor_factory(spec, job.weights), display
            )
            display.begin("loading the network")
            outcome = asyncio.run(run_driver.run())
            display.begin("ending Ray")
        return _finish(job, stored, display, outcome, started)


def _finish(
    job: Job, stored: dict[str, Any], display: Display, outcome: Outcome, started: float
) -> int:
    """Write what follows from all parts, say how the run ended, and return the exit code.

    started: when it began, by time.monotonic.
    """
    counts = outcome.counts
    if not outcome.complete:
        display.log_event(
            "stopped",
            rows_done=counts.rows,
            rows=job.info.rows,
            output=job.output,
            hint="run the same command again to resume",
        )
        return EXIT_STOPPED
    summary = {
        **{name: getattr(counts, name) for name in _SUMMED},
        "last_run_seconds": round(time.monotonic() - started, 3),
        "last_run_rows": counts.rows - outcome.before.rows,
        "last_run_bytes": counts.bytes - outcome.before.bytes,
        "last_run_devices": outcome.devices,
        "last_run_device_hours": round(outcome.device_seconds / 3600, 6),
        "last_run_evaluations_per_s": round(
            display.job_progress.evaluations / (time.monotonic() - started), 3
        ),
        "last_run_busy": display.job_progress.busy,
        "nstray_version": VERSION,
    }
    if not job.spec.retry:
        forecast = cost.recorded_forecast(job.output.estimate.read(), job.spec.fingerprint, summary)
        if forecast is not None:
            summary["estimate"] = forecast
    if _size(job) is None:
        raise JobFailed(
            f"{job.output}: the parts that workers committed can't be seen from this machine; "
            "use s3:// or a folder that all machines share"
        )
    job.output.card.write(stored, counts)
    job.output.summary.write(summary)
    display.log_event("cost", **cost.cost_fields(summary))
    return _verdict(job, summary, display)


def _verdict(job: Job, summary: dict[str, Any], display: Display) -> int:
    errors = sum(summary["errors"].values())
    by_code = {f"error_{code}": n for code, n in sorted(summary["errors"].items())}
    display.log_event(
        "complete",
        rows=summary["rows"],
        ok=summary["ok"],
        errors=errors,
        **by_code,
        output=job.output,
    )
    share = errors / summary["rows"]
    if share > job.config.max_error_rate:
        display.log_event(
            "error_rows",
            share=f"{share:.4g}",
            allowed=f"{job.config.max_error_rate:g}",
            hint="the columns error_code and error_message say why; once that is mended, "
            f"nstray retry {job.output} makes them again; raise max_error_rate to accept them",
        )
        return EXIT_ERROR_ROWS
    return EXIT_COMPLETE
