"""Bytes -> pixels -> bytes. The only package that imports Pillow.

Pixels are RGB in sRGB; masks are one channel, white is 255.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)
Pixels16 = npt.NDArray[np.uint16]  # (H, W, 3), for tiff alone
Mask = npt.NDArray[np.uint8]  # (H, W)
