"""`nstray sheet`: a labelled sheet of an output's pictures."""

from __future__ import annotations

from collections.abc import Callable

from nstray.commands import ray_job
from nstray.errors import UsageError
from nstray.output.folder import Output
from nstray.reports import contact_sheet, drawing, figure

DEFAULT_LIMIT = 24


def sheet(
    out: str,
    target: str,
    *,
    rows: str | None = None,
    columns: str | None = None,
    title: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    say: Callable[[str], object] = lambda _line: None,
) -> int:
    """Draw the pictures of `out` at `target` (.png or .pdf, local or s3://).

    Draws a figure if a column gives each picture's row, and a contact sheet otherwise.

    Args:
        rows, columns: names of carried columns; default: ``figure_row`` and ``figure_column``, if
            carried.
        limit: pairs at most; default: 24 of a contact sheet, 200 of a figure. A figure is drawn
            whole or not at all.
        seed: of the sample that a contact sheet shows.
        say: called with a line about what a contact sheet shows.

    Returns the number of pairs shown. Raises `UsageError` for a column that is not carried, two
    pairs in one cell, too many pairs or another ending of `target`; `OutputError` if there is no
    job, or no row yet.
    """
    drawing.kind_of(target)  # another ending is refused before anything is read
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1; got {limit}")
    ray_job.refuse_its_folder("-o", target)
    output = Output(out)
    job = output.job.read()
    rows, columns = figure.layout_columns(job, rows, columns)
    if rows is None:
        most = DEFAULT_LIMIT if limit is None else limit
        return contact_sheet.contact_sheet(out, target, limit=most, title=title, seed=seed, say=say)
    most = figure.MOST if limit is None else limit
    return figure.figure(output, job, target, rows, columns, title=title, limit=most)
