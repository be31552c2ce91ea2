"""`manifest build` over Parquet and Arrow files: pictures, places, columns and their metadata."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from built import IMAGE, Built, files, images, jpeg, parquet

from nstray import storage
from nstray.errors import BadArchive, ManifestError

CLASSES = {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
FEATURES = {"image": {"_type": "Image"}, **CLASSES}


def with_features(table: pa.Table, features: dict[str, object]) -> pa.Table:
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def features_of(table: pa.Table) -> object:
    return json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]


def dataset(path: Path, count: int, **more: object) -> Path:
    """A Parquet file as Hugging Face's datasets writes it."""
    table = pa.table(
        {"image": images([jpeg(i) for i in range(count)], [f"p{i}.jpg" for i in range(count)]), "label": [i % 2 for i in range(count)], **more}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(with_features(table, FEATURES), path, row_group_size=2)
    return path


def test_hugging_faces_layout(tmp_path: Path) -> None:
    dataset(tmp_path / "hf/data/train-00000-of-00002.parquet", 3)
    dataset(tmp_path / "hf/data/train-00001-of-00002.parquet", 1)
    dataset(tmp_path / "hf/data/validation-00000-of-00001.parquet", 1)
    built = Built(tmp_path / "hf", out=tmp_path / "m.parquet")
    assert built.column("content") == [
        *(f"hf/data/train-00000-of-00002.parquet::image[{i}]" for i in range(3)),
        "hf/data/train-00001-of-00002.parquet::image[0]",
        "hf/data/validation-00000-of-00001.parquet::image[0]",
    ]
    assert built.column("content_at") == ["0:0", "0:1", "1:0", "0:0", "0:0"]
    assert built.read() == [jpeg(0), jpeg(1), jpeg(2), jpeg(0), jpeg(0)]
    assert [(r["label"], r["split"]) for r in built.rows] == [(0, "train"), (1, "train"), (0, "train"), (0, "train"), (0, "validation")]
    assert features_of(built.table) == CLASSES
    assert str(built.table.schema.field("label").type) == "int64"
    found = storage.head(str(tmp_path / "hf/data/train-00001-of-00002.parquet"))
    assert found is not None
    assert built.column("content_etag")[3] == found.etag
    mark = hashlib.blake2b(b"data/train-00000-of-00002.parquet::image[2]").hexdigest()[:8]
    assert built.column("pair_id")[2].startswith(f"p2-{mark}--x-")
    assert built.said[0] == f"content {tmp_path}/hf: 5 pictures in 3 Parquet files"


def test_adding_a_file_renames_nothing(tmp_path: Path) -> None:
    dataset(tmp_path / "hf/b.parquet", 2)
    before = Built(tmp_path / "hf", out=tmp_path / "1.parquet").column("pair_id")
    dataset(tmp_path / "hf/a.parquet", 2)
    after = Built(tmp_path / "hf", out=tmp_path / "2.parquet").column("pair_id")
    assert after[2:] == before
    assert len(set(after)) == 4


def test_plain_bytes_and_rows_without_a_picture(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"jpg": pa.array([jpeg(0), None, jpeg(2)]), "n": [1, 2, 3]}, row_group_size=3)
    built = Built(tmp_path / "a.parquet", out=tmp_path / "m.parquet")
    assert [(r["content"], r["content_at"], r["n"]) for r in built.rows] == [("a.parquet::jpg[0]", "0:0", 1), ("a.parquet::jpg[2]", "0:2", 3)]
    assert built.read() == [jpeg(0), jpeg(2)]
    assert built.rows[1]["pair_id"].startswith("a-2-")
    assert f"content {tmp_path}: left out rows without a picture's bytes: 1 (the first: {tmp_path}/a.parquet)" in built.said
    cells = pa.array([{"bytes": jpeg(0), "path": "x"}, {"bytes": None, "path": "y"}, None], IMAGE)
    parquet(tmp_path / "b.parquet", {"image": cells})
    assert Built(tmp_path / "b.parquet", out=tmp_path / "2.parquet").column("content") == ["b.parquet::image[0]"]
    parquet(tmp_path / "c.parquet", {"image": cells[1:]})
    with pytest.raises(ManifestError, match="no pictures in 1 Parquet file; left out rows without a picture's bytes: 2"):
        Built(tmp_path / "c.parquet", out=tmp_path / "3.parquet")


def test_a_file_of_pictures_alone(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"jpg": pa.array([jpeg(0), jpeg(1)])})
    assert Built(tmp_path / "a.parquet", out=tmp_path / "m.parquet").read() == [jpeg(0), jpeg(1)]


