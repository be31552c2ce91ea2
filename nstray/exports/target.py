"""The folder that an export writes: whose it is, and what an earlier command has done there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nstray import storage
from nstray.config import VERSION, differences
from nstray.errors import AlreadyExists, NotFound, OutputError, StorageError
from nstray.output import records
from nstray.output.paths import first_other_file, read_file

RECORD = ".nstray-export.json"
_FORMAT = 1
_THREADS = 16  # notes that are read at once


class Target:
    """The folder that an export writes.

    Its record is a hidden file. It stays there at the end, so that the same command finds that
    nothing is left to do.
    """

    def __init__(self, to: str) -> None:
        storage.refuse_to_write(to)
        self.uri = storage.absolute(to)
        self._record = storage.join(self.uri, RECORD)
        self._began = time.time()

    def begin(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """The record of the export that this folder belongs to from now on.

        Raises `OutputError` if it belongs to another one, naming what differs, or if it holds other
        files.
        """
        where = storage.redact(self.uri)
        record = {
            "format": _FORMAT,
            "nstray_version": VERSION,
            "identity": json.loads(json.dumps(identity)),
            "complete": None,
        }
        if (there := self._read()) is None:
            if (found := first_other_file(self.uri)) is not None:
                raise OutputError(
                    f"{where} holds files already, such as {found}: they would get into the "
                    "dataset; use an empty folder"
                )
            try:
                storage.put_new(self._record, records.dump(record))
                return record
            except AlreadyExists:
                there = self._read() or record
        if differ := differences(there["identity"], record["identity"]):
            raise OutputError(
                f"{where}: another export was begun there: {'; '.join(differ)}; give the same "
                "words, or use another folder"
            )
        return there

    def _read(self) -> dict[str, Any] | None:
        data = read_file(self._record)
        if data is None:
            return None
        try:
            record = json.loads(data)
            if record["format"] != _FORMAT or not isinstance(record["identity"], dict):
                raise ValueError("its format is another")
            return dict(record)
        except records.DAMAGE as error:
            raise OutputError(
                f"{storage.redact(self._record)} is damaged, or of another version of nstray "
                f"({error}); use another folder"
            ) from None

    def complete(self, record: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
        """Write that the export is complete."""
        storage.put_over(self._record, records.dump({**record, "complete": dict(counts)}))

    def forget(self) -> None:
        """Remove the record of an export that has written nothing."""
        storage.delete(self._record)

    def sweep(self) -> None:
        """Remove what writers that were killed before this export began left among the files."""
        storage.sweep(self.uri, before=self._began, recursive=True)

    def check_files(self, files: Mapping[str, int], *, number: int) -> None:
        """Raise `OutputError` if the files that were written are not there, or others are.

        Args:
            files: bytes by name; of imagefolder the folders of the splits, whose sizes add up.
            number: of the files.
        """
        sizes: dict[str, int] = {}
        seen = 0
        for path, size in self._files():
            seen += 1
            name = path if path in files else f"{path.partition('/')[0]}/"
            sizes[name] = sizes.get(name, 0) + size
        if sizes != dict(files) or seen != number:
            wrong = differences(files, sizes)
            raise OutputError(
                f"{storage.redact(self.uri)}: it should hold {number} files, it holds {seen}: "
                f"{'; '.join(wrong[:5])}; does another program write there? Use another folder, or "
                "remove this one"
            )

    def is_whole(self, counts: Mapping[str, Any]) -> bool:
        """Whether a complete export is there; false if no file of it is.

        Raises `OutputError` if some of its files are missing.

        Args:
            counts: what `complete` was given.
        """
        sizes = [size for _, size in self._files()]
        if len(sizes) >= counts["files"] and sum(sizes) >= counts["bytes"]:
            return True
        if not sizes:
            return False
        raise OutputError(
            f"{storage.redact(self.uri)}: its export was complete with {counts['files']:,} files "
            f"of {counts['bytes']:,} bytes; now {len(sizes):,} of {sum(sizes):,} are there. Remove "
            "the folder to export anew, or use another one"
        )

    def _files(self) -> Iterator[tuple[str, int]]:
        """Paths and sizes of the files that a loader sees, but for the card and the classes."""
        base = f"{self.uri.removesuffix('/')}/"
        for info in storage.list_files(self.uri):
            path = info.uri.removeprefix(base)
            hidden = any(part.startswith(".") for part in path.split("/"))
            if not hidden and path not in ("README.md", "classes.json"):
                yield path, info.size


def refuse_inside(out: str, to: str) -> None:
    """Raise `OutputError` if the files would get into the dataset that they are made of."""
    if f"{to.removesuffix('/')}/".startswith(f"{out.removesuffix('/')}/"):
        raise OutputError(
            f"--to {storage.redact(to)} lies in the output itself; use a folder beside it"
        )


def remove_folder(uri: str) -> None:
    """Remove a scratch folder, local or on S3; no error if it is gone."""
    bucket, path = storage.split(uri)
    if bucket is None:
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        for info in storage.list_files(uri):
            storage.delete(info.uri)
    except NotFound:
        return


def read_notes(folder: str) -> dict[str, dict[str, Any]]:
    """The notes of a folder of scratch by name, without their ending; none if it is missing."""
    try:
        uris = [info.uri for info in storage.list_files(folder, recursive=False)]
    except NotFound:
        return {}
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(pool.map(_note, uris))


def _note(uri: str) -> tuple[str, dict[str, Any]]:
    try:
        return storage.name(uri).removesuffix(".json"), json.loads(storage.read(uri))
    except ValueError as error:
        raise StorageError(
            f"{storage.redact(uri)}: this note is damaged ({error}); remove the scratch folder"
        ) from None
