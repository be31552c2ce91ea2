"""Masks and fine styles of a manifest: what they may be, where they point, and what they change."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import manifests
from manifests import CONFIG, load, problem
from nstray import storage
from nstray.config import JobConfig
from nstray.manifest import files as manifest_files
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo, Pair, pairs
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output import layout

FORMATS = ["m.csv", "m.jsonl", "m.parquet"]
NAMES = ("content_masks", "style_masks", "fine_style")
STRINGS = pa.list_(pa.string())
TWO: dict[str, Any] = {"content": "a.jpg", "style": ["s.jpg", "t.jpg"]}
ONE: dict[str, Any] = {"content": "a.jpg", "style": "s.jpg"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As `manifests.write`; each row of a Parquet file gets all columns, and a column with a list in it holds lists."""
    if path.suffix == ".parquet":
        names = list(dict.fromkeys(n for r in rows for n in r))
        lists = {n for r in rows for n in r if isinstance(r[n], list)}
        rows = [{n: [r[n]] if n in lists and isinstance(r.get(n), str) else r.get(n) for n in names} for r in rows]
    return manifests.write(path, rows)


def ids(path: Path, *rows: dict[str, Any]) -> list[str]:
    return [p.pair_id for p in load(write(path, list(rows)))[1]]


def whole(path: Path) -> pa.Table:
    manifest = Manifest(str(path))
    return pa.concat_tables(manifest.tables(manifest.check(CONFIG))).combine_chunks()


@pytest.mark.parametrize("name", FORMATS)
def test_formats_agree(tmp_path: Path, name: str) -> None:
    base = str(tmp_path / "f")
    rows = [
        {**TWO, "content_masks": ["m/1.png", "../2.png"], "style_masks": ["s3://bucket/p q.png", ""], "fine_style": "./fine.jpg"},
        {**TWO, "content_masks": None, "style_masks": ["/abs/1.png", "file:///z%20z.png"]},
        {**ONE, "content_masks": "only.png", "style_masks": None},
        {**ONE, "content_masks": "over.png", "style_masks": "only.png", "fine_style": "s3://bucket/f.jpg"},
        {**ONE, "content": "plain.jpg", "content_masks": [], "style_masks": []},
    ]
    info, got = load(write(tmp_path / "f" / name, rows))
    assert info.images == NAMES
    assert info.carried == info.overrides == info.warnings == ()
    assert [p.content_masks for p in got] == [
        (f"{base}/m/1.png", f"{tmp_path}/2.png"),
        (),
        (f"{base}/only.png",),
        (f"{base}/over.png",),
        (),
    ]
    assert [p.style_masks for p in got] == [("s3://bucket/p q.png", None), ("/abs/1.png", "/z z.png"), (), (f"{base}/only.png",), ()]
    assert [p.fine_style for p in got] == [f"{base}/fine.jpg", None, None, "s3://bucket/f.jpg", None]
    assert [p.styles for p in got[:3]] == [(f"{base}/s.jpg", f"{base}/t.jpg")] * 2 + [(f"{base}/s.jpg",)]


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_nothing_however_it_is_written(tmp_path: Path, name: str) -> None:
    empty: list[dict[str, Any]] = [{"style_masks": ["", ""]}, {"style_masks": [None, ""]}, {"style_masks": [""]}, {"style_masks": ""}]
    empty += [{"content_masks": []}, {"content_masks": ""}, {"content_masks": None}, {"fine_style": ""}, {"fine_style": None}]
    for i, change in enumerate(empty):
        change = {n: [] if v == "" and n == "content_masks" and name == "m.parquet" else v for n, v in change.items()}
        path = write(tmp_path / str(i) / name, [{**TWO, "pair_id": "x", **change}])
        (pair,) = load(path)[1]
        assert (pair.content_masks, pair.style_masks, pair.fine_style) == ((), (), None), change
        (column,) = change
        assert whole(path)[column].to_pylist() == [None], change


