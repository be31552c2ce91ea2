"""scripts/audit.py: what it makes of pip-audit's answers, and of none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / "scripts" / "audit.py"
HOLE = {"id": "PYSEC-1", "fix_versions": ["2.0", "1.1"], "aliases": [], "description": ""}
CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}


def audit(tmp_path: Path, script: str) -> tuple[int, str]:
    fake = tmp_path / "pip-audit"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    done = subprocess.run([sys.executable, AUDIT, "--pip-audit", fake], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


def answer(*packages: dict[str, object], code: int = 0) -> str:
    return f"cat <<'EOF'\n{json.dumps({'dependencies': packages, 'fixes': []})}\nEOF\nexit {code}"


def test_only_holes_with_a_fix_fail(tmp_path: Path) -> None:
    assert audit(tmp_path, answer(CLEAN)) == (0, "1 direct dependencies: no known hole that has a fix\n")
    code, said = audit(tmp_path, answer(CLEAN, {"name": "pillow", "version": "1.0", "vulns": [HOLE]}, code=1))
    assert code == 1
    assert "pillow 1.0: PYSEC-1: fixed in 2.0, 1.1\n" in said
    code, said = audit(tmp_path, answer({"name": "pillow", "version": "1.0", "vulns": [{**HOLE, "fix_versions": []}]}, code=1))
    assert code == 0
    assert "pillow 1.0: PYSEC-1: no fix yet\n" in said
    assert "ray: not audited: not found\n" in audit(tmp_path, answer(CLEAN, {"name": "ray", "skip_reason": "not found"}))[1]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo ConnectionError: no such host >&2; exit 1", "pip-audit ended with 1: ConnectionError: no such host"),
        ("exit 3", "pip-audit ended with 3: no word"),
        ("echo not json", "pip-audit ended with 0: no word"),
        (answer({"name": "ray", "skip_reason": "not found on PyPI"}), "the package index has no database of known holes"),
    ],
)
def test_no_database_is_a_skip_of_one_line(tmp_path: Path, script: str, why: str) -> None:
    assert audit(tmp_path, script) == (0, f"skipped: {why}\n")


def test_no_pip_audit_and_one_that_hangs_are_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, AUDIT, "--pip-audit", tmp_path / "none"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "skipped: pip-audit does not start (No such file or directory)\n")
    monkeypatch.syspath_prepend(AUDIT.parent)
    import audit as module

    (tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "hangs").chmod(0o755)
    assert module.ask(str(tmp_path / "hangs"), {"numpy": "2.0"}, 0.5) == "pip-audit had no answer after 0.5 s"


def test_every_direct_dependency_is_asked_about_and_no_other(tmp_path: Path) -> None:
    kept = tmp_path / "asked"
    audit(tmp_path, f'cp "$2" {kept}')
    asked = dict(line.split("==") for line in kept.read_text().splitlines())
    assert {"torch", "ray", "pillow", "pyarrow", "numpy", "boto3", "pyyaml", "safetensors"} <= set(asked)
    assert not {"pytest", "moto", "ruff"} & set(asked)
    assert "+" not in "".join(asked.values())
