"""The ids of pairs: those that rows give, and the default ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from nstray.config import ROW_FIELDS
from nstray.manifest.arrow_columns import Flags, Lists, sized, sized_lists, to_flags
from nstray.manifest.problems import Problems
from nstray.manifest.text_columns import TextColumns
from nstray.text import redact

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def pair_ids(
    text: TextColumns,
    array: pa.Array | None,
    problems: Problems,
    defaults: Callable[[], pa.Array],
) -> tuple[pa.Array, Flags]:
    """The rows' ids, and which rows have a default id.

    Args:
        array: the column pair_id; None if the file has none.
        defaults: makes the default ids; called only if a row needs one.
    """
    ids = text.column("pair_id", array, integers=True)
    default = to_flags(pc.is_null(ids))
    bad = ~to_flags(pc.fill_null(pc.match_substring_regex(ids, ID_PATTERN), True))
    problems.add(
        bad,
        lambda i: (
            f"pair_id: {redact(ids[i].as_py())[:140]!r} must be 1 to 128 of A-Z a-z 0-9 . _ - "
            "and start with a letter or digit; or leave the column out"
        ),
    )
    return (pc.coalesce(ids, defaults()) if default.any() else ids), default


def default_ids(
    content: pa.Array,
    styles: Lists,
    weights: Lists,
    images: dict[str, Lists | pa.Array],
    overrides: dict[str, pa.Array],
) -> pa.Array:
    """32 hex digits of BLAKE2b over the row's result-affecting values.

    They are content, styles, weights, masks, fine style and overrides. References enter as
    written, not resolved, so a folder that moves keeps its ids. Each value is prefixed with its
    length, so two different rows never give the same text.
    """
    parts = [
        "c",
        pc.fill_null(sized(content), ""),
        "s",
        sized_lists(styles),
        "w",
        sized_lists(weights),
    ]
    for name, given in images.items():
        text = sized_lists(given) if isinstance(given, Lists) else pc.fill_null(sized(given), "")
        parts.append(
            pc.if_else(pc.equal(text, ""), "", pc.binary_join_element_wise(name, "=", text, ""))
        )
    for name in ROW_FIELDS:
        if name in overrides:
            parts.append(
                pc.fill_null(pc.binary_join_element_wise(name, "=", sized(overrides[name]), ""), "")
            )
    keys = pc.cast(pc.binary_join_element_wise(*parts, ""), pa.binary()).to_pylist()
    return pa.array([hashlib.blake2b(k, digest_size=16).hexdigest() for k in keys], pa.string())
