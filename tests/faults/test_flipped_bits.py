"""Bits that flip on the way: no row is made from wrong bytes, over moto's server and a real one."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench import Bench, pair, weights
from outputs import error_row, footer, ok_row
from proxy import FaultProxy

from nstray import storage
from nstray.engine.network.weights import VGGWeights
from nstray.images.encode import encode
from nstray.output.part_file import encode_part, open_part, read_batches, read_footer
from nstray.output.schema import part_schema
from nstray.storage import backoff, s3, s3_client, s3_digests

__all__ = ["weights"]  # a fixture
NOISE = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
JPEG = encode(NOISE, "jpeg")
ROWS = [
    *(ok_row(f"p{i}", seed=i) for i in range(4)),
    error_row("p4"),
    ok_row("p5", image={"bytes": JPEG, "path": "p5.jpg"}, width=400, height=300),
]
PART = encode_part(ROWS, part_schema(pa.schema([])), footer([row["pair_id"] for row in ROWS]))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_digests, "_are_md5", {})
    monkeypatch.setattr(s3, "_wait", lambda attempt: None)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE", 0.0)


@pytest.fixture(params=[pytest.param("moto", marks=pytest.mark.dev), pytest.param("radosgw", marks=pytest.mark.slow)])
def flipping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FaultProxy]]:
    """A bucket, and the proxy through which it is read."""
    bucket = request.getfixturevalue("s3" if request.param == "moto" else "rgw")
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], seed=3) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield bucket, made
    s3_client.forget_client()


def test_no_flipped_bit_gets_through(flipping: tuple[str, FaultProxy]) -> None:
    bucket, proxy = flipping
    data = {f"{bucket}/{i}.jpg": os.urandom(20_000) for i in range(40)}
    for uri, body in data.items():
        storage.put_new(uri, body)
    proxy.add("flip", method="GET", probability=0.3)
    for uri, body in data.items():
        assert storage.read(uri) == body
        with storage.open_input(uri) as file:
            assert file.read() == body
    assert proxy.caused["flip"] > 20


def test_what_another_put_there_is_not_judged_by_damaged_bytes(flipping: tuple[str, FaultProxy]) -> None:
    bucket, proxy = flipping
    etag = storage.put_new(f"{bucket}/k", PART)
    proxy.add("flip", method="GET", count=1)
    assert storage.put_new(f"{bucket}/k", PART) == etag
    assert proxy.caused == {"flip": 1}


@pytest.mark.slow  # moto compares no digest
def test_a_put_that_comes_damaged_is_put_again(rgw: str, proxy: FaultProxy) -> None:
    proxy.add("flip_request", method="PUT", count=2)
    etag = storage.put_new(f"{rgw}/k", PART)
    assert (etag, proxy.caused) == (hashlib.md5(PART).hexdigest(), {"flip_request": 2})
    assert storage.read(f"{rgw}/k") == PART


def test_a_part_shows_a_flipped_bit_in_its_pictures(tmp_path: Path) -> None:
    data, path = bytearray(PART), str(tmp_path / "part.parquet")
    data[data.index(JPEG) + len(JPEG) // 2] ^= 4
    Path(path).write_bytes(data)
    with open_part(path) as (file, info):
        assert info.rows == len(ROWS)
        with pytest.raises((OSError, pa.ArrowException), match="CRC"):
            list(read_batches(path, file, ["image"]))
    # what a reader sees that does not look at checksums
    assert pq.read_table(io.BytesIO(data), columns=["image"])["image"][5]["bytes"].as_py() != JPEG


def test_a_part_that_came_damaged_is_read_again(flipping: tuple[str, FaultProxy], monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, proxy = flipping
    monkeypatch.setattr(storage, "BLOCK", 16_384)  # so that the part does not come whole
    uri = f"{bucket}/data/part-00000-0000.parquet"
    storage.put_new(uri, PART)
    for place in (0.1, 0.5, 0.9, 0.999):
        proxy.clear()
        proxy.add("flip", method="GET", place=place, count=1)
        assert read_footer(uri).rows == len(ROWS)
        proxy.add("flip", method="GET", place=place, skip=1, count=1)
        with open_part(uri) as (file, _):
            assert pa.concat_tables(read_batches(uri, file, ["image", "pair_id"]))["image"][5]["bytes"].as_py() == JPEG


def test_rows_are_made_from_whole_pictures_only(flipping: tuple[str, FaultProxy], tmp_path: Path, weights: VGGWeights) -> None:
    bucket, proxy = flipping
    digests = {}
    for i in range(6):
        data = encode(NOISE[i:, i:], "jpeg")
        storage.put_new(f"{bucket}/c{i}.jpg", data)
        digests[f"p{i}"] = hashlib.sha256(data).hexdigest()
    storage.put_new(f"{bucket}/s.jpg", JPEG)
    proxy.add("flip", method="GET", key=r"c[0-4]\.jpg", probability=0.5)
    proxy.add("flip", method="GET", key=r"c5\.jpg", place=0.7)
    rows = Bench(tmp_path, weights).run([pair(f"p{i}", f"{bucket}/c{i}.jpg", f"{bucket}/s.jpg") for i in range(6)])
    assert Counter(row["error_code"] or row["status"] for row in rows.values()) == {"ok": 5, "fetch_failed": 1}
    assert "came with MD5" in rows["p5"]["error_message"]
    del rows["p5"], digests["p5"]
    assert {pair_id: row["content_sha256"] for pair_id, row in rows.items()} == digests
    assert proxy.caused["flip"] > 3


def test_a_picture_that_does_not_decode_is_read_once_more(
    flipping: tuple[str, FaultProxy], tmp_path: Path, weights: VGGWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that gives no digest."""
    bucket, proxy = flipping
    monkeypatch.setattr(s3_digests, "expected_md5", lambda *_: None)
    good, broken = encode(NOISE, "png"), encode(NOISE, "png")[:-40_000]
    for name, data in (("c0.png", good), ("c1.png", good), ("c2.png", broken), ("s.png", good), ("t.png", good)):
        storage.put_new(f"{bucket}/{name}", data)
    proxy.add("flip", method="GET", key=r"c0\.png", place=0.5, count=1)  # among the pixels
    proxy.add("flip", method="GET", key=r"c1\.png", place=0.0, count=1)  # no image at all
    proxy.add("flip", method="GET", key=r"t\.png", place=0.5, count=1)  # a style, which is shared
    uris = [("c0.png", "s.png"), ("c1.png", "s.png"), ("c2.png", "s.png"), ("c0.png", "t.png")]
    rows = Bench(tmp_path, weights).run([pair(f"p{i}", f"{bucket}/{c}", f"{bucket}/{s}") for i, (c, s) in enumerate(uris)])
    assert [row["error_code"] or row["status"] for row in rows.values()] == ["ok", "ok", "decode_failed", "ok"]
    assert proxy.caused["flip"] == 3
    assert proxy.requests["GET"] == 5 + 4  # each once, the damaged ones again, and the broken one too
