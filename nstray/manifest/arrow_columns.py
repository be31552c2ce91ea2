"""Columns of text, of lists and of paths, worked on whole by Arrow and numpy, and the list of what is wrong in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.errors import ManifestError, UsageError
from nstray.manifest.files import HALF_CHARACTER, RawBatch, is_unicode

STRING = pa.string()
STRINGS = pa.list_(STRING)
DOUBLES = pa.list_(pa.float64())
# The usual URI, left as it is; and what is neither that nor a plain path: other schemes, `.` and `..`, double slashes, NUL.
_S3 = r"^s3://[A-Za-z0-9._-]{1,255}/."
_ODD = r"^[A-Za-z][A-Za-z0-9+.-]+://|(^|/)\.\.?(/|$)|//|\x00"
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Problems:
    """What is wrong with a manifest's rows: the first ten, and how many there are."""

    LIMIT = 10

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0
        self._batch: list[tuple[int, str]] = []

    def add(self, bad: Mask, text: Callable[[int], str]) -> None:
        """`text(i)` for each row i of the current batch where `bad` is true."""
        rows = np.flatnonzero(bad)
        self.count += len(rows)
        self._batch += [(int(i), text(int(i))) for i in rows[: self.LIMIT]]

    def settle(self, batch: RawBatch) -> None:
        """Give the current batch's problems their place, in the order of its rows."""
        for row, text in sorted(self._batch, key=lambda p: p[0])[: self.LIMIT - len(self.lines)]:
            self.lines.append(f"{batch.file.name} row {batch.first + row + 1}: {text}")
        self._batch.clear()

    def raise_any(self) -> None:
        """Raise one `ManifestError` with a line per problem, if there is one."""
        if self.count:
            more = self.count - len(self.lines)
            raise ManifestError(
                "\n".join([*self.lines, *([f"... and {more} more problems"] if more > 0 else [])])
            )


class TextColumns:
    """Columns that are text or lists, whatever the file calls them."""

    def __init__(self, batch: RawBatch, problems: Problems) -> None:
        self.batch = batch
        self.problems = problems

    def fail(self, name: str, kind: Any, wanted: str) -> ManifestError:
        return ManifestError(
            f"{self.batch.file.name}: column {name} holds {kind}; must be {wanted}"
        )

    def column(self, name: str, array: pa.Array | None, *, integers: bool = False) -> pa.Array:
        """As strings; an empty one is null."""
        if array is None or pa.types.is_null(array.type):
            return pa.nulls(self.batch.rows, pa.string())
        if not (is_text(array.type) or (integers and pa.types.is_integer(array.type))):
            raise self.fail(name, array.type, "text")
        array = pc.cast(array, pa.string())
        return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)

    def lists(self, name: str, array: pa.Array | None, kind: pa.DataType) -> pa.Array:
        """As lists of `kind`; null where the row has none. A CSV cell that starts with "[" is a JSON list."""
        n = self.batch.rows
        if array is None or pa.types.is_null(array.type):
            return pa.nulls(n, kind)
        single = kind is STRINGS
        wanted = "text or a list of text" if single else "a list of numbers"
        if is_list(array.type):
            try:
                return pc.cast(array, kind)
            except pa.ArrowException:
                raise self.fail(name, array.type, wanted) from None
        csv = self.batch.file.kind == "csv"
        if not is_text(array.type) or not (single or csv):
            raise self.fail(name, array.type, wanted)
        array = self.column(name, array)
        if single and not (csv and pc.any(pc.starts_with(array, "[")).as_py()):
            lengths = pc.cast(pc.is_valid(array), pa.int64()).to_numpy(zero_copy_only=False)
            return Lists.of(lengths, array.drop_null(), kind)
        encoded = array.dictionary_encode()
        parsed, wrong = [], {}
        for k, cell in enumerate(encoded.dictionary.to_pylist()):
            value, complaint = _cell(cell, kind)
            parsed.append(
                [cell] if complaint and name == "style" else value
            )  # so that the row does not lack a style too
            if complaint:
                wrong[k] = complaint
        codes = indices(encoded)
        self.problems.add(np.isin(codes, list(wrong)), lambda i: f"{name}: {wrong[int(codes[i])]}")
        return pa.array(parsed, kind).take(encoded.indices)


def _cell(cell: str, kind: pa.DataType) -> tuple[list[Any] | None, str]:
    """A CSV cell of a list column, and what is wrong with it."""
    if kind is STRINGS and not cell.startswith("["):
        return [cell], ""
    try:
        value = json.loads(cell)
        if isinstance(value, list) and kind is not STRINGS:
            value = [
                v if isinstance(v, bool) or not isinstance(v, int) else float(v) for v in value
            ]
    except (ValueError, RecursionError, OverflowError):  # the last: an integer that no double holds
        value = None
    allowed = (str, type(None)) if kind is STRINGS else (int, float)
    if isinstance(value, list) and all(
        isinstance(v, allowed) and not isinstance(v, bool) for v in value
    ):
        if not is_unicode("".join(v for v in value if isinstance(v, str))):
            return None, HALF_CHARACTER
        return value, ""
    example = '["a.jpg", "b.jpg"]' if kind is STRINGS else "[0.7, 0.3]"
    return None, f"must be a JSON list such as {example}; got {storage.redact(cell)[:80]}"


