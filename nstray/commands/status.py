"""`nstray status`: where a job stands, from its output alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from nstray import storage
from nstray.commands.cost import cost_summary
from nstray.output.folder import Output
from nstray.output.live import read
from nstray.output.parts import FOOTER_THREADS
from nstray.output.reader import parts_by_window
from nstray.output.records import Counts, iso_time
from nstray.text import duration


def status(out: str) -> dict[str, Any]:
    """How far the job of `out` is, from its record, indexes and footers alone; JSON-ready.

    ``state`` is complete once the summary is there and no row is missing. ``seconds`` are device-seconds; times are ISO 8601 in UTC.
    ``run``, where a driver says what it is doing, is what `nstray.commands.status.run_status` gives.
    ``last_run`` is what the run that completed it took, ``estimate`` what a probe had said of it (`nstray.commands.cost`);
    empty where neither is known.
    Raises `OutputError` where there is no job.
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


FRESH = 60.0  # seconds after which a file is taken for a dead driver's
_SHOWN = 40  # workers that are listed


def run_status(output: Output) -> dict[str, Any] | None:
    """What is written there with its age in seconds, whether it is fresh, and the names of the stragglers; JSON-ready."""
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
    """What `status` gave, for people: a word or two under each name."""
    age = f"{duration(run['age_seconds'])} ago by driver {run['writer']} on {run['host']}"
    if not run["fresh"]:
        return {"run": f"silent; last heard of {age}: it was killed, or can't write to the output"}
    eta = duration(run["eta_seconds"])
    if run["eta_low_seconds"] is not None:
        eta += f" ({duration(run['eta_low_seconds'])} to {duration(run['eta_high_seconds'])} in 8 of 10 cases)"
    states = Counter(worker["state"] for worker in run["workers"])
    rates = [f"{run['pairs_per_second']:.3g} pairs/s"]
    rates += (
        [f"{run['evaluations_per_second']:.3g} evaluations/s"]
        if run["evaluations_per_second"] is not None
        else []
    )
    rates += [f"devices busy {run['busy']:.0%}"] if run["busy"] is not None else []
    behind = [
        f"{w['name']} ({duration(w['seconds'])} on {w['part']})"
        for w in run["workers"]
        if w["straggler"]
    ]
    words = {
        "run": f"begun {run['begun_at']}, written {age}",
        "workers": ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none",
        "stragglers": ", ".join(behind[:_SHOWN]) or "none",
        "shards": f"{run['in_flight_shards']} with workers, {run['backlog_shards']} waiting, median {duration(run['median_shard_seconds'])}",
        "rate": ", ".join(rates),
        "eta": eta,
    }
    if run["others"]:
        words["drivers"] = (
            f"{1 + len(run['others'])} write to this output at once: {', '.join([run['writer'], *run['others']][:_SHOWN])}"
        )
    return words


def worker_table(run: Mapping[str, Any]) -> list[str]:
    """The workers of what `status` gave, a line each under a head: those that want looking at first; none where it is not fresh."""
    if not run["fresh"] or not run["workers"]:
        return []
    urgency = {"stalled": 0, "leaving": 1, "busy": 2, "idle": 3, "starting": 4}
    workers = sorted(run["workers"], key=lambda w: 1 if w["straggler"] else urgency[w["state"]])
    lines = [
        (
            "worker",
            "state",
            "host",
            "device",
            "part",
            "rows",
            "for",
            "quiet",
            "evaluations",
            "on the device",
        )
    ]
    for w in workers[:_SHOWN]:
        state = "straggling" if w["straggler"] and w["state"] == "busy" else w["state"]
        pairs = ", ".join(w["pairs"][:3]) + (
            f" and {len(w['pairs']) - 3} more" if len(w["pairs"]) > 3 else ""
        )
        times = ["" if w[key] is None else duration(w[key]) for key in ("seconds", "quiet")]
        lines.append(
            (
                w["name"],
                state,
                w["host"] or "",
                w["device"] or "",
                w["part"] or "",
                str(w["rows"] or ""),
                *times,
                str(w["evaluations"]),
                pairs,
            )
        )
    return [
        *_aligned(lines),
        *([f"and {len(workers) - _SHOWN} more: see --json"] if len(workers) > _SHOWN else []),
    ]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
