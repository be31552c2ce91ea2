"""The Parquet part: its schema, its bytes, its footer; and the folder of parts with the put that commits each of them.

A part is committed by one put that creates its key or fails (`Output.commit_part`). Everything below ``.nstray/`` except
``job.json`` is derived from the footers of the parts.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import AlreadyExists, Changed, NotFound, OutputError, TooLarge
from nstray.output import card, records
from nstray.output.layout import parse_part, part_name
from nstray.output.part import footer_of, read_footer
from nstray.output.records import Counts, PartInfo, total
from nstray.output.schema import COLUMNS, carried_schema

_RECORD_BYTES = 64 * 2**20
GROW_TRIES = 3
_FOOTER_THREADS = 16


class Output:
    """The folder a job writes: ``data/``, the card, and the records under ``.nstray/``. Local or s3://.

    Holds no connection and no state: any process may have one, and two may write to one folder.
    """

    def __init__(self, out: str) -> None:
        self.out = storage.absolute(out)
        self.job_uri = storage.join(self.out, ".nstray/job.json")
        self.summary_uri = storage.join(self.out, ".nstray/summary.json")
        self.live_uri = storage.join(self.out, ".nstray/live.json")
        self.estimate_uri = storage.join(self.out, ".nstray/estimate.json")
        self.card_uri = storage.join(self.out, "README.md")

    def __str__(self) -> str:
        return storage.redact(self.out)

    def data_uri(self, name: str) -> str:
        """Where the part called `name` is, or would be."""
        return storage.join(self.out, f"data/{name}")

    def index_uri(self, window: int) -> str:
        """Where the index of a window is, or would be."""
        return storage.join(self.out, f".nstray/index/window-{window:05d}.json")

    # parts

    def commit_part(self, name: str, data: bytes) -> bool:
        """Commit a part: one put that creates the key or fails.

        Returns True where this put made it, False where another driver's part with the same rows was there first.
        Raises `OutputError` where what is there is of another job, or of other rows, and where the job's record is gone: a part
        in an output that was removed while the job ran would belong to no job.
        """
        uri = self.data_uri(name)
        if storage.head(self.job_uri) is None:
            raise OutputError(
                f"{self}: its record (.nstray/job.json) is gone, so the output was removed while the job ran; run the same command again "
                "to begin anew"
            )
        try:
            storage.put_new(uri, data)
            return True
        except AlreadyExists:
            there = read_footer(uri).footer
        ours = footer_of(pq.read_metadata(io.BytesIO(data)), uri, len(data)).footer
        differ = [key for key in ("fingerprint", "ids_digest") if there.get(key) != ours.get(key)]
        if differ:
            raise OutputError(
                f"{storage.redact(uri)} was written by another job ({', '.join(differ)} differ); use another OUT"
            )
        return False

    def read_part(self, name: str) -> tuple[list[dict[str, Any]], str]:
        """The rows of a committed part, without the carried columns, and its ETag; raises `OutputError` where it is damaged."""
        uri = self.data_uri(name)
        stored = storage.head(
            uri
        )  # first: a part replaced in between then fails the condition of `replace_part`
        if stored is None or stored.etag is None:
            raise OutputError(f"{storage.redact(uri)} is gone; run the job again to remake it")
        try:
            table = pq.read_table(
                io.BytesIO(storage.read(uri)), columns=[column for column, _, _ in COLUMNS]
            )
        except (pa.ArrowException, OSError) as error:
            raise OutputError(
                f"{storage.redact(uri)} is damaged ({error}); remove it and run the job again to remake it"
            ) from None
        return table.to_pylist(), stored.etag

    def replace_part(self, name: str, data: bytes, etag: str) -> bool:
        """Replace the part that `read_part` gave with this ETag; False where another has replaced it since."""
        try:
            storage.put_over(self.data_uri(name), data, if_match=etag)
            return True
        except Changed:
            return False

    def list_window(self, window: int) -> dict[int, storage.ObjectInfo]:
        """The committed parts of one window by number: one listing of one prefix."""
        prefix = self.data_uri(part_name(window, 0).removesuffix("0000.parquet"))
        found = {}
        for info in storage.list_prefix(prefix):
            place = parse_part(info.uri.rpartition("/")[2])
            if place is not None and place[0] == window:
                found[place[1]] = info
        return found

    # records

    def open_job(self, new: dict[str, Any]) -> dict[str, Any]:
        """Begin the job `new`, or resume it where its record is here already, which grows where the manifest of `new` has.

        Returns the stored record, with a list ``warnings`` (not stored) of differences that do not matter to results.
        Raises `OutputError` where the folder belongs to another job, naming what differs, or holds Parquet files of none.
        """
        there = self._read(self.job_uri)
        if there is None:
            self.refuse_foreign_parts()
            self._prove_conditional_puts()
            try:
                storage.put_new(self.job_uri, records.dump(new))
                return {**json.loads(records.dump(new)), "warnings": []}
            except AlreadyExists:
                there = self._read(self.job_uri)
        if there is None:
            raise OutputError(
                f"{storage.redact(self.job_uri)} vanished while it was being read: is another process removing {self}?"
            )
        old = records.load_job(there, storage.redact(self.job_uri))
        for folder in ("", "data", ".nstray", ".nstray/index"):
            storage.sweep(storage.join(self.out, folder))
        warnings = self.compare_job(old, new)
        if records.has_grown(old, new):
            old = self._grow(new)
        return {**old, "warnings": warnings}

    def _grow(self, new: dict[str, Any]) -> dict[str, Any]:
        """Replace the job's record by one with the manifest of `new`, unless another run has done so; returns it."""
        for _ in range(GROW_TRIES):
            stored = storage.head(
                self.job_uri
            )  # first: a record replaced in between then fails the condition
            old = self.read_job()
            self.compare_job(old, new)
            if not records.has_grown(old, new):
                return old
            changed = records.grown(old, new)
            try:
                storage.put_over(
                    self.job_uri, records.dump(changed), if_match=stored.etag if stored else ""
                )
                return changed
            except Changed:
                continue
        raise OutputError(
            f"{storage.redact(self.job_uri)} changes again and again: are several runs extending {self}? Wait for them, and run again"
        )

    def compare_job(self, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        """Warnings where `new` may resume the stored job `old`, grown or not; raises `OutputError`, naming what differs, where it may not."""
        if records.has_grown(old, new):
            old = records.grown(old, new)
        if found := records.conflicts(old, new):
            raise OutputError(
                f"this output belongs to another job: {'; '.join(found)}; use another OUT or the same settings ({self})"
            )
        versions = (old.get("nstray_version"), new.get("nstray_version"))
        return (
            [
                f"{self} was begun by nstray {versions[0]}, this is {versions[1]}: its rows will come from both"
            ]
            if versions[0] != versions[1]
            else []
        )

    def _prove_conditional_puts(self) -> None:
        """Refuse a store that ignores `If-None-Match`: there two drivers would overwrite each other's parts unseen."""
        probe = storage.join(self.out, f".nstray/probe-{uuid.uuid4().hex}")
        storage.put_new(probe, b"first")
        try:
            storage.put_new(probe, b"second")
        except AlreadyExists:
            return
        finally:
            storage.delete(probe)
        raise OutputError(
            f"{self}: this store ignores conditional puts (If-None-Match), on which exactly-once rests; use one that has them"
        )

    def refuse_foreign_parts(self) -> None:
        """Raise `OutputError` where ``data/`` holds Parquet files and there is no record to say whose."""
        try:
            for info in storage.list_files(storage.join(self.out, "data")):
                if info.uri.endswith(".parquet"):
                    raise OutputError(
                        f"{self} holds {storage.name(info.uri)} in data/ and no .nstray/job.json, so nothing says which job it is from; "
                        "restore the record or use another OUT"
                    )
        except NotFound:
            return

    def find_job(self) -> dict[str, Any] | None:
        """The job's record, or None where there is none; raises `OutputError` where it is damaged."""
        data = self._read(self.job_uri)
        return None if data is None else records.load_job(data, storage.redact(self.job_uri))

    def read_job(self) -> dict[str, Any]:
        """The job's record; raises `OutputError` where there is none."""
        found = self.find_job()
        if found is None:
            raise OutputError(f"no nstray job at {self} (it has no .nstray/job.json)")
        return found

    def _read(self, uri: str) -> bytes | None:
        try:
            return storage.read(uri, max_bytes=_RECORD_BYTES)
        except NotFound:
            return None

    def write_index(self, window: int, parts: list[PartInfo]) -> None:
        """Write the index of a window whose parts are all committed; replaces one that is there."""
        numbered = []
        for part in parts:
            place = parse_part(storage.name(part.uri))
            if place is None or place[0] != window:
                raise ValueError(f"{part.uri} is not a part of window {window}")
            numbered.append((place[1], part))
        storage.put_over(self.index_uri(window), records.dump_index(window, numbered))

    def forget_index(self, window: int) -> None:
        """Remove the index of a window whose parts are about to be replaced."""
        storage.delete(self.index_uri(window))

    def read_index(self, window: int) -> dict[str, Any] | None:
        """The index of a window, or None where there is none or it is damaged: it can be rebuilt."""
        try:
            data = self._read(self.index_uri(window))
        except TooLarge:
            return None
        return None if data is None else records.load_index(data, window)

    def indexed_counts(
        self, window: int, listed: Mapping[int, storage.ObjectInfo], expected_parts: int
    ) -> Counts | None:
        """What a complete window adds up to, out of its index; None where parts are missing, or where it is not about the very parts `listed`."""
        if set(listed) != set(range(expected_parts)):
            return None
        index = self.read_index(window)
        if index is None or {(p[0], p[3]) for p in index["parts"]} != {
            (n, info.size) for n, info in listed.items()
        }:
            return None
        return records.index_counts(index)

    def window_counts(
        self, window: int, expected_parts: int, pool: Executor | None = None
    ) -> Counts | None:
        """What the committed parts of a window add up to; None where there is none.

        Takes the index where it lists the very parts that are there; else reads every footer, in the threads of `pool` or
        its own.
        """
        listed = self.list_window(window)
        if not listed:
            return None
        if (indexed := self.indexed_counts(window, listed, expected_parts)) is not None:
            return indexed
        return total(self.read_parts(listed, pool))

    def read_parts(
        self, listed: Mapping[int, storage.ObjectInfo], pool: Executor | None = None
    ) -> list[PartInfo]:
        """The footers of listed parts, read in the threads of `pool` or its own."""
        with (
            nullcontext(pool)
            if pool is not None
            else ThreadPoolExecutor(_FOOTER_THREADS) as readers
        ):
            return list(readers.map(read_footer, [info.uri for info in listed.values()]))

    def write_estimate(self, estimate: dict[str, Any]) -> None:
        """Write what a probe found; replaces an earlier one. Nothing but a person's comparison depends on it."""
        storage.put_over(self.estimate_uri, records.dump(estimate))

    def read_estimate(self) -> dict[str, Any] | None:
        """What a probe found, or None."""
        return self._read_derived(self.estimate_uri)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the file that says the job is complete: the last one."""
        storage.put_over(self.summary_uri, records.dump(summary))

    def read_summary(self) -> dict[str, Any] | None:
        """The summary of a complete job, or None."""
        return self._read_derived(self.summary_uri)

    def _read_derived(self, uri: str) -> dict[str, Any] | None:
        try:
            data = self._read(uri)
            found = None if data is None else json.loads(data)
        except (TooLarge, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def write_card(self, job: dict[str, Any], counts: Counts | None = None) -> bool:
        """Write README.md, with `counts` once the job is complete; False where somebody else's is there, which stays."""
        columns = [
            (name, "image" if name == "image" else str(kind), text) for name, kind, text in COLUMNS
        ]
        columns += [(f.name, str(f.type), "from the manifest") for f in carried_schema(job)]
        text = card.render(job, columns, counts).encode()
        try:
            storage.put_new(self.card_uri, text)
            return True
        except AlreadyExists:
            there = self._read(self.card_uri) or b""
        if not card.untouched(there.decode("utf-8", "replace")):
            return False
        storage.put_over(self.card_uri, text)
        return True
