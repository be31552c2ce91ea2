"""A look at the first images, before any worker starts."""

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

PREFLIGHT = 8  # images of one bucket or folder tried before it is called out of reach


def preflight(job: Job) -> None:
    """Stop before any worker starts where the images are out of reach altogether, rather than write it up pair by pair.

    Tries the first images of each bucket, and of the local disk, among the manifest's first rows. Stops where a bucket does
    not exist, does not answer, or refuses every one of them, and where none of `PREFLIGHT` images exists anywhere: a manifest
    that was moved without its pictures. A missing picture among others is its pair's error row.
    """
    first = next(job.manifest.tables(job.info)).slice(0, 1000)
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
        some = storage.redact(next(iter(places.values()))[0])
        raise UsageError(
            f"none of the first {tried} images exists, {some} for one: is the manifest where its relative paths start?"
        )