def test_some_of_the_style_masks_may_be_null_in_every_format(tmp_path: Path) -> None:
    for name in FORMATS:
        path = write(tmp_path / name, [{**TWO, "style_masks": ["m.png", None]}, {**TWO, "style_masks": [None, "m.png"]}])
        assert [p.style_masks for p in load(path)[1]] == [(f"{tmp_path}/m.png", None), (None, f"{tmp_path}/m.png")]
        assert whole(path)["style_masks"].to_pylist() == [[f"{tmp_path}/m.png", ""], ["", f"{tmp_path}/m.png"]]


def test_arrow_types_that_masks_may_have(tmp_path: Path) -> None:
    words, nothing = ["p.png", None, ""], [None, None, None]
    lists = [["p.png"], None, []]
    columns: list[tuple[pa.Array, list[tuple[str, ...]]]] = [
        (pa.array(words, kind), [("p.png",), (), ()]) for kind in (pa.string(), pa.large_string(), pa.string_view())
    ]
    columns += [(pa.array(words).dictionary_encode(), [("p.png",), (), ()])]
    columns += [(pa.array(lists, kind), [("p.png",), (), ()]) for kind in (STRINGS, pa.large_list(pa.large_string()))]
    columns += [(pa.array([["p.png"], None, ["q.png"]], pa.list_(pa.string(), 1)), [("p.png",), (), ("q.png",)])]
    columns += [(pa.array(nothing), [(), (), ()]), (pa.array([[], None, []], pa.list_(pa.null())), [(), (), ()])]
    for column, wanted in columns:
        for name in ("content_masks", "style_masks"):
            table = pa.table({"pair_id": ["x", "y", "z"], "content": ["a", "b", "c"], "style": ["s", "s", "s"], name: column})
            pq.write_table(table, tmp_path / "m.parquet")
            info, got = load(tmp_path / "m.parquet")
            assert [getattr(p, name) for p in got] == [tuple(f"{tmp_path}/{v}" for v in masks) for masks in wanted], (name, column.type)
            assert info.schema.field(name).type == STRINGS


def test_the_schema_has_only_the_columns_that_the_manifest_has(tmp_path: Path) -> None:
    own = {"seed": 3, "size": 64, "caption": "c", "width": 5}
    given = {"fine_style": "f.jpg", "style_masks": "q.png", "content_masks": "p.png"}
    fixed = ["row", "pair_id", "content", "style", "style_weights"]
    for k in range(8):
        some = {name: value for i, (name, value) in enumerate(given.items()) if k >> i & 1}
        info = load(write(tmp_path / "m.jsonl", [{**some, **ONE, **own}]))[0]
        present = [name for name in NAMES if name in some]
        assert info.images == tuple(present)
        assert info.schema.names == [*fixed, *present, "seed", "size", "width", "caption"]
        assert info.carried_schema.names == ["size", *present, "caption"]
        assert [info.schema.field(n).type for n in present] == [pa.string() if n == "fine_style" else STRINGS for n in present]
        assert info.carried_schema.field("caption").type == pa.string()


