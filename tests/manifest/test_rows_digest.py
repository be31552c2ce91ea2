"""The digest of rows: it knows values and their order, and not the files and batches that hold them."""

from __future__ import annotations

import datetime
import decimal
import random
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nstray.manifest.rows_digest import RowsDigest

COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["a", None, "", "é", "a"]),
    "lists": pa.array([["x", "yy"], [], None, ["xyy"], ["x", "", "yy"]]),
    "numbers": pa.array([1.5, None, 0.0, -2.0, float("nan")]),
    "whole": pa.array([1, 2, None, 2**62, 5]),
    "bytes": pa.array([b"a", b"\xff", b"", None, b"a"]),
    "dates": pa.array([1, 2, None, 3, 2**60], pa.timestamp("s")),
    "decimals": pa.array([decimal.Decimal(text) for text in ("1.20", "1.21", "0", "-3", "1.20")]),
    "categories": pa.array(["q", "r", None, "q", "r"]).dictionary_encode(),
    "records": pa.array([{"x": 1}, None, {"x": None}, {"x": 2}, {"x": 1}]),
    "deep": pa.array([[[1, 2]], [], None, [[1], [2]], [list(range(100))]]),
    "weights": pa.array([[0.5, 0.25], [0.5, None], [], None, [0.5]]),
    "fixed": pa.array([[1, 2], [2, 1], None, [3, 4], [1, 2]], pa.list_(pa.int32(), 2)),
    "maps": pa.array([[("a", 1)], [("b", 1)], [], None, [("a", 2)]], pa.map_(pa.string(), pa.int64())),
    "large": pa.array(["a", "b", None, "c", "a"], pa.large_string()),
    "views": pa.array(["a", "b", None, "c" * 40, "a"], pa.string_view()),
    "byte views": pa.array([b"a", b"\xff", None, b"c" * 40, b"a"], pa.binary_view()),
    "digests": pa.array([b"ab", b"\xff\xfe", None, b"cd", b"ab"], pa.binary(2)),
    "flags": pa.array([True, False, None, True, True]),
    "unsigned": pa.array([2**64 - 1, 1, None, 3, 4], pa.uint64()),
    "halves": pa.array(np.array([1.5, 2.5, 0, 3.5, 4.5], np.float16), mask=np.array([False, False, True, False, False])),
    "days": pa.array([1, 2, None, 3, 4], pa.date32()),
    "milliseconds": pa.array([86400000, 172800000, None, 0, 4 * 86400000], pa.date64()),
    "seconds of a day": pa.array([1, 2, None, 3, 4], pa.time32("s")),
    "nanoseconds of a day": pa.array([1, 2, None, 3, 4], pa.time64("ns")),
    "zoned": pa.array([1, 2, None, 3, 4], pa.timestamp("ns", "Europe/Berlin")),
    "durations": pa.array([1, 2, None, 3, 4], pa.duration("ns")),
    "intervals": pa.array([(1, 2, 3), (1, 2, 4), None, (2, 2, 3), (1, 2, 3)], pa.month_day_nano_interval()),
    "wide decimals": pa.array([decimal.Decimal(text) for text in ("1.20", "1.21", "0", "-3", "1.20")], pa.decimal256(60, 2)),
    "uuids": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=i).bytes for i in range(5)], pa.binary(16))),
    "tensors": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), (2, 2)), pa.array([[i, 1, 2, 3] for i in range(5)], pa.list_(pa.float32(), 4))
    ),
    "large lists": pa.array([["x"], ["y"], None, [], ["x", None]], pa.large_list(pa.string())),
    "list views": pa.array([["x"], ["y"], None, [], ["x", None]], pa.list_view(pa.string())),
    "large list views": pa.array([["x"], ["y"], None, [], ["x", None]], pa.large_list_view(pa.string())),
    "runs": pc.run_end_encode(pa.array([1, 2, None, 2, 2])),
    "boxes": pa.array(
        [[{"x": 1.5, "name": "dog", "tags": [b"a"]}], [{"x": 1.5, "name": "cat", "tags": None}], None, [], [{"x": None, "name": "dog", "tags": []}]]
    ),
    "maps of lists": pa.array([[("a", ["x"])], [("a", ["y"])], None, [], [("a", None)]], pa.map_(pa.string(), pa.list_(pa.string()))),
    "nothing": pa.nulls(5),
}


def digest(columns: dict[str, pa.Array], cuts: list[int], mark: int = 0) -> RowsDigest:
    rows = len(next(iter(columns.values())))
    sums = RowsDigest(mark)
    for start, end in zip([0, *cuts], [*cuts, rows], strict=True):
        sums.add({name: array.slice(start, end - start) for name, array in columns.items()}, end - start)
    return sums


