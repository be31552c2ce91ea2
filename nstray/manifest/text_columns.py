"""Columns of text and of lists, whatever type the file gives them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray.errors import ManifestError
from nstray.manifest.arrow_columns import STRINGS, Lists, indices, is_list, is_text
from nstray.manifest.json_lines import LONE_SURROGATE, is_unicode
from nstray.manifest.problems import Problems
from nstray.manifest.raw_batches import RawBatch
from nstray.text import redact


class TextColumns:
    """Columns of one batch, cast to text or to lists."""

    def __init__(self, batch: RawBatch, problems: Problems) -> None:
        self.batch = batch
        self.problems = problems

    def _error(self, name: str, kind: Any, wanted: str) -> ManifestError:
        return ManifestError(
            f"{self.batch.file.name}: column {name} holds {kind}; must be {wanted}"
        )

    def column(self, name: str, array: pa.Array | None, *, integers: bool = False) -> pa.Array:
        """The column as strings; an empty string is null.

        Args:
            integers: a column of integers is allowed too.
        Raises: `ManifestError` for a column of another type.
        """
        if array is None or pa.types.is_null(array.type):
            return pa.nulls(self.batch.rows, pa.string())
        if not (is_text(array.type) or (integers and pa.types.is_integer(array.type))):
            raise self._error(name, array.type, "text")
        array = pc.cast(array, pa.string())
        return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)

    def lists(self, name: str, array: pa.Array | None, kind: pa.DataType) -> pa.Array:
        """The column as lists of type `kind`; null if the row has none.

        A CSV cell that starts with "[" is a JSON list.
        Raises: `ManifestError` for a column of another type.
        """
        n = self.batch.rows
        if array is None or pa.types.is_null(array.type):
            return pa.nulls(n, kind)
        of_text = kind is STRINGS
        wanted = "text or a list of text" if of_text else "a list of numbers"
        if is_list(array.type):
            try:
                return pc.cast(array, kind)
            except pa.ArrowException:
                raise self._error(name, array.type, wanted) from None
        csv = self.batch.file.kind == "csv"
        if not is_text(array.type) or not (of_text or csv):
            raise self._error(name, array.type, wanted)
        array = self.column(name, array)
        if of_text and not (csv and pc.any(pc.starts_with(array, "[")).as_py()):
            lengths = pc.cast(pc.is_valid(array), pa.int64()).to_numpy(zero_copy_only=False)
            return Lists.of(lengths, array.drop_null(), kind)
        encoded = array.dictionary_encode()
        parsed, wrong = [], {}
        for k, cell in enumerate(encoded.dictionary.to_pylist()):
            value, complaint = _parse_cell(cell, kind)
            # A wrong style stays in the row: else the row would be reported as one without a style.
            parsed.append([cell] if complaint and name == "style" else value)
            if complaint:
                wrong[k] = complaint
        codes = indices(encoded)
        self.problems.add(np.isin(codes, list(wrong)), lambda i: f"{name}: {wrong[int(codes[i])]}")
        return pa.array(parsed, kind).take(encoded.indices)


def _parse_cell(cell: str, kind: pa.DataType) -> tuple[list[Any] | None, str]:
    """The list in a CSV cell, and what is wrong with it; one of the two is empty."""
    if kind is STRINGS and not cell.startswith("["):
        return [cell], ""
    try:
        value = json.loads(cell)
        if isinstance(value, list) and kind is not STRINGS:
            value = [
                v if isinstance(v, bool) or not isinstance(v, int) else float(v) for v in value
            ]
    except (ValueError, RecursionError, OverflowError):  # OverflowError: an integer beyond doubles
        value = None
    allowed = (str, type(None)) if kind is STRINGS else (int, float)
    if isinstance(value, list) and all(
        isinstance(v, allowed) and not isinstance(v, bool) for v in value
    ):
        if not is_unicode("".join(v for v in value if isinstance(v, str))):
            return None, LONE_SURROGATE
        return value, ""
    example = '["a.jpg", "b.jpg"]' if kind is STRINGS else "[0.7, 0.3]"
    return None, f"must be a JSON list such as {example}; got {redact(cell)[:80]}"
