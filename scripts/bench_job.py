"""What a whole `nstray run` costs on top of the bare engine: the same pairs, the same batches, on this machine.

    python scripts/bench_job.py [--pairs 64] [--size 128] [--evaluations 40] [--rounds 3] [--out FILE]

The bare loop calls `nstray.engine.stylize` on decoded pictures, batch by batch, and writes nothing. It runs before and after every job, and
each job is compared with the mean of its two neighbours, because a machine's speed drifts. The job fetches, decodes, optimises, encodes and
commits, on a local Ray. Its time is from the first shard's start to the last one's commit, so it does not include the start of Ray and of
the worker. The time of the bare loop does not include the loading of weights.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks import picture, publish
from examples import CONTENTS, STYLES, write_example

from nstray.engine import StylizeConfig, load_weights, stylize
from nstray.output.folder import Output

LAYERS = {"content_layers": ("conv3_1",), "style_layers": ("conv1_1", "conv2_1", "conv3_1"), "style_weight": 1e4}


def bare(batches: list[list[tuple[np.ndarray, np.ndarray]]], config: StylizeConfig, threads: int) -> float:
    """Seconds of `stylize` over the batches, weights loaded before."""
    torch.set_num_threads(threads)
    weights = load_weights("random", layers=LAYERS["style_layers"])
    stylize([b[0] for b in batches[0][:1]], [b[1] for b in batches[0][:1]], StylizeConfig(**{**vars(config), "evaluations": 2}), weights=weights)
    started = time.perf_counter()
    for batch in batches:
        stylize([c for c, _ in batch], [s for _, s in batch], config, weights=weights, device="cpu")
    return time.perf_counter() - started


def measure(arguments: argparse.Namespace) -> tuple[list[float], list[tuple[float, float]]]:
    """Seconds of the bare loops, and of the jobs between them with their busy shares."""
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        write_example(f"{folder}/input")
        manifest = Path(folder) / "input" / "many.csv"
        rows = [(i, CONTENTS[i % len(CONTENTS)], STYLES[i % len(STYLES)]) for i in range(arguments.pairs)]
        with manifest.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["pair_id", "content", "style", "seed"])
            writer.writerows([f"p{i:04d}", f"content/{c}.jpg", f"style/{s}.jpg", i] for i, c, s in rows)

        ready = {p.stem: picture(p, arguments.size) for p in (Path(folder) / "input").glob("*/*.jpg")}
        settings = {**LAYERS, "evaluations": arguments.evaluations, "batch_size": arguments.batch_size, "init": "noise"}
        config = StylizeConfig(**settings)
        # the order of the job: sorted by style, cut into shards, then into batches; all contents have one shape
        ordered = sorted(rows, key=lambda r: (r[2], r[1], r[0]))
        shards = [ordered[k : k + arguments.shard_size] for k in range(0, len(ordered), arguments.shard_size)]
        batches = [
            [(ready[c], ready[s]) for _, c, s in shard[k : k + arguments.batch_size]]
            for shard in shards
            for k in range(0, len(shard), arguments.batch_size)
        ]
        options = [f"--{k.replace('_', '-')}={','.join(v) if isinstance(v, tuple) else v}" for k, v in settings.items()]
        options += [f"--size={arguments.size}", f"--shard-size={arguments.shard_size}", "--weights=random"]
        options += [f"--actors={arguments.actors}", f"--cpus-per-actor={max(1, threads // arguments.actors)}"]

        def job(out: str) -> tuple[float, float]:
            """Seconds of a whole run, and its busy share."""
            subprocess.run([sys.executable, "-m", "nstray", "run", str(manifest), out, *options], check=True)
            summary = Output(out).summary.read()
            assert summary is not None
            return summary["finished"] - summary["started"], summary["last_run_busy"]

        alone = [bare(batches, config, threads)]
        whole = []
        for k in range(arguments.rounds):
            whole.append(job(f"{folder}/out{k}"))
            alone.append(bare(batches, config, threads))
    return alone, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--shard-size", type=int, default=8)
    parser.add_argument("--actors", type=int, default=1, help="workers, which share the cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grow", nargs="*", metavar="NAME=A,B", default=[], help="also with these values of pairs, size, batch_size or actors")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    changes = [{}, *({name: int(v)} for word in arguments.grow for name, values in [word.split("=")] for v in values.split(","))]
    text = f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   device cpu, {os.cpu_count()} cores   torch {torch.__version__}   "
    text += f"command {' '.join(sys.argv)}\nfrom noise, {arguments.evaluations} evaluations, conv1_1 to conv3_1\n"
    for change in changes:
        these = argparse.Namespace(**{**vars(arguments), **change})
        alone, whole = measure(these)
        seconds = [s for s, _ in whole]
        ratios = [s / ((a + b) / 2) for s, a, b in zip(seconds, alone, alone[1:], strict=False)]
        text += (
            f"{these.pairs} pairs, {these.size} px, batches of {these.batch_size}, {these.actors} workers\n"
            f"    bare engine   {'   '.join(f'{s:.2f}' for s in alone)} s\n"
            f"    nstray run    {'   '.join(f'{s:.2f}' for s in seconds)} s   (busy share {'   '.join(f'{b:.4f}' for _, b in whole)})\n"
            f"    pairs/hour    {these.pairs / statistics.median(seconds) * 3600:,.0f}, bare {these.pairs / statistics.median(alone) * 3600:,.0f}\n"
            f"    ratio         median {statistics.median(ratios):.3f}, of each {'   '.join(f'{r:.3f}' for r in ratios)}\n"
        )
        print(text.splitlines()[-1], file=sys.stderr)
    publish(text, arguments.out)


if __name__ == "__main__":
    main()
