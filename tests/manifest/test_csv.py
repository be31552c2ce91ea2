"""CSV as spreadsheets and databases write it: what is read, with which values, and what is refused with which mend."""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from manifests import CONFIG, load, problem
from nstray.config import JobConfig, make
from nstray.errors import ConfigError, ManifestError
from nstray.manifest import csv_dialect, csv_rows, json_lines
from nstray.manifest import files as manifest_files
from nstray.manifest.build import build
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import pairs
from nstray.manifest.raw_batches import ManifestFile
from nstray.manifest.text_input import TextInput
from nstray.sources.reference import as_literal


def read(path: Path, config: JobConfig = CONFIG) -> tuple[pa.Schema, list[dict[str, Any]]]:
    """The carried columns, and every row: file names of content and style, and carried values."""
    manifest = Manifest(str(path))
    info = manifest.check(config)
    rows = []
    for table in manifest.tables(info):
        values = table.select(list(info.carried)).to_pylist()
        rows += [
            {"content": Path(p.content or "").name, "style": [Path(s).name for s in p.styles], **v}
            for p, v in zip(pairs(table, info), values, strict=True)
        ]
    return pa.schema([info.schema.field(name) for name in info.carried]), rows


def wrote(folder: Path, data: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# values

WRITTEN = [
    *(
        "007",
        "00501",
        "12345678901234567890",
        "123456e789",
        "9e999",
        "1e5",
        "1.10",
        "0x1F",
        "+5",
        "-0",
        "1,5",
        "1_000",
        "NA",
        "NaN",
        "null",
        "None",
        "true",
    ),
    *("2024-02-30", "12:30", "inf", " x ", "-", "#N/A", "=1+1", "é", "日本", "1.0"),
]


@pytest.mark.parametrize("quoted", [False, True])
def test_carried_values_arrive_as_written(tmp_path: Path, quoted: bool) -> None:
    cells = [f'"{v}"' if quoted or "," in v else v for v in WRITTEN]
    path = wrote(tmp_path, "content,style,v\n" + "".join(f"{i}.jpg,s.jpg,{c}\n" for i, c in enumerate(cells)))
    schema, rows = read(path)
    assert [row["v"] for row in rows] == WRITTEN
    assert schema.field("v").type == pa.string()


def test_an_empty_cell_is_null_and_quotes_alone_are_an_empty_text(tmp_path: Path) -> None:
    _, rows = read(wrote(tmp_path, 'content,style,a,b\n1,s,,""\n2,s,"",\n'))
    assert [(row["a"], row["b"]) for row in rows] == [(None, ""), ("", None)]


@pytest.mark.parametrize(
    ("kind", "cells", "values"),
    [
        ("int64", ["007", " -5 ", "", '""', "9223372036854775807"], [7, -5, None, None, 9223372036854775807]),
        ("float64", ["1e5", "NaN", "-inf", "", "0.1"], [1e5, "nan", float("-inf"), None, 0.1]),
        ("bool", ["true", "False", "1", "0", ""], [True, False, True, False, None]),
        ("uint8", ["0", "255", "", "7", "8"], [0, 255, None, 7, 8]),
        ("date32", ["2024-01-31", "", "1999-12-31", "2000-02-29", "2001-01-01"], ["2024-01-31", None, "1999-12-31", "2000-02-29", "2001-01-01"]),
        ("timestamp[us]", ["2024-01-31 08:30:00.000001", "", "2024-01-31T08:30:00", "2024-01-31", "1970-01-01"], None),
        ("string", ["007", "", '""', "x", "y"], ["007", None, "", "x", "y"]),
    ],
)
def test_a_named_type(tmp_path: Path, kind: str, cells: list[str], values: list[Any] | None) -> None:
    path = wrote(tmp_path, "content,style,v,w\n" + "".join(f"{i}.jpg,s.jpg,{c},1\n" for i, c in enumerate(cells)))
    schema, rows = read(path, make({"column_types": f"v={kind}"}))
    assert schema.field("v").type == pa.type_for_alias(kind)
    assert schema.field("w").type == pa.string()
    got = [row["v"] for row in rows]
    if values is not None:
        assert [str(v) if kind in ("date32",) and v is not None else "nan" if v != v else v for v in got] == values
    else:
        assert [str(v) for v in got][:3] == ["2024-01-31 08:30:00.000001", "None", "2024-01-31 08:30:00"]


@pytest.mark.parametrize(
    ("kind", "cell", "words"),
    [
        ("int64", "x", "must be int64, as column_types says; got 'x'"),
        ("int64", "1.0", "must be int64"),
        ("int64", "9223372036854775808", "must be int64"),
        ("uint8", "256", "must be uint8"),
        ("float64", '"0,5"', "must be float64, as column_types says, with a decimal point and no comma; got '0,5'"),
        ("float64", "9e999", "must be float64"),
        ("float32", "1e39", "must be float32"),
        ("bool", "yes", "must be bool, as column_types says: true or false; got 'yes'"),
        ("date32", "31.01.2024", "must be date32, as column_types says: a date such as 2024-01-31"),
        ("timestamp[us]", "2024-01-31T10:00:00Z", "must be timestamp[us], as column_types says: a time without zone"),
    ],
)
def test_a_value_that_is_not_of_the_named_type_is_refused_by_its_line(tmp_path: Path, kind: str, cell: str, words: str) -> None:
    good = {"bool": "true", "date32": "2024-01-01", "timestamp[us]": "2024-01-01"}.get(kind, "1")
    # Lines of comments, of more than one line, blank ones and rows of separators come before it.
    path = wrote(tmp_path, f'# made by hand\ncontent,style,v\n"a\nb.jpg",s.jpg,{good}\n\n,,\nc.jpg,s.jpg,{cell}\n')
    assert problem(path, make({"column_types": f"v={kind}"})).startswith(f"m.csv line 7: v: {words}")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lable=int64", "column_types names lable, which is no column of the manifest: it carries label; did you mean label?"),
        ("seed=int64", "column_types: seed is a column that nstray reads and has its own type"),
    ],
)
def test_a_type_for_another_column_is_refused(tmp_path: Path, setting: str, words: str) -> None:
    assert words in problem(wrote(tmp_path, "content,style,label\na,s,1\n"), make({"column_types": setting}))


