"""The reference pages are what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_reference_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "generate_docs.py"), "--check"], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr


def test_a_page_that_was_edited_is_noticed() -> None:
    program = (
        "import sys, tempfile, pathlib; sys.path.insert(0, sys.argv[1]); import generate_docs as g\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "assert g.stale(folder) == ['settings.md', 'cli.md']\n"
        "[(folder / name).write_text(page()) for name, page in g.PAGES.items()]\n"
        "assert g.stale(folder) == []\n"
        "(folder / 'cli.md').write_text(g.cli_page().replace('nstray run', 'nstray walk'))\n"
        "assert g.stale(folder) == ['cli.md']\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(ROOT / "scripts")], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr


def test_every_setting_and_command_stands_there() -> None:
    from nstray import cli
    from nstray.config import JobConfig

    settings = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert [name for name in JobConfig.model_fields if settings.count(f"| `{name}` |") != 1] == []
    commands = (ROOT / "docs" / "reference" / "cli.md").read_text()
    assert [name for name, command in cli.cli.commands.items() if not command.hidden and f"\n## nstray {name}" not in commands] == []
