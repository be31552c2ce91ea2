"""How many workers the cluster has room for, and on what."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import ray

from nstray.cluster.ray_session import draining_nodes
from nstray.config import JobConfig
from nstray.errors import ConfigError


@dataclass(frozen=True)
class Devices:
    """What the cluster holds for workers.

    Attributes:
        kind: cuda, auto or cpu. count: workers that fit. threads: CPU threads of each.
        excluded: ids of nodes that are not to be used.
        draining: ids of nodes that are about to go: Ray starts nothing new there.
        per_device: workers that share a GPU.
    """

    kind: str
    count: int
    threads: int
    excluded: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    per_device: int = 1


def devices(
    config: JobConfig, begun: Devices | None = None, excluded: Collection[str] = ()
) -> Devices:
    """Count the workers that fit the cluster now.

    Nodes that are draining do not count. A worker on a GPU takes a CPU of its node too. Raises
    ConfigError if a job that begins wants a device that is not there, and nothing says to wait for
    it.

    Args:
        begun: what the job began on. It stays on this kind of device.
        excluded: ids of nodes that do not count.
    """
    alive = [n for n in ray.nodes() if n["Alive"]]
    draining = tuple(draining_nodes())
    nodes = [n["Resources"] for n in alive if n.get("NodeID") not in {*excluded, *draining}]
    unused = tuple(sorted(excluded)), draining
    gpus = sum(int(n["Resources"].get("GPU", 0)) for n in alive)
    on_gpus = (
        begun.kind != "cpu"
        if begun
        else config.device == "cuda" or (config.device == "auto" and gpus > 0)
    )
    if on_gpus:
        if begun is None and not gpus and config.actors is None:
            raise ConfigError(
                "device cuda: the cluster has no GPU; use --device cpu, or --actors N to wait "
                "for an autoscaler to bring some"
            )
        per_gpu = math.floor(1 / config.gpus_per_actor)
        # A worker that fits the GPUs but not the CPUs is never placed. To an autoscaler it would be
        # demand for further machines.
        fit = sum(min(int(n.get("GPU", 0)) * per_gpu, int(n.get("CPU", 0))) for n in nodes)
        if begun is None and gpus and not fit and not any(unused) and config.actors is None:
            raise ConfigError(
                "the cluster's nodes with GPUs have no CPU, of which a worker takes one; start "
                "them with --num-cpus, or use --device cpu"
            )
        # Workers on logical GPUs of a machine without CUDA run on its CPU, and share its threads.
        cpus = max((int(n.get("CPU", 1)) for n in nodes if n.get("GPU")), default=1)
        most = max((int(n.get("GPU", 0)) for n in nodes), default=1) or 1
        return Devices(
            "cuda" if config.device == "cuda" else "auto",
            fit,
            max(1, cpus // (most * per_gpu)),
            *unused,
            per_device=per_gpu,
        )
    cores = [int(n.get("CPU", 0)) for n in nodes]
    threads = max(1, min(config.cpus_per_actor, max(cores, default=1)))
    fit = sum(c // threads for c in cores)
    return Devices("cpu", fit if any(unused) else max(1, fit), threads, *unused)


def dead_nodes() -> set[str]:
    """Ids of the nodes that were lost."""
    return {n["NodeID"] for n in ray.nodes() if not n["Alive"]}
