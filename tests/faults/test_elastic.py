"""A submitted job on a cluster that changes under it: machines with two GPUs each join, drain and die, and one has no GPU."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hosts
import jobs
import pytest

from nstray import storage
from nstray.output.part_file import read_footer

CONTENTS, STYLES = 20, 15
WORKERS = "ray::WorkerActor"
GPUS = ("--num-cpus=2", "--num-gpus=2")  # by name: the workers run on the CPU


@pytest.fixture
def network() -> Iterator[hosts.Network]:
    if why := hosts.missing():
        pytest.skip(why)
    with jobs.ray_folder() as folder:
        made = hosts.Network(folder)
        try:
            yield made
        finally:
            made.end()


def test_300_pairs_while_nodes_join_drain_and_die(network: hosts.Network, tmp_path: Path) -> None:
    head = network.head("--include-dashboard=true")
    first, second, plain = network.node(*GPUS), network.node(*GPUS), network.node()
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=CONTENTS, styles=STYLES)
    out, log = str(tmp_path / "out"), tmp_path / "log"
    settings = {**jobs.SETTINGS, "weights": weights, "evaluations": 75, "shard_size": 4}
    words = [*jobs.NSTRAY, "run", manifest, out, *jobs.options(settings)]
    jobs.until(lambda: len(network.nodes()) == 4, "every node", seconds=600, every=2)
    begun = time.monotonic()
    job = head.start([*hosts.RAY, "job", "submit", "--address", "http://127.0.0.1:8265", "--", *words], log)

    def by(host: hosts.Host) -> int:
        """Parts that a host has committed."""
        return sum(read_footer(storage.join(out, f"data/{name}")).footer["host"] == host.name for name in jobs.parts(out))

    def until(true: Callable[[], object], what: str) -> None:
        jobs.until(true, f"{what}\n{log.read_text()}", seconds=600, alive=job, every=0.5)
        print(f"{time.monotonic() - begun:.0f} s: {what}; {len(jobs.parts(out))} parts")

    until(lambda: by(first) and by(second), "parts of two nodes")
    # Whose turn it is not stands still, so that however fast the machine, enough is left of the job for all that is to come.
    first.signal(signal.SIGSTOP, WORKERS)
    second.signal(signal.SIGSTOP, WORKERS)

    joined = network.node(*GPUS)
    until(lambda: joined.address in network.nodes(), "a third node joins")
    until(lambda: by(joined), "a part of the third node")
    joined.signal(signal.SIGSTOP, WORKERS)
    first.signal(signal.SIGCONT, WORKERS)

    leaving = [*hosts.RAY, "drain-node", "--address", f"{head.address}:{hosts.PORT}", "--node-id", network.nodes()[first.address]]
    leaving += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test", "--deadline-remaining-seconds", "300"]
    assert head.start(leaving, tmp_path / "drain.log").wait(60) == 0, (tmp_path / "drain.log").read_text()
    until(lambda: log.read_text().count("event=worker_left") == 2, "both workers of the first node have left")
    until(lambda: first.address not in network.nodes(), "the first node is gone")
    drained = by(first)
    assert "event=retry" not in log.read_text()  # its shards were committed, or handed back before they were begun

    assert len(second.workers()) == 2
    joined.signal(signal.SIGCONT, WORKERS)
    for name in ("raylet/raylet", WORKERS):
        second.signal(signal.SIGKILL, name)
    until(lambda: "reason=node_lost" in log.read_text(), "the second node is found dead")

    assert job.wait(400) == 0, log.read_text()
    print(f"{time.monotonic() - begun:.0f} s: complete; parts {by(first)}, {by(second)}, {by(joined)}")
    assert by(first) == drained
    assert by(plain) == 0  # no GPU, no work
    text = log.read_text()
    assert "event=complete rows=300 ok=300 errors=0" in text
    assert "event=careful" not in text
    assert "event=start_failed" not in text
    assert [(r["pair_id"], r["status"]) for r in jobs.rows(out)] == [(i, "ok") for i in sorted(jobs.all_pairs(CONTENTS, STYLES))]
    verified = subprocess.run([*jobs.NSTRAY, "verify", out, "--json"], capture_output=True, text=True, timeout=400)
    assert (verified.returncode, json.loads(verified.stdout)["rows"]) == (0, 300), verified.stdout + verified.stderr
