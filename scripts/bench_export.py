"""Export of many small pictures to packed, shuffled Parquet: rate, memory, order; killed twice and exact all the same.

    python scripts/bench_export.py [--rows 1000000] [--picture 1024] [--styles 100] [--workers 2] [--folder DIR] [--out FILE]

The output is made of parts that nstray's own code writes, with noise for pictures: nothing is decoded. Rows are sorted by style, as a job
sorts them within 65,536 rows. `nstray export` runs as a user calls it. A first export runs undisturbed; memory is the highest of each of its
processes, and their highest sum. A second one is killed by SIGKILL at a third and at two thirds of its time, and goes on by the same command.
Both must hold each row once, with the bytes that it was made with, and be the same files.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nstray import config
from nstray.config import VERSION
from nstray.output.folder import Output
from nstray.output.layout import WINDOW_ROWS, ids_digest, part_name
from nstray.output.part_file import encode_part
from nstray.output.records import FORMAT
from nstray.output.schema import encode_schema, ok_row, part_schema, with_features

NSTRAY = (sys.executable, "-P", "-c", "from nstray.__main__ import main; main()")
PART = 256  # rows of a part
CARRIED = with_features(
    pa.schema([("label", pa.int64()), ("caption", pa.string())]),
    {"label": {"_type": "ClassLabel", "names": [f"class {i}" for i in range(1000)]}},
)


def picture(number: int, size: int) -> bytes:
    """Noise that follows from the number of a row."""
    return np.random.default_rng(number).bytes(size)


def row(number: int, style: int, size: int) -> dict[str, object]:
    pair_id = f"{number:08x}-{style:04d}"
    own = ok_row(
        picture(number, size),
        f"{pair_id}.jpg",
        pair_id=pair_id,
        content_uri=f"/data/photos/{number // 1000:05d}/{number:08d}.jpg",
        style_uri=[f"/data/styles/{style:04d}.jpg"],
        content_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        style_sha256=[hashlib.sha256(str(style).encode()).hexdigest()],
        width=64,
        height=64,
        content_width=500,
        content_height=375,
        loss_total=1.0 / (1 + number),
        loss_content=0.5 / (1 + number),
        loss_style=0.5 / (1 + number),
        loss_curve=[1.0, 0.5],
        iterations=100,
        evaluations=120,
        seconds=0.05,
        device="cpu",
        dtype="float32",
        seed=number,
        weights_id="random:0",
        config_fingerprint="f" * 64,
        nstray_version=VERSION,
        attempt=1,
        created_at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    )
    return {**own, "label": number % 1000, "caption": f"picture {number}"}


def write_window(out: str, window: int, rows: int, styles: int, size: int) -> None:
    """The parts of a window: its rows, sorted by style."""
    first = window * WINDOW_ROWS
    numbers = np.arange(first, min(first + WINDOW_ROWS, rows))
    chosen = np.random.default_rng(window).integers(0, styles, len(numbers))
    order = np.argsort(chosen, kind="stable")
    output, schema = Output(out), part_schema(CARRIED)
    for part, start in enumerate(range(0, len(order), PART)):
        made = [row(int(numbers[i]), int(chosen[i]), size) for i in order[start : start + PART]]
        ids = [str(each["pair_id"]) for each in made]
        footer = {"fingerprint": "f" * 64, "ids_digest": ids_digest(ids), "window": window, "number": part, "evaluations": 0, "seconds": 0.0}
        output.parts.commit(part_name(window, part), encode_part(made, schema, footer))


def make_output(out: str, rows: int, styles: int, size: int) -> None:
    settings = config.make({"weights": "random", "shard_size": PART})
    Output(out).job.open(
        {
            "format": FORMAT,
            "nstray_version": VERSION,
            "created_at": "2026-01-02T00:00:00+00:00",
            "manifest": "/data/pairs.parquet",
            "manifest_digest": "sha256:0",
            "rows": rows,
            "rows_digest": "sha256:1",
            "carried_digest": "sha256:2",
            "carried_changes": [],
            "base": "/data",
            "cuts": [],
            "shard_size": PART,
            "fingerprint": "f" * 64,
            "weights_id": "random:0",
            "weights": "random",
            "result": settings.result_fields(),
            "config": settings.model_dump(mode="json"),
            "carried_schema": encode_schema(CARRIED),
            "versions": {},
        }
    )
    windows = range(-(-rows // WINDOW_ROWS))
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_window, *zip(*((out, w, rows, styles, size) for w in windows), strict=True)))


def processes(pid: int) -> list[int]:
    """A process and its children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(n for child in children for n in processes(int(child)))]


