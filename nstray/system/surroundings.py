"""What the machine does not give a command: one line that says so, and what to set.

A full disk, a temporary folder that can't be written, a limit on files, processes or memory: these
are no faults of nstray, so they end in a message and not in a traceback.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import warnings

from nstray.text import redact

_HINTS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit on open files (ulimit -n 65536)",
    errno.ENFILE: "raise the machine's limit on open files (sysctl fs.file-max)",
    errno.EAGAIN: "raise the limit on processes (ulimit -u, or the container's pids limit)",
    errno.ENOMEM: "give the machine or container more memory (ulimit -v limits it too)",
}
# Word of ulimit, its number, and what Ray's processes do with: each of them maps the object store
# and starts some 30 threads, and the driver raises its soft limit of files to the hard one.
_LIMITS = (
    ("-v", resource.RLIMIT_AS, 2**40),
    ("-f", resource.RLIMIT_FSIZE, 2**40),
    ("-n", resource.RLIMIT_NOFILE, 1024),
    ("-u", resource.RLIMIT_NPROC, 512),
)
_OF_A_PLACE = (  # another folder helps
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)


def shortage(error: BaseException) -> str | None:
    """What was missing and what to set, on one line; None if `error` is of another kind."""
    number: int | None = None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        number = errno.EAGAIN
    elif isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return "there is no folder for temporary files; set TMPDIR to one that can be written"
    elif isinstance(error, OSError):
        number = error.errno
    if number not in _HINTS:
        return None
    name = getattr(error, "filename", None)
    place = os.fsdecode(name) if isinstance(name, str | bytes) else None
    text = os.strerror(number) if place is None else f"{place}: {os.strerror(number)}"
    if number in _OF_A_PLACE and (place is None or _is_temporary(place)):
        return redact(f"{text}; {_HINTS[number]}, or set TMPDIR to another folder")
    return redact(f"{text}; {_HINTS[number]}")


def _is_temporary(place: str) -> bool:
    if "://" in place:  # it would be a path below the current folder
        return False
    folder = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")
    return os.path.commonpath([folder, os.path.abspath(place)]) == folder


def low_limits() -> str:
    """The limits of this process that are low for Ray, as words of ulimit; empty if none is."""
    found = []
    for word, number, enough in _LIMITS:
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY and hard < enough:
            found.append(f"ulimit {word} is {hard // 1024 if word in ('-v', '-f') else hard}")
    return ", ".join(found)


def use_own_interpreter_settings() -> None:
    """Run this process, and all that it starts, as Python runs without its settings for tests.

    PYTHONWARNINGS=error and PYTHONOPTIMIZE are meant for another program: a warning of a library
    that becomes an error ends Ray's processes, and a help without docstrings is empty. A process
    that was started with optimisations starts again without them.
    """
    if any(option.startswith("error") for option in sys.warnoptions):
        os.environ.pop("PYTHONWARNINGS", None)
        sys.warnoptions[:] = [o for o in sys.warnoptions if not o.startswith("error")]
        warnings.filters[:] = [f for f in warnings.filters if f[0] != "error"]  # type: ignore[index]
        warnings.simplefilter("ignore", ResourceWarning, append=True)  # lets Python see the change
    if os.environ.pop("PYTHONOPTIMIZE", None) and sys.flags.optimize:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
