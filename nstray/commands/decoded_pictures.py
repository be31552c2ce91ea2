"""The pictures below a folder, decoded one after the other, for what measures or trains a network.

Functions that need torch import it in their bodies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nstray import storage
from nstray.cluster.progress import LINE_EVERY
from nstray.config import JobConfig
from nstray.errors import ErrorCode, NotFound, PairError, StorageError, Unreachable, UsageError
from nstray.images import Pixels
from nstray.images.decode import decode
from nstray.images.resize import fit
from nstray.sources.listing.folder_pictures import find_pictures
from nstray.text import counted, log_event

if TYPE_CHECKING:
    from torch import Tensor

Say = Callable[[str], None]

_MAX_BYTES: int = JobConfig.model_fields["max_bytes"].default
_MAX_PIXELS: int = JobConfig.model_fields["max_pixels"].default


class Pictures:
    """The pictures below a folder, decoded one after the other.

    One that can't be used is named, counted and skipped.

    Attributes:
        least, deepest: the least side in pixels, and the layer that needs it.
        skipped: pictures skipped so far.
    """

    def __init__(self, folder: str, size: int, limit: int | None, say: Say) -> None:
        self.folder, self.size, self.say = storage.absolute(folder), size, say
        self.least, self.deepest, self.skipped = 1, "conv1_1", 0
        try:
            listed = find_pictures(self.folder)
        except NotFound as error:
            raise UsageError(f"--images {error}; give a folder or an s3:// prefix") from None
        uris = listed.uris
        if not uris:
            raise UsageError(f"--images {self.folder}: no pictures: {listed.why_none()}")
        for line in listed.left_out.lines():
            say(f"--images {self.folder}: {line}")
        count = len(uris) if limit is None else min(limit, len(uris))
        self.uris = [uris[i * len(uris) // count] for i in range(count)]

    def __iter__(self) -> Iterator[Tensor]:
        """Each picture as (3, H, W) uint8 RGB.

        Raises `UsageError` at the end if no picture could be used, and `Unreachable`.
        """
        import torch

        first, last_line = "", time.monotonic()
        for number, uri in enumerate(self.uris, 1):
            try:
                pixels = self._read(uri)
            except Unreachable:  # a store that is down says nothing about the picture
                raise
            except (PairError, StorageError) as error:
                self.skipped += 1
                first = first or str(error)
                self.say(f"warning: skipped: {error}")
                continue
            yield torch.from_numpy(pixels).permute(2, 0, 1)
            if time.monotonic() - last_line >= LINE_EVERY:
                last_line = time.monotonic()
                log_event(
                    "progress",
                    self.say,
                    done=number,
                    total=len(self.uris),
                    skipped=self.skipped,
                )
        if self.skipped == len(self.uris):
            raise UsageError(
                f"--images {self.folder}: of {counted(len(self.uris), 'picture')} none can be "
                f"used; the first: {first}"
            )

    def _read(self, uri: str) -> Pixels:
        what = f"image {uri}"
        pixels = decode(
            storage.read(uri, max_bytes=_MAX_BYTES),
            what=what,
            max_bytes=_MAX_BYTES,
            max_pixels=_MAX_PIXELS,
        )
        pixels = fit(pixels, self.size, "longest", False, what=what)
        height, width = pixels.shape[:2]
        if min(height, width) < self.least:
            raise PairError(
                ErrorCode.TOO_SMALL,
                f"{what}: {width}x{height} pixels leave {self.deepest} no position; "
                f"it needs {self.least}x{self.least}",
            )
        return pixels
