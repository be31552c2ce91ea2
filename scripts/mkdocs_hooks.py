"""Lets the pages of docs/ link to files beside docs/: on the site, these files stand under repository/.

mkdocs takes files below docs/ only, and a link that leaves this folder would be dead on the site. On a code host it is
right as it stands.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PREFIX = "repository/"
OUTSIDE = (
    "CHANGELOG.md",
    "SECURITY.md",
    *("cluster/README.md", "cluster/aws.yaml", "cluster/grafana.json", "cluster/raycluster.yaml", "cluster/rayjob.yaml"),
    *("manifests/example/README.md", "manifests/gallery/pairs.csv", "manifests/gatys2015/README.md"),
)


def on_files(files: Files, *, config: Any) -> Files:
    for path in OUTSIDE:
        files.append(File.generated(config, PREFIX + path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """The page's text, each link that leads out of docs/ (or, from a file beside docs/, into it) as it is on the site."""
    site = page.file.src_uri
    source = site.removeprefix(PREFIX) if site.startswith(PREFIX) else f"docs/{site}"

    def moved(match: re.Match[str]) -> str:
        target, mark, anchor = match[1].partition("#")
        if not target or "://" in target:
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = found.removeprefix("docs/") if found.startswith("docs/") else PREFIX + found
        return f"]({posixpath.relpath(there, posixpath.dirname(site) or '.')}{mark}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, markdown)
