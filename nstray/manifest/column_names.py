"""Which column names a manifest may have, and what each is."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from nstray.config import ROW_FIELDS, JobConfig
from nstray.errors import ManifestError
from nstray.output.schema import RESERVED
from nstray.sources.reference import PLACE_COLUMNS

if TYPE_CHECKING:
    from nstray.manifest.raw_batches import RawBatch

# One per style: where in the content the style applies, and which part of the style is used.
MASKS = ("content_masks", "style_masks")
# Further images of a pair; most manifests have none.
IMAGE_COLUMNS = (*MASKS, "fine_style")
PAIR_COLUMNS = ("content", "style", "pair_id", "style_weights", *IMAGE_COLUMNS)
# The content's width and height, if the manifest knows them: shards are grouped by shape.
HINTS = ("width", "height")
KNOWN = (*PAIR_COLUMNS, *ROW_FIELDS, *HINTS, *PLACE_COLUMNS)


# Names that other programs give to a column of pictures, and that are renamed on purpose alone.
_ALIASES = {
    "content": ("image", "file_name", "filename", "file", "path", "image_path", "image_file"),
    "style": ("style_image", "style_path", "style_file"),
}
_DATA = re.compile(r"/|\\|\.(jpe?g|png|webp|tiff?|bmp|gif)$", re.IGNORECASE)


def check_names(batch: RawBatch, config: JobConfig) -> None:
    """Raise `ManifestError` for a missing, repeated, nameless or reserved column name."""
    file, names = batch.file.name, batch.names
    seen: set[str] = set()
    for place, name in enumerate(names):
        if not name:
            raise ManifestError(
                f"{file}: column {place + 1} has no name; "
                "name it or leave it out (from pandas: index=False)"
            )
        if name in seen:
            raise ManifestError(f"{file}: column {name} appears twice; rename or remove one")
        seen.add(name)
    needs_style = (
        config.style_weight > 0 and bool(config.style_layers) and "style_weight" not in names
    )
    for wanted in (
        "content",
        *(["style"] if needs_style or config.init in ("style", "content-matched") else []),
    ):
        if wanted not in names:
            advice = "; or run with style_weight 0" if wanted == "style" and needs_style else ""
            if wanted == "content" and "style" not in names:
                advice = "; to pair its pictures with styles, name these with --style"
            how = f" (read with {batch.how})" if batch.how else ""
            raise ManifestError(
                f"{file}: no column {wanted}; its columns are {', '.join(map(_shown, names))}"
                f"{_rename(wanted, names, batch.file.kind)}{advice}{how}"
            )
    for name in names:
        if name not in KNOWN:
            _check_free(file, name)


def _shown(name: str) -> str:
    """A column's name for a message, in quotes if its ends or breaks would not be seen."""
    return name if name == name.strip() and name.isprintable() else repr(name)


def _rename(wanted: str, names: tuple[str, ...], kind: str) -> str:
    """Which column to rename to `wanted`, or what else to do; empty if nothing is likely."""
    free = [n for n in names if n not in KNOWN]
    for name in free:
        if name.strip("\ufeff \t#").lower() == wanted:
            return f"; rename {_shown(name)} to {wanted}: names are in lower case, without spaces"
    if kind == "csv" and len(names) == 1 and wanted in names[0].lower():
        return "; separate the columns by comma, semicolon, tab or |, or say sep=X in a first line"
    if kind == "csv" and any(_DATA.search(name) for name in names):
        return "; does the first line hold data? Put a line of column names above it"
    for alias in _ALIASES[wanted]:
        for name in free:
            if name.strip().lower() == alias:
                return f"; rename {_shown(name)} to {wanted}, if that is it"
    near = difflib.get_close_matches(wanted, free, n=1)
    return f"; rename {_shown(near[0])}, if that is it" if near else ""


def _check_free(file: str, name: str) -> None:
    """Raise `ManifestError` if a carried column may not be called `name`."""
    if name == "iterations":
        raise ManifestError(
            f"{file}: column iterations: use evaluations (forward + backward passes), "
            "or rename the column to carry it through"
        )
    if name == "row":
        raise ManifestError(
            f"{file}: column row: nstray uses this name for the row's number; rename the column"
        )
    if name in JobConfig.model_fields:
        raise ManifestError(
            f"{file}: column {name}: cannot be set per row (only {', '.join(ROW_FIELDS)}); "
            "rename it to carry it through"
        )
    if name in RESERVED:
        raise ManifestError(
            f"{file}: column {name}: the output has a column of this name; "
            "rename yours to carry it through"
        )


def near_miss(name: str) -> str | None:
    """A warning if the name of a carried column is close to one that nstray reads, else None."""
    near = difflib.get_close_matches(name.strip().lower(), KNOWN, n=1, cutoff=0.8)
    return f"column {name} is carried through unread; did you mean {near[0]}?" if near else None
