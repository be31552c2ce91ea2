"""Archives of small pictures, and manifests built of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from outputs import picture
from PIL import Image

from nstray.manifest.build import build
from nstray.sources.read import Sources
from nstray.sources.reference import parse_place

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@cache
def jpeg(seed: int, width: int = 24, height: int = 16, turned: bool = False) -> bytes:
    """A picture of its own; `turned` by EXIF, so that width and height change places."""
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    sink = io.BytesIO()
    Image.fromarray(np.asarray(picture(seed, width, height))).save(sink, "JPEG", exif=exif)
    return sink.getvalue()


def tar(path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """A tar of these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def images(pictures: list[bytes | None], paths: list[str | None] | None = None) -> pa.Array:
    """A column of pictures as Hugging Face's datasets has it; null where a picture is None."""
    names = paths or [None] * len(pictures)
    return pa.array([None if p is None else {"bytes": p, "path": n} for p, n in zip(pictures, names, strict=True)], IMAGE)


def parquet(path: Path, columns: Mapping[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, **options)
    return path


def files(folder: Path, *names: str) -> Path:
    """Loose pictures below a folder, each of its own."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(1000 + i))
    return folder


class Built:
    """The manifest of contents in one style, or what `style` holds.

    Attributes:
        table: the manifest.
        rows: its rows.
        said: the lines that the build said of it.
    """

    def __init__(self, content: Path | str, style: Path | str | None = None, *, out: Path, pairs: str = "1", seed: int = 0, **options: Any) -> None:
        if style is None:
            style = files(out.parent / "one-style", "x.jpg")
        self.said: list[str] = []
        self.number = build(str(content), str(style), pairs=pairs, seed=seed, out=str(out), say=self.said.append, **options)
        self.table = pq.read_table(out)
        self.rows: list[dict[str, Any]] = self.table.to_pylist()
        self.out = out

    def column(self, name: str) -> list[Any]:
        return list(self.table.column(name).to_pylist())

    def read(self, role: str = "content") -> list[bytes]:
        """The bytes that a worker reads by each row's reference, place and ETag."""
        sources = Sources(64 * 2**20)
        return [
            sources.read(f"{self.out.parent}/{row[role].removeprefix('./')}", parse_place(row.get(f"{role}_at"), row.get(f"{role}_etag")))
            for row in self.rows
        ]
