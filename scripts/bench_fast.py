"""What the preset `fast` reaches, and when, against 500 evaluations of the faithful presets, pair by pair.

    python scripts/bench_fast.py --contents DIR --styles DIR [--pairs 12] [--size 192] [--weights FILE] [--layers-up-to conv3_1] [--out FILE]

Faithful: plain L-BFGS at one scale on the paper's objective, from noise (gatys2015) and from the content (as the authors'
PyTorch code starts). All of a pair have one objective: one scale, its layers cut to those of the weights at hand.
Losses are those of the float32 objective at the last accepted picture, before it is clamped.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks import header, picture, publish

from nstray.engine import StylizeConfig, load_weights
from nstray.engine.pair import Pair, Result
from nstray.engine.settings import CONV_LAYERS, NAMES
from nstray.engine.stylizer import Stylizer
from nstray.engine.weights import VGGWeights
from nstray.examples import write_example
from nstray.presets import preset


def settings(name: str, deepest: str, **own: Any) -> StylizeConfig:
    """A preset's settings of the optimisation, its layers cut at `deepest`."""
    values = {k: v for k, v in preset(name).items() if k in NAMES} | own
    allowed = CONV_LAYERS[: CONV_LAYERS.index(deepest) + 1]
    config = StylizeConfig(**values)
    content = tuple(layer for layer in config.content_layers if layer in allowed) or (deepest,)
    return dataclasses.replace(config, content_layers=content, style_layers=tuple(layer for layer in config.style_layers if layer in allowed))


def run(config: StylizeConfig, weights: VGGWeights, device: str, pair: Pair) -> Result:
    return Stylizer(config, weights, device).run([pair])[0]


def when(curve: list[float], goal: float) -> int | None:
    """The evaluation after which the loss was no higher than the goal."""
    return next((k for k, loss in enumerate(curve, 1) if loss <= goal), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contents", help="a folder of pictures; default: the built-in example's")
    parser.add_argument("--styles")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--evaluations", type=int, default=500, help="of the faithful presets")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--layers-up-to", default="conv5_1")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = load_weights(arguments.weights, layers=CONV_LAYERS[: CONV_LAYERS.index(arguments.layers_up_to) + 1])
    with tempfile.TemporaryDirectory() as folder:
        write_example(folder)
        listed = [
            sorted(Path(given or f"{folder}/{role}").glob("*.*")) for given, role in ((arguments.contents, "content"), (arguments.styles, "style"))
        ]
        ready = {p: torch.from_numpy(picture(p, arguments.size)).permute(2, 0, 1) for p in (*listed[0], *listed[1])}
    base = {"content_weight": 1.0, "style_weight": 1000.0, "style_layer_weights": ()}
    faithful = settings("gatys2015", arguments.layers_up_to, **base, evaluations=arguments.evaluations)
    fast = settings("fast", arguments.layers_up_to, **base, pooling=faithful.pooling)
    lines = [
        header(),
        f"longest side {arguments.size} px, content {','.join(fast.content_layers)}, style {','.join(fast.style_layers)}, alpha/beta 1e-3; "
        f"fast: {fast.optimizer} from {fast.init}, coarse {fast.coarse}, {fast.evaluations} evaluations",
        f"{'pair':<44} {'noise':>9} {'fast':>9} {'ratio':>6} {'reached at':>10} {'time':>6}   {'content':>9} {'ratio':>6} {'reached at':>10}",
    ]
    shares: list[tuple[float, float, float]] = []
    for content, style in list(itertools.product(*listed))[: arguments.pairs]:
        pair = Pair(ready[content], [ready[style]])
        noise, start, quick = (run(c, weights, device, pair) for c in (faithful, dataclasses.replace(faithful, init="content"), fast))
        time = quick.seconds / noise.seconds
        shares.append((quick.loss_total / noise.loss_total, quick.loss_total / start.loss_total, time))
        at = [when(quick.loss_curve, other.loss_total) or "-" for other in (noise, start)]
        lines.append(
            f"{content.stem + ' x ' + style.stem:<44} {noise.loss_total:9.4g} {quick.loss_total:9.4g} {shares[-1][0]:6.3f} {at[0]:>10} {time:6.3f}"
            f"   {start.loss_total:9.4g} {shares[-1][1]:6.3f} {at[1]:>10}"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    noise_shares, start_shares, times = zip(*shares, strict=True)
    lines.append(
        f"fast / from noise: median {statistics.median(noise_shares):.3f}, highest {max(noise_shares):.3f}; fast / from content: median "
        f"{statistics.median(start_shares):.3f}, highest {max(start_shares):.3f}; time: median {statistics.median(times):.3f}"
    )
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
