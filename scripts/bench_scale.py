"""How planning and resume grow with the manifest: rows a second, the driver's memory, seconds until a finished job says so.

    python scripts/bench_scale.py [--rows 1000000 10000000 100000000] [--resume 1000000 10000000] [--shard-size 16] [--out FILE]

- Planning: `nstray run`'s check of the manifest and the cut of all of it into shards. It runs in a process of its own that has imported Ray
  as the driver has. Memory is the highest of that process.
- Resume: an output with as many parts as the job has, each a few bytes, with its indexes, record and summary, on a radosgw
  (scripts/radosgw) or with --local on this disk. `nstray run` and `nstray status` run on it as a user calls them; their start and the
  reading of the weights are included.

Manifests are those of `bench_driver`; they take 12 bytes a row on disk.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from urllib.parse import urlsplit

from bench_driver import write_manifest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from nstray import config, storage
from nstray.commands import prepare
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output.layout import WINDOW_ROWS, part_name
from nstray.output.records import Counts, PartInfo

SETTINGS = {"weights": "random", "content_layers": "conv1_1", "style_layers": "conv1_1"}
NSTRAY = (sys.executable, "-c", "from nstray.__main__ import main; main()")
PUT_THREADS = 4  # of each process


def plan_one(path: str, shard_size: int) -> dict[str, float]:
    """Check and cut a manifest in this process, as a driver does before and while it hands out work."""
    manifest = Manifest(path)
    started = time.perf_counter()
    info = manifest.check(config.make(SETTINGS))
    checked = time.perf_counter()
    shards = sum(len(cut_shards(window, table, shard_size)) for window, table in cut_windows(manifest.tables(info)))
    cut = time.perf_counter()
    # not ru_maxrss, which begins with that of the process that started this one
    peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return {"rows": info.rows, "shards": shards, "check": checked - started, "cut": cut - checked, "peak": peak}


def planning(folder: Path, rows: int, shard_size: int) -> str:
    path = folder / f"{rows}.parquet"
    write_manifest(path, rows)
    words = [sys.executable, __file__, "--plan-one", str(path), "--shard-size", str(shard_size)]
    found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    path.unlink()
    both = found["check"] + found["cut"]
    return (
        f"{rows:13,d} {found['shards']:11,d} {rows / found['check']:14,.0f} {rows / found['cut']:14,.0f} {rows / both:14,.0f} {both:9.1f} "
        f"{found['peak']:9.0f}"
    )


def finished_output(manifest: str, out: str, shard_size: int) -> int:
    """Write an output as a finished job leaves it, with parts of a few bytes each; returns their number."""
    begun = prepare.check(manifest, out, config.make({**SETTINGS, "shard_size": shard_size}))
    output = begun.output
    stored = output.job.open(prepare.record(begun))
    counts = Counts()
    data = b"a part"
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for window, parts in enumerate(begun.layout):
            rows = min(WINDOW_ROWS, begun.info.rows - window * WINDOW_ROWS)
            uris = [output.data_uri(part_name(window, n)) for n in range(parts)]
            list(pool.map(put_all, [uris[n : n + 256] for n in range(0, parts, 256)], repeat(data)))
            sizes = [min(shard_size, rows - n * shard_size) for n in range(parts)]
            infos = [PartInfo(uri, len(data), n, n, {}, {"evaluations": 0}) for uri, n in zip(uris, sizes, strict=True)]
            output.indexes.write(window, infos)
            for part in infos:
                counts.add(part)
    output.card.write(stored, counts)
    output.summary.write({"rows": counts.rows, "ok": counts.ok, "errors": {}})
    return counts.parts


def put_all(uris: list[str], data: bytes) -> None:
    """Put objects by plain signed requests over a few connections; boto3 takes four times as long for each."""
    if not uris[0].startswith("s3://"):
        for uri in uris:
            storage.put_new(uri, data)
        return
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    credentials = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    signer = S3SigV4Auth(credentials, "s3", os.environ["AWS_DEFAULT_REGION"])

    def put(some: list[str]) -> None:
        connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
        for uri in some:
            request = AWSRequest("PUT", f"{endpoint}/{uri.removeprefix('s3://')}", data=data)
            signer.add_auth(request)
            connection.request("PUT", urlsplit(request.url).path, data, dict(request.headers))
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{uri}: {answer.status} {said.decode()}")

    with ThreadPoolExecutor(PUT_THREADS) as pool:
        list(pool.map(put, [uris[n::PUT_THREADS] for n in range(PUT_THREADS)]))


def seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([*NSTRAY, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def resuming(folder: Path, base: str, rows: int, shard_size: int) -> str:
    path, out = folder / f"{rows}.parquet", f"{base}/{rows}"
    write_manifest(path, rows)
    started = time.perf_counter()
    parts = finished_output(str(path), out, shard_size)
    made = time.perf_counter() - started
    options = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", value)]
    run = seconds(["run", str(path), out, *options, "--shard-size", str(shard_size)])
    status = seconds(["status", out])
    path.unlink()
    print(f"{parts:,} parts made in {made:.0f} s", file=sys.stderr, flush=True)
    return f"{rows:13,d} {parts:11,d} {run:12.1f} {status:12.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[10**6, 10**7, 10**8])
    parser.add_argument("--resume", type=int, nargs="*", default=[10**6, 10**7], metavar="ROWS")
    parser.add_argument("--shard-size", type=int, default=16)
    parser.add_argument("--local", action="store_true", help="outputs on this disk, not on a radosgw")
    parser.add_argument("--out", help="file for the results")
    parser.add_argument("--plan-one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan_one:
        print(json.dumps(plan_one(arguments.plan_one, arguments.shard_size)))
        return
    lines = [f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   cores {os.cpu_count()}   command {' '.join(sys.argv)}"]

    def note(line: str) -> None:
        lines.append(line)
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.rows:
            note(f"{'rows':>13} {'shards':>11} {'check rows/s':>14} {'cut rows/s':>14} {'both rows/s':>14} {'both s':>9} {'peak MiB':>9}")
        for rows in arguments.rows:
            note(planning(folder, rows, arguments.shard_size))

        def resume(base: str) -> None:
            note(f"{'rows':>13} {'parts':>11} {'run says so s':>12} {'status s':>12}   {'on this disk' if arguments.local else 'on radosgw'}")
            for rows in arguments.resume:
                note(resuming(folder, base, rows, arguments.shard_size))

        if arguments.resume and arguments.local:
            resume(f"{name}/out")
        elif arguments.resume:
            from soak import on_radosgw

            on_radosgw("scale", resume)
    from benchmarks import publish  # here, since it imports torch, and the process that is measured must not

    publish("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
