"""Batches of pairs of one shape: targets, starts, stages, and the pictures that come out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.color import grey, luminance, match_color, match_luminance, with_chroma_of
from nstray.engine.fine_style import refined
from nstray.engine.losses import guides
from nstray.engine.losses.objective import TERMS, Objective, activations, summaries
from nstray.engine.network.vgg import VGGFeatures, minimum_side, resolve_dtype
from nstray.engine.network.weights import VGGWeights
from nstray.engine.optim.minimise import OptimResult, adam_loop, lbfgs_loop
from nstray.engine.pair import Pair, Result
from nstray.engine.settings import NAMES, StylizeConfig, coarse_stages


class Stylizer:
    """A loaded network and a cache of style targets: what a worker keeps between batches.

    Args:
        config: the job's settings.
        weights: as `load_weights` gives them.
        device: ``cuda``, ``cpu``, or a torch.device.
        cache_bytes: bound of the style targets kept on the device, least recently used out first.
    """

    def __init__(
        self,
        config: StylizeConfig,
        weights: VGGWeights,
        device: str | torch.device = "cpu",
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        # One pair after the other on a CPU: bit for bit what each gives alone, for 8 % of the speed of fours (0.475 and 0.440 s per
        # evaluation and pair at 256 px). A batch rounds in another order, and L-BFGS carries a changed 7th digit on to 1 to 3 %
        # of the loss after 100 evaluations.
        self.batched = self.device.type != "cpu"
        weights.require(config.content_layers if config.content_weight > 0 else ())
        weights.require(config.style_layers if config.style_weight > 0 else ())
        # All layers that are there: a pair's own settings may name deeper ones than the stylizer's. None is computed that a pair doesn't need.
        self.dtype = resolve_dtype(config.dtype, self.device)
        self.network = VGGFeatures(weights, weights.layers, config.pooling, self.dtype).to(
            self.device
        )
        self._cache: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()
        self._cache_bytes, self._cache_used = cache_bytes, 0

    def style_target(
        self,
        style: Tensor,
        key: Hashable | None = None,
        layers: Sequence[str] | None = None,
        *,
        guide: Tensor | None = None,
        own: StylizeConfig | None = None,
    ) -> dict[str, Tensor]:
        """What a style image (3, H, W) is matched by at each of `layers`, (N, K): for ``gram`` A/M_A (N, N).

        Computed once per `key`, shape, layers and statistic.

        Args:
            key: names the image with its guide; None computes anew.
            layers: default the settings' style layers.
            guide: (H, W): the part of the image that counts.
            own: a pair's settings; default the stylizer's.
        """
        config = own or self.config
        layers = tuple(config.style_layers if layers is None else layers)

        def compute() -> dict[str, Tensor]:
            shares = (
                {}
                if guide is None
                else guides.position_weights(self._pixels(guide)[None, None], layers)
            )
            found = summaries(
                self.network,
                self._pixels(style).unsqueeze(0),
                layers,
                config.style_statistic,
                shares,
                config.tile_size,
            )
            return {tap: summary[0, 0] for tap, summary in found.items()}

        return self.remembered(
            None if key is None else (key, tuple(style.shape), layers, config.style_statistic),
            compute,
        )

    def remembered(
        self, key: Hashable | None, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What `compute` gives, kept under `key` within the bound of bytes; None is not kept."""
        if key is not None and key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        made = compute()
        if key is not None:
            self._cache[key] = made
            self._cache_used += _bytes(made)
            while self._cache_used > self._cache_bytes and len(self._cache) > 1:
                self._cache_used -= _bytes(self._cache.popitem(last=False)[1])
        return made

    def run(
        self, pairs: Sequence[Pair], on_evaluation: Callable[[int], None] | None = None
    ) -> list[Result]:
        """Optimise pairs whose contents share one shape, and whose settings one `batch_key`, together; `run_batches` decides how many.

        Each pair takes the steps that it would take alone, up to rounding. `on_evaluation` is called with the count after each evaluation,
        and with 0 after each that made a fine style.
        Raises ValueError for pairs that can't share a batch or pictures too small for the deepest layer, its `EmptyGuide` for a guide that
        marks nothing, FloatingPointError for a fine style that diverges, torch.cuda.OutOfMemoryError.
        """
        started = time.perf_counter()
        self._check_images(pairs)
        config = self._shared(pairs)
        prepared = [self._colored(refined(self, p, on_evaluation)) for p in pairs]
        x: Tensor | None = None
        past: list[OptimResult] = []
        for shape, factor, evaluations in self._stages(config, pairs[0].content):
            stage = prepared if factor == 1 else [self._shrunk(p, shape, factor) for p in prepared]
            budgets = [evaluations or self.settings(p.settings).evaluations for p in pairs]
            contents = torch.stack([p.content for p in stage])
            objective = self.objective(stage, contents)
            x = (
                torch.stack([self._start(p) for p in stage])
                if x is None
                else self._enlarged(x, stage, contents)
            )
            done = sum(o.curve.shape[1] for o in past)
            counted = None if on_evaluation is None else _shifted(on_evaluation, done)
            loop = adam_loop if config.optimizer == "adam" else lbfgs_loop
            outcome = loop(objective.evaluate, x, budgets, config, counted)
            past.append(outcome)
            x = outcome.x
        return self._results(pairs, objective, past, started)

    def settings(self, own: Mapping[str, Any]) -> StylizeConfig:
        """The stylizer's settings with a pair's own; raises ValueError."""
        if unknown := sorted(set(own) - set(NAMES)):
            raise ValueError(
                f"no such setting of a pair: {', '.join(unknown)}; there are {', '.join(NAMES)}"
            )
        return dataclasses.replace(self.config, **own) if own else self.config

    def _shared(self, pairs: Sequence[Pair]) -> StylizeConfig:
        """The settings that a batch has in common; raises ValueError where it has not."""
        config = self.settings(pairs[0].settings)
        if any(
            batch_key(self.settings(p.settings), p) != batch_key(config, pairs[0]) for p in pairs
        ):
            raise ValueError(
                "a batch needs pairs of the same layers, statistic, scale, stages, optimizer and number of guides"
            )
        if (config.pooling, config.dtype) != (self.config.pooling, self.config.dtype):
            raise ValueError("pooling and dtype are the stylizer's; a pair can't have its own")
        return config

    def _stages(
        self, config: StylizeConfig, content: Tensor
    ) -> list[tuple[tuple[int, int], float, int | None]]:
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
            styles, keys = (
                [match_color(self._pixels(s), content, config.color_match) for s in styles],
                None,
            )
        elif config.color == "luminance":
            styles, keys = (
                [
                    grey(match_luminance(luminance(self._pixels(s)), luminance(content)))
                    for s in styles
                ],
                None,
            )
            content = grey(luminance(content))
            start = None if start is None else grey(luminance(start))
        return dataclasses.replace(
            pair, content=content, styles=styles, style_keys=keys, start=start
        )

    def _enlarged(self, images: Tensor, pairs: Sequence[Pair], contents: Tensor) -> Tensor:
        """Images of a coarser stage (B, 3, h, w) at the size of this one's contents (B, 3, H, W).

        For pairs with a content term, with the detail that the contents lose by the same shrinking: the loss after as many
        evaluations is then 5 to 7 % lower (192 px, the authors' layers, from noise and from content).
        """
        configs = [self.settings(p.settings) for p in pairs]
        wanted = torch.tensor(
            [bool(c.content_weight and c.content_layers) for c in configs], device=images.device
        ).view(-1, 1, 1, 1)
        shape = contents.shape[2:]
        lost = contents - _resize(_resize(contents, images.shape[2:]), shape)
        return _resize(images, shape) + torch.where(wanted, lost, 0.0)

    def _shrunk(self, pair: Pair, shape: tuple[int, int], factor: float) -> Pair:
        """The pair at a coarse stage: the style shrinks with the content, so that strokes keep their share of the picture."""
        least = minimum_side(self.settings(pair.settings).style_layers)
        shapes = [
            (max(least, round(s.shape[1] * factor)), max(least, round(s.shape[2] * factor)))
            for s in pair.styles
        ]
        styles = [
            _resize(self._pixels(s), size) for s, size in zip(pair.styles, shapes, strict=True)
        ]
        own = (
            None
            if pair.guides is None
            else [_resize_guide(self._pixels(g), shape) for g in pair.guides]
        )
        theirs = pair.style_guides
        if theirs is not None:
            theirs = [
                None if g is None else _resize_guide(self._pixels(g), size)
                for g, size in zip(theirs, shapes, strict=True)
            ]
        return dataclasses.replace(
            pair,
            content=_resize(pair.content, shape),
            styles=styles,
            guides=own,
            style_guides=theirs,
        )

    def objective(self, pairs: Sequence[Pair], contents: Tensor) -> Objective:
        """What is minimised for pairs of one shape and `batch_key`, with `contents` (B, 3, H, W) over 0..1; raises ValueError."""
        configs = [self.settings(p.settings) for p in pairs]
        config = configs[0]
        alpha = [c.content_weight for c in configs]
        beta = [c.style_weight if p.styles else 0.0 for c, p in zip(configs, pairs, strict=True)]
        content_taps = config.content_layers if any(alpha) else ()
        style_taps = config.style_layers if any(beta) else ()
        if not all(
            (a and content_taps) or (b and style_taps) for a, b in zip(alpha, beta, strict=True)
        ):
            raise ValueError(
                "nothing to optimise: this pair has neither a content nor a style term"
            )
        absent = [
            t
            for t in (*content_taps, *style_taps)
            if t.removeprefix("pre:") not in self.network.layers
        ]
        if absent:
            raise ValueError(
                f"a pair's own settings ask for {', '.join(absent)}, which the weights at hand do not hold"
            )
        self._check_sides(pairs, content_taps, style_taps)
        weights = [alpha, beta, [c.tv_weight for c in configs], [c.range_weight for c in configs]]
        k = len(style_taps)
        out = Objective(
            self.network,
            content=activations(self.network, contents, content_taps, config.tile_size)
            if content_taps
            else {},
            style=self._styles(pairs, style_taps) if style_taps else {},
            layer_weights=dict(
                zip(style_taps, config.style_layer_weights or [1 / k] * k, strict=True)
            )
            if k
            else {},
            weights=torch.tensor(weights, dtype=torch.float32, device=self.device),
            scale=config.loss_scale,
            statistic=config.style_statistic,
            tile=config.tile_size,
        )
        if style_taps and pairs[0].guides is not None:
            regions = torch.stack(
                [torch.stack([self._pixels(g) for g in p.guides or ()]) for p in pairs]
            )
            out.shares = guides.position_weights(regions, style_taps)
            blend = torch.tensor(
                [_blend(p) for p in pairs], dtype=torch.float32, device=self.device
            )
            out.region_weights = guides.region_weights(regions) * blend * blend.shape[1]
        return out

    def _check_images(self, pairs: Sequence[Pair]) -> None:
        for p in pairs:
            for role, image in [
                ("content", p.content),
                *(("style", s) for s in p.styles),
                *_given(start=p.start, fine=p.fine),
            ]:
                if image.ndim != 3 or image.shape[0] != 3:
                    raise ValueError(
                        f"{role}: expected an image of shape (3, H, W); got {tuple(image.shape)}"
                    )
        shapes = {tuple(p.content.shape) for p in pairs}
        if len(shapes) != 1:
            raise ValueError(f"a batch needs contents of one shape; got {sorted(shapes)}")
        for p in pairs:
            sides = [p.content.shape[1:]] * len(p.styles) if p.guides is not None else []
            _check_guides("guides", p.guides, sides)
            _check_guides("style_guides", p.style_guides, [s.shape[1:] for s in p.styles])

    def _check_sides(
        self, pairs: Sequence[Pair], content_taps: Sequence[str], style_taps: Sequence[str]
    ) -> None:
        least, least_style = minimum_side((*content_taps, *style_taps)), minimum_side(style_taps)
        for role, image, side in [
            ("content", pairs[0].content, least),
            *(("style", s, least_style) for p in pairs for s in p.styles),
        ]:
            if min(image.shape[1:]) < side:
                raise ValueError(
                    f"{role} is {image.shape[2]} x {image.shape[1]} pixels; the deepest layer needs at least {side} a side"
                )

    def _styles(self, pairs: Sequence[Pair], taps: Sequence[str]) -> dict[str, Tensor]:
        """Targets (B, R, N, K): a region for each style where there are guides, else one for their blend; 0 where a pair has no style."""
        per_pair = [self._style_of(p, taps) for p in pairs]
        like = next(t for t in per_pair if t is not None)
        return {
            tap: torch.stack(
                [torch.zeros_like(like[tap]) if t is None else t[tap] for t in per_pair]
            )
            for tap in taps
        }

    def _style_of(self, pair: Pair, taps: Sequence[str]) -> dict[str, Tensor] | None:
        if not pair.styles:
            return None
        config = self.settings(pair.settings)
        keys: Sequence[Hashable | None] = pair.style_keys or [None] * len(pair.styles)
        parts = pair.style_guides or [None] * len(pair.styles)
        names = pair.style_guide_keys or [None] * len(pair.styles)
        keys = [
            k if g is None else None if k is None or n is None else ("guided", k, n)
            for k, g, n in zip(keys, parts, names, strict=True)
        ]
        targets = [
            self.style_target(s, k, taps, guide=g, own=config)
            for s, k, g in zip(pair.styles, keys, parts, strict=True)
        ]
        if pair.guides is not None:
            return {tap: torch.stack([t[tap] for t in targets]) for tap in taps}
        if len(targets) == 1:
            return {tap: targets[0][tap].unsqueeze(0) for tap in taps}
        blended = {
            tap: sum(
                (w * t[tap] for w, t in zip(_blend(pair), targets, strict=True)),
                torch.zeros_like(targets[0][tap]),
            )
            for tap in taps
        }
        return {tap: t.unsqueeze(0) for tap, t in blended.items()}

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
            return match_color(
                pair.content, self._pixels(pair.styles[0]), self.settings(pair.settings).color_match
            ).clamp(0, 1)
        if init == "noise":
            # White noise, uniform over the range of a pixel; drawn on the CPU so that every device gets the same start.
            generator = torch.Generator().manual_seed(pair.seed)
            noise = torch.rand(3, *shape, generator=generator).to(self.device)
            return (
                grey(luminance(noise))
                if self.settings(pair.settings).color == "luminance"
                else noise
            )
        raise ValueError(f"init {init!r} is an image: give it as the pair's `start`")

    def _pixels(self, image: Tensor) -> Tensor:
        moved = image.to(self.device)
        return moved.float() / 255 if moved.dtype == torch.uint8 else moved.float()

    def _results(
        self,
        pairs: Sequence[Pair],
        objective: Objective,
        past: Sequence[OptimResult],
        started: float,
    ) -> list[Result]:
        outcome = past[-1]
        images = outcome.x.clamp(0, 1)
        loss, terms = outcome.loss.tolist(), outcome.terms.tolist()
        used = [o.used.tolist() for o in past]
        iterations = torch.stack([o.iterations for o in past]).sum(0).tolist()
        curves = [o.curve.cpu() for o in past]
        weights = objective.weights.tolist()
        seconds = (time.perf_counter() - started) / len(pairs)
        results = []
        for i, pair in enumerate(pairs):
            parts = {
                f"loss_{name}": terms[k][i] if weights[k][i] > 0 else None
                for k, name in enumerate(TERMS)
            }
            image = images[i]
            if self.settings(pair.settings).color == "luminance":
                image = with_chroma_of(luminance(image), self._pixels(pair.content))
            results.append(
                Result(
                    image=image.cpu(),
                    loss_total=loss[i],
                    **parts,
                    loss_curve=[
                        v
                        for curve, n in zip(curves, used, strict=True)
                        for v in curve[i, : n[i]].tolist()
                    ],
                    iterations=iterations[i],
                    evaluations=sum(n[i] for n in used),
                    seconds=seconds,
                    seed=pair.seed,
                    diverged=not math.isfinite(loss[i]),
                )
            )
        return results


