"""The job's record, ``.nstray/job.json``: which job an output belongs to.

Here is decided whether a run may go on with the job.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from nstray import storage
from nstray.errors import AlreadyExists, Changed, NotFound, OutputError
from nstray.output import record_changes, records
from nstray.output.paths import Paths, first_other_file, read_file

GROW_TRIES = 3


class JobRecord:
    """The record of the job that one output belongs to."""

    def __init__(self, paths: Paths) -> None:
        self._paths, self._uri = paths, paths.job_uri

    def find(self, *, resume: bool = False) -> dict[str, Any] | None:
        """The record; None if there is none. Raises `OutputError` if it is damaged.

        Args:
            resume: the record is for going on with the job. Then one of an earlier version that
                can only be read raises `OutputError`, too (`records.check_resumable`).
        """
        data = read_file(self._uri)
        return None if data is None else self._load(data, resume)

    def read(self, *, resume: bool = False) -> dict[str, Any]:
        """The record as `find` gives it; raises `OutputError` if there is none."""
        found = self.find(resume=resume)
        if found is None:
            raise OutputError(f"no nstray job at {self._paths} (it has no .nstray/job.json)")
        return found

    def _load(self, data: bytes, resume: bool) -> dict[str, Any]:
        record = records.load_job(data, storage.redact(self._uri))
        if resume:
            records.check_resumable(record, str(self._paths))
        return record

    def open(self, new: dict[str, Any]) -> dict[str, Any]:
        """Begin the job `new`; if its record exists, resume the job.

        If its manifest has changed as `record_changes.updated` says, the record is replaced.
        Returns the stored record, with a list ``warnings`` (not stored): differences that do not
        matter to results, and other files in the folder of a new job. Raises `OutputError` if the
        folder belongs to another job, naming what differs, or if it holds Parquet files of no job.
        """
        there = read_file(self._uri)
        if there is None:
            self.refuse_foreign_parts()
            warnings = self.other_files()
            self._prove_conditional_puts()
            try:
                storage.put_new(self._uri, records.dump(new))
                return {**json.loads(records.dump(new)), "warnings": warnings}
            except AlreadyExists:
                there = read_file(self._uri)
        if there is None:
            raise OutputError(
                f"{storage.redact(self._uri)} vanished while it was being read: "
                f"is another process removing {self._paths}?"
            )
        old = self._load(there, resume=True)
        for folder in ("", "data", ".nstray", ".nstray/index", ".nstray/latest"):
            storage.sweep(storage.join(self._paths.out, folder))
        warnings = self.compare(old, new)
        if record_changes.updated(old, new) != old:
            old = self._update(new)
        return {**old, "warnings": warnings}

    def _update(self, new: dict[str, Any]) -> dict[str, Any]:
        """Replace the record by one with the manifest of `new`, unless another run has done so.

        Returns the record that is stored then.
        """
        for _ in range(GROW_TRIES):
            # First: a record that is replaced before it is read then fails the condition.
            stored = storage.head(self._uri)
            old = self.read(resume=True)
            self.compare(old, new)
            changed = record_changes.updated(old, new)
            if changed == old:
                return old
            try:
                storage.put_over(
                    self._uri, records.dump(changed), if_match=stored.etag if stored else ""
                )
                return changed
            except Changed:
                continue
        raise OutputError(
            f"{storage.redact(self._uri)} changes again and again: do several runs extend "
            f"{self._paths}? Wait for them, and run again"
        )

    def compare(self, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        """Check that `new` may resume the stored job `old`, grown or not; returns warnings.

        Raises `OutputError`, naming what differs, if it may not.
        """
        manifests, settings = record_changes.conflicts(old, new)
        if found := [*manifests, *settings]:
            same = "the same settings" if settings else ""
            if manifests:
                same += f"{' and ' if same else ''}the manifest that it was begun with"
                same += f", which was {old.get('manifest')}"
            raise OutputError(
                f"{self._paths}: this output belongs to another job: {'; '.join(found)}; "
                f"use another OUT or {same}"
            )
        warnings = []
        there, here = old.get("nstray_version"), new.get("nstray_version")
        if there != here:
            warnings.append(
                f"{self._paths} was begun by nstray {there}, this is {here}: "
                "its rows will come from both"
            )
        if record_changes.carried_changed(old, new):
            warnings.append(
                f"{self._paths}: columns that the manifest only carries have other values than "
                "before: rows that are made from now on get the new ones, "
                "rows that are there keep theirs"
            )
        return warnings

    def _prove_conditional_puts(self) -> None:
        """Raise `OutputError` if the store ignores ``If-None-Match``.

        On such a store two drivers would overwrite each other's parts unseen.
        """
        probe = storage.join(self._paths.out, f".nstray/probe-{uuid.uuid4().hex}")
        storage.put_new(probe, b"first")
        try:
            storage.put_new(probe, b"second")
        except AlreadyExists:
            return
        finally:
            storage.delete(probe)
        raise OutputError(
            f"{self._paths}: this store ignores conditional puts (If-None-Match), on which "
            "exactly-once rests; use one that has them"
        )

    def other_files(self) -> list[str]:
        """A warning if the folder of a new job holds files of something else."""
        if (found := first_other_file(self._paths.out)) is None:
            return []
        return [
            f"{self._paths} is no output of nstray and holds other files, such as {found}: none of "
            "them is replaced, and the dataset goes in among them"
        ]

    def refuse_foreign_parts(self) -> None:
        """Raise `OutputError` if ``data/`` holds Parquet files and no record says whose."""
        try:
            for info in storage.list_files(storage.join(self._paths.out, "data")):
                if info.uri.endswith(".parquet"):
                    raise OutputError(
                        f"{self._paths} holds {storage.name(info.uri)} in data/ and no "
                        ".nstray/job.json, so nothing says which job it is from; "
                        "restore the record or use another OUT"
                    )
        except NotFound:
            return
