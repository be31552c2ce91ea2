"""Colour preservation: moments and matrices against float64 numpy formulas, and chroma against SMPTE 170M's matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nstray.engine.color import METHODS, color_matrix, grey, luminance, match_color, match_luminance, with_chroma_of
from nstray.engine.network.random_weights import calibration_images

Array = NDArray[np.float64]

# SMPTE 170M's matrix to eight digits, as in scikit-image's rgb2yiq
YIQ = np.array([[0.299, 0.587, 0.114], [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]])
NATURAL = calibration_images()
SEEDS = list(itertools.pairwise(range(6)))


def random(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def eight_bits(image: Tensor) -> Tensor:
    return (image * 255).round() / 255


def flat(*colour: float) -> Tensor:
    return torch.tensor(colour).view(3, 1, 1).expand(3, 11, 7).contiguous()


PICTURES = {
    "uniform": random(1, 3, 40, 61),
    "uniform, small": random(2, 3, 9, 8),
    "natural": NATURAL[0],
    "natural, 8 bits": eight_bits(NATURAL[1]),
    "natural, cropped": NATURAL[2, :, :50, 30:],
    "low contrast, 8 bits": eight_bits(0.5 + 0.06 * (NATURAL[3] - 0.5)),
    "one colour nearly alone": NATURAL[3] * torch.tensor([1.0, 0.05, 0.03]).view(3, 1, 1),
}
SINGULAR = {
    "grey": grey(luminance(NATURAL[1])),
    "grey, 8 bits": eight_bits(grey(luminance(NATURAL[2]))),
    "two colours": torch.where(random(3, 1, 20, 30) < 0.3, torch.tensor([0.9, 0.1, 0.2]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.8]).view(3, 1, 1)),
    "no blue": NATURAL[0] * torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1),
    "flat": flat(0.2, 0.5, 0.7),
    "black": flat(0.0, 0.0, 0.0),
    "one pixel": random(4, 3, 1, 1),
}


def moments(image: Tensor) -> tuple[Array, Array]:
    """Mean (C,) and covariance (C, C) over pixels."""
    pixels = image.double().flatten(1).numpy()
    return pixels.mean(1), np.atleast_2d(np.cov(pixels, bias=True))


def root(matrix: Array) -> Array:
    """The positive definite root by Denman and Beavers' iteration (1976), which takes no eigenvalues."""
    y, z = matrix, np.eye(len(matrix))
    for _ in range(40):
        y, z = (y + np.linalg.inv(z)) / 2, (z + np.linalg.inv(y)) / 2
    return y


def covariance(seed: int) -> Array:
    factor = np.random.default_rng(seed).standard_normal((3, 3))
    return factor @ factor.T / 30 + np.eye(3) / 1000


def matrix(source: Array, reference: Array, method: str) -> Array:
    return color_matrix(torch.from_numpy(source), torch.from_numpy(reference), method).numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reference", {**PICTURES, **SINGULAR}.values(), ids={**PICTURES, **SINGULAR}.keys())
@pytest.mark.parametrize("source", PICTURES.values(), ids=PICTURES.keys())
def test_mean_and_covariance_become_the_references(source: Tensor, reference: Tensor, method: str) -> None:
    matched = match_color(source, reference, method)
    assert matched.shape == source.shape
    assert matched.dtype == source.dtype
    for got, wanted in zip(moments(matched), moments(reference), strict=True):
        assert np.abs(got - wanted).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reference", {**PICTURES, **SINGULAR}.values(), ids={**PICTURES, **SINGULAR}.keys())
@pytest.mark.parametrize("source", SINGULAR.values(), ids=SINGULAR.keys())
def test_a_singular_source_takes_the_mean_and_no_more_than_the_covariance(source: Tensor, reference: Tensor, method: str) -> None:
    matched = match_color(source, reference, method)
    assert bool(torch.isfinite(matched).all())
    mean, got = moments(matched)
    wanted_mean, wanted = moments(reference)
    assert np.abs(mean - wanted_mean).max() < 1e-6
    assert np.linalg.eigvalsh(wanted - got).min() > -1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", ["flat", "black", "one pixel"])