def test_types_are_for_csv(tmp_path: Path) -> None:
    path = wrote(tmp_path, '{"content": "a", "style": "s", "label": 1}\n', "m.jsonl")
    assert "column_types is for CSV" in problem(path, make({"column_types": "label=int64"}))


@pytest.mark.parametrize(
    "given", ["b=float64, a=int64", {"a": "int64", "b": "float64"}, ["a=int64", "b=float64"], ("a=int64", "b=float64", "a=int64")]
)
def test_column_types_as_text_mapping_and_list(given: Any) -> None:
    assert make({"column_types": given}).column_types == ("a=int64", "b=float64")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("label", "must be NAME=TYPE"),
        ("label=int", "no such type: 'int'"),
        ("=int64", "must be NAME=TYPE"),
        ("a=int64,a=string", "a has two types: int64 and string"),
        (5, "must be NAME=TYPE"),
    ],
)
def test_wrong_column_types(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match="column_types") as caught:
        make({"column_types": given})
    assert words in str(caught.value)


def test_column_types_change_no_result() -> None:
    plain, typed = make({}), make({"column_types": "label=int64"})
    assert plain.result_fields() == typed.result_fields()
    assert make(typed.model_dump(mode="json")) == typed


def test_a_folder_in_which_one_file_lacks_the_typed_column(tmp_path: Path) -> None:
    wrote(tmp_path, "content,style\na,s\n", "a.csv")
    wrote(tmp_path, "content;style;n\nb;s;3\n", "b.csv")
    schema, rows = read(tmp_path, make({"column_types": "n=int64"}))
    assert schema.field("n").type == pa.int64()
    assert [row["n"] for row in rows] == [None, 3]


def test_nstrays_own_numbers_are_read_from_text(tmp_path: Path) -> None:
    text = 'content,style,width,height,seed,content_weight,style_weights,size\na,s,640,480.0,"7",1e-3,"[2]",0064\nb,s,"",,"",,,\n'
    path = wrote(tmp_path, text)
    info, got = load(path)
    assert [p.overrides for p in got] == [{"seed": 7, "content_weight": 1e-3, "size": 64}, {}]
    table = pa.concat_tables(Manifest(str(path)).tables(info))
    assert (table["width"].to_pylist(), table["height"].to_pylist()) == ([640, None], [480, None])


@pytest.mark.parametrize("width", ["640px", "0", "1.5", "-3", "1e3", "9999999999"])
def test_a_wrong_width(tmp_path: Path, width: str) -> None:
    words = f"m.csv row 1: width: must be a whole number of pixels of at least 1; got '{width}'"
    assert problem(wrote(tmp_path, f"content,style,width\na,s,{width}\n")) == words


# dialects

ROW = [{"content": "c.png", "style": ["s.png"], "label": "cat"}]


