"""Carried columns that are too large to travel with the rows, and reading bounded in bytes."""

from __future__ import annotations

import decimal
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench import Bench, weights

from manifests import CONFIG
from nstray.errors import ManifestError
from nstray.manifest import manifest as manifest_module
from nstray.manifest import parquet_files
from nstray.manifest.carried_rows import APART_BYTES, CarriedBytes, CarriedRows
from nstray.manifest.files import find
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output.layout import WINDOW_ROWS

__all__ = ["weights"]  # a fixture

VALUES: dict[str, pa.Array] = {
    "struct": pa.array([{"bytes": bytes([i]) * i, "path": None if i % 3 else f"{i}.jpg"} for i in range(20)]),
    "list": pa.array([["x" * i] * (i % 3) if i % 5 else None for i in range(20)]),
    "binary": pa.array([bytes([255 - i]) * i if i != 7 else None for i in range(20)], pa.binary()),
    "map": pa.array([[("k", i), ("l", None)] for i in range(20)], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array([f"label {i % 4}" for i in range(20)]).dictionary_encode(),
    "decimal": pa.array([decimal.Decimal(i) / 100 for i in range(20)], pa.decimal128(20, 2)),
    "nanoseconds": pa.array([1_700_000_000_123_456_789 + i for i in range(20)], pa.timestamp("ns", "UTC")),
    "nested": pa.array([[{"box": [i, i + 1], "name": f"n{i}"}] * (i % 4) for i in range(20)]),
}


def table(**carried: Any) -> pa.Table:
    n = len(next(iter(carried.values())))
    return pa.table(
        {
            "content": [f"c{i % 3}.png" for i in range(n)],
            "style": [f"s{i % 3}.png" for i in range(n)],
            "pair_id": [f"p{i}" for i in range(n)],
            **carried,
        }
    )


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carried columns of any size are read by the workers."""
    monkeypatch.setattr(manifest_module, "APART_BYTES", 0)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("name", VALUES)
def test_each_row_s_values_are_found_in_any_order_over_files_and_row_groups(tmp_path: Path, name: str) -> None:
    whole = table(x=VALUES[name])
    folder = tmp_path / "m"
    folder.mkdir()
    pq.write_table(whole.slice(0, 9), folder / "a.parquet", row_group_size=4)
    pq.write_table(whole.slice(9), folder / "b.parquet", row_group_size=5)
    manifest = Manifest(str(folder))
    info = manifest.check(CONFIG)
    assert (info.carried_apart, info.file_rows, info.carried) == (True, (9, 11), ("x",))
    rows = pa.concat_tables(manifest.tables(info))
    assert rows.column_names == ["row", "pair_id", "content", "style", "style_weights"]
    order = random.Random(3).sample(range(20), 20)
    got = CarriedRows(info).of(order)
    assert got.schema == pa.schema([info.schema.field("x")])
    expected = whole["x"].combine_chunks().take(pa.array(order))
    if name == "dictionary":
        assert got["x"].to_pylist() == expected.to_pylist()
    else:
        assert got["x"].combine_chunks().equals(expected)


def test_small_columns_travel_with_the_rows_and_text_formats_always_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table(x=VALUES["struct"]), tmp_path / "m.parquet")
    info = Manifest(str(tmp_path / "m.parquet")).check(CONFIG)
    assert not info.carried_apart
    assert "x" in next(Manifest(info.uri).tables(info)).column_names
    assert "x" not in next(Manifest(info.uri).tables(info, carried=False)).column_names
    monkeypatch.setattr(manifest_module, "APART_BYTES", 0)
    (tmp_path / "m.jsonl").write_text('{"content": "c.png", "style": "s.png", "x": "caption"}\n')
    info = Manifest(str(tmp_path / "m.jsonl")).check(CONFIG)
    assert not info.carried_apart
    assert next(Manifest(info.uri).tables(info))["x"].to_pylist() == ["caption"]


def test_the_largest_window_decides() -> None:
    counted = CarriedBytes()
    counted.add(WINDOW_ROWS, APART_BYTES)
    counted.add(WINDOW_ROWS - 1, APART_BYTES)
    assert counted.most == APART_BYTES
    counted.add(1, 1)
    assert counted.most == APART_BYTES + 1
    counted.add(WINDOW_ROWS, 5)
    assert counted.most == APART_BYTES + 1


@pytest.mark.usefixtures("apart")
def test_a_part_holds_the_values_of_its_rows(tmp_path: Path, weights: Any) -> None:
    bench = Bench(tmp_path, weights)
    rows = table(x=VALUES["struct"].slice(0, 6), when=VALUES["nanoseconds"].slice(0, 6))
    worker, shard = bench.worker(rows)
    assert worker.spec.info.carried_apart
    assert "x" not in shard.table.column_names
    assert worker.process(shard).won
    got = pq.read_table(worker.output.data_uri(shard.name))
    for i, row in enumerate(got["pair_id"].to_pylist()):
        place = int(row[1:])
        assert got["x"][i].as_py() == rows["x"][place].as_py()
        assert got["when"][i].value == rows["when"][place].value
    assert sorted(got["pair_id"].to_pylist()) == [f"p{i}" for i in range(6)]


@pytest.mark.usefixtures("apart")
def test_a_shard_travels_without_them(tmp_path: Path) -> None:
    pq.write_table(table(x=pa.array([os.urandom(10_000) for _ in range(64)])), tmp_path / "m.parquet")
    manifest = Manifest(str(tmp_path / "m.parquet"))
    info = manifest.check(CONFIG)
    ((window, rows),) = cut_windows(manifest.tables(info))
    import pickle

    for shard in cut_shards(window, rows, 16):
        sent = pickle.dumps(shard)
        assert len(sent) < 20_000
        assert isinstance(pickle.loads(sent), Shard)


@pytest.mark.usefixtures("apart")
def test_a_machine_that_does_not_see_the_manifest_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(table(x=VALUES["binary"]), path)
    info = Manifest(str(path)).check(CONFIG)
    path.rename(tmp_path / "elsewhere.parquet")
    with pytest.raises(ManifestError, match=r"m\.parquet: no such manifest.*has to see the manifest.*\(x\).*shared folder"):
        CarriedRows(info)


@pytest.mark.usefixtures("apart")
def test_a_manifest_with_other_rows_than_at_the_check_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(table(x=VALUES["binary"]), path)
    info = Manifest(str(path)).check(CONFIG)
    pq.write_table(table(x=VALUES["binary"]).slice(1), path)
    with pytest.raises(ManifestError, match=r"m\.parquet: changed: 19 rows now, 20 when it was checked"):
        CarriedRows(info).of([0])


@pytest.mark.parametrize("encoding", ["dictionary", "plain"])
@pytest.mark.parametrize("groups", [300, 5_000])
def test_batches_are_bounded_in_bytes(tmp_path: Path, encoding: str, groups: int) -> None:
    # A dictionary hides the size: the file has 100 kB.
    values = pa.array([b"v" * 20_000] * 5_000, pa.binary())
    pq.write_table(table(x=values), tmp_path / "m.parquet", row_group_size=groups, use_dictionary=encoding == "dictionary", compression="zstd")
    _, (file,) = find(str(tmp_path / "m.parquet"))
    sizes = [(batch.num_rows, batch.nbytes) for batch in parquet_files.read_batches(file, WINDOW_ROWS)]
    assert sum(rows for rows, _ in sizes) == 5_000
    assert max(size for _, size in sizes) <= 2 * parquet_files.BATCH_BYTES


def test_batches_of_small_rows_are_whole(tmp_path: Path) -> None:
    pq.write_table(table(x=pa.array(range(200_000))), tmp_path / "m.parquet", row_group_size=1_000)
    _, (file,) = find(str(tmp_path / "m.parquet"))
    rows = [batch.num_rows for batch in parquet_files.read_batches(file, WINDOW_ROWS)]
    assert sum(rows) == 200_000
    assert len(rows) <= 8  # a batch costs milliseconds of its own
    assert max(rows) <= WINDOW_ROWS


def test_the_check_of_a_manifest_that_carries_its_pictures_stays_small(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    picture = {"bytes": os.urandom(40_000), "path": "a.jpg"}
    with pq.ParquetWriter(tmp_path / "m.parquet", pa.schema([("content", pa.string()), ("style", pa.string()), ("jpg", kind)])) as writer:
        for start in range(0, 12_000, 1000):
            writer.write_table(
                pa.table({"content": [f"{start + i}.png" for i in range(1000)], "style": ["s.png"] * 1000, "jpg": pa.array([picture] * 1000, kind)})
            )
    code = (
        "import sys\n"
        "from nstray.config import JobConfig\n"
        "from nstray.manifest.manifest import Manifest\n"
        "m = Manifest(sys.argv[1]); info = m.check(JobConfig())\n"
        "assert info.carried_apart and sum(t.num_rows for t in m.tables(info)) == 12_000\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.parquet")], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400_000  # KiB; the pictures alone have 480 MB
