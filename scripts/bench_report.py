"""What `nstray report` costs: requests, bytes and seconds against a radosgw (scripts/radosgw), and the size of the page.

    python scripts/bench_report.py [--rows 150 10000 1000000] [--shard-size 64] [--open] [--tail 66000] [--out FILE]

Each output has five styles, ten labels and two splits. Its parts are of few kinds, stored under many names, with pictures of 1 KB: the
radosgw keeps objects in memory. Real parts are larger than the block of 256 KB in which nstray reads ranges, so that their ids and pictures
do not come with their footer. --tail makes the block smaller than these parts, so that as many requests are counted as real parts take;
0 leaves it. Below 64 KB Arrow reads twice. --open removes the last part of the last window and its index, as in a job that runs.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import http.client
import itertools
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from outputs import footer, job_record, ok_row, picture

from nstray import storage
from nstray.images.encode import encode
from nstray.output import histograms
from nstray.output.folder import Output
from nstray.output.layout import WINDOW_ROWS, part_name
from nstray.output.part_file import encode_part
from nstray.output.records import PartInfo
from nstray.output.schema import encode_schema, part_schema
from nstray.storage import s3_client

STYLES, LABELS, KINDS, CONTENTS = 5, 10, 60, 500
CARRIED = pa.schema([("label", pa.string()), ("split", pa.string())])
CURVE = 40
PUT_THREADS = 16


def inputs(base: str) -> list[tuple[str, bytes]]:
    """The contents and styles, which a report shows beside the pictures."""
    names = [f"inputs/content-{i}.png" for i in range(CONTENTS)] + [f"inputs/style-{i}.jpg" for i in range(STYLES)]
    return [(f"{base}/{name}", original(i)) for i, name in enumerate(names)]


@functools.cache
def original(number: int) -> bytes:
    return encode(picture(number, 64, 48), "png")


def kinds(shard_size: int, side: int) -> list[list[tuple[bytes, PartInfo]]]:
    """Parts of each style, and what their footers say."""
    counter = itertools.count()
    rng = np.random.default_rng(0)
    noise = [encode(rng.integers(0, 256, (side, 24, 3)).astype(np.uint8), "png") for _ in range(16)]
    found = []
    for style in range(STYLES):
        own = []
        for kind in range(KINDS):
            rows: list[dict[str, Any]] = []
            for i in range(shard_size):
                end = 9.0 / (2 + (i + kind) % 17 + style)
                curve = [9.0 - (9.0 - end) * (k / (CURVE - 1)) ** 0.3 for k in range(CURVE)]
                more = {"label": f"label {(kind + i) % LABELS}", "split": "test" if i % 10 == 9 else "train"}
                figures = {"loss_curve": curve, "loss_total": end, "loss_content": end / 3, "seconds": 1.0 + i / 8}
                content = next(counter) % CONTENTS
                digests = {
                    "content_sha256": hashlib.sha256(original(content)).hexdigest(),
                    "style_sha256": [hashlib.sha256(original(CONTENTS + style)).hexdigest()],
                }
                row = ok_row(
                    f"p{next(counter):07d}",
                    seed=kind,
                    content=f"inputs/content-{content}.png",
                    style=(f"inputs/style-{style}.jpg",),
                    **more,
                    **figures,
                    **digests,
                )
                row["image"]["bytes"] = noise[i % len(noise)]
                rows.append(row)
            foot = footer(
                [row["pair_id"] for row in rows],
                histograms=histograms.of_rows(rows, pa.Table.from_pylist([{n: row[n] for n in CARRIED.names} for row in rows], CARRIED)),
            )
            data = encode_part(rows, part_schema(CARRIED), foot)
            own.append((data, PartInfo("", len(data), len(rows), len(rows), {}, foot)))
        found.append(own)
    return found


def parts_of(rows: int, shard_size: int, made: list[list[tuple[bytes, PartInfo]]]) -> Iterator[tuple[int, int, bytes, PartInfo]]:
    """Window, number, bytes and footer of each part; each window is sorted by style."""
    for window, start in enumerate(range(0, rows, WINDOW_ROWS)):
        number = min(WINDOW_ROWS, rows - start) // shard_size
        for n in range(number):
            data, info = made[n * STYLES // number][n % KINDS]
            moment = 1_700_000_000.0 + (window * 4096 + n) * shard_size / 4
            foot = {**info.footer, "window": window, "number": n, "host": f"node-{n % 4}", "started": moment, "finished": moment + shard_size}
            yield window, n, data, PartInfo("", info.size, info.rows, info.ok, {}, foot)


def put_all(objects: list[tuple[str, bytes]]) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    signer = S3SigV4Auth(Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]), "s3", os.environ["AWS_DEFAULT_REGION"])

    def put(some: list[tuple[str, bytes]]) -> None:
        connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
        for uri, data in some:
            request = AWSRequest("PUT", f"{endpoint}/{uri.removeprefix('s3://')}", data=data)
            signer.add_auth(request)
            connection.request("PUT", urlsplit(request.url).path, data, dict(request.headers))
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{uri}: {answer.status} {said.decode()}")

    with ThreadPoolExecutor(PUT_THREADS) as pool:
        list(pool.map(put, [objects[n::PUT_THREADS] for n in range(PUT_THREADS)]))


def make(out: str, rows: int, shard_size: int, made: list[list[tuple[bytes, PartInfo]]], left_open: bool) -> None:
    output = Output(out)
    rows -= rows % shard_size
    output.job.open(job_record(rows=rows, shard_size=shard_size, carried_schema=encode_schema(CARRIED), base="s3://report"))
    objects: list[tuple[str, bytes]] = []
    windows: dict[int, list[PartInfo]] = {}
    for window, number, data, info in parts_of(rows, shard_size, made):
        uri = output.data_uri(part_name(window, number))
        objects.append((uri, data))
        windows.setdefault(window, []).append(PartInfo(uri, info.size, info.rows, info.ok, {}, info.footer))
    if left_open:
        del objects[-1], windows[max(windows)]
    put_all(objects)
    for window, infos in windows.items():
        output.indexes.write(window, infos)
    if not left_open:
        output.summary.write({"rows": rows, "ok": rows, "errors": {}})


class Counted:
    """Requests by kind, and the bytes of the answers, while it is entered."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Counted:
        s3_client.client().meta.events.register("before-send.s3", self._sent, unique_id="bench")
        s3_client.client().meta.events.register("after-call.s3", self._received, unique_id="bench-after")
        return self

    def __exit__(self, *_: object) -> None:
        s3_client.client().meta.events.unregister("before-send.s3", unique_id="bench")
        s3_client.client().meta.events.unregister("after-call.s3", unique_id="bench-after")

    def _sent(self, event_name: str, **_: Any) -> None:
        with self._lock:
            self.requests[event_name.rpartition(".")[2]] += 1

    def _received(self, parsed: dict[str, Any], **_: Any) -> None:
        with self._lock:
            self.bytes += int(parsed.get("ContentLength") or 0)