@pytest.mark.parametrize(
    "text",
    [
        "content;style;label\nc.png;s.png;cat\n",
        "content\tstyle\tlabel\nc.png\ts.png\tcat\n",
        "content|style|label\nc.png|s.png|cat\n",
        "\ufeffcontent;style;label\r\nc.png;s.png;cat\r\n",
        '"content";"style";"label"\n"c.png";"s.png";"cat"\n',
        "sep=;\r\ncontent;style;label\r\nc.png;s.png;cat\r\n",
        "sep=,\r\ncontent,style,label\r\nc.png,s.png,cat\r\n",
        "sep=\t\r\ncontent\tstyle\tlabel\r\nc.png\ts.png\tcat\r\n",
        '\ufeff"sep=^"\ncontent^style^label\nc.png^s.png^cat\n',
        "sep=,,,\ncontent,style,label\nc.png,s.png,cat\n",
        "content,style,label,\nc.png,s.png,cat,\n",
        "content;style;label;;\nc.png;s.png;cat;;\n".replace(";;", ";"),
        "content,style,label\nc.png,s.png,cat,\n",
        "content,style,label,\nc.png,s.png,cat\n",
        "content,style,label\r\nc.png,s.png,cat\r\n,,\r\n,,\r\n",
        "content;style;label;;\nc.png;s.png;cat;;\n",
        "content;style;label\nc.png;s.png;cat;;;\n",
        "content;style;label;;;\nc.png;s.png;cat\n",
        "content;style;label;\nc.png;s.png;cat;;\n",
        "content\tstyle\tlabel\t\t\nc.png\ts.png\tcat\t\t\n",
        "content,style,label,,\n,,,,\nc.png,s.png,cat,,\n",
        "content,style,label\r\n , ,\r\nc.png,s.png,cat\r\n , ,\r\n , \t,\r\n",
        "content, style, label\nc.png, s.png, cat\n , ,\n",
        "content, style, label, ,\nc.png, s.png, cat, ,\n",
        "\n\ncontent,style,label\n\nc.png,s.png,cat\n\n",
        "content, style, label\nc.png, s.png, cat\n",
        "content | style | label\nc.png   | s.png | cat\n",
        " content ,style,label\nc.png,s.png,cat\n",
        "# made by hand\ncontent,style,label\nc.png,s.png,cat\n",
        "# one\n# two, three\n\ncontent;style;label\nc.png;s.png;cat\n",
        "content,style,label\rc.png,s.png,cat\r",
        "content,style,label\nc.png,s.png,cat",
        'content;style;label\nc.png;"[""s.png""]";cat\n',
    ],
)
def test_what_is_read(tmp_path: Path, text: str) -> None:
    _, rows = read(wrote(tmp_path, text))
    assert rows == ROW


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_encodings_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    _, rows = read(wrote(tmp_path, "content\tstyle\tlabel\r\né.png\ts.png\t日本\r\n".encode(encoding)))
    assert rows == [{"content": "é.png", "style": ["s.png"], "label": "日本"}]


def test_utf16_of_the_other_order_over_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 1023)
    monkeypatch.setattr(csv_dialect, "SAMPLE_BYTES", 200)
    text = "content;style;label\n" + "".join(f"{i}.png;s.png;😀{i}\n" for i in range(2000))
    _, rows = read(wrote(tmp_path, b"\xfe\xff" + text.encode("utf-16-be")))
    assert [row["label"] for row in rows] == [f"😀{i}" for i in range(2000)]


@pytest.mark.parametrize(
    ("name", "text", "packed"),
    [
        ("m.tsv", "content\tstyle\tlabel\nc.png\ts.png\tcat\n", False),
        ("m.TSV", "content\tstyle\tlabel\nc.png\ts.png\tcat\n", False),
        ("m.tsv", "content,style,label\nc.png,s.png,cat\n", False),
        ("m.csv.gz", "content,style,label\nc.png,s.png,cat\n", True),
        ("m.tsv.gz", "content\tstyle\tlabel\nc.png\ts.png\tcat\n", True),
        ("m.csv.gz", "content,style,label\nc.png,s.png,cat\n", False),  # unpacked by whatever fetched it
        ("m.csv", "content;style;label\nc.png;s.png;cat\n", True),
        ("m.jsonl.gz", '{"content": "c.png", "style": "s.png", "label": "cat"}\n', True),
    ],
)
def test_endings_and_gzip(tmp_path: Path, name: str, text: str, packed: bool) -> None:
    data = text.encode()
    _, rows = read(wrote(tmp_path, gzip.compress(data, mtime=0) if packed else data, name))
    assert rows == ROW


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("content, style, label\nc, s, a b \n", "a b "),
        ("content , style , label\nc , s ,  a b\n", "a b"),
        ("content ,style ,label\nc ,s , a b\n", " a b"),
        ("content, style, label\nc, s,   \n", None),
        ("content,style, label\nc,s, a b\n", " a b"),  # not all separators have a space
        ('content, style, label\nc, s," a b "\n', " a b "),
        ('content, style, label\nc, s,""\n', ""),
        ('content, style, label\nc, s,"   "\n', "   "),
        ('content , style , label\n"c" ,s ,"a, ""b"" \n "\n', 'a, "b" \n '),
        ('content ,style ,label\nc ,"s" ,a "b"\n', 'a "b"'),
    ],
)
def test_spaces_beside_all_separators_are_no_part_of_cells(tmp_path: Path, text: str, label: str | None) -> None:
    assert read(wrote(tmp_path, text))[1] == [{"content": "c", "style": ["s"], "label": label}]


