"""Pictures as an export wants them: made smaller, encoded in another format; contents fitted."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from nstray import storage
from nstray.errors import BadCredentials, ErrorCode, PairError, StorageError, Unreachable
from nstray.exports.plan import Plan
from nstray.images.decode import decode
from nstray.images.encode import FORMATS, encode, extension
from nstray.images.resize import fit, target_shape
from nstray.output.reader import MAX_PIXELS
from nstray.sources.read import Sources, absolute_reference

_MAX_BYTES = 2**30  # of a picture of an output


class Pictures:
    """Encodes pictures anew, if an export asks for it."""

    def __init__(self, plan: Plan) -> None:
        options = plan.options
        self._base, self._max_bytes, self._max_pixels = plan.base, plan.max_bytes, plan.max_pixels
        self._size, self._format, self._quality = (
            options.resize,
            options.image_format,
            options.quality,
        )
        self._sources = Sources(plan.max_bytes)
        self.unchanged = options.resize is None and options.image_format is None

    def apply(self, table: pa.Table) -> pa.Table:
        """A table with its pictures encoded anew, and their sizes, if it has columns for them.

        Raises `PairError` that names the row whose picture can't be.
        """
        if self.unchanged or not table.num_rows:
            return table
        images: list[dict[str, Any] | None] = []
        shapes: list[tuple[int | None, int | None]] = []
        for pair_id, image in zip(
            table["pair_id"].to_pylist(), table["image"].to_pylist(), strict=True
        ):
            if image is None:
                images.append(None)
                shapes.append((None, None))
                continue
            data, path, shape = self._encode(image["bytes"], image["path"], str(pair_id))
            images.append({"bytes": data, "path": path})
            shapes.append(shape)
        columns: dict[str, list[Any]] = {"image": images}
        if any(shape != (None, None) for shape in shapes):
            columns |= {"width": [w for w, _ in shapes], "height": [h for _, h in shapes]}
        for name, values in columns.items():
            if name in table.column_names:
                index = table.column_names.index(name)
                field = table.schema.field(index)
                old = table.column(index).to_pylist() if name != "image" else values
                new = [b if a is None else a for a, b in zip(values, old, strict=True)]
                table = table.set_column(index, field, pa.array(new, field.type))
        return table

    def _encode(
        self, data: bytes, path: str, who: str
    ) -> tuple[bytes, str, tuple[int | None, int | None]]:
        """Bytes, file name and size; no size if the picture stays as it is."""
        name, _, ending = path.rpartition(".")
        own = FORMATS[ending]
        image_format = self._format or own
        if self._size is None and image_format == own and self._quality is None:
            return data, path, (None, None)
        pixels = decode(data, what=who, max_bytes=_MAX_BYTES, max_pixels=MAX_PIXELS, own=True)
        if self._size is not None:
            pixels = fit(pixels, self._size, "shortest", False, what=who)
        height, width = pixels.shape[:2]
        encoded = encode(pixels, image_format, self._quality)
        return encoded, f"{name}.{extension(image_format)}", (width, height)

    def original(
        self, uri: str, sha256: str | None, path: str, shape: tuple[int, int]
    ) -> tuple[bytes, str, int, int]:
        """The content of a pair at the size of its picture: bytes, file name, width and height.

        Args:
            sha256: of the content's bytes when the picture was made. Other bytes are refused: they
                are another picture, and an output from elsewhere may name any file of this machine.
            path: file name of the stylised picture. shape: its width and height.

        Raises `PairError` or `StorageError` if the content can't be read or decoded. Raises
        `Unreachable` or `BadCredentials` if the store can't be asked: that is no fault of the
        content.
        """
        what = f"content {storage.redact(uri)}"
        data = self._sources.read(absolute_reference(uri, self._base))
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PairError(
                ErrorCode.NOT_FOUND, f"{what}: it has other bytes than when its row was made"
            )
        pixels = decode(data, what=what, max_bytes=self._max_bytes, max_pixels=self._max_pixels)
        width, height = shape
        if self._size is not None:
            width, height = target_shape(width, height, self._size, "shortest", False)
        pixels = fit(pixels, f"{width}x{height}", "exact", True, what=what)
        name, _, ending = path.rpartition(".")
        image_format = self._format or FORMATS[ending]
        encoded = encode(pixels, image_format, self._quality)
        return encoded, f"{name}-original.{extension(image_format)}", width, height


STOPS = (Unreachable, BadCredentials)  # of the store, not of one content
FAILS = (PairError, StorageError)
