"""Packed Parquet: order, splits, schema, sizes; what an export is asked for."""

from __future__ import annotations

import hashlib
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_types import VALUES
from arrow_types import table as every_type
from datasets_made import CARRIED, CLASSES, class_folders, content, dataset, failed, files, row
from outputs import footer, job_record, ok_row
from PIL import Image

from nstray.commands.export import export
from nstray.errors import OutputError, UsageError
from nstray.exports import parquet
from nstray.exports.packing import Note, make_tasks
from nstray.output.folder import Output
from nstray.output.part_file import encode_part
from nstray.output.reader import table_rows
from nstray.output.schema import encode_schema, features, part_schema, stored_schema


def table(to: Path, split: str = "train") -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in sorted((to / "data").glob(f"{split}-*.parquet"))])


def test_rows_splits_and_schema(tmp_path: Path) -> None:
    rows = class_folders(tmp_path)
    to = tmp_path / "to"
    counts = export(dataset(tmp_path, rows), str(to), format="parquet", workers=1)
    assert files(to) == ["data/train-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"]
    assert (counts["images"], counts["errors"], counts["splits"]) == (9, 1, {"train": 6, "val": 3})
    assert counts["bytes"] == sum(p.stat().st_size for p in (to / "data").iterdir())
    for split in ("train", "val"):
        got = {r["pair_id"]: r for r in table(to, split).to_pylist()}
        wanted = {r["pair_id"]: r for r in rows if r["split"] == split and r["status"] == "ok"}
        assert set(got) == set(wanted)
        for name, r in got.items():
            assert (r["image"], r["label"], r["caption"]) == (wanted[name]["image"], wanted[name]["label"], wanted[name]["caption"])
            assert r["content_uri"] == wanted[name]["content_uri"].removeprefix(f"{tmp_path}/in/")
    schema = pq.read_schema(to / "data/val-00000-of-00001.parquet")
    assert features(schema) == {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    assert "loss_curve" not in schema.names
    assert not schema.field("pair_id").nullable
    text = (to / "README.md").read_text()
    assert '  - split: "val"\n    path: data/val-*-of-00001.parquet\n' in text
    assert "Rows are shuffled within each split (seed 0)." in text


@pytest.mark.dev
def test_hugging_face_datasets_loads_the_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = class_folders(tmp_path)
    export(dataset(tmp_path, rows), str(tmp_path / "to"), format="parquet", workers=1)
    loaded = datasets.load_dataset(str(tmp_path / "to"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 6, "val": 3}
    assert loaded["train"].features["label"].names == CLASSES
    assert loaded["val"][0]["image"].size == (24, 16)


@pytest.mark.dev
def test_duckdb_reads_the_files(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    export(dataset(tmp_path, class_folders(tmp_path)), str(tmp_path / "to"), format="parquet", workers=1)
    found = duckdb.sql(f"select label, count(*) from '{tmp_path}/to/data/train-*.parquet' group by all order by all").fetchall()
    assert found == [(0, 2), (1, 3), (2, 1)]


def test_the_order_follows_from_the_seed_and_the_ids_alone(tmp_path: Path) -> None:
    rows = [row(tmp_path, i, f"{i}.jpg", f"s{i // 50}.jpg") for i in range(200)]
    orders = {}
    for name, some, part, seed in (
        ("a", rows, 16, "0"),
        ("b", rows, 7, "0"),
        ("c", rows[::-1], 50, "0"),
        ("d", rows, 16, "1"),
        ("e", rows, 9, "none"),
    ):
        base = tmp_path / name
        export(dataset(base, some, part=part), str(base / "to"), format="parquet", workers=1, shuffle=seed, shard_mb=0.02)
        assert len(files(base / "to")) > 3
        orders[name] = table(base / "to")["pair_id"].to_pylist()
    assert orders["a"] == orders["b"] == orders["c"]
    assert orders["a"] != orders["d"]
    assert orders["e"] == [r["pair_id"] for r in rows]
    assert sorted(orders["a"]) == sorted(orders["d"]) == orders["e"]
    styles = [int(i[1:]) // 50 for i in orders["a"]]
    runs = 1 + sum(a != b for a, b in pairwise(styles))
    assert 130 < runs < 170  # of 200 rows in random order: 150.5 and a standard deviation of 5.3


def test_sizes_of_files() -> None:
    buckets = {str(i): [10, 1000 + i % 7] for i in range(100)}
    total = sum(size for _, size in buckets.values())
    for most in (4_000.0, 30_000.0, 99_000.0, 1e9):
        tasks = make_tasks(Note(splits={"train": buckets}), most)
        sizes = [sum(buckets[str(b)][1] for first, last in t.chunks for b in range(first, last)) for t in tasks]
        assert sum(sizes) == total
        assert max(sizes) <= most
        assert min(sizes) >= min(total, most / 3)
        assert [t.first for t in tasks] == [sum(x.rows for x in tasks[:i]) for i in range(len(tasks))]
        assert [t.of for t in tasks] == [len(tasks)] * len(tasks)


def test_files_are_as_large_as_they_were_said_to_be(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{**row(tmp_path, i, f"{i}.jpg"), "image": {"bytes": rng.bytes(2000 + 10 * i), "path": f"p{i:04d}.png"}} for i in range(300)]
    to = tmp_path / "to"
    export(dataset(tmp_path, rows, part=64), str(to), format="parquet", workers=1, shard_mb=0.2)
    sizes = [p.stat().st_size for p in (to / "data").iterdir()]
    assert len(sizes) > 4
    assert max(sizes) < 220_000
    assert min(sizes) > 100_000


def test_row_groups_are_not_cut_at_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 50)
    to = tmp_path / "to"
    export(dataset(tmp_path, [row(tmp_path, i, f"{i}.jpg") for i in range(120)], part=30), str(to), format="parquet", workers=1)
    meta = pq.read_metadata(to / "data/train-00000-of-00001.parquet")
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [50, 50, 20]
    image = next(c for c in map(meta.row_group(0).column, range(meta.num_columns)) if c.path_in_schema == "image.bytes")
    assert (image.compression, "PLAIN" in image.encodings) == ("UNCOMPRESSED", True)


@pytest.mark.parametrize("shuffle", ["3", "none"])
def test_every_type_of_a_carried_column_goes_through(tmp_path: Path, shuffle: str) -> None:
    """Three parts, of which each has dictionaries of its own."""
    tables = {name: every_type(name) for name in VALUES if "view" not in name or name == "list_view"}  # a job carries other views as what they view
    carried = pa.schema([pa.field(f"x_{name}", t["x"].type) for name, t in tables.items()])
    output = Output(str(tmp_path / "out"))
    output.job.open(job_record(rows=6, shard_size=2, carried_schema=encode_schema(carried)))
    columns = pa.Table.from_arrays([t["x"] for t in tables.values()], schema=carried)
    for n in range(3):
        rows = [ok_row(f"p{n}{i}") for i in range(2)]
        data = encode_part(rows, part_schema(carried), footer([r["pair_id"] for r in rows], number=n), columns)
        output.parts.commit(f"part-00000-{n:04d}.parquet", data)
    to = tmp_path / "to"
    assert export(output.out, str(to), format="parquet", workers=1, shuffle=shuffle)["images"] == 6
    got = table(to).sort_by("pair_id")
    parts = [pq.read_table(p) for p in sorted(Path(output.out, "data").iterdir())]
    # Arrow's own `str` of nanoseconds needs pandas.
    found, wanted = table_rows(got), [r for part in parts for r in table_rows(part)]
    for name in carried.names:
        assert got[name].type == stored_schema(carried).field(name).type
        assert [str(r[name]) for r in found] == [str(r[name]) for r in wanted], name
    export(output.out, str(tmp_path / "tars"), format="webdataset", workers=1)


def test_with_errors_keeps_rows_without_a_picture(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0, "a.jpg"), failed(tmp_path, 1, "b.jpg"), failed(tmp_path, 2, "c.jpg", split="val")]
    to = tmp_path / "to"
    counts = export(dataset(tmp_path, rows), str(to), format="parquet", workers=1, with_errors=True)
    assert (counts["images"], counts["errors"], counts["splits"]) == (1, 2, {"train": 2, "val": 1})
    assert {r["pair_id"]: r["image"] is None for r in table(to).to_pylist()} == {"p0000": False, "p0001": True}
    assert table(to, "val")["error_code"].to_pylist() == ["not_found"]


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_to_export_says_so_and_leaves_the_folder_free(tmp_path: Path, rows: int) -> None:
    out = dataset(tmp_path, [failed(tmp_path, i, "a.jpg") for i in range(rows)])
    to = tmp_path / "to"
    with pytest.raises(OutputError, match=f"no row is left to export: of {rows} rows 0 have pictures"):
        export(out, str(to), format="parquet", workers=1)
    assert not list(to.iterdir())


def test_columns_are_chosen(tmp_path: Path) -> None:
    to = tmp_path / "to"
    out = dataset(tmp_path, [row(tmp_path, 0, "a.jpg")])
    export(out, str(to), format="parquet", workers=1, columns="caption, loss_curve")
    assert table(to).column_names == ["pair_id", "image", "loss_curve", "caption"]
    with pytest.raises(UsageError, match="--columns capton: no such column; did you mean caption"):
        export(out, str(tmp_path / "b"), format="parquet", columns="capton")


def test_pictures_are_made_smaller_and_encoded(tmp_path: Path) -> None:
    to = tmp_path / "to"
    out = dataset(tmp_path, [row(tmp_path, i, "a.jpg") for i in range(3)])
    export(out, str(to), format="parquet", workers=1, resize=8, image_format="jpeg", quality=90)
    for r in table(to).to_pylist():
        picture = Image.open(io.BytesIO(r["image"]["bytes"]))
        assert (picture.format, picture.size) == ("JPEG", (12, 8))
        assert (r["image"]["path"], r["width"], r["height"]) == (f"{r['pair_id']}.jpg", 12, 8)
    export(out, str(tmp_path / "large"), format="parquet", workers=1, resize=500)
    assert {(r["width"], r["height"], r["image"]["path"][-3:]) for r in table(tmp_path / "large").to_pylist()} == {(24, 16, "png")}


def test_split_class_join_and_exclude_together(tmp_path: Path) -> None:
    rows = [row(tmp_path, i, f"{i}.jpg") for i in range(6)]
    out = dataset(tmp_path, rows)
    labels = tmp_path / "labels.csv"
    labels.write_text("pair_id,fold,label\n" + "".join(f"p{i:04d},{'ab'[i % 2]},{CLASSES[i % 3]}\n" for i in (5, 3, 1, 0, 4)))
    (tmp_path / "ids.txt").write_text("p0002\nno-such\n")
    words: dict[str, Any] = {"format": "parquet", "workers": 1, "join": str(labels), "split_by": "fold", "exclude": str(tmp_path / "ids.txt")}
    said: list[str] = []
    to = tmp_path / "to"
    counts = export(out, str(to), on_warning=said.append, **words)
    assert (counts["images"], counts["excluded"], counts["splits"]) == (5, 1, {"a": 2, "b": 3})
    assert said == ["--exclude names 2 ids, of which 1 are in no row of the output"]
    got = {r["pair_id"]: (s, r["label"]) for s in "ab" for r in table(to, s).to_pylist()}
    assert got == {f"p{i:04d}": ("ab"[i % 2], i % 3) for i in (0, 1, 3, 4, 5)}
    assert features(pq.read_schema(to / "data/a-00000-of-00001.parquet"))["label"] == {"_type": "ClassLabel", "names": CLASSES}
    with pytest.raises(OutputError, match=r"1 row has no label in the table of --join: p0002; add them there, or --exclude the ids"):
        export(out, str(tmp_path / "b"), **{**words, "exclude": None})
    assert not list((tmp_path / "b").iterdir())
    words |= {"format": "imagefolder", "class_by": "label"}
    assert export(out, str(tmp_path / "c"), on_warning=said.append, **words)["images"] == 5
    assert files(tmp_path / "c") == ["a/cat/0.png", "a/dog/4.png", "b/cat/3.png", "b/dog/1.png", "b/sea lion/5.png"]


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("pair_id,label\np0000,cat\np0000,dog\n", {}, "stands there for more than one row"),
        ("id,label\np0000,cat\n", {}, "it needs a column pair_id"),
        ("pair_id\np0000\n", {}, "no column besides pair_id"),
        ("pair_id,image\np0000,x\n", {}, "image can't be replaced"),
        ("pair_id,label\np0000,catt\n", {}, "label 'catt' is no class of the dataset's label; did you mean cat"),
        ("seedling,label\n0,cat\n", {"on": "seedling"}, "--on seedling: no column of the output"),
        ("pair_id,label\n", {}, "it has no rows"),
    ],
)
def test_tables_that_can_t_be_joined(tmp_path: Path, text: str, words: dict[str, Any], message: str) -> None:
    out = dataset(tmp_path, [row(tmp_path, 0, "a.jpg")])
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        export(out, str(tmp_path / "to"), format="parquet", workers=1, join=str(tmp_path / "labels.csv"), **words)
    assert not (tmp_path / "to").exists()


