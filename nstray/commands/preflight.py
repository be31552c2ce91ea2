"""Reads the first images, before any worker starts."""

from __future__ import annotations

from nstray import storage
from nstray.commands.prepare import Job
from nstray.errors import (
    AccessDenied,
    NoSuchBucket,
    NotFound,
    StorageError,
    Unreachable,
    UsageError,
)

PREFLIGHT = 8  # images tried of one bucket, or of the local disk, before it is out of reach
_ROWS = 1000  # first rows of the manifest, from which the images are taken


def preflight(job: Job) -> None:
    """Raise if no image is within reach, so that a job does not end as error rows alone.

    Tries the first images of each bucket, and of the local disk, among the manifest's first rows.
    Raises `StorageError` if a bucket does not exist, does not answer or refuses every one of them.
    Raises `UsageError` if none of at least `PREFLIGHT` images exists anywhere: the manifest was
    then moved without its pictures. A missing picture among others is its pair's error row.
    """
    first = next(job.manifest.tables(job.info, carried=False)).slice(0, _ROWS)
    places: dict[str, list[str]] = {}
    for uri in dict.fromkeys(
        [
            *first["content"].to_pylist(),
            *(u for styles in first["style"].to_pylist() for u in styles),
        ]
    ):
        if uri:
            places.setdefault(uri.split("/")[2] if storage.is_uri(uri) else "", []).append(uri)
    missing = tried = 0
    for uris in places.values():
        refused: list[StorageError] = []
        for uri in uris[:PREFLIGHT]:
            tried += 1
            try:
                storage.read(uri, max_bytes=job.config.max_bytes)
                break
            except (NoSuchBucket, Unreachable):
                raise
            except NotFound:
                missing += 1
            except AccessDenied as error:
                refused.append(error)
            except StorageError:
                break
        if refused and len(refused) == len(uris[:PREFLIGHT]):
            raise refused[0]
    if missing == tried >= PREFLIGHT:
        example = storage.redact(next(iter(places.values()))[0])
        raise UsageError(
            f"none of the first {tried} images exists, for example {example}: "
            "is the manifest where its relative paths start?"
        )
