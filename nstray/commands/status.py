"""`nstray status`: where a job stands, from its output alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from nstray import storage
from nstray.commands.cost import cost_summary
from nstray.commands.printing import table_lines
from nstray.output.folder import Output
from nstray.output.live_status import EVERY, read
from nstray.output.parts import FOOTER_THREADS
from nstray.output.reader import parts_by_window
from nstray.output.records import Counts, iso_time
from nstray.text import duration


def status(out: str) -> dict[str, Any]:
    """How far the job of `out` is, from its record, indexes and footers alone; JSON-ready.

    ``state`` is complete once the summary is there and no row is missing. ``seconds`` are
    device-seconds. Times are ISO 8601 in UTC. ``run`` is what `run_status` gives; it is absent if
    no driver has written what it does. ``last_run`` is what the run that completed the job took,
    and ``estimate`` what a probe had forecast of it (`nstray.commands.cost`); both are empty if
    unknown. Raises `OutputError` if there is no job.
    """
    output = Output(out)
    job = output.job.read()
    windows = parts_by_window(job)
    counts = Counts()
    with (
        ThreadPoolExecutor(storage.LIST_THREADS) as outer,
        ThreadPoolExecutor(FOOTER_THREADS) as inner,
    ):
        for found in outer.map(
            lambda window: output.indexes.window_counts(window[0], window[1], inner), windows
        ):
            counts.merge(found or Counts())
    summary = output.summary.read()
    complete = summary is not None and counts.rows == job["rows"]
    run = run_status(output)
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


FRESH = 60.0  # seconds; an older file counts as that of a dead driver
_LISTED = 40  # workers named at most
_URGENCY = {"stalled": 0, "leaving": 1, "busy": 2, "idle": 3, "starting": 4}


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


def run_summary(run: Mapping[str, Any]) -> dict[str, str]:
    """What `run_status` gave as a few words per name, for a terminal."""
    age = f"{duration(run['age_seconds'])} ago by driver {run['writer']} on {run['host']}"
    news = f"a driver writes every {duration(EVERY)}"
    if not run["fresh"]:
        return {
            "run": f"silent; last heard of {age}: {news}, so it was probably killed, or can't "
            "write to the output; if it was killed, run the same command again to resume"
        }
    if run["age_seconds"] > 2 * EVERY:
        age += f" ({news}: it may have been killed)"
    eta = duration(run["eta_seconds"])
    if run["eta_low_seconds"] is not None:
        low, high = duration(run["eta_low_seconds"]), duration(run["eta_high_seconds"])
        eta += f" ({low} to {high} in 8 of 10 cases)"
    states = Counter(worker["state"] for worker in run["workers"])
    rates = [f"{run['pairs_per_second']:.3g} pairs/s"]
    if run["evaluations_per_second"] is not None:
        rates.append(f"{run['evaluations_per_second']:.3g} evaluations/s")
    if run["busy"] is not None:
        rates.append(f"devices busy {run['busy']:.0%}")
    stragglers = [
        f"{w['name']} ({duration(w['seconds'])} on {w['part']})"
        for w in run["workers"]
        if w["straggler"]
    ]
    words = {
        "run": f"begun {run['begun_at']}, written {age}",
        "workers": ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none",
        "stragglers": ", ".join(stragglers[:_LISTED]) or "none",
        "shards": (
            f"{run['in_flight_shards']} with workers, {run['backlog_shards']} waiting, "
            f"median {duration(run['median_shard_seconds'])}"
        ),
        "rate": ", ".join(rates),
        "eta": eta,
    }
    if run["others"]:
        drivers = [run["writer"], *run["others"]]
        names = ", ".join(drivers[:_LISTED])
        words["drivers"] = f"{len(drivers)} write to this output at once: {names}"
    return words


def worker_table(run: Mapping[str, Any]) -> list[str]:
    """The workers of what `run_status` gave, a line each below the headings, the urgent ones first.

    Empty if the file is not fresh or has no workers.
    """
    if not run["fresh"] or not run["workers"]:
        return []
    workers = sorted(run["workers"], key=lambda w: 1 if w["straggler"] else _URGENCY[w["state"]])
    headings = (
        *("worker", "state", "host", "device", "part", "rows", "for", "quiet", "evaluations"),
        "on the device",
    )
    lines = table_lines(headings, [_worker_row(worker) for worker in workers[:_LISTED]])
    if len(workers) > _LISTED:
        lines.append(f"and {len(workers) - _LISTED} more: see --json")
    return lines


def _worker_row(worker: Mapping[str, Any]) -> list[str]:
    """A worker as the cells of its line."""
    state = worker["state"]
    pairs = ", ".join(worker["pairs"][:3])
    if len(worker["pairs"]) > 3:
        pairs += f" and {len(worker['pairs']) - 3} more"
    return [
        worker["name"],
        "straggling" if worker["straggler"] and state == "busy" else state,
        worker["host"] or "",
        worker["device"] or "",
        worker["part"] or "",
        str(worker["rows"] or ""),
        *("" if worker[key] is None else duration(worker[key]) for key in ("seconds", "quiet")),
        str(worker["evaluations"]),
        pairs,
    ]
