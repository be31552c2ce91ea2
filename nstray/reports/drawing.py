"""What a person looks at: one labelled sheet of an output's pictures beside the images they were made from.

`draw` and `save` know nothing of where cells come from: `nstray.commands.sheet` lays out other sheets with them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nstray import config, storage
from nstray.commands.verify import MAX_PIXELS, part_uris, read_rows
from nstray.errors import OutputError, PairError, StorageError, UsageError
from nstray.images.decode import decode, fit
from nstray.output.folder import Output

Pixels = npt.NDArray[np.uint8]

MAX_BYTES = 1_500_000
_ORIGINAL_BYTES: int = config.JobConfig.model_fields["max_bytes"].default
_SCANNED = 2048  # rows looked at for a grid: a sheet must not read a whole dataset
_FILLED = 0.6  # a grid with more holes than this says less than a plain list
_CELL = 2.4  # inches, the longer side of a cell
_DPI = 110
_GAP, _LABEL, _MARGIN = 0.12, 0.24, 0.35  # inches
_SMALL, _LARGE = 7.0, 12.0  # points: labels and caption; title
_LETTER = 0.56 / 72  # inches per point of size: a letter of this typeface, measured
_ROW_LABEL = 22  # letters of a line of a row's label
PICTURE = int(_CELL * _DPI)  # pixels, the longer side of a cell in a PNG
PDF_PICTURE = 512  # a PDF holds the pictures themselves, up to this side
_INK, _SOFT, _GREY = "#1a1a1a", "#6b6b6b", "#dcdcdc"


@dataclass(frozen=True, eq=False)
class Cell:
    """One place of the sheet: a picture, or a text on grey; with a label below or above it."""

    label: str = ""
    pixels: Pixels | None = None
    text: str = ""
    original: bool = False


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is drawn: cells line by line (None is a blank), the title, and the caption below it; labels of the lines and of the columns."""

    cells: Sequence[Sequence[Cell | None]]
    title: str
    below: str
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()


Key = tuple[str, tuple[str, ...]]


def _key(row: dict[str, Any]) -> Key:
    return row["content_uri"] or "", tuple(style or "" for style in row["style_uri"] or ())


def choose_grid(keys: Sequence[Key], limit: int) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """The contents (rows) and styles (columns) of the fullest grid of at most `limit` cells; None where the pairs form none.

    They form none where a pair of images stands twice (other seeds, say), or where more than two cells in five would be empty.
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


def short(uri: str, width: int = 30) -> str:
    """The last piece of a path, or a name, cut in the middle to `width` letters."""
    name = uri.rstrip("/").rpartition("/")[2]
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def _style_label(style: tuple[str, ...]) -> str:
    return " + ".join(short(s, 30 // len(style)) for s in style) or "no style"


def _original(uri: str, digest: str | None, size: int) -> Pixels | None:
    """An input image made small; None where it can't be read any more, or its bytes are not those of `digest`, which the rows give.

    So an output of someone else's draws no file of this machine whose bytes its maker did not have.
    """
    try:
        data = storage.read(uri, max_bytes=_ORIGINAL_BYTES) if digest else b""
        if hashlib.sha256(data).hexdigest() != digest:
            return None
        pixels = decode(data, what=uri, max_bytes=_ORIGINAL_BYTES, max_pixels=MAX_PIXELS)
        return fit(pixels, size, "longest", False, what=uri)
    except (StorageError, UsageError, PairError):
        return None


def _digests(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The sha256 of each input image's bytes, as far as rows give it."""
    found: dict[str, str] = {}
    for row in rows:
        styles = zip(row["style_uri"] or (), row["style_sha256"] or (), strict=False)
        found |= {uri: digest for uri, digest in ((row["content_uri"], row["content_sha256"]), *styles) if uri and digest}
    return found


def _style_cell(style: tuple[str, ...], digests: Mapping[str, str], size: int) -> Cell:
    """The originals of a style; those of a blend stand side by side in one cell."""
    found = [_original(uri, digests.get(uri), size) for uri in style]
    label, text = _style_label(style), "not readable" if style else "no style"
    there = [pixels for pixels in found if pixels is not None]
    if len(there) < 2:
        return Cell(label, there[0] if there else None, text, original=True)
    square = [fit(pixels, f"{size // 2}x{size // 2}", "exact", True, what="style") for pixels in there]
    return Cell(label, np.concatenate(square, axis=1), text, original=True)


def result_cell(row: dict[str, Any] | None, picture: Pixels | None, label: str) -> Cell:
    """The cell of an output row: its picture, or its error's code."""
    return Cell(label, picture, "no such pair yet" if row is None else str(row["error_code"] or "not readable"))


