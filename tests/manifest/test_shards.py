"""Shards: each row in exactly one, cut the same way every time."""

from __future__ import annotations

import hashlib
import pickle
import random

import pyarrow as pa
import pytest

from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output import layout
from nstray.output.layout import WINDOW_ROWS, parse_part, part_count, part_name, parts_per_window


def table(rows: int, seed: int = 0, *, settings: bool = True) -> pa.Table:
    draw = random.Random(seed)
    columns = {
        "row": pa.array(range(rows), pa.int64()),
        "pair_id": pa.array([f"p{i}" for i in range(rows)]),
        "content": pa.array([f"c{draw.randrange(50)}.jpg" for _ in range(rows)]),
        "style": pa.array([[f"s{draw.randrange(9)}.jpg" for _ in range(draw.randrange(4))] for _ in range(rows)], pa.list_(pa.string())),
        "style_weights": pa.array([[]] * rows, pa.list_(pa.float64())),
    }
    if settings:
        columns["size"] = pa.array([draw.choice([None, "256", "512"]) for _ in range(rows)], pa.string())
        columns["width"] = pa.array([draw.choice([None, 640, 480]) for _ in range(rows)], pa.int32())
        columns["tag"] = pa.array([draw.choice(["t", None]) for _ in range(rows)]).dictionary_encode()
        columns["nested"] = pa.array([{"k": [i]} for i in range(rows)])
    return pa.table(columns)


def cut(whole: pa.Table, batch: int, shard_size: int) -> list[Shard]:
    tables = (whole.slice(start, batch) for start in range(0, whole.num_rows, batch))
    return [s for window, rows in cut_windows(tables) for s in cut_shards(window, rows, shard_size)]


@pytest.mark.parametrize("seed", range(8))
def test_every_row_in_exactly_one_shard_however_it_arrives(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(layout, "WINDOW_ROWS", 128)
    draw = random.Random(seed)
    rows, shard_size = draw.randint(1, 700), draw.randint(1, 140)
    whole = table(rows, seed, settings=seed % 2 == 0)
    first = cut(whole, rows, shard_size)
    assert sorted(r for s in first for r in s.table["row"].to_pylist()) == list(range(rows))
    assert len(first) == sum(parts_per_window(rows, shard_size))
    assert len({s.name for s in first}) == len(first)
    assert all(1 <= s.table.num_rows <= shard_size for s in first)
    assert all(r // 128 == s.window for s in first for r in s.table["row"].to_pylist())
    for batch in (draw.randint(1, 50), 128, 1000):
        again = cut(whole, batch, shard_size)
        assert [(s.name, s.ids_digest) for s in again] == [(s.name, s.ids_digest) for s in first]
        assert all(a.table.to_pylist() == b.table.to_pylist() for a, b in zip(again, first, strict=True))


def test_a_row_keeps_all_its_columns() -> None:
    whole = table(300, 1)
    rows = {r["row"]: r for r in whole.to_pylist()}
    shards = cut(whole, 300, 16)
    assert all(rows[r["row"]] == r for s in shards for r in s.table.to_pylist())
    assert shards[0].table.schema.equals(whole.schema)


def test_shape_then_style_then_content_stand_together() -> None:
    whole = table(500, 2)
    rows = [r for s in cut(whole, 500, 16) for r in s.table.to_pylist()]
    last = chr(0x10FFFF)
    keys = [(r["size"] or last, r["width"] or 10**9, "\0".join(r["style"]), r["content"], r["row"]) for r in rows]
    assert keys == sorted(keys)
    assert len({k[:3] for k in keys}) > 20


def test_style_lists_are_not_confused_by_joining() -> None:
    whole = table(4, settings=False).set_column(3, "style", pa.array([["b"], ["a", "c"], ["a"], ["a", "c"]]))
    (shard,) = cut(whole, 4, 10)
    assert shard.table["style"].to_pylist() == [["a"], ["a", "c"], ["a", "c"], ["b"]]
    assert shard.style_key == ("a",)


def test_ids_digest_is_of_the_ids_in_order() -> None:
    (shard,) = cut(table(3, settings=False).set_column(3, "style", pa.array([["c"], ["a"], ["b"]])), 3, 3)
    assert shard.table["pair_id"].to_pylist() == ["p1", "p2", "p0"]
    assert shard.ids_digest == hashlib.sha256(b"p1\np2\np0").hexdigest()


def test_windows_and_counts_of_the_real_size() -> None:
    assert WINDOW_ROWS == 65_536
    assert [part_count(n, 16) for n in (0, 1, 16, 17, 65_536, 65_537)] == [0, 1, 1, 2, 4096, 4097]
    assert parts_per_window(65_536 * 2 + 1, 1000) == [66, 66, 1]
    assert (parts_per_window(0, 16), parts_per_window(65_536, 16)) == ([], [4096])
    whole = pa.table({"row": pa.array(range(150_000))})
    got = list(cut_windows(whole.slice(i, 40_000) for i in range(0, 150_000, 40_000)))
    assert [(n, t.num_rows, t["row"][0].as_py()) for n, t in got] == [(0, 65_536, 0), (1, 65_536, 65_536), (2, 18_928, 131_072)]
    assert list(cut_windows([])) == []
    assert list(cut_windows([whole.slice(0, 0)])) == []


def test_a_window_ends_where_the_manifest_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was cut before rows were added is cut the same way after it, however often they are."""
    monkeypatch.setattr(layout, "WINDOW_ROWS", 10)
    whole = pa.table({"row": pa.array(range(60))})
    cuts: tuple[int, ...] = ()
    before: list[list[int]] = []
    for rows in (4, 10, 13, 43, 44, 60):
        got = list(cut_windows([whole.slice(i, min(7, rows - i)) for i in range(0, rows, 7)], cuts))
        assert [number for number, _ in got] == list(range(len(got)))
        now = [table["row"].to_pylist() for _, table in got]
        assert now[: len(before)] == before
        assert [r for window in now for r in window] == list(range(rows))
        assert max(map(len, now)) <= 10
        assert parts_per_window(rows, 3, cuts) == [-(-len(window) // 3) for window in now]
        cuts, before = (*cuts, rows), now


@pytest.mark.parametrize(
    ("window", "number", "name"),
    [(3, 17, "part-00003-0017.parquet"), (0, 0, "part-00000-0000.parquet"), (123456, 65535, "part-123456-65535.parquet")],
)
def test_part_names_and_back(window: int, number: int, name: str) -> None:
    assert part_name(window, number) == name
    assert parse_part(name) == (window, number)


@pytest.mark.parametrize(
    "name", ["part-3-17.parquet", "part-00003-0017.parquet.tmp", "x-part-00003-0017.parquet", "part-000003-0017.parquet", "README.md", ""]
)
def test_other_names_are_no_parts(name: str) -> None:
    assert parse_part(name) is None


def test_a_shard_pickles_as_its_own_rows_alone() -> None:
    whole = table(20_000)
    shard = cut(whole, 20_000, 16)[7]
    data = pickle.dumps(shard)
    back = pickle.loads(data)
    assert (back.name, back.ids_digest, back.table.to_pylist()) == (shard.name, shard.ids_digest, shard.table.to_pylist())
    assert back.table.schema.equals(shard.table.schema)
    assert len(data) < whole.nbytes / 100
