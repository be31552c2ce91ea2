"""An export in two passes: rows into sorted runs, runs into files.

The first pass reads each part once and writes the rows of each unit as one run, in the order of the
export. The second one merges the runs bucket by bucket. What is done stands as a note in the
scratch folder, so a command that was killed goes on. The order follows from the seed and the ids of
the rows alone: neither the number of processes nor an interruption changes a byte.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from nstray import storage
from nstray.errors import OutputError
from nstray.exports import card, webdataset
from nstray.exports.labels import read_ids
from nstray.exports.names import check_split
from nstray.exports.options import ExportOptions
from nstray.exports.packing import CHUNK, Task, as_note, make_tasks, merge
from nstray.exports.plan import Plan, default_scratch, make_plan
from nstray.exports.pool import Pool
from nstray.exports.progress import ExportProgress
from nstray.exports.runs import temporary_folder
from nstray.exports.selection import (
    BAD_CLASS,
    MISSING_ORIGINAL,
    NO_CLASS,
    NO_SPLIT,
    UNLABELLED,
    Note,
)
from nstray.exports.source import find_source
from nstray.exports.target import Target, read_notes, refuse_inside, remove_folder
from nstray.exports.worker import note_uri, task_uri
from nstray.output.folder import Output
from nstray.output.paths import first_other_file
from nstray.storage import local
from nstray.text import counted

_MAX_CLASSES = 100_000
_SAY = {  # the first one that is found is said
    BAD_CLASS: ("row has a class that its ClassLabel does not name", "bring others by --join"),
    UNLABELLED: ("row has no label in the table of --join", "add them there, or --exclude the ids"),
    NO_SPLIT: ("row has no split", "bring them by --join, or use --split-by none"),
    NO_CLASS: ("row has no class", "bring them by --join, or --exclude the ids"),
}


def default_workers() -> int:
    """One process for each CPU that this one may use."""
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_export(
    out: str,
    to: str,
    options: ExportOptions,
    *,
    workers: int | None = None,
    scratch: str | None = None,
    on_warning: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Export the output `out` into the folder `to`, or go on where the same command stopped.

    Returns ``images``, ``originals``, ``errors`` (rows without a picture that were left out),
    ``excluded``, ``missing_originals``, ``files``, ``bytes``, ``splits`` and, if there are classes,
    ``classes``. `on_warning` is called with lines for a person.
    Raises `UsageError` and `OutputError` for what can't be exported, and what storage raises.
    """
    output = Output(out)
    job = output.job.read()
    target = Target(to)
    refuse_inside(output.out, target.uri)
    source = find_source(output, job)
    identity = {**options.identity(), **source.identity(job)}
    place = _scratch(target, scratch, identity)
    plan = make_plan(options, job, source, target.uri, place)
    _check_formats(options, plan)
    record = target.begin(identity)
    if record["complete"] is not None:
        remove_folder(place)
        if target.is_whole(record["complete"]):
            return dict(record["complete"])
    if (folder := temporary_folder(place)) is not None:
        with local.errors(folder):
            os.makedirs(folder, exist_ok=True)
    writing = False
    try:
        with Pool(plan, workers or default_workers()) as pool, ExportProgress() as progress:
            notes = _first_pass(plan, pool, progress)
            total = merge(notes)
            _check_notes(total, plan, job)
            _warn(total, plan, job, on_warning)
            writing = True
            counts = _second_pass(plan, pool, progress, notes, total)
    except OutputError:
        # If nothing is in the target yet: what is mended needs another command.
        if not writing and first_other_file(target.uri) is None:
            remove_folder(place)
            target.forget()
        raise
    target.sweep()
    target.check_files(counts.pop("written"), number=counts["files"])
    card.write(target.uri, job, plan, counts)
    del counts["files_of"]
    target.complete(record, counts)
    remove_folder(place)
    return counts


def _scratch(target: Target, given: str | None, identity: Mapping[str, Any]) -> str:
    if given is None:
        return default_scratch(target.uri)
    if f"{storage.absolute(given)}/".startswith(f"{target.uri.removesuffix('/')}/"):
        raise OutputError("--scratch lies in the target; name a folder elsewhere, or none")
    words = json.dumps([target.uri, identity], sort_keys=True)
    name = f"nstray-export-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
    return storage.join(storage.absolute(given), name)


def _check_formats(options: ExportOptions, plan: Plan) -> None:
    encodes = options.resize is not None or options.with_originals
    if plan.image_format == "tiff" and encodes and options.image_format in (None, "tiff"):
        raise OutputError(
            "the pictures are TIFF of 16 bits a channel, which are encoded anew with 8 only: add "
            "--image-format png, jpeg or webp"
        )
    if options.image_format == "tiff" and plan.image_format != "tiff":
        raise OutputError("--image-format tiff: the pictures have 8 bits a channel; use png")


def _first_pass(plan: Plan, pool: Pool, progress: ExportProgress) -> list[Note]:
    done = read_notes(storage.join(plan.scratch, "units"))
    numbers = range(len(plan.units))
    todo = [n for n in numbers if f"{n:06d}" not in done]
    progress.begin("reading", len(plan.units), len(plan.units) - len(todo))
    for values in pool.map("spread", ((n,) for n in todo)):
        progress.step(values["rows"])
    if todo:
        done = read_notes(storage.join(plan.scratch, "units"))
    if missing := [n for n in numbers if f"{n:06d}" not in done]:
        raise OutputError(f"{storage.redact(note_uri(plan.scratch, missing[0]))} has vanished")
    return [as_note(done[f"{n:06d}"]) for n in numbers]


