"""What must not be shown: credentials and signatures, taken out of every text on its way to a person, a log or a row; and control characters."""

from __future__ import annotations

import difflib
import logging
import re
import sys
from collections.abc import Iterable

# The first of a password with an @ in it, the second of one with a slash, as AWS secrets have; but HOST:PORT/a@b is none.
# Every repetition has a bound: what is redacted may be a stranger's text.
USER_INFO = (
    re.compile(r"://[^\s/\"'<>]{1,1024}@"),
    re.compile(r"://[^\s/@:\"'<>]{1,256}:(?!\d{1,5}/)[^\s@\"'<>]{0,1024}@"),
)
_SECRETS = "signature|token|secret|password|passwd|credential|access_?key|api_?key"
_REDACTIONS = (
    *((pattern, "://") for pattern in USER_INFO),
    (re.compile(r"(?i)(https?://[^\s?\"'<>]{0,2048})\?[^\s\"'<>]+"), r"\1?..."),
    (
        re.compile(r"(?i)((?:s3|file)[a-z]?://[^\s?\"'<>]{0,2048})\?[\w.-]{1,128}=[^\s\"'<>]+"),
        r"\1?...",
    ),  # a bare ? belongs to the key
    (
        re.compile(
            rf"(?i)(X-(?:Amz|Goog)-[\w-]{{1,64}}|(?:{_SECRETS})[\w.-]{{0,64}})=[^&\s\"'<>]+"
        ),
        r"\1=...",
    ),
    (re.compile(r"(?i)([?&](?:sig|key|auth|pwd))=[^&\s\"'<>]+"), r"\1=..."),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"), r"\1..."),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def redact(text: str) -> str:
    """`text` without user names and passwords of URLs, query strings (signed URLs) and AWS key ids, wherever they stand in it."""
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


def printable(text: str) -> str:
    """`text` as a terminal or a log may have it: redacted, and with control characters (but newline and tab) as escapes that JSON has too."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", redact(text))


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the time, as logging's own last resort does."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr, flush=True)


def log_to_stderr(layout: str | None = None) -> None:
    """Let the log of this process, tracebacks and other libraries' warnings included, reach stderr redacted; a second call changes nothing."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        handler = _Stderr()
        handler.setLevel(logging.WARNING)
        handler.setFormatter(logging.Formatter(layout))
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


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``; did you mean X?`` for the nearest of the `known` names, to end a message with; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