def test_spaces_beside_separators_in_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_dialect, "SAMPLE_BYTES", 32)
    values = [f"{' ' * (i % 3)}{i}, \r\n x{{' ' * (i % 5)}}" for i in range(40)]
    text = "content , style , v , n\r\n" + "".join(f'{i}.png , s.png ,"{v}" , {i}\r\n\r\n' for i, v in enumerate(values))
    for block in (60, 64, 101, 4096):
        monkeypatch.setattr(manifest_files, "BLOCK_BYTES", block)
        assert [(row["v"], row["n"]) for row in read(wrote(tmp_path, text))[1]] == [(v, str(i)) for i, v in enumerate(values)]
    words = problem(wrote(tmp_path, text + "x , s\r\n"))
    assert words.startswith(f"m.csv line {text.count(chr(10)) + 1}: 2 columns, but the header has 4: 'x,s'")


def test_one_column(tmp_path: Path) -> None:
    _, got = load(wrote(tmp_path, "content\na.png\n\n   \nb.png\n \t\n"), JobConfig(style_weight=0))
    assert [Path(p.content or "").name for p in got] == ["a.png", "b.png"]


def test_names_in_quotes_keep_their_spaces(tmp_path: Path) -> None:
    schema, rows = read(wrote(tmp_path, 'content,style," my label "\nc.png,s.png," x "\n'))
    assert schema.names == [" my label "]
    assert rows[0][" my label "] == " x "


def test_values_that_look_odd_and_are_right(tmp_path: Path) -> None:
    _, rows = read(wrote(tmp_path, 'content,style,j,p,q\nc,s,"{""k"": ""a\\""b""}","C:\\dir\\",5" pipe\n'))
    assert rows == [{"content": "c", "style": ["s"], "j": '{"k": "a\\"b"}', "p": "C:\\dir\\", "q": '5" pipe'}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_line_ends_in_cells_that_blocks_cut_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.setattr(csv_dialect, "SAMPLE_BYTES", 32)
    values = [f"{'x' * (i % 7)}\r\n{i}\r\r\n\n\r" for i in range(40)]
    path = wrote(tmp_path, ("content,style,v\r\n" + "".join(f'{i}.png,s.png,"{v}"\r\n' for i, v in enumerate(values))).encode(encoding))
    for block in range(100, 140):
        monkeypatch.setattr(manifest_files, "BLOCK_BYTES", block)
        assert [row["v"] for row in read(path)[1]] == values


def test_empty_rows_count_for_no_row_in_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 256)
    monkeypatch.setattr(csv_dialect, "SAMPLE_BYTES", 64)
    lines = [f"{i}.png,s.png,{i}\n" + ",,\n" * (i % 3) for i in range(300)]
    path = wrote(tmp_path, "content,style,n\n" + "".join(lines))
    _, rows = read(path)
    assert [row["n"] for row in rows] == [str(i) for i in range(300)]
    path.write_text(path.read_text() + "last.png,s.png,x\n")
    line = len(path.read_text().splitlines())
    assert problem(path, make({"column_types": "n=int64"})).startswith(f"m.csv line {line}: n: must be int64")


