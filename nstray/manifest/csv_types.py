"""Text of CSV cells in the types that the setting ``column_types`` names."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from nstray.errors import ManifestError
from nstray.manifest.column_names import KNOWN
from nstray.text import did_you_mean

_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_EXAMPLES = {
    "bool": "true or false",
    "date32": "a date such as 2024-01-31",
    "timestamp[us]": "a time without zone such as 2024-01-31 08:30:00",
}


def named_types(texts: tuple[str, ...]) -> dict[str, pa.DataType]:
    """The Arrow types by column that the setting ``column_types`` names.

    Raises: `ManifestError` for a column that nstray reads itself.
    """
    pairs = [text.rpartition("=") for text in texts]
    for name, _, _ in pairs:
        if name in KNOWN:
            raise ManifestError(
                f"column_types: {name} is a column that nstray reads and has its own type; "
                "name carried columns alone"
            )
    return {name: pa.type_for_alias(kind) for name, _, kind in pairs}


def check_used(types: dict[str, pa.DataType], carried: list[str], kind: str, uri: str) -> None:
    """Raise `ManifestError` if `types` name columns that a manifest does not carry.

    Args:
        kind: the format of the manifest's files; only CSV takes types.
    """
    if types and kind != "csv":
        raise ManifestError(
            f"{uri}: column_types is for CSV; the columns of this manifest have types of their own"
        )
    for name in types:
        if name not in carried:
            there = f"it carries {', '.join(carried)}" if carried else "it carries no column"
            raise ManifestError(
                f"{uri}: column_types names {name}, which is no column of the manifest: "
                f"{there}{did_you_mean(name, carried)}"
            )


def parse(column: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Text as values of type `kind`; None if a value is none of that type.

    An empty text is null. Spaces around a value count for nothing. A number beyond the type is
    none of it, so no value becomes infinite.
    """
    if pa.types.is_string(kind):
        return column
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    try:
        values = pc.cast(text, kind)
    except pa.ArrowException:
        return None
    if pa.types.is_floating(kind):
        infinite = pc.and_(
            pc.is_inf(values), pc.invert(pc.match_substring(text, "inf", ignore_case=True))
        )
        if pc.any(infinite).as_py():
            return None
    return values


def first_unparsed(column: pa.Array, kind: pa.DataType) -> int:
    """The first row with a value that `parse` does not take; there is one."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        if parse(column.slice(low, middle - low), kind) is None:
            high = middle
        else:
            low = middle
    return low


def rule(kind: pa.DataType, value: str) -> str:
    """What a value of type `kind` must be, for a message about `value`."""
    name = {"float": "float32", "double": "float64", "date32[day]": "date32"}.get(
        str(kind), str(kind)
    )
    text = f"must be {name}, as column_types says"
    if name in _EXAMPLES:
        return f"{text}: {_EXAMPLES[name]}"
    if pa.types.is_floating(kind) and _DECIMAL_COMMA.fullmatch(value):
        return f"{text}, with a decimal point and no comma"
    return text
