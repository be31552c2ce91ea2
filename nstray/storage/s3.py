"""Objects on S3 behind `nstray.storage`: reading, conditional puts.

Measured on radosgw 16.2: If-Match on PUT wants the ETag without quotes (AWS takes both); If-Match
on a key that is gone gives 412 where AWS gives 404; a suffix range of an empty object gives 416.

How long a call can take:

- One request takes ATTEMPTS times READ_TIMEOUT and the pauses between: 315 s if a store takes
  connections and never answers, 65 s if it takes none.
- A call of several requests (a body that broke off, a put that met another) begins none after
  CALL_SECONDS.
- A body is given up when it is later than READ_TIMEOUT plus its size at LEAST_RATE.

So an image of 64 MB is there or given up after 180 + 315 + 316 s at the worst, below the
`stall_timeout` (900 s) after which a worker counts as hung. Two things are not bounded from here:
what the system's resolver takes for a name (/etc/resolv.conf; glibc gives each server 5 s twice),
times ATTEMPTS; and a listing as a whole, which has many requests. AWS_MAX_ATTEMPTS changes ATTEMPTS
of a request.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from nstray.errors import AlreadyExists, Changed, Corrupt, NotFound, StorageError, TooLarge
from nstray.storage import botocore_internals, s3_client, s3_digests
from nstray.storage.s3_client import client, log_retry
from nstray.storage.s3_errors import DAMAGED_ON_THE_WAY, NETWORK, answer_of, errors
from nstray.storage.s3_listing import Stored
from nstray.text import redact

CALL_SECONDS = 180.0  # after which a call begins no further request
LEAST_RATE = 256 * 1024  # bytes a second below which a body counts as stalled
_PIECE = 8 * 2**20  # bytes of a file that are compared at once


@dataclass(frozen=True)
class Body:
    """Bytes of an object from `start` on, of `size` in all; `md5` is that of the whole or None."""

    data: bytes
    start: int
    size: int
    etag: str
    md5: str | None = None


def head(bucket: str, key: str) -> Stored | None:
    """What is stored under a key; None if there is no such object.

    A missing bucket gives None too: the answer to HEAD has no body that would tell it apart.
    """
    with errors(f"s3://{bucket}/{key}"):
        try:
            answer = client().head_object(Bucket=bucket, Key=key)
        except boto.ClientError as error:
            if answer_of(error)[0] == 404:
                return None
            raise
    changed = answer.get("LastModified")
    return Stored(
        key,
        answer.get("ContentLength", 0),
        answer.get("ETag", "").strip('"'),
        changed.timestamp() if changed else 0.0,
    )


def get(
    bucket: str,
    key: str,
    *,
    max_bytes: int | None = None,
    span: str | None = None,
    if_match: str | None = None,
) -> Body:
    """An object; if its body breaks off or came damaged, it is asked for again.

    A body that is the whole object is compared with the digests that the store gives
    (`nstray.storage.s3_digests`), another only with its length. Raises `Corrupt` if the damage
    persists.

    Args:
        max_bytes: raises `TooLarge` for an object of more, before its body is read.
        span: only these bytes, as a Range header names them.
        if_match: the ETag that the object must have; else `Changed` is raised.
    """
    uri = f"s3://{bucket}/{key}"
    began = time.monotonic()
    conditions: dict[str, Any] = {
        k: v for k, v in (("Range", span), ("IfMatch", if_match)) if v is not None
    }
    if span is None:  # of a range some stores send the checksum of the whole
        conditions["ChecksumMode"] = "ENABLED"
    came: set[str] = set()  # MD5s of bodies that are not what the store says it holds

    def retried(attempt: int, error: Exception) -> None:
        if _last(attempt, began):
            raise error
        log_retry(f"GET {uri}", attempt, f"{type(error).__name__}: {error}")
        _wait(attempt)

    with errors(uri):
        for attempt in range(1, s3_client.ATTEMPTS + 1):
            try:
                answer = client().get_object(Bucket=bucket, Key=key, **conditions)
            except boto.ClientError as error:
                if span is not None and answer_of(error)[0] == 416:
                    return Body(b"", 0, 0, if_match or "")  # no byte is in the range
                raise
            except HTTPError as error:  # botocore reads an error's body unguarded
                retried(attempt, boto.HTTPClientError(error=error))
                continue
            with closing(answer["Body"]) as stream:
                # A store may announce no length: the frames of a chunked body say where it ends.
                length = answer.get("ContentLength", 0)
                if max_bytes is not None and length > max_bytes:
                    raise _too_large(uri, length, max_bytes)
                try:
                    with _deadline(stream, s3_client.READ_TIMEOUT + length / LEAST_RATE):
                        data = stream.read()
                except (*NETWORK, boto.FlexibleChecksumError) as error:
                    retried(attempt, error)
                    continue
            start, size = _place(answer, data)
            damage = _damage(bucket, key, answer, data, came) if len(data) == size else None
            if damage is None:
                break
            retried(attempt, damage)
    if max_bytes is not None and len(data) > max_bytes:
        raise _too_large(uri, len(data), max_bytes)
    md5 = s3_digests.expected_md5(bucket, answer)
    return Body(data, start, size, answer.get("ETag", "").strip('"'), md5)


def _place(answer: Any, data: bytes) -> tuple[int, int]:
    """Where `data` starts in its object, and the object's size."""
    # Such as "bytes 299000-299999/300000"; absent if the store ignores ranges and sends everything.
    if not answer.get("ContentRange"):
        return 0, len(data)
    first, _, rest = answer["ContentRange"].removeprefix("bytes ").partition("-")
    return int(first), int(rest.partition("/")[2])


