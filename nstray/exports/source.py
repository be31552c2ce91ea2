"""The committed parts of an output as units of work: what one process reads at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nstray import storage
from nstray.output.folder import Output
from nstray.output.reader import parts_by_window

# Bytes of the parts of a unit. Its rows are in memory at once, twice while they are sorted. Large
# outputs have larger units, because every run of the first pass is opened again in the second.
_MIN_UNIT, _MAX_UNIT, _UNITS = 32 * 2**20, 512 * 2**20, 1000


@dataclass(frozen=True)
class Slice:
    """Some row groups of a part.

    Attributes:
        uri: of the part. position: of the part in the output, from 0.
        index, of: the part is cut into `of` slices of whole row groups; this is number `index`.
    """

    uri: str
    position: int
    index: int = 0
    of: int = 1


@dataclass(frozen=True)
class Source:
    """The parts that an export reads.

    Attributes:
        units: slices of parts, in the order of the output.
        parts: their number. size: bytes of all parts.
        digest: over names, sizes and versions of the parts.
    """

    units: tuple[tuple[Slice, ...], ...]
    parts: int
    size: int
    digest: str

    def identity(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What makes another source of it, as JSON."""
        return {
            "job": job["fingerprint"],
            "manifest": job["manifest_digest"],
            "parts": f"{self.parts} parts of {self.size} bytes, {self.digest[:16]}",
        }


def find_source(output: Output, job: Mapping[str, Any]) -> Source:
    """The parts that are committed now, by one listing for each window."""
    total = hashlib.sha256()
    found: list[storage.ObjectInfo] = []
    for window, _ in parts_by_window(job):
        for _, info in sorted(output.parts.list_window(window).items()):
            total.update(f"{storage.name(info.uri)} {info.size} {info.etag}\n".encode())
            found.append(info)
    size = sum(info.size for info in found)
    return Source(_units(found, size), len(found), size, total.hexdigest())


def _units(found: list[storage.ObjectInfo], size: int) -> tuple[tuple[Slice, ...], ...]:
    most = min(max(size // _UNITS, _MIN_UNIT), _MAX_UNIT)
    units: list[tuple[Slice, ...]] = []
    unit: list[Slice] = []
    held = 0
    for position, info in enumerate(found):
        if unit and held + info.size > most:
            units.append(tuple(unit))
            unit, held = [], 0
        if info.size > 2 * most:  # a part of many or large pictures
            pieces = -(-info.size // most)
            units += [(Slice(info.uri, position, i, pieces),) for i in range(pieces)]
        else:
            unit.append(Slice(info.uri, position))
            held += info.size
    if unit:
        units.append(tuple(unit))
    return tuple(units)
