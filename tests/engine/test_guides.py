"""Guides: the guided Gram matrix of arXiv 1611.07865, the regions' own styles, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nets import pair, picture, stylizer
from torch import Tensor

from nstray.engine.batching import run_batches
from nstray.engine.losses.guides import position_weights, region_weights
from nstray.engine.losses.objective import Objective
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.pair import Pair
from nstray.engine.stylizer import Stylizer

STATISTICS = ["gram", "wasserstein", "mean-std"]


def halves(h: int = 32, w: int = 32) -> list[Tensor]:
    left = torch.zeros(h, w)
    left[:, : w // 2] = 1
    return [left, 1 - left]


def objective(s: Stylizer, p: Pair) -> Objective:
    return s.objective([p], p.content.unsqueeze(0))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_guide_of_ones_is_no_guide(statistic: str) -> None:
    s = stylizer(style_statistic=statistic)
    plain = pair(1)
    guided = pair(1, guides=[torch.ones(32, 32)], style_guides=[torch.full((32, 32), 255, dtype=torch.uint8)])
    x = picture(7).unsqueeze(0)
    for a, b in zip(objective(s, plain).evaluate(x), objective(s, guided).evaluate(x), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(a.abs().max()))


def test_the_guided_gram_matrix_by_its_definition() -> None:
    """sum_r lambda_r 1/(4 N^2) sum (G^r - A^r)^2 of F o T_r with sum T_r^2 = 1, T_r pooled as the network pools; lambda_r the areas' shares."""
    s = stylizer(content_weight=0.0, style_weight=1.0)
    guide = torch.rand(30, 27, generator=torch.Generator().manual_seed(3))
    style_guide = torch.rand(21, 33, generator=torch.Generator().manual_seed(4))
    p = Pair(
        picture(1, 30, 27),
        [picture(2, 21, 33), picture(3, 18, 18)],
        guides=[guide, (1 - guide) * 0.5],
        style_guides=[style_guide, None],
        blend=[0.25, 0.75],
    )
    x = picture(4, 30, 27)
    loss, _, terms = objective(s, p).evaluate(x.unsqueeze(0))
    network: VGGFeatures = s.network

    def grams(image: Tensor, guide: Tensor) -> list[np.ndarray]:
        out = []
        for tap, level in (("conv1_1", 1), ("conv2_1", 2)):
            f = network(image.unsqueeze(0), [tap])[tap][0].double().numpy()
            t = guide.double().numpy()
            if level == 2:
                h, w = (n // 2 * 2 for n in t.shape)
                t = t[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3))
            t = t / np.sqrt((t**2).sum())
            flat = (f * t).reshape(len(f), -1)
            out.append(flat @ flat.T)
        return out

    expected = 0.0
    weights = [0.25 * 2 * float(guide.sum()), 0.75 * 2 * float(((1 - guide) * 0.5).sum())]
    whole = float((guide + (1 - guide) * 0.5).sum())
    for r, (own, style, theirs) in enumerate(zip(p.guides or [], p.styles, [style_guide, torch.ones(18, 18)], strict=True)):
        for g, a in zip(grams(x, own), grams(style, theirs), strict=True):
            expected += weights[r] / whole * 0.5 * ((g - a) ** 2).sum() / (4 * len(g) ** 2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(terms[1]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_each_region_moves_to_its_own_style(statistic: str) -> None:
    s = stylizer(style_statistic=statistic, content_weight=0.0, style_weight=1.0, evaluations=40)
    styles = [picture(11) * torch.tensor([1.0, 0.3, 0.3]).view(3, 1, 1), picture(12) * torch.tensor([0.3, 0.3, 1.0]).view(3, 1, 1)]
    start = picture(5)
    (r,) = s.run([Pair(start, styles, guides=halves())])
    regions = [torch.zeros(32, 32), torch.zeros(32, 32)]
    regions[0][:, :12] = 1  # away from the border, where positions see both
    regions[1][:, 20:] = 1
    for k in range(2):
        inside = s.style_target(r.image, guide=regions[k])
        before = s.style_target(start, guide=regions[k])
        for tap in inside:
            own, other = (s.style_target(styles[j])[tap] for j in (k, 1 - k))
            moved, stood = float((inside[tap] - own).norm()), float((before[tap] - own).norm())
            assert moved < 0.5 * stood
            assert moved < float((inside[tap] - other).norm())


def test_a_style_acts_on_its_region_alone() -> None:
    s = stylizer(content_weight=0.0, style_weight=1.0)
    left, _ = halves()
    _, gradient, _ = objective(s, pair(1, guides=[left])).evaluate(picture(9).unsqueeze(0))
    reach = 4  # of conv2_1: two convolutions of block 1, one of block 2, in pixels
    assert float(gradient[..., 16 + reach :].abs().max()) == 0
    assert float(gradient[..., :16].abs().max()) > 0


def test_part_of_a_style_image() -> None:
    s = stylizer()
    style = picture(2)
    left, right = torch.zeros(32, 32), torch.zeros(32, 32)
    left[:, :12] = 1  # the positions of conv2_1 see four pixels further
    right[:, 20:] = 1
    joined = torch.cat([style[:, :, :16], picture(3)[:, :, 16:]], 2)
    for guide, same in ((left, True), (right, False)):
        one, other = (s.style_target(image, guide=guide) for image in (style, joined))
        assert [torch.allclose(one[tap], other[tap], rtol=1e-4, atol=1e-6) for tap in one] == [same, same]


def test_in_coarse_stages_and_in_batches() -> None:
    s = stylizer(coarse="16:3", evaluations=4)
    s.batched = True
    given = [pair(i, styles=[picture(i + 50), picture(i + 60)], guides=halves()) for i in (1, 2)]
    mixed = [given[0], pair(3), given[1]]
    outcomes = dict(run_batches(s, mixed, 8))
    for i, p in enumerate(mixed):
        (alone,) = stylizer(coarse="16:3", evaluations=4).run([p])
        outcome = outcomes[i]
        assert not isinstance(outcome, Exception)
        assert outcome.loss_curve == pytest.approx(alone.loss_curve, rel=1e-3)
    with pytest.raises(ValueError, match="number of guides"):
        s.run([given[0], pair(3, styles=[picture(1), picture(2)])])


def test_the_cache_tells_guides_apart_by_their_keys() -> None:
    s = stylizer()
    left, right = halves()
    first = s.style_target(picture(1), ("a", "left"), guide=left)
    assert s.style_target(picture(1), ("a", "left"), guide=left) is first
    assert not torch.equal(s.style_target(picture(1), ("a", "right"), guide=right)["conv1_1"], first["conv1_1"])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"styles": [picture(1), picture(2)], "guides": halves()[:1]}, "guides: 1 guide for 2 styles"),
    "another shape": ({"guides": [torch.ones(16, 32)]}, r"guides: expected a guide of shape \(32, 32\)"),
    "empty": ({"guides": [torch.zeros(32, 32)]}, "mask 1 marks no position"),
    "style guides of another number": ({"style_guides": [None, None]}, "style_guides: 2 guides for 1 style"),
    "a style guide of another shape": ({"style_guides": [torch.ones(8, 8)]}, "style_guides: expected a guide of shape"),
    "an empty style guide": ({"style_guides": [torch.zeros(32, 32)]}, "marks no position"),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD.keys())
def test_bad_guides(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stylizer(evaluations=1).run([pair(1, **values)])


def test_shares_and_areas() -> None:
    guides = torch.stack([torch.ones(13, 21), torch.rand(13, 21)])[None]
    for tap, share in position_weights(guides, ["conv1_1", "pre:conv2_2", "conv3_1"]).items():
        level = int(tap.removeprefix("pre:")[4])
        assert share.shape == (1, 2, 13 >> (level - 1), 21 >> (level - 1))
        assert torch.allclose(share.sum(dim=(2, 3)), torch.ones(1, 2))
        assert torch.allclose(share[0, 0], torch.full_like(share[0, 0], 1 / share[0, 0].numel()))
    assert float(region_weights(guides).sum()) == pytest.approx(1)
    # a region that the deepest layer's pooling leaves out
    corner = torch.zeros(1, 1, 13, 21)
    corner[..., 12, 20] = 1
    assert position_weights(corner, ["conv1_1"])["conv1_1"][0, 0, 12, 20] == 1
    with pytest.raises(ValueError, match="block 2"):
        position_weights(corner, ["conv1_1", "conv2_1"])
