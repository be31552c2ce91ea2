"""The workers that a probe measures on: those of a run, but they write nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from types import TracebackType
from typing import Any

import ray
import ray.exceptions as rex

from nstray.cluster.actor import actor_factory
from nstray.cluster.ray_running import ray_running
from nstray.cluster.ray_session import reason_of, shutdown_actors
from nstray.cluster.resources import devices
from nstray.errors import ConfigError, JobFailed, NstrayError
from nstray.manifest.shards import Shard
from nstray.system import stop_signals
from nstray.worker.messages import JobSpec, ShardReport

_ASK_EVERY = 0.5  # seconds until a signal is noticed
MOST = 8  # workers of one machine: they slow each other down by what they share there


class ProbePool:
    """The workers of a probe. Use it as a context manager.

    Raises what keeps the workers of a run from starting, and JobFailed if one dies or hangs.

    Attributes:
        workers: how many there are. wanted: how many the job would have.
        per_device: workers that share a device. device: its name. cpu: whether it is a CPU.
        ray_seconds: for starting Ray and, after the end, for leaving it.
        start_seconds: until every worker had its network.
    """

    def __init__(self, spec: JobSpec, weights: Any) -> None:
        self._spec = dataclasses.replace(spec, trial=True)
        self._weights = weights
        self._actors: list[Any] = []
        self._stack = contextlib.ExitStack()
        self.ray_seconds = self.start_seconds = 0.0

    def __enter__(self) -> ProbePool:
        with contextlib.ExitStack() as stack:
            # No signal raises here: `_all` asks whether one has come.
            stack.enter_context(stop_signals.deferred())
            began = time.monotonic()
            stack.enter_context(ray_running())
            self.ray_seconds = time.monotonic() - began
            self._begin()
            self._stack = stack.pop_all()
        return self

    def _begin(self) -> None:
        config = self._spec.config
        found = devices(config)
        if not found.count:
            raise ConfigError(
                "device cuda: the cluster has no GPU yet, so there is nothing to probe on; probe "
                "again once there is one"
            )
        self.wanted = config.actors or found.count
        self.workers = min(self.wanted, found.count, MOST)
        began = time.monotonic()
        create = actor_factory(self._spec, self._weights)
        self._actors = [create(found) for _ in range(self.workers)]
        ready = self._all([actor.ready.remote() for actor in self._actors])
        self.start_seconds = time.monotonic() - began
        self.device = str(ready[0]["device"])
        self.cpu = self.device == "cpu"
        self.per_device = found.per_device

    def run(self, shard: Shard) -> list[ShardReport]:
        """Run the shard on every worker at once; a report of each."""
        return self._all([actor.process.remote(shard, 1) for actor in self._actors])

    def _all(self, asked: list[Any]) -> list[Any]:
        deadline = time.monotonic() + self._spec.config.stall_timeout
        while len(ray.wait(asked, num_returns=len(asked), timeout=_ASK_EVERY)[0]) < len(asked):
            stop_signals.check()
            if time.monotonic() > deadline:
                raise JobFailed(
                    f"a worker has not answered for {self._spec.config.stall_timeout:g} s "
                    "(stall_timeout) while the job was probed"
                )
        stop_signals.check()
        try:
            found: list[Any] = ray.get(asked)
        except rex.RayError as error:
            if isinstance(cause := getattr(error, "cause", None), NstrayError):
                raise cause from None
            raise JobFailed(
                f"a worker failed while the job was probed: {reason_of(error)}"
            ) from None
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        began = time.monotonic()
        with self._stack:
            shutdown_actors(self._actors)
        self.ray_seconds += time.monotonic() - began
