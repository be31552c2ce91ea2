"""`manifest build` over what WebDataset and Hugging Face's datasets themselves write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, weights
from built import Built, jpeg

from nstray.config import JobConfig
from nstray.engine.network.weights import VGGWeights
from nstray.manifest.manifest import Manifest

__all__ = ["weights"]  # a fixture
pytestmark = pytest.mark.dev
NAMES = ["ant", "bee", "cat"]


def test_webdatasets_own_shards(tmp_path: Path, weights: VGGWeights) -> None:
    wds = pytest.importorskip("webdataset")
    (tmp_path / "shards").mkdir()
    samples = [{"__key__": f"d/{i:06d}", "jpg": jpeg(i), "cls": i % 3, "json": {"caption": f"c{i}", "n": i}} for i in range(7)]
    with wds.ShardWriter(str(tmp_path / "shards/train-%04d.tar"), maxcount=4, verbose=0) as sink:
        for sample in samples:
            sink.write(sample)
    built = Built(tmp_path / "shards", out=tmp_path / "m.parquet", digests=True, shapes=True)
    assert built.read() == [s["jpg"] for s in samples]
    assert built.column("content") == [f"shards/train-000{i // 4}.tar::d/{i:06d}.jpg" for i in range(7)]
    assert [{n: r[n] for n in ("label", "split", "caption", "n", "width", "height")} for r in built.rows] == [
        {"label": i % 3, "split": "train", "caption": f"c{i}", "n": i, "width": 24, "height": 16} for i in range(7)
    ]
    # What WebDataset itself reads there.
    read = list(wds.WebDataset([str(p) for p in sorted((tmp_path / "shards").iterdir())], shardshuffle=False))
    assert [(s["jpg"], int(s["cls"])) for s in read] == [(d, r["label"]) for d, r in zip(built.read(), built.rows, strict=True)]
    # And what a worker makes of them, with places and by names.
    bench = Bench(tmp_path, weights)
    for table in (built.table, built.table.drop_columns(["content_at", "content_etag"])):
        made = bench.run(table)
        for row, sample in zip(built.rows, samples, strict=True):
            done = made[row["pair_id"]]
            assert (done["status"], done["content_sha256"]) == ("ok", hashlib.sha256(sample["jpg"]).hexdigest())
            assert (done["label"], done["split"], done["caption"], done["n"]) == (
                sample["cls"],
                "train",
                sample["json"]["caption"],
                sample["json"]["n"],
            )
            assert done["content_uri"] == row["content"]


def dataset(datasets: Any, folder: Path, split: str, count: int) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), "caption": datasets.Value("string")})

    def rows() -> Any:
        for i in range(count):
            yield {"image": {"bytes": jpeg(i), "path": f"p{i}.jpg"}, "label": i % 3, "caption": f"{split} {i}"}

    return datasets.Dataset.from_generator(rows, features=features, split=split, cache_dir=str(folder / f"cache-{split}"))


def check(built: Built, wanted: list[tuple[str, int]]) -> None:
    """The rows are these splits and numbers of pictures in them, and the labels keep their names."""
    assert built.read() == [jpeg(i) for _, i in wanted]
    assert [(r["split"], r["label"], r["caption"]) for r in built.rows] == [(split, i % 3, f"{split} {i}") for split, i in wanted]
    features = json.loads(built.table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": NAMES, "_type": "ClassLabel"}
    # So they do in the manifest as a job reads it.
    info = Manifest(str(built.out)).check(JobConfig())
    assert json.loads(info.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"] == NAMES
    assert info.carried == ("split", "label", "caption")
    assert len({r["pair_id"] for r in built.rows}) == len(wanted)


def test_parquet_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "hub/data").mkdir(parents=True)
    for split, count in (("train", 5), ("test", 2)):
        dataset(datasets, tmp_path, split, count).to_parquet(str(tmp_path / f"hub/data/{split}-00000-of-00001.parquet"), batch_size=2)
    (tmp_path / "hub/README.md").write_text("card")
    built = Built(tmp_path / "hub", out=tmp_path / "m.parquet", digests=True)
    check(built, [*(("test", i) for i in range(2)), *(("train", i) for i in range(5))])
    assert built.column("content_at")[0].startswith("0:0:")
    again = datasets.load_dataset("parquet", data_files=str(built.out), split="train", cache_dir=str(tmp_path / "cache"))
    assert again.features["label"].names == NAMES


def test_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    train, test = (dataset(datasets, tmp_path, split, count) for split, count in (("train", 5), ("test", 2)))
    train.save_to_disk(str(tmp_path / "one"), num_shards=2)
    built = Built(tmp_path / "one", out=tmp_path / "1.parquet")
    check(built, [("train", i) for i in range(5)])
    assert built.column("content")[0] == "one/data-00000-of-00002.arrow::image[0]"
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "both"))
    built = Built(tmp_path / "both", out=tmp_path / "2.parquet", digests=True, shapes=True)
    assert built.column("width") == [24] * 7
    # test comes before train.
    wanted = [*(("test", i) for i in range(2)), *(("train", i) for i in range(5))]
    info = Manifest(str(built.out)).check(JobConfig())
    assert info.carried == ("split", "label", "caption")
    assert built.read() == [jpeg(i) for _, i in wanted]
    assert [(r["split"], r["label"]) for r in built.rows] == [(split, i % 3) for split, i in wanted]
    # A selection is saved as the rows themselves, and says the rows that it has.
    train.select([4, 0]).save_to_disk(str(tmp_path / "few"))
    assert Built(tmp_path / "few", out=tmp_path / "3.parquet").read() == [jpeg(4), jpeg(0)]
