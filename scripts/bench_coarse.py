"""What coarse stages save: the loss of many evaluations at full size from noise, and the cost at which a schedule of stages reaches it.

    python scripts/bench_coarse.py [--size 192] [--evaluations 300] [--weights FILE --content IMAGE --style IMAGE] [--out FILE]

Cost is in evaluations at full size: an evaluation at half the side counts a quarter. Default pictures and network: the
built-in example and random weights.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from nstray import images
from nstray.engine import StylizeConfig, load_weights, stylize
from nstray.engine.settings import coarse_stages
from nstray.examples import write_example

SCHEDULES = {
    "64:100,128:60": 40,
    "96:120,136:60": 30,
    "64:80,96:80,136:50": 30,
    "auto": 60,
    "half": 70,
    "sqrt2": 40,
}


def cost(coarse: str, evaluations: int, height: int, width: int) -> float:
    """Evaluations at full size that a schedule is worth."""
    longest = max(height, width)
    return evaluations + sum((n or evaluations) * (side / longest) ** 2 for side, n in coarse_stages(coarse, longest))


def _picture(path: Path, size: int) -> np.ndarray:
    decoded = images.decode(path.read_bytes(), what=path.name, max_bytes=2**26, max_pixels=10**8)
    return images.fit(decoded, size, "longest", False, what=path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--content")
    parser.add_argument("--style")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_example(folder)
        drawn = [sorted(Path(folder).glob(f"{role}/*"))[0] for role in ("content", "style")]
        content, style = (
            _picture(Path(given or own), arguments.size) for given, own in zip((arguments.content, arguments.style), drawn, strict=True)
        )
    layers = ("conv1_1", "conv2_1", "conv3_1")
    weights = load_weights(arguments.weights, layers=layers)
    base = {"content_layers": ("conv3_1",), "style_layers": layers, "style_weight": 1e3, "init": "noise"}

    def run(coarse: str, evaluations: int) -> tuple[float, list[float], float]:
        started = time.perf_counter()
        (result,) = stylize([content], [style], StylizeConfig(**base, coarse=coarse, evaluations=evaluations), weights=weights)
        return result.loss_total, result.loss_curve, time.perf_counter() - started

    goal, curve, seconds = run("none", arguments.evaluations)
    h, w = content.shape[:2]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    lines = [
        f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   device {device}   torch {torch.__version__}   command {' '.join(sys.argv)}",
        f"{w} x {h}, from noise, content conv3_1, style conv1_1 to conv3_1, alpha/beta 1e-3",
        f"{'stages':<22} {'evaluations':>11} {'cost':>6} {'loss':>10} {'of the goal':>11} {'goal reached at cost':>20} {'seconds':>8}",
        f"{'none':<22} {arguments.evaluations:>11} {arguments.evaluations:>6} {goal:>10.4f} {1:>11.3f} {arguments.evaluations:>20} {seconds:>8.1f}",
        f"{'none':<22} {100:>11} {100:>6} {curve[99]:>10.4f} {curve[99] / goal:>11.3f} {'-':>20} {'-':>8}",
    ]
    for coarse, evaluations in SCHEDULES.items():
        loss, curve, seconds = run(coarse, evaluations)
        total = cost(coarse, evaluations, h, w)
        full = curve[-evaluations:]
        reached = next((k for k, v in enumerate(full) if v <= goal), None)
        when = "-" if reached is None else f"{total - evaluations + reached + 1:.0f}"
        lines.append(f"{coarse:<22} {evaluations:>11} {total:>6.0f} {loss:>10.4f} {loss / goal:>11.3f} {when:>20} {seconds:>8.1f}")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.out:
        Path(arguments.out).write_text(text)


if __name__ == "__main__":
    main()
