"""What the benchmarks share: pictures at a size, and results printed and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nstray import images


def picture(path: Path, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image file as (H, W, 3), its longest side at most `size` pixels."""
    decoded = images.decode(path.read_bytes(), what=path.name, max_bytes=2**26, max_pixels=10**8)
    return images.fit(decoded, size, "longest", False, what=path.name)


def publish(text: str, out: str | None) -> None:
    """Print the results; write them to the file `out`, where one is given."""
    print(text, end="")
    if out:
        Path(out).write_text(text)
