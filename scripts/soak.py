"""Random faults on real jobs for as long as you like: every job must end with each row once and without a complaint of `nstray verify`.

    python scripts/soak.py [--minutes 20] [--seed 1] [--pairs 150] [--every 8] [--out FILE]

A piece of it has a seed of its own; --out appends, so pieces add up.

Jobs run on a Ray of their own, from and to a real S3 server (scripts/radosgw, which needs Debian's radosgw) behind tests/faults/proxy.py.
Every few seconds a fault is drawn. It is one of processes (driver, worker, raylet or head killed; driver told to stop; a worker stopped for
a while; a second driver) or one of storage, flipped bits among them. Every second job has spaces and letters beyond ASCII in the keys of
its inputs and output. A run that ends is started again with the same command. One seed gives the same faults at the
same pauses; what they meet depends on the machine. Ends with 1 if a row is missing, appears twice, is an error row or was made from other
bytes than the store holds, or if a folder of nstray's stays in TMPDIR or Ray's folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "faults"), str(ROOT / "scripts")]

import jobs  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from ports import free_ports  # noqa: E402
from proxy import FaultProxy  # noqa: E402

from nstray import storage  # noqa: E402
from nstray.commands import verify  # noqa: E402
from nstray.storage import s3_client  # noqa: E402

# What storage does for some seconds, to requests at random.
STORAGE = {
    "500": {"kind": "answer", "status": 500, "code": "InternalError", "probability": 0.5},
    "503": {"kind": "answer", "status": 503, "code": "SlowDown", "probability": 0.5},
    "403 on parts": {"kind": "answer", "status": 403, "code": "AccessDenied", "method": "PUT", "key": "/data/part-", "count": 1},
    "reset": {"kind": "reset", "probability": 0.5},
    "reply dropped": {"kind": "drop_reply", "probability": 0.5},
    "request cut": {"kind": "cut_request", "method": "PUT", "probability": 0.5},
    "body cut": {"kind": "truncate", "probability": 0.5},
    "body reset": {"kind": "reset_body", "probability": 0.5},
    "delay": {"kind": "delay", "seconds": 0.5},
    "no answer": {"kind": "reset"},
    "bits flipped": {"kind": "flip", "method": "GET", "probability": 0.5},
    "bits flipped on the way there": {"kind": "flip_request", "method": "PUT", "probability": 0.5},
}
PROCESSES = ("kill driver", "stop driver", "kill worker", "kill raylet", "kill head", "freeze worker", "second driver")


class Soak:
    """One server, one job after the other, and the faults."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, proxy: FaultProxy, ray: str) -> None:
        self.arguments, self.folder, self.proxy = arguments, folder, proxy
        self.draw = random.Random(arguments.seed)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.ray = Path(ray)
        self.env = {**jobs.LOCAL_RAY, "RAY_TMPDIR": ray, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        self.log = folder / "log"
        self.caused: Counter[str] = Counter()
        self.jobs = self.rows = self.runs = 0
        self.codes: Counter[int] = Counter()
        self.others: list[subprocess.Popen[bytes]] = []
        self.frozen: list[tuple[float, int]] = []

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def start(self) -> subprocess.Popen[bytes]:
        self.runs += 1
        return jobs.start_cli(self.words, self.log, self.env)

    def job(self, until: float) -> None:
        """One job from its first run to its verification."""
        self.jobs += 1
        bucket = f"soak-{self.arguments.seed}-{self.jobs}"
        s3_client.client().create_bucket(Bucket=bucket)
        contents = max(1, self.arguments.pairs // 10)
        given, out = ("in", "out") if self.jobs % 2 else ("ïn 一 'x'", "ré sultats 結果")
        manifest, weights = jobs.write_inputs(f"s3://{bucket}/{given}", contents=contents, styles=10)
        self.out, self.ids = f"s3://{bucket}/{out}", sorted(jobs.all_pairs(contents, 10))
        self.digests = {
            role: {f"{role}{i}": hashlib.sha256(storage.read(f"s3://{bucket}/{given}/{role}{i}.png")).hexdigest() for i in range(number)}
            for role, number in (("c", contents), ("s", 10))
        }
        settings = {**jobs.SETTINGS, "weights": weights, "evaluations": self.arguments.evaluations, "shard_size": 2, "actors": 2, "cpus_per_actor": 1}
        self.words = ["run", manifest, self.out, *jobs.options(settings)]
        process = self.start()
        due = time.monotonic() + self.pause()
        while True:
            if (code := process.poll()) is not None:
                self.codes[code] += 1
                if code == 0:
                    break
                if code in (2, 3):
                    raise SystemExit(f"ended with {code}:\n{self.log.read_text()[-3000:]}")
                if time.monotonic() > until + 600:
                    raise SystemExit("not done ten minutes after the last fault")
                process = self.start()
            self.thaw()
            if time.monotonic() >= due and time.monotonic() < until:
                self.cause(process)
                due = time.monotonic() + self.pause()
            time.sleep(0.2)
        self.proxy.clear()
        for other in self.others:
            self.codes[other.wait(300)] += 1
        self.others.clear()
        self.check()

    def pause(self) -> float:
        return self.draw.uniform(0.3, 1.7) * self.arguments.every

    def cause(self, process: subprocess.Popen[bytes]) -> None:
        name = self.draw.choice([*PROCESSES, *STORAGE])
        if name in STORAGE:
            self.proxy.clear()
            self.proxy.add(**STORAGE[name], duration=self.draw.uniform(1, 6))  # type: ignore[arg-type]
        elif not self.process_fault(name, process):
            return
        self.caused[name] += 1
        self.say(f"{sum(self.caused.values()):4d} {name}")

    def process_fault(self, name: str, process: subprocess.Popen[bytes]) -> bool:
        """Cause the fault; returns False if there is no process to cause it on."""
        below = jobs.descendants(process.pid)
        worker = "ray::WorkerActor"
        found = {part: [p for p in jobs.alive(below) if part in jobs.command(p)] for part in (worker, "raylet/raylet", "gcs_server")}
        if not found[worker]:
            return False  # still starting: what is to be disturbed has not begun
        target = {"kill worker": worker, "freeze worker": worker, "kill raylet": "raylet/raylet", "kill head": "gcs_server"}.get(name)
        if target is not None:
            if not found[target]:
                return False
            pid = self.draw.choice(found[target])
            os.kill(pid, signal.SIGSTOP if name == "freeze worker" else signal.SIGKILL)
            if name == "freeze worker":
                self.frozen.append((time.monotonic() + self.draw.uniform(1, 5), pid))
        elif name == "second driver":
            if self.others:
                return False
            self.others.append(self.start())
        elif name == "kill driver":
            process.kill()
            process.wait(30)
            time.sleep(1)
            jobs.kill(below)
        else:
            process.send_signal(signal.SIGTERM)
        return True

    def thaw(self) -> None:
        for due, pid in [f for f in self.frozen if f[0] <= time.monotonic()]:
            self.frozen.remove((due, pid))
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue

    def check(self) -> None:
        """Check that each pair is there once and ok; raises SystemExit."""
        rows = jobs.rows(self.out)
        wrong = [r for r in rows if r["status"] != "ok"]
        report = verify.verify(self.out)
        if [r["pair_id"] for r in rows] != self.ids or wrong or report.problems:
            raise SystemExit(f"job {self.jobs}: {len(rows)} rows of {len(self.ids)}, written off: {wrong[:5]}, verify: {report.problems[:5]}")
        if other := [row for row in self.sources() if row not in self.expected()]:
            raise SystemExit(f"job {self.jobs}: made from other bytes: {other[:5]}")
        # What a killed run left, the last one has removed.
        if left := [str(p) for p in (*self.temporary.iterdir(), *self.ray.glob("nstray-*"))]:
            raise SystemExit(f"job {self.jobs}: left behind: {left[:5]}")
        self.rows += len(rows)
        self.say(f"job {self.jobs}: {len(rows)} rows, each once, verified")

    def expected(self) -> set[tuple[str, str, str]]:
        """Pair, content's digest and style's of every row."""
        contents, styles = self.digests["c"], self.digests["s"]
        return {(f"{c}-{s}", contents[c], styles[s]) for c in contents for s in styles}

    def sources(self) -> list[tuple[str, str, str]]:
        """The same as the parts have it."""
        found: list[tuple[str, str, str]] = []
        for name in jobs.parts(self.out):
            table = pq.read_table(
                io.BytesIO(storage.read(storage.join(self.out, f"data/{name}"))), columns=["pair_id", "content_sha256", "style_sha256"]
            )
            found += [(row["pair_id"], row["content_sha256"], row["style_sha256"][0]) for row in table.to_pylist()]
        return found

    def end(self) -> None:
        for other in self.others:
            jobs.end(other)


def with_radosgw(folder: Path, then: Callable[[dict[str, str]], None]) -> None:
    script = ROOT / "scripts" / "radosgw"
    started = subprocess.run([script, "start", folder, str(free_ports(2))], capture_output=True, text=True)
    if started.returncode:
        raise SystemExit(started.stderr)
    try:
        then(dict(word.split("=", 1) for word in shlex.split(started.stdout) if "=" in word))
    finally:
        subprocess.run([script, "stop", folder], check=False)


def on_radosgw(bucket: str, then: Callable[[str], None]) -> None:
    """Call `then` with the URI of a new bucket of a radosgw, to which this process's environment leads."""

    def with_environment(env: dict[str, str]) -> None:
        os.environ.update(env)
        s3_client.client().create_bucket(Bucket=bucket)
        then(f"s3://{bucket}")

    with tempfile.TemporaryDirectory(prefix="rgw-", dir="/tmp") as server:
        with_radosgw(Path(server), with_environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=150, help="of each job")
    parser.add_argument("--evaluations", type=int, default=40, help="of each pair")
    parser.add_argument("--every", type=float, default=8.0, help="seconds between faults, in the mean")
    parser.add_argument("--out", type=Path, help="file for the counts")
    arguments = parser.parse_args()

    def soak(variables: dict[str, str]) -> None:
        os.environ.update(variables)
        proxied = FaultProxy(variables["AWS_ENDPOINT_URL"], seed=arguments.seed)
        with proxied as proxy, jobs.ray_folder() as ray, tempfile.TemporaryDirectory() as folder:
            made = Soak(arguments, Path(folder), proxy, ray)
            made.env["AWS_ENDPOINT_URL"] = proxy.url
            began = time.monotonic()
            until = began + 60 * arguments.minutes
            try:
                while time.monotonic() < until:
                    made.job(until)
            finally:
                made.end()
            minutes = (time.monotonic() - began) / 60
            lines = [
                f"{time.strftime('%Y-%m-%d')}   command {' '.join(sys.argv)}",
                f"{minutes:.1f} minutes, {made.jobs} jobs, {made.rows} rows, each once and verified; {made.runs} runs, exit codes "
                + ", ".join(f"{code}: {n}" for code, n in sorted(made.codes.items())),
                f"{sum(made.caused.values())} faults of {len(made.caused)} kinds: " + ", ".join(f"{n} {k}" for k, n in made.caused.most_common()),
                f"requests that met one: {sum(proxy.caused.values())} of {sum(proxy.requests.values())}",
            ]
            print("\n".join(lines))
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write("\n".join(lines) + "\n")

    with tempfile.TemporaryDirectory(prefix="rgw-", dir="/tmp") as server:
        with_radosgw(Path(server), soak)


if __name__ == "__main__":
    main()
