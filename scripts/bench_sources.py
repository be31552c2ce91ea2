"""What reading pictures in archives costs: GETs and bytes, counted by a proxy before a real S3 server (scripts/radosgw).

    python scripts/bench_sources.py [--pictures 10000] [--kb 20] [--pairs 400] [--out FILE]

Cases and targets:

    tar            1,000 pictures of 64 tars with places: at most 1.1 GETs a picture and 1.05 times the pictures' bytes
    tar-names      the same without places: every tar is indexed once
    parquet        pictures in row groups of 100, each used three times, read in a job's order: at most 3 times the files' bytes
    arrow          the same in record batches of 100
    wait           the share of its time that a device which takes 50 ms a pair waits for pictures of these tars: below 5 %

Pairs are read as a worker reads them: in the order of the job's shards, the pictures of a shard by 8 threads, one shard ahead.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import http.server
import io
import os
import random
import shlex
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.manifest.shards import BY_ARCHIVE, cut_shards
from nstray.sources.read import Sources
from nstray.sources.reference import Place
from nstray.storage import s3_client

RADOSGW = Path(__file__).parent / "radosgw"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
THREADS = 8  # that a worker reads with
SHARD = 16
PAIR_SECONDS = 0.05


class CountingProxy:
    """Forwards to an S3 server and counts GETs and the bytes of their bodies.

    The Host header passes through, because SigV4 signs it.
    """

    def __init__(self, server: str) -> None:
        self.gets = self.bytes = 0
        lock, outer, address = threading.Lock(), self, urlsplit(server).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream = http.client.HTTPConnection(address)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                if self.command == "GET":
                    with lock:
                        outer.gets += 1
                        outer.bytes += len(data)
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                upstream.close()

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.gets = self.bytes = 0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def put_tars(base: str, pictures: Sequence[bytes], number: int) -> list[tuple[str, Place]]:
    """Pictures in `number` tars, in turn; the reference and place of each."""
    found: dict[int, tuple[str, Place]] = {}
    for k in range(number):
        sink, uri = io.BytesIO(), f"{base}/{k:03}.tar"
        mine = range(k, len(pictures), number)
        with tarfile.open(fileobj=sink, mode="w") as file:
            for i in mine:
                info = tarfile.TarInfo(f"{i:06}.jpg")
                info.size = len(pictures[i])
                file.addfile(info, io.BytesIO(pictures[i]))
        etag = storage.put_new(uri, sink.getvalue())
        sink.seek(0)
        with tarfile.open(fileobj=sink) as file:
            for i, member in zip(mine, file, strict=True):
                found[i] = f"{uri}::{member.name}", Place((member.offset_data, member.size), None, etag)
    return [found[i] for i in range(len(pictures))]


def put_tables(base: str, pictures: Sequence[bytes], kind: str, rows: int = 1000) -> tuple[list[str], int]:
    """Pictures in files of `rows` rows; the reference of each, and the bytes of the files."""
    references, size = [], 0
    for k, start in enumerate(range(0, len(pictures), rows)):
        cells = [{"bytes": p, "path": None} for p in pictures[start : start + rows]]
        table, sink, uri = pa.table({"image": pa.array(cells, IMAGE)}), io.BytesIO(), f"{base}/{k:03}.{kind}"
        if kind == "parquet":
            pq.write_table(table, sink, row_group_size=100, compression="none", use_dictionary=False)
        else:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=100)
        storage.put_new(uri, sink.getvalue())
        size += len(sink.getvalue())
        references += [f"{uri}::image[{i}]" for i in range(len(cells))]
    return references, size


def shards(references: Sequence[str], uses: int) -> Iterator[list[str]]:
    """The contents of a job's shards: each reference with `uses` styles."""
    draw = random.Random(0)
    contents = [reference for reference in references for _ in range(uses)]
    table = pa.table(
        {
            "row": pa.array(range(len(contents)), pa.int64()),
            "content": pa.array(contents),
            "style": pa.array([[f"s{draw.randrange(100)}.jpg"] for _ in contents], pa.list_(pa.string())),
        }
    )
    for start in range(0, table.num_rows, 65_536):
        for shard in cut_shards(0, table.slice(start, 65_536), SHARD, BY_ARCHIVE):
            yield shard.table["content"].to_pylist()


