"""Bytes to pixels to bytes; the only package that imports Pillow.

- decode: a JPEG, PNG or WebP file to pixels, upright, opaque and in sRGB
- readers: Pillow's file readers by format
- containers: the chunks of a PNG and the segments of a JPEG, checked before Pillow reads them
- icc: embedded colour profiles
- sniff: what a file is that is none of the three
- resize: pictures and masks at their size
- encode: pixels to a PNG, JPEG, WebP or TIFF file

Pixels are RGB in sRGB. Masks have one channel; white is 255.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)
Pixels16 = npt.NDArray[np.uint16]  # (H, W, 3), only for tiff
Mask = npt.NDArray[np.uint8]  # (H, W)
