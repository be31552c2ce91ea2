"""Manifests: reading, checking, resolving; every message a user can meet."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests import CONFIG, load, problem, write
from nstray import storage
from nstray.config import JobConfig
from nstray.errors import ManifestError
from nstray.manifest import carried_types, duplicates
from nstray.manifest import files as manifest_files
from nstray.manifest.column_names import check_names
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo, pairs
from nstray.manifest.raw_batches import ManifestFile, RawBatch
from nstray.output.schema import RESERVED


def carried(path: Path) -> list[dict[str, Any]]:
    """The carried columns' values, row by row."""
    manifest = Manifest(str(path))
    info = manifest.check(CONFIG)
    return [row for table in manifest.tables(info) for row in table.select(list(info.carried)).to_pylist()]


ROWS: list[dict[str, Any]] = [
    {"pair_id": "one", "content": "c/a.jpg", "style": "s/x.jpg", "seed": 7, "size": "640x480", "size_rule": "exact", "caption": "a, b"},
    {"pair_id": None, "content": "/abs/b.jpg", "style": ["s/x.jpg", "../y.jpg"], "style_weights": [3, 1], "content_weight": 0.5, "caption": "q"},
    {"pair_id": None, "content": "s3://bucket/c d.jpg", "style": ["file:///z%20z.jpg"], "init": "noise", "caption": None},
    {"pair_id": "four", "content": "./d.jpg", "style": "s/x.jpg", "init": "starts/i.png", "width": 640, "height": 480, "caption": "é"},
]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.ndjson", "m.parquet"])
def test_formats_agree(tmp_path: Path, name: str) -> None:
    rows = [{**r, "style": [r["style"]] if isinstance(r["style"], str) else r["style"]} for r in ROWS] if name == "m.parquet" else ROWS
    if name == "m.parquet":
        names = list(dict.fromkeys(n for r in rows for n in r))
        rows = [{n: r.get(n) for n in names} for r in rows]
    path = write(tmp_path / "f" / name, rows)
    info, got = load(path)
    base = str(tmp_path / "f")
    assert [p.row for p in got] == [0, 1, 2, 3]
    assert [p.content for p in got] == [f"{base}/c/a.jpg", "/abs/b.jpg", "s3://bucket/c d.jpg", f"{base}/d.jpg"]
    assert [p.styles for p in got] == [(f"{base}/s/x.jpg",), (f"{base}/s/x.jpg", f"{tmp_path}/y.jpg"), ("/z z.jpg",), (f"{base}/s/x.jpg",)]
    assert [p.style_weights for p in got] == [(1.0,), (0.75, 0.25), (1.0,), (1.0,)]
    assert got[0].overrides == {"seed": 7, "size": "640x480", "size_rule": "exact"}
    assert [p.overrides for p in got[1:]] == [{"content_weight": 0.5}, {"init": "noise"}, {"init": f"{base}/starts/i.png"}]
    assert [row["caption"] or None for row in carried(path)] == ["a, b", "q", None, "é"]
    assert (got[0].pair_id, got[3].pair_id) == ("one", "four")
    # Fixed once and for all: an id that changed would make a finished job's rows look new. Numbers go in as the bits of a float64.
    bits = {v: str(struct.unpack("<q", struct.pack("<d", v))[0]) for v in (3.0, 1.0, 0.5)}
    second = f"c10:/abs/b.jpgs7:s/x.jpg8:../y.jpgw19:{bits[3.0]}19:{bits[1.0]}content_weight=19:{bits[0.5]}"
    third = "c19:s3://bucket/c d.jpgs17:file:///z%20z.jpgwinit=5:noise"
    assert [got[1].pair_id, got[2].pair_id] == [hashlib.blake2b(k.encode(), digest_size=16).hexdigest() for k in (second, third)]
    assert info.rows == 4
    assert info.carried == ("caption",)
    assert set(info.overrides) == {"seed", "size", "size_rule", "content_weight", "init"}
    assert info.schema.names[:5] == ["row", "pair_id", "content", "style", "style_weights"]
    assert info.schema.field("width").type == pa.int32()
    assert info.schema.field("size").type == pa.string()
    assert info.schema.names[-1] == "caption"
    assert info.warnings == ()