def read_all(sources: Sources, work: Iterator[list[str]], places: dict[str, Place], pair_seconds: float = 0.0) -> tuple[int, float, float]:
    """Read shard after shard, one ahead; the number of pairs, the seconds that a device waited, and all seconds."""
    pairs, waited, began = 0, 0.0, time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:

        def submit(contents: list[str]) -> list[Any]:
            return [pool.submit(sources.read, uri, places.get(uri)) for uri in contents]

        ahead = submit(next(work))
        first = True
        while ahead:
            since = time.perf_counter()
            for future in ahead:
                future.result()
            waited += 0.0 if first else time.perf_counter() - since  # the first shard has no device to wait for it
            pairs, done, first = pairs + len(ahead), len(ahead), False
            ahead = submit(next(work, []))
            time.sleep(pair_seconds * done)
    return pairs, waited, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000, help="of the Parquet and Arrow files")
    parser.add_argument("--kb", type=int, default=20, help="kilobytes of one of them; those of the tars have five times as many")
    parser.add_argument("--pairs", type=int, default=400, help="of the case wait")
    parser.add_argument("--out", help="a file for the table")
    words = parser.parse_args()
    draw = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="rgw-") as folder:
        started = subprocess.run([RADOSGW, "start", folder, "7493"], check=True, capture_output=True, text=True)
        os.environ.update(word.split("=", 1) for word in shlex.split(started.stdout) if "=" in word)
        proxy = CountingProxy(os.environ["AWS_ENDPOINT_URL"])
        try:
            s3_client.client().create_bucket(Bucket="bench")
            results = measure(proxy, draw, words)
        finally:
            proxy.close()
            subprocess.run([RADOSGW, "stop", folder], check=False)
    from benchmarks import publish  # here, since it imports torch

    head = f"date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}   cores {os.cpu_count()}   radosgw   command {' '.join(sys.argv)}"
    publish("\n".join([head, *table(results)]) + "\n", words.out)
    sys.exit(0 if all(row["met"] for row in results) else 1)


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each case."""
    lines = [f"{'case':10}{'pairs':>8}{'GETs':>8}{'GETs a pair':>13}{'bytes a byte':>14}{'waited':>9}{'seconds':>9}   target"]
    for row in results:
        waited = f"{row['waited']:.2%}" if row["case"] == "wait" else "-"  # elsewhere no device computes
        figures = f"{row['gets_per_pair']:13.3f}{row['bytes_per_byte']:14.3f}{waited:>9}{row['seconds']:9.1f}"
        verdict = "" if row["target"] == "none" else ": met" if row["met"] else ": NOT met"
        lines.append(f"{row['case']:10}{row['pairs']:8,}{row['gets']:8,}{figures}   {row['target']}{verdict}")
    return lines


def measure(proxy: CountingProxy, draw: random.Random, words: argparse.Namespace) -> list[dict[str, Any]]:
    """All cases, each with fresh caches; what is put does not pass the proxy."""
    results: list[dict[str, Any]] = []
    size = words.kb * 1000
    pictures = [draw.randbytes(5 * size + draw.randrange(-size, size)) for _ in range(1000)]
    tars = put_tars("s3://bench/t", pictures, 64)
    references, places, wanted = [uri for uri, _ in tars], dict(tars), sum(map(len, pictures))
    cells = [draw.randbytes(size) for _ in range(words.pictures)]
    tables = {kind: put_tables(f"s3://bench/{kind}", cells, kind) for kind in ("parquet", "arrow")}
    os.environ["AWS_ENDPOINT_URL"] = proxy.url

    def case(
        name: str, target: str, work: Iterator[list[str]], known: dict[str, Place], base: int, gets: float, times: float, pause: float = 0.0
    ) -> None:
        proxy.reset()
        pairs, waited, seconds = read_all(Sources(64 * 2**20), work, known, pause)
        figures = {"gets_per_pair": proxy.gets / pairs, "bytes_per_byte": proxy.bytes / base, "waited": waited / seconds}
        met = figures["gets_per_pair"] <= gets and figures["bytes_per_byte"] <= times and (not pause or figures["waited"] < 0.05)
        results.append({"case": name, "pairs": pairs, "gets": proxy.gets, **figures, "seconds": seconds, "target": target, "met": met})

    free = float("inf")
    case("tar", "1.1 GETs a picture, 1.05 times its bytes", shards(references, 1), places, wanted, 1.1, 1.05)
    case("tar-names", "none", shards(references, 1), {}, wanted, free, free)
    for kind, (cell_references, file_bytes) in tables.items():
        target = "3 times the files' bytes" if kind == "parquet" else "none"
        case(kind, target, shards(cell_references, 3), {}, file_bytes, free, 3.0 if kind == "parquet" else free)
    some = references[: words.pairs]
    case("wait", "waits below 5 % at 50 ms a pair", shards(some, 1), places, sum(map(len, pictures[: words.pairs])), free, free, PAIR_SECONDS)
    return results


if __name__ == "__main__":
    main()
