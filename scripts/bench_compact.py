"""The compact network: its speed, the preset `quick` against its own optimum, its pictures judged by a network of full width.

    python scripts/bench_compact.py [--contents DIR --styles DIR] [--pairs 10] [--sizes 256,512] [--weights compact]
        [--neural-style-pt DIR] [--judge FILE] [--skip speed,programs,optimum,judge] [--out FILE]

speed      milliseconds of an evaluation of `quick`, optimiser included, beside a bare torch loop of the same convolutions, rectifiers and
           poolings, forward and backward; alternating, the median of five
programs   pairs per hour of `quick`, of `fast` on a VGG-19 of full width, and of neural-style-pt (DIR: a checkout) with 300 evaluations on the
           same; each in a process of its own, loading included and apart. neural-style-pt runs twice, for 20 and for --peer-evaluations; what
           300 take follows from the two
optimum    the loss of `quick` over that of 500 evaluations of L-BFGS from noise on the compact network, of the pictures as files hold them
judge      the losses of `quick`'s pictures by another network (FILE; those of its layers that the objective names), beside those of pictures
           optimised on it directly
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_fast import run, settings, written
from bench_peers import Bench
from bench_peers import run as run_program
from benchmarks import header, picture, publish
from examples import write_example
from PIL import Image
from torch import nn

from nstray.engine import load_weights
from nstray.engine.losses.gatys import gram
from nstray.engine.network.vgg import VGGFeatures, block
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair
from nstray.engine.stylizer import Stylizer

ROUNDS = 5
PEER_EVALUATIONS, PEER_FEW = 300, 20


def bare(weights: VGGWeights) -> nn.Module:
    """The network's layers as torch has them, frozen."""
    layers: list[nn.Module] = []
    level = 1
    for name, filters in weights.widths.items():
        if block(name) != level:
            layers.append(nn.MaxPool2d(2))
            level += 1
        layers += [nn.Conv2d(weights.tensors[f"{name}.weight"].shape[1], filters, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers).requires_grad_(False).to(memory_format=torch.channels_last)


def speed(weights: VGGWeights, pair: Pair, evaluations: int = 30) -> str:
    config = settings("quick", "conv5_1", coarse="none", evaluations=evaluations)
    stylizer, loop = Stylizer(config, weights), bare(weights)
    x = pair.content[None].float().to(memory_format=torch.channels_last).requires_grad_()
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(ROUNDS + 1):
        began = time.perf_counter()
        stylizer.run([pair])
        middle = time.perf_counter()
        for _ in range(evaluations):
            loop(x).sum().backward()
        if number:  # the first warms up
            times["ours"].append((middle - began) / evaluations)
            times["bare"].append((time.perf_counter() - middle) / evaluations)
    ours, least = (statistics.median(times[name]) * 1e3 for name in times)
    height, width = pair.content.shape[1:]
    return f"{width} x {height}: {ours:.1f} ms an evaluation, the bare loop {least:.1f} ms: {least / ours:.2f} of its rate"


def nstray(folder: Path, name: str, weights: str, content: Path, style: Path, size: int) -> tuple[float, float]:
    """Seconds of one pair in a process of its own, and of them those of the optimisation."""
    job, out = folder / "job.json", folder / f"{name}-{size}.png"
    job.write_text(json.dumps([name, weights, str(content), str(style), str(out), size]))
    taken = run_program([sys.executable, __file__, "--one", str(job)], folder, out)
    return taken.seconds, json.loads((folder / "seconds").read_text())


def one(job: str) -> None:
    """What the child process of `nstray` does."""
    name, source, content, style, out, _ = json.loads(Path(job).read_text())
    pair = Pair(*(([p] if i else p) for i, p in enumerate(torch.from_numpy(picture(Path(f), 100_000)).permute(2, 0, 1) for f in (content, style))))
    result = run(settings(name, "conv5_1"), load_weights(source), "cpu", pair)
    Image.fromarray((result.image * 255).round().byte().permute(1, 2, 0).numpy()).save(out)
    Path(out).with_name("seconds").write_text(json.dumps(result.seconds))


def programs(arguments: argparse.Namespace, size: int, folder: Path) -> list[str]:
    own = argparse.Namespace(
        content=None, style=None, size=size, neural_style_pt=arguments.neural_style_pt, few=PEER_FEW, evaluations=arguments.peer_evaluations
    )
    bench = Bench(own, folder)
    few, many = bench.neural_style_pt(PEER_FEW), bench.neural_style_pt(arguments.peer_evaluations)
    each = (many.seconds - few.seconds) / (arguments.peer_evaluations - PEER_FEW)
    peer = (few.seconds + each * (PEER_EVALUATIONS - PEER_FEW), each * PEER_EVALUATIONS)
    rows = {"neural-style-pt, 300 evaluations": peer}
    rows["fast, full width"] = nstray(folder, "fast", str(bench.bgr), bench.content, bench.style, size)
    rows["quick, compact"] = nstray(folder, "quick", arguments.weights, bench.content, bench.style, size)
    return [
        f"{size} x {size}  {who:<34} {3600 / whole:8.1f} pairs/h, {peer[0] / whole:6.1f} of the peer; "
        f"without loading {3600 / apart:8.1f}, {peer[1] / apart:6.1f}"
        for who, (whole, apart) in rows.items()
    ]


def style_and_content(judge: VGGWeights, taps: tuple[str, ...], content_tap: str, image: torch.Tensor, pair: Pair) -> tuple[float, float]:
    """E_l of the paper's equation 4 over `taps`, each image by its own M and equally weighted, and the mean squared content error."""
    network = VGGFeatures(judge, (*taps, content_tap), "max")
    with torch.no_grad():
        made, content, style = (network(x[None], (*taps, content_tap)) for x in (image, pair.content.float(), pair.styles[0].float()))
        errors = [(gram(made[t]) - gram(style[t])).square().mean().item() / 4 for t in taps]
        return sum(errors) / len(errors), (made[content_tap] - content[content_tap]).square().mean().item() / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contents", help="a folder of pictures; default: the built-in example's")
    parser.add_argument("--styles")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--weights", default="compact")
    parser.add_argument("--neural-style-pt", metavar="DIR")
    parser.add_argument("--peer-evaluations", type=int, default=PEER_EVALUATIONS, help="of neural-style-pt's longer run")
    parser.add_argument("--judge", metavar="FILE")
    parser.add_argument("--evaluations", type=int, default=500, help="from noise")
    parser.add_argument("--skip", default="")
    parser.add_argument("--out", help="file for the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one)
        return
    weights, skipped = load_weights(arguments.weights), set(arguments.skip.split(","))
    sizes = [int(word) for word in arguments.sizes.split(",")]
    lines = [header(), f"threads {torch.get_num_threads()}, weights {weights.id}"]

    def add(line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_example(str(folder))
        given = ((arguments.contents, "content"), (arguments.styles, "style"))
        listed = [sorted(Path(where or folder / role).glob("*.*")) for where, role in given]
        chosen = list(itertools.product(*listed))
        chosen = chosen[:: max(1, len(chosen) // arguments.pairs)][: arguments.pairs]

        def read(path: Path, size: int) -> torch.Tensor:
            return torch.from_numpy(picture(path, size)).permute(2, 0, 1).float() / 255

        if "speed" not in skipped:
            for size in sizes:
                add(speed(weights, Pair(read(chosen[0][0], size), [read(chosen[0][1], size)])))
        if arguments.neural_style_pt and "programs" not in skipped:
            for size in sizes:
                for line in programs(arguments, size, folder):
                    add(line)
        quick = settings("quick", "conv5_1")
        slow = dataclasses.replace(quick, init="noise", coarse="none", optimizer="lbfgs", range_weight=0.0, evaluations=arguments.evaluations)
        judge = load_weights(arguments.judge) if arguments.judge else None
        if judge is not None:
            taps = tuple(t for t in quick.style_layers if t in judge.layers)
            direct = dataclasses.replace(quick, style_layers=taps, content_layers=(taps[-1],))
            add(f"judged by {judge.id}: style at {','.join(taps)}, content at {taps[-1]}")
        ratios, shares = [], []
        for content, style in chosen:
            pair = Pair(read(content, sizes[0]), [read(style, sizes[0])])
            made = run(quick, weights, "cpu", pair)
            words = f"{content.stem + ' x ' + style.stem:<40}"
            if "optimum" not in skipped:
                loss = written(slow, weights, "cpu", pair, made)
                ratios.append(loss / written(slow, weights, "cpu", pair, run(slow, weights, "cpu", pair)))
                words += f" of {arguments.evaluations} from noise {ratios[-1]:.3f}"
            if judge is not None and "judge" not in skipped:
                ours = style_and_content(judge, taps, taps[-1], made.image, pair)
                theirs = style_and_content(judge, taps, taps[-1], run(direct, judge, "cpu", pair).image, pair)
                before = style_and_content(judge, taps, taps[-1], pair.content, pair)
                shares.append(ours[0] / before[0])
                words += f" style {ours[0]:.3g} (direct {theirs[0]:.3g}, the content {before[0]:.3g}) content {ours[1]:.3g} (direct {theirs[1]:.3g})"
            add(words)
        if ratios:
            add(f"quick over {arguments.evaluations} evaluations from noise: median {statistics.median(ratios):.3f}, highest {max(ratios):.3f}")
        if shares:
            add(f"style loss of quick's pictures over that of their contents: median {statistics.median(shares):.4f}")
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