def _check_notes(total: Note, plan: Plan, job: Mapping[str, Any]) -> None:
    """Raise `OutputError` if rows can't be exported, or are not as many as their records say."""
    for reason, (what, remedy) in _SAY.items():
        if reason in total.problems:
            number, examples = total.problems[reason]
            more = ", ..." if number > len(examples) else ""
            raise OutputError(
                f"{counted(number, what, what.replace('row has', 'rows have'))}: "
                f"{', '.join(map(str, examples))}{more}; {remedy}"
            )
    if (total.rows, total.ok) != (total.footer_rows, total.footer_ok) or total.rows > job["rows"]:
        raise OutputError(
            f"the parts hold {total.rows:,} rows with {total.ok:,} pictures; their footers say "
            f"{total.footer_rows:,} and {total.footer_ok:,}, the job's record {job['rows']:,} "
            "rows; see nstray verify"
        )
    if not total.kept:
        raise OutputError(
            f"no row is left to export: of {counted(total.rows, 'row')} {total.ok:,} have "
            f"pictures, and {total.excluded:,} are excluded"
        )
    for split in total.splits:
        check_split(split)
    if len(total.classes) > _MAX_CLASSES:
        raise OutputError(
            f"{plan.class_column} has more than {_MAX_CLASSES:,} different values; "
            "name the column of classes with --class-by, or none"
        )


def _warn(
    total: Note, plan: Plan, job: Mapping[str, Any], on_warning: Callable[[str], object]
) -> None:
    if total.rows < job["rows"]:
        on_warning(
            f"the output is not complete: {total.rows:,} of its {counted(job['rows'], 'row')} are "
            "there, and the others are not exported"
        )
    if plan.options.exclude is not None:
        named = len(read_ids(plan.options.exclude))
        if named > total.excluded:
            on_warning(
                f"--exclude names {counted(named, 'id')}, of which {named - total.excluded:,} are "
                "in no row of the output"
            )


def _second_pass(
    plan: Plan, pool: Pool, progress: ExportProgress, notes: list[Note], total: Note
) -> dict[str, Any]:
    most = CHUNK if plan.options.format == "imagefolder" else plan.options.shard_mb * 1e6
    tasks = make_tasks(total, most)
    numbers: dict[str, int] = {}
    if plan.options.format == "webdataset" and plan.class_column is not None:
        numbers = webdataset.class_numbers(total.classes, plan)
        uri = storage.join(plan.target, "classes.json")
        storage.put_over(uri, webdataset.classes_json(numbers))
    done = read_notes(storage.join(plan.scratch, "files"))
    todo = [task for task in tasks if task.name not in done]
    progress.begin("writing", len(tasks), len(tasks) - len(todo))
    for values in pool.map("write", ((t, _used(t, notes), numbers) for t in todo)):
        progress.step(values["rows"])
    if todo:
        done = read_notes(storage.join(plan.scratch, "files"))
    if missing := [task for task in tasks if task.name not in done]:
        raise OutputError(f"{storage.redact(task_uri(plan.scratch, missing[0]))} has vanished")
    return _counts(plan, total, [done[task.name] for task in tasks], tasks)


def _used(task: Task, notes: list[Note]) -> list[int]:
    """The units whose runs hold rows of a file."""
    first, last = task.chunks[0][0], task.chunks[-1][1]
    return [
        i
        for i, note in enumerate(notes)
        if any(first <= int(bucket) < last for bucket in note.splits.get(task.split, ()))
    ]


def _counts(
    plan: Plan, total: Note, done: list[dict[str, Any]], tasks: list[Task]
) -> dict[str, Any]:
    splits: dict[str, int] = {}
    written: dict[str, int] = {}
    for task, values in zip(tasks, done, strict=True):
        splits[task.split] = splits.get(task.split, 0) + values["rows"]
        written[values["name"]] = written.get(values["name"], 0) + values["bytes"]
    rows = sum(splits.values())
    if rows != total.kept + total.originals:
        raise OutputError(f"{rows:,} rows were written, {total.kept + total.originals:,} were read")
    counts = {
        "images": total.kept + total.originals - _empty(total, plan),
        "originals": total.originals,
        "missing_originals": total.problems.get(MISSING_ORIGINAL, [0])[0],
        "missing": total.problems.get(MISSING_ORIGINAL, [0, []])[1],
        "errors": total.errors if not plan.options.with_errors else _empty(total, plan),
        "excluded": total.excluded,
        "files": rows if plan.options.format == "imagefolder" else len(tasks),
        "bytes": sum(values["bytes"] for values in done),
        "splits": splits,
        "files_of": dict(Counter(task.split for task in tasks)),
        "written": written,
    }
    if plan.class_column is not None:
        counts["classes"] = len(total.classes)
    return counts


def _empty(total: Note, plan: Plan) -> int:
    """Exported rows without a picture."""
    return total.kept_errors if plan.options.with_errors else 0