# quotes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        # The trial's two: rows between an open quote and the next one, or the end of the file, were lost.
        (
            'a,s,"abc\nb,s,x\nc,s,"def"\n',
            "line 2: v: a quote opens a cell, and text follows the next quote, on line 4: is the quote on line 2 not closed?",
        ),
        ('a,s,"abc\nb,s,x\n', "line 2: v: a quote opens a cell and is not closed up to the end of the file: close it"),
        ('a,s,"', "line 2: v: a quote opens a cell and is not closed"),
        ('a,s,x\na,s,"x""', "line 3: v: a quote opens a cell and is not closed"),
        ('a,"s,x\n"b",s,y\n', "line 2: style: a quote opens a cell, and text follows the next quote, on line 3"),
        ('"x\ny",s,"1\n2"\n\na,s,"abc\nb,s,""\nc,s,"def"\n', "line 6: v: a quote opens a cell, and text follows the next quote, on line 8"),
        ('"x\ny",s,"abc\r\nb,s,"d"\r\n', "line 3: v: a quote opens a cell, and text follows the next quote, on line 4"),
        ('a,s,"a"b\n', "line 2: v: text follows the quote that closes a cell: put the whole cell in quotes; a quote inside a quoted cell is"),
        ('a,s,""b\n', "line 2: v: text follows the quote that closes a cell"),
        ('a,s,""b""\n', "line 2: v: text follows the quote that closes a cell"),
        ('a,"s"x,y\n', "line 2: style: text follows the quote that closes a cell"),
        ('a,s,"y" \n', "line 2: v: spaces follow the quote that closes a cell: remove them"),
        (
            'a,s,"5\\""\nb,s,y\n',
            "line 2: v: a quote opens a cell and is not closed up to the end of the file: close it; a quote inside a quoted cell is",
        ),
        ('a,s,"5\\""\nb,s,"y"\n', 'written twice (""), not with a backslash'),
        ('a,s,"x" y,"z"\n', "line 2: v: text follows the quote that closes a cell"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_wrong_quote_is_refused_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str, words: str, separator: str) -> None:
    text = ("content,style,v\n" + rows).replace(",", separator)
    for block in (2**20, 24):
        monkeypatch.setattr(manifest_files, "BLOCK_BYTES", block)
        message = problem(wrote(tmp_path, text))
        assert words in message
        assert message.startswith("m.csv line ")
        assert message.endswith(")")  # how the file was read


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('content,style,"v', "line 1: a quote opens a cell and is not closed up to the end of the file"),
        ('content,"style,v', "line 1: a quote opens a cell and is not closed"),
        ('content,"sty"le,v', "line 1: text follows the quote that closes a cell"),
        ('# x\n"content"x,style,v', "line 2: text follows the quote that closes a cell"),
    ],
)
def test_a_wrong_quote_in_the_header(tmp_path: Path, header: str, words: str) -> None:
    assert problem(wrote(tmp_path, f"{header}\na,s,x\n")).startswith(f"m.csv {words}")


def test_an_open_quote_of_a_file_of_many_blocks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(csv_dialect, "SAMPLE_BYTES", 100)
    start = "content,style,v\n" + '"x\ny",s,"a ""b"" c"\n' * 500 + 'a,s,"open\n'
    path = wrote(tmp_path, start + "b,s,x\n" * 5000)
    assert problem(path).startswith("m.csv line 1002: a row of more than 0 MiB: is a quote not closed?")
    path = wrote(tmp_path, start + "b,s,x\n" * 100 + 'c,s,"d"\n' + "b,s,x\n" * 5000)
    assert problem(path).startswith("m.csv line 1002: v: a quote opens a cell, and text follows the next quote, on line 1103")


def test_whatever_is_read_is_what_the_standard_library_reads(tmp_path: Path) -> None:
    chance, accepted, refused = random.Random(1), 0, 0
    for _ in range(3000):
        pieces = chance.choices(['"', '""', ",", "\n", "a", " ", "\r\n", '"b"', ',"', '",', "\\"], k=chance.randrange(1, 14))
        text = "content,style\n" + "".join(pieces)
        path = wrote(tmp_path, text)
        file = ManifestFile(str(path), "m.csv", "csv", len(text))
        try:
            batches = list(csv_rows.read(file, {}, chance.choice([8, 64, 4096])))
        except ManifestError:
            refused += 1
            continue
        got = [
            [c if c is not None else "" for c in row] for (_, columns, _), _ in batches for row in zip(*(c.to_pylist() for c in columns), strict=True)
        ]
        want = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if any(map(str.strip, row))][1:]
        assert [row for row in got if any(map(str.strip, row))] == [row[:2] for row in want], text
        accepted += 1
    assert min(accepted, refused) > 300


@pytest.mark.parametrize("blank", [" , ,\n", ",,\n", "\n"])
def test_lines_are_right_behind_blank_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 64)
    monkeypatch.setattr(csv_dialect, "SAMPLE_BYTES", 64)
    text = "content,style,n\n" + "".join(f"{i}.png,s.png,1\n{blank}{blank}" for i in range(30))
    assert len(read(wrote(tmp_path, text))[1]) == 30
    for fault, words in (
        ("a.png,s.png,x\n", "n: must be int64"),
        ("a.png,s.png\n", "2 columns, but the header has 3: 'a.png,s.png'"),
        ("a.png,s.png,\udcff\n", "n: not UTF-8 text"),
        ('a.png,s.png,"1"2\n', "n: text follows the quote"),
        ("a.png\udcff,s.png\n", "2 columns, but the header has 3"),
    ):
        path = wrote(tmp_path, (text + fault + blank).encode("utf-8", "surrogateescape"))
        assert problem(path, make({"column_types": "n=int64"})).startswith(f"m.csv line 92: {words}")