def pictures(rows: Sequence[dict[str, Any]], size: int) -> dict[str, Pixels]:
    """The pictures of `rows` (which carry ``uri``, their part's) by pair id, made small."""
    wanted = {row["pair_id"] for row in rows if row["status"] == "ok"}
    found: dict[str, Pixels] = {}
    for uri in dict.fromkeys(row["uri"] for row in rows if row["status"] == "ok"):
        for group in read_rows(uri, ["pair_id", "image", "width", "height"]):
            for row in group:
                if row["pair_id"] in wanted and row["image"] is not None:
                    data = row["image"]["bytes"] or b""
                    most = min(MAX_PIXELS, (row["width"] or 0) * (row["height"] or 0))
                    with contextlib.suppress(PairError):
                        pixels = decode(data, what=row["pair_id"], max_bytes=len(data), max_pixels=most, own=True)
                        found[row["pair_id"]] = fit(pixels, size, "longest", False, what=row["pair_id"])
    return found


# Named in a caption only where a job departs from their defaults.
_DEPARTURES = ("coarse", "color", "style_scale", "style_layer_weights")


def caption(job: dict[str, Any], *, figure: bool = False) -> str:
    """The settings that a look at the pictures needs, in one line. The pairs of a `figure` often have their own alpha and beta.

    Raises `OutputError` where the record's settings are damaged.
    """
    try:
        return _caption(job, figure)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise OutputError(f"the job's record is damaged: its settings can't be read ({type(error).__name__}: {error})") from None


def _caption(job: dict[str, Any], figure: bool) -> str:
    r, usual = job["result"], config.make({}).result_fields()
    alpha, beta = r["content_weight"], r["style_weight"]
    ratio = " unless its row says otherwise" if figure else f" (ratio {alpha / beta:.2g})" if alpha and beta else ""
    source, identity = short(job.get("weights") or ""), job["weights_id"]
    weights = identity if identity.startswith(source) else f"{source} {identity}"
    return " · ".join(
        (
            f"weights {weights if len(weights) <= 44 else weights[:43] + '…'}",
            f"size {r['size']} {r['size_rule']}",
            f"{r['evaluations']} evaluations of {r['optimizer']} from {short(str(r['init']))}",
            f"α {alpha:g}, β {beta:g}{ratio}, {r['loss_scale']} scale",
            f"{r['pooling']} pooling",
            *(
                f"{name} {','.join(map(str, r[name])) if isinstance(r[name], list) else r[name]}"
                for name in _DEPARTURES
                if r.get(name, usual[name]) != usual[name]
            ),
        )
    )


