"""Drawing a sheet of labelled cells as PNG or PDF.

`draw` and `save` do not know where cells come from: `nstray.reports.contact_sheet` and
`nstray.reports.figure` lay them out.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nstray import storage
from nstray.errors import UsageError
from nstray.reports import fonts

Pixels = npt.NDArray[np.uint8]

MAX_BYTES = 1_500_000
_CELL = 2.4  # inches, the longer side of a cell
_DPI = 110
_GAP, _LABEL, _MARGIN = 0.12, 0.24, 0.35  # inches
_SMALL, _LARGE = 7.0, 12.0  # points: labels and caption; title
_LETTER = 0.56 / 72  # inches per point of size: the width of a letter of this typeface, measured
_ROW_LABEL = 22  # columns in a line of a row's label
_SHORT = 30  # columns that a cell's label has at least, however narrow the cell is
PICTURE = int(_CELL * _DPI)  # pixels, the longer side of a cell in a PNG
PDF_PICTURE = 512  # pixels, the longer side of a picture in a PDF, which holds the picture itself
_INK, _SOFT, _GREY = "#1a1a1a", "#6b6b6b", "#dcdcdc"


@dataclass(frozen=True, eq=False)
class Cell:
    """One place of the sheet: a picture, or a text on grey, with a label above it."""

    label: str = ""
    pixels: Pixels | None = None
    text: str = ""
    original: bool = False


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is drawn.

    Attributes:
        cells: line by line; None is a blank.
        title: above the cells.
        below: the caption below the title.
        row_labels, column_labels: labels of the lines and of the columns.
    """

    cells: Sequence[Sequence[Cell | None]]
    title: str
    below: str
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken between settings only."""
    lines: list[str] = []
    for item in text.split(" · "):
        if lines and fonts.width(lines[-1]) + fonts.width(item) + 3 <= width:
            lines[-1] += f" · {item}"
        else:
            lines.append(item)
    return lines


def _fold(text: str, width: float, points: float) -> list[str]:
    """`text` as lines of at most `width` inches, at least one."""
    return fonts.wrap(text, max(2, int(width / (points * _LETTER))))


def draw(sheet: Sheet, kind: str = "png", dpi: int = _DPI) -> bytes:
    """The sheet as PNG or PDF. Every cell has the median aspect ratio of the pictures."""
    ratios = [
        c.pixels.shape[1] / c.pixels.shape[0]
        for line in sheet.cells
        for c in line
        if c and c.pixels is not None and not c.original
    ]
    ratio = min(2.0, max(0.5, statistics.median(ratios))) if ratios else 1.0
    cell_w, cell_h = (_CELL, _CELL / ratio) if ratio >= 1 else (_CELL * ratio, _CELL)
    names = [c.label for line in sheet.cells for c in line if c]
    face = fonts.typeface(
        [sheet.title, sheet.below, *sheet.row_labels, *sheet.column_labels, *names]
    )
    label_columns = max(_SHORT, int(cell_w / (_SMALL * _LETTER)))
    across = max(len(line) for line in sheet.cells)
    labels = [_LABEL if any(c and c.label for c in line) else 0.0 for line in sheet.cells]
    row_labels = [fonts.wrap(face.drawable(text), _ROW_LABEL) for text in sheet.row_labels]
    edge = (
        _MARGIN
        + max((fonts.width(t) for name in row_labels for t in name), default=0) * _SMALL * _LETTER
        + (_GAP if row_labels else 0.0)
    )
    column_labels = [_fold(face.drawable(text), cell_w, _SMALL) for text in sheet.column_labels]
    above = max((_LABEL + 0.12 * (len(name) - 1) for name in column_labels), default=0.0)
    width = max(edge + _MARGIN + across * (cell_w + _GAP) - _GAP, 5.0)
    titles = _fold(face.drawable(sheet.title), width - 2 * _MARGIN, _LARGE * 1.15)  # bold
    lines = _wrap(face.drawable(sheet.below), int((width - 2 * _MARGIN) / (_LETTER * _SMALL)))
    head = 0.42 + 0.2 * (len(titles) - 1) + 0.15 * len(lines)
    height = 2 * _MARGIN + head + above + sum(labels) + len(sheet.cells) * (cell_h + _GAP)
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")

    def write(left: float, bottom: float, text: str, size: float = _SMALL, **more: Any) -> None:
        # without parse_math, since a name may hold dollar signs
        figure.text(
            left / width,
            bottom / height,
            text,
            parse_math=False,
            family=face.families,
            **{"fontsize": size, "color": _INK, **more},
        )

    write(_MARGIN, height - _MARGIN, "\n".join(titles), _LARGE, weight="bold", va="top")
    write(
        _MARGIN,
        height - _MARGIN - 0.26 - 0.2 * (len(titles) - 1),
        "\n".join(lines),
        color=_SOFT,
        va="top",
        linespacing=1.4,
    )
    top = height - _MARGIN - head - above
    for i, name in enumerate(column_labels):
        write(
            edge + i * (cell_w + _GAP) + cell_w / 2,
            top + 0.05,
            "\n".join(name),
            ha="center",
            va="bottom",
        )
    for k, (line, label) in enumerate(zip(sheet.cells, labels, strict=True)):
        if row_labels:
            write(_MARGIN, top - label - cell_h / 2, "\n".join(row_labels[k]), va="center")
        for i, cell in enumerate(line):
            left = edge + i * (cell_w + _GAP)
            if cell is None:
                continue
            axes = figure.add_axes(
                (left / width, (top - label - cell_h) / height, cell_w / width, cell_h / height)
            )
            axes.set_axis_off()
            if cell.pixels is not None:
                axes.imshow(cell.pixels, interpolation="none" if kind == "pdf" else "antialiased")
            else:
                axes.add_patch(
                    Rectangle(
                        (0, 0), 1, 1, transform=axes.transAxes, facecolor=_GREY, edgecolor="none"
                    )
                )
                axes.text(
                    0.5,
                    0.5,
                    cell.text,
                    transform=axes.transAxes,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=_SOFT,
                    family="monospace",
                )
            if cell.label:
                write(
                    left + cell_w / 2,
                    top - label + 0.05,
                    face.fitted(cell.label, label_columns),
                    color=_SOFT if cell.original else _INK,
                    ha="center",
                    va="bottom",
                )
        top -= label + cell_h + _GAP
    sink = io.BytesIO()
    with fonts.quiet():
        if kind == "pdf":
            # As TrueType (42) its text can be searched and edited.
            with rc_context({"pdf.fonttype": 3 if face.outlines else 42}):
                FigureCanvasPdf(figure).print_pdf(sink, metadata={"CreationDate": None})
        else:
            FigureCanvasAgg(figure).print_png(sink)
    return sink.getvalue()


def kind_of(target: str) -> str:
    """``png`` or ``pdf``, by the ending of a sheet's file; raises `UsageError` for any other."""
    _, dot, kind = target.lower().rpartition(".")
    if not dot or kind not in ("png", "pdf"):
        raise UsageError(
            f"{storage.redact(target)}: a sheet is a .png or a .pdf; "
            "give its file one of these endings"
        )
    return kind


def save(sheet: Sheet, target: str) -> None:
    """Draw `sheet` at `target` (local or s3://), as a PDF or as a PNG of at most 1.5 MB.

    A PNG that would be larger gets a lower resolution.
    """
    kind, dpi = kind_of(target), _DPI
    data = draw(sheet, kind, dpi)
    while kind == "png" and len(data) > MAX_BYTES and dpi > 30:
        dpi = int(dpi * min(0.9, math.sqrt(MAX_BYTES / len(data))))
        data = draw(sheet, kind, dpi)
    storage.put_over(storage.absolute(target), data)
