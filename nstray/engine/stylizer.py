"""One batch of pairs of one shape: prepare them, optimise them in stages, give the results."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nstray.engine.color import grey, luminance, match_color, match_luminance, with_chroma_of
from nstray.engine.fine_style import refine_styles
from nstray.engine.losses import guides
from nstray.engine.losses.objective import TERMS, Objective, activations
from nstray.engine.network.vgg import VGGFeatures, resolve_dtype
from nstray.engine.network.weights import VGGWeights
from nstray.engine.optim.minimise import OptimResult, Watch, adam_loop, lbfgs_loop
from nstray.engine.pair import (
    Pair,
    Result,
    batch_key,
    blend_weights,
    check_images,
    pair_settings,
    pixels,
)
from nstray.engine.progress import OnEvaluation, OnProgress, Progress
from nstray.engine.settings import StylizeConfig
from nstray.engine.stages import enlarge, resize, shrink, stages_of
from nstray.engine.targets import StyleTargets, TensorCache


class Stylizer:
    """A loaded network and a cache of style targets: what a worker holds between batches.

    Args:
        config: the job's settings.
        weights: as `load_weights` gives them.
        device: ``cuda``, ``cpu``, or a torch.device.
        cache_bytes: bound of the style targets stored on the device, least recently used out first.

    Raises WeightsError if the settings ask for a layer that the weights do not hold.
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
        # On a CPU one pair after the other: bit for bit what each gives alone. Batches of four are
        # 8 % faster (0.475 and 0.440 s per evaluation and pair at 256 px). But a batch rounds in
        # another order, and L-BFGS carries a changed 7th digit on to 1 to 3 % of the loss after 100
        # evaluations.
        self.batched = self.device.type != "cpu"
        weights.require(config.content_layers if config.content_weight > 0 else ())
        weights.require(config.style_layers if config.style_weight > 0 else ())
        self.dtype = resolve_dtype(config.dtype, self.device)
        # All layers that are there: a pair's own settings may name deeper ones than the stylizer's.
        # A layer that no pair needs is not computed.
        self.network = VGGFeatures(weights, weights.layers, config.pooling, self.dtype).to(
            self.device
        )
        self.cache = TensorCache(self.device, cache_bytes)
        self.targets = StyleTargets(self.network, self.cache)

    def run(
        self,
        pairs: Sequence[Pair],
        on_evaluation: OnEvaluation | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Result]:
        """Optimise pairs of one content shape and one `batch_key` together.

        Each pair takes the steps that it would take alone, up to rounding. `run_batches` decides
        how many pairs a batch has.

        Args:
            on_evaluation: called with the count after each evaluation, and with 0 after each that
                made a fine style.
            on_progress: called with where the batch stands after each evaluation, but not for a
                fine style.

        Raises ValueError for pairs that can't share a batch or pictures too small for the deepest
        layer, its `EmptyGuide` for a guide that marks nothing, FloatingPointError for a fine style
        that diverges, torch.cuda.OutOfMemoryError.
        """
        started = time.perf_counter()
        check_images(pairs)
        config = self._shared_settings(pairs)
        configs = [self.settings(p.settings) for p in pairs]
        prepared = [
            self._recolour(refine_styles(p, c, self.run, self.cache, on_evaluation), c)
            for p, c in zip(pairs, configs, strict=True)
        ]
        optimise = adam_loop if config.optimizer == "adam" else lbfgs_loop
        x: Tensor | None = None
        past: list[OptimResult] = []
        least = self.network.minimum_side((*config.content_layers, *config.style_layers))
        height, width = pairs[0].content.shape[1:]
        stages = stages_of(config, height, width, least)
        budgets_of = [[stage.evaluations or c.evaluations for c in configs] for stage in stages]
        total = sum(map(max, budgets_of))
        for number, (stage, budgets) in enumerate(zip(stages, budgets_of, strict=True), 1):
            at_size = [
                shrink(p, stage, self.network.minimum_side(c.style_layers), self.device)
                for p, c in zip(prepared, configs, strict=True)
            ]
            contents = torch.stack([p.content for p in at_size])
            objective = self.objective(at_size, contents)
            x = (
                torch.stack([self._start(p) for p in at_size])
                if x is None
                else enlarge(x, contents, configs)
            )
            done = sum(result.curve.shape[1] for result in past)
            at = (done, total, number, len(stages), stage.shape)
            watch = self._watch(pairs, at, on_evaluation, on_progress)
            past.append(optimise(objective.evaluate, x, budgets, config, watch))
            x = past[-1].x
        return self._results(pairs, objective, past, started)

    def settings(self, own: Mapping[str, Any]) -> StylizeConfig:
        """The stylizer's settings with a pair's own; raises ValueError."""
        return pair_settings(self.config, own)

    def style_target(
        self,
        style: Tensor,
        key: Hashable | None = None,
        layers: Sequence[str] | None = None,
        *,
        guide: Tensor | None = None,
        own: StylizeConfig | None = None,
    ) -> dict[str, Tensor]:
        """What a style image (3, H, W) is matched by at each of `layers`: see `StyleTargets`.

        Args:
            key: names the image with its guide; None computes anew.
            layers: default the settings' style layers.
            guide: (H, W): the part of the image that counts.
            own: a pair's settings; default the stylizer's.
        """
        config = own or self.config
        taps = config.style_layers if layers is None else layers
        return self.targets.of_image(style, taps, config, key, guide)

    def objective(self, pairs: Sequence[Pair], contents: Tensor) -> Objective:
        """What is minimised for pairs of one shape and `batch_key`.

        `contents`: (B, 3, H, W) over 0..1, on the device.

        Raises ValueError for a pair with nothing to optimise, a layer that the weights do not hold,
        or an image too small for its deepest layer.
        """
        configs = [self.settings(p.settings) for p in pairs]
        config = configs[0]
        alpha = [c.content_weight for c in configs]
        beta = [c.style_weight if p.styles else 0.0 for c, p in zip(configs, pairs, strict=True)]
        content_taps = config.content_layers if any(alpha) else ()
        style_taps = config.style_layers if any(beta) else ()
        self._check_terms(pairs, alpha, beta, content_taps, style_taps)
        weights = [alpha, beta, [c.tv_weight for c in configs], [c.range_weight for c in configs]]
        content: dict[str, Tensor] = {}
        style: dict[str, Tensor] = {}
        layer_weights: dict[str, float] = {}
        position_weights: dict[str, Tensor] = {}
        region_weights: Tensor | None = None
        if content_taps:
            content = activations(self.network, contents, content_taps, config.tile_size)
        if style_taps:
            style = self.targets.of_batch(pairs, style_taps, configs)
            equal = [1 / len(style_taps)] * len(style_taps)
            layer_weights = dict(zip(style_taps, config.style_layer_weights or equal, strict=True))
        if style_taps and pairs[0].guides is not None:
            regions = torch.stack(
                [torch.stack([pixels(g, self.device) for g in p.guides or ()]) for p in pairs]
            )
            position_weights = guides.position_weights(regions, style_taps)
            blend = torch.tensor(
                [blend_weights(p) for p in pairs], dtype=torch.float32, device=self.device
            )
            region_weights = guides.region_weights(regions) * blend * blend.shape[1]
        return Objective(
            self.network,
            content=content,
            style=style,
            layer_weights=layer_weights,
            weights=torch.tensor(weights, dtype=torch.float32, device=self.device),
            scale=config.loss_scale,
            statistic=config.style_statistic,
            position_weights=position_weights,
            region_weights=region_weights,
            tile=config.tile_size,
        )

    def _shared_settings(self, pairs: Sequence[Pair]) -> StylizeConfig:
        """The settings that a batch has in common; raises ValueError if it has not."""
        config = self.settings(pairs[0].settings)
        if any(
            batch_key(self.settings(p.settings), p) != batch_key(config, pairs[0]) for p in pairs
        ):
            raise ValueError(
                "a batch needs pairs of the same layers, statistic, scale, stages, optimizer "
                "and number of guides"
            )
        if (config.pooling, config.dtype) != (self.config.pooling, self.config.dtype):
            raise ValueError("pooling and dtype are the stylizer's; a pair can't have its own")
        return config

    def _check_terms(
        self,
        pairs: Sequence[Pair],
        alpha: Sequence[float],
        beta: Sequence[float],
        content_taps: Sequence[str],
        style_taps: Sequence[str],
    ) -> None:
        """Raise ValueError unless every pair has a term, its layers and images large enough."""
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
                f"a pair's own settings ask for {', '.join(absent)}, "
                "which the weights at hand do not hold"
            )
        least = self.network.minimum_side((*content_taps, *style_taps))
        least_style = self.network.minimum_side(style_taps)
        for role, image, side in [
            ("content", pairs[0].content, least),
            *(("style", s, least_style) for p in pairs for s in p.styles),
        ]:
            if min(image.shape[1:]) < side:
                raise ValueError(
                    f"{role} is {image.shape[2]} x {image.shape[1]} pixels; "
                    f"the deepest layer needs at least {side} a side"
                )

    def _recolour(self, pair: Pair, config: StylizeConfig) -> Pair:
        """The pair with a float content on the device, and in the colours that `color` asks for."""
        content, styles = pixels(pair.content, self.device), list(pair.styles)
        start = None if pair.start is None else pixels(pair.start, self.device)
        keys = pair.style_keys
        if config.color == "match":
            styles = [
                match_color(pixels(s, self.device), content, config.color_match) for s in styles
            ]
            keys = None
        elif config.color == "luminance":
            luma = luminance(content)
            styles = [
                grey(match_luminance(luminance(pixels(s, self.device)), luma)) for s in styles
            ]
            keys = None
            content = grey(luma)
            start = None if start is None else grey(luminance(start))
        return dataclasses.replace(
            pair, content=content, styles=styles, style_keys=keys, start=start
        )

    def _start(self, pair: Pair) -> Tensor:
        """The image (3, H, W) that a pair's optimisation begins with; raises ValueError."""
        config = self.settings(pair.settings)
        shape = pair.content.shape[1:]
        if pair.start is not None:
            return resize(pixels(pair.start, self.device), shape)
        if config.init == "content":
            return pair.content
        if config.init in ("style", "content-matched") and not pair.styles:
            raise ValueError(f"init {config.init}: this pair has no style image")
        if config.init == "style":
            return resize(pixels(pair.styles[0], self.device), shape)
        if config.init == "content-matched":
            style = pixels(pair.styles[0], self.device)
            return match_color(pair.content, style, config.color_match).clamp(0, 1)
        if config.init == "noise":
            # White noise, uniform over the range of a pixel. It is drawn on the CPU so that every
            # device gets the same start.
            generator = torch.Generator().manual_seed(pair.seed)
            noise = torch.rand(3, *shape, generator=generator).to(self.device)
            return grey(luminance(noise)) if config.color == "luminance" else noise
        raise ValueError(f"init {config.init!r} is an image: give it as the pair's `start`")

    def _watch(
        self,
        pairs: Sequence[Pair],
        at: tuple[int, int, int, int, tuple[int, int]],
        on_evaluation: OnEvaluation | None,
        on_progress: OnProgress | None,
    ) -> Watch:
        """What calls the callbacks in a stage; None without callbacks.

        Args:
            at: evaluations of earlier stages, those of all stages, the stage's number, how many
                stages there are, the stage's height and width.
        """
        if on_evaluation is None and on_progress is None:
            return None
        done, total, stage, stages, shape = at
        indices = tuple(range(len(pairs)))

        def watch(count: int, loss: Tensor, images: Callable[[], Tensor]) -> None:
            if on_evaluation is not None:
                on_evaluation(done + count)
            if on_progress is not None:
                on_progress(
                    Progress(
                        indices,
                        done + count,
                        total,
                        stage,
                        stages,
                        shape,
                        losses=loss.tolist,
                        pictures=lambda: self._pictures(pairs, images()),
                    )
                )

        return watch

    def _pictures(self, pairs: Sequence[Pair], images: Tensor) -> list[Tensor]:
        """The pictures (3, H, W) of images (B, 3, H, W), clamped, in their colours, on the CPU."""
        found = []
        for pair, clamped in zip(pairs, images.clamp(0, 1), strict=True):
            image = clamped
            if self.settings(pair.settings).color == "luminance":
                content = resize(pixels(pair.content, self.device), image.shape[1:])
                image = with_chroma_of(luminance(image), content)
            found.append(image.cpu())
        return found

    def _results(
        self,
        pairs: Sequence[Pair],
        objective: Objective,
        past: Sequence[OptimResult],
        started: float,
    ) -> list[Result]:
        """The results of a batch from those of its stages, `started` at that `perf_counter`."""
        last = past[-1]
        pictures = self._pictures(pairs, last.x)
        loss, terms = last.loss.tolist(), last.terms.tolist()
        used = [stage.used.tolist() for stage in past]
        iterations = torch.stack([stage.iterations for stage in past]).sum(0).tolist()
        curves = [stage.curve.cpu() for stage in past]
        weights = objective.weights.tolist()
        seconds = (time.perf_counter() - started) / len(pairs)
        results = []
        for i, pair in enumerate(pairs):
            parts = {
                f"loss_{name}": terms[k][i] if weights[k][i] > 0 else None
                for k, name in enumerate(TERMS)
            }
            results.append(
                Result(
                    image=pictures[i],
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
