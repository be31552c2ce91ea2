"""The rows of an output as labelled cells of a sheet, and the caption below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nstray import config
from nstray.errors import OutputError
from nstray.images.resize import fit
from nstray.reports.drawing import Cell, Pixels


def short(uri: str, width: int = 30) -> str:
    """The last segment of a path, or a name; cut in the middle to `width` letters."""
    name = uri.rstrip("/").rpartition("/")[2]
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def _style_label(style: tuple[str, ...]) -> str:
    return " + ".join(short(s, 30 // len(style)) for s in style) or "no style"


def content_cell(uri: str, originals: Mapping[str, Pixels | str]) -> Cell:
    """A content image, or why it can't be shown."""
    found = originals.get(uri, "no content")
    if isinstance(found, str):
        return Cell(short(uri), None, reason(found), original=True)
    return Cell(short(uri), found, original=True)


def reason(text: str) -> str:
    """Why a picture is not shown, in the few words that a cell has room for."""
    return text.partition(":")[0]


def style_cell(style: tuple[str, ...], originals: Mapping[str, Pixels | str], size: int) -> Cell:
    """The originals of a style in one cell; those of a blend stand side by side."""
    found = [originals.get(uri, "no style") for uri in style]
    reasons = [each for each in found if isinstance(each, str)]
    label, text = _style_label(style), reason(reasons[0]) if reasons else "no style"
    readable = [each for each in found if not isinstance(each, str)]
    if len(readable) < 2:
        return Cell(label, readable[0] if readable else None, text, original=True)
    half = f"{size // 2}x{size // 2}"
    squares = [fit(pixels, half, "exact", True, what="style") for pixels in readable]
    return Cell(label, np.concatenate(squares, axis=1), text, original=True)


def result_cell(row: dict[str, Any] | None, picture: Pixels | str | None, label: str) -> Cell:
    """The cell of an output row: its picture, or its error's code, or why it can't be shown."""
    if picture is not None and not isinstance(picture, str):
        return Cell(label, picture)
    if row is None:
        return Cell(label, None, "no such pair yet")
    return Cell(label, None, str(row["error_code"] or reason(picture or "not readable")))


# A caption names these only if the job departs from their defaults.
_DEPARTURES = ("coarse", "color", "style_scale", "style_layer_weights")


def caption(job: dict[str, Any], *, figure: bool = False) -> str:
    """The settings that a reader of the sheet needs, in one line.

    Args:
        figure: whether the pairs are those of a figure, which often have their own alpha and beta.

    Raises `OutputError` if the record's settings are damaged.
    """
    try:
        return _caption(job, figure)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise OutputError(
            "the job's record is damaged: its settings can't be read "
            f"({type(error).__name__}: {error}); restore it"
        ) from None


def _caption(job: dict[str, Any], figure: bool) -> str:
    r, usual = job["result"], config.make({}).result_fields()
    alpha, beta = r["content_weight"], r["style_weight"]
    ratio = (
        " unless its row says otherwise"
        if figure
        else f" (ratio {alpha / beta:.2g})"
        if alpha and beta
        else ""
    )
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
