"""The actor that holds a device; how many of them the cluster has room for; and the cluster itself: connecting and leaving."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions as rex
from ray._private import ray_constants, services
from ray._private.state import state as ray_state

from nstray import storage
from nstray.cluster.metrics import WorkerMetrics
from nstray.config import JobConfig
from nstray.errors import ConfigError, JobFailed, NstrayError, OutputError
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.text import log_to_stderr
from nstray.worker.messages import JobSpec, Progress, ShardReport

log = logging.getLogger("nstray.cluster")
LEAVE = 2.0  # seconds that workers are given at the end of a run to leave their machines in order


class Stylist:
    """The actor: a `Worker` in a process of its own. One per GPU, or per group of CPU threads."""

    def __init__(self, spec: JobSpec, weights: Any, want: str, threads: int) -> None:
        # here and not above: the driver imports this module too, and torch would take 700 MB of it
        import torch

        from nstray.engine.network.weights import VGGWeights
        from nstray.worker.worker import Worker

        log_to_stderr("level=%(levelname)s %(message)s")
        self._began = time.monotonic()
        self._failure: NstrayError | None = None
        cuda = torch.cuda.is_available()
        try:
            if want == "cuda" and not cuda:
                raise ConfigError("device cuda: this worker's torch sees no GPU; install a CUDA build there or use --device cpu")
            device, limit = ("cuda", None) if cuda and want != "cpu" else ("cpu", threads)

            def load() -> VGGWeights:
                tensors = {name: torch.tensor(array) for name, array in weights.arrays.items()}
                return VGGWeights(tensors, weights.id, weights.source, weights.input)

            self._worker = Worker(spec, load, device, limit)
            if not spec.trial and storage.head(Output(spec.out).job_uri) is None:
                raise OutputError(
                    f"{storage.redact(spec.out)}: this machine does not see it; a job on several machines needs s3:// or a shared folder"
                )
            self._metrics = WorkerMetrics(storage.redact(spec.out), os.getpid(), self._worker.progress())
        except NstrayError as error:
            # Ray turns what a constructor raises into text; `ready` raises it as it is.
            self._failure = error

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def ready(self) -> dict[str, Any]:
        """Where this actor runs, and seconds since it began; answers once the network is loaded. Raises what kept it from loading."""
        if self._failure is not None:
            raise self._failure
        node, host = ray.get_runtime_context().get_node_id(), socket.gethostname()
        seconds = time.monotonic() - self._began
        return {"node": node, "host": host, "device": self._worker.device_name, "pid": os.getpid(), "seconds": seconds}

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def progress(self) -> Progress:
        """See `Worker.progress`; exported as metrics too."""
        now = self._worker.progress()
        self._metrics.export(now)
        return now

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def drain(self) -> None:
        """See `Worker.drain`."""
        self._worker.drain()

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def leave(self) -> None:
        """See `Worker.leave`."""
        self._worker.leave()

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def process(self, shard: Shard, attempt: int) -> ShardReport:
        """See `Worker.process`."""
        try:
            return self._worker.process(shard, attempt)
        finally:
            self._metrics.export(self._worker.progress())

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def one(self, shard: Shard, index: int, attempt: int, lost: tuple[str, str] | None) -> dict[str, Any]:
        """See `Worker.one`; with `lost`, the error row of a pair that is not touched again."""
        if lost is not None:
            return self._worker.failed_row(shard, index, attempt, *lost)
        return self._worker.one(shard, index, attempt)

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def commit_rows(self, shard: Shard, rows: list[dict[str, Any]], started: float, attempt: int) -> ShardReport:
        """See `Worker.commit_rows`."""
        try:
            return self._worker.commit_rows(shard, rows, started, attempt)
        finally:
            self._metrics.export(self._worker.progress())


@dataclass(frozen=True)
class Devices:
    """What the cluster holds for workers: how many fit, on what, with how many threads each."""

    kind: str  # cuda, auto or cpu
    count: int
    threads: int
    without: tuple[str, ...] = ()  # ids of nodes that are not to be used
    draining: tuple[str, ...] = ()  # ids of nodes that are about to go: Ray starts nothing new there
    per_device: int = 1  # workers that share a GPU


def devices(config: JobConfig, begun: Devices | None = None, without: Collection[str] = ()) -> Devices:
    """Workers that fit the cluster now, on the kind of device that the job has `begun` on: it does not change over.

    Nodes whose ids are in `without`, and those that are draining, do not count. A worker on a GPU takes a CPU of its node too.

    Raises ConfigError where the wanted device is not there at the beginning and nothing says to wait for it.
    """
    alive = [n for n in ray.nodes() if n["Alive"]]
    draining = tuple(sorted(ray_state.get_draining_nodes()))  # private, but what Ray's own libraries ask: nothing public says it (2.60)
    nodes = [n["Resources"] for n in alive if n.get("NodeID") not in {*without, *draining}]
    away = tuple(sorted(without)), draining
    gpus = sum(int(n["Resources"].get("GPU", 0)) for n in alive)
    on_gpus = begun.kind != "cpu" if begun else config.device == "cuda" or (config.device == "auto" and gpus > 0)
    if on_gpus:
        if begun is None and not gpus and config.actors is None:
            raise ConfigError("device cuda: the cluster has no GPU; use --device cpu, or --actors N to wait for an autoscaler to bring some")
        per_gpu = math.floor(1 / config.gpus_per_actor)
        # Workers that would fit the GPUs but not the CPUs are never placed, and to an autoscaler they are demand for further machines.
        fit = sum(min(int(n.get("GPU", 0)) * per_gpu, int(n.get("CPU", 0))) for n in nodes)
        if begun is None and gpus and not fit and not any(away) and config.actors is None:
            raise ConfigError(
                "the cluster's nodes with GPUs have no CPU, of which a worker takes one; start them with --num-cpus, or use --device cpu"
            )
        # Logical GPUs on a machine without CUDA run on its CPU: then the threads are shared out.
        cpus = max((int(n.get("CPU", 1)) for n in nodes if n.get("GPU")), default=1)
        most = max((int(n.get("GPU", 0)) for n in nodes), default=1) or 1
        return Devices("cuda" if config.device == "cuda" else "auto", fit, max(1, cpus // (most * per_gpu)), *away, per_device=per_gpu)
    cores = [int(n.get("CPU", 0)) for n in nodes]
    threads = max(1, min(config.cpus_per_actor, max(cores, default=1)))
    fit = sum(c // threads for c in cores)
    return Devices("cpu", fit if any(away) else max(1, fit), threads, *away)


def stylist_factory(spec: JobSpec, weights: Any) -> Callable[[Devices], Any]:
    """A function that creates one Stylist actor; the weights travel once per node, through the object store."""
    stored = ray.put(weights)
    groups = {"work": spec.config.depth + 1, "health": 1}
    actor_class = ray.remote(concurrency_groups=groups)(Stylist)

    def create(found: Devices) -> Any:
        resources: dict[str, Any] = {"num_cpus": found.threads} if found.kind == "cpu" else {"num_cpus": 1, "num_gpus": spec.config.gpus_per_actor}
        if found.without:
            resources["label_selector"] = {"ray.io/node-id": f"!in({','.join(found.without)})"}
        return actor_class.options(max_restarts=0, **resources).remote(spec, stored, found.kind, found.threads)

    return create


def dismiss(actors: Sequence[Any]) -> None:
    """End workers; those that answer soon give up first what they share on their machines."""
    try:
        with contextlib.suppress(rex.RayError):
            ray.wait([actor.leave.remote() for actor in actors], num_returns=max(1, len(actors)), timeout=LEAVE)
    finally:
        for actor in actors:
            ray.kill(actor)


def node_of(error: BaseException) -> str | None:
    """The id of the node that a worker failed on, by the address that Ray's error names; None where that is not one node's."""
    named = re.search(r"\bip[=:] ?([0-9a-fA-F.:]*[0-9a-fA-F])", str(error))
    found = [n["NodeID"] for n in ray.nodes() if n["Alive"] and named and n["NodeManagerAddress"] == named[1]]
    return found[0] if len(found) == 1 else None


def gone_with(error: BaseException) -> str | None:
    """The id of the node that died with a worker on it, by the one that Ray's error names; None where it names none, or one that lives."""
    named = re.search(r"\bNode Id: ([0-9a-f]+)", str(error))
    alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
    return named[1] if named and named[1] not in alive else None


