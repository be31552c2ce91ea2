"""docs/recipes/coco.md: bright rectangles of known boxes are still in their boxes once the pictures are stylised."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from recipe import draw, run_page

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray", "weights_once")]
Call = Callable[..., tuple[int, str, str]]
# Width and height of each picture, and the boxes [x, y, width, height] of its rectangles. None becomes 48 pixels long by a whole factor.
PICTURES: dict[str, tuple[tuple[int, int], list[list[float]]]] = {
    "000000000139.jpg": ((100, 67), [[10, 8, 30, 25], [60, 30, 25, 30]]),
    "000000000285.jpg": ((61, 97), [[20, 40, 30, 40]]),
    "000000000632.jpg": ((90, 90), []),
}


def write(folder: Path) -> None:
    """Dark pictures with bright rectangles, and their annotations: one more is a crowd, of the picture as a whole."""
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for name, ((width, height), boxes) in PICTURES.items():
        pixels = np.full((height, width, 3), 30, np.uint8)
        number = int(name[:12])
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for i, (x, y, w, h) in enumerate(boxes):
            pixels[int(y) : int(y + h), int(x) : int(x + w)] = 230
            annotations.append({"id": 1000 + number + i, "image_id": number, "bbox": [x, y, w, h], "category_id": 17 + i, "iscrowd": 0})
        annotations.append({"id": 5000 + number, "image_id": number, "bbox": [0, 0, width, height], "category_id": 1, "iscrowd": 1})
        Image.fromarray(pixels).save(folder / "val2017" / name, quality=95)
    coco = {"images": images, "annotations": annotations, "categories": [{"id": i, "name": f"class {i}"} for i in (1, 17, 18)]}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(coco))


def bright(pixels: np.ndarray) -> np.ndarray:
    """Which pixels are nearer to the brightest than to the darkest."""
    grey = pixels.mean(2)
    return grey > (grey.min() + grey.max()) / 2


def of_boxes(boxes: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    """Which pixels have their middle in one of the boxes."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.any([(x > left) & (x < left + w) & (y > top) & (y < top + h) for left, top, w, h in boxes], axis=0)


def agreement(pixels: np.ndarray, boxes: list[list[float]]) -> float:
    """Intersection over union of what is bright and what is in a box."""
    there, wanted = bright(pixels), of_boxes(boxes, pixels.shape[:2])
    return float((there & wanted).sum() / (there | wanted).sum())


def test_the_page_from_boxes_to_boxes_that_fit(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "coco")
    draw(tmp_path / "paintings", ["1.jpg"], seed=100)
    run_page("coco", tmp_path, call, smaller={"--size 512": "--size 48"})
    made = json.loads(Path("coco-stylised.json").read_text())
    assert [c["name"] for c in made["categories"]] == ["class 1", "class 17", "class 18"]
    rows = {row["file_name"]: row for row in map(json.loads, Path("coco-stylised/metadata.jsonl").read_text().splitlines())}
    assert {row["content_uri"].split("/")[-1]: (row["width"], row["height"]) for row in rows.values()} == {
        "000000000139.jpg": (48, 32),
        "000000000285.jpg": (30, 48),
        "000000000632.jpg": (48, 48),
    }
    assert len(made["images"]) == 3
    for image in made["images"]:
        row = rows[image["file_name"]]
        name = row["content_uri"].split("/")[-1]
        assert (row["image_id"], row["boxes"]) == (int(name[:12]), PICTURES[name][1])
        its = [a for a in made["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] for a in its] == [17, 18][: len(its)]
        assert len(its) == len(PICTURES[name][1])
        if not its:
            continue
        pixels = np.asarray(Image.open(f"coco-stylised/{image['file_name']}"))
        assert pixels.shape[:2] == (image["height"], image["width"])
        boxes = [a["bbox"] for a in its]
        assert agreement(pixels, boxes) > 0.9
        # A box that is moved by a tenth of the picture, or not scaled, does not fit.
        assert agreement(pixels, [[x + 4.8, y, w, h] for x, y, w, h in boxes]) < 0.8
        assert agreement(pixels, PICTURES[name][1]) < 0.5
    # The boxes that the export joined are those that were carried.
    table = pq.read_table(next(Path("packed/data").glob("*.parquet")))
    assert {row["image_id"]: row["boxes"] for row in table.select(["image_id", "boxes"]).to_pylist()} == {
        int(name[:12]): boxes for name, (_, boxes) in PICTURES.items()
    }
    cells = {row["image_id"]: row["image"]["bytes"] for row in table.select(["image_id", "image"]).to_pylist()}
    assert np.asarray(Image.open(io.BytesIO(cells[139]))).shape == (32, 48, 3)
