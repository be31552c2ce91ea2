"""What coarse stages, starts and step scalings save against 300 plain evaluations at full size from noise.

    python scripts/bench_coarse.py [--size 192] [--evaluations 300] [--weights FILE --content IMAGE --style IMAGE] [--out FILE]

The reference is the loss of the plain evaluations; the result is the cost at which other runs reach it. Cost is in evaluations at full
size: an evaluation at half the side counts a quarter. Default pictures and network: the built-in example and random weights.
"""

from __future__ import annotations

import argparse
import time

from benchmarks import content_and_style, header, publish

from nstray.engine import StylizeConfig, load_weights, stylize
from nstray.engine.settings import coarse_stages

# start, optimizer, stages, evaluations at full size
RUNS = (
    ("noise", "lbfgs", "64:60,96:60", 250),
    ("noise", "lbfgs", "96:80", 250),
    ("noise", "lbfgs-spectral", "none", 150),
    ("noise", "lbfgs-spectral", "64:60,96:60", 150),
    ("content", "lbfgs", "none", 150),
    ("content", "lbfgs", "64:60,96:60", 150),
    ("content", "lbfgs-spectral", "none", 150),
    ("content", "lbfgs-spectral", "64:60,96:60", 150),
    ("content", "lbfgs-spectral", "96:60", 150),
)


def cost(coarse: str, evaluations: int, height: int, width: int) -> float:
    """What a schedule costs, in evaluations at full size."""
    longest = max(height, width)
    return evaluations + sum((n or evaluations) * (side / longest) ** 2 for side, n in coarse_stages(coarse, longest))


def _line(*values: object) -> str:
    return "  ".join(f"{value!s:>{width}}" for value, width in zip(values, (7, 14, 12, 11, 5, 8, 11, 11, 20, 7), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--content")
    parser.add_argument("--style")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    content, style = content_and_style(arguments.content, arguments.style, arguments.size)
    layers = ("conv1_1", "conv2_1", "conv3_1")
    weights = load_weights(arguments.weights, layers=layers)
    base = {"content_layers": ("conv3_1",), "style_layers": layers, "style_weight": 1e3}

    def run(init: str, optimizer: str, coarse: str, evaluations: int) -> tuple[float, list[float], float]:
        started = time.perf_counter()
        config = StylizeConfig(**base, value_range="free", init=init, optimizer=optimizer, coarse=coarse, evaluations=evaluations)  # type: ignore[arg-type]
        (result,) = stylize([content], [style], config, weights=weights)
        return result.loss_total, result.loss_curve, time.perf_counter() - started

    goal, curve, seconds = run("noise", "lbfgs", "none", arguments.evaluations)
    h, w = content.shape[:2]
    lines = [
        header(),
        f"{w} x {h}, content conv3_1, style conv1_1 to conv3_1, alpha/beta 1e-3",
        _line("start", "optimizer", "stages", "evaluations", "cost", "loss", "of the goal", "at cost 100", "goal reached at cost", "seconds"),
        _line(
            *("noise", "lbfgs", "none"),
            arguments.evaluations,
            arguments.evaluations,
            f"{goal:.4f}",
            "1.000",
            f"{curve[99] / goal:.3f}",
            arguments.evaluations,
            f"{seconds:.1f}",
        ),
    ]
    for init, optimizer, coarse, evaluations in RUNS:
        loss, curve, seconds = run(init, optimizer, coarse, evaluations)
        total = cost(coarse, evaluations, h, w)
        full = curve[-evaluations:]
        reached = next((k for k, v in enumerate(full) if v <= goal), None)
        at_100 = full[max(0, min(evaluations, round(100 - total + evaluations)) - 1)] / goal
        when = "-" if reached is None else f"{total - evaluations + reached + 1:.0f}"
        shares = (f"{loss / goal:.3f}", f"{at_100:.3f}")
        lines.append(_line(init, optimizer, coarse, evaluations, f"{total:.0f}", f"{loss:.4f}", *shares, when, f"{seconds:.1f}"))
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
