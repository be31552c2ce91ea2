"""What the commands print: lines, records of `key: value`, and tables."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import click

from nstray.text import printable


def say(text: str, *, err: bool = False) -> None:
    """Print `text`, redacted and without control characters, to stdout or stderr."""
    click.echo(printable(text), err=err)


def print_record(record: dict[str, Any], as_json: bool) -> None:
    """Print a record to stdout, a line of ``key  value`` each, or as JSON."""
    if as_json:
        say(json.dumps(record, ensure_ascii=False))
        return
    width = max(map(len, record))
    for key, value in record.items():
        say(f"{key:<{width}}  {_text(value)}")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(v)}" for name, v in sorted(value.items())) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return _number(value)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table: one for the headings and one for each row.

    A line has no colours and is never wrapped or cut, however narrow the terminal is.
    """
    # rich takes 50 ms to import
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(text) for text in row] for row in (headings, *rows)]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in headings:
        table.add_column(no_wrap=True, overflow="ignore")
    for row in cells:
        table.add_row(*map(Text, row))
    width = sum(max(Text(row[i]).cell_len + 2 for row in cells) for i in range(len(headings)))
    sink = io.StringIO()
    Console(file=sink, width=width, color_system=None, legacy_windows=False).print(table)
    return [line.rstrip() for line in sink.getvalue().splitlines()]


def _cell(text: str) -> str:
    """`text` on one line and as `say` prints it, so that the columns stay aligned."""
    return printable(text).replace("\n", "\\u000a").expandtabs()
