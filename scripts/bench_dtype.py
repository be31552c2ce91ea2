"""What bfloat16 convolutions cost in loss: pairs run in float32 and in bfloat16, both pictures judged in float32.

    python scripts/bench_dtype.py [--pairs 50] [--size 64] [--evaluations 100] [--weights random] [--layers-up-to conv5_1] [--out FILE]

L-BFGS carries any rounding on: the third run, in float32 again from a start moved by 1e-7, says by how much two runs of the same
dtype differ. A ratio above 1 is a higher loss than float32's.
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
    full, half = (Stylizer(dataclasses.replace(config, dtype=d), weights, device) for d in ("float32", "bfloat16"))
    lines = [header(), f"{'pair':>4} {'float32':>10} {'bfloat16':>10} {'moved':>10}   {'bfloat16':>8} {'moved':>8}"]
    ratios: list[tuple[float, float]] = []
    for i in range(arguments.pairs):
        pair = Pair(picture(i, arguments.size), [picture(1000 + i, arguments.size)], seed=i)
        noise = torch.randn(pair.content.shape, generator=torch.Generator().manual_seed(i))
        moved = dataclasses.replace(pair, start=(full._start(full._colored(pair)).cpu() + 1e-7 * noise).clamp(0, 1))
        results = [s.run([p])[0] for s, p in ((full, pair), (half, pair), (full, moved))]
        losses = [float("inf") if r.diverged else written(config, weights, device, pair, r) for r in results]
        ratios.append((losses[1] / losses[0], losses[2] / losses[0]))
        lines.append(f"{i:4d} {losses[0]:10.5g} {losses[1]:10.5g} {losses[2]:10.5g}   {ratios[-1][0]:8.4f} {ratios[-1][1]:8.4f}")
        print(lines[-1], file=sys.stderr, flush=True)
    for name, values in zip(("bfloat16", "moved"), zip(*ratios, strict=True), strict=True):
        within = sum(abs(v - 1) <= 0.01 for v in values)
        lines.append(
            f"{name} / float32: median {statistics.median(values):.4f}, least {min(values):.4f}, highest {max(values):.4f}, "
            f"within 1 %: {within} of {len(values)}"
        )
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
