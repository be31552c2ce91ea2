"""Files of known size that can be sought in and read, and nothing else."""

from __future__ import annotations

import io
from typing import Any

MAX_BLOCK = 8 * 2**20  # to which range reads grow while a file is read in sequence


class SeekableFile(io.RawIOBase):
    """The position in a file of `size` bytes; a subclass reads there and moves it on."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self._position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start of the file")
        self._position = base + offset
        return self._position


class BlockFile(SeekableFile):
    """A file that reads blocks ahead, larger ones while it is read in sequence.

    Wrap it in a BufferedReader. A subclass gives the blocks (`_fetch`).

    Args:
        data, start: the block that is there at first, and its place.
        block: bytes of the smallest block.
    """

    def __init__(self, size: int, data: bytes, start: int, block: int) -> None:
        super().__init__(size)
        self._data, self._start, self._block, self._step = data, start, block, block

    def _fetch(self, start: int, length: int) -> tuple[bytes, int]:
        """Bytes that hold the one at `start`, and the place of the first of them."""
        raise NotImplementedError

    def _compare(self, piece: bytes) -> None:
        """Called with what is read at the position, before it moves on."""

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(view):
            return 0
        end = self._start + len(self._data)
        if not self._start <= self._position < end:
            self._step = min(2 * self._step, MAX_BLOCK) if self._position == end else self._block
            length = min(max(len(view), self._step), self._size - self._position)
            self._data, self._start = self._fetch(self._position, length)
        offset = self._position - self._start
        piece = self._data[offset : offset + len(view)]
        view[: len(piece)] = piece
        self._compare(piece)
        self._position += len(piece)
        return len(piece)
