"""Settings that a row sets for itself: their columns parsed, and the rules over several of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from nstray.config import ORIGINAL, JobConfig, check_size, row_adapter
from nstray.engine.settings import check_layer_weights, check_terms
from nstray.errors import ManifestError
from nstray.manifest.arrow_columns import Lists, indices, is_text, to_flags
from nstray.manifest.problems import Problems
from nstray.manifest.raw_batches import RawBatch

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# `size` is text, because 640x480 is a size too. Lists are text, separated by commas.
# `Pair.overrides` has both parsed.
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


@cache
def adapter(name: str) -> TypeAdapter[list[Any]]:
    """The validator of a whole column of overrides of setting `name`."""
    return row_adapter(name)


def parse_override(name: str, array: pa.Array, batch: RawBatch, problems: Problems) -> pa.Array:
    """The column of setting `name`, checked and in its type of `OVERRIDE_TYPES`.

    A wrong value is null and noted in `problems`.
    Raises: `ManifestError` for a column of a type that no setting has.
    """
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
            f"{batch.file.name}: column {name} holds {kind}; "
            f"must be one value of the setting {name} per row"
        )
    if is_text(kind):
        array = pc.cast(array, pa.string())
        array = pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
    elif name == "size":  # pandas makes 512.0 of 512 in a column that has empty cells
        as_float = pc.cast(array, pa.float64())
        if (
            pc.all(pc.fill_null(pc.equal(pc.floor(as_float), as_float), True)).as_py()
            and not pc.any(pc.is_inf(as_float)).as_py()
        ):
            array = pc.cast(as_float, pa.int64(), safe=False)
    encoded = array.dictionary_encode()
    parsed, wrong = _validate(name, encoded.dictionary.to_pylist())
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


def _validate(name: str, values: list[Any]) -> tuple[list[Any], dict[int, str]]:
    """`values` parsed, None for a wrong one, and what is wrong by place."""
    wrong: dict[int, str] = {}
    try:
        return adapter(name).validate_python(values), wrong
    except ValidationError as error:
        for item in error.errors(include_url=False, include_context=False):
            k = int(item["loc"][0])
            message = item["msg"].removeprefix("Value error, ")
            message = message if "got " in message else f"{message}; got {values[k]!r}"
            if isinstance(values[k], str) and _DECIMAL_COMMA.fullmatch(values[k]):
                message += " (a decimal comma: write a point)"
            wrong.setdefault(k, message)
    good = [v for k, v in enumerate(values) if k not in wrong]
    parsed = iter(adapter(name).validate_python(good))
    return [None if k in wrong else next(parsed) for k in range(len(values))], wrong


def _as_text(value: Any) -> str:
    """A setting as a manifest spells it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_rules(
    n: int, config: JobConfig, styles: Lists, overrides: dict[str, pa.Array], problems: Problems
) -> None:
    """Check the rules over more than one setting, and that rows which need a style have one.

    A row that does not set a setting has the job's.

    Args:
        n: number of rows.
    """

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

    style_on = to_flags(pc.greater(merged("style_weight"), 0)) & to_flags(
        pc.not_equal(merged("style_layers"), "")
    )
    content_on = to_flags(pc.greater(merged("content_weight"), 0)) & to_flags(
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
        unequal = to_flags(
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
    no_style = styles.lengths == 0
    problems.add(
        no_style & style_on,
        lambda i: "style: empty; give a path or URI, or style_weight 0 for no style term",
    )
    starts = to_flags(pc.is_in(merged("init"), value_set=pa.array(["style", "content-matched"])))
    problems.add(
        no_style & starts & ~style_on,
        lambda i: (
            f"style: empty, and init is {merged('init')[i]}; give a path or URI, or another init"
        ),
    )
    if "size" in overrides or "size_rule" in overrides:
        sizes, rules = pc.cast(merged("size"), pa.string()), merged("size_rule")
        bad = to_flags(
            pc.or_(
                pc.and_(pc.match_substring(sizes, "x"), pc.not_equal(rules, "exact")),
                pc.and_(pc.equal(sizes, ORIGINAL), pc.not_equal(rules, "longest")),
            )
        )
        problems.add(
            bad, lambda i: _complaint(lambda: check_size(sizes[i].as_py(), rules[i].as_py()))
        )


def _complaint(rule: Callable[[], None]) -> str:
    """The message of the ValueError that `rule` raises."""
    try:
        rule()
    except ValueError as error:
        return str(error)
    raise AssertionError("the column form of a rule and the rule itself disagree")
