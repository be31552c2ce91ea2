"""A page of docs/recipes run from its first block to its last, at small size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from built import jpeg
from jobs import LOCAL_RAY
from pages import RECIPES, blocks, commands

# Added to the commands of these names: few evaluations, few processes.
ADDED = {
    "manifest": (),
    "run": ("--evaluations", "2", "--coarse", "none", "--actors", "1"),
    "export": (),
    "export --format": ("--workers", "1"),
}


def run_page(
    name: str,
    folder: Path,
    nstray: Callable[..., tuple[int, str, str]],
    *,
    smaller: Mapping[str, str],
    checks: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Every block of the page, in order; Python blocks that follow each other are one program.

    Args:
        folder: the working directory. It holds the pictures that the page begins with.
        nstray: called with the words of a command; returns exit code, stdout and stderr.
        smaller: what is replaced in the blocks. Each key stands in the page.
        checks: Python behind each of the page's Python blocks, in the same process.
        environment: further variables of the Python programs.
    """
    page = [block for block in blocks(RECIPES / f"{name}.md") if block.language != "text"]
    assert {block.language for block in page} == {"python", "bash"}
    assert not [old for old in smaller if not any(old in block.text for block in page)]
    assert len(checks) in (0, sum(block.language == "python" for block in page))
    left = iter(checks)
    for language, some in groupby(page, lambda block: block.language):
        text = "\n".join(f"{block.text}\n{next(left, '')}" if language == "python" else block.text for block in some)
        for old, new in smaller.items():
            text = text.replace(old, new)
        if language == "python":
            _program(text, folder, environment or {})
            continue
        found = list(commands(text))
        assert len(found) == sum(bool(line) for line in text.replace("\\\n", "").splitlines()), f"more than commands of nstray:\n{text}"
        for words in found:
            code, _, said = nstray(*words, *ADDED["export --format" if "--format" in words else words[0]])
            assert code == 0, f"{words}\n{said}"


def _program(text: str, folder: Path, more: Mapping[str, str]) -> None:
    """Python in a process of its own, as a user has it; `datasets` keeps its cache in `folder`."""
    environment = {**os.environ, **LOCAL_RAY, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", **more}
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def draw(folder: Path, names: list[str], seed: int = 0) -> None:
    """A picture of 48 x 36 pixels under each name."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(seed + i, 48, 36))