# what is refused, with the mend


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Content,Style\nc,s\n", "no column content; its columns are Content, Style; rename Content to content"),
        ("content,STYLE\nc,s\n", "rename STYLE to style"),
        ("image,style\nc,s\n", "no column content; its columns are image, style; rename image to content, if that is it (read with separator ','"),
        (
            "file_name;style\nc;s\n",
            "its columns are file_name, style; rename file_name to content, if that is it (read with separator ';', encoding UTF-8)",
        ),
        ("#content,style\nc,s\n", "rename #content to content"),
        ('content," style"\nc,s\n', "its columns are content, ' style'; rename ' style' to style"),
        ("a.jpg,s.jpg\nb.jpg,s.jpg\n", "does the first line hold data? Put a line of column names above it"),
        ("content style\nc s\n", "separate the columns by comma, semicolon, tab or |, or say sep=X"),
        ("content:style\nc:s\n", "separate the columns by comma"),
        ("content,style,\nc,s,\nd,s,x\n", "line 3: column 3 has no name and holds 'x'"),
        ("content;style;;\nc;s;;\nd;s;x;\n", "line 3: column 3 has no name and holds 'x'"),
        ("content;style;;\nc;s;;\n\n ;;;\nd;s;;x\n", "line 5: column 4 has no name and holds 'x'"),
        ("content,style\n  \nc,s\n  \n", "line 2: 1 column, but the header has 2: '  ' (separator ','); it holds no value: remove this line"),
        ("content;;style\nc;;s\n", "column 2 has no name"),
        (";;\nc;s;\n", "line 2: column 2 has no name and holds 's'"),
        (";;\nc;;\n", "column 1 has no name"),
        (",content,style\n0,c,s\n", "column 1 has no name; name it or leave it out (from pandas: index=False)"),
        ("content,style\nc,s\nd,s,\n", "line 3: 3 columns, but the header has 2: 'd,s,' (separator ','); it ends with a separator"),
        ("content,style\nc,s\n# note\n", "line 3: 1 column, but the header has 2: '# note' (separator ','); is it a comment?"),
        ("content,style\nc,s\n#d,s\n", "row 2: content: '#d' begins with #: comments may stand before the header alone"),
        ("content;style\nc;s\nd,s\n", "line 3: 1 column, but the header has 2: 'd,s' (separator ';'); this row has another separator"),
        ("content,style,label\nc,s,x, y\n", "put a cell that holds the separator in double quotes"),
        ('content,style\n"c,s\nd,s\n', "line 2: content: a quote opens a cell and is not closed up to the end of the file: close it"),
        ('content, style\nc, "s"\n', "line 2: style: a quote after a space does not open a quoted cell"),
        ('content, style\nc, "[""s"", ""t""]"\n', "a quote after a space does not open a quoted cell: remove the space"),
        ('content,"style"\nc,s\nd,"[\\"s\\",\\"t\\"]"\n', "line 3: style: a quote after a backslash: a quote inside a quoted cell is written twice"),
        ('content,style,v\nc,s,"he said \\"hi\\""\n', "line 2: v: a quote after a backslash"),
        ("content,style\nc,s\ncontent,style\n", "line 3: the header again, as files that were joined have it"),
        ("content;style;content_weight\nc;s;0,5\n", "got '0,5' (a decimal comma: write a point)"),
        ("content,style\nphotos\\c.png,s\n", r"content: 'photos\\c.png' is a path of Windows: write / in place of \, relative"),
        ("content,style\nc,C:/art/s.png\n", "style: 'C:/art/s.png' is a path of Windows"),
        ("content,style\nc, s.png\n", "row 1: style: ' s.png' begins with white space: remove it"),
        ("content,style\nc.png ,s\n", "row 1: content: 'c.png ' ends with white space"),
        ("content,style\na.tar::../b.jpg,s\n", "row 1: content: 'a.tar::../b.jpg': the member '../b.jpg' leads out of its archive"),
        ("content,style\na.tar::b.jpg ,s\n", "row 1: content: 'a.tar::b.jpg ': ends with white space"),
        (
            "content,style\nc,data/0.parquet::image\n",
            "row 1: style: 'data/0.parquet::image': 'image' is no cell: a member of such a file is COLUMN[ROW]",
        ),
        ("content,style\nc,s3://b/k.tar.gz::s.jpg\n", "style: 's3://b/k.tar.gz::s.jpg' names a member of an archive that is compressed as a whole"),
        (
            "content,style\na.zip::b.jpg,s\n",
            "that is a zip file, which nstray does not read: unpack it and name the files, or make a tar (if the file's name",
        ),
        ("content,style\ns3:/b/c.png,s\n", "row 1: content: 's3:/' begins no URI: did you mean s3://b/c.png? Write ./ before"),
        ("content,style\nc,s3//b/s.png\n", "style: 's3//' begins no URI: did you mean s3://b/s.png?"),
        ('content,style\nc,"[""file:/b/s.png""]"\n', "style: 'file:/' begins no URI: did you mean file:///b/s.png?"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, words: str) -> None:
    message = problem(wrote(tmp_path, text))
    assert message.startswith("m.csv")
    assert words in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("content,style\ncaf\xe9,s\n".encode("latin-1"), "m.csv line 2: content: not UTF-8 text; save the file as UTF-8"),
        ("content;style;n\nc;s;\x80\n".encode("latin-1"), "iconv -f WINDOWS-1252 -t UTF-8"),
        (b"content,style\nc,s\nd\0,s\n", "m.csv line 3: a NUL byte, so this is not text"),
        ("content,style\nc,s\n".encode("utf-16-be"), "it looks like UTF-16 without a byte order mark"),
        ("content,style\nc,s\n".encode("utf-16") + b"\x00", "m.csv: not UTF-16 text, as its byte order mark says"),
        (b"PK\x03\x04 xl/workbook.xml", "m.csv: this is a ZIP archive or an Excel workbook"),
        (b"PAR1 something", "m.csv: this is a Parquet file; give it the ending .parquet"),
        (gzip.compress(b"content,style\n" + b"c,s\n" * 99, mtime=0)[:-12], "m.csv: damaged gzip"),
        (b"\x1f\x8b is no gzip at all", "m.csv: damaged gzip"),
        (b"BZh91AY", "m.csv: this is compressed with bzip2"),
    ],
)
def test_bytes_that_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in problem(wrote(tmp_path, data))


