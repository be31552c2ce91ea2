"""`nstray manifest build`: a manifest of the pictures of a content folder and of a style folder."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import AlreadyExists, ManifestError, NotFound
from nstray.manifest.files import BATCH_ROWS, WRITTEN, ending, is_folder_name, kind_of
from nstray.manifest.references import literal

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
SCHEMA = pa.schema([("pair_id", pa.string()), ("content", pa.string()), ("style", pa.string())])
MAX_SLUG = 63  # characters; two slugs and "--" make an id of at most 128

_Row = tuple[str, str, str]


def build(content: str, style: str, *, pairs: str, seed: int, out: str) -> int:
    """Write a manifest of pairs of the pictures below two folders; returns its number of rows.

    Ids are made of the files' names. Paths are relative to the manifest if both folders lie beside
    or below it, else absolute. Memory: the listings and the encoded manifest, which is about 1 byte
    per row for Parquet with every content and every style.

    Args:
        content: a folder, an S3 prefix, or one picture.
        style: the same.
        pairs: ``all``, or how many distinct styles each content gets. They are drawn for that
            content alone, so that adding contents changes no draw.
        seed: of the draw.
        out: ends with .parquet, .csv, .jsonl or .ndjson; must not exist.
    Raises: `ManifestError` for a folder without pictures, for more styles asked for than there are,
        or for an `out` that exists.
    """
    out = storage.absolute(out)
    kind = kind_of(out, WRITTEN)
    styles_each = _styles_each(pairs)
    if storage.head(out) is not None:
        raise ManifestError(f"{out} exists; remove it first, or write another")
    contents, styles = _Pictures(content, "content"), _Pictures(style, "style")
    if styles_each is not None and styles_each > len(styles.uris):
        raise ManifestError(
            f"--pairs {styles_each}: only {len(styles.uris)} styles in {styles.folder}; "
            "give at most that many, or all"
        )
    base = storage.parent(out).rstrip("/") + "/"
    relative = all((p.folder.rstrip("/") + "/").startswith(base) for p in (contents, styles))
    prefix = base if relative else ""
    rows = (
        (
            f"{contents.slugs[c]}--{styles.slugs[s]}",
            _reference(contents.uris[c], prefix),
            _reference(styles.uris[s], prefix),
        )
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


def _reference(uri: str, prefix: str) -> str:
    """`uri` as a manifest names it: relative if it begins with the non-empty `prefix`."""
    return literal(uri.removeprefix(prefix)) if prefix else uri


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
        folder: its URI.
        uris: of the pictures.
        slugs: a distinct name for each picture, fit for an id.
    """

    def __init__(self, given: str, role: str) -> None:
        uri = storage.absolute(given)
        found = None if is_folder_name(uri) else storage.head(uri)
        self.folder = uri if found is None else storage.parent(uri)
        endings = ", ".join(IMAGE_ENDINGS)
        if found is not None:
            self.uris = [uri]
            if ending(storage.name(uri)) not in IMAGE_ENDINGS:
                raise ManifestError(
                    f"{role} {uri}: not a picture: its name must end with one of {endings}"
                )
        else:
            try:
                listed = [o.uri for o in storage.list_files(uri)]
            except NotFound as error:
                raise ManifestError(f"{role} folder {uri}: does not exist ({error})") from None
            self.uris = picture_uris(listed)
            if not self.uris:
                raise ManifestError(
                    f"{role} folder {uri}: no pictures: "
                    f"none of its {len(listed)} files ends with {endings}"
                )
        self.slugs = _slugs([self.relative(i) for i in range(len(self.uris))])

    def relative(self, i: int) -> str:
        """The path of picture i from its folder; it does not depend on where the folder lies."""
        return self.uris[i].removeprefix(self.folder).lstrip("/")


def picture_uris(listed: Iterable[str]) -> list[str]:
    """The files of a folder that are pictures by their names, in order."""
    # A name that begins with a dot is no picture: macOS puts a ._a.jpg beside every a.jpg.
    return sorted(
        u for u in listed if ending(n := storage.name(u)) in IMAGE_ENDINGS and not n.startswith(".")
    )


def _slugs(paths: list[str]) -> list[str]:
    """A distinct name for each path: its stem, with a hash of the path if two paths share the stem.

    A name never holds ``--`` and never starts or ends with ``-``, so two names joined by ``--`` can
    be told apart again.
    """
    bare = [
        re.sub(
            r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", p.rpartition("/")[2].rpartition(".")[0])
        ).strip("._-")
        for p in paths
    ]
    counts = Counter(bare)
    digits = 8
    while True:
        out = [
            s if s and counts[s] == 1 and len(s) <= MAX_SLUG else _hashed(s, p, digits)
            for s, p in zip(bare, paths, strict=True)
        ]
        if len(set(out)) == len(out):
            return out
        digits += 8


def _hashed(slug: str, path: str, digits: int) -> str:
    """`slug`, shortened to fit, with `digits` hex digits of a hash of `path`."""
    mark = hashlib.blake2b(path.encode()).hexdigest()[:digits]
    return f"{slug[: MAX_SLUG - digits - 1].rstrip('._-')}-{mark}".lstrip("-")


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
    sink = io.StringIO()
    plain = csv.writer(sink, lineterminator="\n")
    quoted = csv.writer(sink, lineterminator="\n", quoting=csv.QUOTE_ALL)
    plain.writerow(SCHEMA.names)
    for pair_id, content, style in rows:
        # Without quotes a \r ends the row. Python writes it without.
        writer = quoted if "\r" in content + style else plain
        # A cell that starts with "[" would be read as a JSON list.
        writer.writerow((pair_id, content, json.dumps([style]) if style.startswith("[") else style))
    return sink.getvalue().encode()


def _json_lines(rows: Iterator[_Row]) -> bytes:
    sink = io.StringIO()
    for row in rows:
        sink.write(json.dumps(dict(zip(SCHEMA.names, row, strict=True)), ensure_ascii=False) + "\n")
    return sink.getvalue().encode()
