"""How often workers are polled, and what their answers add up to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from nstray.cluster.progress import JobProgress
from nstray.cluster.worker_handle import WorkerHandle

FEW = 8  # workers that are polled often
OFTEN = 0.5  # seconds between two polls of few workers
# Seconds between two polls until it is known when the job will end: an evaluation of a small
# picture takes 0.02 s. After FIRST_SECONDS of them there is something else to wait for.
FIRST, FIRST_SECONDS = 0.05, 30.0


async def pause(
    any_ready: asyncio.Event, job_progress: JobProgress, workers: int, most: float
) -> None:
    """Wait until the next poll of the `workers` that are ready, `most` seconds at most.

    If none is ready it ends as soon as `any_ready` is set.
    """
    if workers:
        await asyncio.sleep(interval(job_progress, workers, most))
        return
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(any_ready.wait(), most)


def interval(job_progress: JobProgress, workers: int, usual: float) -> float:
    """Seconds until the next poll; at most `usual`."""
    since = job_progress.working_seconds
    if workers <= FEW and since < FIRST_SECONDS and job_progress.eta is None:
        return min(usual, FIRST)
    return min(usual, OFTEN) if workers <= FEW else usual


def sum_up(
    job_progress: JobProgress, workers: Iterable[WorkerHandle], past_evaluations: int
) -> None:
    """Note what `workers` have said last, and the evaluations of those that are gone."""
    said = [w.latest for w in workers if w.latest.first is not None]
    job_progress.evaluations = past_evaluations + sum(p.evaluations for p in said)
    spans = sum(p.now - (p.first or p.now) for p in said)
    job_progress.busy = min(1.0, sum(p.busy for p in said) / spans) if spans > 1 else None
    stages = [p.stage for p in said if p.stage is not None]
    job_progress.stage = stages[0] if len(stages) == 1 else None
    job_progress.note_work(sum(p.worked for p in said), sum(p.under_way for p in said))
