"""Whether this machine has an NVIDIA GPU, found out without torch."""

from __future__ import annotations

import glob
import os

# Files of a driver that has found a GPU; the last one is that of Windows' subsystem for Linux.
DEVICES = ("/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*", "/dev/dxg")


def has_gpu() -> bool:
    """Whether there is a GPU that CUDA_VISIBLE_DEVICES does not hide."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles"):
        return False
    return any(glob.glob(pattern) for pattern in DEVICES)
