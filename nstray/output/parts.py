"""The parts of an output: the Parquet files below ``data/``, and the put that commits each."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import AlreadyExists, Changed, OutputError
from nstray.output.layout import parse_part, part_name
from nstray.output.part_file import damaged, footer_of, read_footer
from nstray.output.paths import Paths
from nstray.output.records import PartInfo
from nstray.output.schema import COLUMNS

FOOTER_THREADS = 16
_NAMED = 10  # parts in a message at most


class Parts:
    """The committed parts of one output."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def commit(self, name: str, data: bytes) -> bool:
        """Commit a part: one put that creates the key or fails.

        Returns True if this put made the part, False if another driver's part with the same rows
        was there first. Raises `OutputError` if the part that is there belongs to another job or
        has other rows, and if the job's record is gone: a part in an output that was removed while
        the job ran would belong to no job.
        """
        uri = self._paths.data_uri(name)
        if storage.head(self._paths.job_uri) is None:
            raise OutputError(
                f"{self._paths}: its record (.nstray/job.json) is gone, so the output was removed "
                "while the job ran; run the same command again to begin anew"
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
                f"{storage.redact(uri)} was written by another job ({', '.join(differ)} differ); "
                "use another OUT"
            )
        return False

    def read(
        self, name: str, *, carried: bool = False
    ) -> tuple[list[dict[str, Any]], pa.Table | None, str]:
        """The rows of a committed part without the carried columns, these, and the part's ETag.

        Args:
            carried: read the carried columns too; else they are None.

        Raises `OutputError` if the part is gone or damaged.
        """
        uri = self._paths.data_uri(name)
        # First: a part that is replaced before it is read then fails the condition of `replace`.
        stored = storage.head(uri)
        if stored is None or stored.etag is None:
            raise OutputError(f"{storage.redact(uri)} is gone; run the job again to remake it")
        try:
            own = [column for column, _, _ in COLUMNS]
            table = pq.read_table(
                io.BytesIO(storage.read(uri)),
                columns=None if carried else own,
                page_checksum_verification=True,
            )
            rows = table.select(own).to_pylist()
            return rows, table.drop_columns(own) if carried else None, stored.etag
        except (pa.ArrowException, OSError, KeyError) as error:
            raise damaged(uri, error) from None

    def replace(self, name: str, data: bytes, etag: str) -> bool:
        """Replace the part that `read` gave with `etag`; False if another has replaced it since."""
        try:
            storage.put_over(self._paths.data_uri(name), data, if_match=etag)
            return True
        except Changed:
            return False

    def list_window(self, window: int) -> dict[int, storage.ObjectInfo]:
        """The committed parts of one window by number: one listing of one prefix."""
        prefix = self._paths.data_uri(part_name(window, 0).removesuffix("0000.parquet"))
        found = {}
        for info in storage.list_prefix(prefix):
            place = parse_part(storage.name(info.uri))
            if place is not None and place[0] == window:
                found[place[1]] = info
        return found

    def read_footers(
        self, listed: Mapping[int, storage.ObjectInfo], pool: Executor | None = None
    ) -> list[PartInfo]:
        """The footers of listed parts, read in the threads of `pool` or its own.

        Raises one `OutputError` that names the parts that are damaged or no parts.
        """
        own = nullcontext(pool) if pool is not None else ThreadPoolExecutor(FOOTER_THREADS)
        with own as readers:
            found = list(readers.map(_footer_or_error, [info.uri for info in listed.values()]))
        # All at once: a copy that broke off may have left many parts cut short or empty.
        if errors := [str(each) for each in found if isinstance(each, OutputError)]:
            more = len(errors) - _NAMED
            rest = [f"... and {more} more; nstray verify names them"] if more > 0 else []
            raise OutputError("\n".join([*errors[:_NAMED], *rest]))
        return [each for each in found if isinstance(each, PartInfo)]


def _footer_or_error(uri: str) -> PartInfo | OutputError:
    try:
        return read_footer(uri)
    except OutputError as error:
        return error
