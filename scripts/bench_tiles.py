"""What tiles change in a picture after more and more evaluations, and the time they take.

    python scripts/bench_tiles.py [--size 256] [--tile 128] [--weights FILE --content IMAGE --style IMAGE] [--out FILE]

Compared are pictures made whole, in tiles, and whole from a start moved by 1e-7. Differences are in steps of 255, of the largest of the
three channels. The moved start is the yardstick: L-BFGS amplifies any change of rounding.
"""

from __future__ import annotations

import argparse
import sys

import torch
from benchmarks import content_and_style, header, publish

from nstray.engine import StylizeConfig, load_weights
from nstray.engine.losses.tiles import split
from nstray.engine.pair import Pair
from nstray.engine.stylizer import Stylizer

LAYERS = ("conv1_1", "conv2_1", "conv3_1")
RUNS = "lbfgs:5,lbfgs:10,lbfgs:20,lbfgs:50,lbfgs:100,adam:100"


def seams(height: int, width: int, side: int) -> torch.Tensor:
    """(H, W) bool: the four rows or columns around each seam."""
    out = torch.zeros(height, width, dtype=torch.bool)
    for tile in split(height, width, side, LAYERS):
        rows, columns = tile.core
        if rows.start:
            out[rows.start - 2 : rows.start + 2] = True
        if columns.start:
            out[:, columns.start - 2 : columns.start + 2] = True
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--runs", default=RUNS, help="OPTIMIZER:EVALUATIONS,...")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--content")
    parser.add_argument("--style")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    pictures = content_and_style(arguments.content, arguments.style, arguments.size)
    content, style = (torch.from_numpy(pixels).permute(2, 0, 1) for pixels in pictures)
    weights = load_weights(arguments.weights, layers=LAYERS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    h, w = content.shape[1:]
    start = content.float() / 255
    moved = start + 1e-7 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    at = seams(h, w, arguments.tile)
    lines = [
        header(),
        f"{w} x {h} in {len(split(h, w, arguments.tile, LAYERS))} tiles of {arguments.tile}, content conv3_1, style conv1_1 ... conv3_1",
        "                   tiles: largest    mean   largest at seams   mean there   start + 1e-7: largest    mean      loss, in tiles, moved   time",
    ]
    for run in arguments.runs.split(","):
        optimizer, evaluations = run.split(":")[0], int(run.split(":")[1])
        images, losses, seconds = [], [], []
        for tile, begin in ((0, start), (arguments.tile, start), (0, moved)):
            config = StylizeConfig(
                content_layers=("conv3_1",), style_layers=LAYERS, optimizer=optimizer, evaluations=evaluations, tile_size=tile, value_range="free"
            )
            (result,) = Stylizer(config, weights, device).run([Pair(content, [style], start=begin)])
            images.append(result.image)
            losses.append(result.loss_total)
            seconds.append(result.seconds)
        tiled, shifted = ((image - images[0]).abs().amax(0) * 255 for image in images[1:])
        lines.append(
            f"{optimizer:>6} {evaluations:4} evaluations {tiled.max():8.2f} {tiled.mean():7.3f} {tiled[at].max():18.2f} {tiled[at].mean():13.3f}"
            f" {shifted.max():23.2f} {shifted.mean():7.3f}   {losses[0]:8.4g} {losses[1]:8.4g} {losses[2]:8.4g}   x {seconds[1] / seconds[0]:.2f}"
        )
        print(lines[-1], file=sys.stderr)
    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