def test_pairs_and_infos_are_made_without_them() -> None:
    pair = Pair(row=0, pair_id="x", content="a", styles=("s",), style_weights=(1.0,), overrides={})
    assert (pair.content_masks, pair.style_masks, pair.fine_style) == ((), (), None)
    schema = pa.schema([("row", pa.int64()), ("pair_id", pa.string()), ("content", pa.string()), ("style", STRINGS)])
    schema = schema.append(pa.field("style_weights", pa.list_(pa.float64())))
    info = ManifestInfo(uri="m", rows=1, digest="", schema=schema, carried=(), overrides=(), layers=(), warnings=())
    assert info.images == ()
    assert pairs(pa.table([[0], ["x"], ["a"], [["s"]], [[1.0]]], schema=schema), info) == [pair]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content_masks": ["1.png"]}, "content_masks: 1 mask for 2 styles; give one per style"),
        ({"content_masks": ["1.png", "2.png", "3.png"]}, "content_masks: 3 masks for 2 styles; give one per style"),
        ({"style_masks": ["1.png"]}, "style_masks: 1 mask for 2 styles; give one per style, an empty name for the whole image"),
        ({"style_masks": ["", "", "3.png"]}, "style_masks: 3 masks for 2 styles; give one per style, an empty name for the whole image"),
        ({"style": ["s.jpg"], "content_masks": ["1.png", "2.png"]}, "content_masks: 2 masks for 1 style; give one per style"),
        ({"content_masks": ["1.png", ""]}, "content_masks: the list holds an empty name; each must be a path or URI"),
        ({"content_masks": [None, "2.png"]}, "content_masks: the list holds an empty name; each must be a path or URI"),
        ({"content_masks": ["", ""]}, "content_masks: the list holds an empty name; each must be a path or URI"),
        ({"content_masks": ["1.png", "gs://b/k"]}, "content_masks: gs://b/k: gs:// is not supported"),
        ({"style_masks": ["", "https://x.org/m.png"]}, "style_masks: https://x.org/m.png: https:// is not supported"),
        ({"style_masks": ["s3://bucket/", ""]}, "style_masks: s3://bucket/ names a bucket"),
        ({"fine_style": "ftp://h/f.jpg"}, "fine_style: ftp://h/f.jpg: ftp:// is not supported"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, name: str, change: dict[str, Any], words: str) -> None:
    good = {"content_masks": ["p.png", "q.png"], "style_masks": ["", "q.png"], "fine_style": "f.jpg"}
    rows = [{**TWO, **good}, {**TWO, **change}, {**TWO, **good, "content": "c.jpg"}]
    path = write(tmp_path / name, rows)
    message = problem(path)
    assert message.startswith(f"{name} row 2: {words}")
    assert "\n" not in message
    assert load(write(tmp_path / name, [rows[0], rows[2]]))[0].rows == 2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("change", [{"content_masks": ["1.png"]}, {"style_masks": ["1.png"]}, {"fine_style": "f.jpg"}])
def test_a_row_without_a_style_has_no_use_for_them(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    (column,) = change
    rows = [{**ONE, **change}, {"content": "b.jpg", "style": None, **change}, {"content": "c.jpg", "style": None}]
    words = f"{name} row 2: {column}: the row has no style to use it with; give one, or leave {column} empty"
    assert problem(write(tmp_path / name, rows), JobConfig(style_weight=0)) == words
    bare = write(tmp_path / f"bare-{name}", [{"content": "b.jpg", **change}])
    assert f"row 1: {column}: the row has no style" in problem(bare, JobConfig(style_weight=0))
    # Where a style is needed, that is said as well.
    assert "row 2: style: empty" in problem(write(tmp_path / name, rows))
    assert f"row 2: {column}: the row has no style" in problem(write(tmp_path / name, rows))


def test_style_masks_of_nothing_need_no_style(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"content": "a.jpg", "style_masks": ["", ""], "content_masks": [], "fine_style": ""}])
    (pair,) = load(path, JobConfig(style_weight=0))[1]
    assert (pair.styles, pair.style_masks) == ((), ())


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.csv", 'content,style,content_masks\na,"[""x"",""y""]",[m\n', "m.csv row 1: content_masks: must be a JSON list such as"),
        ("m.csv", 'content,style,style_masks\na,"[""x"",""y""]","[1, ""m""]"\n', "m.csv row 1: style_masks: must be a JSON list such as"),
        ("m.jsonl", '{"content": "a", "style": "b", "content_masks": 5}\n', "m.jsonl row 1: content_masks: must be list<"),
        ("m.jsonl", '{"content": "a", "style": "b", "style_masks": ["m", 5]}\n', "m.jsonl row 1: style_masks: must be list<"),
        ("m.jsonl", '{"content": "a", "style": "b", "fine_style": ["f"]}\n', "m.jsonl row 1: fine_style: must be string or null; got ['f']"),
    ],
)
def test_a_wrong_cell_is_named_once(tmp_path: Path, name: str, data: str, words: str) -> None:
    (tmp_path / name).write_text(data)
    message = problem(tmp_path / name)
    assert message.startswith(words)
    assert "\n" not in message