def test_a_faulty_byte_in_a_later_block_is_found_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(csv_dialect, "SAMPLE_BYTES", 100)
    rows = [f'"{i}\n.png",s.png,x\n' for i in range(500)]
    for fault, words in (
        (b"a\0.png,s.png,x\n", "a NUL byte"),
        (b"a\xff.png,s.png,x\n", "content: not UTF-8"),
        (b'a.png,s.png,"\\"x\\""\n', "v: a quote after a backslash"),
        (b"a.png,s.png\n", "2 columns, but the header has 3"),
    ):
        path = wrote(tmp_path, b"content,style,v\n" + "".join(rows).encode() + fault)
        assert problem(path).startswith(f"m.csv line 1002: {words}")


def test_a_row_of_more_than_a_block_names_the_open_quote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 2**20)
    path = wrote(tmp_path, 'content,style,v\na,s,"' + "x" * (3 * 2**20) + '"\n')
    assert problem(path).startswith("m.csv line 2: a row of more than 1 MiB: is a quote not closed?")


@pytest.mark.parametrize(
    ("name", "words"),
    [("m.csv.gz", "the header is longer than 1 MiB"), ("m.jsonl.gz", "a line of more than 0 MiB"), ("m.tsv.gz", "the header is longer")],
)
def test_a_compressed_file_without_lines_is_unpacked_as_far_as_a_line_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 2**19)
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 2**18)
    unpacked: list[int] = []
    honest = TextInput._raw

    def raw(self: TextInput, size: int) -> bytes:
        data = honest(self, size)
        unpacked.append(len(data))
        return data

    monkeypatch.setattr(TextInput, "_raw", raw)
    assert words in problem(wrote(tmp_path, gzip.compress(b"a" * 2**26, 1), name))
    assert sum(unpacked) < 2**22


def test_a_header_without_an_end(tmp_path: Path) -> None:
    assert "the header is longer than 1 MiB" in problem(wrote(tmp_path, "content," + "x" * 2**21))
    comments = '# a comment, "with an open quote and text\n' * 30_000
    assert "m.csv: no line of column names in the first" in problem(wrote(tmp_path, comments))


@pytest.mark.parametrize("text", ["", "\n\r\n", "# only a comment\n", "content,style\n,\n,\n", "sep=;\n", "\ufeff"])
def test_files_without_rows(tmp_path: Path, text: str) -> None:
    assert "no rows; a manifest needs at least one pair" in problem(wrote(tmp_path, text))


# references

ODD_NAMES = [
    "carriage\rreturn.png",
    "line\nfeed.png",
    " lead.png",
    "trail.png",
    "back\\slash.png",
    "a.tar::b.png",
    "C:/drive.png",
    "#1.png",
    "x::y.png",
    'say \\"hi\\".png',
    "s3:x.png",
    "s3:/b.png",
]


@pytest.mark.parametrize("end", ["csv", "jsonl", "parquet"])
def test_what_build_writes_is_read_as_the_same_files(tmp_path: Path, end: str) -> None:
    for name in ODD_NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "s.png").write_bytes(b"")
    out = tmp_path / f"m.{end}"
    build(str(tmp_path), str(tmp_path / "style"), pairs="all", seed=0, out=str(out))
    found = {p.content for p in load(out)[1]}
    assert {as_literal(str(tmp_path / name)) for name in ODD_NAMES} <= found
    assert all(Path(str(uri)).exists() for uri in found)


