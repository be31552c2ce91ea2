"""A batch of pairs of one shape: targets, start, losses, and the pictures that come out."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.color import grey, luminance, match_color, match_luminance, with_chroma_of
from nstray.engine.loops import Outcome, adam_loop, lbfgs_loop
from nstray.engine.losses import content_loss, gram, style_tap, tv_loss
from nstray.engine.settings import MAX_SEED, NAMES, LossScale, StylizeConfig, coarse_stages
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
        start: (3, H, W): an image to begin with, instead of the configuration's `init`.
        settings: what the pair has of its own, by the names of `StylizeConfig`; not pooling and dtype, and `seed` is the field above.
    """

    content: Tensor
    styles: Sequence[Tensor]
    blend: Sequence[float] | None = None
    style_keys: Sequence[Hashable] | None = None
    seed: int = 0
    start: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came out for one pair.

    Attributes:
        image: (3, H, W) float32 over 0..1 on the CPU, clamped; the losses are those of the image before clamping.
        loss_total: alpha content + beta style + tv, at the returned image.
        loss_content, loss_style, loss_tv: the terms without their weights; None for a term that was off.
        loss_curve: total loss of the best point after each evaluation; the first is the start's. Coarse stages come first, each
            with the losses of its own size.
        iterations: accepted steps. evaluations: forward + backward passes used. Both over all stages.
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
    layer_weights: dict[str, float]
    content: dict[str, Tensor]
    style: dict[str, Tensor]
    alpha: Tensor
    beta: Tensor
    tv: Tensor
    tv_on: bool
    scale: LossScale


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
        weights.require(config.content_layers if config.content_weight > 0 else ())
        weights.require(config.style_layers if config.style_weight > 0 else ())
        # All layers that are there: a pair's own settings may name deeper ones than the stylizer's. None is computed that a pair doesn't need.
        self.network = Features(weights, weights.layers, config.pooling, config.dtype).to(self.device)
        self._cache: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()
        self._cache_bytes, self._cache_used = cache_bytes, 0

    def style_target(self, style: Tensor, key: Hashable | None = None, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """A/M_A (N, N) of a style image (3, H, W) for each of `layers`, computed once per `key`, shape and layers.

        `layers`: default the configuration's style layers.
        """
        layers = tuple(self.config.style_layers if layers is None else layers)
        full = None if key is None else (key, tuple(style.shape), layers)
        if full is not None and full in self._cache:
            self._cache.move_to_end(full)
            return self._cache[full]
        with torch.no_grad():
            features = self.network(self._pixels(style).unsqueeze(0), layers)
            target = {name: gram(f)[0] for name, f in features.items()}
        if full is not None:
            self._cache[full] = target
            self._cache_used += _bytes(target)
            while self._cache_used > self._cache_bytes and len(self._cache) > 1:
                self._cache_used -= _bytes(self._cache.popitem(last=False)[1])
        return target

    def run(self, pairs: Sequence[Pair], on_evaluation: Callable[[int], None] | None = None) -> list[Result]:
        """Optimise pairs whose contents share one shape, and whose settings one `batch_key`, together; `run_batches` decides how many.

        Each pair takes the steps that it would take alone, up to rounding. `on_evaluation` is called with the count after each evaluation.
        Raises ValueError for pairs that can't share a batch or pictures too small for the deepest layer, torch.cuda.OutOfMemoryError.
        """
        started = time.perf_counter()
        self._check_images(pairs)
        config = self._shared(pairs)
        prepared = [self._colored(p) for p in pairs]
        x: Tensor | None = None
        past: list[Outcome] = []
        for shape, factor, evaluations in self._stages(config, pairs[0].content):
            stage = prepared if factor == 1 else [self._shrunk(p, shape, factor) for p in prepared]
            budgets = [evaluations or self.settings(p.settings).evaluations for p in pairs]
            contents = torch.stack([p.content for p in stage])
            batch = self._targets(stage, contents)
            x = torch.stack([self._start(p) for p in stage]) if x is None else _resize(x, shape)
            done = sum(o.curve.shape[1] for o in past)
            counted = None if on_evaluation is None else _shifted(on_evaluation, done)
            loop = lbfgs_loop if config.optimizer == "lbfgs" else adam_loop
            outcome = loop(partial(self.evaluate, batch=batch), x, budgets, config, counted)
            past.append(outcome)
            x = outcome.x
        return self._results(pairs, batch, past, started)

    def settings(self, own: Mapping[str, Any]) -> StylizeConfig:
        """The stylizer's settings with a pair's own; raises ValueError."""
        if unknown := sorted(set(own) - set(NAMES)):
            raise ValueError(f"no such setting of a pair: {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return dataclasses.replace(self.config, **own) if own else self.config

    def _shared(self, pairs: Sequence[Pair]) -> StylizeConfig:
        """The settings that a batch has in common; raises ValueError where it has not."""
        config = self.settings(pairs[0].settings)
        if any(batch_key(self.settings(p.settings)) != batch_key(config) for p in pairs):
            raise ValueError("a batch needs pairs of the same layers, scale, stages and optimizer")
        if (config.pooling, config.dtype) != (self.config.pooling, self.config.dtype):
            raise ValueError("pooling and dtype are the stylizer's; a pair can't have its own")
        return config

    def _stages(self, config: StylizeConfig, content: Tensor) -> list[tuple[tuple[int, int], float, int | None]]:
        """((h, w), share of the full size, evaluations or None) of every stage, the full size last.

        A stage that would leave the deepest layer nothing is left out.
        """
        h, w = content.shape[1:]
        least = minimum_side((*config.content_layers, *config.style_layers))
        out: list[tuple[tuple[int, int], float, int | None]] = []
        for side, evaluations in coarse_stages(config.coarse, max(h, w)):
            factor = side / max(h, w)
            shape = (max(1, round(h * factor)), max(1, round(w * factor)))
            if min(shape) >= least:
                out.append((shape, factor, evaluations))
        return [*out, ((h, w), 1.0, None)]

    def _colored(self, pair: Pair) -> Pair:
        """The pair with a float content on the device, and in the colours that its `color` asks for."""
        config = self.settings(pair.settings)
        content, styles = self._pixels(pair.content), list(pair.styles)
        start = None if pair.start is None else self._pixels(pair.start)
        keys = pair.style_keys
        if config.color == "match":
            styles, keys = [match_color(self._pixels(s), content, config.color_match) for s in styles], None
        elif config.color == "luminance":
            styles, keys = [grey(match_luminance(luminance(self._pixels(s)), luminance(content))) for s in styles], None
            content = grey(luminance(content))
            start = None if start is None else grey(luminance(start))
        return dataclasses.replace(pair, content=content, styles=styles, style_keys=keys, start=start)

    def _shrunk(self, pair: Pair, shape: tuple[int, int], factor: float) -> Pair:
        """The pair at a coarse stage: the style shrinks with the content, so that strokes keep their share of the picture."""
        least = minimum_side(self.settings(pair.settings).style_layers)
        styles = [_resize(self._pixels(s), (max(least, round(s.shape[1] * factor)), max(least, round(s.shape[2] * factor)))) for s in pair.styles]
        return dataclasses.replace(pair, content=_resize(pair.content, shape), styles=styles)

    def _targets(self, pairs: Sequence[Pair], contents: Tensor) -> _Batch:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=self.device)

        configs = [self.settings(p.settings) for p in pairs]
        config = configs[0]
        alpha = [c.content_weight for c in configs]
        beta = [c.style_weight if p.styles else 0.0 for c, p in zip(configs, pairs, strict=True)]
        tv = [c.tv_weight for c in configs]
        content_taps = config.content_layers if any(alpha) else ()
        style_taps = config.style_layers if any(beta) else ()
        if not all((a and content_taps) or (b and style_taps) for a, b in zip(alpha, beta, strict=True)):
            raise ValueError("nothing to optimise: this pair has neither a content nor a style term")
        absent = [t for t in (*content_taps, *style_taps) if t.removeprefix("pre:") not in self.network.layers]
        if absent:
            raise ValueError(f"a pair's own settings ask for {', '.join(absent)}, which the weights at hand do not hold")
        self._check_sides(pairs, content_taps, style_taps)
        content: dict[str, Tensor] = {}
        if content_taps:
            with torch.no_grad():
                content = {k: v.clone() for k, v in self.network(contents, content_taps).items()}
        style: dict[str, Tensor] = {}
        if style_taps:
            per_pair = [self._blend(p, style_taps) for p in pairs]
            like = next(t for t in per_pair if t is not None)
            style = {name: torch.stack([like[name] * 0 if t is None else t[name] for t in per_pair]) for name in style_taps}
        k = len(style_taps)
        layer_weights = dict(zip(style_taps, config.style_layer_weights or [1 / k] * k, strict=True)) if k else {}
        return _Batch(content_taps, style_taps, layer_weights, content, style, column(alpha), column(beta), column(tv), any(tv), config.loss_scale)

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

    def _blend(self, pair: Pair, layers: Sequence[str]) -> dict[str, Tensor] | None:
        if not pair.styles:
            return None
        keys: Sequence[Hashable | None] = pair.style_keys or [None] * len(pair.styles)
        blend = pair.blend or [1 / len(pair.styles)] * len(pair.styles)
        targets = [self.style_target(s, k, layers) for s, k in zip(pair.styles, keys, strict=True)]
        if len(targets) == 1:
            return targets[0]
        return {name: sum((w * t[name] for w, t in zip(blend, targets, strict=True)), torch.zeros_like(targets[0][name])) for name in targets[0]}

    def _start(self, pair: Pair) -> Tensor:
        shape = tuple(pair.content.shape[1:])
        if pair.start is not None:
            return _resize(self._pixels(pair.start), shape)
        init = self.settings(pair.settings).init
        if init == "content":
            return pair.content
        if init in ("style", "content-matched") and not pair.styles:
            raise ValueError(f"init {init}: this pair has no style image")
        if init == "style":
            return _resize(self._pixels(pair.styles[0]), shape)
        if init == "content-matched":
            return match_color(pair.content, self._pixels(pair.styles[0]), self.settings(pair.settings).color_match).clamp(0, 1)
        if init == "noise":
            # White noise, uniform over the range of a pixel; drawn on the CPU so that every device gets the same start.
            generator = torch.Generator().manual_seed(pair.seed)
            noise = torch.rand(3, *shape, generator=generator).to(self.device)
            return grey(luminance(noise)) if self.settings(pair.settings).color == "luminance" else noise
        raise ValueError(f"init {init!r} is an image: give it as the pair's `start`")

    def _pixels(self, image: Tensor) -> Tensor:
        moved = image.to(self.device)
        return moved.float() / 255 if moved.dtype == torch.uint8 else moved.float()

    def losses(self, x: Tensor, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Total (B,) and its terms (3, B): content, style, tv, without their weights; zero for a term that is off."""
        scale = batch.scale
        zero = torch.zeros_like(batch.alpha)
        contents, styles = [], []

        def through(tap: str, features: Tensor) -> Tensor:
            if tap in batch.content:
                contents.append(content_loss(features, batch.content[tap], scale))
            if tap in batch.style:
                features, loss = style_tap(features, batch.style[tap])
                styles.append(loss * batch.layer_weights[tap])
            return features

        self.network(x, (*batch.content_taps, *batch.style_taps), through)
        content = sum(contents, zero)
        style = sum(styles, zero)
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

    def _results(self, pairs: Sequence[Pair], batch: _Batch, past: Sequence[Outcome], started: float) -> list[Result]:
        outcome = past[-1]
        images = outcome.x.clamp(0, 1)
        loss, terms = outcome.loss.tolist(), outcome.terms.tolist()
        used = [o.used.tolist() for o in past]
        iterations = torch.stack([o.iterations for o in past]).sum(0).tolist()
        curves = [o.curve.cpu() for o in past]
        weights = torch.stack([batch.alpha, batch.beta, batch.tv]).tolist()
        seconds = (time.perf_counter() - started) / len(pairs)
        results = []
        for i, pair in enumerate(pairs):
            parts = [terms[k][i] if weights[k][i] > 0 else None for k in range(3)]
            image = images[i]
            if self.settings(pair.settings).color == "luminance":
                image = with_chroma_of(luminance(image), self._pixels(pair.content))
            results.append(
                Result(
                    image=image.cpu(),
                    loss_total=loss[i],
                    loss_content=parts[0],
                    loss_style=parts[1],
                    loss_tv=parts[2],
                    loss_curve=[v for curve, n in zip(curves, used, strict=True) for v in curve[i, : n[i]].tolist()],
                    iterations=iterations[i],
                    evaluations=sum(n[i] for n in used),
                    seconds=seconds,
                    seed=pair.seed,
                    diverged=not math.isfinite(loss[i]),
                )
            )
        return results


def batch_key(config: StylizeConfig) -> tuple[Hashable, ...]:
    """The settings that all pairs of a batch share: what is computed, and in which stages. Weights, starts and budgets may differ."""
    c = config
    return (c.content_layers, c.style_layers, c.style_layer_weights, c.loss_scale, c.coarse, c.optimizer, c.learning_rate, c.pooling, c.dtype)


def _resize(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An image (3, H, W) or images (B, 3, H, W) at another size: bicubic, antialiased, kept within the range it had."""
    if tuple(image.shape[-2:]) == tuple(shape):
        return image
    batch = image.unsqueeze(0) if image.ndim == 3 else image
    low, high = batch.amin(dim=(1, 2, 3), keepdim=True), batch.amax(dim=(1, 2, 3), keepdim=True)
    resized = F.interpolate(batch, size=tuple(shape), mode="bicubic", antialias=True, align_corners=False).clamp(low, high)
    return resized[0] if image.ndim == 3 else resized


def _shifted(on_evaluation: Callable[[int], None], done: int) -> Callable[[int], None]:
    return lambda k: on_evaluation(done + k)


def _bytes(target: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in target.values())
