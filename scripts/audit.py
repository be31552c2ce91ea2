"""Known vulnerabilities of nstray's direct dependencies, found by pip-audit; for CI.

    python scripts/audit.py --pip-audit PATH

Ends with 1 if a direct dependency, in the version installed here, has a vulnerability that a later version fixes. Vulnerabilities without a
fix are printed. If pip-audit or its database can't be reached, it prints one line, ``skipped: ...``, and ends with 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

SECONDS = 60.0


def direct() -> dict[str, str]:
    """Name and installed version of every package that nstray requires, without extras and build labels (2.6.0+cu132 is 2.6.0)."""
    needed = [r for r in metadata.requires("nstray") or () if "extra ==" not in r]
    names = [re.match(r"[A-Za-z0-9._-]+", r) for r in needed]
    return {m[0].lower(): metadata.version(m[0]).partition("+")[0] for m in names if m}


def ask(command: str, packages: dict[str, str], seconds: float = SECONDS) -> list[dict[str, Any]] | str:
    """What pip-audit knows of `packages`, or why it can't say."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "pinned.txt"
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in packages.items()))
        words = [command, "-r", str(pinned), "--no-deps", "--disable-pip", "-f", "json", "--progress-spinner", "off"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        except OSError as error:
            return f"pip-audit does not start ({error.strerror})"
        except subprocess.TimeoutExpired:
            return f"pip-audit had no answer after {seconds:g} s"
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return f"pip-audit ended with {done.returncode}: {last[:200]}"
    # A package index that only mirrors files answers that it knows no package.
    return found if any("vulns" in package for package in found) else "the package index has no database of known holes"


def report(found: list[dict[str, Any]] | str) -> int:
    """Print what was found; returns the exit code."""
    if isinstance(found, str):
        print(f"skipped: {found}")
        return 0
    code = 0
    for package in found:
        if "vulns" not in package:
            print(f"{package['name']}: not audited: {package.get('skip_reason', 'no reason given')}")
        for hole in package.get("vulns", ()):
            fixed = ", ".join(hole.get("fix_versions") or ())
            code = 1 if fixed else code
            print(f"{package['name']} {package['version']}: {hole['id']}: {f'fixed in {fixed}' if fixed else 'no fix yet'}")
    print(f"{len(found)} direct dependencies: {'update them' if code else 'no known hole that has a fix'}")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pip-audit", default="pip-audit", metavar="PATH", help="the command")
    return report(ask(parser.parse_args().pip_audit, direct()))


if __name__ == "__main__":
    sys.exit(main())