@pytest.mark.parametrize("seed", range(50))
def test_the_digest_knows_rows_and_not_batches(seed: int) -> None:
    choice = random.Random(seed)
    cuts, mark = sorted(choice.sample(range(1, 5), choice.randint(0, 4))), choice.randint(1, 5)
    names = choice.sample(list(COLUMNS), len(COLUMNS))
    got = digest({name: COLUMNS[name] for name in names if name != "nothing"}, cuts, mark)
    assert str(got) == str(digest(COLUMNS, []))
    assert got.marked == str(digest({name: array.slice(0, mark) for name, array in COLUMNS.items()}, []))


def taken(array: pa.Array, rows: list[int | None]) -> pa.Array:
    """These rows of an array; Arrow takes no rows of views (pyarrow 26)."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(array.type, array.type)
    return array.cast(plain).take(pa.array(rows)).cast(array.type) if plain != array.type else array.take(pa.array(rows))


@pytest.mark.parametrize("name", [name for name in COLUMNS if name not in ("nothing", "runs")])
def test_the_digest_sees_every_value(name: str) -> None:
    whole = str(digest(COLUMNS, []))
    swapped = taken(COLUMNS[name], [1, 0, 2, 3, 4])
    assert str(digest({**COLUMNS, name: swapped}, [])) != whole
    emptied = taken(COLUMNS[name], [None, 1, 2, 3, 4])
    assert str(digest({**COLUMNS, name: emptied}, [])) != whole
    assert str(digest({("other" if n == name else n): array for n, array in COLUMNS.items()}, [])) != whole


def test_values_that_look_alike_when_joined_are_told_apart() -> None:
    lists = [[["x", "yy"]], [["xy", "y"]], [["xyy"]], [["x", "yy", ""]], [["x", "yy", None]], [[]], [None]]
    assert len({str(digest({"style": pa.array(v, pa.list_(pa.string()))}, [])) for v in lists}) == len(lists)
    pairs = [("ab", "c"), ("a", "bc"), ("1:ab", "c"), ("a\n1:b", "c")]
    assert len({str(digest({"a": pa.array([a]), "b": pa.array([b])}, [])) for a, b in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([{"a": "x", "b": None}]), pa.array([{"a": None, "b": "x"}], pa.struct([("a", pa.string()), ("b", pa.string())]))),
        (pa.array([{"a": "null"}]), pa.array([{"a": None}], pa.struct([("a", pa.string())]))),
        (pa.array([{"a": None}], pa.struct([("a", pa.string())])), pa.array([None], pa.struct([("a", pa.string())]))),
        (pa.array([[["a"], ["b"]]]), pa.array([[["a", "b"]]])),
        (pa.array([[[], ["a"]]]), pa.array([[["a"], []]])),
        (pa.array([[("ab", "c")]], pa.map_(pa.string(), pa.string())), pa.array([[("a", "bc")]], pa.map_(pa.string(), pa.string()))),
        (pa.array([b"\xff\xfe"]), pa.array([b"\xff\xff"])),
        (pa.array([2**53 + 1]), pa.array([2**53])),
        (pa.array([0.1 + 0.2]), pa.array([0.3])),
        (pa.array([datetime.time(1, 2, 3)]), pa.array([datetime.time(1, 2, 4)])),
    ],
)
def test_values_that_are_almost_the_same_are_told_apart(one: pa.Array, other: pa.Array) -> None:
    assert str(digest({"a": one}, [])) != str(digest({"a": other}, []))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["a", None]), pa.array(["a", None]).dictionary_encode()),
        (pa.array(["a", "b"]), pa.array(["a", "b"], pa.large_string())),
        (pa.array(["a", "b"]), pa.array(["a", "b"], pa.string_view())),
        (pa.array([1, 2]), pa.array([1, 2], pa.uint8())),
        (pa.array([[1], [2, 3]]), pa.array([[1], [2, 3]], pa.large_list(pa.int32()))),
        (pa.array([0.0]), pa.array([-0.0])),
    ],
)
def test_a_layout_is_no_value(one: pa.Array, other: pa.Array) -> None:
    assert str(digest({"a": one}, [])) == str(digest({"a": other}, []))


def test_the_digest_of_the_same_values_stays_the_same_in_every_version() -> None:
    """A record holds it: a digest of another version of nstray or Arrow would make the same rows others."""
    assert str(digest({name: COLUMNS[name] for name in sorted(set(COLUMNS) - {"intervals"})}, [])) == STABLE


def test_rows_without_columns_are_counted() -> None:
    sums = [RowsDigest(2) for _ in range(3)]
    sums[0].add({}, 3)
    sums[1].add({}, 1)
    sums[1].add({}, 2)
    sums[2].add({"a": pa.nulls(3)}, 3)
    assert len({str(s) for s in sums}) == len({s.marked for s in sums}) == 1
    assert str(sums[0]) != sums[0].marked


def test_a_mark_beyond_the_end_has_no_digest() -> None:
    assert digest(COLUMNS, [], mark=6).marked is None
    assert digest(COLUMNS, []).marked is None


STABLE = "sha256:d3384674b3b996815643330d0cf1163d6c617167c8b5ac4083014f0bcb482274"
