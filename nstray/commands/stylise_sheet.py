"""The sheet of a grid: contents x styles, with the originals in the first column and row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nstray import storage
from nstray.commands.stylise_plan import Plan, Wanted
from nstray.config import JobConfig
from nstray.errors import PairError
from nstray.images.resize import fit
from nstray.text import counted

if TYPE_CHECKING:
    from nstray.worker.image_cache import Picture
    from nstray.worker.inputs import LoadedPair

MOST = 10  # contents, and styles, that a sheet shows
SIDE = 264  # pixels, the longest side of a picture in memory; `reports.drawing` draws no more

Pixels = npt.NDArray[np.uint8]


class Cells:
    """The pictures of a sheet, made small as they come."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._contents = [p.name for p in plan.contents.pictures[:MOST]]
        self._styles = [p.name for p in plan.styles.pictures[:MOST]]
        self._made: dict[tuple[str, str], Pixels] = {}
        self._errors: dict[tuple[str, str], str] = {}
        self._originals: dict[tuple[str, str], Pixels] = {}

    def add(self, wanted: Wanted, ready: LoadedPair, pixels: npt.NDArray[Any]) -> None:
        """A picture, and the originals that it is of."""
        key = wanted.content.name, wanted.style.name
        if self._plan.folder is None or not self._shows(key):
            return
        self._made[key] = _small(pixels if pixels.dtype == np.uint8 else (pixels // 257))
        self._original("content", key[0], ready.content)
        self._original("style", key[1], ready.styles[0])

    def skip(self, wanted: Wanted, error: PairError) -> None:
        """A pair that there is no picture of."""
        self._errors[wanted.content.name, wanted.style.name] = error.code.value

    def save(self, target: str, config: JobConfig, weights_id: str) -> int:
        """Draw the sheet; returns the number of pairs that it has a cell for."""
        # matplotlib takes half a second to import
        from nstray.reports.cells import caption, short
        from nstray.reports.drawing import Cell, Sheet, save

        lines: list[list[Cell | None]] = [
            [None, *(self._cell(Cell, "style", name, short(name)) for name in self._styles)]
        ]
        for content in self._contents:
            lines.append([self._cell(Cell, "content", content, short(content))])
            for style in self._styles:
                key = content, style
                lines[-1].append(Cell("", self._made.get(key), self._errors.get(key, "")))
        result = config.result_fields()
        about = {"result": result, "weights": storage.redact(config.weights)}
        title = (
            f"{counted(len(self._plan.contents.pictures), 'content')}, "
            f"{counted(len(self._plan.styles.pictures), 'style')}"
        )
        save(Sheet(lines, title, caption({**about, "weights_id": weights_id})), target)
        return len(self._contents) * len(self._styles)

    def _shows(self, key: tuple[str, str]) -> bool:
        return key[0] in self._contents and key[1] in self._styles

    def _original(self, role: str, name: str, picture: Picture | None) -> None:
        if picture is not None and (role, name) not in self._originals:
            self._originals[role, name] = _small(picture.pixels)

    def _cell(self, kind: Any, role: str, name: str, label: str) -> Any:
        return kind(label, self._originals.get((role, name)), "not readable", original=True)


def _small(pixels: npt.NDArray[Any]) -> Pixels:
    return fit(pixels.astype(np.uint8), SIDE, "longest", False, what="picture")
