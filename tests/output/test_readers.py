"""An output is read without glue by what people train and query with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from outputs import Made, make_output
from PIL import Image

ERRORS = {"c0-s1": "not_found", "c1-s0": "too_small", "c1-s2": "too_small"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_output(tmp_path_factory.mktemp("readers"), errors=ERRORS)


def expected(made: Made) -> dict[str, np.ndarray | None]:
    rows = [row for part in made.rows.values() for row in part]
    return {r["pair_id"]: np.asarray(Image.open(io.BytesIO(r["image"]["bytes"]))) if r["image"] else None for r in rows}


@pytest.mark.dev
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_gives_pictures_and_none(made: Made, tmp_path: Path, streaming: bool) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(made.out, split="train", streaming=streaming, cache_dir=str(tmp_path))
    assert isinstance(loaded.features["image"], datasets.Image)
    want = expected(made)
    seen = {}
    for row in loaded:
        seen[row["pair_id"]] = row
        if row["pair_id"] in ERRORS:
            assert row["image"] is None
            assert (row["status"], row["error_code"], row["loss_curve"]) == ("error", ERRORS[row["pair_id"]], None)
        else:
            assert isinstance(row["image"], Image.Image)
            assert np.array_equal(np.asarray(row["image"]), want[row["pair_id"]])
            assert row["loss_curve"] == [9.0, 5.0, 3.5]
        assert [Path(uri).name for uri in row["style_uri"]] == [row["pair_id"].split("-")[1] + ".png"]
        assert row["caption"].startswith("number ")
    assert set(seen) == set(want)


@pytest.mark.dev
def test_datasets_loads_a_job_that_still_runs(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    half = make_output(tmp_path, errors={"c0-s0": "not_found", "c1-s0": "not_found"}, skip=["part-00000-0001.parquet"], finish=False)
    loaded = datasets.load_dataset(half.out, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 4
    assert [type(row["image"]).__name__ for row in loaded] == ["NoneType", "NoneType", "PngImageFile", "PngImageFile"]


@pytest.mark.dev
def test_duckdb_counts_by_status(made: Made) -> None:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"select status, error_code, count(*) from '{made.out}/data/*.parquet' group by all order by all").fetchall()
    assert found == [("error", "not_found", 1), ("error", "too_small", 2), ("ok", None, 3)]
    size = duckdb.sql(f"select sum(octet_length(image.bytes)) from '{made.out}/data/*.parquet' where image is not null").fetchall()
    assert size == [(sum(len(r["image"]["bytes"]) for part in made.rows.values() for r in part if r["image"]),)]


def test_pyarrow_reads_the_folder_as_one_table(made: Made) -> None:
    data = pyarrow.dataset.dataset(f"{made.out}/data")
    assert json.loads(data.schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}
    table = data.to_table(columns=["pair_id", "image"], filter=pyarrow.dataset.field("status") == "ok")
    for row in table.to_pylist():
        assert row["image"]["path"] == f"{row['pair_id']}.png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), expected(made)[row["pair_id"]])
    assert table.num_rows == 3


@pytest.mark.dev
def test_pandas_reads_the_folder(made: Made) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(f"{made.out}/data")
    assert frame["status"].value_counts().to_dict() == {"ok": 3, "error": 3}
    assert frame.loc[frame.status == "error", "image"].isna().all()


@pytest.mark.dev
def test_torch_takes_it_through_datasets(made: Made, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from torch.utils.data import DataLoader

    loaded = datasets.load_dataset(made.out, split="train", cache_dir=str(tmp_path)).filter(lambda s: s == "ok", input_columns="status")
    batch = next(iter(DataLoader(loaded.select_columns(["image", "split"]).with_format("torch"), batch_size=3)))
    assert tuple(batch["image"].shape) == (3, 3, 16, 24)
