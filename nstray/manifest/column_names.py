"""Which column names a manifest may have, and what each is."""

from __future__ import annotations

import difflib

from nstray.config import ROW_FIELDS, JobConfig
from nstray.errors import ManifestError
from nstray.output.schema import RESERVED

# One per style: where in the content the style applies, and which part of the style is used.
MASKS = ("content_masks", "style_masks")
# Further images of a pair; most manifests have none.
IMAGE_COLUMNS = (*MASKS, "fine_style")
PAIR_COLUMNS = ("content", "style", "pair_id", "style_weights", *IMAGE_COLUMNS)
# The content's width and height, if the manifest knows them: shards are grouped by shape.
HINTS = ("width", "height")
KNOWN = (*PAIR_COLUMNS, *ROW_FIELDS, *HINTS)


def check_names(file: str, names: tuple[str, ...], config: JobConfig) -> None:
    """Raise `ManifestError` for a missing, repeated, nameless or reserved column name."""
    for place, name in enumerate(names):
        if not name:
            raise ManifestError(
                f"{file}: column {place + 1} has no name; "
                "name it or leave it out (from pandas: index=False)"
            )
        if names.index(name) != place:
            raise ManifestError(f"{file}: column {name} appears twice; rename or remove one")
        if name not in KNOWN:
            _check_free(file, name)
    needs_style = (
        config.style_weight > 0 and bool(config.style_layers) and "style_weight" not in names
    )
    for wanted in (
        "content",
        *(["style"] if needs_style or config.init in ("style", "content-matched") else []),
    ):
        if wanted not in names:
            near = difflib.get_close_matches(wanted, [n for n in names if n not in KNOWN], n=1)
            hint = f"; rename {near[0]}, if that is it" if near else ""
            advice = "; or run with style_weight 0" if wanted == "style" and needs_style else ""
            raise ManifestError(
                f"{file}: no column {wanted}; its columns are {', '.join(names)}{hint}{advice}"
            )


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
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8)
    return f"column {name} is carried through unread; did you mean {near[0]}?" if near else None
