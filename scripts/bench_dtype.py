"""What rounding costs in loss: pairs run in float32 and otherwise, all pictures judged in float32.

    python scripts/bench_dtype.py [--pairs 50] [--size 64] [--evaluations 100] [--weights random] [--layers-up-to conv5_1] [--out FILE]

- bfloat16: convolutions in that dtype.
- moved: float32 again, from a start moved by 1e-7. L-BFGS amplifies any rounding, and this says how much two runs of one kind differ.
- direct: float32 without Winograd's algorithm, which a CPU uses for the deep convolutions (`nstray.engine.network.winograd`).

A ratio above 1 is a higher loss than that of float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys

import torch
from bench_engine import picture
from bench_fast import settings, written
from benchmarks import header, publish

from nstray.engine import load_weights
from nstray.engine.network import winograd
from nstray.engine.pair import Pair
from nstray.engine.settings import CONV_LAYERS
from nstray.engine.stylizer import Stylizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--init", default="content")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--layers-up-to", default="conv5_1")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = load_weights(arguments.weights, layers=CONV_LAYERS[: CONV_LAYERS.index(arguments.layers_up_to) + 1])
    config = settings("gatys2015", arguments.layers_up_to, style_weight=1e4, init=arguments.init, evaluations=arguments.evaluations)
    least_tiles = winograd.LEAST_TILES
    full, half = (Stylizer(dataclasses.replace(config, dtype=d), weights, device) for d in ("float32", "bfloat16"))
    others = ("bfloat16", "moved", *(["direct"] if device == "cpu" else []))
    columns = " ".join(f"{name:>10}" for name in ("float32", *others))
    lines = [header(), f"{'pair':>4} {columns}   {' '.join(f'{name:>8}' for name in others)}"]
    ratios: list[list[float]] = []
    for i in range(arguments.pairs):
        pair = Pair(picture(i, arguments.size), [picture(1000 + i, arguments.size)], seed=i)
        noise = torch.randn(pair.content.shape, generator=torch.Generator().manual_seed(i))
        moved = dataclasses.replace(pair, start=(full._start(pair).cpu() + 1e-7 * noise).clamp(0, 1))
        results = [s.run([p])[0] for s, p in ((full, pair), (half, pair), (full, moved))]
        if "direct" in others:
            winograd.LEAST_TILES = sys.maxsize  # no picture has so many: every convolution is direct
            results.append(full.run([pair])[0])
            winograd.LEAST_TILES = least_tiles
        losses = [float("inf") if r.diverged else written(config, weights, device, pair, r) for r in results]
        ratios.append([loss / losses[0] for loss in losses[1:]])
        lines.append(f"{i:4d} {' '.join(f'{loss:10.5g}' for loss in losses)}   {' '.join(f'{ratio:8.4f}' for ratio in ratios[-1])}")
        print(lines[-1], file=sys.stderr, flush=True)
    for name, values in zip(others, zip(*ratios, strict=True), strict=True):
        within = sum(abs(v - 1) <= 0.01 for v in values)
        lines.append(
            f"{name} / float32: median {statistics.median(values):.4f}, least {min(values):.4f}, highest {max(values):.4f}, "
            f"within 1 %: {within} of {len(values)}"
        )
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
