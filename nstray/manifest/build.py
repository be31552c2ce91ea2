"""`nstray manifest build`: a manifest of the pictures of a content folder and of a style folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import AlreadyExists, ManifestError, NotFound
from nstray.manifest.files import BATCH_ROWS, WRITTEN, is_folder_name, kind_of
from nstray.manifest.folder_pictures import (
    ENDINGS,
    begins_as_picture,
    below,
    find_pictures,
    is_picture_name,
)
from nstray.manifest.problems import Problems
from nstray.manifest.references import ReferenceRules, resolve

SCHEMA = pa.schema([("pair_id", pa.string()), ("content", pa.string()), ("style", pa.string())])
MAX_SLUG = 63  # characters; two slugs and "--" make an id of at most 128
HASH_DIGITS = 8
# A cell of these characters alone means the same to every reader of CSV.
_PLAIN_CELL = re.compile(r"[\w./:-](?:[\w./: -]*[\w./:-])?")

_RULES = ReferenceRules(local=True, csv=True)
_Row = tuple[str, str, str]


def build(
    content: str,
    style: str,
    *,
    pairs: str,
    seed: int,
    out: str,
    any_ending: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> int:
    """Write a manifest of pairs of the pictures below two folders; returns its number of rows.

    Ids are made of the files' names and of their paths below the folders, so they stay when
    pictures are added and when the folders move. Paths are relative to the manifest if both folders
    lie beside or below it, else absolute. Memory: the listings and the encoded manifest, which is
    about 1 byte per row for Parquet with every content and every style.

    Args:
        content: a folder, an S3 prefix, or one picture.
        style: the same.
        pairs: ``all``, or how many distinct styles each content gets. They are drawn for that
            content alone, so that adding contents changes no draw.
        seed: of the draw.
        out: ends with .parquet, .csv, .jsonl or .ndjson; must not exist.
        any_ending: as `find_pictures` takes it.
        say: told what of the folders was left out, a line each.
    Raises: `ManifestError` for a folder without pictures, for more styles asked for than there are,
        for an `out` that exists, or for a picture whose path no manifest can hold.
    """
    out = storage.absolute(out)
    kind = kind_of(out, WRITTEN)
    styles_each = _styles_each(pairs)
    if storage.head(out) is not None:
        raise ManifestError(f"{out} exists; remove it first, or write another")
    contents, styles = (
        _Pictures(given, role, any_ending)
        for given, role in ((content, "content"), (style, "style"))
    )
    for pictures in (contents, styles):
        for line in pictures.left_out:
            say(f"{pictures.role} folder {pictures.folder}: {line}")
    if styles_each is not None and styles_each > len(styles.uris):
        raise ManifestError(
            f"--pairs {styles_each}: only {len(styles.uris)} styles in {styles.folder}; "
            "give at most that many, or all"
        )
    base = storage.parent(out).rstrip("/") + "/"
    relative = all((p.folder.rstrip("/") + "/").startswith(base) for p in (contents, styles))
    content_paths, style_paths = (p.references(base, relative) for p in (contents, styles))
    if kind == "csv":
        content_paths = list(map(_cell, content_paths))
        # A cell that starts with "[" would be read as a JSON list.
        style_paths = [_cell(json.dumps([s]) if s.startswith("[") else s) for s in style_paths]
    rows = (
        (f"{contents.slugs[c]}--{styles.slugs[s]}", content_paths[c], style_paths[s])
        for c in range(len(contents.uris))
        for s in _drawn(styles_each, len(styles.uris), f"{seed}:{contents.relative(c)}")
    )
    data = {"parquet": _parquet, "csv": _csv, "jsonl": _json_lines}[kind](rows)
    try:
        storage.put_new(out, data)
    except AlreadyExists:
        raise ManifestError(
            f"{out} appeared meanwhile; remove it first, or write another"
        ) from None
    return len(contents.uris) * (styles_each or len(styles.uris))


def _styles_each(pairs: str) -> int | None:
    """How many styles each content gets; None for all."""
    if pairs == "all":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", pairs) or int(pairs) == 0:
        raise ManifestError(
            f"--pairs {pairs}: must be all, or a whole number of styles per content of at least 1"
        )
    return int(pairs)


def _drawn(styles_each: int | None, styles: int, key: str) -> list[int] | range:
    """The numbers of the styles of one content, ascending; `key` seeds the draw."""
    if styles_each is None:
        return range(styles)
    return sorted(random.Random(key).sample(range(styles), styles_each))


class _Pictures:
    """The pictures below a folder, in the order of their names.

    Attributes:
        role: content or style.
        folder: its URI.
        uris: of the pictures.
        slugs: a distinct name for each picture, fit for an id.
        left_out: lines that say what of the folder is not taken.
    """

    def __init__(self, given: str, role: str, any_ending: bool) -> None:
        uri = storage.absolute(given)
        found = None if is_folder_name(uri) else storage.head(uri)
        self.role = role
        self.folder = uri if found is None else storage.parent(uri)
        self.left_out: list[str] = []
        hint = "" if any_ending else "; --any-ending takes those that begin as such pictures"
        if found is not None:
            self.uris = [uri]
            if not is_picture_name(uri) and not (any_ending and begins_as_picture(uri)):
                what = (
                    "it does not begin as JPEG, PNG or WebP"
                    if any_ending
                    else f"its name must end with one of {', '.join(ENDINGS)}{hint}"
                )
                raise ManifestError(f"{role} {uri}: not a picture: {what}")
        else:
            try:
                listed = find_pictures(uri, any_ending=any_ending)
            except NotFound as error:
                raise ManifestError(f"{role} folder {uri}: does not exist ({error})") from None
            self.uris, self.left_out = listed.uris, listed.left_out.lines(hint)
            if not self.uris:
                raise ManifestError(f"{role} folder {uri}: no pictures: {listed.why_none(hint)}")
        self.slugs = _slugs([self.relative(i) for i in range(len(self.uris))])

    def relative(self, i: int) -> str:
        """The path of picture i from its folder; it does not depend on where the folder lies."""
        return below(self.folder, self.uris[i])

    def references(self, base: str, relative: bool) -> list[str]:
        """The pictures as a manifest in the folder `base` names them.

        Raises: `ManifestError` for a picture that it can't name.

        Args:
            relative: as paths from `base`, if a reader takes these for the pictures' own.
        """
        # A reader takes "./" and whatever follows literally.
        forms: list[Callable[[str], str]] = []
        if relative:
            forms += [lambda uri: uri.removeprefix(base), lambda uri: f"./{uri.removeprefix(base)}"]
        forms.append(lambda uri: uri)
        if not relative and not storage.is_uri(base) and not storage.is_uri(self.folder):
            forms.append(lambda uri: f"./{os.path.relpath(uri, base)}")
        written = [""] * len(self.uris)
        others = list(range(len(self.uris)))
        for form in forms:
            for i in others:
                written[i] = form(self.uris[i])
            read = self._read(base, [written[i] for i in others])
            others = [i for i, uri in zip(others, read, strict=True) if uri != self.uris[i]]
        if others:
            raise ManifestError(
                "\n".join(
                    f"{self.role} {self.uris[i]!r}: no manifest can name it; rename the file"
                    for i in others[: Problems.LIMIT]
                )
            )
        return written

    def _read(self, base: str, written: list[str]) -> list[str | None]:
        """What a reader takes the `written` references for."""
        values = pa.array(written, pa.string())
        read = resolve(base, values, self.role, None, Problems(), _RULES)
        return cast("list[str | None]", read.to_pylist())


def _slugs(paths: list[str]) -> list[str]:
    """A distinct name for each path: its stem, and 8 hex digits of a hash of the path.

    A name depends on its path alone, with one exception: paths of the same stem and the same 8
    digits get 16. Of two given paths of one stem this happens once in 4 thousand million. So a
    picture that is added does not rename another, and a name never comes to mean another picture.
    A path whose stem has no letter or digit of ASCII has 16 digits and no stem.

    A name never holds ``--`` and never starts or ends with ``-``, so two names joined by ``--`` can
    be told apart again.
    """
    stems = [_stem(path) for path in paths]
    digits = [HASH_DIGITS if stem else 2 * HASH_DIGITS for stem in stems]
    while True:
        slugs = [_hashed(*each) for each in zip(stems, paths, digits, strict=True)]
        repeated = {slug for slug, number in Counter(slugs).items() if number > 1}
        if not repeated:
            return slugs
        digits = [
            n + HASH_DIGITS if s in repeated else n for n, s in zip(digits, slugs, strict=True)
        ]


def _stem(path: str) -> str:
    """The file's name without its ending, as far as an id may hold it."""
    name = path.rpartition("/")[2]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name.rpartition(".")[0] or name)
    return re.sub(r"-{2,}", "-", stem).strip("._-")


