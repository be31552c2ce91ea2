"""nstray.system.streams: whatever becomes of stdin, stdout and stderr, a process goes on to its own exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# Writes in every way that nstray and its libraries do, then a file, then ends with 3.
PROGRAM = """
from nstray.system import streams
streams.protect()
import logging, sys, warnings
import click
from rich.console import Console
for _ in range(2):
    print("answer")
    click.echo("click")
    click.echo("click", err=True)
    print("x" * 200_000)
    logging.warning("logged")
    warnings.warn("warned")
    Console(stderr=True).print("[bold]rich[/bold]")
    sys.stderr.write("y" * 200_000)
    sys.stdin.read()
with open(sys.argv[1], "w") as file:
    file.write(f"{file.fileno()} {streams.lost_answer()}")
sys.exit(3)
"""


def run(shell: str, tmp_path: Path, program: str = PROGRAM) -> tuple[int, str, str]:
    """Exit code of the program, what it says of itself, and the stdout of `shell`, where it is ``"$@"``."""
    told = tmp_path / "told"
    words = [sys.executable, "-c", program, str(told)]
    script = f'run() {{ {shell}; echo $? > {tmp_path}/code; }}; run "$@"'
    out = subprocess.run(["bash", "-c", script.replace("PROGRAM", '"$0" "$@"'), *words], capture_output=True, text=True, timeout=60)
    return int((tmp_path / "code").read_text()), told.read_text(), out.stdout


NO_SPACE, CLOSED = "No space left on device", "it is closed"
ENDS: list[tuple[str, str | None]] = [
    ("PROGRAM < /dev/null > /dev/null 2> /dev/null", None),
    ("PROGRAM < /dev/null 2>&-", None),
    ("PROGRAM < /dev/null >&-", CLOSED),
    ("PROGRAM <&- >&- 2>&-", CLOSED),
    ("PROGRAM <&-", None),
    ("PROGRAM < /dev/null 2> /dev/full", None),
    ("PROGRAM < /dev/null > /dev/full", NO_SPACE),
    ("PROGRAM < /dev/null > /dev/full 2>&1", NO_SPACE),
    ("PROGRAM < /dev/null 2> >(exec true)", None),
    ("PROGRAM < /dev/null > >(exec head -1) 2>&1", None),
    ("PROGRAM < /dev/null 2> >(exec head -c 100 > /dev/null)", None),
    ("PROGRAM < /dev/null > >(exec true)", None),
    ("PYTHONIOENCODING=ascii PROGRAM < /dev/null > /dev/null 2>&1", None),
]


@pytest.mark.parametrize(("shell", "lost"), ENDS)
def test_streams_that_are_closed_full_or_broken_cost_no_exit_code(shell: str, lost: str | None, tmp_path: Path) -> None:
    code, told, _ = run(shell, tmp_path)
    assert code == 3
    descriptor, _, answer = told.partition(" ")
    assert int(descriptor) > 2  # no file of another purpose got the number of a stream
    assert answer == str(lost)


def test_what_can_be_written_arrives(tmp_path: Path) -> None:
    code, _, out = run("PROGRAM < /dev/null 2>&1", tmp_path)
    assert code == 3
    found = {text: out.count(text) for text in ("answer\n", "click\n", "x" * 200_000, "y" * 200_000, "logged", "rich\n", "UserWarning: warned")}
    assert list(found.values()) == [2, 4, 2, 2, 2, 2, 1]


def test_a_file_that_is_full_only_for_a_while_gets_what_follows(tmp_path: Path) -> None:
    program = """
import resource, sys
from nstray.system import streams
streams.protect()
print("first", file=sys.stderr)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
print("lost", file=sys.stderr)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print("last", file=sys.stderr)
open(sys.argv[1], "w").write("done")
"""
    log = tmp_path / "log"
    assert run(f"PROGRAM 2> {log}", tmp_path, program)[:2] == (0, "done")
    assert log.read_text() == "first\nlast\n"


def test_a_pipe_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    program = """
import os, sys
os.set_blocking(1, False)
from nstray.system import streams
streams.protect()
print("x" * 500_000)
open(sys.argv[1], "w").write("done")
"""
    code, told, out = run("PROGRAM | (sleep 0.5; cat)", tmp_path, program)
    assert (code, told, len(out)) == (0, "done", 500_001)


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("é 漢", "utf-8", "é 漢"),
        ("é 漢", "ascii", r"\xe9 \u6f22"),
        ("é 漢", "latin-1", "\ufffd " + r"\u6f22"),
        ("a\udcffb", "utf-8", r"a\udcffb"),
        ("\U0001f642", "ascii", r"\U0001f642"),
    ],
)
def test_text_beyond_the_encoding_is_written_with_backslashes(text: str, encoding: str, written: str, tmp_path: Path) -> None:
    program = f"from nstray.system import streams\nstreams.protect()\nimport sys\nprint({text!r})\nopen(sys.argv[1], 'w').close()"
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "told")], capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert (found.returncode, found.stdout.decode(errors="replace")) == (0, written + "\n")


@pytest.mark.parametrize(
    ("words", "stdout", "code"),
    [
        (["--version"], "/dev/full", 1),
        (["manifest", "check", "m.csv", "--json"], "/dev/full", 1),
        (["manifest", "check", "m.csv"], "/dev/full", 1),
        (["run", "--help"], "/dev/full", 1),
        (["--version"], "closed", 1),
        (["manifest", "check", "m.csv", "--json"], "closed", 1),
        (["manifest", "check", "m.csv"], "closed", 1),
        (["manifest", "check", "m.csv"], "/dev/null", 0),
        (["manifest", "build", "--content", ".", "--style", ".", "--pairs", "all"], "closed", 2),
        (["manifest", "check", "none.csv"], "closed", 2),
        (["manifest", "check", "m.csv"], "gone", 0),
        (["verify", "m.csv", "--no-decode"], "gone", 2),
        (["status", "none"], "gone", 2),
        (["nonsense"], "/dev/full", 2),
    ],
)
def test_commands_whose_answer_is_lost_say_so_and_others_end_as_they_would(words: Sequence[str], stdout: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("content,style\na.png,b.png\n")
    shell = {"closed": 'exec "$@" >&-', "gone": '"$@" > >(exec true); exit $?'}.get(stdout, f'exec "$@" > {stdout}')
    found = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-m", "nstray", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    why = {"/dev/full": NO_SPACE, "closed": CLOSED}.get(stdout)
    assert (f"could not be written to stdout: {why}" in found.stderr) == (code == 1)
