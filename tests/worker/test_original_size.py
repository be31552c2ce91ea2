"""Size original: each picture keeps its own size up to max_side, and its styles take its area."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench import Bench, pair, pixels, same, weights
from outputs import picture

from nstray.commands import cost
from nstray.config import make
from nstray.errors import ConfigError
from nstray.manifest.manifest import Manifest

__all__ = ["weights"]  # a fixture


@pytest.fixture
def bench(tmp_path: Path, weights: Any) -> Bench:
    bench = Bench(tmp_path, weights)
    for name, width, height in (("wide.png", 60, 20), ("tall.png", 18, 45), ("tiny.png", 17, 17), ("large.png", 90, 45), ("brush.png", 80, 80)):
        bench.save(name, picture(7, width, height))
    return bench


def test_each_picture_keeps_its_own_size_up_to_max_side(bench: Bench) -> None:
    names = ["wide", "tall", "tiny", "large"]
    rows = bench.run([pair(name, content=f"{name}.png") for name in names], size="original", max_side=60)
    got = {name: (rows[name]["width"], rows[name]["height"]) for name in names}
    assert got == {"wide": (60, 20), "tall": (18, 45), "tiny": (17, 17), "large": (60, 30)}
    assert (rows["large"]["content_width"], rows["large"]["content_height"]) == (90, 45)
    assert {pixels(rows[name]).shape for name in names} == {(20, 60, 3), (45, 18, 3), (17, 17, 3), (30, 60, 3)}


@pytest.mark.parametrize(("scale", "side"), [(1.0, 35), (0.5, 17), (2.0, 69), (100.0, 80)])
def test_the_style_takes_the_area_of_its_content(bench: Bench, scale: float, side: int) -> None:
    worker, shard = bench.worker([pair("wide", content="wide.png", style="brush.png")], size="original", style_scale=scale)
    (ready,) = worker._inputs.prepare(shard)
    assert ready.error is None
    # 60 x 20 pixels are those of a square of 34.64; the picture has 80 x 80, and no style grows.
    assert ready.styles[0].pixels.shape == (side, side, 3)


def test_one_style_of_contents_of_several_sizes_is_resized_for_each(bench: Bench) -> None:
    contents = ["wide.png", "tiny.png"]
    together = bench.run([pair(c, content=c, style="brush.png") for c in contents], size="original")
    for c in contents:
        alone = bench.run([pair(c, content=c, style="brush.png")], size="original")
        assert same(alone[c], together[c])


def test_rows_may_have_it_and_others_not(bench: Bench) -> None:
    rows = bench.run(
        [pair("own", content="wide.png", size="original"), pair("job", content="wide.png"), pair("lost", content="none.png", size="original")]
    )
    assert (rows["own"]["width"], rows["job"]["width"]) == (60, 24)
    assert (rows["lost"]["error_code"], rows["lost"]["content_width"]) == ("not_found", None)


def test_masks_and_fine_styles_follow(bench: Bench) -> None:
    bench.save("m.png", picture(3, 60, 20))
    rows = bench.run(
        [pair("wide", content="wide.png", style="brush.png", content_masks="m.png", fine_style="c0.png")], size="original", fine_layers="conv1_1"
    )
    assert (rows["wide"]["status"], rows["wide"]["width"]) == ("ok", 60)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size_rule": "area"}, "size original keeps each picture's own size; omit size_rule area"),
        ({"size_rule": "exact"}, "omit size_rule exact"),
        ({"upsample": True}, "upsample has no meaning for size original"),
        ({"max_side": 0}, "max_side"),
    ],
)
def test_what_does_not_go_with_it_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make({"size": "original", **settings})


@pytest.mark.parametrize(
    ("settings", "rows", "pixels"),
    [
        ({"size": "original"}, ["640,480", "640,480"], 560 * 560),  # of a square of 554.3, to 16 pixels
        ({"size": "original", "max_side": 320}, ["640,480"], 272 * 272),
        ({"size": "original"}, [","], 2048 * 1536),  # unknown: the most it may be
        ({"size": 8192}, ["96,72"], 80 * 80),  # smaller than the size: it keeps its own
        ({"size": 8192, "upsample": True}, ["96,72"], 8192 * 6144),
        ({"size": 512}, ["640,480"], 512 * 384),
        ({"size": 512, "size_rule": "exact"}, ["640,480"], 512 * 512),
    ],
)
def test_the_plan_counts_the_pixels_that_the_manifest_s_sizes_give(tmp_path: Path, settings: dict[str, Any], rows: list[str], pixels: int) -> None:
    lines = "".join(f"c{i}.png,s.png,{row}\n" for i, row in enumerate(rows))
    (tmp_path / "m.csv").write_text(f"content,style,width,height\n{lines}")
    config = make({"weights": "random", **settings})
    manifest = Manifest(str(tmp_path / "m.csv"))
    total = cost.JobCost(manifest, manifest.check(config), config).total
    assert total.pixels == pytest.approx(pixels * len(rows))
    assert total.evaluations == 500 * len(rows)
