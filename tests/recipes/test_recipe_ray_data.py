"""docs/recipes/ray-data.md from class folders to batches of tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from recipe import draw, run_page

pytestmark = [pytest.mark.slow, pytest.mark.dev, pytest.mark.usefixtures("local_ray", "weights_once")]
Call = Callable[..., tuple[int, str, str]]
# All five pictures are in one batch.
CHECK = """
import torch

assert names == ["cat", "dog"]
assert (pictures.shape, pictures.dtype, numbers.dtype) == ((5, 3, 32, 32), torch.float32, torch.int64)
assert sorted(numbers.tolist()) == [0, 0, 1, 1, 1]
assert 0 <= pictures.min() < pictures.max() <= 1
seen = {picture.numpy().tobytes(): number for picture, number in zip(pictures, numbers.tolist())}
assert len(seen) == 5
"""
# The same pictures have the same numbers either way.
BOTH = f"""
packed = seen
{CHECK}
assert seen == packed
"""


def test_the_page_from_class_folders_to_batches(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "train", ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "dog/3.jpg"])
    draw(tmp_path / "paintings", ["0.jpg", "1.jpg"], seed=100)
    # Ray Data runs on the Ray of these tests too, whose workers are elsewhere.
    shared = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    smaller = {"224x224": "32x32", **{f'"{folder}/data"': f'"{tmp_path}/{folder}/data"' for folder in ("packed", "stylised")}}
    run_page("ray-data", tmp_path, call, smaller=smaller, checks=(CHECK, BOTH), environment=shared)
