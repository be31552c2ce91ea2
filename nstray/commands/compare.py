"""`nstray compare`: two outputs as one page, pair by pair."""

from __future__ import annotations

from nstray import storage
from nstray.commands.report import check_target
from nstray.reports.compared import PAIRS, gather_compare
from nstray.reports.page import render_compare
from nstray.reports.report_data import Compare


def compare(
    left: str,
    right: str,
    target: str,
    *,
    seed: int = 0,
    limit: int = PAIRS,
    title: str | None = None,
) -> Compare:
    """Write the comparison of two outputs to `target` (.html, local or s3://); returns its data.

    A file that is there is replaced. Raises `UsageError` for another ending, a limit below 1 or
    twice the same output, `OutputError` if one of them has no job.

    Args:
        seed: of the sample.
        limit: pairs that are shown at most.
    """
    check_target(target, limit)
    found = gather_compare(left, right, seed=seed, limit=limit, title=title)
    storage.put_over(storage.absolute(target), render_compare(found).encode())
    return found
