"""Pictures as a manifest names them: as short as a reader takes them for the same again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

import pyarrow as pa

from nstray import storage
from nstray.errors import ManifestError
from nstray.manifest.problems import Problems
from nstray.manifest.references import ReferenceRules, resolve
from nstray.sources.reference import as_literal

_RULES = ReferenceRules(local=True, csv=True)


def references(
    uris: list[str], role: str, root: str, base: str, relative: bool, *, loose: bool
) -> list[str]:
    """Pictures below `root` as a manifest in the folder `base` names them.

    Raises: `ManifestError` for a picture that it can't name.

    Args:
        base: with a slash at its end.
        relative: as paths from `base`, if a reader takes these for the pictures' own.
        loose: they are files, also if their names look like those of members of archives.
    """
    meant = [as_literal(uri) for uri in uris] if loose else uris
    # A reader takes "./" and whatever follows literally.
    forms: list[Callable[[str], str]] = []
    if relative:
        forms += [lambda uri: uri.removeprefix(base), lambda uri: f"./{uri.removeprefix(base)}"]
    forms.append(as_literal if loose else lambda uri: uri)
    if not relative and not storage.is_uri(base) and not storage.is_uri(root):
        forms.append(lambda uri: f"./{os.path.relpath(uri, base)}")
    written = [""] * len(uris)
    others = list(range(len(uris)))
    for form in forms:
        for i in others:
            written[i] = form(uris[i])
        read = _read(base, [written[i] for i in others], role)
        others = [i for i, uri in zip(others, read, strict=True) if uri != meant[i]]
        if not others:
            return written
    raise ManifestError(
        "\n".join(
            f"{role} {uris[i]!r}: no manifest can name it; rename the file"
            for i in others[: Problems.LIMIT]
        )
    )


def _read(base: str, written: list[str], role: str) -> list[str | None]:
    """What a reader takes the `written` references for."""
    values = pa.array(written, pa.string())
    read = resolve(base, values, role, None, Problems(), _RULES)
    return cast("list[str | None]", read.to_pylist())
