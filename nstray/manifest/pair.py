"""`Pair`, one row of a manifest, and `ManifestInfo`, what a check of the whole found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nstray.manifest.column_names import IMAGE_COLUMNS
from nstray.manifest.overrides import adapter
from nstray.output.schema import RESERVED
from nstray.sources.reference import AT_COLUMNS, ETAG_COLUMNS, Place, parse_place


@dataclass(frozen=True)
class Pair:
    """One row of a manifest, without its carried columns.

    Carried values stay in the table, because Python can't hold all of Arrow's values.

    Attributes:
        row: its place in the whole manifest, from 0.
        content: absolute path or URI.
        styles: absolute paths or URIs; empty if the row has no style term.
        style_weights: one per style, of sum 1.
        overrides: the settings that this row sets for itself, parsed.
        content_masks: absolute; empty, or one per style. White is where in the content the style
            applies.
        style_masks: absolute; empty, or one per style. White is the part of the style that is used;
            None means all of it.
        fine_style: absolute; the image that gives the style its fine-scale statistics.
        content_place: where the content lies in its archive, as far as the row says it.
        style_places: the same of the styles; empty, or one per style.
    """

    row: int
    pair_id: str
    content: str | None
    styles: tuple[str, ...]
    style_weights: tuple[float, ...]
    overrides: dict[str, Any]
    content_masks: tuple[str, ...] = ()
    style_masks: tuple[str | None, ...] = ()
    fine_style: str | None = None
    content_place: Place | None = None
    style_places: tuple[Place | None, ...] = ()


@dataclass(frozen=True)
class ManifestInfo:
    """What `Manifest.check` found.

    Attributes:
        uri: absolute.
        digest: ``sha256:...`` of the file's bytes, or of a folder's file names and their digests.
        schema: of the tables that `Manifest.tables` yields.
        carried: columns that are only carried through.
        overrides: columns that set one of the job's settings per row.
        layers: layers that rows name in overrides.
        warnings: for a person; nothing is wrong.
        images: those of the columns content_masks, style_masks and fine_style that it has.
        local: whether its rows may name local files. Those of a manifest on s3:// may only if
            `allow_local` is set.
        archives: whether a content is a member of an archive.
        rows_digest: ``sha256:...`` of its rows without the carried columns, references as written
            (`RowsDigest`). Neither other files of the same rows change it, nor another place.
        carried_digest: the same of the carried columns.
        marked_digest: `rows_digest` of its first rows, as many as the argument `mark` of
            `Manifest.check`; None if it has fewer.
        marked_carried: `carried_digest` of these.
        order_base: the folder that relative paths start from where rows are put in order, if it is
            not the manifest's own: a job keeps its order of rows when its manifest moves.
        carried_apart: whether the carried columns are too large to travel with the rows. Workers
            then read their rows' values from the manifest (`CarriedRows`).
        file_rows: the number of rows of each of its files, in order.
    """

    uri: str
    rows: int
    digest: str
    schema: pa.Schema
    carried: tuple[str, ...]
    overrides: tuple[str, ...]
    layers: tuple[str, ...]
    warnings: tuple[str, ...]
    images: tuple[str, ...] = ()
    local: bool = False
    archives: bool = False
    rows_digest: str = ""
    carried_digest: str = ""
    marked_digest: str | None = None
    marked_carried: str | None = None
    order_base: str | None = None
    carried_apart: bool = False
    file_rows: tuple[int, ...] = ()

    @property
    def carried_schema(self) -> pa.Schema:
        """The columns that the output copies from the manifest.

        In this order: overrides for which the output has no column of its own, masks and fine
        styles, columns that are only carried through.
        """
        own = [name for name in self.overrides if name not in RESERVED]
        return pa.schema(
            [self.schema.field(name) for name in (*own, *self.images, *self.carried)],
            metadata=self.schema.metadata,
        )


def pairs(table: pa.Table, info: ManifestInfo) -> list[Pair]:
    """The rows of a canonical table as `Pair` objects."""
    fixed = [
        table[name].to_pylist() for name in ("row", "pair_id", "content", "style", "style_weights")
    ]
    images = [
        table[name].to_pylist() if name in info.images else [None] * table.num_rows
        for name in IMAGE_COLUMNS
    ]
    contents, styles_of = (_places(table, role) for role in ("content", "style"))
    own = {name: _parsed(name, table[name].to_pylist()) for name in info.overrides}
    return [
        Pair(
            row=row,
            pair_id=pair_id,
            content=content,
            styles=tuple(styles),
            style_weights=tuple(weights),
            overrides={name: column[i] for name, column in own.items() if column[i] is not None},
            content_masks=tuple(content_masks or ()),
            style_masks=tuple(mask or None for mask in style_masks or ()),
            fine_style=fine_style,
            content_place=parse_place(*contents[i]),
            style_places=_style_places(*styles_of[i]),
        )
        for i, (
            row,
            pair_id,
            content,
            styles,
            weights,
            content_masks,
            style_masks,
            fine_style,
        ) in enumerate(zip(*fixed, *images, strict=True))
    ]


def _places(table: pa.Table, role: str) -> list[tuple[Any, Any]]:
    """The values of a role's columns of places and ETags, row by row."""
    none = [None] * table.num_rows
    at, etags = (
        table[names[role]].to_pylist() if names[role] in table.column_names else none
        for names in (AT_COLUMNS, ETAG_COLUMNS)
    )
    return list(zip(at, etags, strict=True))


def _style_places(
    at: list[str | None] | None, etags: list[str | None] | None
) -> tuple[Place | None, ...]:
    """The places of a row's styles; empty if the row says none."""
    count = len(at or etags or ())
    return tuple(map(parse_place, at or [None] * count, etags or [None] * count))


def _parsed(name: str, values: list[Any]) -> list[Any]:
    good = iter(adapter(name).validate_python([v for v in values if v is not None]))
    return [None if v is None else next(good) for v in values]