def _hashed(stem: str, path: str, digits: int) -> str:
    """`stem`, shortened to fit, with `digits` hex digits of a hash of `path`."""
    mark = hashlib.blake2b(path.encode()).hexdigest()[:digits]
    return f"{stem[: MAX_SLUG - digits - 1].rstrip('._-')}-{mark}".lstrip("-")


def _parquet(rows: Iterator[_Row]) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            writer.write_table(
                pa.table(
                    [pa.array(column, pa.string()) for column in zip(*batch, strict=True)],
                    schema=SCHEMA,
                )
            )
    return sink.getvalue()


def _csv(rows: Iterator[_Row]) -> bytes:
    """Rows of cells as `_cell` makes them."""
    sink = io.StringIO()
    sink.write(",".join(SCHEMA.names) + "\n")
    sink.writelines(f"{pair_id},{content},{style}\n" for pair_id, content, style in rows)
    return sink.getvalue().encode()


def _cell(text: str) -> str:
    """`text` as a cell, in quotes if a reader could take it otherwise."""
    if _PLAIN_CELL.fullmatch(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _json_lines(rows: Iterator[_Row]) -> bytes:
    sink = io.StringIO()
    for row in rows:
        sink.write(json.dumps(dict(zip(SCHEMA.names, row, strict=True)), ensure_ascii=False) + "\n")
    return sink.getvalue().encode()
