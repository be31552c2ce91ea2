"""`nstray manifest build`: a manifest of contents and styles, from wherever they lie."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from nstray import storage
from nstray.errors import AlreadyExists, ManifestError
from nstray.manifest import build_draw, build_labels, build_write
from nstray.manifest.build_columns import Names
from nstray.manifest.build_listing import Listing
from nstray.manifest.build_rows import ContentColumns, Rows, StyleColumns
from nstray.manifest.files import WRITTEN, kind_of
from nstray.output.schema import RESERVED
from nstray.sources.listing.detect import open_source
from nstray.sources.listing.pictures import Options, Source
from nstray.text import counted


def build(
    content: str,
    style: str,
    *,
    pairs: str,
    seed: int,
    out: str,
    any_ending: bool = False,
    labels: str | None = None,
    splits: str | None = None,
    columns: Sequence[str] | None = None,
    style_columns: Sequence[str] = (),
    style_splits: bool = False,
    sample: int | None = None,
    shapes: bool = False,
    digests: bool = False,
    content_column: str | None = None,
    style_column: str | None = None,
    base: str | None = None,
    metadata: Mapping[str, str] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> int:
    """Write a manifest of pairs of the pictures of two sources; returns its number of rows.

    A source is a folder of pictures, of tars, of Parquet or of Arrow files, or one of these, or one
    picture (`nstray.sources.listing`).

    Ids are made of the pictures' names and of their paths below the folders, members of archives
    included. So they stay when pictures or archives are added and when the folders move. Paths are
    relative to the manifest if both sources lie beside or below it, else absolute. Memory: the
    styles, 16 bytes of each content, and the paths of loose ones; the rest is in a temporary file.

    Args:
        content, style: a path or URI.
        pairs: ``all``, or how many distinct styles each content gets. They are drawn for that
            content alone, so that adding contents changes no draw.
        seed: of the draws.
        out: ends with .parquet, .csv, .jsonl or .ndjson; must not exist.
        any_ending: as `find_pictures` takes it.
        labels, splits: where the columns ``label`` and ``split`` come from, as
            `build_labels.choose` takes them.
        columns: the contents' columns to carry; None: all.
        style_columns: the styles' columns to carry, as ``style_NAME``.
        style_splits: give each split styles of its own.
        sample: take so many contents. Whether a content is among them depends on its path and the
            seed, and on the paths of the others alone.
        shapes: write the contents' widths and heights.
        digests: store the CRC32 of each member of an archive.
        content_column, style_column: the columns that pictures come from.
        base: the folder that paths are relative to; a source beside it gets absolute ones.
            Default: the manifest's, if both sources lie below it.
        metadata: more key-value metadata of a Parquet file.
        say: told what was found and what was left out, a line each.
    Raises: `ManifestError` for a source without pictures, for more styles or contents asked for
        than there are, for an `out` that exists, for a picture that no manifest can name, and for
        an archive that can't be read; `StorageError`.
    """
    storage.refuse_to_write(out)
    out = storage.absolute(out)
    kind = kind_of(out, WRITTEN)
    each = build_draw.styles_each(pairs)
    if storage.head(out) is not None:
        raise ManifestError(f"{out} exists; remove it first, or write another")
    wanted = None if columns is None else tuple(columns)
    if wanted is not None and labels == "column" and "label" not in wanted:
        wanted = (*wanted, "label")
    if wanted is not None and splits == "column" and "split" not in wanted:
        wanted = (*wanted, "split")
    contents = open_source(
        content,
        "content",
        Options(any_ending, content_column, wanted, shapes, digests, own=RESERVED),
    )
    styles = open_source(
        style,
        "style",
        Options(
            any_ending,
            style_column,
            tuple(style_columns),
            digests=digests,
            option="--style-column",
            own=RESERVED,
        ),
    )
    _check_options(contents, styles, columns, digests, content_column, style_column)
    start = (base or storage.parent(out)).rstrip("/") + "/"
    below = [(s.root.rstrip("/") + "/").startswith(start) for s in (contents, styles)]
    if base is None:
        below = [all(below)] * 2
    content_rules = build_labels.choose(contents, "content", labels, splits, say)
    style_rules = build_labels.choose(styles, "style", None, None, lambda line: None)
    with contextlib.ExitStack() as stack:
        listed, style_list = (
            stack.enter_context(
                Listing(source, rules, role, start, relative, seed=seed, sample=sample is not None)
            )
            for source, rules, role, relative in (
                (contents, content_rules, "content", below[0]),
                (styles, style_rules, "style", below[1]),
            )
        )
        for listing in (listed, style_list):
            listing.fill()
            listing.say_what(say)
        if sample is not None:
            if sample > listed.rows:
                raise ManifestError(
                    f"--sample {sample:,}: only {counted(listed.rows, 'content')} in "
                    f"{contents.root}; give at most that many"
                )
            listed.draw(sample)
        names = Names(say)
        content_columns = ContentColumns(listed, names, shapes, wanted)
        style_table = StyleColumns(style_list, names, style_columns)
        if kind != "parquet" and (content_columns.features or style_table.features):
            say(f"{out}: the names of ClassLabels and other features stand in .parquet alone")
        groups = None
        if style_splits:
            groups = _groups(content_columns, style_table.paths, each or 1, seed, say)
        elif each is not None and each > style_list.rows:
            raise ManifestError(
                f"--pairs {each}: only {counted(style_list.rows, 'style')} in {styles.root}; "
                "give at most that many, or all"
            )
        rows = Rows(content_columns, style_table, each, seed, groups)
        file = stack.enter_context(tempfile.TemporaryFile())
        schema = rows.schema.with_metadata({**(rows.schema.metadata or {}), **(metadata or {})})
        number = build_write.write(file, kind, schema, rows.tables())
        content_columns.say_unknown(say)
        try:
            storage.put_file(out, file, new=True)
        except AlreadyExists:
            raise ManifestError(
                f"{out} appeared meanwhile; remove it first, or write another"
            ) from None
    return number


def _check_options(
    contents: Source,
    styles: Source,
    columns: Sequence[str] | None,
    digests: bool,
    content_column: str | None,
    style_column: str | None,
) -> None:
    """Raise `ManifestError` for an option that has no effect on these sources."""
    for source, option, given in (
        (contents, "--columns", columns),
        (contents, "--content-column", content_column),
        (styles, "--style-column", style_column),
    ):
        if given and not source.archives:
            raise ManifestError(
                f"{option}: {source.root} holds loose pictures, which have no columns; leave it out"
            )
    if digests and not contents.archives and not styles.archives:
        raise ManifestError(
            "--digests: there are no archives; digests are those of members of archives. "
            "Leave it out"
        )


def _groups(
    contents: ContentColumns,
    paths: Sequence[str],
    least: int,
    seed: int,
    say: Callable[[str], object],
) -> Mapping[str | None, build_draw.Numbers]:
    """The styles of each split of the contents."""
    counts: Counter[str | None] = Counter()
    for splits in contents.splits():
        counts.update(splits)
    named = {"" if split is None else split: number for split, number in counts.items()}
    found = build_draw.split_styles(paths, named, least, seed)
    shares = ", ".join(f"{split or 'no split'} {len(found[split])}" for split in sorted(found))
    say(f"styles by split: {shares}")
    return {split: found["" if split is None else split] for split in counts}
