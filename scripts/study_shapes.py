"""What stylised pictures are for: a small network trained on plain and on stylised pictures, asked for shape against texture.

    python scripts/study_shapes.py DIR [--small] [--seeds 3] [--steps 300] [--out FILE] [--picture FILE]

Draws pictures of ten classes, each with an outline and a texture of its own (scripts/draw_shapes.py), and styles of other textures. Stylises
them with nstray. Trains one small network on the plain pictures, one on the stylised ones and one on both, for the same number of steps and
for each seed. Scores them on pictures that were held out, and on conflict pictures: the outline of one class with the texture of another, as
in Geirhos et al. 2019, arXiv 1811.12231. docs/recipes/shapes.md describes it.

DIR holds what was made: contents/, styles/, pairs.parquet, out/, folders/ and conflict/. The same command goes on where it was
stopped; another one needs a DIR of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks import header, publish
from draw_pictures import KINDS
from draw_shapes import CLASSES, draw_scene, render
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

SIZE = 64  # pixels of a side
BATCH = 64
TRAINED_ON = ("plain", "stylised", "plain + stylised")
STYLES = ("strokes", "clouds", "cells", "text")  # of draw_pictures: the kinds that have neither the outlines nor the textures
# Beside the preset quick, judged by eye at 64 px: the outlines come from the start, and the textures are lost in the stage at 32 px.
# The style layers behind conv3_1 see most of such a picture at once and replace the outlines too.
SETTINGS = {"preset": "quick", "size": SIZE, "init": "content", "style-layers": "conv1_1,conv2_1,conv3_1", "style-weight": 500, "shard-size": 32}


@dataclass(frozen=True)
class Scale:
    """How much is drawn and optimised. `train` and `val` are pictures of a class, `conflicts` those of each ordered pair of classes."""

    train: int = 40
    val: int = 20
    conflicts: int = 6
    styles: int = 150
    evaluations: int = 40
    coarse: str = "50%:40"


SMALL = Scale(train=3, val=2, conflicts=1, styles=8, evaluations=8, coarse="none")


@dataclass(frozen=True)
class Pictures:
    """pictures: (N, 3, SIZE, SIZE) uint8. classes: (N,) numbers of a class. textures: the same of the texture, in conflict pictures."""

    pictures: Tensor
    classes: Tensor
    textures: Tensor | None = None


@dataclass(frozen=True)
class Score:
    """Shares of pictures: right ones of two kinds, and decisions for the outline, the texture and a third class on conflict pictures."""

    plain: float
    stylised: float
    shape: float
    texture: float
    neither: float
    bias: float


def nstray(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "nstray", *map(str, words)], check=True, stdout=sys.stderr)


def draw_all(folder: Path, scale: Scale) -> None:
    """Contents in class folders of two splits, styles, and conflict pictures named SHAPE--TEXTURE--NUMBER. Each has a seed of its own."""
    for s, (split, number) in enumerate({"train": scale.train, "val": scale.val}.items()):
        for k, name in enumerate(CLASSES):
            (folder / "contents" / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                picture = render(draw_scene(np.random.default_rng([s, k, i])), k, k, SIZE)
                Image.fromarray(picture).save(folder / "contents" / split / name / f"{i:04d}.png")
    (folder / "styles").mkdir(exist_ok=True)
    for i in range(scale.styles):
        kind = STYLES[i % len(STYLES)]
        KINDS[kind](np.random.default_rng([2, i]), 2 * SIZE).save(folder / "styles" / f"{i:04d}-{kind}.png")
    (folder / "conflict").mkdir(exist_ok=True)
    for a in range(len(CLASSES)):
        for b in range(len(CLASSES)):
            for i in range(scale.conflicts if a != b else 0):
                picture = render(draw_scene(np.random.default_rng([3, a, b, i])), a, b, SIZE)
                Image.fromarray(picture).save(folder / "conflict" / f"{a}--{b}--{i:02d}.png")


def stylise(folder: Path, scale: Scale) -> None:
    """Manifest, job and export: stylised pictures in folders/SPLIT/CLASS, their contents beside them."""
    pairs, out = folder / "pairs.parquet", folder / "out"
    if not pairs.exists():
        nstray("manifest", "build", "--content", folder / "contents", "--style", folder / "styles", "--pairs", 1, "--style-splits", "-o", pairs)
    settings = {**SETTINGS, "evaluations": scale.evaluations, "coarse": scale.coarse}
    nstray("run", pairs, out, *(word for name, value in settings.items() for word in (f"--{name}", value)))
    nstray("export", out, "--to", folder / "folders", "--format", "imagefolder", "--with-originals", 1)


def opened(paths: Sequence[Path | str]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])).permute(0, 3, 1, 2).contiguous()


def exported(folder: Path, split: str) -> dict[str, Pictures]:
    """Plain and stylised pictures of a split, and both together."""
    listed = ImageFolder(str(folder / "folders" / split))
    assert tuple(listed.classes) == tuple(sorted(CLASSES))
    number = torch.tensor([CLASSES.index(name) for name in listed.classes])
    original = torch.tensor(["--original" in Path(path).name for path, _ in listed.samples])
    pictures, classes = opened([path for path, _ in listed.samples]), number[[k for _, k in listed.samples]]
    return {
        name: Pictures(pictures[chosen], classes[chosen]) for name, chosen in zip(TRAINED_ON, (original, ~original, original | True), strict=True)
    }


def conflicts(folder: Path) -> Pictures:
    paths = sorted((folder / "conflict").glob("*.png"))
    cues = torch.tensor([[int(word) for word in path.stem.split("--")[:2]] for path in paths])
    return Pictures(opened(paths), cues[:, 0], cues[:, 1])


def network() -> nn.Sequential:
    """Four convolutions, 64 pixels to 4; 71,000 parameters."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * (SIZE // 16) ** 2, len(CLASSES)))


