"""What a window still needs: the manifest's rows beside what storage already holds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nstray import plan, storage
from nstray.errors import OutputError, Unreachable
from nstray.output import Output, PartInfo
from nstray.patience import patiently
from nstray.plan import Shard
from nstray.record import Counts
from nstray.spec import JobSpec


@dataclass
class Intake:
    """A window as resume finds it.

    Attributes:
        number: the window's.
        shards: all of its shards (of a retry: those with a part), and `present` the parts it has by number and needs no others for (of
            a retry: those without an error row to be made again); neither is filled where
        finished: is what its index counts, because every part is there.
    """

    number: int
    shards: list[Shard] = field(default_factory=list)
    present: dict[int, PartInfo] = field(default_factory=dict)
    finished: Counts | None = None


def next_window(windows: Iterator[tuple[int, Any]], spec: JobSpec, output: Output, on_wait: Callable[[], None] = lambda: None) -> Intake | None:
    """Take the next window and look at what is committed of it; None after the last one. Blocks on storage, with patience for the output's.

    Raises OutputError where a part is not of this job, StorageError, and whatever `on_wait`, called before each pause, raises.
    """
    found = next(windows, None)
    if found is None:
        return None
    return patiently(f"window {found[0]}", Unreachable, lambda: _look(*found, spec, output), on_wait)


def _look(number: int, table: Any, spec: JobSpec, output: Output) -> Intake:
    size = spec.config.shard_size
    listed = output.list_window(number)
    finished = output.indexed_counts(number, listed, plan.count(table.num_rows, size))
    if finished is not None and finished.rows == table.num_rows and not set(finished.errors) & set(spec.retry):
        return Intake(number, finished=finished)
    shards = plan.shards(number, table, size)
    present = dict(zip(listed, output.read_parts(listed), strict=True))
    digests = {s.number: s.ids_digest for s in shards if s.number in present}
    for place, part in present.items():
        if part.footer.get("fingerprint") != spec.fingerprint or part.footer.get("ids_digest") != digests.get(place):
            raise OutputError(f"{storage.redact(part.uri)} is not a part of this job; move it away, or use another OUT")
    if spec.retry:
        shards = [s for s in shards if s.number in present]
        present = {place: part for place, part in present.items() if not set(part.errors) & set(spec.retry)}
        if len(present) < len(shards):
            output.forget_index(number)
    return Intake(number, shards, present)