def test_shapes_and_digests(tmp_path: Path) -> None:
    pictures = [jpeg(0, 20, 10), jpeg(1, 20, 10, turned=True), b"none"]
    parquet(tmp_path / "a.parquet", {"image": images(pictures)})
    built = Built(tmp_path / "a.parquet", out=tmp_path / "m.parquet", shapes=True, digests=True)
    assert [(r["width"], r["height"]) for r in built.rows] == [(20, 10), (10, 20), (None, None)]
    assert built.column("content_at") == [f"0:{i}:{zlib.crc32(p):08x}" for i, p in enumerate(pictures)]
    assert built.read() == pictures


def test_which_column(tmp_path: Path) -> None:
    both = {"before": images([jpeg(0)]), "after": images([jpeg(1)]), "n": [5]}
    path = parquet(tmp_path / "a.parquet", both)
    with pytest.raises(ManifestError, match=r"a\.parquet: 2 columns of pictures \(before, after\); choose one with --content-column"):
        Built(path, out=tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"--content-column aftr: this column is not there; its columns are before, after, n; did you mean after"):
        Built(path, out=tmp_path / "m.parquet", content_column="aftr")
    with pytest.raises(ManifestError, match=r"--content-column n: this column holds no pictures"):
        Built(path, out=tmp_path / "m.parquet", content_column="n")
    with pytest.raises(ManifestError, match=r"choose one with --style-column"):
        Built(path, path, out=tmp_path / "m.parquet", content_column="before")
    built = Built(path, path, out=tmp_path / "m.parquet", content_column="before", style_column="after", style_columns=("n",))
    (row,) = built.rows
    assert (row["content"], row["style"], row["style_at"], row["n"], row["style_n"]) == ("a.parquet::before[0]", "a.parquet::after[0]", "0:0", 5, 5)
    assert (built.read(), built.read("style")) == ([jpeg(0)], [jpeg(1)])
    assert f"content {tmp_path}: columns of bytes are not carried: after; --columns carries them" in built.said
    assert "after" not in built.table.column_names
    carried = Built(path, out=tmp_path / "2.parquet", content_column="before", columns=("after",))
    assert carried.rows[0]["after"] == {"bytes": jpeg(1), "path": None}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"url": ["x"], "n": [1]}, r"no column of pictures \(struct<bytes, path> or binary\); its columns are url, n"),
        (
            {"hash": pa.array([b"1234"]), "n": [1]},
            r"its only column of bytes, hash, does not begin with a JPEG, .*; its columns are hash, n",
        ),
    ],
)
def test_files_without_pictures_are_named_with_their_columns(tmp_path: Path, columns: dict[str, object], words: str) -> None:
    path = parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(ManifestError, match=r"a\.parquet: " + words):
        Built(path, out=tmp_path / "m.parquet")
    # Beside loose pictures it may be a table of labels.
    files(tmp_path / "f", "x.jpg")
    path.rename(tmp_path / "f" / "labels.parquet")
    if "url" in columns:
        built = Built(tmp_path / "f", out=tmp_path / "m.parquet")
        assert any("1 .parquet" in line for line in built.said)


def test_sound_is_no_picture(tmp_path: Path) -> None:
    table = pa.table({"audio": images([b"RIFF"]), "image": images([jpeg(0)])})
    pq.write_table(with_features(table, {"audio": {"_type": "Audio"}, "image": {"_type": "Image"}}), tmp_path / "a.parquet")
    assert Built(tmp_path / "a.parquet", out=tmp_path / "m.parquet").column("content") == ["a.parquet::image[0]"]


