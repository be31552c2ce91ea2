"""nstray beside the programs that people use for one picture: seconds per evaluation, pairs per hour, the loss of the picture written.

    python scripts/bench_peers.py [--neural-style-pt DIR] [--gatys DIR] [--crowson DIR] [--size 256] [--evaluations 100] [--out FILE]

DIR is a checkout of the program: ProGamerGov/neural-style-pt, leongatys/PytorchNeuralStyleTransfer, crowsonkb/style-transfer-pytorch.
Every program runs as its users run it, in a process of its own, with the same random VGG-19 in its own file format and the same two
pictures. It runs twice, for few and for many evaluations: the difference is what an evaluation costs, the rest is loading. nstray runs
with the objective of each peer in turn. One judge measures all: that objective in float32, of the picture as the file has it (clamped,
8 bits), by nstray's engine, whose losses the tests hold to a float64 reference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from bench_fast import settings
from benchmarks import header, picture, publish
from examples import write_example
from PIL import Image
from safetensors.torch import save_file

from nstray.engine import StylizeConfig, load_weights
from nstray.engine.network.key_names import FEATURE_INDEX
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.weights import CAFFE_MEAN, RGB_MEAN, RGB_STD, VGGWeights
from nstray.engine.pair import Pair
from nstray.engine.presets import preset
from nstray.engine.settings import CONV_LAYERS, coarse_stages
from nstray.engine.stylizer import Stylizer

# The notebook's and neural-style's objectives, without total variation, as the best program could minimise them: within the range.
GATYS, JOHNSON = (settings(name, "conv5_1", tv_weight=0.0, value_range="clamped") for name in ("gatys-pytorch", "johnson"))
# What the preset fast does beside the objective; its evaluations are those for 500 of a peer.
FAST = {name: preset("fast")[name] for name in ("init", "optimizer", "value_range", "range_weight", "dtype")}


@dataclass
class Taken:
    """One run of a program: seconds in all, peak memory in MB, and the picture it wrote, (3, H, W) over 0..1."""

    seconds: float
    memory: float
    image: torch.Tensor


def run(words: list[str], folder: Path, out: Path, env: dict[str, str] | None = None) -> Taken:
    """Run a program to its end; raises SystemExit with its last output if it fails."""
    log = folder / "log"
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(words, cwd=folder, stdout=file, stderr=file, env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(words)} failed:\n{log.read_text(errors='replace')[-2000:]}")
    return Taken(seconds, usage.ru_maxrss / 1024, pixels(out))


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(picture(path, 100_000)).permute(2, 0, 1).float() / 255


class Bench:
    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        write_example(str(folder / "example"))
        self.content, self.style = folder / "content.png", folder / "style.png"
        for given, role, at in ((args.content, "content", self.content), (args.style, "style", self.style)):
            found = Path(given) if given else sorted((folder / "example" / role).iterdir())[0]
            Image.open(found).convert("RGB").resize((args.size, args.size), Image.Resampling.BICUBIC).save(at)
        self.rgb, self.bgr = networks()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.rows: list[str] = []

    def judge(self, config: StylizeConfig, image: torch.Tensor) -> float:
        """The objective of `config` for a picture, in float32."""
        pair = Pair(pixels(self.content), [pixels(self.style)])
        objective = Stylizer(config, load_weights(str(self.bgr)), self.device).objective([pair], pair.content[None].to(self.device))
        return float(objective.evaluate(image[None].to(self.device))[0])

    def compare(self, name: str, config: StylizeConfig, peer: Callable[[int], Taken], *, same: bool = True) -> None:
        """A peer and nstray, one after the other, on the peer's objective, or on gatys2015's if nstray does not have the peer's."""
        few, many = self.args.few, self.args.evaluations
        goal: float | None = None
        for who, program in ((name, peer), (f"  nstray, {'same' if same else 'gatys2015'}", lambda n: self.nstray(config, n))):
            short, long = program(few), program(many)
            each = (long.seconds - short.seconds) / (many - few)
            loading = short.seconds - few * each
            loss = self.judge(config, long.image)
            goal = loss if goal is None else goal
            self.row(who, str(many), long, each, loading, loss, goal)
        # for 500 evaluations of the peer: the preset as it is; begun where the peer begins, and run on to the loss it reaches
        runs = [("  nstray, fast", FAST["init"], preset("fast")["coarse"], preset("fast")["evaluations"])]
        if config.init == "noise":
            runs.append(("  nstray, fast, noise", "noise", "50%:100", 267))
        for name, start, coarse, fine in runs:
            stages = coarse_stages(coarse, self.args.size)
            *budgets, budget = (max(1, round(many * n / 500)) for n in (*(n or fine for _, n in stages), fine))
            plan = ",".join(f"{side}:{n}" for (side, _), n in zip(stages, budgets, strict=True)) or "none"
            taken = self.nstray(replace(config, **{**FAST, "init": start}, coarse=plan), budget)
            counts = " + ".join(str(n) for n in (*budgets, budget))
            self.row(name, counts, taken, None, loading, self.judge(config, taken.image), goal)

    def row(self, name: str, counts: str, taken: Taken, each: float | None, loading: float, loss: float, goal: float) -> None:
        cost = "" if each is None else f"{each:.4f}"
        self.rows.append(
            f"{name:<24} {counts:>13} {cost:>12} {taken.seconds:8.1f} {loading:8.1f} {3600 / taken.seconds:11.1f} "
            f"{3600 / (taken.seconds - loading):15.1f} {taken.memory:9.0f} {loss:10.4g} {loss / goal:8.3f}"
        )
        print(self.rows[-1], file=sys.stderr, flush=True)

    def nstray(self, config: StylizeConfig, evaluations: int) -> Taken:
        """nstray's engine in a process of its own, loading included, for one pair."""
        job, out = self.folder / "job.json", self.folder / "out.png"
        settings = {**config.__dict__, "evaluations": evaluations}
        job.write_text(json.dumps([settings, str(self.bgr), str(self.content), str(self.style), str(out)]))
        return run([sys.executable, __file__, "--one", str(job)], self.folder, out)

    # the peers

    def neural_style_pt(self, evaluations: int) -> Taken:
        state = {f"features.{FEATURE_INDEX[n]}.{k}": self.tensors(self.bgr)[f"{n}.{k}"] for n in CONV_LAYERS for k in ("weight", "bias")}
        model = self.folder / "vgg19.pth"
        torch.save(state, model)
        out = self.folder / "neural-style.png"
        words = [sys.executable, str(Path(self.args.neural_style_pt).resolve() / "neural_style.py"), "-tv_weight", "0", "-seed", "0"]
        words += ["-content_image", str(self.content), "-style_image", str(self.style), "-image_size", str(self.args.size), "-disable_check"]
        words += ["-model_file", str(model), "-num_iterations", str(evaluations), "-save_iter", "0", "-print_iter", "0", "-output_image", str(out)]
        words += ["-gpu", "0" if self.device == "cuda" else "c", "-backend", "cudnn" if self.device == "cuda" else "nn"]
        return run(words, self.folder, out)

    def gatys(self, evaluations: int) -> Taken:
        """The notebook's cells up to the first result, as a program: told its files, size and count, and without its plots."""
        cells = json.loads((Path(self.args.gatys) / "NeuralStyleTransfer.ipynb").read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        last = next(i for i, text in enumerate(code) if "max_iter = " in text)
        text = "\n\n".join(c for c in code[: last + 1] if "imshow(img)" not in c)
        for old, new in (
            ("%pylab inline", ""),
            ("transforms.Scale(", "transforms.Resize("),
            ("img_size = 512", f"img_size = {self.args.size}"),
            ("max_iter = 500", f"max_iter = {evaluations - 1}"),
            ("vangogh_starry_night.jpg", self.style.name),
            ("Tuebingen_Neckarfront.jpg", self.content.name),
            ("'/Images/'", "'/'"),
            ("'/Models/'", "'/'"),
            ("imshow(out_img)", "out_img.save('notebook.png')"),
            ("gcf().set_size_inches(10,10)", ""),
        ):
            if old not in text:
                raise SystemExit(f"the notebook has no {old!r}: another version than the one this script knows")
            text = text.replace(old, new)
        torch.save(self.tensors(self.bgr), self.folder / "vgg_conv.pth")
        program = self.folder / "notebook.py"
        # one call of L-BFGS's step makes up to 20 iterations, so the notebook stops at the next multiple of 20
        program.write_text(text)
        return run([sys.executable, str(program)], self.folder, self.folder / "notebook.png")

    def crowson(self, evaluations: int) -> Taken:
        hub = self.folder / "hub" / "checkpoints"
        if not hub.exists():
            hub.mkdir(parents=True)
            state = {f"features.{FEATURE_INDEX[n]}.{k}": self.tensors(self.rgb)[f"{n}.{k}"] for n in CONV_LAYERS for k in ("weight", "bias")}
            for layer, (wide, high) in {"0": (25088, 4096), "3": (4096, 4096), "6": (4096, 1000)}.items():
                state |= {f"classifier.{layer}.weight": torch.zeros(high, wide), f"classifier.{layer}.bias": torch.zeros(high)}
            torch.save(state, hub / "vgg19-dcbb9e9d.pth")
        out, size, count = self.folder / "crowson.png", str(self.args.size), str(evaluations)
        start = "from style_transfer.cli import main; main()"
        words = [sys.executable, "-c", start, str(self.content), str(self.style), "-o", str(out), "-ms", size, "-s", size, "-i", count, "-ii", count]
        words += ["--init", "content", "--save-every", "100000", "--devices", self.device]
        return run(words, self.folder, out, {"TORCH_HOME": str(self.folder), "PYTHONPATH": str(Path(self.args.crowson).resolve())})

    def tensors(self, path: Path) -> dict[str, torch.Tensor]:
        return dict(load_weights(str(path)).tensors)


def networks() -> tuple[Path, Path]:
    """One random VGG-19 in files of both conventions: torchvision's input and Caffe's. They differ in nothing but what zero padding means."""
    weights = random_weights()
    tensors = {k: v.contiguous() for k, v in weights.tensors.items()}
    folder = Path(tempfile.mkdtemp())
    save_file(tensors, folder / "rgb.safetensors", {"input": "rgb"})
    first = tensors["conv1_1.weight"] / RGB_STD.view(1, 3, 1, 1)  # of pixels 0..1 less their mean
    shift = ((CAFFE_MEAN / 255)[[2, 1, 0]] - RGB_MEAN).view(1, 3, 1, 1)
    bias = tensors["conv1_1.bias"] + (first * shift).sum(dim=(1, 2, 3))
    caffe = {**tensors, "conv1_1.weight": (first[:, [2, 1, 0]] / 255).contiguous(), "conv1_1.bias": bias}
    save_file(caffe, folder / "bgr.safetensors", {"input": "bgr"})
    return folder / "rgb.safetensors", folder / "bgr.safetensors"


def one(job: str) -> None:
    """What the child process of `Bench.nstray` does."""
    settings, weights, content, style, out = json.loads(Path(job).read_text())
    config = StylizeConfig(**settings)
    loaded: VGGWeights = load_weights(weights)
    stylizer = Stylizer(config, loaded, "cuda" if torch.cuda.is_available() else "cpu")
    result = stylizer.run([Pair(pixels(Path(content)), [pixels(Path(style))])])[0]
    Image.fromarray((result.image * 255).round().byte().permute(1, 2, 0).numpy()).save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neural-style-pt", metavar="DIR")
    parser.add_argument("--gatys", metavar="DIR")
    parser.add_argument("--crowson", metavar="DIR")
    parser.add_argument("--content", help="a picture; default: the built-in example's")
    parser.add_argument("--style")
    parser.add_argument("--size", type=int, default=256, help="of the square that both pictures are made to")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--few", type=int, default=20, help="evaluations of the short run")
    parser.add_argument("--out", help="file for the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one)
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        if args.neural_style_pt:
            bench.compare("neural-style-pt, noise", JOHNSON, bench.neural_style_pt)
        if args.gatys:
            bench.compare("Gatys' notebook, content", GATYS, bench.gatys)
        if args.crowson:
            bench.compare("Crowson, content", StylizeConfig(init="content"), bench.crowson, same=False)
        head = (
            f"{args.size} x {args.size}, random VGG-19; threads {torch.get_num_threads()}\n{'program':<24} {'evaluations':>13} {'s/evaluation':>12} "
            f"{'run s':>8} {'loading':>8} {'pairs/h':>11} {'without loading':>15} {'memory MB':>9} {'loss':>10} {'of peer':>8}"
        )
        publish("\n".join([header(), head, *bench.rows]) + "\n", args.out)


if __name__ == "__main__":
    main()
