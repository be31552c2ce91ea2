"""Which `style_weight` on the compact network balances style and content as which one does on another network.

    python scripts/bench_compact_ratio.py --judge FILE --contents DIR --styles DIR [--pairs 6] [--size 192] [--out FILE]

Each pair is optimised by `quick` on both networks at several style weights. The pictures of both are judged by the other network (FILE, which
holds conv1_1 to conv5_1): the quotient of style error and content error. A weight on the compact network corresponds to the weight on the
other one at which the other's own pictures have the same quotient, interpolated in logarithms.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from pathlib import Path

import torch
from bench_compact import style_and_content
from bench_fast import run, settings
from benchmarks import header, picture, publish

from nstray.engine import load_weights
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair

WEIGHTS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


def quotients(pair: Pair, weights: VGGWeights, judge: VGGWeights) -> list[float]:
    """Style error over content error by `judge`, in logarithms, for each of `WEIGHTS`."""
    found = []
    for weight in WEIGHTS:
        config = settings("quick", "conv5_1", style_weight=weight)
        style, content = style_and_content(judge, config.style_layers, "conv4_2", run(config, weights, "cpu", pair).image, pair)
        found.append(math.log(style / content))
    return found


def corresponding(value: float, curve: list[float]) -> float | None:
    """The weight at which a falling curve over `WEIGHTS` has a value; None beyond its ends."""
    for i, (high, low) in enumerate(itertools.pairwise(curve)):
        if high >= value >= low and high > low:
            share = (high - value) / (high - low)
            return math.exp(math.log(WEIGHTS[i]) + share * (math.log(WEIGHTS[i + 1]) - math.log(WEIGHTS[i])))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--contents", required=True)
    parser.add_argument("--styles", required=True)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    compact, judge = load_weights("compact"), load_weights(arguments.judge)
    chosen = list(itertools.product(*(sorted(Path(where).glob("*.*")) for where in (arguments.contents, arguments.styles))))
    chosen = chosen[:: max(1, len(chosen) // arguments.pairs)][: arguments.pairs]
    lines = [header(), f"{arguments.size} px, compact {compact.id}, judge {judge.id}", "style_weight on the other network, by that on compact"]
    matches: list[list[float | None]] = []
    for content, style in chosen:
        read = [torch.from_numpy(picture(path, arguments.size)).permute(2, 0, 1).float() / 255 for path in (content, style)]
        pair = Pair(read[0], [read[1]])
        ours, theirs = quotients(pair, compact, judge), quotients(pair, judge, judge)
        matches.append([corresponding(value, theirs) for value in ours])
        lines.append(
            f"{content.stem + ' x ' + style.stem:<40} "
            + "  ".join(f"{w:g}: {'beyond' if m is None else f'{m:.0f}'}" for w, m in zip(WEIGHTS, matches[-1], strict=True))
        )
        print(lines[-1], file=sys.stderr, flush=True)
    for i, weight in enumerate(WEIGHTS):
        known = [m for row in matches if (m := row[i]) is not None]
        if known:
            lines.append(f"{weight:g} on compact: median {statistics.median(known):.0f} ({min(known):.0f} to {max(known):.0f}) of {len(known)} pairs")
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