def start_ray() -> None:
    """Connect to the cluster of RAY_ADDRESS or of `ray job submit`, or start one on this machine; raises JobFailed."""
    address = os.environ.get("RAY_ADDRESS", "")
    if why := _silent(address):
        raise JobFailed(f"RAY_ADDRESS {address}: no Ray head answers there ({why}); start one, correct the address, or unset it")
    # where none is named Ray takes the last one started here, though it may have died without `ray stop`
    if not address and (last := services.canonicalize_bootstrap_address(None)) and (why := _silent(last)):
        log.warning("event=ray_gone address=%s error=%r next='a Ray of this machine alone; ray stop forgets the old one'", last, str(why))
        address = "local"
    try:
        _stay_on_loopback(address)
        # No dashboard for a cluster of our own: its ten processes cost a machine of two cores 5 to 10 % (an existing cluster keeps its own).
        ray.init(address or None, logging_level=logging.WARNING, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError, rex.RayError) as error:
        raise JobFailed(f"Ray did not start: {short(error)}") from None


def _silent(address: str) -> OSError | None:
    """Why nothing takes connections at [SCHEME://]HOST:PORT; None where something does, or `address` is no such thing.

    ray.init retries a dead address for minutes without a word.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            return error
    return None


def _stay_on_loopback(address: str) -> None:
    """Let a cluster that is about to be started here listen on loopback only; an existing one is as its owner made it."""
    if address not in ("", "local") or services.canonicalize_bootstrap_address(address or None) is not None:
        return
    # Its processes read the variable; this one has read it already, as it imported ray, and would give them the machine's address.
    if os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0") == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False


def stop_ray() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def short(error: BaseException) -> str:
    """The line that says why: Ray's errors carry whole tracebacks, and the reason of a death below what it died of."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return storage.redact(f"{type(error).__name__}: {lines[-1] if lines else ''}")[:400]