def test_default_ids_survive_a_move_and_follow_what_matters(tmp_path: Path) -> None:
    row = {"content": "a.jpg", "style": "b.jpg", "seed": 1, "note": "n"}

    def ident(place: str, **change: Any) -> str:
        return load(write(tmp_path / place / "m.jsonl", [{**row, **change}]))[1][0].pair_id

    first = ident("here")
    assert len(first) == 32
    assert ident("there") == first
    assert ident("note", note="other") == first
    assert ident("equal", seed="1") == first
    others = {
        ident("x", **c) for c in ({"content": "c.jpg"}, {"style": "c.jpg"}, {"seed": 2}, {"style_weights": [2]}, {"size": 64}, {"content_weight": 2})
    }
    assert len(others | {first}) == 7
    # Lists whose joined text is equal are told apart.
    assert ident("l1", style=["a,b", "c"]) != ident("l2", style=["a", "b,c"])


def test_folder_of_files_in_order_of_name(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write(folder / "b.csv", [{"content": "3.jpg", "style": "s.jpg", "n": 1.5}])
    write(folder / "a.csv", [{"content": "1.jpg", "style": "s.jpg", "n": ""}, {"content": "2.jpg", "style": "s.jpg", "n": ""}])
    write(folder / "c.csv", [{"content": "4.jpg", "style": "s.jpg", "pair_id": "x", "extra": "e"}])
    for other in ("_success.csv", ".hidden.csv", "README.md"):
        (folder / other).write_text("not,a\nmanifest")
    info, got = load(folder)
    assert [p.content for p in got] == [f"{folder}/{i}.jpg" for i in (1, 2, 3, 4)]
    assert carried(folder) == [{"n": None, "extra": None}] * 2 + [{"n": "1.5", "extra": None}, {"n": None, "extra": "e"}]
    assert info.schema.field("n").type == pa.string()
    assert got[3].pair_id == "x"
    again = Manifest(str(folder) + "/").check(CONFIG)
    assert again.digest == info.digest
    (folder / "a.csv").rename(folder / "aa.csv")
    assert Manifest(str(folder)).check(CONFIG).digest != info.digest


def test_digest_of_one_file_is_its_sha256(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", [{"content": "a", "style": "b"}])
    assert Manifest(str(path)).check(CONFIG).digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("row_group_size", [1, 7, 50, 1000])
def test_row_groups_of_any_size_are_read_in_order(tmp_path: Path, row_group_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BATCH_ROWS", 20)
    names = [f"c{i}.jpg" for i in range(205)]
    pq.write_table(pa.table({"content": names, "style": ["s.jpg"] * 205}), tmp_path / "m.parquet", row_group_size=row_group_size)
    _, got = load(tmp_path / "m.parquet")
    assert [(p.row, Path(p.content or "").name) for p in got] == list(enumerate(names))


def test_carried_arrow_types_survive(tmp_path: Path) -> None:
    table = pa.table(
        {
            "content": pa.array(["a", "b", "c"]).dictionary_encode(),
            "style": pa.array([["x"], ["x", "y"], ["z"]], pa.large_list(pa.large_string())),
            "style_weights": pa.array([None, [1, 3], None], pa.list_(pa.float32())),
            "nested": pa.array([{"k": [1]}, None, {"k": []}]),
            "tag": pa.array(["u", None, "v"]).dictionary_encode(),
            "when": pa.array([1, 2, None], pa.timestamp("ns", tz="UTC")),
            "raw": pa.array([b"\xff", None, b""]),
            "size": pa.array([512.0, None, 64.0]),
            "small": pa.array([1, 2, 3], pa.int8()),
            "view": pa.array(["v", None, "w"], pa.string_view()),
            "init": pa.array(["noise", None, ""], pa.string_view()),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=2)
    info, got = load(tmp_path / "m.parquet")
    whole = pa.concat_tables(Manifest(info.uri).tables(info))
    plain = {"tag": pa.string()}  # its dictionary is each batch's own
    for name in ("nested", "tag", "when", "raw", "small"):
        assert info.schema.field(name).type == table.schema.field(name).type, name
        assert whole[name].cast(plain.get(name, table[name].type)).equals(table[name].cast(plain.get(name, table[name].type))), name
    assert [p.overrides for p in got] == [{"init": "noise", "size": 512}, {}, {"size": 64}]
    assert got[1].style_weights == (0.25, 0.75)
    # No arrow function sorts or takes views.
    assert info.schema.field("view").type == pa.large_string()
    assert whole["view"].to_pylist() == ["v", None, "w"]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_column_empty_for_a_whole_batch_has_a_type_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(manifest_files, "BATCH_ROWS", 100)
    rows = [{"content": f"{i}.jpg", "style": "s.jpg", "late": None, "seed": None} for i in range(1000)]
    rows.append({"content": "z.jpg", "style": "s.jpg", "late": "here", "seed": 3})
    path = write(tmp_path / name, rows)
    info, got = load(path)
    late = [row["late"] for row in carried(path)]
    assert late[-1] == "here"
    assert got[-1].overrides == {"seed": 3}
    assert late[0] in (None, "")
    assert info.schema.field("late").type == pa.string()


def test_csv_quoting_newlines_and_bom(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(
        '\ufeffcontent,style,style_weights,caption\r\n"a,1.jpg","[""x.jpg"", ""y.jpg""]","[1, 1]","two\nlines"\r\n\r\nb.jpg,z.jpg,,t\r\n'.encode()
    )
    _, got = load(path)
    assert [p.content for p in got] == [f"{tmp_path}/a,1.jpg", f"{tmp_path}/b.jpg"]
    assert [len(p.styles) for p in got] == [2, 1]
    assert [row["caption"] for row in carried(path)] == ["two\nlines", "t"]


def test_a_style_may_be_left_out_where_nothing_needs_it(tmp_path: Path) -> None:
    no_style = write(tmp_path / "a.jsonl", [{"content": "a.jpg"}])
    _, got = load(no_style, JobConfig(style_weight=0))
    assert (got[0].styles, got[0].style_weights) == ((), ())
    assert load(no_style, JobConfig(style_layers=()))[1][0].styles == ()
    own = write(tmp_path / "b.jsonl", [{"content": "a.jpg", "style_weight": 0}, {"content": "a.jpg", "style": "s.jpg"}])
    assert [len(p.styles) for p in load(own)[1]] == [0, 1]
    assert "no column style" in problem(no_style)
    assert "no column style" in problem(no_style, JobConfig(style_weight=0, init="style"))
    mixed = write(tmp_path / "c.csv", [{"content": "a.jpg", "style": "s.jpg"}, {"content": "b.jpg", "style": ""}])
    assert "c.csv row 2: style: empty" in problem(mixed)
    starts = write(tmp_path / "d.jsonl", [{"content": "a.jpg", "style_weight": 0, "init": "style"}])
    assert "row 1: style: empty, and init is style" in problem(starts)


ONE = {"content": "a.jpg", "style": "s.jpg"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": ""}, "row 2: content: empty"),
        ({"content": "https://x.org/a.jpg"}, "row 2: content: https://x.org/a.jpg: https:// is not supported"),
        ({"style": "s3://"}, "row 2: style: s3://"),
        ({"content": "s3://bucket/"}, "row 2: content: s3://bucket/ names a bucket"),
        ({"content": "S3://bucket"}, "row 2: content: s3://bucket names a bucket"),
        ({"style": "[x.jpg"}, "row 2: style: must be a JSON list"),
        ({"style": ["x.jpg", ""]}, "row 2: style: the list holds an empty name"),
        ({"style": ["x.jpg", "gs://b/k"]}, "row 2: style: gs://b/k: gs:// is not supported"),
        ({"style_weights": "0.5"}, "row 2: style_weights: must be a JSON list"),
        ({"style_weights": [0.5, 0.5]}, "row 2: style_weights: 2 weights for 1 style"),
        ({"style_weights": [0]}, "row 2: style_weights: must have a finite sum above 0"),
        ({"style": ["x", "y"], "style_weights": [1, -1]}, "row 2: style_weights: each must be a finite number of at least 0"),
        ({"style_weights": "[NaN]"}, "row 2: style_weights: each must be a finite number of at least 0"),
        ({"pair_id": "../x"}, "row 2: pair_id: '../x' must be"),
        ({"pair_id": "p" * 129}, "row 2: pair_id:"),
        ({"content_weight": -1}, "row 2: content_weight: must be a finite number of at least 0; got -1"),
        ({"content_weight": "nan"}, "row 2: content_weight: must be a finite number of at least 0; got nan"),
        ({"seed": "x"}, "row 2: seed: Input should be a valid integer, unable to parse string as an integer; got 'x'"),
        ({"seed": 2**70}, "row 2: seed: must be a whole number"),
        ({"evaluations": 0}, "row 2: evaluations: must be a whole number from 1"),
        ({"size": "5 12"}, "row 2: size: must be a number of pixels (512)"),
        ({"size": "640x480"}, "row 2: size '640x480' needs size_rule exact"),
        ({"size_rule": "middle"}, "row 2: size_rule: Input should be 'longest'"),
        (
            {"init": "nosie"},
            "row 2: init: must be content, content-matched, noise, style, or an image's path or URI; got 'nosie'",
        ),
        ({"init": "ftp://h/i.png"}, "row 2: init: ftp://h/i.png: ftp:// is not supported"),
        ({"content_weight": 0, "style_weight": 0}, "row 2: nothing to optimise"),
        ({"width": 0}, "row 2: width: must be a whole number of pixels"),
        ({"height": 1.5}, "row 2: height: must be a whole number of pixels"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "pairs.csv", [ONE, {**ONE, **change}, {"content": "c.jpg", "style": "s.jpg"}])
    message = problem(path)
    assert message.startswith("pairs.csv " + words)
    assert "\n" not in message


def test_rules_merge_the_rows_values_with_the_jobs(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{**ONE, "size_rule": "longest"}, {**ONE, "size_rule": "longest", "size": 300}, {**ONE, "size": "10x20"}])
    assert (
        problem(path, JobConfig(size="640x480", size_rule="exact"))
        == "m.jsonl row 1: size '640x480' needs size_rule exact; longest takes one number of pixels"
    )
    path = write(tmp_path / "n.jsonl", [{**ONE, "style_weight": 0}, {**ONE, "content_weight": 1, "style_weight": 0}])
    assert problem(path, JobConfig(content_weight=0)).startswith("n.jsonl row 1: nothing to optimise")


def test_the_first_ten_problems_and_how_many_more(tmp_path: Path) -> None:
    rows = [{"content": f"{i}.jpg", "style": "s.jpg", "seed": -1 if i % 2 else 5} for i in range(50)]
    lines = problem(write(tmp_path / "m.jsonl", rows)).split("\n")
    assert [line.split(":")[0] for line in lines[:10]] == [f"m.jsonl row {2 * k + 2}" for k in range(10)]
    assert lines[10:] == ["... and 15 more problems"]


def test_a_secret_in_a_uri_is_not_repeated(tmp_path: Path) -> None:
    assert "hunter2" not in problem(write(tmp_path / "m.csv", [{**ONE, "content": "https://me:hunter2@host/a.jpg"}]))
    assert "no credentials in a URI" in problem(write(tmp_path / "n.csv", [{**ONE, "content": "s3://key:hunter2@bucket/a.jpg"}]))


class CountingName(str):
    """A column's name that counts how often such names are compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingName.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_names_are_not_compared_with_each_other(tmp_path: Path) -> None:
    names = tuple(CountingName(n) for n in ("content", "style", *(f"mine{i}" for i in range(1000))))
    batch = RawBatch(ManifestFile("m.parquet", "m.parquet", "parquet", 0), 0, 0, names, ())
    CountingName.compared = 0
    check_names(batch, CONFIG)
    assert CountingName.compared < 100 * len(names)
    with pytest.raises(ManifestError, match=r"m\.parquet: column mine7 appears twice; rename or remove one"):
        check_names(dataclasses.replace(batch, names=(*names, CountingName("mine7"))), CONFIG)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("contents,style", "m.csv: no column content; its columns are contents, style; rename contents, if that is it"),
        ("content,styl", "m.csv: no column style; its columns are content, styl; rename styl, if that is it; or run with style_weight 0"),
        ("content,style,seed,seed", "m.csv: column seed appears twice"),
        ("content,style,", "m.csv line 2: column 3 has no name and holds '1'; name it or leave it out"),
        ("content,style,pooling", "m.csv: column pooling: cannot be set per row"),
        ("content,style,weights", "m.csv: column weights: cannot be set per row"),
        ("content,style,iterations", "m.csv: column iterations: use evaluations"),
        ("content,style,row", "m.csv: column row: nstray uses this name for the row's number"),
        *(
            (f"content,style,{n}", f"m.csv: column {n}: the output has a column of this name")
            for n in RESERVED
            if n in ("image", "status", "created_at")
        ),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, header: str, words: str) -> None:
    (tmp_path / "m.csv").write_text(header + "\n" + ",".join("1" for _ in header.split(",")) + "\n")
    assert problem(tmp_path / "m.csv").startswith(words)


def test_every_output_column_is_refused_or_read(tmp_path: Path) -> None:
    for name in RESERVED:
        path = write(tmp_path / "m.jsonl", [{**ONE, name: 8}])
        if name in ("pair_id", "seed", "evaluations", "width", "height"):
            assert name in Manifest(str(path)).check(CONFIG).schema.names
        else:
            assert f"column {name}" in problem(path)


def test_a_near_miss_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", [{**ONE, "sytle_weight": 5, "caption": "x"}])
    info, got = load(path)
    assert info.warnings == ("column sytle_weight is carried through unread; did you mean style_weight?",)
    assert carried(path)[0] == {"sytle_weight": "5", "caption": "x"}
    assert got[0].overrides == {}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("m.csv", b"", "no rows"),
        ("m.csv", b"content,style\n", "no rows"),
        ("m.csv", b"content,style", "no rows"),
        ("m.jsonl", b"", "no rows"),
        ("m.jsonl", b"\n \n", "no rows"),
        ("m.parquet", b"", "no rows"),
        ("m.parquet", b"PAR1 this is no Parquet file, only its magic PAR1", "m.parquet: not a Parquet file that can be read"),
        ("m.csv", b"content,style\na,b\nc\n", "m.csv line 3: 1 column, but the header has 2: 'c'"),
        ("m.csv", b"content,style\na,b\nc,d,e\n", "m.csv line 3: 3 columns, but the header has 2: 'c,d,e'"),
        ("m.csv", b"content,style\na,b\nc\xff,d\n", "m.csv line 3: content: not UTF-8"),
        ("m.csv", b"content,style\na,b\nc\xff\n", "m.csv line 3: 1 column, but the header has 2: 'c\ufffd'"),
        ("m.csv", b"content,style,note\na,b,c\xff\n", "m.csv line 2: note: not UTF-8"),
        ("m.csv", "content,style\na,b\n".encode("utf-16-le"), "m.csv: not UTF-8"),
        ("m.jsonl", b'{"content": "a", "style": "b"}\n[1]\n', "m.jsonl line 2: must be a JSON object, {...}; got list"),
        ("m.jsonl", b'{"content": "a", "style": "b"}\n\n{"content"\n', "m.jsonl line 3: not JSON"),
        ("m.jsonl", b'{"content": "a\xff", "style": "b"}\n', "m.jsonl line 1: not UTF-8"),
        ("m.jsonl", b'{"content": "a", "style": "b"}\n{"content": 5, "style": "b"}\n', "m.jsonl row 2: content: must be string or null; got 5"),
        ("m.jsonl", b'{"content": "a", "style": ["b", 5]}\n', "m.jsonl row 1: style: must be list<"),
        (
            "m.jsonl",
            b'{"content": "a", "style": "b", "n": 5}\n{"content": "c", "style": "b", "n": "x"}\n',
            "m.jsonl row 2: n: a column holds values of one type; got 'x'",
        ),
        ("m.jsonl", b'{"content": "a", "style": "b", "n": 99999999999999999999}\n', "m.jsonl row 1: n: 99999999999999999999 does not fit"),
        ("m.jsonl", b'{"content": "a", "style": "b", "n": {}}\n', "column n can't be carried into Parquet"),
        ("m.jsonl", b'{"content": "a\\ud800", "style": "b"}\n', "m.jsonl line 1: an escape from \\ud800 to \\udfff is alone"),
        ("m.jsonl", b'{"content": "a", "style": "b", "\\udfff": 1}\n', "m.jsonl line 1: an escape from \\ud800"),
        ("m.jsonl", b'{"content": "a", "style": "b", "note": {"\\ud800": 1}}\n', "m.jsonl line 1: an escape from \\ud800"),
        ("m.csv", b'content,style\na,"[""b\\ud800""]"\n', "m.csv row 1: style: an escape from \\ud800"),
        ("m.csv", b"content,style,style_weights\na,b,[1" + b"0" * 400 + b"]\n", "m.csv row 1: style_weights: must be a JSON list"),
        ("m.csv", b"content,style,caf\xe9\na,b,c\n", "m.csv line 1: a column's name is not UTF-8 text"),
        ("m.csv", b"content,style," + b"x" * 200_000 + b"\na,b\n", "m.csv line 2: 2 columns, but the header has 3"),
        ("m.txt", b"content,style\na,b\n", "a manifest's name must end with one of .parquet, .csv, .jsonl, .ndjson"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    assert words in problem(tmp_path / name)


def test_a_ragged_csv_that_is_not_utf8_writes_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.csv").write_bytes(b"content,style\nc\xff\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", sys.__unraisablehook__)  # pytest's own keeps what Python would write
        assert "line 2: 1 column," in problem(tmp_path / "m.csv")
    assert capfd.readouterr().err == ""


def test_parquet_columns_of_a_wrong_type(tmp_path: Path) -> None:
    for column, value, words in (
        ("content", 5, "column content holds int64; must be text"),
        ("style", 5, "column style holds int64; must be text or a list of text"),
        ("style", [5.5], ""),
        ("style_weights", 0.5, "column style_weights holds double; must be a list of numbers"),
        ("size", [5], "column size holds list<"),
        ("seed", True, "column seed holds bool"),
        ("width", "wide", "column width holds string"),
    ):
        path = write(tmp_path / "m.parquet", [{**ONE, column: value}])
        if words:
            assert words in problem(path)
        else:
            assert load(path)[1][0].styles == (f"{tmp_path}/5.5",)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array([0.5]), pa.array([2**53 + 1])),
        (pa.array([2**63], pa.uint64()), pa.array([0.5], pa.float32())),
        (pa.array([2**63], pa.uint64()), pa.array([-1])),
        (pa.array([{"k": [1]}]), pa.array([{"k": [0.5]}])),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), pa.array([[("k", 0.5)]], pa.map_(pa.string(), pa.float64()))),
    ],
)
def test_integers_that_no_common_type_holds_are_refused(tmp_path: Path, first: pa.Array, second: pa.Array) -> None:
    for name, column in (("a", first), ("b", second)):
        pq.write_table(pa.table({"content": [name], "style": ["s"], "n": column}), tmp_path / f"{name}.parquet")
    # Parquet names the fields of lists and maps anew.
    kinds = [pq.read_schema(tmp_path / f"{name}.parquet").field("n").type for name in "ba"]
    assert "b.parquet: column n holds {}, but the rows before hold {}".format(*kinds) in problem(tmp_path)


def test_small_integers_and_floats_make_a_double(tmp_path: Path) -> None:
    for name, column in (("a", pa.array([2**31 - 1], pa.int32())), ("b", pa.array([0.5], pa.float32()))):
        pq.write_table(pa.table({"content": [name], "style": ["s"], "n": column}), tmp_path / f"{name}.parquet")
    assert carried(tmp_path) == [{"n": 2**31 - 1}, {"n": 0.5}]


def test_integers_and_floats_of_a_folder_of_json_lines_make_a_double(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "a", "style": "s", "score": 3}\n')
    (tmp_path / "b.jsonl").write_text('{"content": "b", "style": "s", "score": 0.5}\n')
    assert carried(tmp_path) == [{"score": 3.0}, {"score": 0.5}]


def test_what_parquet_cannot_hold_is_refused() -> None:
    for kind in (pa.month_day_nano_interval(), pa.run_end_encoded(pa.int32(), pa.int64())):
        info = ManifestInfo("m", 1, "", pa.schema([("odd", kind)]), ("odd",), (), (), ())
        with pytest.raises(ManifestError, match="column odd can't be carried into Parquet"):
            carried_types.check_writable("m", info)


@pytest.mark.parametrize("name", ["content", "style", "pair_id", "init", "size", "caption"])
def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path, name: str) -> None:
    latin = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"caf\xe9"))
    pq.write_table(pa.table({"content": ["a"], "style": ["b"]} | {name: latin}), tmp_path / "m.parquet")
    assert problem(tmp_path / "m.parquet") == f"m.parquet: column {name}: not UTF-8 text"


def test_whole_characters_by_escapes_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(b'{"content": "\\ud83d\\ude00.png", "style": "\\u00e9.png"}\n')
    (one,) = load(tmp_path / "m.jsonl")[1]
    assert [Path(u).name for u in (one.content, one.styles[0])] == ["😀.png", "é.png"]


@pytest.mark.parametrize(("opens", "closes"), ["[]", ('{"a": ', "}")])
def test_a_carried_value_too_deep_to_be_read_again_is_refused(tmp_path: Path, opens: str, closes: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"content": "a", "style": "b", "x": ' + opens * 150 + "1" + closes * 150 + "}\n")
    assert "column x can't be carried into Parquet: Parquet schema too deeply nested" in problem(path)
    path.write_text('{"content": "a", "style": "b", "x": ' + opens * 20 + "1" + closes * 20 + "}\n")
    assert load(path)[0].carried == ("x",)


def test_damaged_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", [{"content": f"{random.random()}", "style": "s.jpg"} for _ in range(5000)])
    data = bytearray(path.read_bytes())
    data[100:3000] = b"\0" * 2900
    path.write_bytes(data)
    assert problem(path).startswith("m.parquet: ")


def test_no_such_manifest_and_folders_without_one(tmp_path: Path) -> None:
    assert "no such manifest" in problem(tmp_path / "nothing.csv")
    (tmp_path / "README.md").write_text("x")
    assert "no manifest in this folder: of its 1 file none ends" in problem(tmp_path)
    write(tmp_path / "a.csv", [ONE])
    write(tmp_path / "b.jsonl", [ONE])
    assert "files of more than one format: a.csv and b.jsonl" in problem(tmp_path)


def test_types_that_no_type_holds_name_file_and_column(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{**ONE, "n": 1}])
    write(tmp_path / "b.jsonl", [{**ONE, "content": "b.jpg", "n": "x"}])
    assert problem(tmp_path).startswith("b.jsonl: column n holds string, but the rows before hold int64")


def test_a_csv_value_of_a_later_block_that_is_not_of_the_named_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 1024)
    rows = [{"content": f"{i}.jpg", "style": "s.jpg", "n": i} for i in range(500)]
    message = problem(write(tmp_path / "m.csv", [*rows, {**ONE, "n": "x"}]), JobConfig(column_types="n=int64"))
    assert message == "m.csv line 502: n: must be int64, as column_types says; got 'x'"


def test_duplicate_ids_name_both_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [{**ONE, "pair_id": "p"}, {**ONE, "pair_id": "q"}])
    write(tmp_path / "b.csv", [{**ONE, "pair_id": "r"}, {**ONE, "pair_id": "p"}, {**ONE, "pair_id": "P"}])
    assert problem(tmp_path) == "pair_id 'p' appears twice: a.csv row 1 and b.csv row 2; each row needs its own"


def test_identical_rows_without_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [ONE, {**ONE, "seed": 4}, {**ONE, "seed": 4, "note": "carried only"}])
    assert problem(path).startswith("m.jsonl row 2 and m.jsonl row 3: the same content, style and settings")


def test_many_duplicates_stop_at_ten(tmp_path: Path) -> None:
    lines = problem(write(tmp_path / "m.jsonl", [{**ONE, "pair_id": f"p{i % 20}"} for i in range(60)])).split("\n")
    assert len(lines) == 11
    assert lines[-1] == "... and 30 more rows that repeat an id"


@pytest.mark.parametrize("in_memory", [10, 1000, 10**6])
def test_id_hashes_find_duplicates_with_and_without_files(in_memory: int) -> None:
    draw = np.random.default_rng(5)
    hashes = draw.permutation(np.concatenate([np.arange(-2000, 2000), [7, 7, -3, 1999]]).astype(np.int64) * 2654435761)
    with duplicates.IdHashes(in_memory) as ids:
        for piece in np.array_split(hashes, 9):
            ids.add(piece)
        found, repeats = ids.duplicates()
        file = ids._file
        assert (file is not None) == (in_memory < len(hashes))
    assert found.tolist() == [-3 * 2654435761, 7 * 2654435761, 1999 * 2654435761]
    assert repeats == 4
    assert file is None or file.closed


def test_duplicates_beyond_what_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates.IdHashes.__init__, "__defaults__", (16,))
    monkeypatch.setattr(manifest_files, "BATCH_ROWS", 10)
    rows = [{**ONE, "pair_id": f"p{i}"} for i in range(100)]
    assert Manifest(str(write(tmp_path / "ok.jsonl", rows))).check(CONFIG).rows == 100
    rows[93]["pair_id"] = "p4"
    assert problem(write(tmp_path / "m.jsonl", rows)) == "pair_id 'p4' appears twice: m.jsonl row 5 and m.jsonl row 94; each row needs its own"


def test_a_manifest_that_changed_since_its_check_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [ONE])
    manifest = Manifest(str(path))
    info = manifest.check(CONFIG)
    write(path, [ONE, {**ONE, "seed": 1}])
    with pytest.raises(ManifestError, match="changed while it was read: 2 rows now, 1 when it was checked"):
        list(manifest.tables(info))


def test_tables_do_not_depend_on_batch_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    rows = [
        {
            "content": f"c{i}.jpg",
            "style": [f"s{k}.jpg" for k in range(draw.randint(1, 3))],
            "seed": draw.choice([None, i]),
            "tag": draw.choice([None, "t"]),
        }
        for i in range(700)
    ]
    whole: list[pa.Table] = []
    for size in (65_536, 64, 7):
        monkeypatch.setattr(manifest_files, "BATCH_ROWS", size)
        for name in ("m.jsonl", "m.parquet"):
            manifest = Manifest(str(write(tmp_path / name, rows)))
            info = manifest.check(CONFIG)
            table = pa.concat_tables(manifest.tables(info)).select(info.schema.names)
            whole.append(table.combine_chunks())
    assert all(t.equals(whole[0]) for t in whole)
    assert whole[0]["row"].to_pylist() == list(range(700))


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_a_manifest_in_a_bucket(tmp_path: Path, s3: str, name: str) -> None:
    rows = [{"content": "c/a b%20?.jpg", "style": "../s/x.jpg"}, {"content": f"{s3}/b.jpg", "style": "/local/y.jpg"}]
    local = write(tmp_path / name, rows)
    uri = f"{s3}/jobs/today/{name}"
    storage.put_new(uri, local.read_bytes())
    for at in (uri, f"{s3}/jobs/today", f"{s3}/jobs/today/"):
        manifest = Manifest(at)
        info = manifest.check(JobConfig(allow_local=True))
        got = [p for t in manifest.tables(info) for p in pairs(t, info)]
        assert [p.content for p in got] == [f"{s3}/jobs/today/c/a b%20?.jpg", f"{s3}/b.jpg"]
        assert [p.styles for p in got] == [(f"{s3}/jobs/s/x.jpg",), ("/local/y.jpg",)]
        assert [p.pair_id for p in got] == [p.pair_id for p in load(local)[1]]
        assert (info.digest == load(local)[0].digest) == (at == uri)


def test_what_is_not_there_in_a_bucket(s3: str) -> None:
    storage.put_new(f"{s3}/jobs/m.csv", b"content,style\n../../a.jpg,s.jpg\n")
    for uri, words in (
        (f"{s3}/nothing/m.csv", "no such manifest, neither an object nor a prefix"),
        (s3, "no such manifest"),
        ("s3://no-such-bucket-here/m.csv", "no such manifest"),
        (f"{s3}/jobs/m.csv", "m.csv row 1: content: ../../a.jpg"),
    ):
        with pytest.raises(ManifestError) as caught:
            Manifest(uri).check(CONFIG)
        assert words in str(caught.value)


@pytest.mark.parametrize("what", ["link to nothing", "link to itself", "file of another kind"])
def test_a_folder_with_a_file_that_can_not_be_read_is_no_manifest(tmp_path: Path, what: str) -> None:
    (tmp_path / "a.csv").write_text("content,style\na,s\n")
    for name in ("_b.csv", ".b.csv", "b.txt", "b.csv"):
        match what:
            case "link to nothing":
                (tmp_path / name).symlink_to("gone")
            case "link to itself":
                (tmp_path / name).symlink_to(name)
            case _:
                os.mkfifo(tmp_path / name)
    words = problem(tmp_path)
    assert words.startswith(f"{tmp_path}/b.csv: a {what}")
    assert words.endswith("so rows of this manifest would be missing: put the file there, or remove it from the folder")
    (tmp_path / "b.csv").unlink()
    assert load(tmp_path)[0].rows == 1
