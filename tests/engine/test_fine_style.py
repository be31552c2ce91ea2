"""Fine-scale statistics from one style, coarse ones from another (arXiv 1611.07865, section 6)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from nets import count_passes, pair, picture, stylizer

from nstray.engine.fine_style import refine_styles
from nstray.engine.losses.gatys import gram
from nstray.engine.pair import Pair
from nstray.engine.stylizer import Stylizer


def mixture(s: Stylizer, p: Pair) -> torch.Tensor:
    return refined(s, p).styles[0]


def refined(s: Stylizer, p: Pair) -> Pair:
    return refine_styles(p, s.settings(p.settings), s.run, s.cache)


def test_the_style_takes_the_fine_layers_statistics_and_keeps_its_layout() -> None:
    s = stylizer(fine_layers=("conv1_1",), evaluations=60)
    coarse, fine = picture(1), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
    mixed = mixture(s, pair(5, styles=[coarse], fine=fine))
    assert mixed.shape == coarse.shape

    def e(image: torch.Tensor) -> float:
        target = s.style_target(fine, layers=["conv1_1"])["conv1_1"]
        return float((gram(s.network(image.unsqueeze(0), ["conv1_1"])["conv1_1"])[0] - target).square().sum())

    assert e(mixed) < 1e-2 * e(coarse)

    def layout(image: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(image.mean(0, keepdim=True), 4).flatten()
        return (small - small.mean()) / small.std()

    like_coarse, like_fine = (float((layout(mixed) * layout(image)).mean()) for image in (coarse, fine))
    assert like_coarse > max(0.5, like_fine + 0.2)


def test_it_is_the_style_from_then_on() -> None:
    s = stylizer(evaluations=5)
    p = pair(1, fine=picture(9))
    (r,) = s.run([p])
    (by_hand,) = s.run([dataclasses.replace(p, styles=[mixture(s, p)], fine=None)])
    assert r.loss_curve == by_hand.loss_curve
    assert torch.equal(r.image, by_hand.image)
    (without,) = s.run([dataclasses.replace(p, fine=None)])
    assert not torch.equal(r.image, without.image)


def test_it_is_made_once_for_a_named_pair_of_styles() -> None:
    s = stylizer(evaluations=5)
    first = pair(1, styles=[picture(8)], style_keys=["a"], fine=picture(9), fine_key="b")
    s.run([first])
    passes = count_passes(s)
    (again,) = s.run([dataclasses.replace(first, content=picture(2))])
    assert len(passes) == 5 + 1  # five evaluations and the content's target: neither style is computed again
    (fresh,) = stylizer(evaluations=5).run([dataclasses.replace(first, content=picture(2), style_keys=None, fine_key=None)])
    assert again.loss_curve == fresh.loss_curve
    passes.clear()
    s.run([dataclasses.replace(first, fine=picture(10), fine_key="c")])
    assert len(passes) > 6
    passes.clear()
    s.run([dataclasses.replace(first, settings={"fine_layers": ("conv2_1",)})])
    assert len(passes) > 6


def test_the_mixture_has_no_other_terms_and_every_style_of_a_blend_gets_it() -> None:
    s = stylizer(evaluations=4, tv_weight=100.0, coarse="16:2", color="luminance", content_weight=5.0, style_layer_weights=(1.0, 2.0))
    plain = stylizer(evaluations=4)
    p = pair(1, styles=[picture(4), picture(5)], fine=picture(9))
    for mixed, alone in zip(refined(s, p).styles, refined(plain, p).styles, strict=True):
        assert torch.allclose(mixed, alone, atol=1e-5)
    (r,) = s.run([p])
    assert r.loss_total < r.loss_curve[0]


def test_what_the_mixture_depends_on_names_it() -> None:
    """A longer optimisation of the same images is another style, in a cache that holds the shorter one."""
    s = stylizer()
    short = pair(1, styles=[picture(8)], style_keys=["a"], fine=picture(9), fine_key="b", evaluations=1)
    long = dataclasses.replace(short, settings={"evaluations": 12})
    s.run([short])
    (r,) = s.run([long])
    (alone,) = stylizer().run([long])
    assert r.loss_curve == alone.loss_curve


def test_masks_and_other_terms_do_not_make_it_anew() -> None:
    s = stylizer(evaluations=3)
    p = pair(1, styles=[picture(8)], style_keys=["a"], fine=picture(9), fine_key="b")
    s.run([p])
    for other in (
        dataclasses.replace(p, style_guides=[torch.eye(32)], style_guide_keys=["m"]),
        dataclasses.replace(p, settings={"content_weight": 3.0, "tv_weight": 1.0}),
    ):
        passes = count_passes(s)
        s.run([other])
        assert len(passes) <= 3 + 2  # its evaluations, the content's target, and the style's with its guide


def test_it_is_not_made_where_no_style_is_used() -> None:
    s = stylizer(evaluations=3)
    passes = count_passes(s)
    s.run([pair(1, fine=picture(9), style_weight=0.0)])
    assert len(passes) == 3 + 1


def test_progress_and_a_mixture_that_diverges() -> None:
    s = stylizer(evaluations=3)
    ticks: list[int] = []
    (r,) = s.run([pair(1, fine=picture(9))], ticks.append)
    assert ticks == [0, 0, 0, 1, 2, 3]
    assert r.evaluations == 3
    with pytest.raises(FloatingPointError, match="fine style"):
        s.run([pair(1, fine=torch.full((3, 32, 32), float("nan")))])
