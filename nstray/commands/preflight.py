"""Reads the first images, before any worker starts."""

from __future__ import annotations

from nstray import storage
from nstray.commands.prepare import Job
from nstray.errors import (
    AccessDenied,
    BadCredentials,
    Corrupt,
    NoSuchBucket,
    NotFound,
    NstrayError,
    StorageError,
    Unreachable,
    UsageError,
)
from nstray.sources import loose
from nstray.sources.reference import split_member

PREFLIGHT = 8  # images tried of one bucket, or of the local disk, before it is out of reach
_ROWS = 1000  # first rows of the manifest, from which the images are taken


def preflight(job: Job) -> None:
    """Raise if no row's images are within reach, so that a job does not end as error rows alone.

    Tries the first images of each bucket, and of the local disk, among the manifest's first rows.
    Raises `StorageError` if a store does not answer. Raises it too if every one of these rows has
    an image in a bucket that does not exist, or that refuses each image that was tried. Raises
    `UsageError` if none of at least `PREFLIGHT` images exists anywhere: the manifest was then moved
    without its pictures. A missing picture or bucket among others is its pairs' error.
    """
    first = next(job.manifest.tables(job.info, carried=False)).slice(0, _ROWS)
    rows = [
        [uri for uri in (content, *styles) if uri]
        for content, styles in zip(
            first["content"].to_pylist(), first["style"].to_pylist(), strict=True
        )
    ]
    places: dict[str, list[str]] = {}
    for uri in dict.fromkeys(uri for row in rows for uri in row):
        places.setdefault(_place(uri), []).append(uri)
    missing = tried = 0
    closed: dict[str, NstrayError] = {}  # buckets that give nothing, and why
    for place, uris in places.items():
        refused: list[NstrayError] = []
        for uri in uris[:PREFLIGHT]:
            tried += 1
            try:
                _try(uri, job.config.max_bytes)
                break
            except NoSuchBucket as error:
                closed[place] = error
                break
            except Corrupt:  # of this image alone
                break
            except (BadCredentials, Unreachable):
                raise
            except NotFound:
                missing += 1
            except (AccessDenied, UsageError) as error:
                refused.append(error)
            except StorageError:
                break
        if refused and len(refused) == len(uris[:PREFLIGHT]):
            closed[place] = refused[0]
    if closed and all(any(_place(uri) in closed for uri in row) for row in rows):
        raise next(iter(closed.values()))
    if missing == tried >= PREFLIGHT:
        example = storage.redact(next(iter(places.values()))[0])
        raise UsageError(
            f"none of the first {tried} images exists, for example {example}: "
            "is the manifest where its relative paths start?"
        )


def _try(uri: str, max_bytes: int) -> None:
    """Read an image; of a member of an archive, the archive's first byte."""
    if (found := split_member(uri)) is not None:
        storage.read_start(found[0], 1)
    else:
        loose.read(uri, max_bytes)


def _place(uri: str) -> str:
    """The bucket of a URI, or "" for the local disk."""
    return uri.split("/")[2] if storage.is_uri(uri) else ""