def _too_large(uri: str, size: int, most: int) -> TooLarge:
    return TooLarge(f"{redact(uri)}: {size:,} bytes, more than the {most:,} allowed")


def _damage(
    bucket: str, key: str, answer: Mapping[str, Any], data: bytes, came: set[str]
) -> Corrupt | None:
    """What is wrong with `data`, the whole body that `answer` announces; None if nothing is.

    Args:
        came: MD5s of the damaged bodies of this object before; this one's is added.

    Raises `Corrupt` if the same damaged bytes come again: they are damaged in the store, or in a
    cache before it.
    """
    expected = s3_digests.expected_md5(bucket, answer)
    if expected is None:
        return None
    found = s3_digests.md5(data)
    if found == expected:
        s3_digests.agreed(bucket)
        return None
    error = corrupt(bucket, key, len(data), found, expected)
    if found in came:
        if s3_digests.etags_are_md5(bucket, key):
            raise error
        return None
    came.add(found)
    return error


def corrupt(bucket: str, key: str, size: int, found: str, expected: str) -> Corrupt:
    """The error for bytes of MD5 `found` of an object whose store says `expected`."""
    return Corrupt(
        f"{redact(f's3://{bucket}/{key}')}: its {size:,} bytes came with MD5 {found}, and the "
        f"store says {expected}: they are damaged in the store or on the way; "
        "try again, over https if it stays so, or put the object anew"
    )


@contextmanager
def _deadline(stream: Any, seconds: float) -> Iterator[None]:
    """Break off the reading of a body after `seconds`.

    A socket's own timeout never ends a peer that sends a byte now and then. With urllib3 below 2.3
    there is only READ_TIMEOUT between two bytes.
    """
    timer = threading.Timer(seconds, botocore_internals.break_off, (stream,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def put(
    bucket: str,
    key: str,
    data: bytes | IO[bytes],
    *,
    condition: Literal["new", "any"] | tuple[Literal["match"], str],
) -> str:
    """Put `data`, bytes or (not with ``match``) a seekable file, and return the ETag.

    After 412 the stored bytes are compared with `data`: botocore repeats a put whose answer was
    lost, and then meets its own success.

    Args:
        condition: ``new`` if the key must not exist, ``match`` with the ETag that it must have.

    Raises `AlreadyExists` or `Changed` if the condition does not hold.
    """
    uri = f"s3://{bucket}/{key}"
    where = redact(uri)
    match = condition[1] if isinstance(condition, tuple) else None
    header: dict[str, Any] = (
        {"IfMatch": match}
        if match is not None
        else {"IfNoneMatch": "*"}
        if condition == "new"
        else {}
    )
    began = time.monotonic()
    for attempt in range(1, s3_client.ATTEMPTS + 1):
        if not isinstance(data, bytes):
            data.seek(0)
        with errors(uri):
            try:
                return (
                    client()
                    .put_object(Bucket=bucket, Key=key, Body=data, **header)["ETag"]
                    .strip('"')
                )
            except boto.ClientError as error:
                status, code = answer_of(error)
                if status == 501 and header:
                    raise StorageError(
                        f"{where}: this store knows no conditional puts (501 {code}); "
                        "nstray needs them to commit: use another"
                    ) from None
                damaged = code in DAMAGED_ON_THE_WAY
                if (
                    status not in (409, 412)
                    and not damaged
                    and not (match is not None and code == "NoSuchKey")
                ):
                    raise
                if damaged and _last(attempt, began):
                    raise
        if status != 409 and not damaged:
            stored = _same(bucket, key, data)
            if isinstance(stored, str):
                return stored
            if match is not None:
                became = "is gone" if stored is None else "was changed"
                raise Changed(f"{where} {became} since version {match} was read")
            if stored is False:
                raise AlreadyExists(f"{where} exists already, with other contents")
        if _last(attempt, began):
            break
        # 409: another put of this key is under way; or what was in the way is gone again; or the
        # body came damaged, and the store kept nothing of it
        log_retry(f"PUT {uri}", attempt, f"S3 answered {status} {code}")
        _wait(attempt)
    raise StorageError(
        f"{where}: every one of {attempt} puts met another writer's; "
        "is more than one program writing this key?"
    )


def _same(bucket: str, key: str, data: bytes | IO[bytes]) -> str | Literal[False] | None:
    """The ETag of what is stored if it is `data`; False if it is not; None if nothing is."""
    try:
        if not isinstance(data, bytes):
            return _same_file(bucket, key, data)
        body = get(bucket, key, max_bytes=len(data))
    except TooLarge:
        return False
    except NotFound:
        return None
    return body.etag if body.data == data else False


def _same_file(bucket: str, key: str, file: IO[bytes]) -> str | Literal[False] | None:
    """`_same` for a file, of which a piece at a time is compared."""
    stored = head(bucket, key)
    if stored is None:
        return None
    if file.seek(0, io.SEEK_END) != stored.size:
        return False
    at = file.seek(0)
    while piece := file.read(_PIECE):
        span = f"bytes={at}-{at + len(piece) - 1}"
        if get(bucket, key, span=span, if_match=stored.etag).data != piece:
            return False
        at += len(piece)
    return stored.etag


def delete(bucket: str, key: str) -> None:
    """Remove an object; no error if it is gone already."""
    with errors(f"s3://{bucket}/{key}"):
        client().delete_object(Bucket=bucket, Key=key)


def _last(attempt: int, began: float) -> bool:
    """Whether a call begins no further request."""
    return attempt == s3_client.ATTEMPTS or time.monotonic() - began > CALL_SECONDS


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0.1, 0.2) * 2**attempt)
