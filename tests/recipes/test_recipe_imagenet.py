"""docs/recipes/imagenet.md from class folders to a training step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from recipe import draw, run_page
from torchvision.datasets import ImageFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray", "weights_once")]
Call = Callable[..., tuple[int, str, str]]
PICTURES = [f"{split}/{name}/{i}" for split, count in (("train", 3), ("val", 1)) for name in ("n01440764", "n02102040") for i in range(count)]
CHECK = """
assert pictures.shape == (6, 3, 32, 32)
assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]
assert torch.isfinite(loss)
assert all(torch.isfinite(p).all() for p in model.parameters())
assert len(optimizer.state) == len(list(model.parameters()))  # each took a step
assert model.bn1.num_batches_tracked == 1
"""


def test_the_page_from_class_folders_to_a_training_step(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "imagenet", [f"{name}.JPEG" for name in PICTURES])
    draw(tmp_path / "paintings", [f"{i}.jpg" for i in range(4)], seed=100)
    run_page("imagenet", tmp_path, call, smaller={"224x224": "32x32", "RandomResizedCrop(224)": "RandomResizedCrop(32)"}, checks=(CHECK,))
    rows = pq.read_table("stylised/data", columns=["split", "style_uri", "width", "height"]).to_pylist()
    styles = {split: {row["style_uri"][0] for row in rows if row["split"] == split} for split in ("train", "val")}
    assert styles["train"]
    assert len(styles["val"]) == 1
    assert not styles["train"] & styles["val"]
    assert {(row["width"], row["height"]) for row in rows} == {(32, 32)}
    for split in ("train", "val"):
        plain, stylised = (ImageFolder(f"{folder}/{split}") for folder in ("imagenet", "stylised-imagenet"))
        assert stylised.class_to_idx == plain.class_to_idx
        found, wanted = ([(Path(path).stem, number) for path, number in folder.samples] for folder in (stylised, plain))
        assert found == wanted
