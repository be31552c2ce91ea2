"""A job on several hosts, of which one is cut off, slow, late, leaving, in another time, or broken."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import jobs
import pytest
import saboteur

from nstray import storage
from nstray.commands import verify
from nstray.output.part_file import read_footer

PAIRS = 15


@pytest.fixture(scope="module")
def network() -> Iterator[hosts.Network]:
    if why := hosts.missing():
        pytest.skip(why)
    with jobs.ray_folder() as folder:
        made = hosts.Network(folder)
        try:
            made.head()
            yield made
        finally:
            made.end()


@pytest.fixture
def cluster(network: hosts.Network) -> Iterator[hosts.Network]:
    """A head that lends nothing; a test adds the nodes."""
    yield network
    network.clear()


class Run:
    """``nstray run`` on the head's host."""

    def __init__(self, network: hosts.Network, base: Path, evaluations: int = 100, **more: Any) -> None:
        self.head, self.out, self.log = network.hosts[0], str(base / "out"), base / "log"
        manifest, weights = jobs.write_inputs(str(base / "in"))
        settings = {**jobs.SETTINGS, "weights": weights, "evaluations": evaluations, "cpus_per_actor": 1, **more}
        self.words = [*jobs.NSTRAY, "run", manifest, self.out, *jobs.options(settings)]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        return self.head.start(self.words, self.log, {"RAY_ADDRESS": f"{self.head.address}:{hosts.PORT}"})

    def text(self) -> str:
        return self.log.read_text()

    def footers(self) -> dict[str, dict[str, Any]]:
        return {name: read_footer(storage.join(self.out, f"data/{name}")).footer for name in jobs.parts(self.out)}

    def by(self, host: hosts.Host) -> int:
        """Parts that a host has committed."""
        return sum(footer["host"] == host.name for footer in self.footers().values())

    def until(self, true: Any, what: str, seconds: float = 300) -> None:
        jobs.until(true, f"{what}\n{self.text()}", seconds=seconds, alive=self.process, every=0.1)

    def finish(self, seconds: float = 400) -> str:
        """It ends by itself with every pair once and verified. Returns the log."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running\n{self.text()}")
        assert code == 0, self.text()
        assert [(r["pair_id"], r["status"]) for r in jobs.rows(self.out)] == [(i, "ok") for i in jobs.all_pairs()]
        report = verify.verify(self.out)
        assert (report.problems, report.rows) == ([], PAIRS)
        return self.text()

    def finish_twice(self) -> str:
        """The same, and running it again changes nothing."""
        log, kept = self.finish(), jobs.parts(self.out)
        assert self.start().wait(60) == 0
        assert jobs.parts(self.out) == kept
        return log


def test_a_node_that_joins_in_the_middle_gets_work_in_another_time_too(cluster: hosts.Network, tmp_path: Path) -> None:
    """Its clock is three days behind, where faketime is installed; nothing is decided by the time that a machine tells."""
    wrong = ("faketime", "-f", "-3d") if shutil.which("faketime") else ()
    first = cluster.node()
    run = Run(cluster, tmp_path)
    run.until(lambda: run.by(first) >= 1, "a part of the first node")
    second = cluster.node(prefix=wrong)
    first.signal(signal.SIGSTOP, "ray::WorkerActor")
    run.until(lambda: run.by(second) >= 1, "a part of the second node")
    first.signal(signal.SIGCONT, "ray::WorkerActor")
    run.finish()
    assert run.by(first) + run.by(second) == PAIRS
    assert run.by(second) >= 1
    finished = {footer["host"]: footer["finished"] for footer in run.footers().values()}
    assert (finished[first.name] - finished[second.name] > 2 * 86400) == bool(wrong)


def test_a_node_cut_off_is_replaced_and_its_late_part_loses(cluster: hosts.Network, tmp_path: Path) -> None:
    one, two = cluster.node(), cluster.node()
    run = Run(cluster, tmp_path, 150)
    run.until(lambda: run.by(one) and run.by(two), "parts of both")
    workers = two.workers()
    assert workers
    two.cut()
    for pid in workers:  # its store is out of reach too: a shared disk is not cut with the link
        os.kill(pid, signal.SIGSTOP)
    log = run.finish_twice()
    assert "reason=node_lost" in log
    kept = jobs.parts(run.out)
    assert run.by(one) >= PAIRS // 2
    two.mend()
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    jobs.until(lambda: not two.workers(), "the end of the node that was given up by Ray", seconds=60)
    assert jobs.parts(run.out) == kept
    assert verify.verify(run.out).problems == []


def test_a_slow_node_holds_nothing_up(cluster: hosts.Network, tmp_path: Path) -> None:
    """Its network waits 200 ms per packet, where the kernel has netem; its workers stand still nine tenths of the time in any case."""
    one, two = cluster.node(), cluster.node()
    run = Run(cluster, tmp_path, 150)
    run.until(lambda: len(two.workers()) and run.by(one), "workers of both")
    subprocess.run(["ip", "netns", "exec", two.space, "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "200ms"], capture_output=True)
    stop = threading.Event()

    def slow() -> None:
        while not stop.is_set():
            two.signal(signal.SIGSTOP, "ray::WorkerActor")
            stop.wait(0.9)
            two.signal(signal.SIGCONT, "ray::WorkerActor")
            stop.wait(0.1)

    thread = threading.Thread(target=slow, daemon=True)
    thread.start()
    try:
        log = run.finish()
    finally:
        stop.set()
        thread.join()
    assert run.by(one) > run.by(two)
    assert "event=stalled" not in log


def test_nodes_that_are_stopped_or_lose_their_raylet_lose_nothing(cluster: hosts.Network, tmp_path: Path) -> None:
    stays, stopped, killed = cluster.node(), cluster.node(), cluster.node()
    run = Run(cluster, tmp_path, 150)
    run.until(lambda: run.by(stopped) and run.by(killed), "parts of both")
    kept = jobs.parts(run.out)
    stopped.signal(signal.SIGTERM, "raylet/raylet")
    killed.signal(signal.SIGKILL, "raylet/raylet")
    log = run.finish()
    assert {name: jobs.parts(run.out)[name] for name in kept} == kept
    assert run.by(stays)
    assert "event=careful" not in log
    assert "event=node_given_up" not in log


def test_workers_whose_node_dies_before_they_are_ready_do_not_end_the_job(cluster: hosts.Network, tmp_path: Path) -> None:
    """Three at once, which is as many as end a job where they fail by themselves."""
    slow = saboteur.write(tmp_path / "slow", {"start": "hang"})
    doomed = cluster.node("--num-cpus=3", env={"PYTHONPATH": os.pathsep.join([slow, os.environ.get("PYTHONPATH", "")])})
    run = Run(cluster, tmp_path)
    run.until(lambda: len(doomed.workers()) == 3, "three workers that are starting")
    cluster.remove(doomed)
    other = cluster.node()
    log = run.finish()
    assert run.by(other) == PAIRS
    assert log.count("event=start_lost") == 3
    assert "event=start_failed" not in log


def test_a_node_that_does_not_see_the_output_ends_the_job(cluster: hosts.Network, tmp_path: Path) -> None:
    """Before a pair is made; the message names the node."""
    blind = cluster.node()
    jobs.until(lambda: blind.address in cluster.nodes(), "the node", every=0.3)
    run = Run(cluster, Path(cluster.temporary) / "own")  # that folder is each host's own
    assert run.process.wait(90) == 2, run.text()
    assert jobs.parts(run.out) == {}
    last = run.text().strip().splitlines()[-1]
    assert f"node {cluster.nodes()[blind.address]} ({blind.address} {blind.name}) sees no .nstray/job.json there" in last


@pytest.mark.parametrize("fault", ["*", "start"])
def test_a_broken_node_is_given_up_and_the_job_goes_on(cluster: hosts.Network, tmp_path: Path, fault: str) -> None:
    """Every worker there dies of its first shard, or does not start; the other node finishes them all."""
    one = cluster.node()
    bad = saboteur.write(tmp_path / "bad", {fault: "die"})
    two = cluster.node(env={"PYTHONPATH": os.pathsep.join([bad, os.environ.get("PYTHONPATH", "")])})
    run = Run(cluster, tmp_path, 300)
    if fault == "start":  # the good node must not be done before the bad one has failed three times
        run.until(lambda: "event=worker_ready" in run.text(), "the good node's worker")
        one.signal(signal.SIGSTOP, "ray::WorkerActor")
        run.until(lambda: "event=node_given_up" in run.text(), "the end of patience with the bad node", seconds=400)
        one.signal(signal.SIGCONT, "ray::WorkerActor")
    log = run.finish()
    assert run.by(one) == PAIRS
    assert run.by(two) == 0
    assert log.count("event=node_given_up") == 1
    ready = log.count("event=worker_ready")
    assert ready == 1 if fault == "start" else 4 <= ready <= 8
    assert ("libfoo.so.3" in log.partition("event=node_given_up")[2].partition("\n")[0]) == (fault == "start")