def ready(pictures: Tensor) -> Tensor:
    return (pictures.float() / 127.5 - 1).to(memory_format=torch.channels_last)


def train(data: Pictures, seed: int, steps: int) -> nn.Sequential:
    """A network after `steps` batches of pictures that are mirrored and moved by up to 4 pixels at random."""
    torch.manual_seed(seed)
    model = network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(data.classes))])
        chosen, order = order[:BATCH], order[BATCH:]
        x = nn.functional.pad(ready(data.pictures[chosen]), (4, 4, 4, 4), mode="replicate")
        top, left = torch.randint(9, (2,)).tolist()
        x = x[:, :, top : top + SIZE, left : left + SIZE]
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
        loss = nn.functional.cross_entropy(model(x), data.classes[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def decide(model: nn.Module, pictures: Tensor) -> Tensor:
    """(N,) the class that the network finds in each picture."""
    return torch.cat([model(ready(some)).argmax(1) for some in pictures.split(256)])


def shares(decisions: Tensor, shapes: Tensor, textures: Tensor) -> tuple[float, float, float, float]:
    """Of conflict pictures: shares of decisions for the shape, the texture and neither, and shape / (shape + texture); nan if there is none."""
    shape, texture = (float((decisions == cue).double().mean()) for cue in (shapes, textures))
    return shape, texture, 1 - shape - texture, shape / (shape + texture) if shape + texture else float("nan")


def score(model: nn.Module, held_out: dict[str, Pictures], conflict: Pictures) -> Score:
    right = (float((decide(model, held_out[name].pictures) == held_out[name].classes).double().mean()) for name in ("plain", "stylised"))
    assert conflict.textures is not None
    return Score(*right, *shares(decide(model, conflict.pictures), conflict.classes, conflict.textures))


def cell(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def table(scores: dict[str, list[Score]]) -> str:
    """A row for each training set: means and ranges over the seeds."""
    names = ("plain", "stylised", "shape", "texture", "neither", "bias")
    lines = ["| trained on | plain, right | stylised, right | conflict: shape | texture | neither | shape bias |", "|---|---|---|---|---|---|---|"]
    for trained_on, found in scores.items():
        lines.append(f"| {trained_on} | " + " | ".join(cell([getattr(one, name) for one in found]) for name in names) + " |")
    return "\n".join(lines)


def example(data: dict[str, Pictures], conflict: Pictures) -> Image.Image:
    """Three rows of ten: plain, the same stylised, and a conflict picture with the same outline."""
    rows = []
    for pictures in (data["plain"], data["stylised"], conflict):
        first = [int((pictures.classes == k).nonzero()[3 * k % int((pictures.classes == k).sum())]) for k in range(len(CLASSES))]
        rows.append(torch.cat(list(pictures.pictures[first]), 2))
    return Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--small", action="store_true", help="a few pictures, one seed, a few steps: does it run?")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int, help="batches of 64 that each network is trained on")
    parser.add_argument("--out", help="file for the results")
    parser.add_argument("--picture", help="file for an example: rows of plain, stylised and conflict pictures")
    arguments = parser.parse_args()
    folder, scale = arguments.folder, SMALL if arguments.small else Scale()
    seeds, steps = arguments.seeds or (1 if arguments.small else 3), arguments.steps or (5 if arguments.small else 300)
    times, began = {}, time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    draw_all(folder, scale)
    times["drawing"] = time.perf_counter() - began
    stylise(folder, scale)
    times["stylising"] = time.perf_counter() - began - sum(times.values())
    data, held_out, conflict = exported(folder, "train"), exported(folder, "val"), conflicts(folder)
    if arguments.picture:
        example(data, conflict).save(arguments.picture, quality=85)
    scores: dict[str, list[Score]] = {name: [] for name in TRAINED_ON}
    for seed in range(seeds):
        for name, found in scores.items():
            found.append(score(train(data[name], seed, steps), held_out, conflict))
            print(f"seed {seed}, {name}: {found[-1]}", file=sys.stderr, flush=True)
    times["training"] = time.perf_counter() - began - sum(times.values())
    sizes = {**{f"train, {name}": p for name, p in data.items()}, **{f"val, {name}": held_out[name] for name in TRAINED_ON[:2]}, "conflict": conflict}
    lines = [
        header(),
        "pictures: " + "; ".join(f"{name} {len(p.classes)}" for name, p in sizes.items()),
        f"{steps} steps of {BATCH}; mean (range) of {seeds} seed{'s' * (seeds > 1)}; chance is 0.10; threads {torch.get_num_threads()}",
        "seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in times.items()),
        "",
        table(scores),
    ]
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
