"""The Arrow types that carried columns may have: merged over files, and checked for Parquet."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nstray.errors import ManifestError
from nstray.manifest.pair import ManifestInfo

# What does not load some types: datasets 5.2 and polars 2.1 (tests/output/test_round_trip.py).
DATASETS, POLARS = "Hugging Face datasets", "polars"


def without_views(array: pa.Array) -> pa.Array:
    """String and binary views as their plain types: Arrow can't take or sort views (pyarrow 26)."""
    plain = _plain(array.type)
    return array if plain == array.type else pc.cast(array, plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type with the plain types in place of string and binary views."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), kind.item_field.with_type(_plain(kind.item_type)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        value = kind.value_field.with_type(_plain(kind.value_type))
        return pa.list_(value, kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def loading_warning(name: str, kind: pa.DataType) -> str | None:
    """A warning if a popular reader of Parquet does not load a carried column, else None."""
    if not (readers := _not_loaded_by(kind)):
        return None
    return (
        f"column {name} ({kind}) is carried unchanged, and {' and '.join(readers)} can't load it: "
        "give it another type if you load the output with that; pyarrow and DuckDB load it"
    )


def _not_loaded_by(kind: pa.DataType) -> list[str]:
    view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    if isinstance(kind, pa.BaseExtensionType):
        return [] if kind.extension_name == "arrow.json" else [DATASETS]
    if pa.types.is_decimal256(kind):
        return [POLARS]
    if view:
        return [DATASETS, POLARS]
    if pa.types.is_map(kind) or pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return [DATASETS]
    found = [
        reader for i in range(kind.num_fields) for reader in _not_loaded_by(kind.field(i).type)
    ]
    return list(dict.fromkeys(found))


def cast(array: pa.Array, field: pa.Field, file: str) -> pa.Array:
    """A column of `file` as the type of `field`; raises `ManifestError` if a value does not fit."""
    try:
        return array if array.type == field.type else pc.cast(array, field.type)
    except pa.ArrowException as error:
        raise ManifestError(
            f"{file}: column {field.name}: {error}; make it {field.type} in all rows and files"
        ) from None


def holds_large_integers(array: pa.Array) -> bool:
    """Whether `array` holds integers beyond +-2**53, which a double can't all tell apart."""
    if not pa.types.is_integer(array.type) or array.type.bit_width < 64:
        return False
    found = pc.min_max(array).as_py()
    return found["max"] is not None and max(abs(found["min"]), abs(found["max"])) > 2**53


def merge_types(
    old: pa.DataType | None, new: pa.DataType, name: str, file: str, large: bool
) -> pa.DataType:
    """The type that holds the values of both types; raises `ManifestError` if there is none.

    Args:
        old: the type of the rows before; None before the first row.
        name: of the column, for the message.
        file: of the rows of type `new`, for the message.
        large: whether the column holds integers that a double does not hold.
    """
    if old is None or (old == new and not (large and pa.types.is_floating(old))):
        return new
    if (
        not large
        and {True} == {pa.types.is_integer(k) or k == pa.float64() for k in (old, new)}
        and pa.float64() in (old, new)
    ):
        return pa.float64()
    try:
        both = (
            pa.unify_schemas(
                [pa.schema([(name, old)]), pa.schema([(name, new)])], promote_options="permissive"
            )
            .field(0)
            .type
        )
    except pa.ArrowException:
        both = None
    if both is None or _too_narrow(old, both) or _too_narrow(new, both):
        raise ManifestError(
            f"{file}: column {name} holds {new}, but the rows before hold {old}; "
            "make it one type in all rows and files"
        )
    return both


def _too_narrow(kind: pa.DataType, both: pa.DataType) -> bool:
    """Whether `both`, to which Arrow promotes `kind`, lacks some of its integers.

    A double, for example, lacks integers above 2**53.
    """
    if pa.types.is_integer(kind):
        if pa.types.is_floating(both):
            return bool(kind.bit_width > {16: 11, 32: 24, 64: 53}[both.bit_width])
        return bool(pa.types.is_uint64(kind) and pa.types.is_int64(both))
    if pa.types.is_struct(kind) and pa.types.is_struct(both):
        return any(_too_narrow(field.type, both.field(field.name).type) for field in kind)
    # Lists and maps have one field.
    return kind.num_fields == both.num_fields == 1 and _too_narrow(
        kind.field(0).type, both.field(0).type
    )


def check_writable(uri: str, info: ManifestInfo) -> None:
    """Raise `ManifestError` for a carried type that Arrow can't take rows of or Parquet can't hold.

    Checked before the job begins: shards and parts would meet such a type only after work is done.
    """
    for name in info.carried:
        try:
            pa.nulls(1, info.schema.field(name).type).take(pa.array([0]))
            sink = io.BytesIO()
            pq.ParquetWriter(sink, pa.schema([info.schema.field(name)])).close()
            pq.read_schema(sink)
        except (pa.ArrowException, OSError) as error:
            # OSError: lists nested deeper than Parquet's reader takes.
            raise ManifestError(
                f"{uri}: column {name} can't be carried into Parquet: {error}"
            ) from None
