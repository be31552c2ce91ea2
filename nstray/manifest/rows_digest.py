"""A digest of a manifest's rows, whatever files hold them.

It tells whether a manifest that has grown still begins with the rows that it had, and whether its
carried columns are still the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray.manifest.arrow_columns import Ints, is_list

BYTES = pa.large_binary()
TEXT = pa.large_string()
_EMPTY, _NULL = pa.scalar(b"", BYTES), pa.scalar(None, BYTES)
_WHOLE = 2**31 - 1  # elements that Arrow prints before it writes "..."


class RowsDigest:
    """sha256 over the rows in order.

    Of each row enter the columns that are not null, names and values prefixed with their lengths.
    So other files or batches of the same rows change nothing, nor does another order of the
    columns, nor a column that is null in all rows.

    A value enters as bytes: text and binary as they are; numbers as their decimal text, floats as
    their 64 bits; times as their count of units; lists, maps and structs as their members, each
    prefixed with its length.

    Args:
        mark: also note the digest of the first `mark` rows.

    Attributes:
        marked: that digest; None until so many rows were added.
    """

    def __init__(self, mark: int = 0) -> None:
        self.rows, self.mark = 0, mark
        self.marked: str | None = None
        self._sum = hashlib.sha256()

    def add(self, columns: Mapping[str, pa.Array], rows: int) -> None:
        """Take the next rows; every column has `rows` values."""
        if columns:
            texts = [_named(name, columns[name]) for name in sorted(columns)]
            joined = pc.binary_join_element_wise(
                *texts, pa.scalar(b"\n", BYTES), _EMPTY, null_handling="skip"
            )
        else:
            joined = pa.array([b"\n"] * rows, BYTES)
        data = memoryview(joined.buffers()[2])
        starts = np.frombuffer(joined.buffers()[1], np.int64)
        upto = self.mark - self.rows
        if 0 < upto <= rows:
            self._sum.update(data[: starts[upto]])
            self.marked = str(self)
            data = data[starts[upto] :]
        self._sum.update(data)
        self.rows += rows

    def __str__(self) -> str:
        return f"sha256:{self._sum.hexdigest()}"


def _named(name: str, array: pa.Array) -> pa.Array:
    """A column's values, each after the column's name; nulls stay."""
    label = pa.scalar(b"%d:%s" % (len(name.encode()), name.encode()), BYTES)
    return pc.binary_join_element_wise(label, _sized(_encoded(array)), _EMPTY)


def _sized(values: pa.Array) -> pa.Array:
    """Bytes, each prefixed with its length; nulls stay."""
    lengths = pc.cast(pc.cast(pc.binary_length(values), TEXT), BYTES)
    return pc.binary_join_element_wise(lengths, values, pa.scalar(b":", BYTES))


def _members(array: pa.Array) -> pa.Array:
    """The members of lists or structs: sized, and ``null`` for a null one."""
    return pc.fill_null(_sized(_encoded(array)), b"null")


def _encoded(array: pa.Array) -> pa.Array:
    """Values of any type as bytes; nulls stay."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _encoded(array.storage)
    if pa.types.is_dictionary(kind):
        return _encoded(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _encoded(pc.run_end_decode(array))
    if pa.types.is_map(kind):
        return _encoded(pc.cast(array, pa.list_(pa.struct([kind.key_field, kind.item_field]))))
    if pa.types.is_struct(kind):
        members = [_members(member) for member in array.flatten()]
        joined = pc.binary_join_element_wise(*members, _EMPTY, _EMPTY)
        return pc.if_else(array.is_valid(), joined, _NULL)
    if is_list(kind) or pa.types.is_large_list_view(kind):
        return _joined(_members(pc.list_flatten(array)), array)
    if pa.types.is_floating(kind):
        values = pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False).astype(np.float64)
        # -0.0 becomes 0.0
        bits = pa.array((values + 0.0).view(np.int64))
        return pc.if_else(array.is_valid(), pc.cast(pc.cast(bits, TEXT), BYTES), _NULL)
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        array = pc.cast(array, pa.int32())
    elif pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        array = pc.cast(array, pa.int64())
    try:
        if pa.types.is_primitive(array.type) or pa.types.is_decimal(array.type):
            array = pc.cast(array, TEXT)
        return pc.cast(array, BYTES)
    except pa.ArrowNotImplementedError:
        # Unions and intervals: Arrow's own text, which is slow.
        one = (array.slice(i, 1) for i in range(len(array)))
        return pa.array(
            [
                None if a.null_count else a.to_string(window=_WHOLE, container_window=_WHOLE)
                for a in one
            ],
            TEXT,
        ).cast(BYTES)


def _joined(members: pa.Array, lists: pa.Array) -> pa.Array:
    """For each of `lists`, its members one after the other; nulls stay.

    The members' bytes are joined already: only the offsets are other ones.
    """
    lengths: Ints = (
        pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    ends = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.frombuffer(members.buffers()[1], np.int64)[members.offset :][: len(members) + 1]
    offsets = pa.py_buffer(np.ascontiguousarray(starts[ends]))
    data = members.buffers()[2] or pa.py_buffer(b"")
    joined = pa.Array.from_buffers(BYTES, len(lists), [None, offsets, data])
    return pc.if_else(lists.is_valid(), joined, _NULL)
