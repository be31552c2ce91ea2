"""A contact sheet: contents x styles as a grid, or pictures in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nstray import storage
from nstray.errors import OutputError, UsageError
from nstray.output.folder import Output
from nstray.reports.cells import caption, content_cell, result_cell, short, style_cell
from nstray.reports.drawing import PDF_PICTURE, PICTURE, Cell, Pixels, Sheet, kind_of, save
from nstray.reports.pictures import Originals, content_digests, results
from nstray.reports.sampling import Sample, by_strata, draw
from nstray.reports.survey import Survey, Window, survey
from nstray.text import counted

_PARTS, _ROWS = 128, 2048  # read at most: a sheet must not read a whole dataset
_ACROSS = 11  # cells in a line of pairs
_LONG = 8  # styles in a grid of one content; more make a sheet too wide to look at
_FILLED = 0.6  # share of cells with a picture; a grid with fewer says less than a plain list
Key = tuple[str, tuple[str, ...]]


def _key(row: dict[str, Any]) -> Key:
    return row["content_uri"] or "", tuple(style or "" for style in row["style_uri"] or ())


def choose_grid(keys: Sequence[Key], limit: int) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """The contents (rows) and styles (columns) of the fullest grid of at most `limit` cells.

    It has all styles if there are no more than `limit`. None if the pairs form no grid: a pair of
    images occurs twice (with other seeds, for example), or more than two cells in five would be
    empty.
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
    if len(styles) <= limit:  # all of them
        shapes = [shape for shape in shapes if shape[1] == len(styles)]
    k, m = max(shapes, key=lambda shape: (shape[0] * shape[1], -abs(shape[0] - shape[1])))
    if k == 1 < len(contents) and m > _LONG:
        return None
    chosen = set(contents[:k]), set(styles[:m])
    filled = sum(content in chosen[0] and style in chosen[1] for content, style in keys)
    if filled < _FILLED * k * m:
        return None
    return sorted(chosen[0]), sorted(chosen[1])


def _grid_cells(
    rows: list[dict[str, Any]],
    grid: tuple[list[str], list[tuple[str, ...]]],
    size: int,
    base: str,
) -> tuple[list[list[Cell | None]], list[dict[str, Any]]]:
    """The cells of a grid line by line, and the rows that they show."""
    contents, styles = grid
    by_key = {_key(row): row for row in rows}
    shown = [by_key[c, s] for c in contents for s in styles if (c, s) in by_key]
    found, originals = results(shown, size), _originals(shown, size, base, rows)
    sheet: list[list[Cell | None]] = [
        [None, *(style_cell(style, originals, size) for style in styles)]
    ]
    for content in contents:
        line: list[Cell | None] = [content_cell(content, originals)]
        for style in styles:
            row = by_key.get((content, style))
            line.append(result_cell(row, found.get(row["pair_id"]) if row else None, ""))
        sheet.append(line)
    return sheet, shown


def _style_cells(rows: list[dict[str, Any]], size: int, base: str) -> list[list[Cell | None]]:
    """The cells line by line: each style's original, then its pairs as content and result."""
    found, originals = results(rows, size), _originals(rows, size, base, rows)
    by_style: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=_key):
        by_style.setdefault(_key(row)[1], []).append(row)
    pairs = min(_ACROSS // 2, max(map(len, by_style.values())))
    blocks: list[list[Cell | None]] = []
    for style, own in by_style.items():
        for i in range(0, len(own), pairs):
            block = [None if i else style_cell(style, originals, size)]
            for row in own[i : i + pairs]:
                label = short(row["pair_id"])
                block.append(content_cell(_key(row)[0], originals))
                block.append(result_cell(row, found.get(row["pair_id"]), label))
            blocks.append(block)
    beside = max(1, _ACROSS // (1 + 2 * pairs))
    return [
        [cell for block in blocks[i : i + beside] for cell in block]
        for i in range(0, len(blocks), beside)
    ]


def _originals(
    rows: list[dict[str, Any]], size: int, base: str, sampled: list[dict[str, Any]]
) -> dict[str, Pixels | str]:
    """The input images of rows by their URI; an error row's digests may stand in other rows."""
    digests = content_digests(sampled)
    uris = [uri for row in rows for uri in (_key(row)[0], *_key(row)[1]) if uri]
    return Originals(base, size).read_all({uri: digests.get(uri) for uri in uris})


def contact_sheet(
    out: str,
    target: str,
    *,
    limit: int = 24,
    title: str | None = None,
    seed: int = 0,
    say: Callable[[str], object] = lambda _line: None,
) -> int:
    """Draw up to `limit` pictures of `out` as one sheet at `target` (.png or .pdf, local or s3://).

    They are drawn by style, label and status from the whole output, so that all styles appear if
    there are no more than `limit`. If contents x styles form a grid, the originals stand in the
    first column and the first row. Otherwise each style stands before its pairs, and each pair's
    content before its picture. An error row is a grey cell with its code, and an original that
    can't be read is one that says why. Returns the number of pairs shown. Raises `UsageError` for
    another ending, `OutputError` if there is no job, no row yet, or a damaged part among
    those read.

    Args:
        seed: of the sample.
        say: called with a line about what the sheet shows.
    """
    size = PDF_PICTURE if kind_of(target) == "pdf" else PICTURE
    if limit < 1:
        raise UsageError(f"limit must be at least 1; got {limit}")
    output = Output(out)
    job = output.job.read()
    found = survey(output, job, seed)
    sample = draw(found, job, seed=seed, parts=_PARTS, rows=_ROWS)
    if sample.damaged:
        raise OutputError("\n".join(sample.damaged))
    if not sample.rows:
        raise OutputError(f"{output} has no rows yet: nothing to show")
    base = str(job.get("base") or "")
    grid = choose_grid([_key(row) for row in sample.rows], limit)
    if grid is None:
        rows = by_strata(sample.rows, limit, seed)
        cells = _style_cells(rows, size, base)
    else:
        cells, rows = _grid_cells(sample.rows, grid, size, base)
    words = _words(rows, sample, found)
    if title is None:
        title = f"{storage.name(output.out)}: {len(rows)} of {counted(job['rows'], 'pair')}"
    save(Sheet(cells, title, f"{caption(job)} · {words}"), target)
    say(words)
    return len(rows)


def _words(rows: Sequence[Mapping[str, Any]], sample: Sample, found: Survey) -> str:
    """What a sheet shows, in words."""
    styles = {row["style"] for row in sample.rows}
    known = sample.whole
    if not known and all(window.small and window.small.styles for window in found.windows):
        known = found.all_windows == len(found.windows)
        styles |= {key for window in found.windows for key in _known_styles(window)}
    shown = len({row["style"] for row in rows})
    of = (
        f"{shown} of {len(styles)} styles" if known else f"{shown} of the {len(styles)} styles seen"
    )
    return f"{len(rows):,} of {sample.total:,} rows, {of}, drawn from {sample.words}" + (
        "" if "seed" in sample.words else f"; seed {sample.seed}"
    )


def _known_styles(window: Window) -> Mapping[str, Any]:
    return (window.small.styles if window.small else None) or {}
