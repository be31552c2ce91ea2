"""`nstray plan`: what a run would do."""

from __future__ import annotations

from typing import Any

from nstray import storage
from nstray.commands.cost import BYTES_PER_PIXEL
from nstray.commands.prepare import Job, record
from nstray.output.records import Counts


def plan(job: Job) -> dict[str, Any]:
    """What a run would do: rows, shards, done and to do, evaluations, bytes.

    Starts nothing and writes nothing. JSON-ready. Raises `OutputError` if OUT holds another job.
    """
    done = Counts()
    warnings = list(job.info.warnings)
    if storage.head(job.output.job_uri) is None:
        job.output.job.refuse_foreign_parts()
        warnings += job.output.job.other_files()
    else:
        warnings += job.output.job.compare(job.output.job.read(), record(job))
        for window, parts in enumerate(job.layout):
            counts = job.output.indexes.window_counts(window, parts)
            if counts is not None:
                done.merge(counts)
    share = 1 - done.rows / job.info.rows
    if done.rows:
        per_row = done.bytes / done.rows
    else:
        per_row = job.cost.total.pixels * BYTES_PER_PIXEL[job.config.image_format] / job.info.rows
    return {
        "manifest": storage.redact(job.info.uri),
        "output": str(job.output),
        "weights": job.weights.id,
        "rows": job.info.rows,
        "rows_done": done.rows,
        "rows_to_do": job.info.rows - done.rows,
        "error_rows": sum(done.errors.values()),
        "shard_size": job.config.rows_per_shard,
        "shards": job.shards,
        "shards_done": done.parts,
        "shards_to_do": job.shards - done.parts,
        "evaluations_to_do": round(job.cost.evaluations * share),
        "bytes_done": done.bytes,
        "bytes_to_do_about": round(per_row * (job.info.rows - done.rows)),
        "overrides": list(job.info.overrides),
        "images": list(job.info.images),
        "carried": list(job.info.carried),
        "warnings": warnings,
    }
