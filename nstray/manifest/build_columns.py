"""The columns of a manifest that is built, besides pictures and ids: their names, types, metadata.

Listed columns keep Arrow's field metadata and Hugging Face's features. A column whose name nstray
uses itself is called ``source_NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nstray.config import JobConfig
from nstray.errors import ManifestError
from nstray.manifest.column_metadata import ColumnMetadata
from nstray.manifest.column_names import KNOWN
from nstray.manifest.raw_batches import ManifestFile
from nstray.output.schema import RESERVED, features, with_features
from nstray.sources.listing.pictures import Pictures
from nstray.sources.reference import PLACE_COLUMNS

USED = frozenset((*KNOWN, *RESERVED, *JobConfig.model_fields, *PLACE_COLUMNS, "row", "iterations"))


class ListedSchema:
    """The schema of the columns that a listing gives, the same in all of its batches."""

    def __init__(self) -> None:
        self.schema: pa.Schema | None = None
        self._first = ""
        self._metadata = ColumnMetadata()

    def take(self, batch: Pictures) -> pa.Table | None:
        """The batch's columns in the types of the first batch.

        Raises: `ManifestError` if a column has another type or other metadata.
        """
        table, info = batch.columns, batch.archive
        if table is None or info is None:
            return None
        file = ManifestFile(info.uri, info.uri, "parquet", info.size)
        self._metadata.add(file, table.schema)
        if self.schema is None:
            self.schema, self._first = table.schema, info.uri
        for name in self.schema.names:
            found, first = table.schema.field(name).type, self.schema.field(name).type
            if found == first:
                continue
            if pa.types.is_null(found):
                i = table.schema.get_field_index(name)
                table = table.set_column(i, name, pa.nulls(table.num_rows, first))
                continue
            raise ManifestError(
                f"{info.uri}: the column {name} holds {found}, and {first} in {self._first}; "
                "write all files with one schema, or leave it out with --columns"
            )
        return table.replace_schema_metadata(None)

    def on(self, schema: pa.Schema) -> pa.Schema:
        """`schema` with the metadata of the listed columns."""
        return self._metadata.on(schema, schema.names)


@dataclass
class Names:
    """New names of columns, distinct among themselves and from those that nstray uses.

    Attributes:
        say: told of names that had to change, once.
    """

    say: Callable[[str], object]
    used: set[str] = field(default_factory=lambda: set(USED))

    def own(self, name: str) -> str:
        """Take the name of a column that this build computes."""
        self.used.add(name)
        return name

    def carried(self, names: Collection[str], prefix: str = "") -> dict[str, str]:
        """The new name of each column."""
        out, changed = {}, []
        for name in names:
            new = wanted = prefix + name
            while new in self.used or not new:
                new = f"source_{new}"
            self.used.add(new)
            out[name] = new
            if new != wanted:
                changed.append(f"{name} as {new}")
        if changed:
            self.say(f"columns whose names nstray uses are carried as others: {', '.join(changed)}")
        return out


def renamed(schema: pa.Schema, names: Mapping[str, str]) -> tuple[list[pa.Field], dict[str, Any]]:
    """Fields and Hugging Face features of the columns in `names`, under their new names."""
    found = features(schema)
    fields = [schema.field(old).with_name(new) for old, new in names.items()]
    return fields, {new: found[old] for old, new in names.items() if old in found}


def schema_of(fields: list[pa.Field], given: Mapping[str, Any]) -> pa.Schema:
    """A schema with Hugging Face features."""
    return with_features(pa.schema(fields), given)
