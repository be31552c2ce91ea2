"""Texts for people and logs: redaction of secrets, lines of the log, durations, counts, near names.

Every text that goes to a person, a log or a row passes through here: credentials, signatures of
URLs and control characters are taken out.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import TextIO
from urllib.parse import quote

# The first pattern finds passwords that hold an @. The second one finds passwords that hold a
# slash, as AWS secrets do; HOST:PORT/a@b is no password. Every repetition is bounded: the text that
# is redacted may be hostile.
USER_INFO = (
    re.compile(r"://[^\s/\"'<>]{1,1024}@"),
    re.compile(r"://[^\s/@:\"'<>]{1,256}:(?!\d{1,5}/)[^\s@\"'<>]{0,1024}@"),
)
_SECRETS = "signature|token|secret|password|passwd|credential|access_?key|api_?key"
_REDACTIONS = (
    *((pattern, "://") for pattern in USER_INFO),
    (re.compile(r"(?i)(https?://[^\s?\"'<>]{0,2048})\?[^\s\"'<>]+"), r"\1?..."),
    (
        re.compile(
            r"(?i)((?:s3|file|gs|az|hf)[a-z]?://[^\s?\"'<>]{0,2048})\?[\w.-]{1,128}=[^\s\"'<>]+"
        ),
        r"\1?...",
    ),  # a bare ? is part of the key
    (
        re.compile(
            rf"(?i)(X-(?:Amz|Goog)-[\w-]{{1,64}}|(?:{_SECRETS})[\w.-]{{0,64}})=[^&\s\"'<>]+"
        ),
        r"\1=...",
    ),
    (re.compile(r"(?i)([?&](?:sig|key|auth|pwd))=[^&\s\"'<>]+"), r"\1=..."),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"), r"\1..."),
)
_LABEL_SAFE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def redact(text: str) -> str:
    """`text` without secrets: user names and passwords of URLs, query strings, AWS key ids.

    A query string may be the signature of a URL. Secrets are found anywhere in the text.
    """
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


def printable(text: str) -> str:
    """`text` for a terminal or a log: redacted, with control characters as JSON escapes.

    Newlines and tabs stay.
    """
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", redact(text))


def ascii_label(text: str) -> str:
    """`text` as the value of a metric's label: redacted, printable ASCII alone.

    Whatever else it holds, and ``%``, is percent-encoded as UTF-8, so that
    `urllib.parse.unquote` gives the redacted text back.
    """
    return quote(redact(text), safe=_LABEL_SAFE, errors="surrogateescape")


_PLAIN = re.compile(r"[a-z0-9_.,+-]+")  # no secret that `redact` knows, no control character
_NEEDS_QUOTES = re.compile(r"""[\s"'=\\]""")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\t": r"\t"})


def event_line(name: str, /, **fields: object) -> str:
    r"""The log line ``event=NAME key=value ...``, redacted and printable.

    A value that is empty, or that holds white space, quotes, ``=`` or a backslash, is put in double
    quotes. Inside of these a backslash stands before ``"`` and ``\``, and a line break is ``\n``.
    """
    return " ".join(f"{key}={_value(value)}" for key, value in {"event": name, **fields}.items())


_CLOCK = "%H:%M:%S"


def stamped(line: str) -> str:
    """A line of the driver's log behind the time of day."""
    return f"{time.strftime(_CLOCK)} {line}"


def log_event(name: str, sink: Callable[[str], object], /, **fields: object) -> None:
    """Send the line of an event to `sink`: a method of a logger, or whatever takes a line."""
    sink(event_line(name, **fields))


def _value(value: object) -> str:
    text = str(value)
    # To redact the plain values of the line per shard too takes 240 in place of 27 us (measured).
    if _PLAIN.fullmatch(text):
        return text
    text = printable(text)
    if text and not _NEEDS_QUOTES.search(text):
        return text
    return f'"{text.translate(_ESCAPES)}"'


class _Stderr(logging.Handler):
    """Writes to the stderr of the moment, as logging's own last resort does."""

    def emit(self, record: logging.LogRecord) -> None:
        print_log(printable(self.format(record)))


def print_log(line: str) -> None:
    """Write a line to stderr. It is lost if stderr is closed, full or broken."""
    with contextlib.suppress(OSError, ValueError):  # the latter: it was closed by Python
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Send what Python's `warnings` would print to the log."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text.rstrip())


def log_to_stderr(layout: str = "%(asctime)s %(message)s") -> None:
    """Send the log of this process to stderr, redacted; a second call changes nothing.

    The log includes tracebacks and the warnings of other libraries, whose texts may quote a file.
    """
    warnings.showwarning = _log_warning
    root = logging.getLogger()
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        handler = _Stderr()
        handler.setLevel(logging.WARNING)
        handler.setFormatter(logging.Formatter(layout, _CLOCK))
        root.addHandler(handler)


def duration(seconds: float | None) -> str:
    """Seconds as ``9s``, ``3m05s`` or ``26h07m``; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
    )


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can be redrawn: one of TERM=dumb can't."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def speed(pairs_per_second: float) -> str:
    """A rate in pairs per second, minute or hour, whichever has the fewest zeros."""
    for unit, seconds in (("s", 1), ("min", 60)):
        if pairs_per_second * seconds >= 1:
            return f"{pairs_per_second * seconds:.3g} pairs/{unit}"
    return f"{pairs_per_second * 3600:.3g} pairs/h"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, as ``1 pair`` and ``1,000 pairs``.

    Args:
        plural: the noun of any other number than 1; default: `noun` with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


# Words of other programs whose nearest word by letters is a wrong one.
_SAME = {
    **dict.fromkeys(("gpu", "nvidia"), "cuda"),
    **dict.fromkeys(("int", "integer", "long"), "int64"),
    **dict.fromkeys(("float", "double", "number"), "float64"),
    **dict.fromkeys(("str", "text", "object", "utf8", "varchar"), "string"),
    **dict.fromkeys(("boolean", "bit"), "bool"),
    **dict.fromkeys(("datetime", "timestamp", "datetime64[ns]"), "timestamp[us]"),
    **dict.fromkeys(("fp32", "single"), "float32"),
    "date": "date32",
    "bf16": "bfloat16",
    "jpg": "jpeg",
    "avg": "average",
    "mean": "average",
}


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``; did you mean X?`` for the nearest of the `known` names, to end a message with.

    A known name that means the same is the nearest one. Empty if no name is near. `cutoff` is the
    least similarity, as difflib defines it.
    """
    known = list(known)
    same = _SAME.get(name.strip().lower())
    near = [same] if same in known else difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