def batch_key(config: StylizeConfig, pair: Pair) -> tuple[Hashable, ...]:
    """What all pairs of a batch share: what is computed, and in which stages. Weights, starts and budgets may differ.

    `config`: with the pair's own settings.
    """
    c = config
    what = (
        c.content_layers,
        c.style_layers,
        c.style_layer_weights,
        c.style_statistic,
        len(pair.guides or ()),
        c.loss_scale,
    )
    return (
        *what,
        c.coarse,
        c.optimizer,
        c.learning_rate,
        c.value_range,
        c.pooling,
        c.dtype,
        c.tile_size,
    )


def _blend(pair: Pair) -> Sequence[float]:
    return pair.blend or [1 / len(pair.styles)] * len(pair.styles)


def _given(**images: Tensor | None) -> list[tuple[str, Tensor]]:
    return [(role, image) for role, image in images.items() if image is not None]


def _check_guides(
    name: str, given: Sequence[Tensor | None] | None, sides: Sequence[Sequence[int]]
) -> None:
    if given is None:
        return
    if len(given) != len(sides):
        raise ValueError(f"{name}: {len(given)} guides for {len(sides)} styles; give one for each")
    for guide, side in zip(given, sides, strict=True):
        if guide is not None and tuple(guide.shape) != tuple(side):
            raise ValueError(
                f"{name}: expected a guide of shape {tuple(side)}, that of its picture; got {tuple(guide.shape)}"
            )


def _resize_guide(guide: Tensor, shape: tuple[int, int]) -> Tensor:
    return _resize(guide.unsqueeze(0), shape)[0]


def _resize(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An image (C, H, W) or images (B, 3, H, W) at another size: bicubic, antialiased, kept within the range it had."""
    if tuple(image.shape[-2:]) == tuple(shape):
        return image
    batch = image.unsqueeze(0) if image.ndim == 3 else image
    low, high = batch.amin(dim=(1, 2, 3), keepdim=True), batch.amax(dim=(1, 2, 3), keepdim=True)
    resized = F.interpolate(
        batch, size=tuple(shape), mode="bicubic", antialias=True, align_corners=False
    ).clamp(low, high)
    return resized[0] if image.ndim == 3 else resized


def _shifted(on_evaluation: Callable[[int], None], done: int) -> Callable[[int], None]:
    return lambda k: on_evaluation(done + k)


def _bytes(target: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in target.values())