def test_columns_are_selected_and_renamed(tmp_path: Path) -> None:
    path = dataset(tmp_path / "a.parquet", 2, width=[1, 2], style=["s", "t"], source_width=[3, 4], content_at=["p", "q"])
    built = Built(path, out=tmp_path / "m.parquet", splits="none")
    assert built.table.column_names[:5] == ["pair_id", "content", "style", "content_at", "content_etag"]
    assert built.table.column_names[5:] == ["label", "source_width", "source_style", "source_source_width", "source_content_at"]
    assert built.column("source_width") == [1, 2]
    line = "columns whose names nstray uses are carried as others: "
    assert built.said[2:] == [
        line + "width as source_width, style as source_style, source_width as source_source_width, content_at as source_content_at"
    ]
    fewer = Built(path, out=tmp_path / "2.parquet", columns=("style",))
    assert fewer.table.column_names[5:] == ["source_style"]
    assert Built(path, out=tmp_path / "3.parquet", columns=("style",), labels="column").table.column_names[5:] == ["source_style", "label"]
    assert Built(path, out=tmp_path / "4.parquet", columns=(), labels="none").table.column_names[5:] == []
    for options, words in (
        ({"columns": ("lable",)}, r"a\.parquet: the column lable is not there; its other columns are label, .*did you mean label"),
        ({"columns": ("image",)}, r"a\.parquet: the column image is the column of the pictures"),
        ({"splits": "column"}, r"--splits column: content .*a\.parquet has no column split; its columns are label"),
        ({"labels": "sidecar"}, r"--labels sidecar: content .* holds no tars"),
    ):
        with pytest.raises(ManifestError, match=words):
            Built(path, out=tmp_path / "5.parquet", **options)


def test_a_column_cls_is_a_column_like_any_other(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"jpg": pa.array([jpeg(0)]), "cls": [3], "txt": ["t"]})
    assert Built(path, out=tmp_path / "1.parquet", labels="none").rows[0]["cls"] == 3
    with pytest.raises(ManifestError, match=r"--style-columns label: .* has no such column; there are cls, txt"):
        Built(path, path, out=tmp_path / "2.parquet", style_columns=("label",))


def test_styles_by_splits_of_a_column_and_shapes(tmp_path: Path) -> None:
    path = dataset(tmp_path / "a.parquet", 6, split=[0, 0, 0, 0, 1, None])
    style = files(tmp_path / "art", *(f"{i}.jpg" for i in range(6)))
    built = Built(path, style, out=tmp_path / "m.parquet", pairs="all", style_splits=True, shapes=True)
    styles = {split: {r["style"] for r in built.rows if r["split"] == split} for split in (0, 1, None)}
    assert [len(styles[split]) for split in (0, 1, None)] == [3, 1, 2]
    assert len(set.union(*styles.values())) == 6
    assert built.said[-1] == "styles by split: no split 2, 0 3, 1 1"
    assert set(built.column("width")) == {24}


def test_a_given_split_wins_over_names(tmp_path: Path) -> None:
    path = dataset(tmp_path / "train-00000-of-00001.parquet", 2, split=["a", "b"])
    assert Built(path, out=tmp_path / "1.parquet").column("split") == ["a", "b"]
    named = Built(path, out=tmp_path / "2.parquet", splits="name")
    assert (named.column("split"), named.column("source_split")) == (["train"] * 2, ["a", "b"])


def test_files_of_other_schemas_are_named(tmp_path: Path) -> None:
    parquet(tmp_path / "d/a.parquet", {"image": images([jpeg(0)]), "n": [1]})
    other = parquet(tmp_path / "d/b.parquet", {"image": images([jpeg(0)]), "n": ["x"]})
    with pytest.raises(ManifestError, match=r"d/b\.parquet: the column n holds string, and int64 in .*d/a\.parquet"):
        Built(tmp_path / "d", out=tmp_path / "m.parquet")
    assert len(Built(tmp_path / "d", out=tmp_path / "m.parquet", columns=()).rows) == 2
    parquet(other, {"image": images([jpeg(0)])})
    with pytest.raises(ManifestError, match=r"d/b\.parquet: no column n, which .*d/a\.parquet has; its columns are image"):
        Built(tmp_path / "d", out=tmp_path / "2.parquet")
    other.write_bytes(b"PAR1 no")
    with pytest.raises(BadArchive, match=r"d/b\.parquet: is truncated or no Parquet file"):
        Built(tmp_path / "d", out=tmp_path / "2.parquet")


def test_csv_and_json_lines_hold_carried_columns(tmp_path: Path) -> None:
    path = dataset(tmp_path / "a.parquet", 2, text=['a "b",c', None], f=[0.5, None], e=["", "x"], when=pa.array([0, 1], pa.timestamp("s")))
    style = files(tmp_path / "s", "x.jpg")
    for ending in ("csv", "jsonl"):
        out = tmp_path / f"m.{ending}"
        said: list[str] = []
        from nstray.manifest.build import build

        build(str(path), str(style), pairs="1", seed=0, out=str(out), say=said.append)
        assert said[-1] == f"{out}: the names of ClassLabels and other features stand in .parquet alone"
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [[r[n] for n in ("label", "text", "f", "e", "when")] for r in rows] == [
        [0, 'a "b",c', 0.5, "", "1970-01-01 00:00:00.000"],
        [1, None, None, "x", "1970-01-01 00:00:01.000"],
    ]
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert lines[1].endswith(',0,"a ""b"",c",0.5,"",1970-01-01 00:00:00.000')
    assert lines[2].endswith(",1,,,x,1970-01-01 00:00:01.000")
    nested = dataset(tmp_path / "b.parquet", 1, boxes=[[1, 2]])
    with pytest.raises(ManifestError, match=r"the column boxes holds list<.*>, which no CSV file holds; write \.parquet"):
        build(str(nested), str(style), pairs="1", seed=0, out=str(tmp_path / "n.csv"))


