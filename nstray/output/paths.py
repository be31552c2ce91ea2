"""Where the files of an output are."""

from __future__ import annotations

from nstray import storage
from nstray.errors import NotFound

RECORD_BYTES = 64 * 2**20  # the largest record that is read


class Paths:
    """The URIs of an output's files, local or s3://."""

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
