"""The pictures of rows and their originals, read from where they lie and made small."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from nstray import config, storage
from nstray.errors import Changed, NotFound, OutputError, PairError, StorageError, UsageError
from nstray.images import Pixels
from nstray.images.decode import decoding_bytes, thumbnail
from nstray.images.resize import fit
from nstray.output.part_file import read_batches
from nstray.output.reader import MAX_MEMORY, MAX_PIXELS, reading, table_rows
from nstray.sources.read import Sources, absolute_reference

ORIGINAL_BYTES: int = config.JobConfig.model_fields["max_bytes"].default
# Row groups that are in memory at once: each has up to 64 MiB of pictures.
GROUP_THREADS = 4
ORIGINAL_THREADS = 8
INDEX_REQUESTS = 100  # for the indexes of archives
_LARGE = 64_000_000  # bytes of memory; pictures that take more are decoded one at a time
_COLUMNS = ("pair_id", "image", "width", "height")


class Originals:
    """Reads input images and makes them small. Methods may be called from several threads.

    Args:
        base: the folder that a relative reference starts from.
        size: of the longest side, pixels.
        requests: for the indexes of archives at most; None for any number.
    """

    def __init__(self, base: str, size: int, requests: int | None = None) -> None:
        self._base, self._size, self._left = base, size, requests
        self._sources = Sources(ORIGINAL_BYTES, on_read=self._on_read)

    def _on_read(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise StorageError("its archive has no index, and making one takes many requests")

    def read(self, uri: str, digest: str | None) -> Pixels | str:
        """An input image; if it can't be shown, why.

        It is not shown if its bytes are not those of `digest`, which the rows give. So another
        person's output shows no file of this machine whose bytes that person did not have.
        """
        if not digest:
            return "the row does not say which bytes it had"
        try:
            data = self._sources.read(absolute_reference(uri, self._base))
            if hashlib.sha256(data).hexdigest() != digest:
                return "the file has changed since"
            return _made_small(data, self._size, uri, MAX_PIXELS, own=False)
        except NotFound:
            return "the file is gone"
        except (StorageError, UsageError, PairError) as error:
            return f"not readable: {error}"

    def read_all(self, digests: Mapping[str, str | None]) -> dict[str, Pixels | str]:
        """Input images by reference, as `read` gives them."""
        with ThreadPoolExecutor(ORIGINAL_THREADS) as pool:
            found = pool.map(lambda each: self.read(*each), digests.items())
            return dict(zip(digests, found, strict=True))


def content_digests(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The sha256 of each input image's bytes by its URI, as far as the rows give it."""
    found: dict[str, str] = {}
    for row in rows:
        styles = zip(row["style_uri"] or (), row["style_sha256"] or (), strict=False)
        found |= {
            uri: digest
            for uri, digest in ((row["content_uri"], row["content_sha256"]), *styles)
            if uri and digest
        }
    return found


def results(rows: Sequence[Mapping[str, Any]], size: int) -> dict[str, Pixels | str]:
    """The pictures of the good ones of `rows` by pair id, made small; if there is none, why.

    Args:
        rows: each carries its part's ``uri``, and its ``group`` if only this row group is read.
    """
    wanted: dict[tuple[str, int | None], set[str]] = {}
    for row in rows:
        if row["status"] == "ok":
            wanted.setdefault((row["uri"], row.get("group")), set()).add(row["pair_id"])
    with ThreadPoolExecutor(GROUP_THREADS) as pool:
        found: dict[str, Pixels | str] = {}
        for each in pool.map(
            lambda item: _of_group(item[0][0], item[0][1], item[1], size), wanted.items()
        ):
            found |= each
        return found


def _of_group(uri: str, group: int | None, ids: set[str], size: int) -> dict[str, Pixels | str]:
    found: dict[str, Pixels | str] = dict.fromkeys(ids, "not in its part any more")
    try:
        with reading(uri, _COLUMNS) as (file, _):
            groups = None if group is None else [group]
            for batch in read_batches(uri, file, _COLUMNS, groups=groups):
                keep = [i for i, name in enumerate(batch["pair_id"].to_pylist()) if name in ids]
                for row in table_rows(batch.take(pa.array(keep, pa.int64()))) if keep else ():
                    found[row["pair_id"]] = _small(row, size)
    except (NotFound, Changed):
        return found
    except (OutputError, IndexError) as error:
        return dict.fromkeys(ids, f"{error}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        return dict.fromkeys(ids, f"{storage.redact(uri)} is damaged ({error})")
    return found


def _small(row: Mapping[str, Any], size: int) -> Pixels | str:
    data = (row["image"] or {}).get("bytes") or b""
    most = min(MAX_PIXELS, (row["width"] or 0) * (row["height"] or 0))
    try:
        return _made_small(data, size, row["pair_id"], most, own=True)
    except PairError as error:
        return f"not readable: {error.message}"


def _made_small(data: bytes, size: int, what: str, max_pixels: int, *, own: bool) -> Pixels:
    """A picture whose longest side is at most `size`; raises `PairError`."""
    large = False
    with contextlib.suppress(PairError):  # `thumbnail` raises it again, and names the picture
        large = decoding_bytes(data, own=own) > _LARGE
    if not large:
        return _decoded(data, size, what, max_pixels, own)
    return _alone().submit(_decoded, data, size, what, max_pixels, own).result()


@functools.cache
def _alone() -> ThreadPoolExecutor:
    """The one thread that decodes large pictures.

    Not a lock: each thread keeps memory that it has freed. `nstray sheet` of WebP of 60 million
    pixels took 1.67 GB with four threads in turn, and takes 1.16 GB with one.
    """
    return ThreadPoolExecutor(1)


def _decoded(data: bytes, size: int, what: str, max_pixels: int, own: bool) -> Pixels:
    pixels = thumbnail(data, size, what=what, max_pixels=max_pixels, max_memory=MAX_MEMORY, own=own)
    return fit(pixels, size, "longest", False, what=what)
