"""An archive as a seekable file, for the headers that say where its members are."""

from __future__ import annotations

from collections.abc import Callable

from nstray import storage
from nstray.errors import BadArchive
from nstray.storage.seekable import SeekableFile

AHEAD = 2 * 2**20  # bytes of a request, if headers lie closer together than GAP
GAP = 2**20
BLOCK = 16 * 2**10  # bytes of a request otherwise
HEADER = 2**20  # bytes that one member's headers have at most


class RangedFile(SeekableFile):
    """One version of an object, read by ranges with a block in memory.

    Of headers that lie close together on a store many come by one request, with the data between
    them: a request takes as long as some MB. Raises as `storage.read_range` does, and `BadArchive`
    if more than `HEADER` bytes are read for one member.

    Args:
        etag: the version; None takes the one that is there.
        on_read: called for each request.

    Attributes:
        size, etag: of the object.
    """

    def __init__(
        self, uri: str, etag: str | None = None, on_read: Callable[[], None] = lambda: None
    ) -> None:
        piece = storage.read_range(uri, -1, BLOCK, max_bytes=BLOCK, if_match=etag)
        super().__init__(piece.size)
        self.size, self.etag = piece.size, piece.etag
        self._uri, self._on_read, self._piece = uri, on_read, piece
        self._ahead = AHEAD if storage.split(uri)[0] is not None else BLOCK
        self._end = -2 * GAP  # of the object's header nothing is near
        self._left = HEADER

    def next_member(self) -> None:
        """The headers of another member follow."""
        self._left = HEADER

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; fewer at the end of the object alone."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise BadArchive(
                f"{storage.redact(self._uri)}: the headers at byte {self._position:,} are no "
                f"member's: they claim more than {HEADER:,} bytes"
            )
        size = min(size, max(0, self.size - self._position))
        if size == 0:
            return b""
        piece = self._piece
        if not piece.start <= self._position <= piece.start + len(piece.data) - size:
            near = 0 <= self._position - self._end <= GAP
            length = max(size, self._ahead if near else BLOCK)
            length = min(length, self.size - self._position)
            self._on_read()
            piece = self._piece = storage.read_range(
                self._uri, self._position, length, max_bytes=AHEAD, if_match=self.etag or None
            )
            self._end = self._position + length
        at = self._position - piece.start
        self._position += size
        return piece.data[at : at + size]
