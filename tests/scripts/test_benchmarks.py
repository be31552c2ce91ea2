"""The benchmarks of the engine run, on next to nothing: what they print is not looked at, but that they still fit the engine is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parents[2] / "scripts"
COMMANDS = {
    "engine": [
        *("--device", "cpu", "--size", "32", "--batches", "1", "--rounds", "2"),
        *("--profile", "--peers", "--peer-size", "32", "--peer-pairs", "1", "--peer-evaluations", "3"),
    ],
    "tiles": ["--size", "96", "--tile", "64", "--runs", "lbfgs:2,adam:1"],
    "fast": ["--pairs", "1", "--size", "24", "--evaluations", "6", "--layers-up-to", "conv2_1"],
    "dtype": ["--pairs", "2", "--size", "32", "--evaluations", "3", "--layers-up-to", "conv2_1"],
    "compact": ["--pairs", "1", "--sizes", "32", "--evaluations", "6"],
    "coarse": ["--size", "24", "--evaluations", "120"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / "result.txt"
    script = SCRIPTS / f"bench_{name}.py"
    command = [sys.executable, str(script), *COMMANDS[name], "--out", str(out)]
    # For those that import each other, also where PYTHONSAFEPATH keeps their own folder out of the path.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert out.read_text().count("\n") > 3
