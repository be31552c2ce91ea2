"""How fast the driver hands out work, and in how much memory: the real Driver with actors that do nothing.

    python scripts/bench_driver.py [--rows 1000000] [--actors 8] [--shard-size 16] [--carried 40000] [--out FILE]

The same run also times a bare loop: the same shards to the same number of no-op actors with nothing but `ray.wait`. The ratio says what
planning, policy and bookkeeping cost on top of Ray itself. Nothing is computed and no part is written. Windows are listed and indexes are
written as in a real job.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from nstray.cluster.driver import Driver
from nstray.cluster.progress import Display, JobProgress
from nstray.cluster.ray_session import start_ray, stop_ray
from nstray.config import JobConfig
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard, cut_shards, cut_windows
from nstray.output.folder import Output
from nstray.output.layout import WINDOW_ROWS
from nstray.worker.messages import JobSpec, ShardReport, WorkerProgress


class Noop:
    """Stands in for a WorkerActor: answers at once."""

    def ready(self) -> dict[str, Any]:
        return {"node": ray.get_runtime_context().get_node_id(), "host": "here", "device": "none", "pid": os.getpid(), "seconds": 0.0}

    def progress(self) -> WorkerProgress:
        return WorkerProgress(now=time.time())

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass

    def process(self, shard: Shard, attempt: int) -> ShardReport:
        rows = shard.table.num_rows
        now = time.time()
        footer = {"evaluations": 0, "seconds": 0.0, "started": now, "finished": now, "ids_digest": shard.ids_digest}
        return ShardReport(shard.window, shard.number, rows, rows, {}, 0, 0.0, 0, footer=footer)


def write_manifest(path: Path, rows: int, carried: int) -> None:
    """A manifest of `rows` pairs with 1,000 styles; each pair has its own content, and carries a value of so many bytes."""
    schema = pa.schema([("pair_id", pa.string()), ("content", pa.string()), ("style", pa.string())])
    if carried:
        schema = schema.append(pa.field("jpg", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    step = 1000 if carried else 100_000
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, step):
            n = range(start, min(rows, start + step))
            columns = [[f"pair-{i:09d}" for i in n], [f"content/{i:09d}.jpg" for i in n], [f"style/{i % 1000:04d}.jpg" for i in n]]
            if carried:
                columns.append([{"bytes": os.urandom(8) * (carried // 8), "path": f"{i}.jpg"} for i in n])
            writer.write_table(pa.table(columns, schema=schema))


def bare_loop(manifest: Manifest, info: Any, actors: list[Any], depth: int, shard_size: int, rows: int) -> float:
    """Pairs per second of `ray.wait` alone over the first `rows` rows."""
    shards = [s for w, t in cut_windows(manifest.tables(info)) if w * WINDOW_ROWS < rows for s in cut_shards(w, t, shard_size)]
    started, done = time.perf_counter(), 0
    pending = {a.process.remote(shards.pop(), 1): a for a in actors for _ in range(depth) if shards}
    while pending:
        (ref,), _ = ray.wait(list(pending), num_returns=1)
        actor = pending.pop(ref)
        done += ray.get(ref).rows
        if shards:
            pending[actor.process.remote(shards.pop(), 1)] = actor
    return done / (time.perf_counter() - started)


def rss_mb() -> float:
    """Resident memory of this process now, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--actors", type=int, default=8)
    parser.add_argument("--shard-size", type=int, default=16)
    parser.add_argument("--bare-rows", type=int, default=65_536, help="rows of the bare loop beside it")
    parser.add_argument("--carried", type=int, default=0, help="bytes of a picture that each row carries")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    lines = [f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   cores {os.cpu_count()}   ray {ray.__version__}   command {' '.join(sys.argv)}"]

    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder) / "manifest.parquet", arguments.rows, arguments.carried)
        config = JobConfig(shard_size=arguments.shard_size, actors=arguments.actors)
        manifest = Manifest(f"{folder}/manifest.parquet")
        started = time.perf_counter()
        info = manifest.check(config)
        lines.append(f"check        {arguments.rows / (time.perf_counter() - started):12,.0f} rows/s")
        output = Output(f"{folder}/out")
        start_ray()
        before = rss_mb()
        actor_class = ray.remote(num_cpus=0)(Noop)

        def fresh() -> list[Any]:
            """No-op actors that have started; the start of processes is not the driver's time."""
            actors = [actor_class.remote() for _ in range(arguments.actors)]
            ray.get([a.ready.remote() for a in actors])
            return actors

        bare_rows = min(arguments.rows, arguments.bare_rows)
        first, ready = fresh(), fresh()
        bare_before = bare_loop(manifest, info, first, config.depth, arguments.shard_size, bare_rows)

        spec = JobSpec(config, output.out, "none", "none", info, "content")
        highest = [0.0]
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.2):
                highest[0] = max(highest[0], rss_mb())

        sampler = threading.Thread(target=sample)
        sampler.start()
        started = time.perf_counter()
        with Display(JobProgress(info.rows)) as display:
            outcome = asyncio.run(Driver(spec, manifest, output, lambda devices: ready.pop(), display).run())
        seconds = time.perf_counter() - started
        stop.set()
        sampler.join()
        assert outcome.complete, outcome
        driven = outcome.counts.rows / seconds
        bare_after = bare_loop(manifest, info, first, config.depth, arguments.shard_size, bare_rows)
        stop_ray()
    bare = max(bare_before, bare_after)
    lines += [
        f"bare ray     {bare:12,.0f} pairs/s  ({arguments.actors} no-op actors, depth {config.depth}, shards of {arguments.shard_size}; best of 2)",
        f"driver       {driven:12,.0f} pairs/s  ({outcome.counts.rows:,} pairs in {seconds:.1f} s)",
        f"ratio        {driven / bare:12.2f}  of the bare loop",
        f"memory       {highest[0]:12,.0f} MB resident at most while driving ({before:,.0f} MB when Ray had just been connected)",
        f"peak         {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:12,.0f} MB in all, manifest written and checked included",
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.out:
        Path(arguments.out).write_text(text)


if __name__ == "__main__":
    main()