def test_a_table_is_joined_by_another_column_and_type(tmp_path: Path) -> None:
    rows = [row(tmp_path, i, f"{i % 2}.jpg") for i in range(4)]
    pq.write_table(pa.table({"seed": pa.array([3, 2, 1, 0], pa.int32()), "weight": [0.3, 0.2, 0.1, 0.0]}), tmp_path / "w.parquet")
    to = tmp_path / "to"
    export(dataset(tmp_path, rows), str(to), format="parquet", workers=1, join=str(tmp_path / "w.parquet"), on="seed")
    assert {r["pair_id"]: r["weight"] for r in table(to).to_pylist()} == {"p0000": 0.0, "p0001": 0.1, "p0002": 0.2, "p0003": 0.3}


@pytest.mark.parametrize("name", ["val set", "..", "a/b", "x..y", ""])
def test_names_of_splits_that_datasets_refuses(tmp_path: Path, name: str) -> None:
    out = dataset(tmp_path, [row(tmp_path, 0, "a.jpg", split=name)])
    with pytest.raises(OutputError, match=f"split {name!r}: a split's name has letters" if name else "1 row has no split: p0000"):
        export(out, str(tmp_path / "to"), format="parquet", workers=1)


def test_contents_are_mixed_in_and_marked(tmp_path: Path) -> None:
    rows = [row(tmp_path, i, f"c{i % 5}.png", content_sha256=content(tmp_path, f"c{i % 5}.png", i % 5)) for i in range(60)]
    to = tmp_path / "to"
    out = dataset(tmp_path, rows, part=8)
    counts = export(out, str(to), format="parquet", workers=1, with_originals=0.5)
    got = table(to).to_pylist()
    originals = [r for r in got if r["original"]]
    assert counts["images"] == 60 + counts["originals"] == len(got)
    assert 18 <= len(originals) == counts["originals"] <= 42
    assert sorted(r["pair_id"] for r in got if not r["original"]) == sorted(r["pair_id"] for r in rows)
    for r in originals:
        picture = np.asarray(Image.open(io.BytesIO(r["image"]["bytes"])))
        whole = Image.open(tmp_path / "in" / f"c{int(r['pair_id'][1:]) % 5}.png")
        assert np.array_equal(picture, np.asarray(whole.resize((24, 16), Image.Resampling.LANCZOS)))
        assert (r["width"], r["height"], r["style_uri"], r["loss_total"], r["label"]) == (24, 16, None, None, 0)
        assert r["image"]["path"] == f"{r['pair_id']}-original.png"
    small = tmp_path / "small"
    assert export(out, str(small), format="parquet", workers=1, with_originals=1.0, resize=8, image_format="jpeg")["originals"] == 60
    assert {(r["width"], r["height"]) for r in table(small).to_pylist()} == {(12, 8)}


