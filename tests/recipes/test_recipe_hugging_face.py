"""docs/recipes/hugging-face.md from Parquet with a ClassLabel to a dataset with splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import IMAGE
from built import jpeg
from recipe import draw, run_page

from nstray.output.schema import with_features

pytestmark = [pytest.mark.slow, pytest.mark.dev, pytest.mark.usefixtures("local_ray", "weights_once")]
Call = Callable[..., tuple[int, str, str]]
# Not in alphabetical order: a number that was made anew from the names would be another one.
NAMES = ["cat", "ant", "bee"]
CHECK = """
assert {name: rows.num_rows for name, rows in splits.items()} == {"train": 4, "test": 2}
assert all(rows.features["label"].names == ["cat", "ant", "bee"] for rows in splits.values())
assert names[row["label"]] == row["caption"].split()[0]
assert row["image"].size == (32, 32)
found = {name: sorted((row["caption"], row["label"]) for row in rows) for name, rows in splits.items()}
assert found == {"train": [("ant 1", 1), ("bee 2", 2), ("cat 0", 0), ("cat 3", 0)], "test": [("ant 5", 1), ("ant 6", 1)]}
"""


def write(path: Path, rows: list[tuple[str, int]]) -> None:
    """A file as `datasets` writes it: pictures, numbers of classes, captions."""
    cells = pa.array([{"bytes": jpeg(number, 48, 36), "path": f"{number}.jpg"} for _, number in rows], IMAGE)
    labels = pa.array([NAMES.index(name) for name, _ in rows], pa.int64())
    table = pa.table({"image": cells, "label": labels, "caption": [f"{name} {number}" for name, number in rows]})
    schema = with_features(table.schema, {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.cast(schema), path)


def test_the_page_from_parquet_to_a_dataset_with_splits(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "hub/data/train-00000-of-00002.parquet", [("cat", 0), ("ant", 1)])
    write(tmp_path / "hub/data/train-00001-of-00002.parquet", [("bee", 2), ("cat", 3)])
    write(tmp_path / "hub/data/test-00000-of-00001.parquet", [("ant", 5), ("ant", 6)])
    draw(tmp_path / "paintings", ["0.jpg", "1.jpg"], seed=100)
    run_page("hugging-face", tmp_path, call, smaller={"224x224": "32x32"}, checks=("", CHECK))
    # The saved dataset gives the same rows in another manifest.
    saved, hub = (pq.read_table(name) for name in ("saved.parquet", "pairs.parquet"))
    columns = ["split", "label", "caption"]
    assert sorted(map(str, saved.select(columns).to_pylist())) == sorted(map(str, hub.select(columns).to_pylist()))
    assert all(".arrow::image[" in reference for reference in saved["content"].to_pylist())
