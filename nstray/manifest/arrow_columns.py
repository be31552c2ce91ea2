"""Whole Arrow columns as flags, as lists and as text that can be hashed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

STRING = pa.string()
STRINGS = pa.list_(STRING)
DOUBLES = pa.list_(pa.float64())
Flags = npt.NDArray[np.bool_]  # one per row or per value
Ints = npt.NDArray[np.int64]


class Lists:
    """A list column, flat; a null list counts as an empty one.

    Attributes:
        lengths: of each row's list.
        values: of all lists, one after the other.
        parents: the row each value belongs to.
    """

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
        """A list column of type `kind` with these lengths and flat values."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)

    def wrap(self, values: pa.Array) -> pa.Array:
        """`values` as lists of the same lengths."""
        return self.of(self.lengths, values, pa.list_(values.type))

    def only(self, rows: Flags) -> Lists:
        """The same lists in the rows for which `rows` is true, empty lists in the others."""
        values = self.values.filter(pa.array(rows[self.parents], pa.bool_()))
        return Lists(self.of(np.where(rows, self.lengths, 0), values, pa.list_(values.type)))

    def rows_where(self, bad: Flags) -> Flags:
        """True for rows with at least one value for which `bad` is true."""
        out = np.zeros(len(self.lengths), dtype=bool)
        out[self.parents[bad]] = True
        return out


def is_text(kind: pa.DataType) -> bool:
    """Whether values of type `kind` are text; a dictionary counts as its values."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether values of type `kind` are lists of any of Arrow's layouts."""
    tests: Iterable[Callable[[pa.DataType], bool]] = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
    )
    return any(test(kind) for test in tests)


def to_flags(array: pa.Array) -> Flags:
    """A boolean Arrow array without nulls as numpy."""
    out: Flags = array.to_numpy(zero_copy_only=False).astype(bool)
    return out


def sized(array: pa.Array, kind: pa.DataType = STRING) -> pa.Array:
    """Values as text of the type `kind`, each prefixed with its length in bytes; nulls stay.

    The lengths keep two values from being read as one. A floating number is its 64 bits: no
    library's way of printing one enters an id or a digest.
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
    """The values of each list as `sized` writes them, one after the other, without nulls."""
    return pc.binary_join(lists.wrap(pc.fill_null(sized(lists.values), "")), "")


def indices(encoded: pa.DictionaryArray) -> Ints:
    """Dictionary indices; -1 for null."""
    out: Ints = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return out
