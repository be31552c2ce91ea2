"""Class folders in, a job run, and the same classes, names and counts out of every format of an export."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
from outputs import picture

from nstray.images.encode import encode

pytestmark = [pytest.mark.slow, pytest.mark.dev, pytest.mark.usefixtures("local_ray", "weights_once")]
Call = Callable[..., tuple[int, str, str]]
# Two splits, three classes whose names are not in the order of the files, nested names, and one name in two classes.
PICTURES = [
    *("train/zebra/1.png", "train/zebra/field/2.png", "train/ape/1.png", "train/ape/a/b/3.png", "train/old cat/4.png"),
    *("val/zebra/1.png", "val/ape/5.png", "val/old cat/x/6.png"),
]
CLASSES = ["ape", "old cat", "zebra"]


@pytest.fixture
def out(tmp_path: Path, call: Call) -> str:
    """The output of a job over these pictures, each in one style."""
    for i, name in enumerate(PICTURES):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(i, 24, 24), "png"))
    (tmp_path / "s").mkdir()
    for i in range(2):
        (tmp_path / f"s/{i}.png").write_bytes(encode(picture(100 + i, 24, 24), "png"))
    words = ("--labels", "folder", "--splits", "folder", "--pairs", "1", "-o", tmp_path / "pairs.parquet")
    assert call("manifest", "build", "--content", tmp_path / "in", "--style", tmp_path / "s", *words)[0] == 0
    settings = jobs.options({**jobs.SETTINGS, "weights": "random", "size": 24, "evaluations": 1, "shard_size": 3})
    code, _, err = call("run", tmp_path / "pairs.parquet", tmp_path / "out", *settings)
    assert code == 0, err
    return str(tmp_path / "out")


def test_each_format_has_the_classes_names_and_counts_that_came_in(out: str, tmp_path: Path, call: Call) -> None:
    from torchvision import datasets as folders

    datasets = pytest.importorskip("datasets")
    for kind in ("imagefolder", "webdataset", "parquet"):
        code, _, err = call("export", out, "--to", tmp_path / kind, "--format", kind)
        assert code == 0, err
    loaded = datasets.load_dataset(str(tmp_path / "parquet"))
    for split in ("train", "val"):
        plain, made = (folders.ImageFolder(tmp_path / folder / split) for folder in ("in", "imagefolder"))
        assert made.classes == plain.classes == CLASSES
        wanted = [(str(Path(path).relative_to(tmp_path / "in")), number) for path, number in plain.samples]
        assert [(str(Path(path).relative_to(tmp_path / "imagefolder")), number) for path, number in made.samples] == wanted
        classes = Counter(number for _, number in wanted)

        names, numbers = [], Counter[int]()
        for path in sorted((tmp_path / "webdataset").glob(f"{split}-*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    if member.name.endswith(".json"):
                        names.append(json.loads(file.read())["content_uri"])
                    elif member.name.endswith(".cls"):
                        numbers[int(file.read())] += 1
        assert sorted(names) == sorted(f"in/{name}" for name, _ in wanted)
        assert numbers == classes
        assert json.loads((tmp_path / "webdataset/classes.json").read_text()) == {name: number for number, name in enumerate(CLASSES)}

        assert sorted(loaded[split]["content_uri"]) == sorted(f"in/{name}" for name, _ in wanted)
        assert Counter(loaded[split]["label"]) == {CLASSES[number]: count for number, count in classes.items()}
