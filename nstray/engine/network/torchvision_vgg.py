"""What nstray takes from torchvision, imported without a folder left in the temporary one.

Importing torchvision imports torch's compiler, which makes a folder for compiled code at once
(torch 2.14). nstray compiles nothing. A program that does finds its folder as before.
"""

from __future__ import annotations

import os
import tempfile

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"

if _FOLDER in os.environ:
    from torchvision.models.vgg import VGG19_Weights
else:
    os.environ[_FOLDER] = tempfile.gettempdir()  # it is there, so nothing is made
    try:
        from torchvision.models.vgg import VGG19_Weights
    finally:
        os.environ.pop(_FOLDER, None)

__all__ = ["VGG19_Weights"]
