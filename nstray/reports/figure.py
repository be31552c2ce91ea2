"""A sheet laid out as a paper's figure: carried columns give each picture's row and column."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from nstray import storage
from nstray.errors import OutputError, UsageError
from nstray.output.folder import Output
from nstray.output.reader import part_uris, read_rows
from nstray.output.schema import carried_schema
from nstray.reports import cells, drawing, pictures
from nstray.reports.drawing import Cell, Sheet

# Columns that are used without being named, if the manifest carries them.
ROWS, COLUMNS, ORDER = "figure_row", "figure_column", "figure_order"
MOST = 200  # pictures of a figure; more are rather a mistake than a figure


def figure(
    output: Output,
    job: dict[str, Any],
    target: str,
    rows: str,
    columns: str | None,
    *,
    title: str | None = None,
    limit: int = MOST,
) -> int:
    """Draw a figure of a job's pictures at `target` (.png or .pdf, local or s3://).

    Args:
        rows, columns: names of carried columns. Without `columns` the pictures of a row stand side
            by side, under their pair ids.
        limit: pairs at most; a figure is drawn whole or not at all.

    Labels are the columns' values, in order: numbers by value, also if a column holds them as
    text, and other text with the numbers in it by value. If a column ``figure_order`` is carried,
    they are in the order in which they first appear by it. An error row is a grey cell with its
    code.
    Returns the number of pairs shown. Raises `UsageError` for two pairs in one cell, too many pairs
    or another ending of `target`; `OutputError` if there is no row yet.
    """
    kind = drawing.kind_of(target)
    if job["rows"] > limit:
        raise UsageError(
            f"{output} has {job['rows']:,} pairs, more than the {limit} of a figure; "
            "raise --limit, or make a job of the figure's pairs"
        )
    pairs = _read(output, job, rows, columns)
    if not pairs:
        raise OutputError(f"{output} has no rows yet: nothing to show")
    lines, row_labels, column_labels = _arranged(pairs, rows, columns)
    found = pictures.results(pairs, drawing.PDF_PICTURE if kind == "pdf" else drawing.PICTURE)
    if title is None:
        title = storage.name(output.out)
    hole = None if len(pairs) == job["rows"] else Cell(text="no such pair yet")

    def cell(pair: dict[str, Any] | None) -> Cell | None:
        if pair is None:
            return hole
        return cells.result_cell(
            pair, found.get(pair["pair_id"]), "" if columns else cells.short(pair["pair_id"])
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
    return len(pairs)


def layout_columns(
    job: dict[str, Any], rows: str | None, columns: str | None
) -> tuple[str | None, str | None]:
    """The columns that give a picture's row and column; no row column means there is no figure.

    Args:
        rows, columns: those that the user named; default: ``figure_row`` and ``figure_column``, if
            the manifest carries them.

    Raises `UsageError` for a column that the manifest does not carry.
    """
    carried = carried_schema(job).names
    for name in (rows, columns):
        if name is not None and name not in carried:
            there = f"carries {', '.join(carried)}" if carried else "carries no column"
            raise UsageError(
                f"no column {name} in the output: the manifest {there} beside nstray's own; "
                "a figure's rows and columns are carried columns"
            )
    if rows is None and columns is not None and ROWS in carried:
        return ROWS, columns
    if rows is None and columns is not None:
        raise UsageError(
            "--columns needs --rows: the column that gives a picture's row of the figure"
        )
    if rows is None and ROWS in carried:
        return ROWS, COLUMNS if COLUMNS in carried else None
    return rows, columns


def _read(
    output: Output, job: dict[str, Any], rows: str, columns: str | None
) -> list[dict[str, Any]]:
    """The pairs without their pictures, in the figure's order.

    Their ``row`` and ``column`` are labels; ``row_key`` and ``column_key`` sort them.
    """
    carried = carried_schema(job).names
    names = [
        "pair_id",
        "status",
        "error_code",
        *(name for name in carried if name in (rows, columns, ORDER)),
    ]
    read = [
        {**row, "uri": uri}
        for uri in part_uris(output, job)
        for group in read_rows(uri, names)
        for row in group
    ]
    keys = {
        name: _keys([row.get(name) for row in read])
        for name in dict.fromkeys((rows, columns, ORDER))
        if name is not None
    }
    found = []
    for i, row in enumerate(read):
        place = {"row": label(row[rows]), "row_key": keys[rows][i]}
        if columns is not None:
            place |= {"column": label(row[columns]), "column_key": keys[columns][i]}
        own = {name: row[name] for name in ("pair_id", "status", "error_code", "uri")}
        found.append({**own, **place, "order": keys[ORDER][i]})
    return sorted(found, key=lambda row: (row["order"], _key(row["pair_id"])))


def _labels(pairs: list[dict[str, Any]], role: str) -> list[str]:
    """The labels of the rows or columns (`role`) in their order: each by the first of its pairs."""
    first: dict[str, Any] = {}
    for pair in pairs:  # they are in the order of `figure_order`
        first.setdefault(pair[role], (pair["order"], pair[f"{role}_key"]))
    return sorted(first, key=lambda text: first[text])


def _arranged(
    pairs: list[dict[str, Any]], rows: str, columns: str | None
) -> tuple[list[list[dict[str, Any] | None]], list[str], list[str]]:
    """The pairs line by line, and the labels of the rows and of the columns.

    A cell without a pair is None. Raises `UsageError` for two pairs in a cell.
    """
    row_labels = _labels(pairs, "row")
    if columns is None:
        return (
            [[pair for pair in pairs if pair["row"] == row] for row in row_labels],
            row_labels,
            [],
        )
    column_labels = _labels(pairs, "column")
    placed: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in pairs:
        other = placed.setdefault((pair["row"], pair["column"]), pair)
        if other is not pair:
            raise UsageError(
                f"pairs {other['pair_id']} and {pair['pair_id']} both stand in "
                f"row {pair['row']!r}, column {pair['column']!r} of {rows} x {columns}: "
                "a cell holds one picture; "
                "name another column, or --rows alone for a row's pictures side by side"
            )
    return (
        [[placed.get((row, column)) for column in column_labels] for row in row_labels],
        row_labels,
        column_labels,
    )


def label(value: Any) -> str:
    """`value` as a label; a number has its shorter form: 1e-4, not 0.0001."""
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    plain = _exponent(f"{value:.12g}")
    power = _exponent(re.sub(r"\.?0*e", "e", f"{value:.11e}"))
    return power if 0 < abs(value) < 0.1 and len(power) <= len(plain) else plain


def _exponent(text: str) -> str:
    """1e-05 as 1e-5, 1e+20 as 1e20."""
    return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), text)


def _keys(values: list[Any]) -> list[tuple[Any, ...]]:
    """A key for each value of a column; text that is all numbers is sorted by value."""
    texts = [value for value in values if value is not None and value != ""]
    if not texts or any(_number(value) is None for value in texts):
        return [_key(value) for value in values]
    numbers = ((value, _number(value)) for value in values)
    return [(2,) if number is None else (0, number, value) for value, number in numbers]


def _number(value: Any) -> Decimal | None:
    """The number that a text spells; None for anything else, and for NaN and infinities."""
    if not isinstance(value, str):
        return None
    try:
        number = Decimal(value.strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _key(value: Any) -> tuple[Any, ...]:
    """A key that sorts numbers by value, text with the numbers in it by value, and null last."""
    if isinstance(value, int | float) and value == value:
        return 0, value
    if value is None or isinstance(value, float):  # null or NaN
        return (2,)
    parts = re.split(r"([0-9]+)", str(value).casefold())
    # digits by length, then as text: that is by value, for any length
    return 1, [
        (len(digits := part.lstrip("0")), digits) if i % 2 else part for i, part in enumerate(parts)
    ]
