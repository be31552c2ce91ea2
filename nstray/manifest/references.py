"""References to images: paths and URIs of a whole column made absolute."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.errors import UsageError
from nstray.manifest.arrow_columns import Flags, Ints, indices, to_flags
from nstray.manifest.problems import Problems
from nstray.sources.reference import (
    SEPARATOR,
    UNREAD_SEPARATOR,
    as_literal,
    check_member,
    refusal,
    split_member,
)
from nstray.text import redact

# The usual URI, which stays as it is.
_OBJECT = r"^(?:{})://[A-Za-z0-9._-]{{1,255}}/."  # with the schemes that are read
# What is neither that nor a plain path: other schemes, `.` and `..`, double slashes, NUL,
# backslashes, drives, members of archives, schemes that are mistyped.
_ODD = (
    r"^[A-Za-z][A-Za-z0-9+.-]+://|(^|/)\.\.?(/|$)|//|\x00|\\|^[A-Za-z]:/|::"
    r"|^[\s\"'<]*[A-Za-z][A-Za-z0-9]{1,5}:"
)
_ODD_IN_CSV = _ODD + r"|^#|^\s|\s$"
# (archive, member) of a reference that has the separator.
_SPLIT = r"(?is)^(?P<archive>.*?\.(?:tar|parquet|arrow))::(?P<member>.*)$"
_BAD_NAME = r"^$|^/|(^|/)\.\.(/|$)|\x00"  # of a member of a tar
_CELL = r"(?s)^.+\[[0-9]{1,18}\]$"
_WINDOWS = re.compile(r"\\|[A-Za-z]:/")


@dataclass(frozen=True)
class ReferenceRules:
    """What references may be.

    Attributes:
        local: they may name local files.
        csv: they stand in CSV, in which white space at their ends is a fault of the file.
        commented: the content begins its line of CSV, so a # may mean that the line is a comment.
    """

    local: bool
    csv: bool = False
    commented: bool = False


def resolve(
    base: str,
    values: pa.Array,
    name: str,
    parents: Ints | None,
    problems: Problems,
    rules: ReferenceRules,
) -> pa.Array:
    """Paths and URIs made absolute, relative ones against `base`; nulls stay.

    Args:
        name: of the column, for messages.
        parents: the row each value belongs to; None if there is one value per row.

    A relative path that begins with ``./`` is taken literally, whatever else is in it. Of a member
    of an archive the archive's path is made absolute.
    """
    if not pc.any(pc.match_substring_regex(values, SEPARATOR)).as_py():
        return _resolve(base, values, name, parents, problems, rules)
    archives, members = split_members(values)
    _check_members(archives, members, name, parents, problems, rules)
    loose = pc.if_else(pc.is_valid(archives), pa.scalar(None, pa.string()), values)
    found, alone = (
        _resolve(base, array, name, parents, problems, rules) for array in (archives, loose)
    )
    return pc.coalesce(pc.binary_join_element_wise(found, members, "::"), alone)


def split_members(references: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Archives and members of references; both are null for one that names no member.

    The same as `nstray.sources.reference.split_member`, for a whole column.
    """
    parts = pc.extract_regex(references, _SPLIT)
    archives, members = pc.struct_field(parts, 0), pc.struct_field(parts, 1)
    whole = pc.binary_join_element_wise(archives, "", "::")
    absolute = pc.match_substring_regex(archives, r"^(/|[A-Za-z][A-Za-z0-9+.-]+://)")
    other = pc.or_(
        pc.starts_with(archives, "./"),
        pc.or_(
            pc.and_(absolute, pc.match_substring(archives, "/./")),
            pc.match_substring_regex(whole, UNREAD_SEPARATOR),
        ),
    )
    keep, null = pc.invert(other), pa.scalar(None, pa.string())
    return pc.if_else(keep, archives, null), pc.if_else(keep, members, null)


def has_members(references: pa.Array) -> bool:
    """Whether one of the references names a member of an archive."""
    if not pc.any(pc.match_substring_regex(references, SEPARATOR)).as_py():
        return False
    return bool(pc.any(pc.is_valid(split_members(references)[0])).as_py())


def _check_members(
    archives: pa.Array,
    members: pa.Array,
    name: str,
    parents: Ints | None,
    problems: Problems,
    rules: ReferenceRules,
) -> None:
    """Add a problem for each row with a member that no archive of its kind has."""
    of_tar = pc.match_substring_regex(archives, r"(?i)\.tar$")
    bad = pc.if_else(
        of_tar,
        pc.match_substring_regex(members, _BAD_NAME),
        pc.invert(pc.match_substring_regex(members, _CELL)),
    )
    blank = pc.match_substring_regex(members, r"\s$" if rules.csv else r"[^\s\S]")

    def text(k: int) -> str:
        reference = f"{archives[k].as_py()}::{members[k].as_py()}"
        fault = check_member(reference) or "ends with white space: remove it"
        return f"{redact(reference)[:160]!r}: {fault}"

    _add(to_flags(pc.fill_null(pc.or_(bad, blank), False)), text, name, parents, problems)


