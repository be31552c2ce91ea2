"""nstray.commands.printing: tables and records as a pipe and a narrow terminal get them."""

from __future__ import annotations

import pytest

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
