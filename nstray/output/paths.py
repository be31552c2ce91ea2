"""Where the files of an output are."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from nstray import storage
from nstray.errors import NotFound, StorageError

RECORD_BYTES = 64 * 2**20  # the largest record that is read
MANIFEST_PATH = ".nstray/manifest.parquet"  # the manifest that a job of sources was given
_LOOKED_AT = 10_000  # files at most, to find one that is not hidden


class Paths:
    """The URIs of an output's files, local or s3://."""

    def __init__(self, out: str) -> None:
        storage.refuse_to_write(out)
        self.out = storage.absolute(out)
        self.job_uri = storage.join(self.out, ".nstray/job.json")
        self.summary_uri = storage.join(self.out, ".nstray/summary.json")
        self.live_uri = storage.join(self.out, ".nstray/live.json")
        self.estimate_uri = storage.join(self.out, ".nstray/estimate.json")
        self.latest_uri = storage.join(self.out, ".nstray/latest")
        self.manifest_uri = storage.join(self.out, MANIFEST_PATH)
        self.card_uri = storage.join(self.out, "README.md")

    def __str__(self) -> str:
        return storage.redact(self.out)

    def data_uri(self, name: str) -> str:
        """The URI of the part called `name`, whether it exists or not."""
        return storage.join(self.out, f"data/{name}")

    def index_uri(self, window: int) -> str:
        """The URI of the index of a window, whether it exists or not."""
        return storage.join(self.out, f".nstray/index/window-{window:05d}.json")


def read_file(uri: str) -> bytes | None:
    """The bytes of a record or card; None if there is none. Raises `TooLarge`, `StorageError`."""
    try:
        return storage.read(uri, max_bytes=RECORD_BYTES)
    except NotFound:
        return None


def first_other_file(folder: str) -> str | None:
    """The path, below a folder, of a file that stands there already; None if there is none.

    Hidden files and folders are left out, and a README.md, which is never replaced. A folder that
    can't be listed has none.
    """
    base = f"{storage.absolute(folder).rstrip('/')}/"
    with suppress(StorageError):
        listed = storage.list_files(folder, on_error=lambda *_: None)
        for info in islice(listed, _LOOKED_AT):
            path = info.uri.removeprefix(base)
            if path != "README.md" and not any(part.startswith(".") for part in path.split("/")):
                return storage.redact(path)
    return None
