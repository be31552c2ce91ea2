"""SIGTERM, SIGINT and SIGHUP, from the first line of a command to its last.

The first signal asks the command to stop. What it does depends on what the command is at:

- It raises `StopRequested` in the main thread while nothing has begun that needs an end of its own.
- It waits inside `deferred`, and that is said: an exception in the middle of Ray's start or end
  would abort the process, and after the last commit only the summary is left to write.
- It calls a function inside `handled_by`: the driver hands out nothing more and ends in order.

If a command that was asked to stop has not ended after `LIMIT` seconds, or is asked again, it ends
at once. Its exit code is `EXIT_STOPPED` then too. An end at once still does what `last_act` names.

Only the command line installs these handlers. In another program the functions here do nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from nstray.text import event_line, stamped

EXIT_STOPPED = 4
LIMIT = 25.0  # seconds from the signal to the end, if no function handles it
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LAST_ACT = 2.0  # seconds that an end at once waits for the last act
_LOOK = 0.2  # seconds between two looks at what tells nobody
_HINT = "run the same command again to resume"
_SECOND = "it ends in order in a moment; a second signal ends it at once; what is committed stays"


class StopRequested(KeyboardInterrupt):
    """A signal has asked the command to stop."""


class _LastAct:
    """A call that waits in a thread of its own: a signal handler starts it without a lock."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._ready, self._wake = os.pipe()
        self.done = False
        threading.Thread(target=self._run, name="last-act", daemon=True).start()

    def send(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake, word)

    def _run(self) -> None:
        word = os.read(self._ready, 1)
        os.close(self._wake)
        os.close(self._ready)
        if word == _BEGIN:
            with contextlib.suppress(Exception):
                self._act()
        self.done = True


_BEGIN, _DROP = b"b", b"d"


class _State:
    installed = False
    received: signal.Signals | None = None  # the first signal
    lost = False  # its exception was lost, and the signal is sent again
    deferrals = 0
    wake = -1  # a file that wakes the watch
    code: int | None = None  # the exit code, once it is known
    callback: Callable[[signal.Signals], object] | None = None
    last: _LastAct | None = None
    ending = False  # at once


_state = _State()


def install() -> None:
    """Handle the signals from now on. Call it first thing in the main thread.

    SIGHUP stays ignored if it is, as under nohup.
    """
    if not _state.installed:
        _state.installed = True
        ready, _state.wake = os.pipe()
        os.set_blocking(_state.wake, False)
        signal.set_wakeup_fd(_state.wake, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(ready,), name="stop-watch", daemon=True).start()
        sys.unraisablehook = _unraisable
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def installed() -> bool:
    """Whether this process is a command line that handles the signals."""
    return _state.installed


def reinstall() -> None:
    """Handle the signals again after a library has put its own handlers in place."""
    if _state.installed:
        # Ray's C++ handler of SIGTERM has an alarm that aborts the process.
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.set_wakeup_fd(_state.wake, warn_on_full_buffer=False)
        install()


def ignore(code: int) -> None:
    """Ignore the signals from now on: the exit code is known, and the process ends.

    If a thread or a library holds up its end for `LIMIT` seconds, it ends all the same.
    """
    if _state.installed:
        _state.code = code
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os.write(_state.wake, b"\0")


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A context in which no signal raises; `check` tells of one."""
    _state.deferrals += 1
    try:
        yield
    finally:
        _state.deferrals -= 1


@contextlib.contextmanager
def handled_by(callback: Callable[[signal.Signals], object]) -> Iterator[None]:
    """A context in which the first signal calls `callback`, also if it came before.

    The command then has as long as it needs to end.
    """
    _state.callback = callback
    try:
        if _state.received is not None:
            callback(_state.received)
        yield
    finally:
        _state.callback = None


@contextlib.contextmanager
def last_act(act: Callable[[], object]) -> Iterator[None]:
    """A context in which an end at once first calls `act`, in another thread, for `LAST_ACT`.

    An end in order does not call it.
    """
    if not _state.installed:
        yield
        return
    _state.last = last = _LastAct(act)
    try:
        yield
    finally:
        _state.last = None
        last.send(_DROP)


def begin_last_act() -> None:
    """Begin what an end at once does first; `leave` waits for it, as does `await_last_act`."""
    if (last := _state.last) is not None:
        last.send(_BEGIN)


def await_last_act() -> None:
    """Wait up to `LAST_ACT` until what an end at once does first is done; begin it if need be."""
    begin_last_act()
    if (last := _state.last) is not None:
        until = time.monotonic() + LAST_ACT
        while not last.done and time.monotonic() < until:
            time.sleep(0.01)


def leave(code: int) -> NoReturn:
    """End this process at once, but for its last act."""
    await_last_act()
    os._exit(code)


def check() -> None:
    """Raise `StopRequested` if a signal was received.

    It has not become an exception inside `deferred`. Elsewhere the exception may have been lost,
    for example in a destructor.
    """
    if _state.received is not None:
        raise StopRequested


def received() -> bool:
    """Whether a signal has asked the command to stop."""
    return _state.received is not None


def print_interrupted() -> None:
    """Say that the command was stopped before its end."""
    print(f"nstray: interrupted; {_HINT}", file=sys.stderr)


def _unraisable(raised: sys.UnraisableHookArgs) -> None:
    """Raise a `StopRequested` again that Python has dropped, as it does in a destructor."""
    if not issubclass(raised.exc_type, StopRequested) or _state.received is None:
        sys.__unraisablehook__(raised)
        return
    _state.lost = True
    main = threading.main_thread().ident
    # Not here: this function, too, is called where exceptions are dropped.
    again = threading.Timer(0.01, signal.pthread_kill, (main, _state.received))
    again.daemon = True
    again.start()


def _handle(number: int, frame: FrameType | None) -> None:
    first = _state.received is None
    if _state.lost:
        _state.lost = False
    elif _state.received is not None:
        # A terminal that closes may send SIGHUP twice.
        if number != signal.SIGHUP:
            _end("second_signal")
        return
    _state.received = signal.Signals(number)
    if _state.callback is not None:
        if first:
            _state.callback(_state.received)
        return
    if not _state.deferrals:
        raise StopRequested
    _write("stopping", signal=_state.received.name, hint=_SECOND)


def _watch(ready: int) -> None:
    """End this process if it does not end within `LIMIT` seconds of a signal.

    Python runs a handler between two lines of the main thread, which may be held up in C. A thread
    of its own learns of the signal all the same: by the file that Python's C part writes to, or as
    pending, if the main thread blocks it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    told = {*map(int, SIGNALS), 0}
    while not signal.sigpending() & {*SIGNALS}:
        if select.select([ready], [], [], _LOOK)[0] and told & {*os.read(ready, 64)}:
            break
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        time.sleep(min(_LOOK, LIMIT))
        if _state.callback is not None:  # it may take its time
            until = time.monotonic() + LIMIT
    if _state.code is not None:
        leave(_state.code)
    _end("still_not_ended", seconds=f"{LIMIT:g}")


def _end(reason: str, **fields: str) -> None:
    if _state.ending:  # asked once more
        os._exit(EXIT_STOPPED)
    _state.ending = True
    _write("killed", reason=reason, **fields, hint=_HINT)
    leave(EXIT_STOPPED)


def _write(name: str, **fields: str) -> None:
    """Write the line of an event to stderr.

    `print` must not be called in a handler, since the signal may have interrupted another one.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"{stamped(event_line(name, **fields))}\n".encode())
