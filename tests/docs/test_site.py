"""The pages as a site, and as plain Markdown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cluster/*.md"), *ROOT.glob("manifests/**/*.md")])
PROSE = [page for page in PAGES if page.name != "CHANGELOG.md"]


def build(site: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.mark.dev
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = build(tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "repository" / "SECURITY" / "index.html").is_file()


@pytest.mark.dev
@pytest.mark.parametrize("link", ["no-page.md", "output.md#no-anchor", "../SECURITY.md#no-anchor", "../no-file.md"])
def test_a_dead_link_fails_the_build(tmp_path: Path, link: str) -> None:
    pytest.importorskip("mkdocs")
    (tmp_path / "docs").mkdir()
    for page in ROOT.glob("docs/**/*"):
        if page.is_file():
            there = tmp_path / page.relative_to(ROOT)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(page.read_bytes())
    with (tmp_path / "docs" / "index.md").open("a") as file:
        file.write(f"\n[dead]({link})\n")
    settings = tmp_path / "mkdocs.yml"
    hook = "scripts/mkdocs_hooks.py"
    settings.write_text((ROOT / "mkdocs.yml").read_text().replace(hook, str(ROOT / hook)))
    done = build(tmp_path / "site", "--config-file", str(settings))
    assert done.returncode != 0
    assert link.partition("#")[0].removeprefix("../") in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_the_readme_has_at_most_a_thousand_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1000


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_text_is_at_most_100_columns_wide(page: Path) -> None:
    text = re.sub(r"^\s*```.*?^\s*```", "", page.read_text(), flags=re.M | re.S)
    long = [line for line in text.splitlines() if len(line) > 100 and line.count(" ") > 6 and not re.match(r"\||!\[", line)]
    assert long == []
