"""What the preset `fast` reaches against 500 evaluations of the faithful presets, pair by pair, and in what time.

    python scripts/bench_fast.py --contents DIR --styles DIR [--pairs 12] [--size 192] [--weights FILE] [--layers-up-to conv3_1] [--out FILE]

Faithful runs are gatys2015 from noise, gatys2015 from the content, and gatys2015 as most programs run it: free pixels, clamped at the end.
All runs of a pair have one objective; its layers are cut to those of the weights. Losses are in float32, of the pictures as files hold
them: clamped, 8 bits. Times are those of `fast` divided by those of gatys2015. The convolutions of gatys2015 are in float32, those of
`fast` in what `dtype: auto` chooses here.
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
from examples import write_example

from nstray.engine import StylizeConfig, load_weights
from nstray.engine.network.vgg import resolve_dtype
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair, Result
from nstray.engine.presets import preset
from nstray.engine.settings import CONV_LAYERS, NAMES
from nstray.engine.stylizer import Stylizer


def settings(name: str, deepest: str, **own: Any) -> StylizeConfig:
    """A preset's settings of the optimisation, its layers cut at `deepest`."""
    values = {k: v for k, v in preset(name).items() if k in NAMES} | own
    allowed = CONV_LAYERS[: CONV_LAYERS.index(deepest) + 1]
    config = StylizeConfig(**values)
    content = tuple(layer for layer in config.content_layers if layer in allowed) or (deepest,)
    return dataclasses.replace(config, content_layers=content, style_layers=tuple(layer for layer in config.style_layers if layer in allowed))


def run(config: StylizeConfig, weights: VGGWeights, device: str, pair: Pair) -> Result:
    return Stylizer(config, weights, device).run([pair])[0]


def written(config: StylizeConfig, weights: VGGWeights, device: str, pair: Pair, result: Result) -> float:
    """The objective of `config` for a result's picture as a file holds it."""
    content = pair.content.float() / (1 if pair.content.is_floating_point() else 255)
    objective = Stylizer(config, weights, device).objective([pair], content[None].to(device))
    return float(objective.evaluate(((result.image * 255).round() / 255)[None].to(device))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contents", help="a folder of pictures; default: the built-in example's")
    parser.add_argument("--styles")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--evaluations", type=int, default=500, help="of the faithful presets")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--layers-up-to", default="conv5_1")
    parser.add_argument("--against", default="noise,content,free", help="of gatys2015: what fast is compared with, noise at least")
    parser.add_argument("--coarse", help="other stages for fast")
    parser.add_argument("--fine", type=int, help="other evaluations at full size for fast")
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
    share = {name: value for name, value in (("coarse", arguments.coarse), ("evaluations", arguments.fine)) if value}
    quick = settings("fast", arguments.layers_up_to, **base, **share)
    among = {
        "noise": faithful,
        "content": dataclasses.replace(faithful, init="content"),
        "free": dataclasses.replace(faithful, value_range="free"),
    }
    references = [name for name in among if name in arguments.against.split(",")]
    runs = {**{name: among[name] for name in references}, "fast": quick}
    lines = [
        header(),
        f"longest side {arguments.size} px, content {','.join(quick.content_layers)}, style {','.join(quick.style_layers)}, alpha/beta 1e-3; "
        f"fast: {quick.optimizer} from {quick.init}, coarse {quick.coarse}, {quick.evaluations} evaluations, "
        f"{resolve_dtype(quick.dtype, torch.device(device))}, range_weight {quick.range_weight:g}",
        f"{'pair':<40} {' '.join(f'{name:>9}' for name in runs)}   {' '.join(f'/ {name:<7}' for name in references)} {'time':>6}",
    ]
    shares: list[tuple[float, ...]] = []
    for content, style in list(itertools.product(*listed))[: arguments.pairs]:
        pair = Pair(ready[content], [ready[style]])
        results = {name: run(config, weights, device, pair) for name, config in runs.items()}
        losses = {name: written(faithful, weights, device, pair, result) for name, result in results.items()}
        ratios = [losses["fast"] / losses[name] for name in references]
        shares.append((*ratios, results["fast"].seconds / results["noise"].seconds))
        numbers = " ".join(f"{losses[name]:9.4g}" for name in runs)
        share = " ".join(f"{ratio:9.3f}" for ratio in ratios)
        lines.append(f"{content.stem + ' x ' + style.stem:<40} {numbers}   {share} {shares[-1][-1]:6.3f}")
        print(lines[-1], file=sys.stderr, flush=True)
    for name, values in zip((*(f"fast / {name}" for name in references), "time"), zip(*shares, strict=True), strict=True):
        lines.append(
            f"{name}: median {statistics.median(values):.3f}, highest {max(values):.3f}, no higher in {sum(v <= 1 for v in values)} of {len(values)}"
        )
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
