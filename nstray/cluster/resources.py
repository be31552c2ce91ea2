"""How many workers the cluster has room for, and on what."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import ray
from ray._private.state import state as ray_state

from nstray.config import JobConfig
from nstray.errors import ConfigError


@dataclass(frozen=True)
class Devices:
    """What the cluster holds for workers: how many fit, on what, with how many threads each."""

    kind: str  # cuda, auto or cpu
    count: int
    threads: int
    without: tuple[str, ...] = ()  # ids of nodes that are not to be used
    draining: tuple[
        str, ...
    ] = ()  # ids of nodes that are about to go: Ray starts nothing new there
    per_device: int = 1  # workers that share a GPU


def devices(
    config: JobConfig, begun: Devices | None = None, without: Collection[str] = ()
) -> Devices:
    """Workers that fit the cluster now, on the kind of device that the job has `begun` on: it does not change over.

    Nodes whose ids are in `without`, and those that are draining, do not count. A worker on a GPU takes a CPU of its node too.

    Raises ConfigError where the wanted device is not there at the beginning and nothing says to wait for it.
    """
    alive = [n for n in ray.nodes() if n["Alive"]]
    draining = tuple(
        sorted(ray_state.get_draining_nodes())
    )  # private, but what Ray's own libraries ask: nothing public says it (2.60)
    nodes = [n["Resources"] for n in alive if n.get("NodeID") not in {*without, *draining}]
    away = tuple(sorted(without)), draining
    gpus = sum(int(n["Resources"].get("GPU", 0)) for n in alive)
    on_gpus = (
        begun.kind != "cpu"
        if begun
        else config.device == "cuda" or (config.device == "auto" and gpus > 0)
    )
    if on_gpus:
        if begun is None and not gpus and config.actors is None:
            raise ConfigError(
                "device cuda: the cluster has no GPU; use --device cpu, or --actors N to wait for an autoscaler to bring some"
            )
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
        return Devices(
            "cuda" if config.device == "cuda" else "auto",
            fit,
            max(1, cpus // (most * per_gpu)),
            *away,
            per_device=per_gpu,
        )
    cores = [int(n.get("CPU", 0)) for n in nodes]
    threads = max(1, min(config.cpus_per_actor, max(cores, default=1)))
    fit = sum(c // threads for c in cores)
    return Devices("cpu", fit if any(away) else max(1, fit), threads, *away)
