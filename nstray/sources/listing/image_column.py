"""Which column of a Parquet or Arrow file holds the pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nstray.errors import ManifestError
from nstray.sources.cells import is_picture
from nstray.sources.listing.pictures import TOLD_BY_PATHS, Options
from nstray.text import did_you_mean

_FEATURES = b"huggingface"


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are plain bytes."""
    return is_picture(kind) and not pa.types.is_struct(kind)


def has_path(kind: pa.DataType) -> bool:
    """Whether this is a struct with a ``path`` of text."""
    if not pa.types.is_struct(kind) or (at := kind.get_field_index("path")) < 0:
        return False
    found = kind.field(at).type
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found))


def features(schema: pa.Schema) -> dict[str, Any]:
    """The Hugging Face features of a schema; none if it has none that can be read."""
    try:
        found = json.loads((schema.metadata or {})[_FEATURES])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def candidates(schema: pa.Schema) -> list[str]:
    """The columns that may hold pictures, those of the surest kind alone.

    In this order: Hugging Face's Image; structs with bytes; bytes. A column that Hugging Face's
    features call something else, such as Audio, is none.
    """
    said = {
        name: feature.get("_type") if isinstance(feature, dict) else None
        for name, feature in features(schema).items()
    }
    free = [f for f in schema if said.get(f.name) in (None, "Image", "Value")]
    images = [f.name for f in free if said.get(f.name) == "Image" and is_picture(f.type)]
    structs = [f.name for f in free if is_picture(f.type) and not holds_bytes(f.type)]
    return images or structs or [f.name for f in free if holds_bytes(f.type)]


def is_own_output(schema: pa.Schema) -> bool:
    """Whether the file is a part of an output of nstray, whose error rows have no picture."""
    return {"pair_id", "image", "status", "error_code", "config_fingerprint"} <= set(schema.names)


def image_column(schema: pa.Schema, options: Options, what: str) -> str:
    """The column that pictures come from.

    Args:
        what: the file, for messages.
    Raises: `ManifestError` if there is none, or more than one and none is chosen.
    """
    names, found = schema.names, candidates(schema)
    listed = ", ".join(names) or "none"
    chosen = options.column
    if chosen is not None:
        if names.count(chosen) != 1 or not is_picture(schema.field(chosen).type):
            why = "holds no pictures" if chosen in names else "is not there"
            raise ManifestError(
                f"{what}: {options.option} {chosen}: this column {why}; its columns are {listed}"
                f"{did_you_mean(chosen, found)}"
            )
        return chosen
    if not found:
        raise ManifestError(
            f"{what}: no column of pictures (struct<bytes, path> or binary); its columns are "
            f"{listed}. Give files with the pictures in them, or a folder of pictures"
        )
    if len(found) > 1:
        raise ManifestError(
            f"{what}: {len(found)} columns of pictures ({', '.join(found)}); "
            f"choose one with {options.option}"
        )
    return found[0]


@dataclass(frozen=True)
class Columns:
    """The columns of files of one schema.

    Attributes:
        image: that pictures come from.
        carried: what is said of each picture.
        others: all but `image`.
        heavy: those of `others` that hold bytes, and are carried on demand alone.
        first: the file that they were chosen by.
    """

    image: str
    carried: list[str]
    others: list[str]
    heavy: list[str]
    first: str

    @staticmethod
    def choose(schema: pa.Schema, options: Options, what: str) -> Columns:
        """The columns of a file; raises `ManifestError` for one that is not there.

        Args:
            what: the file, for messages.
        """
        image = image_column(schema, options, what)
        others = [name for name in schema.names if name != image]
        own = set(options.own) - {"pair_id"} if is_own_output(schema) else set()
        heavy = [n for n in others if n not in own and is_picture(schema.field(n).type)]
        carried = [name for name in others if name not in own and name not in heavy]
        if options.columns is not None:
            for name in options.columns:
                if name not in others and name not in TOLD_BY_PATHS:
                    why = "is the column of the pictures" if name == image else "is not there"
                    raise ManifestError(
                        f"{what}: the column {name} {why}; its other columns are "
                        f"{', '.join(others) or 'none'}{did_you_mean(name, others)}"
                    )
            carried = [name for name in options.columns if name in others]
        return Columns(image, carried, others, heavy, what)

    def left_out(self, options: Options) -> list[str]:
        """A line on the columns that are not carried unless they are asked for."""
        if options.columns is not None or not self.heavy:
            return []
        return [
            f"columns of bytes are not carried: {', '.join(self.heavy)}; --columns carries them"
        ]

    def check(self, schema: pa.Schema, what: str) -> None:
        """Raise `ManifestError` if another file lacks one of the columns."""
        for name in (self.image, *self.carried):
            if schema.names.count(name) != 1:
                raise ManifestError(
                    f"{what}: no column {name}, which {self.first} has; its columns are "
                    f"{', '.join(schema.names)}. Give files of one schema"
                )
        if not is_picture(schema.field(self.image).type):
            raise ManifestError(
                f"{what}: the column {self.image} holds {schema.field(self.image).type}, and "
                f"pictures in {self.first}"
            )
