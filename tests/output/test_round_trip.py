"""Carried columns of every Arrow type, from the manifest to the part and to what people read it with; and their metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_types import NOT_IN_DATASETS, NOT_IN_POLARS, VALUES, table
from bench import Bench, weights

from manifests import CONFIG, problem
from nstray.exports.json_values import plain
from nstray.manifest.carried_types import DATASETS, POLARS
from nstray.manifest.manifest import Manifest
from nstray.output.reader import read_rows
from nstray.output.schema import stored_schema

__all__ = ["weights"]  # a fixture
VIEWS = ("string_view", "binary_view", "list_of_views", "fixed_list_of_views")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, weights: Any) -> dict[str, str]:
    """The part of a job whose manifest carries one type, by the type's name."""
    bench = Bench(tmp_path_factory.mktemp("bench"), weights)
    found = {}
    for name in VALUES:
        worker, shard = bench.worker(table(name), size=16, evaluations=1)
        assert worker.process(shard).won
        assert pq.read_schema(worker.output.data_uri(shard.name)).equals(stored_schema(worker.spec.schema))
        found[name] = worker.output.data_uri(shard.name)
    return found


def as_stored(name: str, folder: Path) -> pa.Array:
    """The manifest's column as Parquet gives it back."""
    pq.write_table(table(name).select(["x"]), folder / "x.parquet")
    return pq.read_table(folder / "x.parquet")["x"].combine_chunks()


@pytest.mark.parametrize("name", VALUES)
def test_values_and_types_arrive_as_they_were(parts: dict[str, str], tmp_path: Path, name: str) -> None:
    got = pq.read_table(parts[name], columns=["pair_id", "x"]).sort_by("pair_id")["x"].combine_chunks()
    wanted = as_stored(name, tmp_path)
    assert got.to_string() == wanted.to_string()
    assert name in VIEWS or got.type == wanted.type


@pytest.mark.parametrize("name", VALUES)
def test_values_are_exported_as_json(parts: dict[str, str], name: str) -> None:
    values = {row["pair_id"]: plain(row["x"]) for rows in read_rows(parts[name], ["pair_id", "x"]) for row in rows}
    assert set(values) == {"a", "b"}
    assert json.loads(json.dumps(values, allow_nan=False)) == json.loads(json.dumps(values))
    exact = {
        "int64": [-(2**63), 2**63 - 1],
        "uint64": [0, 2**64 - 1],
        "timestamp_ns": ["2023-11-14 22:13:20.123456789", None],
        "duration_ns": ["1 ns", "-1 ns"],
        "decimal128": ["12345678901234567890.5", None],
        "uuid": ["ffd80000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000000"],
        "list_of_uuids": [["ffd80000-0000-0000-0000-000000000000"], ["00000000-0000-0000-0000-000000000000"]],
        "map": [[["a", 1]], []],
        "tensor": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]],
        "json": ['{"a": 1}', "null"],
    }
    if name in exact:
        assert json.loads(json.dumps([values["a"], values["b"]])) == exact[name]


@pytest.mark.parametrize("name", VALUES)
def test_the_check_says_what_does_not_load_a_type(tmp_path: Path, name: str) -> None:
    pq.write_table(table(name), tmp_path / "m.parquet")
    warnings = Manifest(str(tmp_path / "m.parquet")).check(CONFIG).warnings
    assert any(DATASETS in text for text in warnings) == (name in NOT_IN_DATASETS)
    assert any(POLARS in text for text in warnings) == (name in NOT_IN_POLARS)


@pytest.mark.dev
@pytest.mark.parametrize("name", VALUES)
def test_datasets_loads_them(parts: dict[str, str], tmp_path: Path, name: str) -> None:
    datasets = pytest.importorskip("datasets")

    def load() -> Any:
        return datasets.load_dataset("parquet", data_files=parts[name], split="train", cache_dir=str(tmp_path / "cache"))

    if name in NOT_IN_DATASETS:
        with pytest.raises(ValueError, match="does not have a datasets dtype equivalent"):
            load()
        return
    got = load().with_format("arrow")[:].sort_by("pair_id")["x"].combine_chunks()
    assert repr(got.to_pylist()) == repr(as_stored(name, tmp_path).to_pylist())


