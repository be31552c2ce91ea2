"""Keeping the content's colours, in two ways.

Gatys, Bethge, Hertzmann and Shechtman, "Preserving Color in Neural Artistic Style Transfer", arXiv
1606.05897.

Colour matching: the style image takes on the content's colours before the optimisation.

    style = match_color(style, content, "pca")

Luminance alone: the optimisation sees grey images, and its result gets the content's chroma.

    y = luminance(content)
    result = ...  # stylised: content grey(y), style grey(match_luminance(luminance(style), y))
    image = with_chroma_of(luminance(result), content)

The optimisation may colour its grey start, since the network's three input channels have gradients
of their own. Only `luminance` of the result counts.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from nstray.engine.settings import ColorMatch
from nstray.text import did_you_mean

METHODS: tuple[str, ...] = get_args(ColorMatch)

# The variance that rounding to 8 bits adds to a channel (uniform over 1/255): 1.3e-6. A smaller
# variance of a source is not its colours. Stretched to another picture's variance it would be
# speckle.
ROUNDING_VARIANCE = 1 / (12 * 255**2)

# Y of YIQ (ITU-R BT.601-7, 2.5.1). I and Q are SMPTE 170M's 0.492111 (B - Y) and
# 0.877283 (R - Y), turned by 33 degrees:
#   Y  0.299   0.587   0.114
#   I  0.5959 -0.2746 -0.3213
#   Q  0.2115 -0.5227  0.3112
LUMA = (0.299, 0.587, 0.114)


def match_color(source: Tensor, reference: Tensor, method: str) -> Tensor:
    """`source` (3, H, W) with the mean and covariance of `reference` (3, h, w): like `source`.

    Images are float RGB over 0..1. The map is x -> A x + b; the methods are the solutions A of
    `color_matrix`. Moments are over pixels, in float64. The result is not clamped and may leave
    0..1: clamping would change the moments, and a style image's statistics are taken from it as it
    is.

    A source that varies in all directions of colour by more than rounding to 8 bits gets the
    reference's moments exactly. A direction in which it varies less (a grey picture has two, a flat
    one three) is stretched only as far as rounding noise would have to be. The mean is then the
    reference's, the covariance at most the reference's, and what is flat stays flat.

    Raises ValueError for another shape, type, or method.
    """
    _check(source, 3, "source")
    _check(reference, 3, "reference")
    _, centred = _centred(source)
    target_mean, target = _centred(reference)
    matrix = color_matrix(_covariance(centred), _covariance(target), method)
    return (
        torch.addmm(target_mean, matrix, centred).view(source.shape).to(source.device, source.dtype)
    )


def color_matrix(source: Tensor, reference: Tensor, method: str) -> Tensor:
    """A with A S A^T = R for covariances S of the source and R of the reference (3, 3): (3, 3).

    Any rotation between the roots gives another A. These are offered:

        cholesky    L_R L_S^-1, lower triangular, so it depends on the order of the channels; in
                    1606.05897
        pca         R^1/2 S^-1/2, symmetric roots; in 1606.05897 the better one, after Image
                    Analogies (Hertzmann et al. 2001)
        symmetric   S^-1/2 (S^1/2 R S^1/2)^1/2 S^-1/2, the symmetric A, which moves the colours
                    least (Monge's map between Gaussians; Pitie and Kokaram 2007). It is not in the
                    paper. Its authors' NeuralImageSynthesis has it as ``sym``, and the others as
                    ``chol`` and ``pca``.

    Variances of S are raised to `ROUNDING_VARIANCE`, direction by direction, so that an ordinary
    picture's A is unchanged. (The notebook adds 1e-5 to all, which is up to 6e-4 off in the
    covariances of the paper's images.) R may be singular.

    Raises ValueError for another method, naming the nearest.
    """
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}; "
            f"got {method!r}{did_you_mean(str(method).lower(), METHODS, 0.4)}"
        )
    variances, axes = torch.linalg.eigh(source)
    variances = variances.clamp_min(ROUNDING_VARIANCE)
    root, inverse = axes * variances.sqrt() @ axes.T, axes * variances.rsqrt() @ axes.T
    matrix: Tensor
    if method == "cholesky":
        matrix = torch.linalg.solve_triangular(
            _lower(root), _lower(_root(reference)), upper=False, left=False
        )
    elif method == "pca":
        matrix = _root(reference) @ inverse
    else:
        matrix = inverse @ _root(root @ reference @ root) @ inverse
    return matrix


def luminance(image: Tensor) -> Tensor:
    """Y of YIQ of an RGB image (3, H, W) over 0..1: (1, H, W) over 0..1.

    Raises ValueError for another shape or type.
    """
    _check(image, 3, "image")
    r, g, b = LUMA
    # written out: a matrix product would be rounded to TF32 if a caller has allowed it
    return r * image[0:1] + g * image[1:2] + b * image[2:3]


def grey(luma: Tensor) -> Tensor:
    """The grey image (3, H, W) of a luminance (1, H, W); `luminance` is the inverse.

    Raises ValueError for another shape or type.
    """
    _check(luma, 1, "luma")
    return luma.repeat(3, 1, 1)


def match_luminance(style: Tensor, content: Tensor) -> Tensor:
    """The luminance `style` (1, H, W) with the moments of `content` (1, h, w): like `style`.

    L' = sigma_C / sigma_S (L - mu_S) + mu_C is 1606.05897's step before the transfer. (The authors'
    notebook moves only the mean.) In float64, not clamped. A sigma_S below rounding to 8 bits is
    raised to it: see `match_color`.

    Raises ValueError for another shape or type.
    """
    _check(style, 1, "style")
    _check(content, 1, "content")
    _, centred = _centred(style)
    target_mean, target = _centred(content)
    gain = (_covariance(target) / _covariance(centred).clamp_min(ROUNDING_VARIANCE)).sqrt()
    return (gain * centred + target_mean).view(style.shape).to(style.device, style.dtype)


def with_chroma_of(luma: Tensor, content: Tensor) -> Tensor:
    """The RGB image (3, H, W) with Y of `luma` (1, H, W) and I and Q of `content` (3, H, W).

    All over 0..1. I and Q leave Y only a range inside the RGB cube, down to a point for a fully
    saturated colour. Y is clamped to that range, pixel by pixel; clamping RGB would change I and Q.

    Raises ValueError for other shapes or types.
    """
    _check(luma, 1, "luma")
    _check(content, 3, "content")
    if luma.shape[1:] != content.shape[1:]:
        raise ValueError(
            "luma and content must be of one size; "
            f"got {tuple(luma.shape)} and {tuple(content.shape)}"
        )
    # The rows of I and Q sum to zero, so Y's column of the inverse matrix is (1, 1, 1): a change of
    # Y adds the same to R, G and B.
    change = luma - luminance(content)
    return content + change.clamp(-content.amin(0, keepdim=True), 1 - content.amax(0, keepdim=True))


def _check(image: Tensor, channels: int, role: str) -> None:
    if image.ndim != 3 or image.shape[0] != channels or image.numel() == 0:
        raise ValueError(f"{role}: expected shape ({channels}, H, W); got {tuple(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(f"{role}: expected floating-point values over 0..1; got {image.dtype}")


def _centred(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C, 1) and deviations from it (C, M) over the pixels of (C, H, W), float64.

    On the CPU, so that every device gives the same colours; some have no float64.
    """
    pixels = image.detach().flatten(1).to("cpu", torch.float64)
    mean = pixels.mean(1, keepdim=True)
    return mean, pixels - mean


def _covariance(centred: Tensor) -> Tensor:
    """(C, C) of deviations (C, M), divided by M."""
    return centred @ centred.T / centred.shape[1]


def _root(matrix: Tensor) -> Tensor:
    """The symmetric root of a symmetric, positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root


def _lower(root: Tensor) -> Tensor:
    """The Cholesky factor of root @ root, for a symmetric root.

    It may be singular, which `torch.linalg.cholesky` refuses.
    """
    upper: Tensor = torch.linalg.qr(root)[1]
    return upper.T * torch.where(upper.diagonal() < 0, -1.0, 1.0)
