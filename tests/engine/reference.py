"""The losses and their gradients once more, in float64 numpy, written from the formulas printed in arXiv 1508.06576.

Shares no code with nstray: its own convolutions, pooling, input conventions and backward pass, one image at a time. The
gradient is assembled by hand from equations 2, 5 and 6, not by differentiating a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

# arXiv 1409.1556, table 1, configuration E: convolutions per block
ORDER = [f"conv{block}_{i}" for block, count in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 4)) for i in range(1, count + 1)]


def product(a: Array, b: Array) -> Array:
    """A matrix product in float64; torch's, because its number of threads can be set after numpy was imported."""
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """3 x 3 correlation of (C, H, W) with (N, C, 3, 3), zeros around."""
    _, h, w = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((weight.shape[0], h, w)) + bias[:, None, None]
    for i in range(3):
        for j in range(3):
            out += product(weight[:, :, i, j], padded[:, i : i + h, j : j + w].reshape(-1, h * w)).reshape(-1, h, w)
    return out


def convolve_back(g: Array, weight: Array) -> Array:
    """The derivative by the input of `convolve`, given the derivative by its output."""
    _, h, w = g.shape
    padded = np.zeros((weight.shape[1], h + 2, w + 2))
    for i in range(3):
        for j in range(3):
            padded[:, i : i + h, j : j + w] += product(weight[:, :, i, j].T, g.reshape(-1, h * w)).reshape(-1, h, w)
    return padded[:, 1:-1, 1:-1]


def _windows(x: Array) -> Array:
    """(C, H // 2, W // 2, 4): the four values of each 2 x 2 window; a last odd row or column is left out."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return np.stack([x[:, i:h:2, j:w:2] for i in range(2) for j in range(2)], axis=-1)


def pool(x: Array, kind: str) -> Array:
    return _windows(x).mean(-1) if kind == "average" else _windows(x).max(-1)


def pool_back(g: Array, x: Array, kind: str) -> Array:
    windows = _windows(x)
    largest = np.arange(4) == windows.argmax(-1)[..., None]
    share = np.full(windows.shape, 0.25) if kind == "average" else largest.astype(np.float64)
    out = np.zeros_like(x)
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    for k, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        out[:, i:h:2, j:w:2] = g * share[..., k]
    return out


def gram(f: Array) -> Array:
    """Equation 3: G_ij = sum_k F_ik F_jk."""
    return f @ f.T


def style_term(f: Array, a: Array, m_style: int) -> tuple[float, Array]:
    """Equation 4, E = 1/(4 N^2 M^2) sum (G - A)^2, and equation 6 without its condition F > 0, which is the rectification's.

    F (N, M); A (N, N) of a style image with `m_style` positions, rescaled to M positions where they differ.
    """
    n, m = f.shape
    difference = gram(f) - a * (m / m_style)
    return float((difference**2).sum() / (4 * n**2 * m**2)), (f.T @ difference).T / (n**2 * m**2)


def content_term(f: Array, p: Array) -> tuple[float, Array]:
    """Equations 1 and 2, likewise."""
    return float(((f - p) ** 2).sum() / 2), f - p


@dataclass
class Losses:
    total: float
    content: float
    style: float
    tv: float
    gradient: Array


class Reference:
    """A VGG-19 in float64. `tensors`: conv1_1.weight (64, 3, 3, 3), ...; `convention`: rgb (torchvision) or bgr (Caffe)."""

    def __init__(self, tensors: dict[str, Array], convention: str, pooling: str) -> None:
        self.tensors, self.convention, self.pooling = tensors, convention, pooling

    def _prepare(self, x: Array) -> Array:
        if self.convention == "rgb":
            return (x - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[:, None, None]
        return 255 * x[::-1] - np.array([103.939, 116.779, 123.680])[:, None, None]

    def _prepare_back(self, g: Array) -> Array:
        if self.convention == "rgb":
            return g / np.array([0.229, 0.224, 0.225])[:, None, None]
        return 255 * g[::-1]

    def forward(self, image: Array, last: str) -> dict[str, Array]:
        """Everything computed on the way to `last`: pre:convB_I, convB_I and pool<B> (N, H, W)."""
        x, out = self._prepare(image), {}
        for name in ORDER[: ORDER.index(last) + 1]:
            if name.endswith("_1") and name != "conv1_1":
                x = out[f"pool{int(name[4]) - 1}"] = pool(x, self.pooling)
            out[f"pre:{name}"] = convolve(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])
            x = out[name] = np.maximum(out[f"pre:{name}"], 0)
        return out

    def backward(self, out: dict[str, Array], at_taps: dict[str, Array], last: str) -> Array:
        """The derivative by the image, given the derivatives at the taps."""
        names = ORDER[: ORDER.index(last) + 1]
        g = np.zeros_like(out[last])
        for i in range(len(names) - 1, -1, -1):
            name = names[i]
            g = (g + at_taps.get(name, 0)) * (out[f"pre:{name}"] > 0) + at_taps.get(f"pre:{name}", 0)
            g = convolve_back(g, self.tensors[f"{name}.weight"])
            if i and name.endswith("_1"):
                g = pool_back(g, out[names[i - 1]], self.pooling)
        return self._prepare_back(g)

    def losses(
        self,
        x: Array,
        content: Array,
        styles: list[Array],
        *,
        content_layers: tuple[str, ...],
        style_layers: tuple[str, ...],
        alpha: float,
        beta: float,
        tv: float = 0.0,
        scale: str = "paper",
        blend: list[float] | None = None,
    ) -> Losses:
        """Equation 7 at image x, all images (3, H, W) over 0..1."""
        blend = blend or [1 / len(styles)] * len(styles)
        last = ORDER[max(ORDER.index(t.removeprefix("pre:")) for t in (*content_layers, *style_layers))]
        f, p = self.forward(x, last), self.forward(content, last)
        s = [self.forward(style, last) for style in styles]
        at: dict[str, Array] = {}
        content_loss = style_loss = 0.0
        for tap in content_layers:
            loss, derivative = content_term(f[tap], p[tap])
            share = 1 / f[tap].size if scale == "mean" else 1.0
            content_loss += share * loss
            at[tap] = at.get(tap, 0) + alpha * share * derivative
        for tap in style_layers:
            flat = f[tap].reshape(f[tap].shape[0], -1)
            # A of a blend, as one style image with the same number of positions as x would have it
            a = sum(w * gram(y[tap].reshape(len(y[tap]), -1)) * (flat.shape[1] / y[tap][0].size) for w, y in zip(blend, s, strict=True))
            loss, derivative = style_term(flat, a, flat.shape[1])
            style_loss += loss / len(style_layers)
            at[tap] = at.get(tap, 0) + beta / len(style_layers) * derivative.reshape(f[tap].shape)
        gradient = self.backward(f, at, last)
        down, right = np.diff(x, axis=1), np.diff(x, axis=2)
        share = 1 / x.size if scale == "mean" else 1.0
        tv_loss = share * float((down**2).sum() + (right**2).sum())
        for steps, low, high in (
            (down, np.s_[:, :-1], np.s_[:, 1:]),
            (right, np.s_[:, :, :-1], np.s_[:, :, 1:]),
        ):
            gradient[high] += tv * share * 2 * steps
            gradient[low] -= tv * share * 2 * steps
        return Losses(alpha * content_loss + beta * style_loss + tv * tv_loss, content_loss, style_loss, tv_loss, gradient)
