"""Draw the example pictures and their manifest: `python scripts/draw_examples.py [FOLDER]` (default: manifests/example)."""

from __future__ import annotations

import sys
from pathlib import Path

from nstray.examples import write_example

if __name__ == "__main__":
    print(write_example(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parents[1] / "manifests" / "example")))
