"""How far off a probe is: `nstray plan --probe --record` of a job, then the job, with its figures beside the estimated ones.

    python scripts/bench_probe.py [--pairs 32] [--size 128] [--evaluations 100] [--sizes 96,160] [--workers 2] [--rounds 1] [--out FILE]

`--sizes` gives sizes to rows in turn. The probe and the job are processes of their own, each with a local Ray.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import header, publish
from examples import CONTENTS, STYLES, write_example

from nstray.commands import cost
from nstray.output.folder import Output

COMPARED = ("device_hours", "wall_seconds", "bytes", "evaluations_per_s")


def write_manifest(folder: Path, pairs: int, sizes: list[str]) -> Path:
    """Write example pictures and a manifest of pairs of them."""
    write_example(str(folder))
    manifest = folder / "pairs.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pair_id", "content", "style", "seed", *(["size"] if sizes else [])])
        for i in range(pairs):
            pair = [f"content/{CONTENTS[i % len(CONTENTS)]}.jpg", f"style/{STYLES[i % len(STYLES)]}.jpg"]
            writer.writerow([f"p{i:05d}", *pair, i, *([sizes[i % len(sizes)]] if sizes else [])])
    return manifest


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the probe said, and the summary of the run after it."""
    manifest = write_manifest(folder / "input", arguments.pairs, arguments.sizes.split(",") if arguments.sizes else [])
    out = str(folder / "out")
    settings = {
        "weights": "random",
        "content-layers": "conv3_1",
        "style-layers": "conv1_1,conv2_1,conv3_1",
        "style-weight": 1e4,
        "size": arguments.size,
        "evaluations": arguments.evaluations,
        "shard-size": arguments.shard_size,
        "actors": arguments.workers,
        "cpus-per-actor": max(1, (os.cpu_count() or 1) // arguments.workers),
    }
    words = [str(manifest), out, *(f"--{name}={value}" for name, value in settings.items())]
    nstray = [sys.executable, "-m", "nstray"]
    probe = [*nstray, "plan", *words, "--probe", "--record", "--json", f"--probe-seconds={arguments.probe_seconds}"]
    found = json.loads(subprocess.run(probe, check=True, stdout=subprocess.PIPE, text=True).stdout)["probe"]
    subprocess.run([*nstray, "run", *words], check=True)
    summary = Output(out).summary.read()
    assert summary is not None
    return found, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--sizes", help="sizes that rows have in turn")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--shard-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2, help="which share the cores")
    parser.add_argument("--probe-seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    text = header() + "\n"
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found, summary = measure(arguments, Path(folder))
        (forecast,) = found["forecasts"]
        actual = cost.cost_summary(summary)["last_run"]
        text += f"{arguments.pairs} pairs, {found['pairs']} of them probed in {found['seconds']:.1f} s\n"
        for name in COMPARED:
            low, high = forecast.get(f"{name}_low", forecast[name]), forecast.get(f"{name}_high", forecast[name])
            text += f"    {name:<18} estimate {forecast[name]:12,.4g} ({low:,.4g} to {high:,.4g})   actual {actual[name]:12,.4g}"
            text += f"   estimate / actual {forecast[name] / actual[name]:.3f}\n"
    publish(text, arguments.out)


if __name__ == "__main__":
    main()
