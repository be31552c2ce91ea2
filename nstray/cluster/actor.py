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
from nstray.errors import ConfigError, NstrayError, OutputError, StorageError, Unreachable
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.text import log_to_stderr
from nstray.worker.messages import JobSpec, ShardReport, WorkerProgress


class WorkerActor:
    """A `Worker` in a process of its own: one per GPU, or per group of CPU threads.

    Args:
        weights: the network's arrays with id, source, input, padding and pooling.
        want: cuda, auto or cpu. threads: CPU threads of an evaluation on a CPU.
    """

    def __init__(self, spec: JobSpec, weights: Any, want: str, threads: int) -> None:
        # Imported here: the driver imports this module too, and torch takes 700 MB of memory.
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
                    "device cuda: this worker's torch sees no GPU; install a CUDA build there "
                    "or use --device cpu"
                )
            device, limit = ("cuda", None) if cuda and want != "cpu" else ("cpu", threads)

            def load() -> VGGWeights:
                tensors = {name: torch.tensor(array) for name, array in weights.arrays.items()}
                return VGGWeights(tensors, **weights.about)

            self._worker = Worker(spec, load, device, limit)
            if not spec.trial:
                check_output(spec)
            self._metrics = WorkerMetrics(spec.out, os.getpid(), self._worker.progress())
        except NstrayError as error:
            # Ray turns what a constructor raises into text, so `ready` raises it.
            self._failure = error

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def ready(self) -> dict[str, Any]:
        """Where this actor runs, and seconds since it began; answers once the network is loaded.

        Raises the NstrayError that kept the network from loading.
        """
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
        """See `Worker.progress`; the metrics are exported too."""
        now = self._worker.progress()
        self._metrics.export(now)
        return now

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def drain(self) -> None:
        """See `Worker.drain`."""
        self._worker.drain()

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """See `Worker.close`."""
        self._worker.close()

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def process(self, shard: Shard, attempt: int) -> ShardReport:
        """See `Worker.process`."""
        try:
            return self._worker.process(shard, attempt)
        finally:
            self._metrics.export(self._worker.progress())

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def process_single(
        self, shard: Shard, index: int, attempt: int, lost: tuple[str, str] | None
    ) -> dict[str, Any]:
        """See `Worker.process_single`.

        With `lost`, an error code and its message, the pair is not run and this is its error row.
        """
        if lost is not None:
            return self._worker.failed_row(shard, index, attempt, *lost)
        return self._worker.process_single(shard, index, attempt)

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def commit_isolated(
        self, shard: Shard, rows: list[dict[str, Any]], started: float, attempt: int
    ) -> ShardReport:
        """See `Worker.commit_isolated`."""
        try:
            return self._worker.commit_isolated(shard, rows, started, attempt)
        finally:
            self._metrics.export(self._worker.progress())


def check_output(spec: JobSpec) -> None:
    """Raise `OutputError`, naming this node, if it does not see the folder that the driver sees.

    A folder of the same path may be another one, on this machine's own disk. The record of the job
    tells. An object store that does not answer is no other folder: the worker's first shard asks
    it again, for longer.
    """
    output = Output(spec.out)
    where = ray.util.get_node_ip_address(), socket.gethostname()
    node = f"node {ray.get_runtime_context().get_node_id()} ({' '.join(where)})"
    needs = "a job on several machines needs an OUT on s3:// or in a folder that all nodes mount"
    try:
        if storage.is_uri(output.out):
            if storage.head(output.job_uri) is None:
                raise OutputError(f"{output}: {node} sees no .nstray/job.json there; {needs}")
            return
        record = output.job.find()
    except StorageError as error:
        if isinstance(error, Unreachable) and storage.is_uri(output.out):
            return
        raise OutputError(
            f"{output}: {node} can't read .nstray/job.json: {error}; {needs}"
        ) from None
    if record is None:
        raise OutputError(f"{output}: {node} sees no .nstray/job.json there; {needs}")
    if spec.begun is not None and record.get("created_at") != spec.begun:
        raise OutputError(
            f"{output}: {node} sees another folder there than the driver: its .nstray/job.json is "
            f"of {record.get('created_at')}, and that of this job of {spec.begun}; {needs}"
        )


def actor_factory(spec: JobSpec, weights: Any) -> Callable[[Devices], Any]:
    """A function that creates one `WorkerActor`.

    The weights travel once per node, through Ray's object store.
    """
    stored = ray.put(weights)
    groups = {"work": spec.config.depth + 1, "health": 1}
    actor_class = ray.remote(concurrency_groups=groups)(WorkerActor)

    def create(found: Devices) -> Any:
        resources: dict[str, Any] = (
            {"num_cpus": found.threads}
            if found.kind == "cpu"
            else {"num_cpus": 1, "num_gpus": spec.config.gpus_per_actor}
        )
        if found.excluded:
            resources["label_selector"] = {"ray.io/node-id": f"!in({','.join(found.excluded)})"}
        return actor_class.options(max_restarts=0, **resources).remote(
            spec, stored, found.kind, found.threads
        )

    return create
