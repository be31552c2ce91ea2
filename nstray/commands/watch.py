"""`nstray status --watch`: the status of a job, again and again until it is complete."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nstray import storage
from nstray.commands.printing import columns_of, say
from nstray.commands.status import status
from nstray.commands.status_lines import change_line, status_lines
from nstray.text import is_terminal, printable, stamped

LOCAL, REMOTE = 2.0, 15.0  # seconds between two looks; a driver writes what it does every 15 s
SHARE = 0.1  # of the time that looks may take


def watch(out: str, *, verbose: bool = False, as_json: bool = False) -> None:
    """Print where the job of `out` stands until it is complete.

    A terminal shows what `nstray status` prints, refreshed in place. Elsewhere there is a line for
    each change; with `as_json` it is an object. Raises `OutputError` if there is no job, and
    `KeyboardInterrupt` when it is told to stop.
    """
    if as_json:
        _print_changes(out, lambda answer: json.dumps(answer, ensure_ascii=False))
    elif is_terminal(sys.stdout):
        _refresh(out, verbose)
    else:
        _print_changes(out, lambda answer: stamped(change_line(answer)))


def looks(out: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[dict[str, Any]]:
    """The status at every look; the last one is that of a complete job.

    Looks take `SHARE` of the time at most: those at a large job that is under way read footers.
    """
    while True:
        began = time.monotonic()
        answer = status(out)
        yield answer
        if answer["activity"] == "complete":
            return
        took = time.monotonic() - began
        sleep(max(REMOTE if storage.is_uri(out) else LOCAL, took / SHARE))


def _print_changes(out: str, line_of: Callable[[Mapping[str, Any]], str]) -> None:
    before = None
    for answer in looks(out):
        now = answer["activity"], answer["rows_done"], answer["errors"], answer["rows_total"]
        if now != before:
            say(line_of(answer))
        before = now


def _refresh(out: str, verbose: bool) -> None:
    # rich takes 50 ms to import
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False)
    with Live(console=console, auto_refresh=False) as live:
        for answer in looks(out):
            if answer["activity"] in ("running", "starting"):
                answer["next"] = ""  # that is this command
            lines = status_lines(answer, verbose=verbose, columns=columns_of(sys.stdout))
            live.update(Text(printable("\n".join(lines))), refresh=True)
