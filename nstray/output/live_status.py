"""``.nstray/live.json``: what a run is doing right now.

The driver of the run writes it for `nstray status`, which sees nothing but the output. Nothing
depends on it: it may be missing, old or damaged, no resume reads it, and a run that can't write it
goes on. A run removes it at its end, whatever ends it. Only a driver that is killed leaves it: then
the next run replaces it, or removes it at its own end. If two drivers write to one output, the last
writer's file stands, and each notes the others that it has met.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, ValidationError

from nstray import storage
from nstray.errors import StorageError
from nstray.output.folder import Output
from nstray.text import log_event

EVERY = 15.0  # seconds between two writes
MEETING = 4 * EVERY  # seconds that another driver is remembered for
END = 5.0  # seconds that the end of a run waits for its last write
_BYTES = 64 * 2**20

WorkerState = Literal["starting", "idle", "busy", "leaving", "stalled"]
_Text = Annotated[str, StringConstraints(max_length=300)]
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Number = Annotated[float, Field(ge=0, lt=1e15, allow_inf_nan=False)]


class WorkerStatus(BaseModel):
    """A worker as its driver sees it.

    Attributes:
        node: Ray's id of its machine; `host` is the machine's name.
        part: the part of the shard that it has; `rows` is the number of its rows.
        seconds: how long it has had that shard.
        quiet: seconds since its last piece of work.
        pairs: what is on its device.
        straggler: as `nstray.cluster.eta.ShardTimes.straggles` says.
    """

    name: _Text
    state: WorkerState
    node: _Text | None
    host: _Text | None
    device: _Text | None
    evaluations: _Count
    part: _Text | None = None
    rows: _Count | None = None
    seconds: _Number | None = None
    quiet: _Number | None = None
    pairs: Annotated[tuple[_Text, ...], Field(max_length=65_536)] = ()
    straggler: bool = False


class Live(BaseModel):
    """A run as its driver sees it.

    Attributes:
        writer: the driver's id.
        others: ids of the drivers that it met in the last minute.
        rows: of the job, as are the shards.
        eta_seconds: seconds to go (`nstray.cluster.eta.ShardTimes.eta`).
        eta_low_seconds: their 10th percentile; `eta_high_seconds` is the 90th.
    """

    format: Literal[1] = 1
    writer: _Text
    host: _Text
    others: Annotated[tuple[_Text, ...], Field(max_length=1000)] = ()
    begun_at: AwareDatetime
    written_at: AwareDatetime
    rows: _Count
    rows_done: _Count
    backlog_shards: _Count
    in_flight_shards: _Count
    pairs_per_second: _Number
    evaluations_per_second: _Number | None
    busy: _Number | None
    median_shard_seconds: _Number | None
    eta_seconds: _Number | None
    eta_low_seconds: _Number | None = None
    eta_high_seconds: _Number | None = None
    workers: Annotated[tuple[WorkerStatus, ...], Field(max_length=100_000)]


class LiveFile:
    """The file of one run, written in a thread of its own; only its first failure is reported.

    Args:
        say: called with a line about the first failure.
    """

    def __init__(self, output: Output, say: Callable[[str], None]) -> None:
        self.writer = uuid.uuid4().hex[:12]
        self._output, self._say = output, say
        self._begun: float | None = None  # when the last write began
        self._thread = threading.Thread()
        self._met: dict[str, float] = {}
        self._wrote = self._failed = self._ended = False

    def due(self) -> bool:
        """Whether the last write is over and began long enough ago, and none is the last."""
        return (
            not self._ended
            and not self._thread.is_alive()
            and (self._begun is None or time.monotonic() - self._begun >= EVERY)
        )

    def write(self, live: Live) -> None:
        """Write `live`, in the background."""
        self._begun = time.monotonic()
        self._start(lambda: self._put(live))

    def end(self) -> None:
        """Remove the file, unless another driver has just written it; gives up after `END`."""
        self._ended = True
        deadline = time.monotonic() + END
        if self._thread.is_alive():
            self._thread.join(END)
        if not self._thread.is_alive():
            self._start(self._remove)
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self, do: Callable[[], None]) -> None:
        def body() -> None:
            try:
                do()
            except Exception as error:
                self.failed(error)

        # A daemon thread, so that the process can end: a call to a store that is out of reach
        # takes minutes.
        self._thread = threading.Thread(target=body, name="live", daemon=True)
        self._thread.start()

    def failed(self, error: Exception) -> None:
        """Report a failure, if it is the first."""
        if not self._failed:
            self._failed = True
            log_event(
                "live_failed",
                self._say,
                error=f"{type(error).__name__}: {error}",
                hint="the job goes on; nstray status does not show its workers",
            )

    def _put(self, live: Live) -> None:
        if storage.head(self._output.job_uri) is None:
            return  # the output was removed, and a put would make its folder again
        there = read(self._output) if self._wrote else None
        now = time.monotonic()
        if there is not None and there.writer != self.writer:  # written since our last write
            self._met[there.writer] = now
        met = tuple(writer for writer, when in self._met.items() if now - when < MEETING)
        text = live.model_copy(update={"others": met}).model_dump_json(indent=1) + "\n"
        storage.put_over(self._output.live_uri, text.encode())
        self._wrote = True

    def _remove(self) -> None:
        there = read(self._output)
        if there is None:
            return
        age = (datetime.now(UTC) - there.written_at).total_seconds()
        if there.writer == self.writer or age > MEETING:  # of a driver that was killed
            storage.delete(self._output.live_uri)


def read(output: Output) -> Live | None:
    """What the file of an output says; None if it is missing or damaged."""
    try:
        return Live.model_validate_json(storage.read(output.live_uri, max_bytes=_BYTES))
    except (StorageError, ValidationError):
        return None
