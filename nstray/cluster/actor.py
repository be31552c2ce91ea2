"""The Ray actor that holds one device: a `Worker` in a process of its own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import ray

from nstray import storage
from nstray.cluster.metrics import WorkerMetrics
from nstray.cluster.resources import Devices
from nstray.errors import ConfigError, NstrayError, OutputError
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.text import log_to_stderr
from nstray.worker.messages import JobSpec, ShardReport, WorkerProgress


class WorkerActor:
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
                raise ConfigError(
                    "device cuda: this worker's torch sees no GPU; install a CUDA build there or use --device cpu"
                )
            device, limit = ("cuda", None) if cuda and want != "cpu" else ("cpu", threads)

            def load() -> VGGWeights:
                tensors = {name: torch.tensor(array) for name, array in weights.arrays.items()}
                return VGGWeights(tensors, weights.id, weights.source, weights.input)

            self._worker = Worker(spec, load, device, limit)
            if not spec.trial and storage.head(Output(spec.out).job_uri) is None:
                raise OutputError(
                    f"{storage.redact(spec.out)}: this machine does not see it; a job on several machines needs s3:// or a shared folder"
                )
            self._metrics = WorkerMetrics(
                storage.redact(spec.out), os.getpid(), self._worker.progress()
            )
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
        return {
            "node": node,
            "host": host,
            "device": self._worker.device_name,
            "pid": os.getpid(),
            "seconds": seconds,
        }

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def progress(self) -> WorkerProgress:
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
    def one(
        self, shard: Shard, index: int, attempt: int, lost: tuple[str, str] | None
    ) -> dict[str, Any]:
        """See `Worker.one`; with `lost`, the error row of a pair that is not touched again."""
        if lost is not None:
            return self._worker.failed_row(shard, index, attempt, *lost)
        return self._worker.one(shard, index, attempt)

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def commit_rows(
        self, shard: Shard, rows: list[dict[str, Any]], started: float, attempt: int
    ) -> ShardReport:
        """See `Worker.commit_rows`."""
        try:
            return self._worker.commit_rows(shard, rows, started, attempt)
        finally:
            self._metrics.export(self._worker.progress())


def actor_factory(spec: JobSpec, weights: Any) -> Callable[[Devices], Any]:
    """A function that creates one Stylist actor; the weights travel once per node, through the object store."""
    stored = ray.put(weights)
    groups = {"work": spec.config.depth + 1, "health": 1}
    actor_class = ray.remote(concurrency_groups=groups)(WorkerActor)

    def create(found: Devices) -> Any:
        resources: dict[str, Any] = (
            {"num_cpus": found.threads}
            if found.kind == "cpu"
            else {"num_cpus": 1, "num_gpus": spec.config.gpus_per_actor}
        )
        if found.without:
            resources["label_selector"] = {"ray.io/node-id": f"!in({','.join(found.without)})"}
        return actor_class.options(max_restarts=0, **resources).remote(
            spec, stored, found.kind, found.threads
        )

    return create