def test_contents_that_can_t_be_read_are_named_and_lose_nothing_else(tmp_path: Path, call: Any) -> None:
    rows = [row(tmp_path, i, f"c{i}.png", content_sha256=content(tmp_path, f"c{i}.png", i)) for i in range(4)]
    (tmp_path / "in/c1.png").unlink()
    (tmp_path / "in/c2.png").write_bytes(b"another picture")
    (tmp_path / "in/c3.png").write_bytes(b"no picture")
    rows[3]["content_sha256"] = hashlib.sha256(b"no picture").hexdigest()
    out, to = dataset(tmp_path, rows), tmp_path / "to"
    code, said, err = call("export", out, "--to", to, "--format", "parquet", "--workers", 1, "--with-originals", 1, "--json")
    assert code == 1
    assert (json.loads(said)["images"], json.loads(said)["originals"], json.loads(said)["missing_originals"]) == (5, 1, 3)
    assert "original not readable: p0001: " in err
    assert "no such file" in err
    assert "original not readable: p0002: " in err
    assert "other bytes than when its row was made" in err
    assert "original not readable: p0003: " in err
    assert "3 originals are missing in the export" in err
    assert sorted(table(to)["pair_id"].to_pylist()) == ["p0000", "p0000", "p0001", "p0002", "p0003"]
    assert call("export", out, "--to", to, "--format", "parquet", "--workers", 1, "--with-originals", 1)[0] == 1  # it is still so