def measured(out: str, folder: Path) -> str:
    from nstray.commands.report import report

    page = folder / "report.html"
    with Counted() as counted:
        started = time.perf_counter()
        found = report(out, str(page))
        seconds = time.perf_counter() - started
    gets, lists = counted.requests["GetObject"], counted.requests["ListObjectsV2"]
    others = sum(counted.requests.values()) - gets - lists
    styles = len({pair.style for pair in found.pairs})
    print(f"{found.sample} {' '.join(found.notes)}", file=sys.stderr, flush=True)
    return (
        f"{found.rows_done:11,d} {gets:6d} {lists:6d} {others:6d} {counted.bytes / 1e6:9.1f} {seconds:8.1f} {page.stat().st_size / 1e6:8.2f} "
        f"{len(found.pairs):6d} {styles:6d} {found.windows.n}/{found.windows.total}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[150, 10_000, 1_000_000])
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--side", type=int, default=16, help="rows of a picture's pixels")
    parser.add_argument("--tail", type=int, default=66_000, help="bytes of a block; 0: as nstray has it")
    parser.add_argument("--open", action="store_true", help="the last window is not complete")
    parser.add_argument("--out", help="file for the results")
    arguments = parser.parse_args()
    if arguments.tail:
        storage.BLOCK = arguments.tail
    made = kinds(arguments.shard_size, arguments.side)
    size = len(made[0][0][0])
    lines = [
        f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   cores {os.cpu_count()}   command {' '.join(sys.argv)}",
        f"shard_size {arguments.shard_size}, parts of {size:,} bytes, block of {storage.BLOCK:,} bytes",
        f"{'rows':>11} {'GETs':>6} {'lists':>6} {'others':>6} {'MB read':>9} {'seconds':>8} {'page MB':>8} {'pairs':>6} {'styles':>6} indexed",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)

    def all_sizes(base: str) -> None:
        put_all(inputs(base))
        for rows in arguments.rows:
            began = time.perf_counter()
            make(f"{base}/{rows}", rows, arguments.shard_size, made, arguments.open)
            print(f"made in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                lines.append(measured(f"{base}/{rows}", Path(folder)))
            print(lines[-1], file=sys.stderr, flush=True)

    from soak import on_radosgw

    on_radosgw("report", all_sizes)
    if arguments.out:
        Path(arguments.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
