"""Raw batches of a manifest -> canonical columns, and everything that can be wrong with a row.

Columns are worked on whole, by Arrow and numpy; Python touches only distinct values (overrides, JSON cells) and ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from nstray.config import ROW_FIELDS, JobConfig, check_size, row_adapter
from nstray.engine.settings import INITS, check_layer_weights, check_terms
from nstray.errors import ManifestError
from nstray.manifest.arrow_columns import (
    DOUBLES,
    STRINGS,
    Lists,
    Mask,
    Problems,
    TextColumns,
    indices,
    is_text,
    mask,
    resolve,
    sized,
    sized_lists,
)
from nstray.manifest.column_names import HINTS, IMAGE_COLUMNS, MASKS
from nstray.manifest.files import RawBatch
from nstray.text import redact

# `size` is text, since 640x480 is, and lists are, comma-separated; `Pair.overrides` has them parsed.
OVERRIDE_TYPES = {
    "seed": pa.int64(),
    "init": pa.string(),
    "size": pa.string(),
    "size_rule": pa.string(),
    "content_weight": pa.float64(),
    "style_weight": pa.float64(),
    "tv_weight": pa.float64(),
    "evaluations": pa.int64(),
    "content_layers": pa.string(),
    "style_layers": pa.string(),
    "style_layer_weights": pa.string(),
    "coarse": pa.string(),
    "color": pa.string(),
    "color_match": pa.string(),
    "style_scale": pa.float64(),
    "style_statistic": pa.string(),
    "fine_layers": pa.string(),
    "value_range": pa.string(),
    "range_weight": pa.float64(),
}
IMAGE_TYPES = {"content_masks": STRINGS, "style_masks": STRINGS, "fine_style": pa.string()}
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


@dataclass(frozen=True)
class Canonical:
    """A batch's canonical columns without `row`; `carried` is as typed in the file; `default_ids` marks rows that gave no pair_id."""

    columns: dict[str, pa.Array]
    carried: dict[str, pa.Array]
    default_ids: Mask


def canonical(
    batch: RawBatch, base: str, config: JobConfig | None, problems: Problems, *, local: bool = True
) -> Canonical:
    """Parse, check and resolve one batch.

    Args:
        base: folder that relative paths start from.
        config: the job's settings, for the rules that need them; None where `Manifest.check` has applied them before.
        problems: takes what is wrong; a wrong value is null afterwards.
        local: whether rows may name local files.
    Raises: `ManifestError` for a column of a type that can't be read at all.
    """
    raw = dict(zip(batch.names, batch.columns, strict=True))
    n = batch.rows
    text = TextColumns(batch, problems)
    content = text.column("content", raw.get("content"))
    problems.add(mask(pc.is_null(content)), lambda i: "content: empty; give a path or URI")
    styles = Lists(text.lists("style", raw.get("style"), STRINGS))
    problems.add(
        styles.rows_where(mask(pc.fill_null(pc.equal(styles.values, ""), True))),
        lambda i: "style: the list holds an empty name; each must be a path or URI",
    )
    weights = Lists(text.lists("style_weights", raw.get("style_weights"), DOUBLES))
    images = {
        name: _image(name, raw[name], styles, text, problems)
        for name in IMAGE_COLUMNS
        if name in raw
    }
    overrides = {
        name: _override(name, raw[name], batch, problems) for name in ROW_FIELDS if name in raw
    }
    ids, default = _ids(
        text,
        raw.get("pair_id"),
        problems,
        lambda: default_ids(content, styles, weights, images, overrides),
    )
    if config is not None:
        _rules(n, config, styles, overrides, problems)
    if "init" in overrides:
        init = overrides["init"]
        named = pc.is_in(init, value_set=pa.array(INITS))
        overrides["init"] = pc.if_else(
            named, init, resolve(base, init, "init", None, problems, local)
        )
    columns = {
        "pair_id": ids,
        "content": resolve(base, content, "content", None, problems, local),
        "style": styles.wrap(
            resolve(base, styles.values, "style", styles.parents, problems, local)
        ),
        "style_weights": styles.wrap(_normalised(styles, weights, problems)),
        **{name: _resolved(base, name, given, problems, local) for name, given in images.items()},
        **overrides,
        **{name: _hint(name, raw[name], batch, problems) for name in HINTS if name in raw},
    }
    taken = {*columns, "pair_id", "style_weights"}
    carried = {name: _without_views(array) for name, array in raw.items() if name not in taken}
    problems.settle(batch)
    return Canonical(columns, carried, default)


def _without_views(array: pa.Array) -> pa.Array:
    """Arrow takes and sorts no string or binary views (pyarrow 26): as their plain types."""
    if pa.types.is_string_view(array.type):
        return pc.cast(array, pa.large_string())
    return pc.cast(array, pa.large_binary()) if pa.types.is_binary_view(array.type) else array