class Lists:
    """A list column as flat `values`, `lengths` and the row each value belongs to (`parents`); a null list counts as an empty one."""

    def __init__(self, array: pa.Array) -> None:
        self.lengths: Ints = (
            pc.fill_null(pc.list_value_length(array), 0)
            .to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )
        self.values = pc.list_flatten(array)
        self.parents: Ints = np.repeat(np.arange(len(array)), self.lengths)

    @staticmethod
    def of(lengths: Ints, values: pa.Array, kind: pa.DataType) -> pa.Array:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)

    def wrap(self, values: pa.Array) -> pa.Array:
        """`values` as lists of the same lengths."""
        return self.of(self.lengths, values, pa.list_(values.type))

    def only(self, rows: Mask) -> Lists:
        """The same lists where `rows` is true, empty ones elsewhere."""
        kept = self.values.filter(pa.array(rows[self.parents], pa.bool_()))
        return Lists(self.of(np.where(rows, self.lengths, 0), kept, pa.list_(kept.type)))

    def rows_where(self, bad: Mask) -> Mask:
        """True for rows with at least one value where `bad` is true."""
        out = np.zeros(len(self.lengths), dtype=bool)
        out[self.parents[bad]] = True
        return out


def _object(uri: str) -> str:
    if uri.startswith("s3://") and not uri[5:].partition("/")[2]:
        raise UsageError(f"{uri} names a bucket; an object is s3://BUCKET/KEY")
    return uri


def resolve(
    base: str, values: pa.Array, name: str, parents: Ints | None, problems: Problems, local: bool
) -> pa.Array:
    """Paths and URIs made absolute, relative ones against `base`; nulls stay.

    Args:
        parents: the row each value belongs to, where they are not one per row.
        local: whether they may be local.
    """
    s3 = pc.match_substring_regex(values, _S3)
    plain = pc.binary_join_element_wise(base.rstrip("/"), values, "/")
    out = pc.if_else(pc.or_(pc.starts_with(values, "/"), s3), values, plain)
    odd = pc.and_(pc.match_substring_regex(values, _ODD), pc.invert(s3))
    if not pc.any(odd).as_py():  # also where every value is null
        return out if local else _remote(out, name, parents, problems)
    # What storage alone knows how to read, one distinct value at a time.
    encoded = pc.if_else(odd, values, pa.scalar(None, pa.string())).dictionary_encode()
    moved: list[str | None] = []
    wrong: dict[int, str] = {}
    for k, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            moved.append(_object(storage.join(base, value)))
        except UsageError as error:
            moved.append(None)
            wrong[k] = str(error)
    if wrong:
        codes = indices(encoded)
        _add(np.isin(codes, list(wrong)), lambda k: wrong[int(codes[k])], name, parents, problems)
        # A row's first trouble is enough: what could not be moved is not looked at again.
        out = pc.if_else(pa.array(np.isin(codes, list(wrong))), pa.scalar(None, pa.string()), out)
    out = pc.coalesce(pa.array(moved, pa.string()).take(encoded.indices), out)
    return out if local else _remote(out, name, parents, problems)


def _remote(resolved: pa.Array, name: str, parents: Ints | None, problems: Problems) -> pa.Array:
    """`resolved`, with a problem for each row where it is local."""
    here = mask(pc.fill_null(pc.invert(pc.starts_with(resolved, "s3://")), False))
    if here.any():
        advice = "a manifest on s3:// names no local files, unless allow_local says that its author may read yours; put the image on s3://"
        _add(
            here,
            lambda k: f"{storage.redact(resolved[k].as_py())!r} is local; {advice}",
            name,
            parents,
            problems,
        )
    return resolved


def _add(
    bad: Mask, text: Callable[[int], str], name: str, parents: Ints | None, problems: Problems
) -> None:
    """A problem for each row with a bad value: `text` of its first one."""
    places = np.flatnonzero(bad)
    rows = places if parents is None else parents[places]
    first = {int(row): int(k) for row, k in zip(rows[::-1], places[::-1], strict=True)}
    flags = np.zeros(int(rows.max()) + 1, dtype=bool)
    flags[rows] = True
    problems.add(flags, lambda i: f"{name}: {text(first[i])}")


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    tests: Iterable[Callable[[pa.DataType], bool]] = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
    )
    return any(test(kind) for test in tests)


def mask(array: pa.Array) -> Mask:
    """A boolean Arrow array without nulls as numpy."""
    out: Mask = array.to_numpy(zero_copy_only=False).astype(bool)
    return out


def sized(array: pa.Array, kind: pa.DataType = STRING) -> pa.Array:
    """Values as text of the type `kind`, each prefixed with its length in bytes, so that no two run together; nulls stay.

    A floating number is its 64 bits: no library's way of printing one enters an id or a digest.
    """
    if pa.types.is_floating(array.type):
        bits = (
            pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
        ).view(np.int64)
        array = pc.if_else(pc.is_valid(array), pa.array(bits), pa.scalar(None, pa.int64()))
    array = pc.cast(array, kind)
    return pc.binary_join_element_wise(
        pc.cast(pc.binary_length(array), kind), array, pa.scalar(":", kind)
    )


def sized_lists(lists: Lists) -> pa.Array:
    """The values of each list as `sized` has them, one after the other; nulls left out."""
    return pc.binary_join(lists.wrap(pc.fill_null(sized(lists.values), "")), "")


def indices(encoded: pa.DictionaryArray) -> Ints:
    """Dictionary indices; -1 for null."""
    out: Ints = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return out