def test_a_flat_source_becomes_the_references_mean(source: str, method: str) -> None:
    matched = match_color(SINGULAR[source], NATURAL[0], method)
    assert (matched.flatten(1) - NATURAL[0].double().mean((1, 2)).view(3, 1)).abs().max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_reference_gives_a_flat_image(method: str) -> None:
    matched = match_color(NATURAL[0], SINGULAR["flat"], method)
    assert (matched - torch.tensor([0.2, 0.5, 0.7]).view(3, 1, 1)).abs().max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_grey_becomes_grey(method: str) -> None:
    source, reference = SINGULAR["grey"], SINGULAR["grey, 8 bits"]
    matched = match_color(source, reference, method)
    assert (matched - matched[:1]).abs().max() < 1e-5
    # the variance of a grey image is 0.02 along the grey axis, of which the raised variances across take 1e-4 at most
    assert np.abs(moments(matched)[1] - moments(reference)[1]).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_rounding_noise_is_not_stretched_to_colours(method: str) -> None:
    """A grey picture with one channel one level off in one pixel of 2,000, as a codec leaves it."""
    source = eight_bits(grey(luminance(NATURAL[1])))
    off = random(5, *source.shape) < 1 / 2000
    matched = match_color(source + off / 255, NATURAL[0], method)
    clean = match_color(source, NATURAL[0], method)
    # by its own variance, 8e-9, one level of this noise would be stretched to some 0.1 / 9e-5 x 1/255 = 4
    assert (matched - clean).abs().max() < 0.5


@pytest.mark.parametrize("seeds", SEEDS)
def test_matrices_are_those_of_the_formulas(seeds: tuple[int, int]) -> None:
    s, r = map(covariance, seeds)
    cholesky = np.linalg.cholesky(r) @ np.linalg.inv(np.linalg.cholesky(s))
    pca = root(r) @ np.linalg.inv(root(s))
    # the same symmetric solution, written from the other side
    symmetric = root(r) @ np.linalg.inv(root(root(r) @ s @ root(r))) @ root(r)
    for method, formula in (("cholesky", cholesky), ("pca", pca), ("symmetric", symmetric)):
        assert np.allclose(matrix(s, r, method), formula, rtol=0, atol=1e-9), method


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_mapped_by_the_formula(method: str) -> None:
    source, reference = NATURAL[0], PICTURES["uniform"]
    (mu_s, s), (mu_r, r) = moments(source), moments(reference)
    expected = matrix(s, r, method) @ (source.double().flatten(1).numpy() - mu_s[:, None]) + mu_r[:, None]
    assert np.abs(match_color(source, reference, method).flatten(1).numpy() - expected).max() < 1e-6


def test_the_methods_differ_where_the_covariances_do_not_commute() -> None:
    s, r = covariance(1), covariance(2)
    assert np.abs(s @ r - r @ s).max() > 1e-3
    for one, other in itertools.combinations(METHODS, 2):
        assert np.abs(matrix(s, r, one) - matrix(s, r, other)).max() > 0.05, (one, other)
    for one, other in itertools.combinations(METHODS, 2):
        images = [match_color(NATURAL[0], NATURAL[1], m) for m in (one, other)]
        assert (images[0] - images[1]).abs().max() > 0.01, (one, other)


