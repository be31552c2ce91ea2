"""What the commands print: lines, records of `key: value`, and tables."""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click

from nstray.text import printable


def say(text: str, *, err: bool = False) -> None:
    """Print `text`, redacted and without control characters, to stdout or stderr."""
    click.echo(printable(text), err=err)


def print_record(record: dict[str, Any], as_json: bool) -> None:
    """Print a record to stdout, a line of ``key  value`` each, or as JSON.

    On a terminal a long value goes on below its own beginning.
    """
    if as_json:
        say(json.dumps(record, ensure_ascii=False))
        return
    for line in record_lines(record, columns_of(sys.stdout)):
        say(line)


def record_lines(record: Mapping[str, Any], columns: int | None = None) -> list[str]:
    """A record as a line of ``key  value`` each.

    Args:
        columns: a longer value goes on below its own beginning; a path or a hash stays whole. None
            wraps nothing.
    """
    width = max(map(len, record)) + 2
    lines: list[str] = []
    for key, value in record.items():
        text = printable(_text(value))
        parts = [text]
        if columns is not None:
            room = max(20, columns - width)
            parts = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        lines.append(f"{key:<{width}}{parts[0] if parts else ''}")
        lines += [" " * width + part for part in parts[1:]]
    return lines


def field_lines(fields: Sequence[tuple[str, str]], columns: int | None = None) -> list[str]:
    """Names and texts side by side; a name that repeats is printed once.

    Args:
        columns: a longer text goes on below its own beginning; a text behind ``next``, which is a
            command to copy, does not. None wraps nothing.
    """
    width = max(len(name) for name, _ in fields) + 2
    lines: list[str] = []
    last = None
    for name, text in fields:
        text = printable(text).replace("\n", " ")
        room = None if columns is None or name == "next" else max(20, columns - width)
        parts = [text] if room is None else textwrap.wrap(text, room) or [""]
        begin = "" if name == last else name
        lines.append(f"{begin:<{width}}{parts[0]}")
        lines += [" " * width + part for part in parts[1:]]
        last = name
    return lines


def columns_of(stream: TextIO) -> int | None:
    """The columns of the terminal behind `stream`; None if there is none."""
    if not stream.isatty():
        return None
    return shutil.get_terminal_size().columns


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


def fitting_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None
) -> list[str]:
    """The lines of a table; if it is wider than `columns`, each row is a record of its own."""
    lines = table_lines(headings, rows)
    if columns is None or max(map(len, lines)) <= columns:
        return lines
    width = max(map(len, headings)) + 2
    lines = []
    for row in rows:
        lines.append(f"{headings[0]} {_cell(row[0])}")
        for heading, text in zip(headings[1:], row[1:], strict=True):
            if text:
                lines.append(f"  {heading:<{width}}{_cell(text)}")
    return lines


def _cell(text: str) -> str:
    """`text` on one line and as `say` prints it, so that the columns stay aligned."""
    return printable(text).replace("\n", "\\u000a").expandtabs()
