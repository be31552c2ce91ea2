"""Exports with originals whose contents lie in archives: members of tars, cells of Parquet and Arrow files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from archives import arrow, parquet, table, tar
from datasets_made import dataset, files, row
from outputs import picture
from PIL import Image

from nstray import storage
from nstray.commands.export import export
from nstray.images.encode import encode

PIXELS = [picture(i, 60, 40) for i in range(6)]
CONTENTS = [encode(pixels, "png") for pixels in PIXELS]
# Where the six contents lie: the path below the job's base, and their class.
WHERE = [
    ("train.tar::cat/0.png", 0),
    ("train.tar::dog/1.png", 1),
    ("data/x.parquet::image[0]", 0),
    ("data/x.parquet::raw[1]", 1),
    ("saved/y.arrow::image[0]", 0),
    ("./train.tar::2.png", 1),  # a file of that name
]


@pytest.fixture(params=["local", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The job's base, with the archives in it."""
    base = str(tmp_path / "in") if request.param == "local" else f"{request.getfixturevalue('s3')}/in"
    for name, data in {
        "train.tar": tar({"cat/0.png": CONTENTS[0], "dog/1.png": CONTENTS[1]}),
        "data/x.parquet": parquet(table(CONTENTS[2:4]), row_group_size=1),
        "saved/y.arrow": arrow(table(CONTENTS[4:5])),
        "train.tar::2.png": CONTENTS[5],
    }.items():
        storage.put_new(f"{base}/{name}", data)
    return base


def made(tmp_path: Path, base: str) -> str:
    """An output of a pair for each content; its URIs are relative, as a worker writes them."""
    rows = [
        {**row(tmp_path, i, "", label=label, content_sha256=hashlib.sha256(CONTENTS[i]).hexdigest()), "content_uri": uri}
        for i, (uri, label) in enumerate(WHERE)
    ]
    return dataset(tmp_path, rows, part=2, inputs=base)


def near(data: bytes, pixels: np.ndarray) -> bool:
    """Whether a picture of 24 x 16 pixels is a small one of `pixels`, and no other's."""
    found = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    assert found.shape == (16, 24, 3)
    small = np.asarray(Image.fromarray(pixels).resize((24, 16), Image.Resampling.LANCZOS)).astype(float)
    return bool(np.abs(found - small).mean() < 6)


def check(originals: dict[str, bytes]) -> None:
    """Each pair has its own content beside it."""
    assert sorted(originals) == [f"p{i:04d}" for i in range(6)]
    for pair, data in originals.items():
        assert [near(data, pixels) for pixels in PIXELS] == [pair == f"p{i:04d}" for i in range(6)]


def test_parquet(tmp_path: Path, base: str) -> None:
    counts = export(made(tmp_path, base), str(tmp_path / "to"), format="parquet", workers=1, with_originals=1.0)
    assert (counts["images"], counts["originals"], counts["missing_originals"]) == (12, 6, 0)
    rows = pq.read_table(tmp_path / "to/data").to_pylist()
    check({r["pair_id"]: r["image"]["bytes"] for r in rows if r["original"]})
    assert {(r["pair_id"], r["content_uri"], r["label"]) for r in rows} == {(f"p{i:04d}", uri, label) for i, (uri, label) in enumerate(WHERE)}


def test_imagefolder_and_webdataset(tmp_path: Path, base: str) -> None:
    out = made(tmp_path, base)
    assert export(out, str(tmp_path / "folders"), format="imagefolder", workers=1, with_originals=1.0)["originals"] == 6
    assert files(tmp_path / "folders") == sorted(
        f"train/{name}{kind}.png" for name in ("cat/0", "dog/1", "cat/x-0", "dog/x-1", "cat/y-0", "dog/2") for kind in ("", "--original")
    )
    assert export(out, str(tmp_path / "tars"), format="webdataset", workers=1, with_originals=1.0)["originals"] == 6
    found: dict[str, dict[str, Any]] = {}
    with tarfile.open(tmp_path / "tars/train-000000.tar") as file:
        for member in file:
            key, _, ending = member.name.partition(".")
            data = file.extractfile(member)
            assert data is not None
            found.setdefault(key, {})[ending] = data.read()
    samples = [(json.loads(sample["json"]), sample["png"]) for sample in found.values()]
    assert len(samples) == 12
    check({about["pair_id"]: data for about, data in samples if about["original"]})


def test_an_archive_that_was_made_anew(tmp_path: Path, base: str) -> None:
    """The content of a row is known by its digest, wherever the archive has it now."""
    out = made(tmp_path, base)
    storage.put_over(f"{base}/train.tar", tar({"0.png": CONTENTS[5], "cat/0.png": CONTENTS[0], "dog/1.png": CONTENTS[5]}))
    storage.put_over(f"{base}/data/x.parquet", storage.read(f"{base}/data/x.parquet")[:-40])
    counts = export(out, str(tmp_path / "to"), format="parquet", workers=1, with_originals=1.0)
    assert (counts["originals"], counts["missing_originals"]) == (3, 3)
    assert [text.partition(":")[0] for text in counts["missing"]] == ["p0001", "p0002", "p0003"]
    assert "content dog/1.png" not in counts["missing"][0]
    assert "it has other bytes than when its row was made" in counts["missing"][0]
    assert "x.parquet: is truncated or no Parquet file" in counts["missing"][1]