def test_a_path_that_begins_with_a_dot_is_taken_literally(tmp_path: Path) -> None:
    for name in ODD_NAMES:
        cell = "./" + name.replace('"', '""')
        _, got = load(wrote(tmp_path, f'content,style\n"{cell}",s.png\n'))
        literal = "./" if ".tar::" in name else ""  # what tells it from a member
        assert got[0].content == f"{tmp_path}/{literal}{name}"


def test_white_space_in_json_lines_is_the_files_own(tmp_path: Path) -> None:
    _, got = load(wrote(tmp_path, '{"content": " a.png", "style": "s.png "}\n', "m.jsonl"))
    assert (got[0].content, got[0].styles) == (f"{tmp_path}/ a.png", (f"{tmp_path}/s.png ",))


# JSON Lines


def lines(folder: Path, *values: str) -> Path:
    return wrote(folder, "".join(f'{{"content": "{i}.png", "style": "s.png", "v": {v}}}\n' for i, v in enumerate(values)), "m.jsonl")


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["9007199254740993", "-9223372036854775808"], [9007199254740993, -9223372036854775808]),
        (["9223372036854775807", "null"], [9223372036854775807, None]),
        (["1", "2.5", "-0.0"], [1.0, 2.5, -0.0]),
        (["1.5", "Infinity", "-Infinity"], [1.5, float("inf"), float("-inf")]),
        (['"007"', '""', '"NaN"'], ["007", "", "NaN"]),
        (['{"a": [1, 9007199254740993]}'], [{"a": [1, 9007199254740993]}]),
        (["true", "null", "false"], [True, None, False]),
    ],
)
def test_json_values_arrive_as_written(tmp_path: Path, texts: list[str], values: list[Any]) -> None:
    assert [row["v"] for row in read(lines(tmp_path, *texts))[1]] == values


def test_json_nan_is_a_float_and_no_null(tmp_path: Path) -> None:
    schema, rows = read(lines(tmp_path, "NaN", "null"))
    assert schema.field("v").type == pa.float64()
    assert [str(row["v"]) for row in rows] == ["nan", "None"]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["9223372036854775808"], "row 1: v: 9223372036854775808 does not fit a signed integer of 64 bits; write it as text"),
        (["1", '{"k": 2}'], "row 2: v: a column holds values of one type"),
        (['{"k": [18446744073709551616]}'], "row 1: v: 18446744073709551616 does not fit"),
        (["1.5", "99999999999999999999"], "row 2: v: 99999999999999999999 does not fit"),
        (["9007199254740993", "0.5"], "row 2: v: a column holds values of one type; got 0.5"),
        (["1", "1e400"], "line 2: the number 1e400 is beyond a double; write it as text"),
        (["-" + "1" * 5000], "line 1: an integer of thousands of digits"),
        (['{"k": 1, "k": 2}'], "line 1: the key 'k' appears twice in one object"),
        (["1", '[{"a": 1}, {"b": 1, "b": 1}]'], "line 2: the key 'b' appears twice"),
        (['1, "content": "other.png"'], "line 1: the key 'content' appears twice"),
        (["true", "1"], "row 2: v: a column holds values of one type; got 1"),
    ],
)
def test_json_that_would_not_arrive_as_written_is_refused(tmp_path: Path, texts: list[str], words: str) -> None:
    assert problem(lines(tmp_path, *texts)).startswith(f"m.jsonl {words}")


def test_large_integers_and_floats_of_two_batches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "BATCH_ROWS", 1)
    assert "column v holds" in problem(lines(tmp_path, "0.5", "9007199254740993"))
    assert "column v holds" in problem(lines(tmp_path, "9007199254740993", "0.5"))
    assert [row["v"] for row in read(lines(tmp_path, "3", "0.5"))[1]] == [3.0, 0.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"content": "a", "style": "s"}]\n', "line 1: must be a JSON object, {...}; got list; JSON Lines is no array"),
        ('[\n{"content": "a", "style": "s"}\n]\n', "line 1: not JSON: Expecting value: line 1 column 2 (char 1); JSON Lines is no array"),
        ('{\n "content": "a"\n}\n', "an object stands on one line"),
    ],
)
def test_json_that_is_no_json_lines(tmp_path: Path, text: str, words: str) -> None:
    assert words in problem(wrote(tmp_path, text, "m.jsonl"))


def test_json_lines_in_utf16(tmp_path: Path) -> None:
    assert read(wrote(tmp_path, '{"content": "é.png", "style": "s.png"}\n'.encode("utf-16"), "m.jsonl"))[1][0]["content"] == "é.png"


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 100)
    with pytest.raises(ManifestError, match="a line of more than"):
        Manifest(str(wrote(tmp_path, '{"content": "' + "x" * 5000, "m.jsonl"))).check(CONFIG)