def test_a_column_of_that_name_is_refused(tmp_path: Path) -> None:
    carried = pa.schema([*CARRIED, pa.field("original", pa.bool_())])
    out = dataset(tmp_path, [row(tmp_path, 0, "a.png", original=False)], carried=carried)
    with pytest.raises(UsageError, match="adds a column original, and the output has one already"):
        export(out, str(tmp_path / "to"), format="parquet", with_originals=0.5)
    export(out, str(tmp_path / "to"), format="parquet", workers=1)
    export(out, str(tmp_path / "tars"), format="webdataset", workers=1)
    assert table(tmp_path / "to")["original"].to_pylist() == [False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"format": "zip"}, "--format is one of files, imagefolder"),
        ({"format": "files", "shuffle": "1"}, "--shuffle does not go with --format files"),
        ({"format": "imagefolder", "shard_mb": 5.0}, "--shard-mb does not go with --format imagefolder"),
        ({"format": "parquet", "overwrite": True}, "--overwrite does not go with --format parquet"),
        ({"format": "parquet", "shuffle": "x"}, "--shuffle is a whole number or none"),
        ({"format": "parquet", "shard_mb": 0.0}, "--shard-mb is above 0"),
        ({"format": "parquet", "with_originals": 1.5}, "--with-originals is a share"),
        ({"format": "parquet", "with_originals": float("nan")}, "--with-originals is a share"),
        ({"format": "parquet", "resize": 0}, "--resize is the shorter side"),
        ({"format": "parquet", "workers": 0}, "--workers is at least 1"),
        ({"format": "parquet", "quality": 90}, "--quality needs --image-format"),
        ({"format": "parquet", "image_format": "png", "quality": 90}, "quality has no meaning for png"),
        ({"format": "parquet", "image_format": "jpg"}, "did you mean jpeg"),
        ({"format": "parquet", "image_format": "tiff"}, "8 bits a channel"),
        ({"format": "parquet", "on": "x"}, "--on names the column of --join"),
        ({"format": "parquet", "columns": "a,,b"}, "--columns: names of columns"),
        ({"format": "parquet", "split_by": "splt"}, "--split-by splt: no such column; the manifest's are split, label, caption; did you mean split"),
        ({"format": "parquet", "class_by": "loss_total"}, "--class-by loss_total: a column of double names nothing"),
    ],
)
def test_options_that_can_t_be(tmp_path: Path, words: dict[str, Any], message: str) -> None:
    out = dataset(tmp_path, [row(tmp_path, 0, "a.png")])
    with pytest.raises(UsageError, match=message):
        export(out, str(tmp_path / "to"), **words)
    assert not (tmp_path / "to").exists()


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    out = dataset(tmp_path, [row(tmp_path, 0, "a.png")])
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(OutputError, match=r"holds files already, such as cat\.jpg"):
        export(out, str(tmp_path / "to"), format="parquet", workers=1)
    with pytest.raises(OutputError, match="lies in the output itself"):
        export(out, f"{out}/x", format="parquet", workers=1)
    with pytest.raises(OutputError, match="--scratch lies in the target"):
        export(out, str(tmp_path / "new"), format="parquet", workers=1, scratch=str(tmp_path / "new" / "s"))


