"""The controls beyond the paper: layer weights, settings of a pair, coarse stages, colour."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from nets import THREE, config, pair, picture, stylizer, weights

from nstray.engine.api import stylize
from nstray.engine.batching import run_batches
from nstray.engine.color import luminance
from nstray.engine.pair import Pair, Result
from nstray.engine.settings import coarse_stages
from nstray.engine.stages import enlarge
from nstray.engine.stylizer import Stylizer


def run(s: Stylizer, pairs: list[Pair], size: int = 8) -> list[Result]:
    found = dict(run_batches(s, pairs, size))
    assert all(isinstance(r, Result) for r in found.values()), found
    return [found[i] for i in range(len(pairs))]  # type: ignore[misc]


# layer weights


def style_term(**settings: Any) -> float:
    s = stylizer(**{**THREE, "content_weight": 0.0, "style_weight": 1.0, "init": "content", "evaluations": 1, **settings})
    return run(s, [pair(1)])[0].loss_style or 0.0


def test_layer_weights_are_taken_as_they_are() -> None:
    first, second = style_term(style_layers=("conv1_1",)), style_term(style_layers=("conv2_1",))
    assert style_term() == pytest.approx((first + second) / 2, rel=1e-5)
    assert style_term(style_layer_weights=(3.0, 0.5)) == pytest.approx(3 * first + second / 2, rel=1e-5)


def test_a_weight_for_every_layer_or_none() -> None:
    with pytest.raises(ValueError, match="1 weight for 2 style_layers"):
        config(**THREE, style_layer_weights=(1.0,))


# settings of a pair


def test_a_pair_of_other_settings_is_what_it_is_alone() -> None:
    """Layers, weights of layers, scale, stages and optimizer: beside others in one call, as with a stylizer that has them itself."""
    own: list[dict[str, Any]] = [
        {},
        {"style_layers": ("conv1_1",)},
        {"content_layers": ("conv1_2",), "style_layers": ("conv1_1", "conv1_2", "conv2_1")},
        {"style_layer_weights": (0.2, 0.8)},
        {"loss_scale": "paper", "content_weight": 1e-3},
        {"optimizer": "adam", "learning_rate": 0.05},
        {"color": "match"},
        {"coarse": "14:3"},
    ]
    base = {**THREE, "evaluations": 4}
    together = run(stylizer(**base), [pair(1, **values) for values in own])
    for values, result in zip(own, together, strict=True):
        (alone,) = run(stylizer(**{**base, **values}), [pair(1)])
        assert result.loss_total == pytest.approx(alone.loss_total, rel=1e-6), values
        assert torch.equal(result.image, alone.image), values
    assert len({round(r.loss_total, 6) for r in together}) == len(own)


def test_pairs_of_other_layers_share_no_batch() -> None:
    s = stylizer(**THREE)
    with pytest.raises(ValueError, match="same layers"):
        s.run([pair(1), pair(2, style_layers=("conv1_1",))])
    with pytest.raises(ValueError, match="pooling and dtype"):
        s.run([pair(1, pooling="max")])


def test_a_pairs_bad_setting_is_its_own() -> None:
    outcomes = dict(run_batches(stylizer(**THREE, evaluations=1), [pair(1), pair(2, evaluations=0), pair(3, style_layers=("conv3_1",))], 8))
    assert isinstance(outcomes[0], Result)
    assert "from 1" in str(outcomes[1])
    assert "do not hold" in str(outcomes[2])


# coarse stages


@pytest.mark.parametrize(
    ("coarse", "longest", "sides"),
    [
        ("25%:9,50%:40", 500, [125, 250]),
        ("none", 512, []),
        ("auto", 512, [128, 256]),
        ("auto", 1000, [250 // 2, 250, 500][1:]),
        ("auto", 250, []),
        ("half", 512, [256]),
        ("sqrt2", 512, [128, 181, 256, 362]),
        ("64:10,128:20", 512, [64, 128]),
        ("64:10,128:20,512:5", 512, [64, 128]),
        ("64:10,128:20", 100, [64]),
    ],
)
def test_the_sides_of_the_stages(coarse: str, longest: int, sides: list[int]) -> None:
    assert [side for side, _ in coarse_stages(coarse, longest)] == sides


def test_every_stage_is_counted_and_the_last_one_has_full_size() -> None:
    s = stylizer(**THREE, coarse="8:3,12:5", evaluations=4, init="noise")
    seen: list[int] = []
    found = dict(run_batches(s, [pair(1), pair(2)], 1, on_evaluation=seen.append))
    for result in found.values():
        assert isinstance(result, Result)
        assert result.evaluations == 12 == len(result.loss_curve)
        assert result.image.shape == picture(1).shape
    assert seen == [*range(1, 13), *range(1, 13)]


def test_a_stage_begins_with_the_last_ones_result() -> None:
    """From noise: after coarse stages the first loss at full size is far below that of full-size noise."""
    settings = {**THREE, "init": "noise", "evaluations": 5}
    content, style = picture(1, 48, 64), picture(2, 48, 64)
    (plain,) = stylize([content], [style], config(**settings), weights=weights(), device="cpu")
    (coarse,) = stylize([content], [style], config(**settings, coarse="32:30"), weights=weights(), device="cpu")
    assert coarse.loss_curve[30] < plain.loss_curve[0] / 3


def test_stages_too_small_for_the_deepest_layer_are_left_out() -> None:
    s = stylizer(content_layers=("conv3_1",), style_layers=("conv1_1",), coarse="2:9,16:3", evaluations=2)
    assert run(s, [pair(1)])[0].evaluations == 5


# colour


def test_luminance_keeps_the_contents_chroma() -> None:
    (result,) = run(stylizer(**THREE, color="luminance", evaluations=8), [pair(1)])
    yiq = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    (ours, theirs) = (torch.einsum("kc,chw->khw", yiq, image) for image in (result.image, picture(1)))
    assert (ours - theirs).abs().max() < 2 / 255
    assert (luminance(result.image) - luminance(picture(1))).abs().max() > 0.05  # the luminance moved


def test_match_brings_the_contents_colours() -> None:
    red = picture(2).clone()
    red[1:] *= 0.2
    s = stylizer(**THREE, content_weight=0.0, init="noise", evaluations=40)
    plain, matched = run(s, [pair(1, styles=[red]), pair(1, styles=[red], color="match")])
    content, style = picture(1).mean(dim=(1, 2)), red.mean(dim=(1, 2))
    assert (matched.image.mean(dim=(1, 2)) - content).abs().max() < (matched.image.mean(dim=(1, 2)) - style).abs().max()
    assert (plain.image.mean(dim=(1, 2)) - style).abs().max() < (plain.image.mean(dim=(1, 2)) - content).abs().max()


@pytest.mark.parametrize("method", ["cholesky", "pca", "symmetric"])
def test_a_matched_start_has_the_styles_colours(method: str) -> None:
    s = stylizer(**THREE, init="content-matched", color_match=method, evaluations=1)
    style = 0.3 + 0.4 * picture(2)  # in the middle of the range, so that clamping the start changes little
    (result,) = run(s, [pair(1, styles=[style])])
    assert (result.image.mean(dim=(1, 2)) - style.mean(dim=(1, 2))).abs().max() < 0.02
    gray = [float(torch.corrcoef(torch.stack([luminance(a).flatten(), luminance(picture(1)).flatten()]))[0, 1]) for a in (result.image,)]
    assert gray[0] > 0.5  # still the content's scene


def test_colours_do_not_leak_through_the_cache() -> None:
    """Two contents recolour one style differently, though the style has one key."""
    s = stylizer(**THREE, color="match", evaluations=6)
    together = run(s, [pair(1, styles=[picture(9)], style_keys=["k"]), pair(2, styles=[picture(9)], style_keys=["k"])])
    alone = [run(stylizer(**THREE, color="match", evaluations=6), [pair(i, styles=[picture(9)])])[0] for i in (1, 2)]
    for a, b in itertools.zip_longest(together, alone):
        assert torch.equal(a.image, b.image)


def test_layer_weights_without_a_style_term_change_nothing() -> None:
    plain, weighted = run(stylizer(**THREE, evaluations=3), [pair(1, style_weight=0.0), pair(1, style_weight=0.0, style_layer_weights=(1.0, 2.0))])
    assert plain.loss_total == weighted.loss_total
    assert weighted.loss_style is None


def test_an_unknown_setting_of_a_pair_is_named() -> None:
    outcomes = dict(run_batches(stylizer(**THREE, evaluations=1), [Pair(picture(1), [picture(2)], settings={"style_wieght": 1}), pair(2)], 8))
    assert "style_wieght" in str(outcomes[0])
    assert isinstance(outcomes[1], Result)


def test_a_stage_begins_with_the_contents_finest_detail_where_there_is_a_content_term() -> None:
    """Enlarged, a content that was optimised to nothing else is the content itself; without the term it is the enlarged picture."""
    s = stylizer(**THREE)
    contents = torch.stack([picture(1), picture(2)])
    pairs = [Pair(contents[0], []), Pair(contents[1], [], settings={"content_weight": 0.0})]
    small = torch.nn.functional.interpolate(contents, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    low, high = contents.amin((1, 2, 3), keepdim=True), contents.amax((1, 2, 3), keepdim=True)
    large = enlarge(small.clamp(low, high), contents, [s.settings(p.settings) for p in pairs])
    assert torch.allclose(large[0], contents[0], atol=1e-6)
    assert float((large[1] - contents[1]).abs().mean()) > 0.02
