"""A batch of pairs of one shape: targets, start, losses, and the pictures that come out."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.loops import Outcome, adam_loop, lbfgs_loop
from nstray.engine.losses import content_loss, gram, style_tap, tv_loss
from nstray.engine.settings import MAX_SEED, StylizeConfig
from nstray.engine.vgg import Features, minimum_side
from nstray.engine.weights import VGGWeights


def pair_seed(job_seed: int, pair_id: str) -> int:
    """The seed of a pair from the job's and the pair's name, never from its place: 0 .. 2^63 - 1."""
    digest = hashlib.sha256(f"{job_seed}\n{pair_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


@dataclass(frozen=True)
class Pair:
    """One content, its styles, and what differs from the job's settings.

    Attributes:
        content: (3, H, W) RGB, uint8 over 0..255 or float over 0..1.
        styles: the same, each of its own size; several are blended by `blend`. Empty where there is no style term.
        blend: one weight per style, summing to 1; equal by default.
        style_keys: names under which the styles' targets are cached; None computes them anew.
        seed: of a noise start.
        start: (3, H, W): an image to begin with, instead of `init`.
        init, content_weight, style_weight, tv_weight, evaluations: as in `StylizeConfig`; None takes the job's.
    """

    content: Tensor
    styles: Sequence[Tensor]
    blend: Sequence[float] | None = None
    style_keys: Sequence[Hashable] | None = None
    seed: int = 0
    start: Tensor | None = None
    init: str | None = None
    content_weight: float | None = None
    style_weight: float | None = None
    tv_weight: float | None = None
    evaluations: int | None = None


@dataclass(frozen=True)
class Result:
    """What came out for one pair.

    Attributes:
        image: (3, H, W) float32 over 0..1 on the CPU, clamped; the losses are those of the image before clamping.
        loss_total: alpha content + beta style + tv, at the returned image.
        loss_content, loss_style, loss_tv: the terms without their weights; None for a term that was off.
        loss_curve: total loss of the best point after each evaluation; the first is the start's.
        iterations: accepted steps. evaluations: forward + backward passes used.
        seconds: the pair's share of its batch's time on the device.
        diverged: the loss was not a finite number; the image is then the start.
    """

    image: Tensor = field(repr=False)
    loss_total: float
    loss_content: float | None
    loss_style: float | None
    loss_tv: float | None
    loss_curve: list[float] = field(repr=False)
    iterations: int
    evaluations: int
    seconds: float
    seed: int
    diverged: bool = False


@dataclass
class _Batch:
    """Targets and weights of B pairs of one shape, on the device."""

    content_taps: tuple[str, ...]
    style_taps: tuple[str, ...]
    content: dict[str, Tensor]
    style: dict[str, Tensor]
    alpha: Tensor
    beta: Tensor
    tv: Tensor
    tv_on: bool


class Stylizer:
    """A loaded network and a cache of style targets: what a worker keeps between batches.

    Args:
        config: the job's settings.
        weights: as `load_weights` gives them.
        device: ``cuda``, ``cpu``, or a torch.device.
        cache_bytes: bound of the style targets kept on the device, least recently used out first.
    """

    def __init__(self, config: StylizeConfig, weights: VGGWeights, device: str | torch.device = "cpu", cache_bytes: int = 256 * 2**20) -> None:
        self.config = config
        self.device = torch.device(device)
        # One pair after the other on a CPU: bit for bit what each gives alone, for 8 % of the speed of fours (0.475 and 0.440 s per
        # evaluation and pair at 256 px). A batch rounds in another order, and L-BFGS carries a changed 7th digit on to 1 to 3 %
        # of the loss after 100 evaluations.
        self.batched = self.device.type != "cpu"
        present = [t for t in (*config.content_layers, *config.style_layers) if t.removeprefix("pre:") in weights.layers]
        weights.require(config.content_layers if config.content_weight > 0 else ())
        weights.require(config.style_layers if config.style_weight > 0 else ())
        self.network = Features(weights, present, config.pooling, config.dtype).to(self.device)
        self._cache: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()
        self._cache_bytes, self._cache_used = cache_bytes, 0

    def style_target(self, style: Tensor, key: Hashable | None = None) -> dict[str, Tensor]:
        """A/M_A (N, N) for each style layer of a style image (3, H, W), computed once per `key` and shape."""
        full = None if key is None else (key, tuple(style.shape))
        if full is not None and full in self._cache:
            self._cache.move_to_end(full)
            return self._cache[full]
        with torch.no_grad():
            features = self.network(self._pixels(style).unsqueeze(0), self.config.style_layers)
            target = {name: gram(f)[0] for name, f in features.items()}
        if full is not None:
            self._cache[full] = target
            self._cache_used += _bytes(target)
            while self._cache_used > self._cache_bytes and len(self._cache) > 1:
                self._cache_used -= _bytes(self._cache.popitem(last=False)[1])
        return target

    def run(self, pairs: Sequence[Pair], on_evaluation: Callable[[int], None] | None = None) -> list[Result]:
        """Optimise pairs whose contents share one shape, together; `run_batches` decides how many.

        Each pair takes the steps that it would take alone, up to rounding. `on_evaluation` is called with the count after each evaluation.
        Raises ValueError for mixed shapes or pictures too small for the deepest layer, torch.cuda.OutOfMemoryError.
        """
        started = time.perf_counter()
        self._check_images(pairs)
        budgets = [p.evaluations or self.config.evaluations for p in pairs]
        contents = torch.stack([self._pixels(p.content) for p in pairs])
        batch = self._targets(pairs, contents)
        x = torch.stack([self._start(p, c) for p, c in zip(pairs, contents, strict=True)])
        loop = lbfgs_loop if self.config.optimizer == "lbfgs" else adam_loop
        outcome = loop(lambda trial: self.evaluate(trial, batch), x, budgets, self.config, on_evaluation)
        return self._results(pairs, batch, outcome, started)

    def _targets(self, pairs: Sequence[Pair], contents: Tensor) -> _Batch:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=self.device)

        c = self.config
        alpha = [c.content_weight if p.content_weight is None else p.content_weight for p in pairs]
        beta = [(c.style_weight if p.style_weight is None else p.style_weight) if p.styles else 0.0 for p in pairs]
        tv = [c.tv_weight if p.tv_weight is None else p.tv_weight for p in pairs]
        content_taps = c.content_layers if any(alpha) else ()
        style_taps = c.style_layers if any(beta) else ()
        if not all((a and content_taps) or (b and style_taps) for a, b in zip(alpha, beta, strict=True)):
            raise ValueError("nothing to optimise: this pair has neither a content nor a style term")
        absent = [t for t in (*content_taps, *style_taps) if t.removeprefix("pre:") not in self.network.layers]
        if absent:
            raise ValueError(f"a pair's own weight asks for {', '.join(absent)}, which the weights at hand do not hold")
        self._check_sides(pairs, content_taps, style_taps)
        content: dict[str, Tensor] = {}
        if content_taps:
            with torch.no_grad():
                content = {k: v.clone() for k, v in self.network(contents, content_taps).items()}
        style: dict[str, Tensor] = {}
        if style_taps:
            per_pair = [self._blend(p) for p in pairs]
            like = next(t for t in per_pair if t is not None)
            style = {name: torch.stack([like[name] * 0 if t is None else t[name] for t in per_pair]) for name in style_taps}
        return _Batch(content_taps, style_taps, content, style, column(alpha), column(beta), column(tv), any(tv))

    def _check_images(self, pairs: Sequence[Pair]) -> None:
        for p in pairs:
            for role, image in [("content", p.content), *(("style", s) for s in p.styles), *([] if p.start is None else [("start", p.start)])]:
                if image.ndim != 3 or image.shape[0] != 3:
                    raise ValueError(f"{role}: expected an image of shape (3, H, W); got {tuple(image.shape)}")
        shapes = {tuple(p.content.shape) for p in pairs}
        if len(shapes) != 1:
            raise ValueError(f"a batch needs contents of one shape; got {sorted(shapes)}")

    def _check_sides(self, pairs: Sequence[Pair], content_taps: Sequence[str], style_taps: Sequence[str]) -> None:
        least, least_style = minimum_side((*content_taps, *style_taps)), minimum_side(style_taps)
        for role, image, side in [("content", pairs[0].content, least), *(("style", s, least_style) for p in pairs for s in p.styles)]:
            if min(image.shape[1:]) < side:
                raise ValueError(f"{role} is {image.shape[2]} x {image.shape[1]} pixels; the deepest layer needs at least {side} a side")

    def _blend(self, pair: Pair) -> dict[str, Tensor] | None:
        if not pair.styles:
            return None
        keys: Sequence[Hashable | None] = pair.style_keys or [None] * len(pair.styles)
        blend = pair.blend or [1 / len(pair.styles)] * len(pair.styles)
        targets = [self.style_target(s, k) for s, k in zip(pair.styles, keys, strict=True)]
        if len(targets) == 1:
            return targets[0]
        return {name: sum((w * t[name] for w, t in zip(blend, targets, strict=True)), torch.zeros_like(targets[0][name])) for name in targets[0]}

    def _start(self, pair: Pair, content: Tensor) -> Tensor:
        h, w = content.shape[1:]
        if pair.start is not None:
            return self._resized(pair.start, h, w)
        init = pair.init or self.config.init
        if init == "content":
            return content
        if init == "style":
            if not pair.styles:
                raise ValueError("init style: this pair has no style image")
            return self._resized(pair.styles[0], h, w)
        if init == "noise":
            # White noise, uniform over the range of a pixel; drawn on the CPU so that every device gets the same start.
            generator = torch.Generator().manual_seed(pair.seed)
            return torch.rand(3, h, w, generator=generator).to(self.device)
        raise ValueError(f"init {init!r} is an image: give it as the pair's `start`")

    def _pixels(self, image: Tensor) -> Tensor:
        moved = image.to(self.device)
        return moved.float() / 255 if moved.dtype == torch.uint8 else moved.float()

    def _resized(self, image: Tensor, h: int, w: int) -> Tensor:
        pixels = self._pixels(image)
        if pixels.shape[1:] == (h, w):
            return pixels
        return F.interpolate(pixels.unsqueeze(0), size=(h, w), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)

    def losses(self, x: Tensor, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Total (B,) and its terms (3, B): content, style, tv, without their weights; zero for a term that is off."""
        scale = self.config.loss_scale
        zero = torch.zeros_like(batch.alpha)
        contents, styles = [], []

        def through(tap: str, features: Tensor) -> Tensor:
            if tap in batch.content:
                contents.append(content_loss(features, batch.content[tap], scale))
            if tap in batch.style:
                features, loss = style_tap(features, batch.style[tap])
                styles.append(loss)
            return features

        self.network(x, (*batch.content_taps, *batch.style_taps), through)
        content = sum(contents, zero)
        style = sum(styles, zero) / max(1, len(styles))
        tv = tv_loss(x, scale) if batch.tv_on else zero
        total = batch.alpha * content + batch.beta * style + batch.tv * tv
        return total, torch.stack([content, style, tv]).detach()

    def evaluate(self, x: Tensor, batch: _Batch) -> tuple[Tensor, Tensor, Tensor]:
        """One forward and backward pass at images x (B, 3, H, W): losses (B,), gradients like x, terms (3, B)."""
        x = x.detach().requires_grad_(True)
        total, terms = self.losses(x, batch)
        # pairs do not see each other: the gradient of the sum holds each pair's own
        (gradient,) = torch.autograd.grad(total.sum(), x)
        return total.detach(), gradient, terms

    def _results(self, pairs: Sequence[Pair], batch: _Batch, outcome: Outcome, started: float) -> list[Result]:
        images = outcome.x.clamp(0, 1).cpu()
        loss, terms, used, iterations = outcome.loss.tolist(), outcome.terms.tolist(), outcome.used.tolist(), outcome.iterations.tolist()
        curves = outcome.curve.cpu()
        weights = torch.stack([batch.alpha, batch.beta, batch.tv]).tolist()
        seconds = (time.perf_counter() - started) / len(pairs)
        results = []
        for i, pair in enumerate(pairs):
            parts = [terms[k][i] if weights[k][i] > 0 else None for k in range(3)]
            results.append(
                Result(
                    image=images[i],
                    loss_total=loss[i],
                    loss_content=parts[0],
                    loss_style=parts[1],
                    loss_tv=parts[2],
                    loss_curve=curves[i, : used[i]].tolist(),
                    iterations=iterations[i],
                    evaluations=used[i],
                    seconds=seconds,
                    seed=pair.seed,
                    diverged=not math.isfinite(loss[i]),
                )
            )
        return results


def _bytes(target: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in target.values())