def memory(pids: list[int]) -> list[float]:
    """MiB of anonymous memory of each process: files that are cached are not counted."""
    found = []
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        found += [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")]
    return found


def export(out: str, to: str, workers: int, kill_at: float | None = None) -> tuple[float, float, float]:
    """Seconds, the highest memory of one process, and of all together; killed after `kill_at` seconds if it is given."""
    words = [*NSTRAY, "export", out, "--to", to, "--format", "parquet", "--workers", str(workers), "--shuffle", "1"]
    started = time.perf_counter()
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    one = together = 0.0
    while running.poll() is None:
        now = memory(processes(running.pid))
        one, together = max([one, *now]), max(together, sum(now))
        if kill_at is not None and time.perf_counter() - started > kill_at:
            running.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    if running.wait() and kill_at is None:
        raise SystemExit(f"nstray export ended with {running.returncode}")
    return time.perf_counter() - started, one, together


def digest(to: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(to.rglob("*.parquet")):
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def check(to: Path, rows: int, styles: int, size: int) -> list[str]:
    """Each row once, with its own bytes; and how its styles follow each other."""
    seen = np.zeros(rows, bool)
    order: list[int] = []
    for path in sorted(to.rglob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(10_000, columns=["pair_id", "image", "label"]):
            for each in batch.to_pylist():
                number, style = int(each["pair_id"][:8], 16), int(each["pair_id"][9:])
                if seen[number] or each["label"] != number % 1000:
                    raise SystemExit(f"{each['pair_id']} is there twice, or has another label")
                if number % 50 == 0 and each["image"]["bytes"] != picture(number, size):
                    raise SystemExit(f"{each['pair_id']} has other bytes")
                seen[number] = True
                order.append(style)
    if not seen.all():
        raise SystemExit(f"{int((~seen).sum())} rows are missing")
    runs = [len(list(group)) for _, group in groupby(order)]
    share = 1 / styles
    rng = np.random.default_rng(0)
    chance = []
    for _ in range(20):
        shuffled = np.array(order)
        rng.shuffle(shuffled)
        chance.append(max(len(list(group)) for _, group in groupby(shuffled.tolist())))
    # Of the styles of the first 10,000 rows: chi squared has styles - 1 degrees of freedom.
    first = np.bincount(order[:10_000], minlength=styles)
    all_of = np.bincount(order, minlength=styles) * (min(10_000, rows) / rows)
    chi = float(((first - all_of) ** 2 / all_of).sum())
    return [
        f"runs of one style: {len(runs):,}, by chance {rows * (1 - share) + share:,.0f}; the longest {max(runs)}, "
        f"of 20 random orders {min(chance)} to {max(chance)} (mean {statistics.mean(chance):.1f})",
        f"styles of the first 10,000 rows: chi squared {chi:.0f} with {styles - 1} degrees of freedom",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--picture", type=int, default=1024, help="bytes of a picture")
    parser.add_argument("--styles", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where the output and the exports are made")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    lines = [f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   cores {os.cpu_count()}   command {' '.join(sys.argv)}"]

    def note(line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr, flush=True)

    rows, size = arguments.rows, arguments.picture
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        started = time.perf_counter()
        make_output(f"{name}/out", rows, arguments.styles, size)
        parts = list((folder / "out" / "data").iterdir())
        held = sum(p.stat().st_size for p in parts)
        note(f"output: {rows:,} rows in {len(parts):,} parts, {held / 1e6:,.0f} MB, made in {time.perf_counter() - started:.0f} s")
        seconds, one, together = export(f"{name}/out", f"{name}/first", arguments.workers)
        found = sorted((folder / "first").rglob("*.parquet"))
        sizes = ", ".join(f"{p.stat().st_size / 1e6:.0f}" for p in found)
        note(
            f"export: {seconds:.1f} s, {rows / seconds:,.0f} rows/s, {held / seconds / 1e6:.0f} MB/s with {arguments.workers} processes; "
            f"memory {one:.0f} MiB in one process, {together:.0f} MiB in all"
        )
        note(f"files: {len(found)} of {sizes} MB")
        for line in check(folder / "first", rows, arguments.styles, size):
            note(line)
        kills = [export(f"{name}/out", f"{name}/second", arguments.workers, seconds / 3)[0] for _ in range(2)]
        rest, _, _ = export(f"{name}/out", f"{name}/second", arguments.workers)
        same = digest(folder / "first") == digest(folder / "second")
        left = [p.name for p in (folder / "second").iterdir()]
        note(
            f"killed after {kills[0]:.1f} s and {kills[1]:.1f} s, then {rest:.1f} s to the end: "
            f"{'the same files' if same else 'OTHER FILES'}; in the folder: {', '.join(sorted(left))}"
        )
        if not same:
            raise SystemExit("an export that was killed differs")
    from benchmarks import publish  # here, since it imports torch

    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
