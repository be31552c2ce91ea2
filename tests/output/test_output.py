"""The bytes of a part, its commit, and the records beside it."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from outputs import CARRIED, WEIGHTS_ID, begun, error_row, footer, job_record, make_output, ok_row

from nstray import config, storage
from nstray.errors import OutputError
from nstray.manifest import manifest, pair
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output import part_file
from nstray.output.folder import Output
from nstray.output.layout import part_name
from nstray.output.part_file import encode_part, read_footer
from nstray.output.schema import COLUMNS, RESERVED, carried_schema, encode_schema, part_schema, stored_schema

SCHEMA = part_schema(CARRIED)


def a_part(ids: list[str], *, window: int = 0, number: int = 0, **more: object) -> bytes:
    return encode_part([ok_row(i, seed=n) for n, i in enumerate(ids)], SCHEMA, footer(ids, window=window, number=number, **more))


# the part


def test_the_schema_is_the_reserved_columns_then_the_carried_ones() -> None:
    assert SCHEMA.names == [*RESERVED, "caption", "split"]
    assert tuple(name for name, _, _ in COLUMNS) == RESERVED
    assert SCHEMA.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert [f.name for f in SCHEMA if not f.nullable] == ["pair_id"]
    assert json.loads(SCHEMA.metadata[b"huggingface"]) == {"info": {"features": {"image": {"_type": "Image"}}}}


def test_a_part_reads_back_as_it_went_in() -> None:
    rows = [ok_row("a", caption="x|y", split=3), error_row("b", "timed_out", caption=None), ok_row("c", style=("s0.png", "s1.png"))]
    table = pq.read_table(io.BytesIO(encode_part(rows, SCHEMA, footer(["a", "b", "c"]))))
    assert table.schema.equals(SCHEMA)
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"] == {"image": {"_type": "Image"}}
    back = table.to_pylist()
    for was, now in zip(rows, back, strict=True):
        for name in SCHEMA.names:
            assert now[name] == was.get(name), name
    assert table.column("image").combine_chunks().is_valid().to_pylist() == [True, False, True]


def test_pictures_are_stored_plain_and_the_rest_zstd() -> None:
    file = pq.ParquetFile(io.BytesIO(a_part(["a", "b"])))
    columns = {file.metadata.row_group(0).column(i).path_in_schema: file.metadata.row_group(0).column(i) for i in range(file.metadata.num_columns)}
    assert columns["style_uri.list.element"].compression == "ZSTD"
    for path, column in columns.items():
        if path.startswith("image."):
            assert column.compression == "UNCOMPRESSED"
            assert not any("DICTIONARY" in encoding for encoding in column.encodings)
        else:
            assert column.compression == "ZSTD", path
    assert {"image.bytes", "image.path"} <= set(columns)


def test_a_row_group_has_at_most_100_rows() -> None:
    ids = [f"p{i}" for i in range(205)]
    metadata = pq.read_metadata(io.BytesIO(a_part(ids)))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100, 100, 5]


def test_a_row_group_has_at_most_64_mib_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_file, "BYTES_PER_GROUP", 1000)
    rows = [ok_row(f"p{i}", image={"bytes": bytes(size), "path": f"p{i}.png"}) for i, size in enumerate([400, 600, 1, 5000, 10])]
    metadata = pq.read_metadata(io.BytesIO(encode_part(rows, SCHEMA, footer([r["pair_id"] for r in rows]))))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 1, 1, 1]


def test_the_footer_counts_the_rows_itself(tmp_path: Path) -> None:
    rows = [ok_row("a"), error_row("b", "not_found"), error_row("c", "not_found"), error_row("d", "diverged")]
    data = encode_part(rows, SCHEMA, footer(list("abcd"), rows=99, ok=99, errors={}))
    path = tmp_path / "part-00000-0000.parquet"
    path.write_bytes(data)
    info = read_footer(str(path))
    assert (info.rows, info.ok, info.errors, info.size) == (4, 1, {"diverged": 1, "not_found": 2}, len(data))
    assert info.footer["evaluations"] == 12
    assert info.footer["host"] == "here"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least one row"),
        ([ok_row("a"), ok_row("a")], "twice"),
        ([{**ok_row("a"), "image": None}], "no picture"),
        ([{**ok_row("a"), "image": {"bytes": b"x", "path": "../a.png"}}], "bare file name"),
        ([{**ok_row("a"), "error_code": "internal"}], "error code"),
        ([{**ok_row("a"), "width": None}], "width"),
        ([error_row("a", "unheard_of")], "closed list"),
        ([{**error_row("a"), "image": {"bytes": None, "path": None}}], "null image"),
        ([{**ok_row("a"), "status": None}], "neither"),
        ([{**ok_row("a"), "pair_id": None}], "no pair_id"),
        ([{**ok_row("a"), "colour": 1}], "colour"),
    ],
)
def test_rows_that_break_the_promise_are_refused(rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encode_part(rows, SCHEMA, footer(["a"]))


def test_carried_columns_of_many_types_go_through() -> None:
    carried = pa.schema(
        [
            pa.field("when", pa.timestamp("ns")),
            pa.field("box", pa.struct([("x", pa.float32()), ("names", pa.list_(pa.string()))])),
            pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
            pa.field("a.b", pa.int8()),
            pa.field("clock", pa.time32("s")),
            pa.field("vector", pa.list_(pa.float32(), 3)),
        ]
    )
    assert carried_schema({"carried_schema": encode_schema(carried)}).equals(carried)
    values = pa.Table.from_pylist(
        [{"when": 5_000, "box": {"x": 1.5, "names": ["n"]}, "kind": "k", "a.b": 3, "clock": 61, "vector": [1, 2, 3]}], schema=carried
    ).to_pylist()[0]
    schema = part_schema(carried)
    table = pq.read_table(io.BytesIO(encode_part([ok_row("a", **values), error_row("b")], schema, footer(["a", "b"]))))
    assert table.schema.equals(stored_schema(schema))
    assert {name: table.to_pylist()[0][name] for name in carried.names} == values


def test_what_python_cannot_hold_is_carried_from_manifest_to_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_file, "ROWS_PER_GROUP", 2)
    extra = {
        "late": pa.array([568_971_820_800_000_000, None, 1], pa.timestamp("us")),
        "late_there": pa.array([568_971_820_800_000_000, 0, None], pa.timestamp("us", tz="Europe/Berlin")),
        "long": pa.array([2**62, None, -1], pa.duration("s")),
        "fine": pa.array([1, None, 3], pa.duration("ns")),
        "flag": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None, 0], pa.int8())),
        "tensor": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2, 1]), pa.array([[1, 2], [3, 4], None], pa.list_(pa.float32(), 2))
        ),
        "twice": pa.StructArray.from_arrays([pa.array([1, 2, 3]), pa.array(["x", None, "z"])], names=["k", "k"]),
    }
    ids = ["b", "c", "a"]
    written = pa.table({"pair_id": ids, "content": ["2.png", "3.png", "1.png"], "style": ["s.png"] * 3, **extra})
    pq.write_table(written, tmp_path / "m.parquet")
    source = manifest.Manifest(str(tmp_path / "m.parquet"))
    info = source.check(config.make({"weights": "random"}))
    assert info.carried == tuple(extra)
    ((window, table),) = cut_windows(source.tables(info))
    (shard,) = cut_shards(window, table, 16)
    shard = pickle.loads(pickle.dumps(shard))
    rows = [ok_row(pair.pair_id) for pair in pair.pairs(shard.table, info)]
    assert [row["pair_id"] for row in rows] == ["a", "b", "c"]
    schema = part_schema(pa.schema([info.schema.field(name) for name in extra]))
    assert carried_schema({"carried_schema": encode_schema(schema)}).equals(schema)
    data = encode_part(rows, schema, footer(["a", "b", "c"]), shard.table.select(list(extra)))
    back = pq.read_table(io.BytesIO(data))
    assert back.schema.equals(stored_schema(schema))
    assert back["pair_id"].to_pylist() == ["a", "b", "c"]
    for name, column in extra.items():
        assert back.schema.field(name).type == column.type, name
        assert back[name].combine_chunks().equals(column.take(pa.array([2, 0, 1]))), name


def test_carried_columns_are_cast_and_held_against_rows_and_schema() -> None:
    carried = pa.table({"caption": pa.array(["x", None]).dictionary_encode(), "split": pa.array([1, 2], pa.int8())})
    back = pq.read_table(io.BytesIO(encode_part([ok_row("a"), ok_row("b")], SCHEMA, footer(["a", "b"]), carried)))
    assert back.schema.equals(SCHEMA)
    assert (back["caption"].to_pylist(), back["split"].to_pylist()) == (["x", None], [1, 2])
    for rows, table, said in (
        ([ok_row("a")], carried, "2 carried rows for 1 rows"),
        ([ok_row("a"), ok_row("b")], carried.select(["split"]), "the carried columns are"),
        ([ok_row("a"), ok_row("b", split=1)], carried, "columns that the schema lacks: split"),
    ):
        with pytest.raises(ValueError, match=said):
            encode_part(rows, SCHEMA, footer(["a", "b"]), table)


@pytest.mark.parametrize("at", [-1, -6, -40, -400, -1500])
def test_a_damaged_footer_is_an_output_error_or_harmless(tmp_path: Path, at: int) -> None:
    data = bytearray(a_part(["a", "b"]))
    for i in range(4):
        data[at - i] ^= 0xFF
    path = tmp_path / "part-00000-0000.parquet"
    path.write_bytes(data)
    with contextlib.suppress(OutputError):
        assert read_footer(str(path)).rows == 2


def test_a_foreign_or_damaged_file_is_named(tmp_path: Path) -> None:
    foreign, damaged = tmp_path / "foreign.parquet", tmp_path / "damaged.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    damaged.write_bytes(a_part(["a"])[:-20])
    with pytest.raises(OutputError, match=r"foreign\.parquet is a Parquet file that nstray did not write"):
        read_footer(str(foreign))
    with pytest.raises(OutputError, match=r"damaged\.parquet is damaged"):
        read_footer(str(damaged))


# the commit


def test_the_first_writer_of_a_part_wins(tmp_path: Path) -> None:
    output = begun(str(tmp_path))
    name = part_name(0, 0)
    first, second = a_part(["a", "b"], host="one"), a_part(["a", "b"], host="two")
    assert output.parts.commit(name, first)
    assert output.parts.commit(name, first), "the same bytes are our own retry"
    assert not output.parts.commit(name, second)
    assert storage.read(output.data_uri(name)) == first


def test_of_many_writers_exactly_one_commits(tmp_path: Path) -> None:
    output = begun(str(tmp_path))
    name = part_name(0, 0)
    parts = [a_part(["a", "b"], host=f"host {i}") for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda data: output.parts.commit(name, data), parts))
    assert won.count(True) == 1
    assert storage.read(output.data_uri(name)) == parts[won.index(True)]


@pytest.mark.parametrize(("ids", "more", "said"), [(["a", "c"], {}, "ids_digest"), (["a", "b"], {"fingerprint": "0" * 64}, "fingerprint")])
def test_a_part_of_another_job_is_not_taken_for_ours(tmp_path: Path, ids: list[str], more: dict[str, str], said: str) -> None:
    output = begun(str(tmp_path))
    first = a_part(["a", "b"])
    output.parts.commit(part_name(0, 0), first)
    with pytest.raises(OutputError, match=said):
        output.parts.commit(part_name(0, 0), a_part(ids, **more))
    assert storage.read(output.data_uri(part_name(0, 0))) == first


def test_a_window_is_listed_without_its_neighbours(tmp_path: Path) -> None:
    output = begun(str(tmp_path))
    assert output.parts.list_window(3) == {}
    for window, number in ((3, 0), (3, 17), (30, 1), (2, 5)):
        output.parts.commit(part_name(window, number), a_part(["a"], window=window, number=number))
    (tmp_path / "data" / "part-00003-notes.txt").write_text("mine")
    listed = output.parts.list_window(3)
    assert sorted(listed) == [0, 17]
    assert storage.name(listed[17].uri) == part_name(3, 17)


# the job's record


def test_a_job_is_begun_once_and_resumed_after(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    begun = output.job.open(job_record(created_at="first"))
    assert begun["warnings"] == []
    resumed = output.job.open(job_record(created_at="second", config={**job_record()["config"], "batch_size": 3}))
    assert resumed["created_at"] == "first"
    assert output.job.read() == {k: v for k, v in begun.items() if k != "warnings"}


def test_another_version_is_a_warning(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.job.open(job_record(nstray_version="0.0.9"))
    (warning,) = output.job.open(job_record())["warnings"]
    assert "0.0.9" in warning


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"result": {**job_record()["result"], "size": 256}}, "size: 24 there, 256 here"),
        ({"rows": 7}, "manifest rows: 6 there, 7 here"),
        ({"rows_digest": "sha256:3"}, "manifest digest of its 6 rows: sha256:1111"),
        ({"weights_id": "sha256:2"}, f"weights: '{WEIGHTS_ID}' there, 'sha256:2' here"),
        ({"shard_size": 16}, "shard_size: 2 there, 16 here"),
    ],
)
def test_another_job_is_refused_saying_what_differs(tmp_path: Path, more: dict[str, object], said: str) -> None:
    output = Output(str(tmp_path))
    output.job.open(job_record())
    before = storage.read(output.job_uri)
    with pytest.raises(OutputError) as caught:
        output.job.open(job_record(**more))
    assert said in str(caught.value)
    manifest = "the manifest that it was begun with, which was /data/pairs.csv"
    assert str(caught.value).endswith(f"use another OUT or {manifest if 'manifest' in said else 'the same settings'}")
    assert storage.read(output.job_uri) == before


def test_an_output_begun_before_a_setting_existed_says_so(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.job.open(job_record(nstray_version="0.0.9"))
    result = job_record()["result"]
    with pytest.raises(OutputError, match=r"brushes: 'absent' there, 3 here; paper: 'absent' there, 'rough' here"):
        output.job.open(job_record(result={**result, "paper": "rough", "brushes": 3}))
    with pytest.raises(OutputError, match="size: 24 there, 256 here"):
        output.job.open(job_record(result={**result, "paper": "rough", "size": 256}))


def test_an_output_begun_with_settings_that_are_unknown_here_says_so(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    result = job_record()["result"]
    output.job.open(job_record(nstray_version="9.9", result={**result, "paper": "rough", "brushes": 3}))
    with pytest.raises(OutputError, match=r"begun by nstray 9\.9, which has settings that this version lacks \(brushes, paper\): finish it with"):
        output.job.open(job_record())
    with pytest.raises(OutputError, match="size: 24 there, 256 here"):
        output.job.open(job_record(result={**result, "size": 256}))


def test_a_folder_of_other_parquet_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"")
    output = Output(str(tmp_path))
    with pytest.raises(OutputError, match=r"train\.parquet"):
        output.job.open(job_record())
    assert storage.head(output.job_uri) is None


def test_a_folder_of_other_files_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    (tmp_path / "other.parquet").write_bytes(b"")
    (warning,) = Output(str(tmp_path)).job.open(job_record())["warnings"]
    assert warning.startswith(f"{tmp_path} is no output of nstray and holds other files, such as data/notes.txt: none of them is replaced")
    assert Output(str(tmp_path)).job.open(job_record())["warnings"] == []  # now it is one


@pytest.mark.parametrize("name", ["README.md", ".DS_Store", ".cache/a.png", ".nstray/estimate.json", None])
def test_a_folder_of_nothing_else_has_no_warning(tmp_path: Path, name: str | None) -> None:
    if name is not None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    assert Output(str(tmp_path)).job.open(job_record())["warnings"] == []


def test_other_files_on_a_store_are_found(s3: str) -> None:
    storage.put_new(f"{s3}/cats/deep/cat.jpg", b"cat")
    (warning,) = Output(f"{s3}/cats").job.open(job_record())["warnings"]
    assert "such as deep/cat.jpg" in warning
    assert Output(f"{s3}/ca").job.open(job_record())["warnings"] == []


def test_no_job_and_damaged_jobs_are_said(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    with pytest.raises(OutputError, match="no nstray job at"):
        output.job.read()
    for data, said in (
        (b"{", "damaged"),
        (b"[]", "not a job record"),
        (b'{"format": 4}', "another version"),
        (b'{"format": 3}', "lacks manifest_digest"),
        (b'{"format": 1}', "lacks manifest_digest"),
    ):
        storage.put_over(output.job_uri, data)
        with pytest.raises(OutputError, match=said):
            output.job.read()
        with pytest.raises(OutputError, match=said):
            output.job.open(job_record())


# indexes, summary, card


def commit_window(output: Output) -> None:
    output.parts.commit(part_name(2, 0), a_part(["a", "b"], window=2, number=0))
    rows = [ok_row("c"), error_row("d", "too_small")]
    output.parts.commit(part_name(2, 1), encode_part(rows, SCHEMA, footer(["c", "d"], window=2, number=1)))


def test_an_index_says_what_the_footers_say(tmp_path: Path) -> None:
    output = begun(str(tmp_path))
    assert output.indexes.window_counts(2, 2) is None
    commit_window(output)
    from_footers = output.indexes.window_counts(2, 2)
    parts = [read_footer(info.uri) for info in output.parts.list_window(2).values()]
    output.indexes.write(2, parts)
    index = output.indexes.read(2)
    assert index is not None
    assert [p[:3] for p in index["parts"]] == [[0, 2, 2], [1, 2, 1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nstray.output.parts.read_footer", lambda uri: pytest.fail("the index was not used"))
        assert output.indexes.window_counts(2, 2) == from_footers
    assert from_footers is not None
    assert (from_footers.parts, from_footers.rows, from_footers.ok, from_footers.errors) == (2, 4, 3, {"too_small": 1})
    assert (from_footers.evaluations, from_footers.seconds) == (12, 3.0)
    assert (from_footers.started, from_footers.finished) == (1_700_000_000.0, 1_700_000_011.0)
    assert from_footers.bytes == sum(p.size for p in parts)
    storage.delete(parts[0].uri)  # a part that is removed to be made again is not counted as there
    left = output.indexes.window_counts(2, 2)
    assert left is not None
    assert (left.parts, left.rows) == (1, 2)


def test_an_index_that_is_damaged_or_short_is_not_believed(tmp_path: Path) -> None:
    output = begun(str(tmp_path))
    commit_window(output)
    parts = [read_footer(info.uri) for info in output.parts.list_window(2).values()]
    output.indexes.write(2, parts[:1])
    counts = output.indexes.window_counts(2, 2)
    assert counts is not None
    assert counts.rows == 4
    output.indexes.write(2, parts)
    whole = json.loads(storage.read(output.index_uri(2)))
    for damaged in (b"", b"{", b"[]", b"null", json.dumps({**whole, "rows": 3}).encode(), json.dumps({**whole, "window": 1}).encode()):
        storage.put_over(output.index_uri(2), damaged)
        assert output.indexes.read(2) is None
        counts = output.indexes.window_counts(2, 2)
        assert counts is not None
        assert counts.rows == 4


def test_an_index_takes_only_its_own_parts(tmp_path: Path) -> None:
    output = begun(str(tmp_path))
    commit_window(output)
    parts = [read_footer(info.uri) for info in output.parts.list_window(2).values()]
    with pytest.raises(ValueError, match="not a part of window 3"):
        output.indexes.write(3, parts)


def test_the_summary_reads_back(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    assert output.summary.read() is None
    output.summary.write({"rows": 6, "rate": np.float64(0.5)})
    assert output.summary.read() == {"rows": 6, "rate": 0.5}


def test_the_card_points_at_the_data_and_tells_how_it_was_made(tmp_path: Path) -> None:
    made = make_output(tmp_path, errors={"c0-s1": "not_found"})
    text = Path(made.out, "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]
    assert "6 rows: 5 pictures; error rows: 1 not_found." in text
    for name in (*RESERVED, "caption", "split"):
        assert f"| `{name}` |" in text
    assert "| evaluations | 500 |" in text
    assert WEIGHTS_ID in text


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"widths": [16, 32, 64, 128, 128]}, "of other widths (16-32-64-128-128 filters a block)"),
        ({"widths": [64, 32]}, "of other widths (64-32 filters a block)"),
        ({"weights": "random", "widths": [64]}, "whose filters are random, not trained"),
        ({"widths": [64, 128, 256, 512, 512]}, None),
        ({"widths": [64, 128, 256]}, None),
        ({}, None),  # a record of before
    ],
)
def test_the_card_says_which_network(tmp_path: Path, record: dict[str, Any], said: str | None) -> None:
    output = Output(str(tmp_path))
    output.job.open(job_record())
    output.card.write({**job_record(), "weights": "w.safetensors", **record})
    text = Path(tmp_path, "README.md").read_text()
    assert ("The features are those of a VGG-19" in text) == (said is not None)
    assert said is None or said in text


def test_a_card_that_somebody_wrote_or_edited_stays(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.job.open(job_record())
    assert output.card.write(job_record())
    assert output.card.write(job_record(rows=7)), "our own card is brought up to date"
    card = tmp_path / "README.md"
    assert "7 rows" in card.read_text()
    for text in (card.read_text().replace("# license: (yours", "license: cc0-1.0 # ("), "# My own\n"):
        card.write_text(text)
        assert not output.card.write(job_record())
        assert card.read_text() == text
