"""Draw the curves of docs/scale.md from what bench_scale.py wrote.

python scripts/draw_scale.py scripts/results/scale-cpu.txt docs/scale.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PLANNED = 7  # fields of a line of bench_scale.py about planning
RESUMED = 4  # fields of a line about resume


def tables(text: str) -> tuple[list[list[float]], list[list[float]]]:
    """The lines of numbers, those of planning and those of resume, each sorted by rows; of a size measured twice the last line counts."""
    found: dict[int, dict[float, list[float]]] = {PLANNED: {}, RESUMED: {}}
    for line in text.splitlines():
        fields = line.replace(",", "").split()
        if len(fields) in found and fields[0].isdigit():
            numbers = [float(field) for field in fields]
            found[len(fields)][numbers[0]] = numbers
    if not all(found.values()):
        raise SystemExit("no lines of planning or of resuming: give a file that bench_scale.py wrote, with both")
    return sorted(found[PLANNED].values()), sorted(found[RESUMED].values())


def draw(text: str) -> Figure:
    planned, resumed = tables(text)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    times, memory = figure.subplots(1, 2)
    rows = [line[0] for line in planned]
    times.plot(rows, [line[5] for line in planned], "o-", label="plan: check and cut")
    times.plot([line[0] for line in resumed], [line[2] for line in resumed], "s-", label="run, all done")
    times.plot([line[0] for line in resumed], [line[3] for line in resumed], "^-", label="status, all done")
    times.set(xscale="log", yscale="log", xlabel="manifest rows", ylabel="seconds")
    times.legend(frameon=False)
    memory.plot(rows, [line[6] for line in planned], "o-")
    memory.set(xscale="log", ylim=(0, 600), xlabel="manifest rows", ylabel="driver's highest memory, MiB")
    for axes in (times, memory):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results")
    parser.add_argument("picture")
    arguments = parser.parse_args()
    FigureCanvasAgg(draw(Path(arguments.results).read_text())).print_png(arguments.picture)


if __name__ == "__main__":
    main()
