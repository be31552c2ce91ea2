"""What the benchmarks share: pictures at a size, the line that says where and when, and results printed and written."""

from __future__ import annotations

import datetime
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples import write_example

from nstray.images.decode import decode
from nstray.images.resize import fit

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def picture(path: Path, size: int) -> Pixels:
    """An image file as (H, W, 3), its longest side at most `size` pixels."""
    decoded = decode(path.read_bytes(), what=path.name, max_bytes=2**26, max_pixels=10**8)
    return fit(decoded, size, "longest", False, what=path.name)


def content_and_style(content: str | None, style: str | None, size: int) -> tuple[Pixels, Pixels]:
    """The two pictures; the first one of the built-in example for each that is not given."""
    with tempfile.TemporaryDirectory() as folder:
        write_example(folder)
        first = {role: sorted(Path(folder).glob(f"{role}/*"))[0] for role in ("content", "style")}
        return picture(Path(content or first["content"]), size), picture(Path(style or first["style"]), size)


def header() -> str:
    """Date, device, torch and the command."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   device {device}   torch {torch.__version__}   command {' '.join(sys.argv)}"


def publish(text: str, out: str | None) -> None:
    """Print the results, and write them to the file `out` if one is given."""
    print(text, end="")
    if out:
        Path(out).write_text(text)
