"""Batches of pairs: what comes out, in what company, from what input, and what happens to a pair that fails."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import FIVE, TWO, config, count_passes, pair, picture, stylizer, weights
from PIL import Image

from nstray.engine import stylize
from nstray.engine.batching import Memory, run_batches
from nstray.engine.pair import Pair, Result, as_image, pair_seed, pixels
from nstray.engine.settings import StylizeConfig
from nstray.engine.stylizer import Stylizer

PACKAGE = Path(__file__).parents[2] / "nstray"


# what a batch computes


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_batch_of_eight_ends_as_eight_runs_of_one(optimizer: str) -> None:
    """Mixed styles, sizes of styles, blends, seeds, starts, weights and budgets.

    Another batch size rounds a gradient differently in its 7th digit. A unit whose sign that turns over moves the gradient
    of a small picture by a visible step, and L-BFGS carries it on: a run alone, its start moved by 1e-7, strays as far as
    a batch does. So the beginnings are compared closely, and the ends before that has grown (0.3 % seen, 3 % after 80).
    """
    pairs = [
        pair(0),
        pair(1, styles=[picture(50, 24, 40)], init="noise"),
        pair(2, styles=[picture(51), picture(52, 20, 20)], blend=[0.25, 0.75]),
        pair(3, content_weight=10.0, style_weight=100.0),
        pair(4, tv_weight=50.0, init="style"),
        pair(5, evaluations=12),
        pair(6, start=picture(77)),
        pair(7, content_weight=0.0),
    ]
    s = stylizer(**TWO, optimizer=optimizer, evaluations=30)
    together = s.run(pairs)
    for i, p in enumerate(pairs):
        (alone,) = s.run([p])
        assert together[i].loss_total == pytest.approx(alone.loss_total, rel=0.01), i
        assert together[i].loss_curve[:4] == pytest.approx(alone.loss_curve[:4], rel=1e-3), i
        assert together[i].evaluations == alone.evaluations
        assert together[i].loss_total < 0.7 * together[i].loss_curve[0], i  # it went somewhere
        for term in ("loss_content", "loss_style", "loss_tv"):
            assert (getattr(together[i], term) is None) == (getattr(alone, term) is None), (i, term)
    assert together[7].loss_content is None
    assert together[0].loss_tv is None
    assert together[4].loss_tv is not None


def test_on_a_cpu_a_pair_gives_the_same_bits_in_any_batch() -> None:
    contents = [picture(i) for i in range(8)]
    styles = [picture(50 + i % 3) for i in range(8)]
    settings = {"content_layers": ("conv2_1",), "style_layers": ("conv1_1", "conv1_2", "conv2_1"), "evaluations": 60}
    eight = stylize(contents, styles, StylizeConfig(**settings, batch_size=8), weights=weights(), device="cpu")
    for i, (c, s) in enumerate(zip(contents, styles, strict=True)):
        (alone,) = stylize([c], [s], StylizeConfig(**settings), weights=weights(), device="cpu")
        assert torch.equal(eight[i].image, alone.image), i
        assert eight[i].loss_curve == alone.loss_curve


def test_same_seed_same_result_and_another_seed_another() -> None:
    content, style = picture(1), picture(2)
    c = config(init="noise")
    first, again = (stylize([content], [style], c, weights=weights())[0] for _ in range(2))
    other = stylize([content], [style], config(init="noise", seed=1), weights=weights())[0]
    assert torch.equal(first.image, again.image)
    assert first.loss_curve == again.loss_curve
    assert first.seed == again.seed == pair_seed(0, "0")
    assert first.loss_curve[0] != other.loss_curve[0]


def test_a_noise_start_does_not_depend_on_the_place_in_the_batch() -> None:
    s = stylizer(init="noise", evaluations=1)  # one evaluation: the image is the start
    p = pair(5)
    alone = s.run([p])[0].image
    batch = s.run([pair(1), pair(2), p])
    assert torch.equal(batch[2].image, alone)
    assert not torch.equal(batch[1].image, alone)
    assert float(alone.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(alone.std()) == pytest.approx(12**-0.5, abs=0.02)  # uniform over 0..1


def test_starts() -> None:
    s = stylizer(evaluations=1)
    wide = picture(9, 20, 44)

    def begin(**values: Any) -> torch.Tensor:
        return s.run([pair(1, **values)])[0].image

    assert torch.equal(begin(init="content"), picture(1))
    assert torch.equal(begin(init="style"), picture(1001))
    assert begin(init="style", styles=[wide]).shape == (3, 32, 32)
    assert torch.equal(begin(start=picture(8), init="noise"), picture(8))
    with pytest.raises(ValueError, match="give it as the pair's `start`"):
        begin(init="start.png")
    with pytest.raises(ValueError, match="no style image"):
        begin(init="style", styles=[])


def test_the_result_accounts_for_itself() -> None:
    s = stylizer(evaluations=9, tv_weight=3.0, content_weight=2.0, style_weight=500.0)
    seen: list[int] = []
    (r,) = s.run([pair(1)], seen.append)
    assert seen == list(range(1, 10))
    assert r.evaluations == 9
    assert len(r.loss_curve) == 9
    assert 0 < r.iterations < 9
    assert r.loss_total == r.loss_curve[-1] == min(r.loss_curve)
    assert r.loss_content is not None
    assert r.loss_style is not None
    assert r.loss_tv is not None
    assert r.loss_total == pytest.approx(2 * r.loss_content + 500 * r.loss_style + 3 * r.loss_tv, rel=1e-5)
    assert r.image.dtype == torch.float32
    assert 0 <= float(r.image.min()) < float(r.image.max()) <= 1
    assert r.seconds > 0
    assert not r.diverged


def test_an_image_that_is_not_finite_is_marked_diverged_and_its_neighbours_are_not() -> None:
    for optimizer in ("lbfgs", "adam"):
        bad = picture(1)
        bad[0, 3, 3] = float("nan")
        r = stylizer(optimizer=optimizer).run([pair(2), pair(1, content=bad), pair(3)])
        assert [x.diverged for x in r] == [False, True, False]
        assert r[0].loss_total < r[0].loss_curve[0]


def test_style_alone_matches_the_statistics_and_needs_no_content_layer() -> None:
    s = Stylizer(config(content_weight=0.0, content_layers=("conv5_4",), evaluations=20), weights())
    (r,) = s.run([pair(1)])
    assert r.loss_content is None
    assert r.loss_style is not None
    assert r.loss_style < 0.2 * r.loss_curve[0] / 1000


def test_no_style_at_all_reconstructs_the_content() -> None:
    (r,) = stylize([picture(1)], [None], config(style_weight=0.0, init="noise", evaluations=40), weights=weights())
    assert r.loss_style is None
    assert r.loss_total < 0.1 * r.loss_curve[0]


# what stylize takes


def test_every_kind_of_image_gives_the_same_picture() -> None:
    array = (picture(3).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    forms: list[Any] = [
        array,
        Image.fromarray(array),
        torch.from_numpy(array).permute(2, 0, 1),
        torch.from_numpy(array),
        array.astype(np.float32) / np.float32(255),
        array.astype(np.float64) / 255,
        np.flip(np.flip(array, 0).copy(), 0),  # negative strides
    ]
    results = [stylize([form], [form], config(evaluations=3, init="noise"), weights=weights())[0] for form in forms]
    for r in results[1:]:
        assert r.loss_total == pytest.approx(results[0].loss_total, rel=1e-4)
        assert torch.allclose(r.image, results[0].image, atol=1e-3)


def test_mixed_shapes_come_back_in_order() -> None:
    shapes = [(32, 32), (24, 40), (32, 32), (20, 20), (24, 40)]
    contents = [picture(i, *shape) for i, shape in enumerate(shapes)]
    styles = [picture(90), [picture(91), picture(92, 18, 22)], picture(90), picture(91), picture(93)]
    results = stylize(contents, styles, config(batch_size=2, evaluations=4), weights=weights())
    assert [tuple(r.image.shape[1:]) for r in results] == shapes
    assert [r.seed for r in results] == [pair_seed(0, str(i)) for i in range(5)]
    for content, r in zip(contents, results, strict=True):
        assert float((r.image - content).abs().mean()) < 0.2  # its own content, not a neighbour's


def test_styles_made_anew_at_each_access_are_not_confused() -> None:
    """A lazy sequence, such as a column of a dataset, drops each image once it is read; its memory and its id are used again."""

    class Lazy(Sequence[Any]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: Any) -> Any:
            if i >= 6:
                raise IndexError
            return picture(200 + i).permute(1, 2, 0).numpy()

    contents = [picture(1)] * 6
    lazy = stylize(contents, Lazy(), config(evaluations=1), weights=weights())
    held = stylize(contents, [picture(200 + i) for i in range(6)], config(evaluations=1), weights=weights())
    assert [r.loss_total for r in lazy] == pytest.approx([r.loss_total for r in held], rel=1e-4)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.zeros((32, 32), np.uint8), r"expected an RGB image .* got shape \(32, 32\)"),
        (np.zeros((32, 32, 4), np.uint8), r"got shape \(32, 32, 4\)"),
        (np.zeros((1, 32, 32, 3), np.uint8), "got shape"),
        (np.zeros((32, 32, 3), np.int64), "expected uint8"),
        (np.full((32, 32, 3), 200.0), "over 0..1; these reach from 200 to 200"),
        (np.full((32, 32, 3), np.nan), "over 0..1"),
        (np.zeros((1, 40, 3), np.uint8), "content is 40 x 1 pixels; the deepest layer needs at least 2 a side"),
    ],
)
def test_bad_images_are_value_errors(bad: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        stylize([bad], [picture(1)], config(), weights=weights())


def test_a_style_too_small_for_its_deepest_layer() -> None:
    with pytest.raises(ValueError, match="style is 3 x 5 pixels; the deepest layer needs at least 4 a side"):
        stylize([picture(1)], [picture(2, 5, 3)], config(**FIVE), weights=weights(5))
    # the smallest that does
    assert stylize([picture(1, 4, 4)], [picture(2, 4, 4)], config(**FIVE, evaluations=2), weights=weights(5))[0].image.shape == (3, 4, 4)


def test_other_bad_calls() -> None:
    with pytest.raises(ValueError, match="got 2 contents and 1 style"):
        stylize([picture(1)] * 2, [picture(2)], config(), weights=weights())
    with pytest.raises(ValueError, match="nothing to optimise"):
        stylize([picture(1)], [None], config(content_weight=0.0), weights=weights())
    s = stylizer()
    with pytest.raises(ValueError, match="contents of one shape"):
        s.run([pair(1), pair(2, content=picture(1, 32, 40))])
    with pytest.raises(ValueError, match=r"style: expected an image of shape \(3, H, W\)"):
        s.run([pair(1, styles=[torch.zeros(32, 32)])])
    # nothing to optimise for one pair of a batch is that pair's error, whatever its neighbours have
    with pytest.raises(ValueError, match="nothing to optimise"):
        s.run([pair(1), pair(2, styles=[], content_weight=0.0)])
    # a row switches on a term whose layer the job's weights lack
    without = Stylizer(config(content_weight=0.0, content_layers=("conv5_4",)), weights())
    with pytest.raises(ValueError, match="conv5_4"):
        without.run([pair(1, content_weight=1.0)])


# the cache of style targets


def test_a_style_is_computed_once_per_key() -> None:
    s = stylizer()
    passes = count_passes(s)
    style = picture(1)
    first = s.style_target(style, "a")
    assert s.style_target(style, "a") is first
    assert passes == [1]
    s.style_target(style, "b")
    s.style_target(picture(1, 32, 40), "a")  # the same name at another size is another target
    assert passes == [1, 1, 1]
    s.style_target(style)
    s.style_target(style)
    assert len(passes) == 5  # no name: never kept
    before = len(passes)
    s.run([pair(i, styles=[style], style_keys=["a"], evaluations=2) for i in range(3)])
    assert passes[before:] == [3, 3, 3]  # the contents' targets and two evaluations; no style


def test_stylize_computes_a_shared_style_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def noted(image: torch.Tensor, device: torch.device) -> torch.Tensor:
        calls.append(tuple(image.shape))
        return pixels(image, device)

    for module in ("stylizer", "stages", "targets"):
        monkeypatch.setattr(f"nstray.engine.{module}.pixels", noted)
    style = picture(1, 20, 24)
    stylize([picture(i) for i in range(4)], [style] * 4, config(evaluations=1, batch_size=2), weights=weights())
    assert calls.count((3, 20, 24)) == 1


def test_the_cache_is_bounded_in_bytes_and_drops_the_least_recently_used() -> None:
    one = (64 * 64 + 128 * 128) * 4  # conv1_1 and conv2_1, float32
    s = Stylizer(config(), weights(), cache_bytes=2 * one + 1)
    passes = count_passes(s)
    style = picture(1)
    for key in ("a", "b", "a", "c"):  # c drops b
        s.style_target(style, key)
    assert len(passes) == 3
    s.style_target(style, "a")
    assert len(passes) == 3
    s.style_target(style, "b")
    assert len(passes) == 4
    assert s.cache.used_bytes == sum(t.numel() * 4 for target in s.cache._groups.values() for t in target.values()) == 2 * one


# run_batches


class Faulty(Stylizer):
    """Runs nothing; `fault` may raise for the seeds of a batch, whose results it then does not give."""

    def __init__(self, fault: Callable[[list[int]], None]) -> None:
        super().__init__(config(evaluations=1), weights())
        self.batched = True
        self.fault, self.asked = fault, []  # type: tuple[Callable[[list[int]], None], list[list[int]]]

    def run(self, pairs: Sequence[Pair], *callbacks: object) -> list[Result]:
        seeds = [p.seed for p in pairs]
        self.asked.append(seeds)
        self.fault(seeds)
        return [Result(torch.zeros(3, 1, 1), 0.0, None, None, None, None, [], 0, 1, 0.0, seed) for seed in seeds]


def outcomes(s: Stylizer, pairs: Sequence[Pair], batch_size: int, **options: Any) -> dict[int, Result | Exception]:
    listed = list(run_batches(s, pairs, batch_size, **options))
    assert Counter(i for i, _ in listed) == Counter(range(len(pairs)))  # each index exactly once
    for i, outcome in listed:
        assert isinstance(outcome, Exception) or outcome.seed == pairs[i].seed
    return dict(listed)


def test_bisection_isolates_the_pairs_that_fail() -> None:
    def fault(seeds: list[int]) -> None:
        if {3, 12} & set(seeds):
            raise RuntimeError(f"poison among {seeds}")

    s = Faulty(fault)
    announced: list[list[int]] = []
    done = outcomes(s, [pair(i) for i in range(16)], 8, on_batch=announced.append)
    assert {i for i, o in done.items() if isinstance(o, Exception)} == {3, 12}
    assert str(done[3]) == "poison among [3]"
    assert announced == s.asked
    assert len(s.asked) == 2 + 2 * 6  # two batches, each halved three times


def test_a_real_poison_pair_costs_its_neighbours_nothing() -> None:
    s = stylizer(evaluations=3)
    s.batched = True
    pairs = [pair(i) for i in range(4)]
    pairs[2] = pair(2, styles=[picture(1, 1, 1)])
    done = outcomes(s, pairs, 4)
    assert isinstance(done[2], ValueError)
    for i in (0, 1, 3):
        outcome = done[i]
        assert isinstance(outcome, Result)
        assert outcome.loss_total == pytest.approx(s.run([pairs[i]])[0].loss_total, rel=0.01)


def test_out_of_memory_halves_the_batch_and_is_remembered() -> None:
    def fault(seeds: list[int]) -> None:
        if len(seeds) > 3:
            raise torch.cuda.OutOfMemoryError("no room")

    s, memory = Faulty(fault), Memory()
    done = outcomes(s, [pair(i) for i in range(16)], 8, memory=memory)
    assert not [o for o in done.values() if isinstance(o, Exception)]
    assert [len(batch) for batch in s.asked] == [8, 4] + [2] * 8
    assert memory.fits == {(3, 32, 32): 2}
    s.asked.clear()
    outcomes(s, [pair(i) for i in range(4)] + [pair(i, content=picture(i, 20, 20)) for i in range(3)], 8, memory=memory)
    assert [len(batch) for batch in s.asked] == [2, 2, 3]  # another shape has its own measure


def test_a_pair_that_never_fits_is_its_own_error() -> None:
    def fault(seeds: list[int]) -> None:
        if 5 in seeds:
            raise torch.cuda.OutOfMemoryError("no room")

    done = outcomes(Faulty(fault), [pair(i) for i in range(8)], 8)
    assert [i for i, o in done.items() if isinstance(o, Exception)] == [5]
    assert isinstance(done[5], torch.cuda.OutOfMemoryError)


def test_poison_and_memory_together_still_give_each_index_once() -> None:
    def fault(seeds: list[int]) -> None:
        if 6 in seeds:
            raise RuntimeError("poison")
        if len(seeds) > 1:
            raise torch.cuda.OutOfMemoryError("no room")

    done = outcomes(Faulty(fault), [pair(i) for i in range(11)], 8)
    assert [i for i, o in done.items() if isinstance(o, Exception)] == [6]


def test_pairs_of_another_shape_or_budget_do_not_share_a_batch() -> None:
    s = Faulty(lambda seeds: None)
    pairs = [pair(0), pair(1, content=picture(1, 32, 40)), pair(2, evaluations=5), pair(3), pair(4, evaluations=5)]
    outcomes(s, pairs, 8)
    assert sorted(s.asked) == [[0, 3], [1], [2, 4]]


def test_stylize_raises_what_a_pair_raised() -> None:
    with pytest.raises(ValueError, match="style is 1 x 1 pixels"):
        stylize([picture(1)] * 3, [picture(2), picture(2, 1, 1), picture(2)], config(evaluations=1), weights=weights())


# what the engine stands on


def test_the_engine_imports_torch_and_nothing_of_the_job() -> None:
    code = "import sys, nstray.engine.batching; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"ray", "boto3", "botocore", "pydantic", "pyarrow", "yaml", "click", "matplotlib"}


def test_no_module_of_the_engine_names_pillow_or_the_job() -> None:
    """torchvision imports Pillow by itself where it is installed, so the modules in memory do not tell."""
    for path in (PACKAGE / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"PIL", "ray", "boto3", "pydantic", "pyarrow"}, path
                assert not name.startswith("nstray.") or name.startswith("nstray.engine") or name in {"nstray.errors", "nstray.text"}, path


def test_settings_are_read_without_torch() -> None:
    code = "import sys, nstray.engine.settings; from nstray.engine import StylizeConfig; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "False"


def test_defaults_are_the_papers() -> None:
    c = StylizeConfig()
    assert c.content_layers == ("conv4_2",)
    assert c.style_layers == ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    assert (c.pooling, c.optimizer, c.tv_weight) == ("average", "lbfgs", 0.0)
    assert c.content_weight / c.style_weight == 1e-3


def test_as_image_keeps_bytes() -> None:
    assert as_image(np.zeros((4, 5, 3), np.uint8)).dtype == torch.uint8
    assert as_image(torch.zeros(3, 4, 3)).shape == (3, 4, 3)
