"""A digest of a manifest's rows, whatever files hold them.

It tells whether a manifest that has grown still begins with the rows that it had.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray.manifest.arrow_columns import Lists, is_list, sized

TEXT = pa.large_string()
WHOLE = 2**31 - 1  # elements that Arrow prints before it writes "..."


class RowsDigest:
    """sha256 over the rows in order.

    Of each row enter the columns that are not null, names and values prefixed with their lengths.
    So other files or batches of the same rows change nothing, nor does another order of the
    columns, nor a column that is null in all rows.

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
        texts = [_named(name, columns[name]) for name in sorted(columns)]
        joined = pc.binary_join_element_wise(
            *texts, pa.scalar("\n", TEXT), pa.scalar("", TEXT), null_handling="skip"
        )
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
    label = pa.scalar(f"{len(name.encode())}:{name}", TEXT)
    return pc.binary_join_element_wise(label, sized(_plain(array), TEXT), pa.scalar("", TEXT))


def _plain(array: pa.Array) -> pa.Array:
    """Values of any type as floats or text; nulls stay."""
    if is_list(array.type):
        lists = Lists(array)
        texts = lists.wrap(pc.fill_null(sized(_plain(lists.values), TEXT), "null"))
        return pc.if_else(
            pc.is_valid(array), pc.binary_join(texts, pa.scalar("", TEXT)), pa.scalar(None, TEXT)
        )
    if pa.types.is_floating(array.type):
        return array
    if not pa.types.is_nested(array.type) and not _is_bytes(array.type):
        with contextlib.suppress(pa.ArrowNotImplementedError):
            return pc.cast(array, TEXT)
    # Arrow's own text, because Python can't hold all of its values, such as times after 9999.
    one = (array.slice(i, 1) for i in range(len(array)))
    return pa.array(
        [None if a.null_count else a.to_string(window=WHOLE, container_window=WHOLE) for a in one],
        TEXT,
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
