"""`nstray report`: one output as a page that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nstray import storage
from nstray.commands import ray_job
from nstray.commands.cost import COMPARED, cost_summary
from nstray.errors import UsageError
from nstray.output.folder import Output
from nstray.reports.gather import GALLERY, gather
from nstray.reports.page import render_report
from nstray.reports.report_data import Report
from nstray.text import duration


def report(
    out: str, target: str, *, seed: int = 0, limit: int = GALLERY, title: str | None = None
) -> Report:
    """Write the report of the output `out` to `target` (.html, local or s3://); returns its data.

    A file that is there is replaced. Raises `UsageError` for another ending or a limit below 1,
    `OutputError` if there is no job.

    Args:
        seed: of the sample.
        limit: pairs of the gallery at most.
    """
    check_target(target, limit)
    cost = cost_rows(Output(out).summary.read())
    found = gather(out, seed=seed, limit=limit, cost=cost, title=title)
    storage.put_over(storage.absolute(target), render_report(found).encode())
    return found


def check_target(target: str, limit: int) -> None:
    """Raise `UsageError` if a page can't be written to `target`, or if `limit` is below 1."""
    if not target.lower().endswith(".html"):
        raise UsageError(
            f"{storage.redact(target)}: a report is an .html file; give it this ending"
        )
    if limit < 1:
        raise UsageError(f"limit must be at least 1; got {limit}")
    ray_job.refuse_its_folder("-o", target)


def cost_rows(summary: Mapping[str, Any] | None) -> tuple[tuple[str, str, str], ...]:
    """What a run took beside what the probe had estimated: name, took, estimate."""
    told = cost_summary(summary)
    ran, estimate = told["last_run"], told["estimate"]
    return tuple(
        (_name(name), _text(name, ran.get(name)), _text(name, estimate.get(name)))
        for name in COMPARED
        if name in ran or name in estimate
    )


def _name(name: str) -> str:
    return name.replace("_per_s", " per second").replace("_", " ")


def _text(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "wall_seconds":
        return duration(value)
    if name == "bytes":
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,}" if type(value) is int else f"{value:,.4g}"