def _resolve(
    base: str,
    values: pa.Array,
    name: str,
    parents: Ints | None,
    problems: Problems,
    rules: ReferenceRules,
) -> pa.Array:
    """`resolve` of references that name no members."""
    read = "|".join(["s3", *storage.remote_allowed()])
    stored = pc.match_substring_regex(values, _OBJECT.format(read))
    plain = pc.binary_join_element_wise(base.removesuffix("/"), values, "/")
    out = pc.if_else(pc.or_(pc.starts_with(values, "/"), stored), values, plain)
    odd = pc.match_substring_regex(values, _ODD_IN_CSV if rules.csv else _ODD)
    odd = pc.and_(odd, pc.or_(pc.invert(stored), pc.match_substring(values, "::")))
    if not pc.any(odd).as_py():  # also if every value is null
        return out if rules.local else _check_remote(out, name, parents, problems)
    # Only `storage` knows how to read these; it is asked once per distinct value.
    encoded = pc.if_else(odd, values, pa.scalar(None, pa.string())).dictionary_encode()
    joined: list[str | None] = []
    wrong: dict[int, str] = {}
    for k, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            _check_literal(name, value, rules)
            uri = _check_key(storage.join(base, value))
            joined.append(uri if split_member(uri) is None else as_literal(uri))
        except UsageError as error:
            joined.append(None)
            wrong[k] = str(error)
    if wrong:
        codes = indices(encoded)
        bad = np.isin(codes, list(wrong))
        _add(bad, lambda k: wrong[int(codes[k])], name, parents, problems)
        # One problem per value is enough: a value that cannot be joined is not checked further.
        out = pc.if_else(pa.array(bad), pa.scalar(None, pa.string()), out)
    out = pc.coalesce(pa.array(joined, pa.string()).take(encoded.indices), out)
    return out if rules.local else _check_remote(out, name, parents, problems)


def _check_literal(name: str, value: str, rules: ReferenceRules) -> None:
    """Raise `UsageError` for a reference that is hardly the name of a file."""
    if value.startswith("./"):
        return
    shown = repr(redact(value)[:160])
    absolute = storage.is_uri(value) or value.startswith("/")
    literally = "" if absolute else " (if the file's name really is that, write ./ before it)"
    if reason := refusal(value):
        raise UsageError(f"{shown} names a member of an archive that {reason}{literally}")
    if absolute:
        return
    if _WINDOWS.match(value) or "\\" in value:
        raise UsageError(
            f"{shown} is a path of Windows: write / in place of \\, relative to the manifest "
            f"and without a drive{literally}"
        )
    if rules.csv and value != value.strip():
        end = "begins" if value[0].isspace() else "ends"
        raise UsageError(f"{shown} {end} with white space: remove it{literally}")
    if name == "content" and rules.commented and value.startswith("#"):
        raise UsageError(
            f"{shown} begins with #: comments may stand before the header alone: "
            f"remove the line{literally}"
        )


def _check_key(uri: str) -> str:
    """`uri`; raises `UsageError` if it names a bucket alone."""
    scheme, colon, rest = uri.partition("://")
    if colon and storage.is_uri(uri) and not rest.partition("/")[2]:
        raise UsageError(f"{uri} names a bucket; an object is {scheme}://BUCKET/KEY")
    return uri


def _check_remote(
    resolved: pa.Array, name: str, parents: Ints | None, problems: Problems
) -> pa.Array:
    """`resolved`, with a problem for each row that has a local reference."""
    is_local = to_flags(pc.fill_null(pc.starts_with(resolved, "/"), False))
    if is_local.any():
        advice = (
            "a manifest on a store names no local files, unless allow_local says that its author "
            "may read yours; put the image on the store"
        )
        _add(
            is_local,
            lambda k: f"{redact(resolved[k].as_py())!r} is local; {advice}",
            name,
            parents,
            problems,
        )
    return resolved


def _add(
    bad: Flags, text: Callable[[int], str], name: str, parents: Ints | None, problems: Problems
) -> None:
    """Add a problem for each row with a bad value: the `text` of its first bad value."""
    places = np.flatnonzero(bad)
    if not len(places):
        return
    rows = places if parents is None else parents[places]
    first = {int(row): int(k) for row, k in zip(rows[::-1], places[::-1], strict=True)}
    flags = np.zeros(int(rows.max()) + 1, dtype=bool)
    flags[rows] = True
    problems.add(flags, lambda i: f"{name}: {text(first[i])}")
