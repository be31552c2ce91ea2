"""Raw batches of a manifest to canonical columns, with everything that can be wrong with a row.

Arrow and numpy work on whole columns. Python sees only ids and distinct values (overrides, JSON
cells).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray.config import ROW_FIELDS, JobConfig
from nstray.engine.settings import INITS
from nstray.errors import ManifestError
from nstray.manifest.arrow_columns import DOUBLES, STRINGS, Flags, Lists, to_flags
from nstray.manifest.carried_types import without_views
from nstray.manifest.column_names import HINTS, IMAGE_COLUMNS, MASKS
from nstray.manifest.overrides import check_rules, parse_override
from nstray.manifest.pair_ids import default_ids, pair_ids
from nstray.manifest.places import parse_places
from nstray.manifest.problems import Problems
from nstray.manifest.raw_batches import RawBatch
from nstray.manifest.references import ReferenceRules, resolve
from nstray.manifest.text_columns import TextColumns
from nstray.text import counted

IMAGE_TYPES = {"content_masks": STRINGS, "style_masks": STRINGS, "fine_style": pa.string()}


@dataclass(frozen=True)
class Canonical:
    """A batch's columns in the types of the manifest's schema.

    Attributes:
        columns: all that nstray reads, but for `row` and `places`.
        places: the reserved columns that say where contents and styles lie. They are in no id and
            no digest.
        carried: those that are only carried through, with the types that the file gives them.
        written: those of `columns` that hold references, as the file has them.
        default_ids: true for rows that gave no pair_id.
    """

    columns: dict[str, pa.Array]
    places: dict[str, pa.Array]
    carried: dict[str, pa.Array]
    written: dict[str, pa.Array]
    default_ids: Flags


def canonical(
    batch: RawBatch, base: str, config: JobConfig | None, problems: Problems, *, local: bool = True
) -> Canonical:
    """Parse, check and resolve one batch.

    Args:
        base: folder that relative paths start from.
        config: the job's settings, for the rules that need them; None if `Manifest.check` has
            applied those rules before.
        problems: what is wrong is added here; a wrong value is null afterwards.
        local: whether rows may name local files.
    Raises: `ManifestError` for a column of a type that can't be read at all.
    """
    raw = dict(zip(batch.names, batch.columns, strict=True))
    csv = batch.file.kind == "csv"
    rules = ReferenceRules(local, csv=csv, commented=csv and batch.names[0] == "content")
    text = TextColumns(batch, problems)
    content = text.column("content", raw.get("content"))
    problems.add(to_flags(pc.is_null(content)), lambda i: "content: empty; give a path or URI")
    styles = Lists(text.lists("style", raw.get("style"), STRINGS))
    problems.add(
        styles.rows_where(to_flags(pc.fill_null(pc.equal(styles.values, ""), True))),
        lambda i: "style: the list holds an empty name; each must be a path or URI",
    )
    weights = Lists(text.lists("style_weights", raw.get("style_weights"), DOUBLES))
    images = {
        name: _parse_image(name, raw[name], styles, text, problems)
        for name in IMAGE_COLUMNS
        if name in raw
    }
    overrides = {
        name: parse_override(name, raw[name], batch, problems) for name in ROW_FIELDS if name in raw
    }
    ids, default = pair_ids(
        text,
        raw.get("pair_id"),
        problems,
        lambda: default_ids(content, styles, weights, images, overrides),
    )
    if config is not None:
        check_rules(batch.rows, config, styles, overrides, problems)
    written = {
        "content": content,
        "style": styles.wrap(styles.values),
        **{name: _written_image(given) for name, given in images.items()},
    }
    if "init" in overrides:
        init = written["init"] = overrides["init"]
        named = pc.is_in(init, value_set=pa.array(INITS))
        overrides["init"] = pc.if_else(
            named, init, resolve(base, init, "init", None, problems, rules)
        )
    columns = {
        "pair_id": ids,
        "content": resolve(base, content, "content", None, problems, rules),
        "style": styles.wrap(
            resolve(base, styles.values, "style", styles.parents, problems, rules)
        ),
        "style_weights": styles.wrap(_normalised_weights(styles, weights, problems)),
        **{
            name: _resolve_image(base, name, given, problems, rules)
            for name, given in images.items()
        },
        **overrides,
        **{name: _parse_hint(name, raw[name], batch, problems) for name in HINTS if name in raw},
    }
    places = parse_places(raw, columns["content"], Lists(columns["style"]), text, problems)
    carried = {
        name: without_views(array)
        for name, array in raw.items()
        if name not in columns and name not in places
    }
    problems.settle(batch)
    return Canonical(columns, places, carried, written, default)


def _normalised_weights(styles: Lists, weights: Lists, problems: Problems) -> pa.Array:
    """Flat style weights of sum 1 per row; equal ones for a row that gives none."""
    values = pc.fill_null(weights.values, float("nan")).to_numpy(zero_copy_only=False)
    sums = np.bincount(weights.parents, weights=values, minlength=len(weights.lengths))
    given = weights.lengths > 0
    wrong = weights.rows_where(~(np.isfinite(values) & (values >= 0)))
    unequal = given & (weights.lengths != styles.lengths)
    problems.add(
        unequal,
        lambda i: (
            f"style_weights: {counted(weights.lengths[i], 'weight')} for "
            f"{counted(styles.lengths[i], 'style')}; "
            "give one per style"
        ),
    )
    problems.add(wrong, lambda i: "style_weights: each must be a finite number of at least 0")
    no_sum = given & ~wrong & ~((sums > 0) & np.isfinite(sums))
    problems.add(no_sum, lambda i: "style_weights: must have a finite sum above 0")
    out = np.repeat(1.0 / np.maximum(styles.lengths, 1), styles.lengths)
    good = given & ~(wrong | unequal | no_sum)
    out[np.repeat(good, styles.lengths)] = (
        values / np.repeat(np.where(good, sums, 1.0), weights.lengths)
    )[np.repeat(good, weights.lengths)]
    return pa.array(out)


def _parse_image(
    name: str, array: pa.Array, styles: Lists, text: TextColumns, problems: Problems
) -> Lists | pa.Array:
    """Masks or fine styles as written; none for a row that names nothing."""
    if name in MASKS:
        column = _parse_masks(name, Lists(text.lists(name, array, STRINGS)), styles, problems)
        given = column.lengths > 0
    else:
        column = text.column(name, array)
        given = to_flags(pc.is_valid(column))
    problems.add(
        given & (styles.lengths == 0),
        lambda i: f"{name}: the row has no style to use it with; give one, or leave {name} empty",
    )
    return column


def _parse_masks(name: str, masks: Lists, styles: Lists, problems: Problems) -> Lists:
    """Masks, checked; an empty name in style_masks means the whole image."""
    # Null and "" both name nothing: one spelling, so that both give the same id.
    masks = Lists(masks.wrap(pc.fill_null(masks.values, "")))
    empty = to_flags(pc.equal(masks.values, ""))
    if name == "style_masks":
        masks = masks.only(masks.rows_where(~empty))
    else:
        problems.add(
            masks.rows_where(empty),
            lambda i: f"{name}: the list holds an empty name; each must be a path or URI",
        )
    unequal = (masks.lengths > 0) & (styles.lengths > 0) & (masks.lengths != styles.lengths)
    advice = (
        "give one per style, an empty name for the whole image"
        if name == "style_masks"
        else "give one per style"
    )
    problems.add(
        unequal,
        lambda i: (
            f"{name}: {counted(masks.lengths[i], 'mask')} for "
            f"{counted(styles.lengths[i], 'style')}; {advice}"
        ),
    )
    return masks


def _resolve_image(
    base: str, name: str, given: Lists | pa.Array, problems: Problems, rules: ReferenceRules
) -> pa.Array:
    """Masks or fine styles made absolute.

    A row that has none is null, as all rows of a file without the column are.
    """
    if not isinstance(given, Lists):
        return resolve(base, given, name, None, problems, rules)
    named = pc.if_else(pc.equal(given.values, ""), pa.scalar(None, pa.string()), given.values)
    lists = given.wrap(pc.fill_null(resolve(base, named, name, given.parents, problems, rules), ""))
    return pc.if_else(pa.array(given.lengths > 0), lists, pa.scalar(None, STRINGS))


def _written_image(given: Lists | pa.Array) -> pa.Array:
    """Masks or fine styles as written; null for a row that has none."""
    if not isinstance(given, Lists):
        return given
    return pc.if_else(
        pa.array(given.lengths > 0), given.wrap(given.values), pa.scalar(None, STRINGS)
    )


def _parse_hint(name: str, array: pa.Array, batch: RawBatch, problems: Problems) -> pa.Array:
    """The content's width or height in pixels as int32; null if the row has none."""
    if batch.file.kind == "csv":
        return _parse_text_hint(name, array, problems)
    try:
        values = pc.fill_null(pc.cast(array, pa.float64()), float("nan")).to_numpy(
            zero_copy_only=False
        )
    except pa.ArrowException:
        raise ManifestError(
            f"{batch.file.name}: column {name} holds {array.type}; "
            f"it is the content's {name}: a whole number of pixels, or empty"
        ) from None
    null = np.isnan(values)
    bad = ~null & ~((values >= 1) & (values < 2**31) & (values == np.floor(values)))
    problems.add(
        bad,
        lambda i: (
            f"{name}: must be a whole number of pixels of at least 1; got {array[i].as_py()!r}"
        ),
    )
    return pa.array(np.where(null | bad, 0, values).astype(np.int32), mask=null | bad)


def _parse_text_hint(name: str, array: pa.Array, problems: Problems) -> pa.Array:
    """A column of widths or heights of a CSV file; 512.0, as pandas writes 512, is 512."""
    text = pc.utf8_trim_whitespace(array)
    given = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    digits = pc.replace_substring_regex(given, r"\.0*$", "")
    good = pc.match_substring_regex(digits, "^0*[1-9][0-9]{0,8}$")
    problems.add(
        to_flags(pc.fill_null(pc.invert(good), False)),
        lambda i: (
            f"{name}: must be a whole number of pixels of at least 1; got {array[i].as_py()!r}"
        ),
    )
    return pc.cast(
        pc.if_else(pc.fill_null(good, False), digits, pa.scalar(None, pa.string())), pa.int32()
    )
