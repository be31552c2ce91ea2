"""The pages of a Parquet column chunk, checked before Arrow decodes them.

Arrow takes a page header at its word: it allocates as many bytes as the page claims, and a few
bytes can stand for gigabytes of values. Headers are Thrift's compact protocol (parquet.thrift,
`PageHeader`).
"""

from __future__ import annotations

from typing import Any

DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # PageType
# Encoding; DELTA_BYTE_ARRAY (7) is left out: each value may repeat the one before it.
ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 6: "DELTA_LENGTH_BYTE_ARRAY", 8: "RLE_DICTIONARY"}
_DEPTH = 8


class BadPages(ValueError):
    """What is wrong with the pages of a chunk."""


def check_pages(chunk: bytes, rows: int, claimed: int) -> bool:
    """Check the page headers of a column chunk; returns whether it has a dictionary.

    Raises `BadPages` if a page runs over the chunk's end, if the pages have other than `rows`
    values or more than `claimed` uncompressed bytes, or for an encoding that can stand for more
    bytes than the chunk has.
    """
    position = values = size = 0
    dictionary = False
    while position < len(chunk) and values < rows:
        header, position = _Reader(chunk, position).struct()
        kind, plain, packed = (_number(header, field) for field in (1, 2, 3))
        if packed < 0 or plain < 0 or position + packed > len(chunk):
            raise BadPages(f"a page of {packed:,} bytes runs over the end of its column chunk")
        size += plain
        if size > claimed:
            raise BadPages(f"its pages claim more than the {claimed:,} bytes of the footer")
        if kind == DICTIONARY:
            dictionary = True
        elif kind in (DATA, DATA_V2):
            inner = header.get(5 if kind == DATA else 8)
            if not isinstance(inner, dict):
                raise BadPages("a data page has no header of its kind")
            encoding = _number(inner, 2 if kind == DATA else 4)
            if encoding not in ENCODINGS:
                raise BadPages(
                    f"a page of encoding {encoding}, which is not read; write the pictures as PLAIN"
                )
            count = _number(inner, 1)
            if count < 0:
                raise BadPages(f"a page of {count} values")
            values += count
        position += packed
    if values != rows:
        raise BadPages(f"its pages have {values:,} values, and its footer says {rows:,}")
    return dictionary


def _number(struct: dict[int, Any], field: int) -> int:
    value = struct.get(field)
    if not isinstance(value, int):
        raise BadPages("a page header lacks a number")
    return value


class _Reader:
    """Structs of Thrift's compact protocol, as dicts by field number."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position

    def struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """The struct at the position, and the position after it."""
        if depth > _DEPTH:
            raise BadPages("a page header of too many levels")
        found: dict[int, Any] = {}
        field = 0
        while (first := self._byte()) != 0:
            step = first >> 4
            field = field + step if step else self._zigzag()
            found[field] = self._value(first & 15, depth)
        return found, self._position

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # true, false
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):  # integers
            return self._zigzag()
        if kind == 7:
            return self._take(8)
        if kind == 8:
            return self._take(self._varint())
        if kind == 12:
            return self.struct(depth + 1)[0]
        raise BadPages(f"a page header with a value of kind {kind}")

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._position:
            raise BadPages("a page header runs over the end of its column chunk")
        self._position += size
        return self._data[self._position - size : self._position]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise BadPages("a page header with a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
