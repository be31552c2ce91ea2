"""Two values of every Arrow type that Parquet can hold."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

_BYTES = [b"\xff\xd8" + bytes(14), bytes(16)]
_UUID = pa.ExtensionArray.from_storage(pa.uuid(), pa.array(_BYTES, pa.binary(16)))
_OFFSETS = pa.array([0, 1, 2], pa.int32())


def _extension(kind: Any, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


VALUES: dict[str, pa.Array] = {
    **{f"int{n}": pa.array([-(2 ** (n - 1)), 2 ** (n - 1) - 1], getattr(pa, f"int{n}")()) for n in (8, 16, 32, 64)},
    **{f"uint{n}": pa.array([0, 2**n - 1], getattr(pa, f"uint{n}")()) for n in (8, 16, 32, 64)},
    "float16": pa.array(np.array([1.5, float("nan")], np.float16)),
    "float32": pa.array([1.1, float("inf")], pa.float32()),
    "float64": pa.array([0.1, float("nan")], pa.float64()),
    "bool": pa.array([True, None]),
    "null": pa.nulls(2),
    "string": pa.array(["", "é\n\t"]),
    "large_string": pa.array(["a", None], pa.large_string()),
    "binary": pa.array([b"\xff", b""]),
    "large_binary": pa.array([b"\xff", None], pa.large_binary()),
    "fixed_binary": pa.array(_BYTES, pa.binary(16)),
    "timestamp_us": pa.array([1_700_000_000_123_456, None], pa.timestamp("us")),
    "timestamp_ns": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
    "timestamp_us_zone": pa.array([1_700_000_000_123_456, 1], pa.timestamp("us", "Europe/Paris")),
    "timestamp_ns_zone": pa.array([1_700_000_000_123_456_789, 1], pa.timestamp("ns", "Europe/Paris")),
    "timestamp_ms": pa.array([1_700_000_000_123, None], pa.timestamp("ms")),
    "timestamp_s": pa.array([1_700_000_000, None], pa.timestamp("s")),
    **{f"duration_{unit}": pa.array([1, -1], pa.duration(unit)) for unit in ("s", "ms", "us", "ns")},
    "time_s": pa.array([1, 2], pa.time32("s")),
    "time_ms": pa.array([1, 2], pa.time32("ms")),
    "time_us": pa.array([1, 2], pa.time64("us")),
    "time_ns": pa.array([1, 2_000_001], pa.time64("ns")),
    "date32": pa.array([datetime.date(2020, 1, 1), None]),
    "date64": pa.array([datetime.date(2020, 1, 1), None], pa.date64()),
    "decimal32": pa.array([Decimal("1.5"), None], pa.decimal32(5, 1)),
    "decimal64": pa.array([Decimal("1.5"), None], pa.decimal64(15, 1)),
    "decimal128": pa.array([Decimal("12345678901234567890.5"), None], pa.decimal128(21, 1)),
    "decimal256": pa.array([Decimal("1.5"), None], pa.decimal256(60, 1)),
    "list": pa.array([[1], None]),
    "list_of_nulls": pa.array([[None], []], pa.list_(pa.string())),
    "large_list": pa.array([[1], []], pa.large_list(pa.int64())),
    "fixed_list": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)),
    "list_view": pa.array([[1], [2, 3]], pa.list_view(pa.int64())),
    "struct": pa.array([{"a": 1, "b": "x"}, None]),
    "struct_of_lists": pa.array([{"a": [{"b": 1}]}, {"a": None}]),
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(["x", None]).dictionary_encode(),
    "dictionary_ordered": pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", "b"]), ordered=True),
    "dictionary_of_bytes": pa.array(_BYTES, pa.binary()).dictionary_encode(),
    "list_of_dictionaries": pa.ListArray.from_arrays(_OFFSETS, pa.array(["x", "y"]).dictionary_encode()),
    "uuid": _UUID,
    "list_of_uuids": pa.ListArray.from_arrays(_OFFSETS, _UUID),
    "struct_of_uuid": pa.StructArray.from_arrays([_UUID], ["id"]),
    "json": _extension(pa.json_(), ['{"a": 1}', "null"]),
    "bool8": _extension(pa.bool8(), [0, 1]),
    "tensor": _extension(pa.fixed_shape_tensor(pa.float32(), [2, 2]), [[1, 2, 3, 4], [5, 6, 7, 8]]),
    "opaque": _extension(pa.opaque(pa.int64(), "point", "somebody"), [1, 2]),
    # Arrow itself can't take or sort views: they become large strings and large binaries.
    "string_view": pa.array(["a", "b" * 30], pa.string_view()),
    "binary_view": pa.array([b"\xff", b"x" * 40], pa.binary_view()),
    "fixed_list_of_views": pa.array([["a"], ["b" * 30]], pa.list_(pa.string_view(), 1)),
    "list_of_views": pa.array([["a"], ["b" * 30]], pa.list_(pa.string_view())),
}
# What these lack is said by the check. All others are loaded by datasets, DuckDB and polars.
NOT_IN_DATASETS = {
    *("decimal32", "decimal64", "list_view", "map", "bool8", "tensor", "opaque"),
    *("uuid", "list_of_uuids", "struct_of_uuid"),
}
NOT_IN_POLARS = {"decimal256", "list_view"}


def table(name: str) -> pa.Table:
    """A manifest of two rows that carries the values of one type as column x."""
    return pa.table({"content": ["c0.png", "c1.png"], "style": ["s0.png"] * 2, "pair_id": ["a", "b"], "x": VALUES[name]})
