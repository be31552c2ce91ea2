"""The text of a CSV or JSON Lines file as UTF-8 bytes, whatever its encoding and compression."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nstray import storage
from nstray.errors import ManifestError

if TYPE_CHECKING:
    from nstray.manifest.raw_batches import ManifestFile

_GZIP = b"\x1f\x8b"
# UTF-32 before UTF-16, whose little-endian mark begins it.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# First bytes of files that are no text, and what to do with each.
_NO_TEXT = (
    (b"PAR1", "a Parquet file; give it the ending .parquet"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; export or unpack it as UTF-8 text"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook; export it as CSV in UTF-8"),
    (b"(\xb5/\xfd", "compressed with zstd; unpack it, or compress it with gzip"),
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", "compressed with xz; unpack it, or compress it with gzip"),
)
SAVE_AS_UTF8 = (
    "save the file as UTF-8 "
    "(in Excel: CSV UTF-8; of Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW)"
)


class TextInput:
    """A file opened for reading from its start, as a context.

    A file whose first bytes are those of gzip is unpacked, and UTF-16 and UTF-32 with a byte order
    mark become UTF-8. Byte order marks are left out. UTF-8 passes as it is, unchecked.

    `read` may be called by another thread while `close` is: it returns nothing from then on.

    Attributes:
        encoding: ``UTF-8``, ``UTF-16`` or ``UTF-32``.
        closed: whether `close` was called.
    Raises: `ManifestError` for what is no text: another kind of file, NUL bytes, damaged gzip, and
        UTF-16 or UTF-32 with a wrong character.
    """

    def __init__(self, file: ManifestFile) -> None:
        self.file = file
        self.closed = False
        self._stream: Any = storage.open_input(file.uri)
        self._layers = [self._stream]
        self._lines = 0  # that ended before the next bytes
        self._decoder: codecs.IncrementalDecoder | None = None
        head = self._stream.read(len(_GZIP))
        self._stream.seek(0)
        if head == _GZIP:
            self._stream = io.BufferedReader(gzip.GzipFile(fileobj=self._stream), 2**17)
            self._layers.insert(0, self._stream)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Read the first bytes: they say what the file is."""
        head = self._raw(8)
        for magic, what in _NO_TEXT:
            if head.startswith(magic):
                raise ManifestError(f"{self.file.name}: this is {what}")
        self.encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "UTF-8")
        if self.encoding != "UTF-8":
            self._decoder = codecs.getincrementaldecoder(self.encoding)("strict")
        elif b"\0" in head[:2] and head.strip(b"\0"):
            raise ManifestError(
                f"{self.file.name}: not UTF-8 text (it looks like UTF-16 without a byte order "
                f"mark); {SAVE_AS_UTF8}"
            )
        self._pending = self._text(head.removeprefix(codecs.BOM_UTF8))

    def peek(self, size: int) -> bytes:
        """The next bytes, at least `size` unless the file ends; they are read again."""
        parts = [self._pending]
        have = len(self._pending)
        while have < size and (more := self._next(size)):
            parts.append(more)
            have += len(more)
        self._pending = b"".join(parts)
        return self._pending

    def skip(self, size: int) -> None:
        """Leave out `size` bytes that `peek` returned."""
        self._pending = self._pending[size:]

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end. They may be more or fewer than `size`."""
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
            return data
        return self._next(size)

    def _next(self, size: int) -> bytes:
        while raw := self._raw(size):
            if text := self._text(raw):
                return text
        return self._text(b"", final=True)

    def _text(self, raw: bytes, final: bool = False) -> bytes:
        if self._decoder is not None:
            try:
                raw = self._decoder.decode(raw, final).encode()
            except UnicodeError as error:
                raise ManifestError(
                    f"{self.file.name}: not {self.encoding} text, as its byte order mark says "
                    f"({error}); save the file as UTF-8"
                ) from None
        if b"\0" in raw:
            line = self._lines + _line_ends(raw[: raw.index(b"\0")]) + 1
            raise ManifestError(
                f"{self.file.name} line {line}: a NUL byte, so this is not text; "
                "is the file damaged, or of another format?"
            )
        self._lines += _line_ends(raw)
        return raw

    def _raw(self, size: int) -> bytes:
        try:
            data: bytes = b"" if self.closed else self._stream.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ManifestError(f"{self.file.name}: damaged gzip: {error}") from None
        except ValueError:
            if not self._stream.closed:
                raise
            return b""  # another thread has closed it meanwhile
        return data

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        for layer in self._layers:
            layer.close()

    def __enter__(self) -> TextInput:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") or data.count(b"\r")
