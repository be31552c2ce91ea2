"""What `nstray status` prints: where the job stands first, the rest if it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nstray.commands.printing import field_lines, fitting_table, record_lines
from nstray.output.live_status import EVERY
from nstray.text import counted, duration, speed

_LISTED = 40  # workers named at most
_URGENCY = {"stalled": 0, "leaving": 1, "busy": 2, "idle": 3, "starting": 4}
_ASIDE = ("activity", "error_examples", "next", "run")  # keys that the first lines say in words


def status_lines(
    answer: Mapping[str, Any], *, verbose: bool = False, columns: int | None = None
) -> list[str]:
    """What `nstray.commands.status.status` gave, for a person.

    Args:
        verbose: with hashes, settings, times and every worker.
        columns: of the terminal; None does not wrap.
    """
    lines = field_lines(_lead(answer), columns)
    if not verbose:
        return lines
    run = answer.get("run")
    about = {key: value for key, value in answer.items() if key not in _ASIDE}
    lines += ["", *record_lines({**about, **({} if run is None else run_summary(run))}, columns)]
    return lines + ([] if run is None else worker_table(run))


def progress_line(answer: Mapping[str, Any]) -> str:
    """Where the job stands, on one line."""
    done, total = answer["rows_done"], answer["rows_total"]
    words = f"{answer['activity']}: {done:,} of {counted(total, 'pair')}"
    words += f" ({100 * done // total} %)"
    if errors := sum(answer["errors"].values()):
        words += f", {counted(errors, 'error row')}"
    return words


def change_line(answer: Mapping[str, Any]) -> str:
    """`progress_line`, and when the job will end."""
    words = progress_line(answer)
    if answer["activity"] == "running" and answer["run"]["eta_seconds"] is not None:
        words += f", ETA {duration(answer['run']['eta_seconds'])}"
    return words


def _lead(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines that come first, each behind its name."""
    run = answer.get("run")
    lines = [("state", progress_line(answer))]
    if answer["activity"] == "running" and run is not None:
        words = run_summary(run)
        known = {"eta": run["eta_seconds"] is not None, "rate": run["pairs_per_second"] > 0}
        lines += [(name, words[name]) for name, there in known.items() if there]
        lines.append(("workers", words["workers"]))
        lines += [(name, words[name]) for name in ("stragglers", "drivers") if run[_OF[name]]]
    elif run is not None and answer["activity"] == "silent":
        lines.append(("run", run_summary(run)["run"]))
    for code, number in answer["errors"].items():
        words_of = f"{number:,} {code}"
        if example := answer["error_examples"].get(code):
            words_of += f", such as {example['pair_id']}: {example['error_message']}"
        lines.append(("errors", words_of))
    return [*lines, ("next", answer["next"])] if answer["next"] else lines


_OF = {"stragglers": "stragglers", "drivers": "others"}


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
    rates = [speed(run["pairs_per_second"])]
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


def worker_table(run: Mapping[str, Any], columns: int | None = None) -> list[str]:
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
    rows = [_worker_row(worker) for worker in workers[:_LISTED]]
    lines = fitting_table(headings, rows, columns)
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
