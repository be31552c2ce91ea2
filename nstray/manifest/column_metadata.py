"""What Parquet files say of their columns besides the types: Arrow's field metadata, and features.

Hugging Face's `datasets` keeps its features in the schema's metadata: the names of a ClassLabel,
for example, without which its numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from nstray.errors import ManifestError
from nstray.manifest.raw_batches import ManifestFile
from nstray.output.schema import with_features
from nstray.sources.listing.image_column import features

# Prefixes of keys that are not handed on: what pyarrow makes from the file itself, such as field
# ids, and extension types that are not registered here. Somebody's reader may register them and
# run what they say: those of old pyarrow and Ray hold pickles.
_DROPPED = (b"PARQUET:", b"ARROW:extension:")
_EXTENSION = b"ARROW:extension:name"


class ColumnMetadata:
    """The metadata of the columns of a manifest's files, the same in all of them."""

    def __init__(self) -> None:
        self._files: set[ManifestFile] = set()
        self._fields: dict[str, dict[bytes, bytes]] = {}
        self._features: dict[str, Any] = {}
        self._unknown: dict[str, bytes] = {}  # the names of extension types that are dropped
        self._first: dict[str, str] = {}  # the file that a column stood in first

    def add(self, file: ManifestFile, schema: pa.Schema) -> None:
        """Take the metadata of a file's schema; a further call for the file changes nothing.

        Raises: `ManifestError` for a column whose metadata differs from that of a file before.
        """
        if file in self._files:
            return
        self._files.add(file)
        given_features = features(schema)
        for field in schema:
            given = {
                key: value
                for key, value in (field.metadata or {}).items()
                if not key.startswith(_DROPPED)
            }
            if _EXTENSION in (field.metadata or {}):
                self._unknown.setdefault(field.name, field.metadata[_EXTENSION])
            name, feature = field.name, given_features.get(field.name)
            earlier = self._first.setdefault(name, file.name)
            if self._fields.setdefault(name, given) != given:
                raise ManifestError(
                    f"{file.name}: column {name} has other Arrow metadata than in {earlier}; "
                    "write all files with one schema"
                )
            if self._features.setdefault(name, feature) != feature:
                raise ManifestError(
                    f"{file.name}: column {name} is another Hugging Face feature than in "
                    f"{earlier} (such as a ClassLabel of other names), so its values mean "
                    "something else; make it one feature in all files"
                )

    def warnings(self, columns: Collection[str]) -> tuple[str, ...]:
        """What of `columns` is not kept, for a person."""
        return tuple(
            f"column {name}: its extension type {self._unknown[name].decode(errors='replace')!r} "
            "is not one of Arrow's own; its values are carried, the type's name is not"
            for name in columns
            if name in self._unknown
        )

    def on(self, schema: pa.Schema, columns: Collection[str]) -> pa.Schema:
        """`schema` with the metadata of `columns`."""
        fields = [
            field.with_metadata(self._fields.get(field.name) or None)
            if field.name in columns
            else field
            for field in schema
        ]
        kept = {
            name: feature for name in columns if (feature := self._features.get(name)) is not None
        }
        return with_features(pa.schema(fields), kept)