def test_pca_and_symmetric_agree_where_the_covariances_commute() -> None:
    _, axes = np.linalg.eigh(covariance(3))
    s, r = (axes * np.array(v) @ axes.T for v in ([0.01, 0.02, 0.05], [0.03, 0.001, 0.02]))
    assert np.allclose(matrix(s, r, "pca"), matrix(s, r, "symmetric"), rtol=0, atol=1e-10)
    s, r = np.diag([0.01, 0.02, 0.05]), np.diag([0.03, 0.001, 0.02])
    for method in METHODS:
        assert np.allclose(matrix(s, r, method), np.sqrt(r / (s + (s == 0))), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seeds", SEEDS)
def test_symmetric_is_symmetric_and_positive_definite(seeds: tuple[int, int]) -> None:
    a = matrix(*map(covariance, seeds), "symmetric")
    assert np.allclose(a, a.T, rtol=0, atol=1e-12)
    assert np.linalg.eigvalsh(a).min() > 0


def test_symmetric_moves_the_colours_least() -> None:
    moved = {m: float((match_color(NATURAL[0], PICTURES["uniform"], m) - NATURAL[0]).double().square().mean()) for m in METHODS}
    assert moved["symmetric"] < min(moved["cholesky"], moved["pca"])


@pytest.mark.parametrize("seeds", SEEDS)
def test_cholesky_is_lower_triangular(seeds: tuple[int, int]) -> None:
    a = matrix(*map(covariance, seeds), "cholesky")
    assert np.abs(np.triu(a, 1)).max() == 0
    assert np.diag(a).min() > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("image", {**PICTURES, **SINGULAR}.values(), ids={**PICTURES, **SINGULAR}.keys())
def test_an_image_matched_to_itself_is_unchanged(image: Tensor, method: str) -> None:
    # in a direction raised to the rounding noise an image shrinks, by less than that noise: 1/255/sqrt(12)
    atol = 1e-6 if np.linalg.eigvalsh(moments(image)[1]).min() > 2e-6 else 2e-4
    assert torch.allclose(match_color(image, image, method), image, rtol=0, atol=atol)


def test_the_result_is_not_clamped() -> None:
    """A style with a long tail keeps it: its mean and covariance are what was asked for."""
    tail = torch.where(random(6, 3, 40, 40) < 0.02, 1.0, 0.1)
    matched = match_color(tail, PICTURES["uniform"], "symmetric")
    assert float(matched.max()) > 1.5
    assert np.abs(moments(matched.clamp(0, 1))[1] - moments(PICTURES["uniform"])[1]).max() > 1e-2


def test_arguments_are_left_alone_and_the_answer_is_repeatable() -> None:
    for dtype in (torch.float32, torch.float64):
        source, reference = NATURAL[0].to(dtype), NATURAL[1].to(dtype)
        copies = source.clone(), reference.clone()
        for method in METHODS:
            assert torch.equal(match_color(source, reference, method), match_color(source, reference, method))
        with_chroma_of(match_luminance(luminance(source), luminance(reference)), reference)
        assert torch.equal(source, copies[0])
        assert torch.equal(reference, copies[1])


def test_luminance_is_y_of_yiq() -> None:
    image = random(7, 3, 13, 17)
    expected = np.tensordot(YIQ[0], image.double().numpy(), 1)
    y = luminance(image)
    assert y.shape == (1, 13, 17)
    assert np.abs(y[0].numpy() - expected).max() < 1e-6
    assert torch.allclose(luminance(grey(y)), y, rtol=0, atol=1e-6)
    assert float(luminance(torch.ones(3, 1, 1))) == pytest.approx(1, abs=1e-6)


def chroma(image: Tensor) -> Array:
    """I and Q (2, H, W), float64."""
    return np.tensordot(YIQ[1:], image.double().numpy(), 1)


CUBE = torch.tensor(list(itertools.product([0, 1 / 255, 0.25, 0.5, 254 / 255, 1], repeat=3))).T.reshape(3, 12, 18)
CONTENTS = {
    "uniform": random(8, 3, 64, 64),
    "uniform, 8 bits": eight_bits(random(9, 3, 64, 64)),
    "natural, 8 bits": eight_bits(NATURAL[0]),
    "the cube's corners": (random(10, 3, 32, 32) < 0.5).float(),
    "the cube's faces": CUBE,
    "grey": SINGULAR["grey"],
    "black": SINGULAR["black"],
}
LUMAS = {
    "uniform": lambda h, w: random(11, 1, h, w),
    "black and white": lambda h, w: (random(12, 1, h, w) < 0.5).float(),
    "beyond 0..1": lambda h, w: 6 * random(13, 1, h, w) - 3,
    "half": lambda h, w: torch.full((1, h, w), 0.5),
}


@pytest.mark.parametrize("luma", LUMAS.values(), ids=LUMAS.keys())
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_chroma_is_the_contents(content: Tensor, luma: object) -> None:
    assert callable(luma)
    image = with_chroma_of(luma(*content.shape[1:]), content)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert np.abs(chroma(image) - chroma(content)).max() < 1e-6
    # half a level of rounding per channel, as I and Q add it up
    bound = 0.5 / 255 * np.abs(YIQ[1:]).sum(1).reshape(2, 1, 1)
    assert (np.abs(chroma(eight_bits(image)) - chroma(content)) <= bound + 1e-6).all()


@pytest.mark.parametrize("luma", LUMAS.values(), ids=LUMAS.keys())
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_luminance_is_the_nearest_that_the_chroma_allows(content: Tensor, luma: object) -> None:
    assert callable(luma)
    wanted = luma(*content.shape[1:])
    # every Y that lies in the cube with these I and Q, found by the inverse matrix
    back = np.linalg.inv(YIQ)
    without = np.tensordot(back[:, 1:], chroma(content), 1)
    lowest, highest = -without.min(0), 1 - without.max(0)
    expected = np.clip(wanted[0].double().numpy(), lowest, highest)
    assert np.abs(luminance(with_chroma_of(wanted, content))[0].numpy() - expected).max() < 2e-6


def test_the_contents_own_luminance_gives_the_content() -> None:
    for content in CONTENTS.values():
        assert torch.allclose(with_chroma_of(luminance(content), content), content, rtol=0, atol=1e-6)


def test_a_saturated_colour_keeps_its_luminance() -> None:
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).repeat(1, 2, 2)
    for y in (0.0, 0.9):
        assert torch.equal(with_chroma_of(torch.full((1, 2, 2), y), red), red)


