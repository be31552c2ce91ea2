"""The map of the package: every module in it, the same in nstray/__init__.py and CONTRIBUTING.md; modules of a readable length."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nstray"
LONGEST = 400  # lines of a module
LONGER = {"config.py"}  # with the reason in CONTRIBUTING.md


def contributing() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text()


def tree() -> str:
    return re.search(r"```text\n(nstray/\n.*?)```", contributing(), flags=re.S)[1]


def paths() -> list[str]:
    """The paths of the tree, folders included, relative to the package."""
    found, stack = [], []
    for line in tree().splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[: depth - 1], line.split()[0].rstrip("/")]
        found.append("/".join(stack))
    return found


def test_the_tree_names_every_module_and_no_other() -> None:
    modules = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py")}
    own = {m for m in modules if not m.endswith("/__init__.py")}
    named = paths()
    assert sorted(p for p in named if p.endswith(".py")) == sorted(own)
    assert {p for p in named if not p.endswith(".py")} == {str(p.parent.relative_to(PACKAGE)) for p in PACKAGE.rglob("__init__.py")} - {"."} | {
        "commands/demo_pictures",
        "reports/html",
    }


def test_the_docstring_has_the_same_tree() -> None:
    assert textwrap.indent(tree(), "    ") in (PACKAGE / "__init__.py").read_text()


def test_every_path_in_contributing_exists() -> None:
    missing = [p for p in re.findall(r"`((?:nstray|tests|scripts|docs)/[\w./-]+)`", contributing()) if not (ROOT / p).exists() and "NAME" not in p]
    assert missing == []


def test_the_top_of_the_package_is_small() -> None:
    folders = [p for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert len(list(PACKAGE.glob("*.py"))) <= 6
    assert len(folders) <= 12


def test_modules_are_short() -> None:
    long = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if len(p.read_text().splitlines()) > LONGEST}
    assert long == LONGER
    assert all(f"`nstray/{name}`" in contributing() for name in LONGER)