def test_parquet_columns_of_a_wrong_type(tmp_path: Path) -> None:
    for column, value, words in (
        ("content_masks", 5, "column content_masks holds int64; must be text or a list of text"),
        ("style_masks", {"k": "m.png"}, "column style_masks holds struct<k: string>; must be text or a list of text"),
        ("fine_style", ["f.jpg"], "column fine_style holds list<"),
    ):
        pq.write_table(pa.Table.from_pylist([{**ONE, column: value}]), tmp_path / "m.parquet")
        assert words in problem(tmp_path / "m.parquet")


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("content,style,content_masks,style_masks,fine_style\na,s,1,2024-01-01,007\n")
    (pair,) = load(tmp_path / "m.csv")[1]
    assert [*pair.content_masks, *pair.style_masks, pair.fine_style] == [f"{tmp_path}/{n}" for n in ("1", "2024-01-01", "007")]


def test_an_empty_style_in_json_lines_is_none_as_in_csv(tmp_path: Path) -> None:
    for name in ("m.csv", "m.jsonl"):
        path = write(tmp_path / name, [{"content": "a.jpg", "style": ""}])
        assert load(path, JobConfig(style_weight=0))[1][0].styles == ()
        assert problem(path).startswith(f"{name} row 1: style: empty; give a path or URI")


@pytest.mark.parametrize("name", FORMATS)
def test_default_ids_of_rows_without_them_are_the_ones_of_before(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [{**TWO, "seed": 1}, {**TWO, "seed": 2}, {**TWO, "seed": 3}]
    fixed = [hashlib.blake2b(f"c5:a.jpgs5:s.jpg5:t.jpgwseed=1:{k}".encode(), digest_size=16).hexdigest() for k in (1, 2, 3)]
    assert ids(tmp_path / "absent" / name, *rows) == fixed
    empty: list[dict[str, Any]] = [{"content_masks": [], "style_masks": ["", ""], "fine_style": ""}, dict.fromkeys(NAMES), {"style_masks": [""]}]
    given = [{**row, **change} for row, change in zip(rows, empty, strict=True)]
    assert ids(tmp_path / "empty" / name, *given) == fixed
    # And beside a row that has them.
    other = {**TWO, "content_masks": ["1", "2"], "style_masks": ["1", "2"], "fine_style": "f"}
    assert ids(tmp_path / "beside" / name, *given, other)[:3] == fixed


@pytest.mark.parametrize("name", FORMATS)
def test_default_ids_with_them_are_fixed_once_and_for_all(tmp_path: Path, name: str) -> None:
    rows = [
        {**TWO, "content_masks": ["m.png", "né.png"], "style_masks": ["", "q.png"], "fine_style": "../f.jpg", "seed": 7},
        {**TWO, "style_masks": [None, "q.png"]},
        {**TWO, "fine_style": "/f.jpg"},
    ]
    pair = "c5:a.jpgs5:s.jpg5:t.jpgw"
    keys = [
        f"{pair}content_masks=5:m.png7:né.pngstyle_masks=0:5:q.pngfine_style=8:../f.jpgseed=1:7",
        f"{pair}style_masks=0:5:q.png",
        f"{pair}fine_style=6:/f.jpg",
    ]
    assert ids(tmp_path / name, *rows) == [hashlib.blake2b(k.encode(), digest_size=16).hexdigest() for k in keys]


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_default_ids_follow_the_masks(tmp_path: Path, name: str) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"content_masks": ["a", "b"]},
        {"content_masks": ["b", "a"]},
        {"content_masks": ["a", "c"]},
        {"style_masks": ["a", "b"]},
        {"style_masks": ["a", ""]},
        {"style_masks": ["", "a"]},
        {"style_masks": ["ab", ""]},
        {"content_masks": ["a", "b"], "style_masks": ["a", "b"]},
        {"fine_style": "a"},
        {"fine_style": "b"},
        {"content_masks": ["a", "b"], "fine_style": "a"},
        {"fine_style": "i.png"},
        {"init": "i.png"},
    ]
    found = ids(tmp_path / name, *({**TWO, **change} for change in changes))
    assert len(set(found)) == len(changes)
    one = ids(tmp_path / name, {**ONE, "content_masks": ["a"]}, {**ONE, "style_masks": ["a"]}, {**ONE, "fine_style": "a"}, ONE)
    assert len(set(one)) == 4
    assert ids(tmp_path / "moved" / name, *({**TWO, **change} for change in changes)) == found