def _scan(output: Output, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The first rows of an output, without pictures."""
    rows: list[dict[str, Any]] = []
    for uri in part_uris(output, job):
        for group in read_rows(uri, ["pair_id", "content_uri", "style_uri", "content_sha256", "style_sha256", "status", "error_code"]):
            rows += [{**row, "uri": uri} for row in group]
        if len(rows) >= _SCANNED:
            break
    return rows


def _cells(rows: list[dict[str, Any]], limit: int, size: int) -> tuple[list[list[Cell | None]], int]:
    """The cells, line by line, and how many rows they show."""
    grid = choose_grid([_key(row) for row in rows], limit)
    if grid is None:
        rows = rows[:limit]
        found = pictures(rows, size)
        cells: list[Cell | None] = [result_cell(row, found.get(row["pair_id"]), short(row["pair_id"])) for row in rows]
        across = math.ceil(math.sqrt(len(cells) * 1.4))
        return [cells[i : i + across] for i in range(0, len(cells), across)], len(cells)
    contents, styles = grid
    digests = _digests(rows)
    by_key = {_key(row): row for row in rows}
    shown = [by_key[c, s] for c in contents for s in styles if (c, s) in by_key]
    found = pictures(shown, size)
    sheet: list[list[Cell | None]] = [[None, *(_style_cell(style, digests, size) for style in styles)]]
    for content in contents:
        line: list[Cell | None] = [Cell(short(content), _original(content, digests.get(content), size), "not readable", original=True)]
        for style in styles:
            row = by_key.get((content, style))
            line.append(result_cell(row, found.get(row["pair_id"]) if row else None, ""))
        sheet.append(line)
    return sheet, len(shown)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` letters, broken between settings only."""
    lines: list[str] = []
    for item in text.split(" · "):
        if lines and len(lines[-1]) + len(item) + 3 <= width:
            lines[-1] += f" · {item}"
        else:
            lines.append(item)
    return lines


def _fold(text: str, width: float, points: float) -> list[str]:
    """`text` as lines of at most `width` inches, at least one."""
    return textwrap.wrap(text, max(1, int(width / (points * _LETTER)))) or [""]


def draw(sheet: Sheet, kind: str = "png", dpi: int = _DPI) -> bytes:
    """The sheet as PNG or PDF; a cell has the middle aspect ratio of the pictures in it."""
    ratios = [c.pixels.shape[1] / c.pixels.shape[0] for line in sheet.cells for c in line if c and c.pixels is not None and not c.original]
    ratio = min(2.0, max(0.5, statistics.median(ratios))) if ratios else 1.0
    cell_w, cell_h = (_CELL, _CELL / ratio) if ratio >= 1 else (_CELL * ratio, _CELL)
    across = max(len(line) for line in sheet.cells)
    labels = [_LABEL if any(c and c.label for c in line) else 0.0 for line in sheet.cells]
    names = [textwrap.wrap(text, _ROW_LABEL) for text in sheet.row_labels]
    edge = _MARGIN + max((len(text) for name in names for text in name), default=0) * _SMALL * _LETTER + (_GAP if names else 0.0)
    tops = [_fold(text, cell_w, _SMALL) for text in sheet.column_labels]
    above = max((_LABEL + 0.12 * (len(name) - 1) for name in tops), default=0.0)
    width = max(edge + _MARGIN + across * (cell_w + _GAP) - _GAP, 5.0)
    titles = _fold(sheet.title, width - 2 * _MARGIN, _LARGE * 1.15)  # bold
    lines = _wrap(sheet.below, int((width - 2 * _MARGIN) / (_LETTER * _SMALL)))
    head = 0.42 + 0.2 * (len(titles) - 1) + 0.15 * len(lines)
    height = 2 * _MARGIN + head + above + sum(labels) + len(sheet.cells) * (cell_h + _GAP)
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")

    def write(left: float, bottom: float, text: str, size: float = _SMALL, **more: Any) -> None:
        # parse_math: a name may hold dollar signs
        figure.text(left / width, bottom / height, text, parse_math=False, **{"fontsize": size, "color": _INK, **more})

    write(_MARGIN, height - _MARGIN, "\n".join(titles), _LARGE, weight="bold", va="top")
    write(_MARGIN, height - _MARGIN - 0.26 - 0.2 * (len(titles) - 1), "\n".join(lines), color=_SOFT, va="top", linespacing=1.4)
    top = height - _MARGIN - head - above
    for i, name in enumerate(tops):
        write(edge + i * (cell_w + _GAP) + cell_w / 2, top + 0.05, "\n".join(name), ha="center", va="bottom")
    for k, (line, label) in enumerate(zip(sheet.cells, labels, strict=True)):
        if names:
            write(_MARGIN, top - label - cell_h / 2, "\n".join(names[k]), va="center")
        for i, cell in enumerate(line):
            left = edge + i * (cell_w + _GAP)
            if cell is None:
                continue
            axes = figure.add_axes((left / width, (top - label - cell_h) / height, cell_w / width, cell_h / height))
            axes.set_axis_off()
            if cell.pixels is not None:
                axes.imshow(cell.pixels, interpolation="none" if kind == "pdf" else "antialiased")
            else:
                axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor=_GREY, edgecolor="none"))
                axes.text(0.5, 0.5, cell.text, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=_SOFT, family="monospace")
            if cell.label:
                write(left + cell_w / 2, top - label + 0.05, cell.label, color=_SOFT if cell.original else _INK, ha="center", va="bottom")
        top -= label + cell_h + _GAP
    sink = io.BytesIO()
    if kind == "pdf":
        with rc_context({"pdf.fonttype": 42}):  # whole letters, which can be searched and edited
            FigureCanvasPdf(figure).print_pdf(sink, metadata={"CreationDate": None})
    else:
        FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()


def kind_of(target: str) -> str:
    """``png`` or ``pdf``, by the ending of a sheet's file; raises `UsageError` for any other."""
    _, dot, kind = target.lower().rpartition(".")
    if not dot or kind not in ("png", "pdf"):
        raise UsageError(f"{storage.redact(target)}: a sheet is a .png or a .pdf; give its file one of these endings")
    return kind


def save(sheet: Sheet, target: str) -> None:
    """Draw `sheet` as `target` (local or s3://): a PNG of at most 1.5 MB, coarser where it must be, or a PDF."""
    kind, dpi = kind_of(target), _DPI
    data = draw(sheet, kind, dpi)
    while kind == "png" and len(data) > MAX_BYTES and dpi > 30:
        dpi = int(dpi * min(0.9, math.sqrt(MAX_BYTES / len(data))))
        data = draw(sheet, kind, dpi)
    storage.put_over(storage.absolute(target), data)


def contact_sheet(out: str, target: str, *, limit: int = 24, title: str | None = None) -> int:
    """Draw up to `limit` pictures of `out` as one labelled sheet at `target` (.png or .pdf, local or s3://).

    Where contents x styles form a grid, the originals stand in the first column and the first row; else the pictures
    stand in order under their pair ids. An error row is a grey cell with its code. Returns the number of pairs shown.
    Raises `UsageError` for another ending, `OutputError` where there is no job, or no row yet.
    """
    size = PDF_PICTURE if kind_of(target) == "pdf" else PICTURE
    if limit < 1:
        raise UsageError(f"limit must be at least 1; got {limit}")
    output = Output(out)
    job = output.read_job()
    rows = _scan(output, job)
    if not rows:
        raise OutputError(f"{output} has no rows yet: nothing to show")
    cells, shown = _cells(rows, limit, size)
    if title is None:
        title = f"{storage.name(output.out)}: {shown} of {job['rows']:,} pairs"
    save(Sheet(cells, title, caption(job)), target)
    return shown
