"""The soak, for as long as a suite can afford: the script itself, from a seed, on one small job."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"


@pytest.mark.skipif(shutil.which("radosgw") is None, reason="radosgw is not installed (see scripts/radosgw)")
def test_half_a_minute_of_random_faults(tmp_path: Path) -> None:
    out = tmp_path / "counts.txt"
    words = ["--minutes", "0.5", "--seed", "5", "--pairs", "20", "--evaluations", "20", "--every", "3", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = out.read_text()
    assert re.search(r" \d+ jobs, \d+ rows, each once and verified", counts), counts
    caused = re.search(r"^(\d+) faults", counts, re.MULTILINE)
    assert caused is not None
    assert int(caused[1]) >= 3, counts
