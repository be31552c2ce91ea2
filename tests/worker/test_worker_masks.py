"""Masks, a fine style and 16-bit pictures through a worker: from the manifest's columns to the output's rows."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from bench import Bench, pair, pixels, same
from outputs import picture
from PIL import Image

from nstray.engine.network.random_weights import random_weights
from nstray.engine.settings import CONV_LAYERS


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    torch.set_num_threads(1)
    made = Bench(tmp_path, random_weights(CONV_LAYERS[:3]))
    left = np.zeros((30, 36, 3), np.uint8)
    left[:, :18] = 255
    made.save("left.png", left)
    made.save("right.png", 255 - left)
    made.save("white.png", np.full((60, 72, 3), 255, np.uint8))  # twice the pictures' size: of the same aspect
    made.save("black.png", np.zeros((30, 36, 3), np.uint8))
    made.save("square.png", np.full((30, 30, 3), 255, np.uint8))
    return made


def masked(pair_id: str, masks: list[str], styles: list[str] | None = None, **more: Any) -> dict[str, Any]:
    styles = styles or ["s0.png", "s1.png"][: len(masks)]
    return pair(pair_id, style=json.dumps(styles), content_masks=json.dumps(masks), **more)


def test_each_region_takes_its_own_style(bench: Bench) -> None:
    """Where a style applies, the picture is that of the style alone, further in than the positions at the border see."""
    own = {"content_weight": "0.001", "style_weight": "1000", "evaluations": "12"}
    rows = bench.run([masked("both", ["left.png", "right.png"], **own), masked("other", ["right.png", "left.png"], **own), pair("plain", **own)])
    both, other = pixels(rows["both"]), pixels(rows["other"])
    width = both.shape[1]
    assert np.abs(both - other)[:, : width // 3].mean() > 3
    assert np.abs(both - other)[:, -width // 3 :].mean() > 3
    assert rows["both"]["content_masks"] == [str(bench.folder / name) for name in ("left.png", "right.png")]
    assert rows["plain"]["content_masks"] is None


def test_a_white_mask_changes_nothing_whatever_its_size(bench: Bench) -> None:
    for own in ({}, {"size": "20x20", "size_rule": "exact"}, {"coarse": "12:3"}):
        rows = bench.run([pair("plain", **own), masked("white", ["white.png"], **own), pair("style", style_masks="white.png", **own)])
        assert same(rows["plain"], rows["white"])
        assert same(rows["plain"], rows["style"])
        assert rows["white"]["loss_total"] == pytest.approx(rows["plain"]["loss_total"], rel=1e-2)


def test_part_of_a_style(bench: Bench) -> None:
    """Style masks on one side: what stands on the other side of the style image no longer counts."""
    joined = np.concatenate([picture(100, 36, 30)[:, :18], picture(150, 36, 30)[:, 18:]], 1)
    bench.save("joined.png", joined)
    cases = {f"{side}-{image}": {"style": f"{image}.png", "style_masks": f"{side}.png"} for side in ("left", "right") for image in ("s0", "joined")}
    rows = bench.run([pair(name, evaluations="6", **own) for name, own in cases.items()])
    apart = {side: np.abs(pixels(rows[f"{side}-s0"]) - pixels(rows[f"{side}-joined"])).mean() for side in ("left", "right")}
    assert apart["left"] < 0.5 * apart["right"]


def test_one_style_in_two_masks_is_told_apart_in_the_cache(bench: Bench) -> None:
    together = bench.run([pair("a", style_masks="left.png"), pair("b", style_masks="right.png")])
    for name, mask in (("a", "left.png"), ("b", "right.png")):
        assert same(together[name], bench.run([pair(name, style_masks=mask)])[name])
    assert not same(together["a"], together["b"])


BAD = {
    "another aspect": (masked("x", ["square.png"]), "content mask .*square.png: the mask is 30x30 pixels, its picture 36x30"),
    "black": (masked("x", ["black.png"]), "content mask .*black.png: the mask is black"),
    "a style's of another aspect": (pair("x", style_masks="square.png"), "style mask .*square.png: the mask is 30x30 pixels, its picture 36x30"),
    "a style's black": (pair("x", style_masks="black.png"), "style mask .*black.png: the mask is black"),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_mask_is_its_pairs_error_row(bench: Bench, row: dict[str, Any], message: str) -> None:
    rows = bench.run([row, pair("fine")])
    assert rows["fine"]["status"] == "ok"
    assert rows["x"]["error_code"] == "bad_mask"
    assert re.search(message, rows["x"]["error_message"]), rows["x"]["error_message"]


def test_a_region_that_pooling_leaves_out(bench: Bench) -> None:
    """The last of 25 columns belongs to no position of conv2_1."""
    edge = np.zeros((30, 25, 3), np.uint8)
    edge[:, 24] = 255
    bench.save("edge.png", edge)
    bench.save("c9.png", picture(9, 25, 30))
    row = bench.run([masked("x", ["edge.png"], content="c9.png", size="30")])["x"]
    assert row["error_code"] == "bad_mask"
    assert "marks no position of block 2" in row["error_message"]


def test_a_region_that_a_coarse_stage_loses(bench: Bench) -> None:
    """Four rows at the lower edge: at a third of the size they are less than a position of conv2_1."""
    edge = np.zeros((30, 25, 3), np.uint8)
    edge[28:] = 255
    bench.save("edge.png", edge)
    bench.save("c9.png", picture(9, 25, 30))
    rows = bench.run([masked(name, ["edge.png"], content="c9.png", size="30", coarse=coarse) for name, coarse in (("a", "none"), ("b", "7:2"))])
    assert rows["a"]["status"] == "ok"
    assert rows["b"]["error_code"] == "bad_mask"
    assert "coarse" in rows["b"]["error_message"]


def test_a_missing_or_broken_mask(bench: Bench) -> None:
    bench.save("broken.png", b"\x89PNG\r\n\x1a\nnothing")
    rows = bench.run([masked("a", ["none.png"]), masked("b", ["broken.png"]), pair("c", fine_style="none.png")])
    assert [rows[k]["error_code"] for k in "abc"] == ["not_found", "decode_failed", "not_found"]
    assert rows["a"]["error_message"].startswith("content mask")
    assert rows["c"]["error_message"].startswith("fine style")


def test_a_fine_style(bench: Bench) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    bench.save("noise.png", noise)
    rows = bench.run(
        [pair("plain"), pair("fine", fine_style="noise.png"), pair("again", content="c1.png", fine_style="noise.png")], fine_layers="conv1_1"
    )
    assert not same(rows["plain"], rows["fine"])
    assert rows["fine"]["fine_style"] == str(bench.folder / "noise.png")
    assert rows["plain"]["fine_style"] is None
    alone = bench.run([pair("again", content="c1.png", fine_style="noise.png")], fine_layers="conv1_1")
    assert same(alone["again"], rows["again"])
    assert rows["fine"]["evaluations"] == 4  # the pair's own


def test_a_fine_style_too_small_for_its_layers(bench: Bench) -> None:
    bench.save("dot.png", np.zeros((1, 1, 3), np.uint8))
    rows = bench.run([pair("a", fine_style="dot.png"), pair("b")])
    assert rows["a"]["error_code"] == "too_small"
    assert rows["a"]["error_message"].startswith("fine style")
    assert rows["b"]["status"] == "ok"


def test_signatures_of_masks_stay_out_of_the_rows(bench: Bench) -> None:
    signed = "s3://bucket-that-is-not-there/mask.png?X-Amz-Signature=hush&X-Amz-Credential=me"
    worker, shard = bench.worker([masked("a", [signed], fine_style=signed, style_masks=signed)])
    row = worker.failed_row(shard, 0, 1, "internal", "not run")
    assert worker.commit_isolated(shard, [row], 0.0, 1).won
    data = Path(worker.output.data_uri(shard.name)).read_bytes()
    assert b"mask.png" in data
    assert b"hush" not in data


def test_sixteen_bits(bench: Bench) -> None:
    row = bench.run([pair("a")], image_format="tiff")["a"]
    assert row["image"]["path"] == "a.tiff"
    deep = tifffile.imread(io.BytesIO(row["image"]["bytes"]))
    assert deep.dtype == np.uint16
    assert deep.shape == (row["height"], row["width"], 3)
    assert len(np.unique(deep % 257)) > 100  # more than 8 bits stretched
    shallow = bench.run([pair("a")])["a"]
    assert np.abs(deep / 257 - pixels(shallow)).max() <= 0.5 + 1 / 257
    assert Image.open(io.BytesIO(row["image"]["bytes"])).mode == "RGB"


def test_penalised_and_clamped_rows(bench: Bench) -> None:
    rows = bench.run([pair("free"), pair("held", range_weight="10"), pair("boxed", value_range="clamped")])
    assert rows["free"]["loss_range"] is None
    assert rows["held"]["loss_range"] is not None
    assert rows["held"]["loss_total"] == pytest.approx(
        rows["held"]["loss_content"] + 1000 * rows["held"]["loss_style"] + 10 * rows["held"]["loss_range"], rel=1e-4
    )
    assert rows["boxed"]["value_range"] == "clamped"
