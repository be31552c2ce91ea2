"""The reserved columns that say where in their archives contents and styles lie."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray.manifest.arrow_columns import STRINGS, Flags, Lists, to_flags
from nstray.manifest.problems import Problems
from nstray.manifest.references import split_members
from nstray.manifest.text_columns import TextColumns
from nstray.sources.reference import AT_COLUMNS, ETAG_COLUMNS, PLACE_COLUMNS, parse_place
from nstray.text import counted, redact

PLACE_TYPES = {
    name: STRINGS if name in (AT_COLUMNS["style"], ETAG_COLUMNS["style"]) else pa.string()
    for name in PLACE_COLUMNS
}
_PLACE = r"^[0-9]{1,18}:[0-9]{1,18}(:[0-9A-Fa-f]{8})?$"
_ETAG = r"^[!-~]{1,200}$"  # printable ASCII


def parse_places(
    raw: Mapping[str, pa.Array],
    content: pa.Array,
    styles: Lists,
    text: TextColumns,
    problems: Problems,
) -> dict[str, pa.Array]:
    """Those of the columns `PLACE_COLUMNS` that a batch has, checked, in the types `PLACE_TYPES`.

    Args:
        content, styles: the references, absolute.
    Raises: `ManifestError` for a column of another type.
    """
    out: dict[str, pa.Array] = {}
    for name in (name for name in PLACE_COLUMNS if name in raw):
        if PLACE_TYPES[name] is STRINGS:
            lists = Lists(text.lists(name, raw[name], STRINGS))
            out[name] = _parse_lists(name, lists, styles, problems)
        else:
            values = text.column(name, raw[name])
            _check(name, values, content, None, problems)
            out[name] = values
    return out


def _parse_lists(name: str, lists: Lists, styles: Lists, problems: Problems) -> pa.Array:
    """Places or ETags of styles; null for a row that has none."""
    null = pa.scalar(None, pa.string())
    values = pc.if_else(pc.equal(lists.values, ""), null, lists.values)
    given = lists.lengths > 0
    unequal = given & (lists.lengths != styles.lengths)
    problems.add(
        unequal,
        lambda i: (
            f"{name}: {counted(lists.lengths[i], 'value')} for "
            f"{counted(styles.lengths[i], 'style')}; give one per style, null for a loose file"
        ),
    )
    equal = given & ~unequal
    named = Lists(lists.wrap(values)).only(equal)
    _check(name, named.values, styles.only(equal).values, named, problems)
    return pc.if_else(pa.array(given), lists.wrap(values), pa.scalar(None, STRINGS))


def _check(
    name: str, values: pa.Array, references: pa.Array, lists: Lists | None, problems: Problems
) -> None:
    """Add a problem for each row with a wrong value, or one of a reference to a loose file.

    Args:
        lists: which rows the values belong to; None if there is one value per row.
    """
    at = name in AT_COLUMNS.values()
    good = pc.match_substring_regex(values, _PLACE if at else _ETAG)
    wrong = to_flags(pc.fill_null(pc.invert(good), False))
    archives = split_members(references)[0]
    named = pc.and_(pc.is_valid(references), pc.is_valid(values))
    loose = to_flags(pc.and_(named, pc.is_null(archives))) & ~wrong

    def wrong_text(k: int) -> str:
        value = values[k].as_py()
        if not at:
            return f"{redact(value)[:80]!r} is no ETag: it has 1 to 200 visible ASCII characters"
        try:
            parse_place(value[:200])
        except ValueError as error:
            return str(error)
        return f"{value[:80]!r} is no place"

    def loose_text(k: int) -> str:
        return f"{redact(references[k].as_py())!r} is no member of an archive: leave {name} empty"

    for bad, say in ((wrong, wrong_text), (loose, loose_text)):
        first, rows = _by_row(bad, lists)
        problems.add(rows, lambda i, first=first, say=say: f"{name}: {say(first[i])}")  # type: ignore[misc]


def _by_row(bad: Flags, lists: Lists | None) -> tuple[dict[int, int], Flags]:
    """The first bad value of each row that has one, and which rows these are."""
    places = np.flatnonzero(bad)
    if lists is None:
        return {int(k): int(k) for k in places}, bad
    rows = lists.parents[places]
    return (
        {int(row): int(k) for row, k in zip(rows[::-1], places[::-1], strict=True)},
        lists.rows_where(bad),
    )
