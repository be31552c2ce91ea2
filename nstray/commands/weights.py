"""`nstray weights`: normalises a network's activations, converts weights to .safetensors.

Functions that need torch import it in their bodies.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from nstray import storage
from nstray.cluster.progress import LINE_EVERY
from nstray.commands.load_weights import NAMED, unreadable
from nstray.config import JobConfig
from nstray.engine.settings import Pooling
from nstray.errors import (
    AlreadyExists,
    ErrorCode,
    NotFound,
    PairError,
    StorageError,
    Unreachable,
    UsageError,
)
from nstray.images import Pixels
from nstray.images.decode import decode
from nstray.images.resize import fit
from nstray.manifest.files import ending
from nstray.manifest.folder_pictures import find_pictures
from nstray.text import log_event

if TYPE_CHECKING:
    from torch import Tensor

    from nstray.engine.network.weights import VGGWeights

Say = Callable[[str], None]
InputWord = Literal["auto", "rgb", "bgr"]

_MAX_BYTES: int = JobConfig.model_fields["max_bytes"].default
_MAX_PIXELS: int = JobConfig.model_fields["max_pixels"].default


def normalise(
    weights: str,
    images: str,
    out: str,
    *,
    pooling: Pooling,
    size: int,
    limit: int | None,
    overwrite: bool,
    say: Say,
) -> dict[str, Any]:
    """Write `weights` to `out`, with every filter scaled to mean activation 1 over pictures.

    Args:
        weights: ``imagenet``, ``random``, or a path or URI.
        images: folder or s3:// prefix of the pictures.
        out: .safetensors, local or s3://.
        pooling: that of the job that will use the weights.
        size: longest side, in pixels, at which pictures are measured; smaller ones keep their
            size.
        limit: at most so many pictures, taken evenly from the sorted names.
        overwrite: replace `out` if it exists.
        say: called with a line for each picture that can't be used, and with one a minute.

    Returns what was done. Raises `UsageError`, `WeightsError`, `StorageError`.
    """
    out = _writable(out, overwrite)
    pictures = _Pictures(images, size, limit, say)
    network = _read(weights, "auto")
    from nstray.engine.network.normalise import normalise as run
    from nstray.engine.network.normalise import to_safetensors
    from nstray.engine.network.vgg import deepest, minimum_side

    pictures.least, pictures.deepest = minimum_side(network.layers), deepest(network.layers)
    if size < pictures.least:
        raise UsageError(
            f"--size {size}: {pictures.deepest} needs at least {pictures.least} pixels"
        )
    done = run(network, pictures, pooling)
    data = to_safetensors(done.weights, {**done.metadata, "size": str(size)})
    _write(out, data, overwrite)
    return {
        **_result(out, data, done.weights),
        "source_id": done.source_id,
        "pooling": done.pooling,
        "images": done.images,
        "skipped": pictures.skipped,
        "means": {
            layer: float(f"{float(means.mean()):.4g}") for layer, means in done.means.items()
        },
        "dead": {layer: len(filters) for layer, filters in done.dead.items() if filters},
    }


def convert(source: str, out: str, *, input: InputWord, overwrite: bool) -> dict[str, Any]:
    """Write the convolutions of `source` to `out` as .safetensors that says its input convention.

    Args:
        source: ``imagenet``, ``random``, or a .pth or .safetensors file, local or s3://.
        out: .safetensors, local or s3://.
        input: the convention `source` was trained in; ``auto``: as
            `nstray.engine.network.weights.parse_weights` reads it.
        overwrite: replace `out` if it exists.

    No value is changed. Returns what was done. Raises `UsageError`, `WeightsError`, `StorageError`.
    """
    out = _writable(out, overwrite)
    network = _read(source, input)
    from nstray.engine.network.normalise import to_safetensors

    data = to_safetensors(network, {"source_id": network.id})
    _write(out, data, overwrite)
    return {**_result(out, data, network), "source_id": network.id}


class _Pictures:
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
                f"--images {self.folder}: none of {len(self.uris)} pictures can be used; "
                f"the first: {first}"
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


def _read(source: str, input: InputWord) -> VGGWeights:
    from nstray.engine.network.weights import load_weights, parse_weights

    if source in NAMED:
        if input != "auto":
            raise UsageError(f"--input {input}: {source} is RGB; leave --input out")
        return load_weights(source)
    try:
        data = storage.read(storage.absolute(source))
    except Unreachable:
        raise
    except (StorageError, UsageError) as error:
        raise unreadable(source, error) from None
    return parse_weights(data, storage.redact(source), input=input)


def _writable(out: str, overwrite: bool) -> str:
    out = storage.absolute(out)
    if ending(storage.name(out)) != ".safetensors":
        raise UsageError(
            f"-o {out}: a .safetensors file is written; let its name end with .safetensors"
        )
    if not overwrite and storage.head(out) is not None:
        raise UsageError(f"-o {out} exists; give --overwrite, or another file")
    return out


def _write(out: str, data: bytes, overwrite: bool) -> None:
    if overwrite:
        storage.put_over(out, data)
        return
    try:
        storage.put_new(out, data)
    except AlreadyExists:
        raise UsageError(
            f"-o {out} appeared meanwhile; give --overwrite, or another file"
        ) from None


def _result(out: str, data: bytes, network: VGGWeights) -> dict[str, Any]:
    return {
        "out": out,
        "weights_id": "sha256:" + hashlib.sha256(data).hexdigest(),
        "input": network.input,
        "layers": f"{network.layers[0]} to {network.layers[-1]}",
    }
