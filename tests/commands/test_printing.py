"""nstray.commands.printing: tables and records as a pipe and a narrow terminal get them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from terminal import Terminal

from nstray.commands import printing
from nstray.commands.printing import print_record, table_lines


def test_a_table_is_aligned_whole_and_plain_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    long = "pair-" + "x" * 300
    assert table_lines(["worker", "on the device", "state"], [["worker-1", long, "[bold]busy[/] :smile:"], ["", "漢字", "idle"]]) == [
        f"worker    {'on the device':<305}  state",
        f"worker-1  {long}  [bold]busy[/] :smile:",
        f"          漢字{' ' * 301}  idle",
    ]


def test_a_cell_stays_on_its_line_and_sends_nothing_to_the_terminal() -> None:
    assert table_lines(["a", "b"], [["x\ny", "\x1b[31mred"], ["", ""]]) == ["a         b", "x\\u000ay  \\u001b[31mred", ""]


def test_a_record_is_a_line_for_each_key(capsys: pytest.CaptureFixture[str]) -> None:
    print_record({"rows": 3, "share": 0.1234567, "errors": {"b": 2, "a": 1.5}, "carried": (), "none": None}, as_json=False)
    assert capsys.readouterr().out.splitlines() == ["rows     3", "share    0.123457", "errors   a 1.5, b 2", "carried  none", "none     -"]
    print_record({"é": [1]}, as_json=True)
    assert capsys.readouterr().out == '{"é": [1]}\n'


def test_a_table_that_is_too_wide_is_a_record_a_row() -> None:
    headings, rows = ["devices", "wall", "bytes"], [["1", "2m00s (1m50s to 2m10s)", "3 MB"], ["8", "", "3 MB\x1b"]]
    assert printing.fitting_table(headings, rows, None) == printing.table_lines(headings, rows)
    assert printing.fitting_table(headings, rows, 80) == printing.table_lines(headings, rows)
    assert printing.fitting_table(headings, rows, 30) == [
        "devices 1",
        "  wall     2m00s (1m50s to 2m10s)",
        "  bytes    3 MB",
        "devices 8",
        "  bytes    3 MB\\u001b",
    ]


def test_a_record_fits_a_terminal_and_keeps_its_paths_whole() -> None:
    record = {"warnings": ["many words"] * 12, "path": "/a-b" * 40, "nothing": None}
    lines = printing.record_lines(record, 80)
    assert [line for line in lines if len(line) > 80] == [f"path      {record['path']}"]
    assert lines[1].startswith(" " * 10)
    assert printing.record_lines({"nothing": None}, 80) == ["nothing  -"]
    assert len(printing.record_lines(record)) == 3


PRINT = "from nstray.commands.printing import print_record\nprint_record({'a': 'word ' * 40}, False)"


def test_a_terminal_wraps_and_a_pipe_does_not() -> None:
    shown = Terminal(sys.executable, "-c", PRINT)
    assert shown.end() == 0
    assert [len(line) <= 80 for line in shown.lines()] == [True] * 3
    piped = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True)
    assert piped.stdout.count("\n") == 1