def _normalised(styles: Lists, weights: Lists, problems: Problems) -> pa.Array:
    """Flat style weights of sum 1 per row; equal where the row gives none."""
    values = pc.fill_null(weights.values, float("nan")).to_numpy(zero_copy_only=False)
    sums = np.bincount(weights.parents, weights=values, minlength=len(weights.lengths))
    given = weights.lengths > 0
    wrong = weights.rows_where(~(np.isfinite(values) & (values >= 0)))
    length = given & (weights.lengths != styles.lengths)
    problems.add(
        length,
        lambda i: (
            f"style_weights: {weights.lengths[i]} weights for {styles.lengths[i]} styles; give one per style"
        ),
    )
    problems.add(wrong, lambda i: "style_weights: each must be a finite number of at least 0")
    flat = given & ~wrong & ~((sums > 0) & np.isfinite(sums))
    problems.add(flat, lambda i: "style_weights: must have a finite sum above 0")
    out = np.repeat(1.0 / np.maximum(styles.lengths, 1), styles.lengths)
    good = given & ~(wrong | length | flat)
    out[np.repeat(good, styles.lengths)] = (
        values / np.repeat(np.where(good, sums, 1.0), weights.lengths)
    )[np.repeat(good, weights.lengths)]
    return pa.array(out)


def _image(
    name: str, array: pa.Array, styles: Lists, text: TextColumns, problems: Problems
) -> Lists | pa.Array:
    """Masks or fine styles as written, none where nothing is named: an empty name among masks of styles stands for the whole image."""
    if name in MASKS:
        column = _masks(name, Lists(text.lists(name, array, STRINGS)), styles, problems)
        given = column.lengths > 0
    else:
        column = text.column(name, array)
        given = mask(pc.is_valid(column))
    problems.add(
        given & (styles.lengths == 0),
        lambda i: f"{name}: the row has no style to use it with; give one, or leave {name} empty",
    )
    return column


def _masks(name: str, masks: Lists, styles: Lists, problems: Problems) -> Lists:
    masks = Lists(
        masks.wrap(pc.fill_null(masks.values, ""))
    )  # so that an id is the same for both ways to name nothing
    empty = mask(pc.equal(masks.values, ""))
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
        lambda i: f"{name}: {masks.lengths[i]} masks for {styles.lengths[i]} styles; {advice}",
    )
    return masks


def _resolved(
    base: str, name: str, given: Lists | pa.Array, problems: Problems, local: bool
) -> pa.Array:
    """Null where the row has none: the same as for rows of a file without the column."""
    if not isinstance(given, Lists):
        return resolve(base, given, name, None, problems, local)
    named = pc.if_else(pc.equal(given.values, ""), pa.scalar(None, pa.string()), given.values)
    lists = given.wrap(pc.fill_null(resolve(base, named, name, given.parents, problems, local), ""))
    return pc.if_else(pa.array(given.lengths > 0), lists, pa.scalar(None, STRINGS))


def _ids(
    text: TextColumns, array: pa.Array | None, problems: Problems, hashed: Callable[[], pa.Array]
) -> tuple[pa.Array, Mask]:
    ids = text.column("pair_id", array, integers=True)
    default = mask(pc.is_null(ids))
    bad = ~mask(pc.fill_null(pc.match_substring_regex(ids, ID_PATTERN), True))
    problems.add(
        bad,
        lambda i: (
            f"pair_id: {redact(ids[i].as_py())[:140]!r} must be 1 to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit; "
            "or leave the column out"
        ),
    )
    return (pc.coalesce(ids, hashed()) if default.any() else ids), default


def default_ids(
    content: pa.Array,
    styles: Lists,
    weights: Lists,
    images: dict[str, Lists | pa.Array],
    overrides: dict[str, pa.Array],
) -> pa.Array:
    """32 hex digits of BLAKE2b over the row's content, styles, weights, masks, fine style and overrides as written.

    Unresolved, so a folder that moves keeps its ids; each value prefixed with its length, so that no two rows run together.
    """

    parts = [
        "c",
        pc.fill_null(sized(content), ""),
        "s",
        sized_lists(styles),
        "w",
        sized_lists(weights),
    ]
    for name, given in images.items():
        text = sized_lists(given) if isinstance(given, Lists) else pc.fill_null(sized(given), "")
        parts.append(
            pc.if_else(pc.equal(text, ""), "", pc.binary_join_element_wise(name, "=", text, ""))
        )
    for name in ROW_FIELDS:
        if name in overrides:
            parts.append(
                pc.fill_null(pc.binary_join_element_wise(name, "=", sized(overrides[name]), ""), "")
            )
    keys = pc.cast(pc.binary_join_element_wise(*parts, ""), pa.binary()).to_pylist()
    return pa.array([hashlib.blake2b(k, digest_size=16).hexdigest() for k in keys], pa.string())


@cache
def adapter(name: str) -> TypeAdapter[list[Any]]:
    """The validator of a column of overrides."""
    return row_adapter(name)