@pytest.mark.parametrize("name", FORMATS)
def test_default_ids_do_not_depend_on_the_order_of_the_columns(tmp_path: Path, name: str) -> None:
    row = {**TWO, "content_masks": ["a", "b"], "style_masks": ["c", ""], "fine_style": "f"}
    assert ids(tmp_path / name, row) == ids(tmp_path / name, dict(reversed(row.items())))


def test_equal_rows_are_told_by_their_masks_alone(tmp_path: Path) -> None:
    rows = [{**TWO, "style_masks": ["a.png", ""]}, {**TWO, "style_masks": ["", "a.png"]}, {**TWO, "style_masks": ["a.png", None]}]
    assert problem(write(tmp_path / "m.jsonl", rows)).startswith("m.jsonl row 1 and m.jsonl row 3: the same content, style")
    assert load(write(tmp_path / "m.jsonl", rows[:2]))[0].rows == 2


@pytest.mark.parametrize("name", ["csv", "jsonl", "parquet"])
def test_a_folder_where_one_file_has_them(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"a.{name}", [{**ONE, "content": "1.jpg"}])
    write(tmp_path / f"b.{name}", [{**TWO, "content_masks": ["p.png", "q.png"], "style_masks": ["", "r.png"], "fine_style": "f.jpg"}])
    write(tmp_path / f"c.{name}", [{**ONE, "content_masks": "p.png"}, {**ONE, "content": "2.jpg", "content_masks": None}])
    info, got = load(tmp_path)
    assert info.images == NAMES
    assert [p.content_masks for p in got] == [(), (f"{tmp_path}/p.png", f"{tmp_path}/q.png"), (f"{tmp_path}/p.png",), ()]
    assert [p.style_masks for p in got] == [(), (None, f"{tmp_path}/r.png"), (), ()]
    assert [p.fine_style for p in got] == [None, f"{tmp_path}/f.jpg", None, None]
    # A row without masks is the same whether its file has the column or not.
    assert [v is None for v in whole(tmp_path)["content_masks"].to_pylist()] == [True, False, False, True]
    assert problem(write(tmp_path / f"d.{name}", [{**TWO, "style_masks": ["r.png"]}]).parent).startswith(f"d.{name} row 1: style_masks: 1 mask ")


def test_the_columns_have_one_order_whichever_file_has_which(tmp_path: Path) -> None:
    for file, column in zip("abc", reversed(NAMES), strict=True):
        write(tmp_path / f"{file}.csv", [{**ONE, column: "p.png"}])
    info, got = load(tmp_path)
    assert info.images == NAMES
    assert info.carried_schema.names == list(NAMES)
    there = (f"{tmp_path}/p.png",)
    assert found(got) == [((), (), *there), ((), there, None), (there, (), None)]


def masked(rows: int) -> list[dict[str, Any]]:
    """Rows of one to three styles, every other one with content masks, every third with style masks, every fifth with a fine style."""
    out = []
    for i in range(rows):
        row: dict[str, Any] = {"pair_id": f"p{i}", "content": f"c{i % 7}.jpg", "style": [f"s{k}.jpg" for k in range(i % 3 + 1)]}
        row["content_masks"] = [f"m{i}-{k}.png" for k in range(i % 3 + 1)] if i % 2 else None
        row["style_masks"] = [f"q{i}-{k}.png" if k == i % 4 else "" for k in range(i % 3 + 1)] if i % 3 == 0 else None
        row["fine_style"] = f"f{i}.jpg" if i % 5 == 0 else None
        out.append(row)
    return out


