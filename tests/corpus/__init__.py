"""Hostile and odd image files, made anew from code and fixed seeds: each with what `images.decode` may make of it.

`files` gives them, the same bytes on every run of one Pillow; `odd_names` gives names that are odd, for files that are not.
"""

from __future__ import annotations

from corpus import bombs, damage, kinds, others
from corpus.case import CAPS, Case
from corpus.names import odd_names

__all__ = ["CAPS", "GROUPS", "Case", "files", "odd_names"]

GROUPS = {"kinds": kinds.cases, "damage": damage.cases, "bombs": bombs.cases, "others": others.cases}


def files(group: str | None = None) -> list[Case]:
    """The corpus, or one part of it; no two files of one name."""
    return [case for name, make in GROUPS.items() if group in (None, name) for case in make()]
