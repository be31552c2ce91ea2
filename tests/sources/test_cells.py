"""Cells of Parquet and Arrow files: by row, by place, and files that lie."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import IMAGE, arrow, parquet, peak_below, table

from nstray import storage
from nstray.errors import BadArchive, Changed, NotFound, StorageError, TooLarge, UsageError
from nstray.sources import cells
from nstray.sources.read import Sources
from nstray.sources.reference import Place
from nstray.storage import s3_client

DRAW = random.Random(0)
PICTURES: list[bytes | None] = [DRAW.randbytes(50 + i) for i in range(250)]
PICTURES[7] = None
PICTURES[8] = PICTURES[9] = b""
WRITERS: dict[str, Callable[[pa.Table], bytes]] = {
    "plain.parquet": lambda t: parquet(t, compression="none", use_dictionary=False),
    "zstd.parquet": lambda t: parquet(t, compression="zstd", data_page_version="2.0", write_page_checksum=True),
    "small-pages.PARQUET": lambda t: parquet(t, compression="snappy", data_page_size=200, write_page_index=True, row_group_size=70),
    "delta.parquet": lambda t: parquet(t.select(["image", "raw"]), use_dictionary=False, column_encoding="DELTA_LENGTH_BYTE_ARRAY"),
    "stream.arrow": arrow,
    "file.Arrow": lambda t: arrow(t, 70, stream=False),
}


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


def put(folder: str, name: str, data: bytes) -> str:
    storage.put_over(f"{folder}/{name}", data)
    return f"{folder}/{name}"


@pytest.mark.parametrize("name", WRITERS)
def test_cells_by_row(tmp_path: Path, name: str) -> None:
    words = pa.array(["x", "y"] * 125).dictionary_encode()
    archive = put(str(tmp_path), name, WRITERS[name](table(PICTURES, words=words)))
    sources = Sources(1000)
    for column in ("image", "raw"):
        for i in (*range(7), *range(8, 250)):
            assert sources.read(f"{archive}::{column}[{i}]") == PICTURES[i]
        with pytest.raises(NotFound, match=r"::\w+\[7\]: the cell is null: it has no picture's bytes$"):
            sources.read(f"{archive}::{column}[7]")
        with pytest.raises(NotFound, match=r"has 250 rows, no row 250 \(rows count from 0\)"):
            sources.read(f"{archive}::{column}[250]")
    with pytest.raises(NotFound, match="has no column 'imag'; its columns are"):
        sources.read(f"{archive}::imag[3]")
    if name != "delta.parquet":
        with pytest.raises(BadArchive, match="its column 'label' holds int64; pictures are binary"):
            sources.read(f"{archive}::label[3]")
    with pytest.raises(UsageError, match="is no cell"):
        sources.read(f"{archive}::image")
    with pytest.raises(TooLarge, match=r"::image\[249\]: 299 bytes, more than the 298 allowed"):
        Sources(298).read(f"{archive}::image[249]")


@pytest.mark.parametrize("name", ["plain.parquet", "stream.arrow"])
def test_cells_by_place(folder: str, name: str) -> None:
    archive = put(folder, name, WRITERS[name](table(PICTURES)))
    etag = storage.head(archive).etag
    crc32 = zlib.crc32(PICTURES[150] or b"")
    assert Sources(1000).read(f"{archive}::image[150]", Place((1, 50), crc32, etag)) == PICTURES[150]
    group = "row group" if name.endswith("parquet") else "record batch"
    with pytest.raises(BadArchive, match=f"its row 150 is row 50 of {group} 1, and the manifest says row 51 of {group} 1"):
        Sources(1000).read(f"{archive}::image[150]", Place((1, 51)))
    with pytest.raises(BadArchive, match=f"its CRC32 is {crc32:08x}, and the manifest says 00000001"):
        Sources(1000).read(f"{archive}::image[150]", Place((1, 50), 1))
    sources = Sources(1000)
    assert sources.read(f"{archive}::image[0]") == PICTURES[0]
    put(folder, name, WRITERS[name](table(PICTURES[::-1])))
    assert sources.read(f"{archive}::image[100]") == PICTURES[149]
    with pytest.raises(Changed):
        sources.read(f"{archive}::image[150]", Place((1, 50), None, etag))


def test_a_cell_without_bytes_names_its_path(tmp_path: Path) -> None:
    rows = pa.table({"image": pa.array([{"bytes": None, "path": "/data/1.png"}, {"bytes": b"x", "path": None}], IMAGE)})
    for name, data in (("a.parquet", parquet(rows)), ("a.arrow", arrow(rows))):
        archive = put(str(tmp_path), name, data)
        assert Sources(1000).read(f"{archive}::image[1]") == b"x"
        with pytest.raises(NotFound, match="has no picture's bytes"):
            Sources(1000).read(f"{archive}::image[0]")
    with pytest.raises(NotFound, match=r"has no picture's bytes, but the path '/data/1\.png'$"):
        Sources(1000).read(f"{tmp_path}/a.arrow::image[0]")


def test_a_columns_own_name_may_have_dots(tmp_path: Path) -> None:
    rows = pa.table({"a.b": pa.array([b"dot"]), "a": pa.array([{"c": b"no"}]), "image[0]": pa.array([b"bracket"])})
    for name, data in (("a.parquet", parquet(rows)), ("a.arrow", arrow(rows))):
        archive = put(str(tmp_path), name, data)
        assert Sources(1000).read(f"{archive}::a.b[0]") == b"dot"
        assert Sources(1000).read(f"{archive}::image[0][0]") == b"bracket"
        with pytest.raises(NotFound, match=r"no column 'a\.c'"):
            Sources(1000).read(f"{archive}::a.c[0]")


def count_requests() -> list[int]:
    """The sizes of the bodies that GETs bring from now on."""
    sizes: list[int] = []

    def note(response_dict: dict[str, dict[str, str]], **_: object) -> None:
        sizes.append(int(response_dict["headers"]["Content-Length"]))

    s3_client.client().meta.events.register("response-received.s3.GetObject", note)
    return sizes


@pytest.mark.dev
def test_what_other_programs_write(tmp_path: Path) -> None:
    pictures = [p for p in PICTURES if p]
    views = pa.table({"image": pa.array(pictures, pa.binary_view())})
    files = {"views.parquet": parquet(views), "views.arrow": arrow(views)}
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    frame = polars.DataFrame({"image": pictures})
    frame.write_parquet(tmp_path / "polars.parquet", row_group_size=100)
    frame.write_ipc(tmp_path / "polars.arrow", compression="uncompressed")
    duckdb.execute(f"copy (from '{tmp_path}/polars.parquet') to '{tmp_path}/duckdb.parquet' (row_group_size 2048)")
    for name, data in files.items():
        put(str(tmp_path), name, data)
    sources = Sources(1000)
    for name in (*files, "polars.parquet", "duckdb.parquet"):
        assert [sources.read(f"{tmp_path}/{name}::image[{i}]") for i in range(len(pictures))] == pictures, name
    with pytest.raises(BadArchive, match="its messages are not those of a stream, as pyarrow writes them; write the file with pyarrow"):
        sources.read(f"{tmp_path}/polars.arrow::image[0]")


def test_a_row_group_is_read_once_and_its_column_alone(s3: str) -> None:
    pictures = [os.urandom(5000) for _ in range(300)]
    archive = put(s3, "a.parquet", parquet(table(pictures), compression="none", use_dictionary=False))
    sizes = count_requests()
    sources = Sources(10**6)
    for i in [*range(100, 200), *range(100, 200)]:
        assert sources.read(f"{archive}::raw[{i}]") == pictures[i]
    footer, group = sizes
    assert footer == 64 * 2**10
    assert 500_000 < group < 505_000


def test_a_record_batch_is_read_once(s3: str) -> None:
    pictures = [os.urandom(5000) for _ in range(300)]
    archive = put(s3, "a.arrow", arrow(table(pictures).select(["image"])))
    sizes = count_requests()
    sources = Sources(10**6)
    for i in range(100, 200):
        assert sources.read(f"{archive}::image[{i}]") == pictures[i]
    assert len([size for size in sizes if size > 16 * 2**10]) <= 2  # what was read ahead, and the batch
    assert sum(sizes) < 3_300_000


def test_row_groups_leave_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nstray.sources.read.GROUPS", 150_000)
    archive = put(str(tmp_path), "a.parquet", parquet(table([os.urandom(1000)] * 500), use_dictionary=False))
    sources = Sources(10**6)
    for i in range(500):
        sources.read(f"{archive}::raw[{i}]")
    assert sources._groups._used < 150_000


def test_a_row_group_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "GROUP_BYTES", 10_000)
    for name in ("plain.parquet", "stream.arrow"):
        archive = put(str(tmp_path), name, WRITERS[name](table(PICTURES)))
        with pytest.raises(TooLarge, match="more than the 10,000 that are read at once; write the file with smaller row groups"):
            Sources(1000).read(f"{archive}::image[100]")


# files that lie


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file(folder: str, name: str) -> None:
    whole = WRITERS[name](table(PICTURES))
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        archive = put(folder, name, whole[:length])
        if length >= whole.rfind(b"\xff\xff\xff\xff\0\0\0\0") > 0:  # Arrow's mark of the end, and a footer that is not needed
            assert Sources(1000).read(f"{archive}::image[249]") == PICTURES[249]
            continue
        with pytest.raises(BadArchive, match=r"truncated|no Arrow IPC stream|not those of a stream|has no record batches|damaged"):
            Sources(1000).read(f"{archive}::image[249]")


def test_what_comes_before_the_cut_of_a_stream_is_read(tmp_path: Path) -> None:
    whole = arrow(table(PICTURES))
    archive = put(str(tmp_path), "a.arrow", whole[: len(whole) * 3 // 4])
    sources = Sources(1000)
    assert sources.read(f"{archive}::image[150]") == PICTURES[150]
    with pytest.raises(BadArchive, match=r"is truncated: its message at byte [\d,]+ has [\d,]+ bytes; before that it has 200 rows, no row 249"):
        sources.read(f"{archive}::image[249]")


def test_a_missing_row_group(tmp_path: Path) -> None:
    whole = WRITERS["plain.parquet"](table(PICTURES))
    meta = pq.read_metadata(io.BytesIO(whole))
    first = meta.row_group(2).column(0).data_page_offset
    length = int.from_bytes(whole[-8:-4], "little") + 8
    archive = put(str(tmp_path), "a.parquet", whole[:first] + whole[-length:])  # without the last group
    sources = Sources(1000)
    assert sources.read(f"{archive}::image[150]") == PICTURES[150]
    with pytest.raises(BadArchive, match=r"row group 2: its column 'image' lies at bytes [\d,]+ to [\d,]+, which the file does not have"):
        sources.read(f"{archive}::image[249]")


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def test_page_sizes_that_lie(tmp_path: Path) -> None:
    rows = pa.table({"raw": pa.array([b"x" * 100] * 50)})
    whole = parquet(rows, compression="none", use_dictionary=False, write_statistics=False)
    column = pq.read_metadata(io.BytesIO(whole)).row_group(0).column(0)
    start = column.data_page_offset
    packed = bytes(whole[start : start + 10])
    # field 1: type, field 2: uncompressed size, field 3: compressed size, zigzag
    size = column.total_compressed_size
    head = next(n for n in range(size) if packed.startswith(b"\x15\x00\x15" + varint(2 * n)))
    old = b"\x15\x00\x15" + varint(2 * head) + b"\x15" + varint(2 * head)
    assert whole[start:].startswith(old)
    for plain, stored in ((2**31 - 1, head), (head, 2**31 - 1), (-5, head), (head, -1), (head, 10)):
        zigzag = [varint(2 * n if n >= 0 else -2 * n - 1) for n in (plain, stored)]
        lying = b"\x15\x00\x15" + zigzag[0] + b"\x15" + zigzag[1]
        chunk = (lying + whole[start + len(old) : start + size]).ljust(size, b"\0")[:size]
        data = whole[:start] + chunk + whole[start + size :]
        archive = put(str(tmp_path), "a.parquet", data)
        with peak_below(2**20), pytest.raises(BadArchive, match="row group 0: column 'raw'"):
            Sources(10**6).read(f"{archive}::raw[3]")


def test_few_bytes_that_stand_for_gigabytes(tmp_path: Path) -> None:
    # a dictionary of one value of 1 MB, which 20,000 cells have
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array([os.urandom(2**20)]))
    sink = io.BytesIO()
    pq.write_table(pa.table({"raw": values}), sink, compression="none", row_group_size=20_000, dictionary_pagesize_limit=2**22, store_schema=False)
    assert len(sink.getvalue()) < 2**21
    archive = put(str(tmp_path), "a.parquet", sink.getvalue())
    before = pa.total_allocated_bytes()
    sources = Sources(10**7)
    assert len(sources.read(f"{archive}::raw[19999]")) == 2**20
    assert pa.total_allocated_bytes() - before < 2**23
    assert pa.default_memory_pool().max_memory() < 2**33
    # values that repeat the one before them
    repeated = pa.table({"raw": pa.array([b"x" * 2000] * 5000)})
    data = parquet(repeated, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY", row_group_size=5000)
    archive = put(str(tmp_path), "b.parquet", data)
    with pytest.raises(BadArchive, match="a page of encoding 7, which is not read; write the pictures as PLAIN"):
        Sources(10**6).read(f"{archive}::raw[3]")


def test_statistics_are_not_believed(tmp_path: Path) -> None:
    rows = pa.table({"raw": pa.array([b"aaaa", b"bbbb", b"cccc"])})
    whole = parquet(rows, compression="none", use_dictionary=False)
    footer = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
    lying = whole[:footer] + whole[footer:].replace(b"aaaa", b"zzzz").replace(b"cccc", b"0000")
    assert lying != whole
    archive = put(str(tmp_path), "a.parquet", lying)
    assert [Sources(100).read(f"{archive}::raw[{i}]") for i in range(3)] == [b"aaaa", b"bbbb", b"cccc"]


NESTED = pa.struct([("bytes", pa.list_(pa.binary())), ("path", pa.string())])


@pytest.mark.parametrize(
    ("rows", "member", "said"),
    [
        ({"raw": pa.array([[b"a"], [b"b"]])}, "raw[0]", "its column 'raw' holds list<.*>; pictures are binary"),
        ({"raw": pa.array([b"abcd"], pa.binary(4))}, "raw[0]", r"holds fixed_size_binary\[4\]; pictures are binary"),
        ({"image": pa.array([{"bytes": [b"a"], "path": None}], NESTED)}, "image[0]", "holds struct<bytes: list<.*; pictures are binary"),
        ({"image": pa.array([{"bytes": {"bytes": b"a"}}])}, "image[0]", "holds struct<bytes: struct<.*; pictures are binary"),
        # The bytes of both are called image.bytes.
        ({"image": pa.array([{"bytes": b"a"}]), "image.bytes": pa.array([b"b"])}, "image[0]", "it has 2 column chunks 'image.bytes'"),
    ],
    ids=range(5),
)
def test_columns_that_are_no_pictures(tmp_path: Path, rows: dict[str, pa.Array], member: str, said: str) -> None:
    archive = put(str(tmp_path), "a.parquet", parquet(pa.table(rows)))
    with pytest.raises(BadArchive, match=said):
        Sources(1000).read(f"{archive}::{member}")


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.binary(3), pa.dictionary(pa.int32(), pa.binary()), pa.struct([("bytes", pa.binary())]), None], ids=str
)
def test_a_stored_arrow_schema_is_not_believed(tmp_path: Path, kind: pa.DataType | None) -> None:
    stored = b"no schema" if kind is None else base64.b64encode(pa.schema([("raw", kind)]).serialize())
    rows = pa.table({"raw": pa.array(PICTURES[:5])}).replace_schema_metadata({b"ARROW:schema": stored})
    archive = put(str(tmp_path), "a.parquet", parquet(rows, store_schema=False))
    assert [Sources(1000).read(f"{archive}::raw[{i}]") for i in range(5)] == PICTURES[:5]


def test_a_small_page_that_unpacks_to_much_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "GROUP_BYTES", 2**20)
    rows = pa.table({"raw": pa.array([bytes(2**20)] * 20)})
    archive = put(str(tmp_path), "a.parquet", parquet(rows, compression="zstd", use_dictionary=False, write_statistics=False))
    assert (tmp_path / "a.parquet").stat().st_size < 5000
    before = pa.total_allocated_bytes()
    with pytest.raises(TooLarge, match="more than the 1,048,576 that are read at once"):
        Sources(10**7).read(f"{archive}::raw[0]")
    assert pa.total_allocated_bytes() == before
    # Pages that say less than they hold.
    whole = (tmp_path / "a.parquet").read_bytes()
    chunk = pq.read_metadata(io.BytesIO(whole)).row_group(0).column(0)
    at = whole.index(b"\x15\x00\x15", chunk.data_page_offset) + 3
    size = next(i for i, byte in enumerate(whole[at:], start=1) if byte < 128)  # bytes of the number
    small = bytes((2000 >> 7 * i) & 127 | (128 if i < size - 1 else 0) for i in range(size))
    lying = whole[:at] + small + whole[at + size :]
    monkeypatch.setattr(cells, "GROUP_BYTES", 2**30)
    archive = put(str(tmp_path), "b.parquet", lying)
    with pytest.raises(BadArchive, match="row group 0: column 'raw'"):
        Sources(10**7).read(f"{archive}::raw[0]")


def test_compressed_batches_are_refused(tmp_path: Path) -> None:
    archive = put(str(tmp_path), "a.arrow", arrow(table(PICTURES), compression="zstd"))
    with pytest.raises(BadArchive, match="its record batches are compressed, which is not read; write it without compression"):
        Sources(1000).read(f"{archive}::image[1]")


@pytest.mark.parametrize("name", WRITERS)
def test_flipped_bytes_raise_nothing_else(tmp_path: Path, name: str) -> None:
    whole = WRITERS[name](table(PICTURES))
    draw = random.Random(1)
    path = tmp_path / name
    for k in range(150):
        data = bytearray(whole)
        places = range(len(data)) if k % 2 else [*range(600), *range(max(0, len(data) - 1500), len(data))]
        for _ in range(draw.randint(1, 6)):
            data[draw.choice(places)] = draw.randrange(256)
        path.write_bytes(data)
        for row in (0, 120, 249):
            with contextlib.suppress(StorageError, UsageError):
                Sources(1000).read(f"{path}::image[{row}]")
    assert pa.total_allocated_bytes() < 2**28


@pytest.mark.dev
def test_what_datasets_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pictures = [p for p in PICTURES if p]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict({"image": [{"bytes": p, "path": None} for p in pictures], "label": [0] * len(pictures)}, features=features)
    made.save_to_disk(str(tmp_path / "saved"), num_shards=1)
    made.to_parquet(str(tmp_path / "a.parquet"))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    sources = Sources(1000)
    for archive in (file, tmp_path / "a.parquet"):
        assert [sources.read(f"{archive}::image[{i}]") for i in range(len(pictures))] == pictures
