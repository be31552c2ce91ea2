"""How long a run may take, before anything of it is measured: arithmetic from a stored rate.

An evaluation costs its pixels times a rate that grows with the network's multiplications, and a
fixed part. The rates are of one machine each, so the result is a guess, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nstray.cluster import ray_address
from nstray.commands.cost import PairCost, cost_of
from nstray.commands.prepare import Job
from nstray.commands.shard_size import on_cpu
from nstray.config import make
from nstray.system.gpus import has_gpu
from nstray.text import duration
from nstray.worker.messages import FIXED_PIXELS

# Multiplications per pixel of a VGG-19 of full width from conv1_1 to conv5_1.
FULL = 361_152
COMPACT = 1 / 16  # of them: the network of `quick`
# Core-seconds per pixel and evaluation: of the multiplications of a whole FULL, and the rest. Two
# cores of an AMD EPYC took 0.455 s at 256 x 256 with the full network, and 0.0519 s at 256 x 192
# and 0.1832 s at 512 x 384 with the compact one (scripts/results/engine-cpu.md, compact-cpu.txt).
CPU = (12.9e-6, 1.0e-6)
# Seconds on a GPU. Never measured: 10 TFLOP/s for the four operations of each multiplication
# (forward and backward), and a seventh of the full network's time for the rest.
GPU = (0.144e-6, 0.02e-6)
LONG = 3600.0  # seconds from which a hint is given


def guess(job: Job) -> dict[str, Any] | None:
    """The fields of the log's ``event=guess``, and ``seconds``, for a job with nothing done.

    None if it runs on a cluster elsewhere, whose devices are not known yet.
    """
    config = job.config
    if ray_address.given() not in ("", "local"):
        return None
    cpu = on_cpu(config) or not has_gpu()
    cores = os.cpu_count() or 1
    threads = min(config.cpus_per_actor, cores)
    workers = min(config.actors or cores, max(1, cores // threads))
    devices = workers * threads if cpu else config.actors or 1
    share = multiplications(job.weights.arrays) / FULL
    cost = cost_of(config)
    pairs = job.cost.evaluations / cost.budget  # of the cost of one without settings of its own

    def seconds(cost: PairCost, share: float) -> float:
        return pairs * pair_seconds(cost, share, cpu=cpu) / devices

    total = seconds(cost, share)
    found: dict[str, Any] = {
        "seconds": total,
        "eta": duration(total),
        "pair_seconds": f"{total * (workers if cpu else devices) / pairs:.3g}",
        "basis": f"stored_rate_of_{'a_cpu_core' if cpu else 'a_gpu'}",
        "devices": f"{devices}_{'cores' if cpu else 'gpus'}",
    }
    if total > LONG:
        found["hint"] = _hint(job, seconds)
    return found


def multiplications(arrays: Mapping[str, Any]) -> float:
    """Those per pixel of the convolutions in `arrays` (``conv1_1.weight``: (N, C, 3, 3))."""
    return sum(
        int(array.size) / 4 ** (int(name[4]) - 1.0)
        for name, array in arrays.items()
        if name.endswith(".weight")
    )


def pair_seconds(cost: PairCost, share: float, *, cpu: bool) -> float:
    """Seconds of a pair on one core or GPU; `share` is the network's part of `FULL`."""
    by_width, rest = CPU if cpu else GPU
    return (by_width * share + rest) * (cost.work + FIXED_PIXELS * cost.budget)


def _hint(job: Job, seconds: Any) -> str:
    """What would take less time, and how much."""
    ways = []
    size = job.config.size
    quick = cost_of(make({"preset": "quick", "size": size, "size_rule": job.config.size_rule}))
    if job.weights.source != "compact" and (less := seconds(quick, COMPACT)) < 0.5 * seconds(
        cost_of(job.config), 1.0
    ):
        ways.append(f"--preset quick would take about {duration(less)}")
    if isinstance(size, int) and size >= 256:
        ways.append(f"--size {size // 2} about a quarter of the time")
    ways.append("nstray plan --probe measures")
    return "; ".join(ways)
