"""The rows of an output as labelled cells of a sheet, and the caption below it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nstray import config
from nstray.errors import OutputError, PairError, StorageError, UsageError
from nstray.images.decode import thumbnail
from nstray.images.resize import fit
from nstray.output.reader import MAX_MEMORY, MAX_PIXELS, read_rows
from nstray.reports.drawing import Cell, Pixels
from nstray.sources.read import Sources, absolute_reference

ORIGINAL_BYTES: int = config.JobConfig.model_fields["max_bytes"].default


def short(uri: str, width: int = 30) -> str:
    """The last segment of a path, or a name; cut in the middle to `width` letters."""
    name = uri.rstrip("/").rpartition("/")[2]
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def _style_label(style: tuple[str, ...]) -> str:
    return " + ".join(short(s, 30 // len(style)) for s in style) or "no style"


@functools.cache
def _sources() -> Sources:
    """The reader of a sheet's originals: an archive is opened once."""
    return Sources(ORIGINAL_BYTES)


def original(uri: str, digest: str | None, size: int, base: str) -> Pixels | None:
    """An input image, made small to fit `size` pixels.

    None if it can't be read any more, or if its bytes are not those of `digest`, which the rows
    give. So another person's output shows no file of this machine whose bytes that person did not
    have.

    Args:
        base: the folder that a relative `uri` starts from.
    """
    try:
        data = _sources().read(absolute_reference(uri, base)) if digest else b""
        if hashlib.sha256(data).hexdigest() != digest:
            return None
        pixels = thumbnail(data, size, what=uri, max_pixels=MAX_PIXELS, max_memory=MAX_MEMORY)
        return fit(pixels, size, "longest", False, what=uri)
    except (StorageError, UsageError, PairError):
        return None


def content_digests(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The sha256 of each input image's bytes by its URI, as far as the rows give it."""
    found: dict[str, str] = {}
    for row in rows:
        styles = zip(row["style_uri"] or (), row["style_sha256"] or (), strict=False)
        found |= {
            uri: digest
            for uri, digest in ((row["content_uri"], row["content_sha256"]), *styles)
            if uri and digest
        }
    return found


def style_cell(style: tuple[str, ...], digests: Mapping[str, str], size: int, base: str) -> Cell:
    """The originals of a style in one cell; those of a blend stand side by side."""
    originals = [original(uri, digests.get(uri), size, base) for uri in style]
    label, text = _style_label(style), "not readable" if style else "no style"
    readable = [pixels for pixels in originals if pixels is not None]
    if len(readable) < 2:
        return Cell(label, readable[0] if readable else None, text, original=True)
    half = f"{size // 2}x{size // 2}"
    squares = [fit(pixels, half, "exact", True, what="style") for pixels in readable]
    return Cell(label, np.concatenate(squares, axis=1), text, original=True)


def result_cell(row: dict[str, Any] | None, picture: Pixels | None, label: str) -> Cell:
    """The cell of an output row: its picture, or its error's code."""
    return Cell(
        label,
        picture,
        "no such pair yet" if row is None else str(row["error_code"] or "not readable"),
    )


def pictures(rows: Sequence[dict[str, Any]], size: int) -> dict[str, Pixels]:
    """The pictures of `rows` by pair id, made small. Each row carries its part's ``uri``."""
    wanted = {row["pair_id"] for row in rows if row["status"] == "ok"}
    found: dict[str, Pixels] = {}
    for uri in dict.fromkeys(row["uri"] for row in rows if row["status"] == "ok"):
        for group in read_rows(uri, ["pair_id", "image", "width", "height"]):
            for row in group:
                if row["pair_id"] in wanted and row["image"] is not None:
                    data = row["image"]["bytes"] or b""
                    most = min(MAX_PIXELS, (row["width"] or 0) * (row["height"] or 0))
                    with contextlib.suppress(PairError):
                        pixels = thumbnail(
                            data,
                            size,
                            what=row["pair_id"],
                            max_pixels=most,
                            max_memory=MAX_MEMORY,
                            own=True,
                        )
                        found[row["pair_id"]] = fit(
                            pixels, size, "longest", False, what=row["pair_id"]
                        )
    return found


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
