"""`shard_size: auto`: the pairs of a part, chosen when a job begins.

A part is what a dying worker loses and what a person waits for, so it should be small. A store
lists parts by the thousand and a reader opens each of them, so there should be few. The number
that is chosen stands in the job's record, and every later run takes it from there.
"""

from __future__ import annotations

import math

from nstray.cluster import ray_address
from nstray.commands.cost import JobCost
from nstray.config import JobConfig
from nstray.system.gpus import has_gpu

FEW_PARTS = 1_000  # parts of a job of small parts at most: a store lists so many at once
USUAL = 16
MANY_PARTS = 1_000_000  # parts of a job beyond which they get larger than USUAL
MOST = 128
PART_BYTES = 1e9  # estimated bytes of a part at most: a worker holds it in memory


def choose(job_cost: JobCost, rows: int, config: JobConfig) -> int:
    """The shard size of a job of `rows` that begins now.

    On CPUs, which optimise pair by pair, it is 1 for up to `FEW_PARTS` rows, and grows with them up
    to `USUAL`. On GPUs, which optimise the pairs of one shard together, it is at least
    `batch_size`. A job of more than `USUAL` x `MANY_PARTS` rows has `MANY_PARTS` parts or so.
    Reads the manifest if its rows have sizes of their own.
    """
    size = by_rows(rows, 1 if on_cpu(config) else config.batch_size)
    if size == 1:
        return 1
    row_bytes = job_cost.row_bytes(rows, PART_BYTES / size)
    return max(1, min(size, int(PART_BYTES / row_bytes)))


def by_rows(rows: int, least: int) -> int:
    """The shard size of a job of `rows` whose workers take at least `least` pairs at once."""
    usual = min(MOST, max(USUAL, math.ceil(rows / MANY_PARTS)))
    return min(MOST, max(least, min(usual, math.ceil(rows / FEW_PARTS))))


def on_cpu(config: JobConfig) -> bool:
    """Whether the workers of a run from here will surely be on CPUs.

    Of a cluster elsewhere nothing is known before the run asks it, so with ``device: auto`` it may
    have GPUs. Raises `UsageError` for a RAY_ADDRESS that can't be.
    """
    if config.device != "auto":
        return config.device == "cpu"
    return ray_address.given() in ("", "local") and not has_gpu()