@pytest.mark.dev
@pytest.mark.parametrize("name", VALUES)
def test_duckdb_reads_them(parts: dict[str, str], name: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    assert len(duckdb.sql(f"select x from '{parts[name]}' order by pair_id").fetchall()) == 2


@pytest.mark.dev
@pytest.mark.parametrize("name", [name for name in VALUES if name not in NOT_IN_POLARS])
def test_polars_reads_them(parts: dict[str, str], name: str) -> None:
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(parts[name], columns=["x"]).height == 2


# metadata

NAMES = {"names": ["cat", "dog"], "_type": "ClassLabel"}
FEATURES = {"label": NAMES, "tags": {"feature": NAMES, "_type": "List"}, "gone": {"dtype": "int64", "_type": "Value"}}


def labelled(features: Any = FEATURES, note: bytes = b"as photographed") -> pa.Table:
    fields = [
        pa.field("content", pa.string()),
        pa.field("style", pa.string()),
        pa.field("label", pa.int64(), metadata={b"note": note}),
        pa.field("tags", pa.list_(pa.int64())),
    ]
    given = json.dumps({"info": {"features": features}}) if isinstance(features, dict) else features
    return pa.table([["c0.png", "c1.png"], ["s0.png"] * 2, [1, 0], [[0], [0, 1]]], pa.schema(fields, metadata={"huggingface": given, "other": "x"}))


def test_field_metadata_and_features_of_carried_columns_are_kept(tmp_path: Path, weights: Any) -> None:
    worker, shard = Bench(tmp_path, weights).worker(labelled(), size=16, evaluations=1)
    worker.process(shard)
    schema = pq.read_schema(worker.output.data_uri(shard.name))
    assert schema.field("label").metadata[b"note"] == b"as photographed"
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": NAMES, "tags": {"feature": NAMES, "_type": "List"}}


@pytest.mark.dev
def test_datasets_names_the_labels(tmp_path: Path, weights: Any) -> None:
    datasets = pytest.importorskip("datasets")
    worker, shard = Bench(tmp_path, weights).worker(labelled(), size=16, evaluations=1)
    worker.process(shard)
    loaded = datasets.load_dataset("parquet", data_files=worker.output.data_uri(shard.name), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == ["cat", "dog"]
    assert loaded.features["tags"].feature.names == ["cat", "dog"]
    assert loaded[0]["image"].size[0] == 16


@pytest.mark.parametrize("features", [b"not JSON", b"[1, 2]", b'{"info": 3}', b'{"info": {"features": [1]}}', b"\xff", {}])
def test_features_that_are_damaged_cost_nothing_but_themselves(tmp_path: Path, features: Any) -> None:
    pq.write_table(labelled(features), tmp_path / "m.parquet")
    assert Manifest(str(tmp_path / "m.parquet")).check(CONFIG).rows == 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"features": {**FEATURES, "label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}},
            "b.parquet: column label is another Hugging Face feature than in a.parquet",
        ),
        ({"features": {}}, "b.parquet: column label is another Hugging Face feature"),
        ({"note": b"retouched"}, "b.parquet: column label has other Arrow metadata than in a.parquet"),
    ],
)
def test_files_whose_values_mean_different_things_are_refused(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    pq.write_table(labelled(), folder / "a.parquet")
    later = labelled(**other).set_column(0, "content", pa.array(["c2.png", "c3.png"]))
    pq.write_table(later, folder / "b.parquet")
    assert said in problem(folder)


def test_an_extension_type_that_nobody_registered_is_said_and_not_handed_on(tmp_path: Path, weights: Any) -> None:
    field = pa.field("x", pa.int64(), metadata={"ARROW:extension:name": "somebody.point", "ARROW:extension:metadata": b"\x80", "note": "kept"})
    rows = pa.table([["c0.png"], ["s0.png"], [7]], pa.schema([pa.field("content", pa.string()), pa.field("style", pa.string()), field]))
    worker, shard = Bench(tmp_path, weights).worker(rows, size=16, evaluations=1)
    assert worker.spec.info.warnings == (
        "column x: its extension type 'somebody.point' is not one of Arrow's own; its values are carried, the type's name is not",
    )
    worker.process(shard)
    got = pq.read_table(worker.output.data_uri(shard.name))
    assert got["x"].to_pylist() == [7]
    assert got.schema.field("x").metadata[b"note"] == b"kept"
    assert not any(key.startswith(b"ARROW:extension") for key in got.schema.field("x").metadata)
