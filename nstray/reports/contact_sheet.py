"""A contact sheet: contents x styles as a grid, or pictures in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nstray import storage
from nstray.errors import OutputError, UsageError
from nstray.output.folder import Output
from nstray.output.reader import part_uris, read_rows
from nstray.reports.cells import (
    caption,
    content_digests,
    original,
    pictures,
    result_cell,
    short,
    style_cell,
)
from nstray.reports.drawing import PDF_PICTURE, PICTURE, Cell, Sheet, kind_of, save
from nstray.text import counted

_SCANNED = 2048  # rows read for a grid: a sheet must not read a whole dataset
_FILLED = 0.6  # share of cells with a picture; a grid with fewer says less than a plain list
Key = tuple[str, tuple[str, ...]]


def _key(row: dict[str, Any]) -> Key:
    return row["content_uri"] or "", tuple(style or "" for style in row["style_uri"] or ())


def choose_grid(keys: Sequence[Key], limit: int) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """The contents (rows) and styles (columns) of the fullest grid of at most `limit` cells.

    None if the pairs form no grid: a pair of images occurs twice (with other seeds, for example),
    or more than two cells in five would be empty.
    """
    if len(set(keys)) != len(keys):
        return None
    per_content: dict[str, int] = {}
    per_style: dict[tuple[str, ...], int] = {}
    for content, style in keys:
        per_content[content] = per_content.get(content, 0) + 1
        per_style[style] = per_style.get(style, 0) + 1
    contents = sorted(per_content, key=lambda c: (-per_content[c], c))
    styles = sorted(per_style, key=lambda s: (-per_style[s], s))
    shapes = [(k, min(len(styles), limit // k)) for k in range(1, min(len(contents), limit) + 1)]
    k, m = max(shapes, key=lambda shape: (shape[0] * shape[1], -abs(shape[0] - shape[1])))
    chosen = set(contents[:k]), set(styles[:m])
    filled = sum(content in chosen[0] and style in chosen[1] for content, style in keys)
    if filled < _FILLED * k * m:
        return None
    return sorted(chosen[0]), sorted(chosen[1])


def _scan(output: Output, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The first rows of an output, without pictures, each with the ``uri`` of its part."""
    columns = [
        *("pair_id", "content_uri", "style_uri", "content_sha256", "style_sha256"),
        *("status", "error_code"),
    ]
    rows: list[dict[str, Any]] = []
    for uri in part_uris(output, job):
        for group in read_rows(uri, columns):
            rows += [{**row, "uri": uri} for row in group]
        if len(rows) >= _SCANNED:
            break
    return rows


def _cells(
    rows: list[dict[str, Any]], limit: int, size: int, base: str
) -> tuple[list[list[Cell | None]], int]:
    """The cells line by line, and how many rows they show."""
    grid = choose_grid([_key(row) for row in rows], limit)
    if grid is None:
        rows = rows[:limit]
        found = pictures(rows, size)
        cells: list[Cell | None] = [
            result_cell(row, found.get(row["pair_id"]), short(row["pair_id"])) for row in rows
        ]
        across = math.ceil(math.sqrt(len(cells) * 1.4))
        return [cells[i : i + across] for i in range(0, len(cells), across)], len(cells)
    contents, styles = grid
    digests = content_digests(rows)
    by_key = {_key(row): row for row in rows}
    shown = [by_key[c, s] for c in contents for s in styles if (c, s) in by_key]
    found = pictures(shown, size)
    sheet: list[list[Cell | None]] = [
        [None, *(style_cell(style, digests, size, base) for style in styles)]
    ]
    for content in contents:
        pixels = original(content, digests.get(content), size, base)
        line: list[Cell | None] = [Cell(short(content), pixels, "not readable", original=True)]
        for style in styles:
            row = by_key.get((content, style))
            line.append(result_cell(row, found.get(row["pair_id"]) if row else None, ""))
        sheet.append(line)
    return sheet, len(shown)


def contact_sheet(out: str, target: str, *, limit: int = 24, title: str | None = None) -> int:
    """Draw up to `limit` pictures of `out` as one sheet at `target` (.png or .pdf, local or s3://).

    If contents x styles form a grid, the originals stand in the first column and the first row.
    Otherwise the pictures stand in order under their pair ids. An error row is a grey cell with its
    code. Returns the number of pairs shown. Raises `UsageError` for another ending, `OutputError`
    if there is no job, or no row yet.
    """
    size = PDF_PICTURE if kind_of(target) == "pdf" else PICTURE
    if limit < 1:
        raise UsageError(f"limit must be at least 1; got {limit}")
    output = Output(out)
    job = output.job.read()
    rows = _scan(output, job)
    if not rows:
        raise OutputError(f"{output} has no rows yet: nothing to show")
    cells, shown = _cells(rows, limit, size, str(job.get("base") or ""))
    if title is None:
        title = f"{storage.name(output.out)}: {shown} of {counted(job['rows'], 'pair')}"
    save(Sheet(cells, title, caption(job)), target)
    return shown
