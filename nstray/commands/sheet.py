"""A sheet laid out as a paper's figure: columns of the manifest say in which row and which column a picture stands."""

from __future__ import annotations

import re
from typing import Any

from nstray import storage
from nstray.errors import OutputError, UsageError
from nstray.output.folder import Output
from nstray.output.reader import part_uris, read_rows
from nstray.output.schema import carried_schema
from nstray.reports import cells, contact_sheet, drawing
from nstray.reports.drawing import Cell, Sheet

ROWS, COLUMNS, ORDER = (
    "figure_row",
    "figure_column",
    "figure_order",
)  # read unasked where a manifest carries them
MOST = 200  # a figure of more pictures is rather a mistake than a figure
DEFAULT_LIMIT = 24


def sheet(
    out: str,
    target: str,
    *,
    rows: str | None = None,
    columns: str | None = None,
    title: str | None = None,
    limit: int | None = None,
) -> int:
    """Draw a figure of `out` at `target` (.png or .pdf, local or s3://), or a contact sheet where no column says where a picture stands.

    Args:
        rows, columns: names of carried columns; default: ``figure_row`` and ``figure_column``, if carried. Without `columns` the
            pictures of a row stand side by side, under their pair ids.
        limit: pictures at most: 24 of a contact sheet; a figure, of up to 200, is drawn whole or not at all.

    Labels are the columns' values. They are in order: numbers by value, text with the numbers in it by value; or, where a
    column ``figure_order`` is carried, in the order in which they first appear by it. An error row is a grey cell with its code.
    Returns the number of pairs shown. Raises `UsageError` for a column that is not carried, two pairs in one cell, too many
    pairs or another ending of `target`; `OutputError` where there is no job, or no row yet.
    """
    kind = drawing.kind_of(target)
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1; got {limit}")
    output = Output(out)
    job = output.job.read()
    rows, columns = _chosen(job, rows, columns)
    if rows is None:
        return contact_sheet.contact_sheet(
            out, target, limit=DEFAULT_LIMIT if limit is None else limit, title=title
        )
    most = MOST if limit is None else limit
    if job["rows"] > most:
        raise UsageError(
            f"{output} has {job['rows']:,} pairs, more than the {most} of a figure; raise --limit, or make a job of the figure's pairs"
        )
    found = _read(output, job, rows, columns)
    if not found:
        raise OutputError(f"{output} has no rows yet: nothing to show")
    lines, row_labels, column_labels = _arranged(found, rows, columns)
    pictures = cells.pictures(found, drawing.PDF_PICTURE if kind == "pdf" else drawing.PICTURE)
    if title is None:
        title = storage.name(output.out)
    hole = None if len(found) == job["rows"] else Cell(text="no such pair yet")

    def cell(pair: dict[str, Any] | None) -> Cell | None:
        if pair is None:
            return hole
        return cells.result_cell(
            pair, pictures.get(pair["pair_id"]), "" if columns else cells.short(pair["pair_id"])
        )

    drawing.save(
        Sheet(
            [[cell(pair) for pair in line] for line in lines],
            title,
            cells.caption(job, figure=True),
            row_labels,
            column_labels,
        ),
        target,
    )
    return len(found)


def _chosen(
    job: dict[str, Any], rows: str | None, columns: str | None
) -> tuple[str | None, str | None]:
    """The columns of the layout; raises `UsageError` for one that the manifest does not carry."""
    carried = carried_schema(job).names
    for name in (rows, columns):
        if name is not None and name not in carried:
            known = f"carries {', '.join(carried)}" if carried else "carries no column"
            raise UsageError(
                f"no column {name} in the output: the manifest {known} beside nstray's own; a figure's rows and columns are carried columns"
            )
    if rows is None and columns is not None and ROWS in carried:
        return ROWS, columns
    if rows is None and columns is not None:
        raise UsageError(
            "--columns needs --rows: the column that says in which row of the figure a picture stands"
        )
    if rows is None and ROWS in carried:
        return ROWS, COLUMNS if COLUMNS in carried else None
    return rows, columns


def _read(
    output: Output, job: dict[str, Any], rows: str, columns: str | None
) -> list[dict[str, Any]]:
    """The pairs without their pictures, in the figure's order, with ``row`` and ``column`` as labels and the keys that sort them."""
    carried = carried_schema(job).names
    names = [
        "pair_id",
        "status",
        "error_code",
        *(name for name in carried if name in (rows, columns, ORDER)),
    ]
    found = []
    for uri in part_uris(output, job):
        for group in read_rows(uri, names):
            for row in group:
                place = {"row": _label(row[rows]), "row_key": _key(row[rows])}
                if columns is not None:
                    place |= {"column": _label(row[columns]), "column_key": _key(row[columns])}
                own = {name: row[name] for name in ("pair_id", "status", "error_code")}
                found.append({**own, **place, "order": _key(row.get(ORDER)), "uri": uri})
    return sorted(found, key=lambda row: (row["order"], _key(row["pair_id"])))


def _labels(found: list[dict[str, Any]], role: str) -> list[str]:
    """The labels of the rows or columns in their order: each by the first of its pairs."""
    first: dict[str, Any] = {}
    for row in found:  # which are in the order of `figure_order`
        first.setdefault(row[role], (row["order"], row[f"{role}_key"]))
    return sorted(first, key=lambda label: first[label])


def _arranged(
    found: list[dict[str, Any]], rows: str, columns: str | None
) -> tuple[list[list[dict[str, Any] | None]], list[str], list[str]]:
    """The pairs line by line, None where a cell has none, and the labels of the rows and columns; raises `UsageError` for two pairs in a cell."""
    row_labels = _labels(found, "row")
    if columns is None:
        return (
            [[pair for pair in found if pair["row"] == row] for row in row_labels],
            row_labels,
            [],
        )
    column_labels = _labels(found, "column")
    placed: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in found:
        other = placed.setdefault((pair["row"], pair["column"]), pair)
        if other is not pair:
            raise UsageError(
                f"pairs {other['pair_id']} and {pair['pair_id']} both stand in row {pair['row']!r}, column {pair['column']!r} of {rows} x {columns}: "
                "a cell holds one picture; name another column, or --rows alone for a row's pictures side by side"
            )
    return (
        [[placed.get((row, column)) for column in column_labels] for row in row_labels],
        row_labels,
        column_labels,
    )


def _label(value: Any) -> str:
    """A value as a label: a number in its shorter form, 1e-4 rather than 0.0001."""
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    plain = _exponent(f"{value:.12g}")
    power = _exponent(re.sub(r"\.?0*e", "e", f"{value:.11e}"))
    return power if 0 < abs(value) < 0.1 and len(power) <= len(plain) else plain


def _exponent(text: str) -> str:
    """1e-05 as 1e-5, 1e+20 as 1e20."""
    return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), text)


def _key(value: Any) -> tuple[Any, ...]:
    """Sorts numbers by value, text with the numbers in it by value, and nothing last."""
    if isinstance(value, int | float) and value == value:
        return 0, value
    if value is None or isinstance(value, float):  # nothing, or not a number
        return (2,)
    parts = re.split(r"([0-9]+)", str(value).casefold())
    # digits by length, then as text: by value, of whatever length
    return 1, [
        (len(digits := part.lstrip("0")), digits) if i % 2 else part for i, part in enumerate(parts)
    ]