def wanted(base: Path, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    def at(name: str) -> str | None:
        return f"{base}/{name}" if name else None

    return [
        (
            tuple(at(m) for m in row["content_masks"] or ()),
            tuple(at(m) for m in row["style_masks"] or ()) if any(row["style_masks"] or ()) else (),
            at(row["fine_style"] or ""),
        )
        for row in rows
    ]


def found(listed: list[Pair]) -> list[tuple[Any, ...]]:
    return [(p.content_masks, p.style_masks, p.fine_style) for p in listed]


def test_tables_do_not_depend_on_batch_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = masked(200)
    # JSON Lines that name a column only where it has something: a batch may lack it.
    bare = [{n: v for n, v in row.items() if v is not None} for row in rows]
    tables: list[pa.Table] = []
    for size in (65_536, 64, 1):
        monkeypatch.setattr(manifest_files, "BATCH_ROWS", size)
        for name, given in (("m.jsonl", bare), ("m.csv", rows), ("m.parquet", rows)):
            path = write(tmp_path / name, given)
            assert found(load(path)[1]) == wanted(tmp_path, rows)
            tables.append(whole(path))
    for table in tables:
        table.validate(full=True)
        assert table.equals(tables[0])


def test_shards_carry_each_row_with_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "WINDOW_ROWS", 64)
    monkeypatch.setattr(manifest_files, "BATCH_ROWS", 50)
    rows = masked(150)
    manifest = Manifest(str(write(tmp_path / "m.parquet", rows)))
    info = manifest.check(CONFIG)
    shards = [s for window, table in cut_windows(manifest.tables(info)) for s in cut_shards(window, table, 16)]
    order = [r for s in shards for r in s.table["row"].to_pylist()]
    assert order != sorted(order)
    for shard in (*shards, *(pickle.loads(pickle.dumps(s)) for s in shards)):
        shard.table.validate(full=True)
        assert shard.table.schema.equals(info.schema)
        listed = pairs(shard.table, info)
        assert found(listed) == wanted(tmp_path, [rows[p.row] for p in listed])
        assert [p.pair_id for p in listed] == [f"p{p.row}" for p in listed]


@pytest.mark.parametrize(
    ("name", "meant"), [("content_mask", "content_masks"), ("style_mask", "style_masks"), ("fine_styles", "fine_style"), ("finestyle", "fine_style")]
)
def test_a_near_miss_is_a_warning(tmp_path: Path, name: str, meant: str) -> None:
    info, (pair,) = load(write(tmp_path / "m.csv", [{**ONE, name: "p.png"}]))
    assert info.warnings == (f"column {name} is carried through unread; did you mean {meant}?",)
    assert (info.carried, info.images) == ((name,), ())
    assert found([pair]) == [((), (), None)]


def test_a_missing_style_is_not_taken_for_a_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", [{"content": "a", "style_masks": "m.png", "fine_style": "f.jpg"}])
    assert problem(path).startswith("m.csv: no column style; its columns are content, style_masks, fine_style; or run with style_weight 0")


def test_twice_the_same_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("content,style,style_masks,style_masks\na,s,m,m\n")
    assert problem(tmp_path / "m.csv").startswith("m.csv: column style_masks appears twice")


def test_fine_layers_count_as_layers_that_rows_name(tmp_path: Path) -> None:
    rows = [
        {**ONE, "fine_layers": "conv1_1,conv5_4", "style_layers": "conv2_2"},
        {**ONE, "fine_layers": "relu3_3"},
        {**ONE, "content_layers": "conv4_1"},
    ]
    info, got = load(write(tmp_path / "m.csv", rows))
    assert info.layers == ("conv1_1", "conv2_2", "conv3_3", "conv4_1", "conv5_4")
    assert [p.overrides.get("fine_layers") for p in got] == [("conv1_1", "conv5_4"), ("conv3_3",), None]


@pytest.mark.parametrize("name", FORMATS)
def test_in_a_bucket_they_start_from_the_manifest(tmp_path: Path, s3: str, name: str) -> None:
    local = write(
        tmp_path / name, [{**TWO, "content_masks": ["m 1%.png", "../n.png"], "style_masks": ["", f"{s3}/q.png"], "fine_style": "/local/f.jpg"}]
    )
    storage.put_new(f"{s3}/jobs/today/{name}", local.read_bytes())
    manifest = Manifest(f"{s3}/jobs/today/{name}")
    info = manifest.check(JobConfig(allow_local=True))
    (pair,) = (p for t in manifest.tables(info) for p in pairs(t, info))
    assert found([pair]) == [((f"{s3}/jobs/today/m 1%.png", f"{s3}/jobs/n.png"), (None, f"{s3}/q.png"), "/local/f.jpg")]
    assert pair.pair_id == load(local)[1][0].pair_id
