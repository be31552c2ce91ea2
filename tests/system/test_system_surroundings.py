"""nstray.system.surroundings: what the machine lacks ends a command in one line that says what to set."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from nstray.system import surroundings

TMP = os.environ.get("TMPDIR") or "/tmp"
LINES: list[tuple[BaseException, str | None]] = [
    (OSError(errno.ENOSPC, "x"), "No space left on device; free some space there, or set TMPDIR to another folder"),
    (OSError(errno.ENOSPC, "x", f"{TMP}/a"), f"{TMP}/a: No space left on device; free some space there, or set TMPDIR to another folder"),
    (OSError(errno.ENOSPC, "x", "/data/a"), "/data/a: No space left on device; free some space there"),
    (OSError(errno.EROFS, "x", "/data/a"), "/data/a: Read-only file system; mount it for writing"),
    (OSError(errno.EACCES, "x", b"/data/a"), "/data/a: Permission denied; change its permissions"),
    (OSError(errno.EDQUOT, "x", "/home/a"), "/home/a: Disk quota exceeded; free some of your quota"),
    (OSError(errno.EMFILE, "x", "/data/a"), "/data/a: Too many open files; raise the limit on open files (ulimit -n 65536)"),
    (
        BlockingIOError(errno.EAGAIN, "x"),
        "Resource temporarily unavailable; raise the limit on processes (ulimit -u, or the container's pids limit)",
    ),
    (
        RuntimeError("can't start new thread"),
        "Resource temporarily unavailable; raise the limit on processes (ulimit -u, or the container's pids limit)",
    ),
    (MemoryError(), "Cannot allocate memory; give the machine or container more memory (ulimit -v limits it too)"),
    (pa.ArrowMemoryError("x"), "Cannot allocate memory; give the machine or container more memory (ulimit -v limits it too)"),
    (
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        "there is no folder for temporary files; set TMPDIR to one that can be written",
    ),
    (OSError(errno.EIO, "x", "s3://user:secret@host/a"), "s3://host/a: Input/output error; check the disk"),
    (FileNotFoundError(errno.ENOENT, "x", "/a"), None),
    (OSError("no number"), None),
    (RuntimeError("another"), None),
    (ValueError("x"), None),
]


@pytest.mark.parametrize(("error", "line"), LINES)
def test_lines(error: BaseException, line: str | None) -> None:
    assert surroundings.shortage(error) == line


def nstray(*words: str, shell: str = 'exec "$@"', cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", shell, "bash", sys.executable, "-m", "nstray", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400, env={**os.environ, **env})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONWARNINGS", "error"),
        ("PYTHONWARNINGS", "error::DeprecationWarning"),
        ("PYTHONWARNINGS", "ignore,error"),
        ("PYTHONOPTIMIZE", "1"),
        ("PYTHONOPTIMIZE", "2"),
        ("PYTHONOPTIMIZE", "3"),
    ],
)
def test_settings_for_tests_of_another_program_change_nothing(name: str, value: str, tmp_path: Path) -> None:
    plain, found = (nstray("run", "--help", cwd=tmp_path, **env) for env in ({}, {name: value}))
    assert (found.returncode, found.stdout, found.stderr) == (0, plain.stdout, "")
    assert "Stylise every pair of MANIFEST" in found.stdout


def test_children_do_not_inherit_them(tmp_path: Path) -> None:
    text = "from nstray.system import surroundings as s\ns.use_own_interpreter_settings()\nimport os, sys, warnings\n"
    text += "print(os.environ.get('PYTHONWARNINGS'), os.environ.get('PYTHONOPTIMIZE'), sys.flags.optimize)\n"
    text += "print([f for f in warnings.filters if f[0] == 'error'])"
    env = {**os.environ, "PYTHONWARNINGS": "error,ignore::ResourceWarning", "PYTHONOPTIMIZE": "2"}
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, env=env)
    assert (found.stdout, found.stderr) == ("None None 0\n[]\n", "")


@pytest.mark.parametrize("value", ["default", "ignore::DeprecationWarning"])
def test_warnings_that_are_no_errors_stay_as_they_are_set(value: str) -> None:
    text = "from nstray.system import surroundings as s\ns.use_own_interpreter_settings()\nimport os\nprint(os.environ.get('PYTHONWARNINGS'))"
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONWARNINGS": value})
    assert found.stdout == value + "\n"


@pytest.mark.parametrize(
    ("shell", "env", "line"),
    [
        ('ulimit -n 8; exec "$@"', {}, "raise the limit on open files"),
        pytest.param('exec "$@"', {"TMPDIR": "none"}, None, marks=pytest.mark.slow),
        pytest.param('exec "$@"', {"TMPDIR": "file"}, None, marks=pytest.mark.slow),
        pytest.param('exec "$@"', {"TMPDIR": "/proc"}, None, marks=pytest.mark.slow),
    ],
)
def test_a_job_is_planned_or_one_line_says_what_to_set(shell: str, env: dict[str, str], line: str | None, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("content,style\na.png,b.png\n")
    (tmp_path / "file").write_text("x")
    found = nstray("plan", "m.csv", "out", "--weights", "random", shell=shell, cwd=tmp_path, **env)
    if line is None:
        assert (found.returncode, found.stderr) == (0, "")
        return
    assert found.returncode == 1, found.stderr
    assert line in found.stderr.splitlines()[-1]


def test_low_limits_are_named() -> None:
    def limits(shell: str) -> str:
        text = "from nstray.system import surroundings as s; print(s.low_limits())"
        return subprocess.run(
            ["bash", "-c", f'{shell}; exec "$@"', "bash", sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    assert "-n is 200" in limits("ulimit -n 200")
    assert "-v is 4000000" in limits("ulimit -v 4000000")
    assert "-f is 1024" in limits("ulimit -f 1024")
    assert "-u is 300" in limits("ulimit -u 300")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1024:
        assert "-n" not in limits("true")