@pytest.mark.parametrize("content", [NATURAL[0], PICTURES["uniform"], SINGULAR["grey"], SINGULAR["flat"]])
@pytest.mark.parametrize("style", [NATURAL[1], PICTURES["low contrast, 8 bits"], SINGULAR["grey, 8 bits"]])
def test_luminance_is_matched_by_the_papers_formula(style: Tensor, content: Tensor) -> None:
    s, c = luminance(style), luminance(content)
    matched = match_luminance(s, c)
    a, b = s.double().numpy(), c.double().numpy()
    assert matched.shape == s.shape
    assert np.abs(matched.numpy() - (b.std() / a.std() * (a - a.mean()) + b.mean())).max() < 1e-6
    assert float(matched.double().mean()) == pytest.approx(b.mean(), abs=1e-6)
    assert float(matched.double().std(correction=0)) == pytest.approx(b.std(), abs=1e-6)


@pytest.mark.parametrize("style", ["flat", "black", "one pixel"])
def test_a_flat_luminance_becomes_the_contents_mean(style: str) -> None:
    matched = match_luminance(luminance(SINGULAR[style]), luminance(NATURAL[0]))
    assert (matched - luminance(NATURAL[0]).double().mean()).abs().max() < 1e-6


def test_shapes_types_and_methods_are_checked() -> None:
    image, y = NATURAL[0], luminance(NATURAL[0])
    with pytest.raises(ValueError, match=r"source: expected shape \(3, H, W\); got \(1, 3, 128, 128\)"):
        match_color(image[None], image, "pca")
    with pytest.raises(ValueError, match=r"reference: expected shape \(3, H, W\); got \(1, 128, 128\)"):
        match_color(image, y, "pca")
    with pytest.raises(ValueError, match=r"source: .*got \(3, 0, 5\)"):
        match_color(torch.zeros(3, 0, 5), image, "pca")
    with pytest.raises(ValueError, match=r"source: expected floating-point values over 0\.\.1; got torch\.uint8"):
        match_color((image * 255).byte(), image, "pca")
    for wrong in (lambda: luminance(y), lambda: grey(image), lambda: match_luminance(image, y), lambda: match_luminance(y, image)):
        with pytest.raises(ValueError, match=r"expected shape \([13], H, W\)"):
            wrong()
    with pytest.raises(ValueError, match=r"one size; got \(1, 128, 128\) and \(3, 11, 7\)"):
        with_chroma_of(y, SINGULAR["flat"])
    with pytest.raises(ValueError, match="content: expected shape"):
        with_chroma_of(y, y)


@pytest.mark.parametrize(("given", "near"), [("chol", "cholesky"), ("sym", "symmetric"), ("PCA", "pca"), ("symetric", "symmetric")])
def test_an_unknown_method_is_told_the_nearest(given: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"one of cholesky, pca, symmetric; got '{given}'; did you mean {near}?"):
        match_color(NATURAL[0], NATURAL[1], given)
    with pytest.raises(ValueError, match=r"got 'none'$"):
        match_color(NATURAL[0], NATURAL[1], "none")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
def test_a_gpu_gives_the_same_colours() -> None:
    source, reference = NATURAL[0].cuda(), NATURAL[1].cuda()
    for method in METHODS:
        assert torch.equal(match_color(source, reference, method).cpu(), match_color(NATURAL[0], NATURAL[1], method))
    matched = match_luminance(luminance(source), luminance(reference))
    assert matched.is_cuda
    image = with_chroma_of(luminance(source), reference)
    assert torch.allclose(image.cpu(), with_chroma_of(luminance(NATURAL[0]), NATURAL[1]), rtol=0, atol=1e-6)
