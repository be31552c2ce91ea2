"""stdin, stdout and stderr that no closed, full or broken file behind them can turn into an error.

A job of days must not end because the terminal, the pipe or the disk of its log did. What can't be
written is dropped. `lost_answer` tells whether that was an answer that somebody still waits for.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import TextIO, cast

BLOCKED_SECONDS = 5.0  # a non-blocking file that is full is waited for; then the text is dropped


class _Output(io.RawIOBase):
    """The bytes that go to a file descriptor; errors are kept in `lost` and never raised.

    Args:
        closed: the descriptor was closed when the process began, and is the null device now.

    Attributes:
        lost: the first error, unless it was that the reader is gone.
    """

    def __init__(self, descriptor: int, closed: bool) -> None:
        self._descriptor, self._closed = descriptor, closed
        self.lost: OSError | None = None
        self._wait = BLOCKED_SECONDS

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        # The caller gives a buffer of any kind. What is dropped counts as written.
        left = memoryview(data).cast("B")
        size = len(left)
        if size and self._closed:
            self.lost = self.lost or OSError(errno.EBADF, "it is closed")
        try:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                    self._wait = BLOCKED_SECONDS
                except BlockingIOError:
                    if not select.select([], [self._descriptor], [], self._wait)[1]:
                        self._wait = 0.0  # until something is taken again
                        raise
        except BrokenPipeError:
            pass
        except OSError as error:
            self.lost = self.lost or error
        return size


def protect() -> None:
    """Give this process an open stdin, and a stdout and stderr that never raise.

    A descriptor that is closed is opened on the null device, before a file of another purpose gets
    its number. Text that the encoding lacks is written with backslashes.
    """
    closed = set()
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.add(descriptor)
            null = os.open(os.devnull, os.O_RDWR)
            if null == descriptor:
                os.set_inheritable(null, True)
            else:
                os.dup2(null, descriptor)
                os.close(null)
    if sys.stdin is None:  # Python found it closed
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _protected(sys.stdout, 1, 1 in closed)
    sys.stderr = _protected(sys.stderr, 2, 2 in closed)


def _protected(stream: TextIO | None, descriptor: int, closed: bool) -> TextIO:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    buffer = io.BufferedWriter(cast(io.RawIOBase, _Output(descriptor, closed)))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        buffer, encoding=encoding, errors="backslashreplace", line_buffering=True
    )


def lost_answer() -> str | None:
    """Why text for stdout was lost; None if it was not, or if its reader left on purpose."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Output) or raw.lost is None:
        return None
    return raw.lost.strerror or errno.errorcode.get(raw.lost.errno or 0, "unknown error")
