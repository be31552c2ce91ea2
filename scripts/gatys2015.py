"""Draw a figure of manifests/gatys2015 from pictures in any folder, at a small size or with a network of only the first layers.

    python scripts/gatys2015.py figure3 --pictures PICTURES --out out/figure3
    python scripts/gatys2015.py figure3 --pictures PICTURES --out out/figure3 --size 192 --evaluations 100 \
        --weights vgg19-first-layers.safetensors --layers-up-to conv3_1 --stand-in composition_vii.jpg=shipwreck.jpg --pooling max

Writes OUT/manifest.csv and OUT/job.yaml, runs `nstray run` into OUT/dataset, then `nstray sheet` twice: OUT/NAME.pdf and .png.
Options that it does not know go to `nstray run`. The same command again resumes.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from nstray.engine.settings import CONV_LAYERS, canonical_layer

FIGURES = Path(__file__).parents[1] / "manifests" / "gatys2015"
DEFAULTS = {"content_layers": "conv4_2", "style_layers": "conv1_1,conv2_1,conv3_1,conv4_1,conv5_1"}
TITLES = {
    "figure1-content": "Figure 1: content reconstructions",
    "figure1-style": "Figure 1: style reconstructions",
    "figure2": "Figure 2: five styles, with the paper's α/β",
    "figure3": "Figure 3: style layers (rows), the paper's α/β (columns)",
    "gatys2016": "CVPR 2016: content layers",
    "gatys2016-content": "CVPR 2016: content reconstructions",
    "gatys2016-styles": "CVPR 2016: five styles, with the paper's α/β",
}


def find(folder: Path, name: str) -> str:
    """The picture of this name in `folder` or below it."""
    for path in sorted(folder.rglob(name)):
        return str(path.resolve())
    raise SystemExit(f"no picture {name} in {folder}; manifests/gatys2015/README.md says which it is; --stand-in {name}=OTHER takes another")


def cut(rows: list[dict[str, str]], settings: dict[str, Any], deepest: str) -> list[str]:
    """Drop rows and layers of the job deeper than layer `deepest`, in place; returns what was dropped."""
    deepest = canonical_layer(deepest)
    allowed = CONV_LAYERS[: CONV_LAYERS.index(deepest) + 1]
    done = []
    for name in DEFAULTS:
        within = [set((row.get(name) or "").split(",")) - {""} <= set(allowed) for row in rows]
        if not all(within):
            done.append(f"{within.count(False)} pictures with deeper {name.replace('_', ' ')} left out")
            rows[:] = [row for row, fits in zip(rows, within, strict=True) if fits]
            if not rows:
                raise SystemExit(f"every picture of this figure has layers deeper than {deepest}")
        asked = str(settings.get(name, DEFAULTS[name])).split(",")
        settings[name] = ",".join([layer for layer in asked if layer in allowed] or [deepest])
        if not rows[0].get(name) and settings[name] != ",".join(asked) and settings.get(name.replace("layers", "weight")) != 0:
            done.append(f"{name.replace('_', ' ')} {settings[name]} for {','.join(asked)}")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=TITLES)
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="where the pictures are, at any depth")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--size", type=int, help="pixels of the longer side")
    parser.add_argument("--evaluations", type=int)
    parser.add_argument("--weights", metavar="FILE", help="as nstray run takes them")
    parser.add_argument("--layers-up-to", metavar="LAYER", help="the deepest layer that the weights hold")
    parser.add_argument("--stand-in", action="append", default=[], metavar="NAME=OTHER", help="use picture OTHER for picture NAME")
    args, more = parser.parse_known_args()

    with (FIGURES / f"{args.figure}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    settings = yaml.safe_load((FIGURES / f"{args.figure}.yaml").read_text(encoding="utf-8"))
    settings |= {name: value for name in ("size", "evaluations", "weights") if (value := getattr(args, name)) is not None}
    notes = cut(rows, settings, args.layers_up_to) if args.layers_up_to else []
    other = dict(each.split("=", 1) for each in args.stand_in)
    named = set()
    for row in rows:
        for role in ("content", "style"):
            if row.get(role):
                name = Path(row[role]).name
                named.add(name)
                row[role] = find(args.pictures, other.get(name, name))
    notes += [f"{b} stands in for {a}" for a, b in other.items() if a in named]

    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    (args.out / "job.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")

    def nstray(*words: object) -> int:
        return subprocess.run([sys.executable, "-m", "nstray", *map(str, words)]).returncode

    code = nstray("run", args.out / "manifest.csv", args.out / "dataset", "--config", args.out / "job.yaml", *more)
    if code not in (0, 3):  # 3: complete, with error rows
        return code
    title = "; ".join([TITLES[args.figure], *notes])
    print(title)
    return max(nstray("sheet", args.out / "dataset", "-o", args.out / f"{args.figure}.{kind}", "--title", title) for kind in ("pdf", "png")) or code


if __name__ == "__main__":
    sys.exit(main())