def test_files_take_the_options_that_choose_rows(tmp_path: Path) -> None:
    out = dataset(tmp_path, [row(tmp_path, i, "a.png") for i in range(3)])
    (tmp_path / "ids.txt").write_text("p0001\n")
    (tmp_path / "labels.csv").write_text("pair_id,label,note\np0000,dog,x\np0002,cat,y\n")
    to = tmp_path / "to"
    words: dict[str, Any] = {"exclude": str(tmp_path / "ids.txt"), "join": str(tmp_path / "labels.csv"), "columns": "label,note", "resize": 8}
    for _ in range(2):
        assert export(out, str(to), image_format="jpeg", **words)["excluded"] == 1
    lines = [json.loads(line) for line in (to / "metadata.jsonl").read_text().splitlines()]
    assert [(r["file_name"], r["pair_id"], r["label"], r["note"]) for r in lines] == [("p0000.jpg", "p0000", 1, "x"), ("p0002.jpg", "p0002", 0, "y")]
    assert set(lines[0]) == {"file_name", "pair_id", "weights_id", "config_fingerprint", "label", "note"}
    assert Image.open(to / "p0000.jpg").size == (12, 8)
    with pytest.raises(OutputError, match="--join has no row for p0001"):
        export(out, str(tmp_path / "b"), join=str(tmp_path / "labels.csv"))
