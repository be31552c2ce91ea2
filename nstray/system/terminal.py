"""What stderr can show: a display that is redrawn in place, or lines alone; which letters."""

from __future__ import annotations

import os
import sys

from nstray.text import is_terminal


def redrawn() -> bool:
    """Whether a display may be redrawn in place on stderr.

    It is a terminal that can move its cursor, and neither NO_COLOR nor CI is set: the log of a CI
    system keeps every redrawing as lines.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("CI")
    return is_terminal(sys.stderr) and not plain


def shows(text: str) -> bool:
    """Whether the encoding of stderr has the letters of `text`."""
    try:
        text.encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