def arrow(path: Path, table: pa.Table, rows: int, *, file: bool = False, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    make = pa.ipc.new_file if file else pa.ipc.new_stream
    with make(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("file", [False, True])
def test_arrow_files(tmp_path: Path, file: bool) -> None:
    table = pa.table({"image": images([jpeg(0), jpeg(1), None, jpeg(3)]), "label": [0, 1, 0, 1]})
    arrow(tmp_path / "a.arrow", with_features(table, FEATURES), 3, file=file)
    built = Built(tmp_path / "a.arrow", out=tmp_path / "m.parquet", shapes=True)
    assert [(r["content"], r["content_at"], r["label"]) for r in built.rows] == [
        ("a.arrow::image[0]", "0:0", 0),
        ("a.arrow::image[1]", "0:1", 1),
        ("a.arrow::image[3]", "1:0", 1),
    ]
    assert built.read() == [jpeg(0), jpeg(1), jpeg(3)]
    assert built.column("width") == [24] * 3
    assert features_of(built.table) == CLASSES


def test_arrow_files_that_can_not_be_read_by_range(tmp_path: Path) -> None:
    path = arrow(tmp_path / "a.arrow", pa.table({"image": images([jpeg(0)])}), 1, compression="lz4")
    with pytest.raises(BadArchive, match=r"a\.arrow: its record batches are compressed"):
        Built(path, out=tmp_path / "m.parquet")
    (tmp_path / "b.arrow").write_bytes(b"no arrow at all")
    with pytest.raises(BadArchive, match=r"b\.arrow: is no Arrow IPC stream or file"):
        Built(tmp_path / "b.arrow", out=tmp_path / "m.parquet")


def test_a_saved_dataset_is_what_its_state_says(tmp_path: Path) -> None:
    table = pa.table({"image": images([jpeg(0)])})
    for name in ("data-00000-of-00002", "data-00001-of-00002", "cache-1234"):
        arrow(tmp_path / f"set/{name}.arrow", table, 1)
    state = {"_data_files": [{"filename": f"data-0000{i}-of-00002.arrow"} for i in (1, 0)], "_split": "odd"}
    (tmp_path / "set/state.json").write_text(json.dumps(state))
    (tmp_path / "set/dataset_info.json").write_text("{}")
    built = Built(tmp_path / "set", out=tmp_path / "m.parquet")
    assert built.column("content") == [f"set/data-0000{i}-of-00002.arrow::image[0]" for i in (1, 0)]
    assert built.column("split") == ["odd"] * 2
    assert [line for line in built.said if "left out" in line] == [
        f"content {tmp_path}/set: left out 1 Arrow files that no state.json names, such as cache-1234.arrow"
    ]
    (tmp_path / "set/data-00001-of-00002.arrow").unlink()
    with pytest.raises(ManifestError, match=r"state\.json: names data-00001-of-00002\.arrow, which is not beside it"):
        Built(tmp_path / "set", out=tmp_path / "2.parquet")


def test_from_a_bucket(s3: str, tmp_path: Path) -> None:
    storage.put_new(f"{s3}/set/a.parquet", dataset(tmp_path / "a.parquet", 3).read_bytes())
    built = Built(f"{s3}/set/", out=tmp_path / "m.parquet")
    assert built.column("content") == [f"{s3}/set/a.parquet::image[{i}]" for i in range(3)]
    table = with_features(pa.table({"image": images([jpeg(i) for i in range(3)])}), {})
    storage.put_new(f"{s3}/sty/a.arrow", arrow(tmp_path / "a.arrow", table, 2).read_bytes())
    styles = Built(tmp_path / "a.parquet", f"{s3}/sty", out=tmp_path / "2.parquet", pairs="all")
    assert styles.column("style") == [f"{s3}/sty/a.arrow::image[{i}]" for i in range(3)] * 3
    assert styles.column("style_at") == ["0:0", "0:1", "1:0"] * 3