def _override(name: str, array: pa.Array, batch: RawBatch, problems: Problems) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = pc.cast(array, array.type.value_type)
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), OVERRIDE_TYPES[name])
    if not (
        is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        raise ManifestError(
            f"{batch.file.name}: column {name} holds {kind}; must be one value of the setting {name} per row"
        )
    if is_text(kind):
        array = pc.cast(array, pa.string())
        array = pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
    elif name == "size":  # 512.0 is what a column of 512 and nothing becomes in pandas
        with_whole = pc.cast(array, pa.float64())
        if (
            pc.all(pc.fill_null(pc.equal(pc.floor(with_whole), with_whole), True)).as_py()
            and not pc.any(pc.is_inf(with_whole)).as_py()
        ):
            array = pc.cast(with_whole, pa.int64(), safe=False)
    encoded = array.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    wrong: dict[int, str] = {}
    try:
        parsed = adapter(name).validate_python(values)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_context=False):
            k = int(item["loc"][0])
            message = item["msg"].removeprefix("Value error, ")
            wrong.setdefault(k, message if "got " in message else f"{message}; got {values[k]!r}")
        fine = iter(
            adapter(name).validate_python([v for k, v in enumerate(values) if k not in wrong])
        )
        parsed = [None if k in wrong else next(fine) for k in range(len(values))]
    codes = indices(encoded)
    if wrong:
        rename = (
            f"; a column {name} sets the job's setting of that name: rename it to carry it through"
            if is_text(kind)
            else ""
        )
        problems.add(
            np.isin(codes, list(wrong)), lambda i: f"{name}: {wrong[int(codes[i])]}{rename}"
        )
    typed = pa.array(
        [
            _as_text(v) if OVERRIDE_TYPES[name] == pa.string() and v is not None else v
            for v in parsed
        ],
        OVERRIDE_TYPES[name],
    )
    return typed.take(encoded.indices)


def _as_text(value: Any) -> str:
    """A setting as a manifest spells it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _rules(
    n: int, config: JobConfig, styles: Lists, overrides: dict[str, pa.Array], problems: Problems
) -> None:
    """The rules over more than one setting, and which rows need a style, with the job's settings where the row has none."""

    def merged(name: str) -> Any:
        own = getattr(config, name)
        if OVERRIDE_TYPES[name] == pa.string():
            own = _as_text(own)
        return (
            pc.fill_null(overrides[name], own)
            if name in overrides
            else pa.repeat(pa.scalar(own), n)
        )

    def layers(name: str, i: int) -> list[str]:
        return [v for v in merged(name)[i].as_py().split(",") if v]

    style_on = mask(pc.greater(merged("style_weight"), 0)) & mask(
        pc.not_equal(merged("style_layers"), "")
    )
    content_on = mask(pc.greater(merged("content_weight"), 0)) & mask(
        pc.not_equal(merged("content_layers"), "")
    )

    def terms(i: int) -> str:
        alpha, beta = merged("content_weight")[i].as_py(), merged("style_weight")[i].as_py()
        return _complaint(
            lambda: check_terms(alpha, beta, layers("content_layers", i), layers("style_layers", i))
        )

    problems.add(~(style_on | content_on), terms)
    if "style_layers" in overrides or "style_layer_weights" in overrides:
        texts = [merged(name) for name in ("style_layers", "style_layer_weights")]
        numbers = [
            pc.if_else(pc.equal(t, ""), 0, pc.add(pc.count_substring(t, ","), 1)) for t in texts
        ]
        unequal = mask(
            pc.and_(pc.not_equal(*numbers), pc.not_equal(merged("style_layer_weights"), ""))
        )
        problems.add(
            unequal,
            lambda i: _complaint(
                lambda: check_layer_weights(
                    layers("style_layers", i), layers("style_layer_weights", i)
                )
            ),
        )
    none = styles.lengths == 0
    problems.add(
        none & style_on,
        lambda i: "style: empty; give a path or URI, or style_weight 0 for no style term",
    )
    starts = mask(pc.is_in(merged("init"), value_set=pa.array(["style", "content-matched"])))
    problems.add(
        none & starts & ~style_on,
        lambda i: (
            f"style: empty, and init is {merged('init')[i]}; give a path or URI, or another init"
        ),
    )
    if "size" in overrides or "size_rule" in overrides:
        sizes, rules = pc.cast(merged("size"), pa.string()), merged("size_rule")
        bad = mask(pc.and_(pc.match_substring(sizes, "x"), pc.not_equal(rules, "exact")))
        problems.add(
            bad, lambda i: _complaint(lambda: check_size(sizes[i].as_py(), rules[i].as_py()))
        )


def _complaint(rule: Callable[[], None]) -> str:
    try:
        rule()
    except ValueError as error:
        return str(error)
    raise AssertionError("the column form of a rule and the rule itself disagree")


def _hint(name: str, array: pa.Array, batch: RawBatch, problems: Problems) -> pa.Array:
    """Pixels as int32, nullable."""
    try:
        values = pc.fill_null(pc.cast(array, pa.float64()), float("nan")).to_numpy(
            zero_copy_only=False
        )
    except pa.ArrowException:
        raise ManifestError(
            f"{batch.file.name}: column {name} holds {array.type}; it is the content's {name}: a whole number of pixels, or empty"
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
