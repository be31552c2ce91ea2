"""Objects on S3 behind `nstray.storage`: reading whole or by range, conditional puts.

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
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from nstray.errors import AlreadyExists, Changed, NotFound, StorageError, TooLarge
from nstray.storage import botocore_internals, s3_client
from nstray.storage.s3_client import client, log_retry
from nstray.storage.s3_errors import NETWORK, answer_of, errors
from nstray.storage.s3_listing import Stored
from nstray.text import redact

CALL_SECONDS = 180.0  # after which a call begins no further request
LEAST_RATE = 256 * 1024  # bytes a second below which a body counts as stalled
MAX_BLOCK = 8 * 2**20  # to which range reads grow while a file is read in sequence


@dataclass(frozen=True)
class Body:
    """Bytes of an object from `start` on, of `size` in all."""

    data: bytes
    start: int
    size: int
    etag: str


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
    return Stored(
        key, answer["ContentLength"], answer["ETag"].strip('"'), answer["LastModified"].timestamp()
    )


def get(
    bucket: str,
    key: str,
    *,
    max_bytes: int | None = None,
    span: str | None = None,
    if_match: str | None = None,
) -> Body:
    """An object; if its body breaks off, it is asked for again.

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

    def retried(attempt: int, error: Exception) -> None:
        if attempt == s3_client.ATTEMPTS or time.monotonic() - began > CALL_SECONDS:
            raise error
        log_retry(f"GET {uri}", attempt, f"{type(error).__name__}: {error}")
        _wait(attempt)

    with errors(uri):
        for attempt in range(1, s3_client.ATTEMPTS + 1):
            try:
                answer = client().get_object(Bucket=bucket, Key=key, **conditions)
            except boto.ClientError as error:
                if span is not None and if_match is None and answer_of(error)[0] == 416:
                    return Body(b"", 0, 0, "")  # an object without bytes
                raise
            except HTTPError as error:  # botocore reads an error's body unguarded
                retried(attempt, boto.HTTPClientError(error=error))
                continue
            with closing(answer["Body"]) as stream:
                if max_bytes is not None and answer["ContentLength"] > max_bytes:
                    raise TooLarge(
                        f"{redact(uri)}: {answer['ContentLength']:,} bytes, "
                        f"more than the {max_bytes:,} allowed"
                    )
                try:
                    with _deadline(
                        stream, s3_client.READ_TIMEOUT + answer["ContentLength"] / LEAST_RATE
                    ):
                        data = stream.read()
                    break
                except (*NETWORK, boto.FlexibleChecksumError) as error:
                    retried(attempt, error)
    start, size = 0, len(data)
    # Such as "bytes 299000-299999/300000"; absent if the store ignores ranges and sends everything.
    if answer.get("ContentRange"):
        first, _, rest = answer["ContentRange"].removeprefix("bytes ").partition("-")
        start, size = int(first), int(rest.partition("/")[2])
    return Body(data, start, size, answer["ETag"].strip('"'))


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


class Input(io.RawIOBase):
    """An object as a seekable file that reads ranges of one version of it.

    Wrap it in a BufferedReader. The first request brings the last `block` bytes and with them the
    size, so a Parquet footer costs one request.
    """

    def __init__(self, bucket: str, key: str, block: int) -> None:
        super().__init__()
        self._bucket, self._key, self._block, self._step = bucket, key, block, block
        self._body = get(bucket, key, span=f"bytes=-{block}")
        self._size, self._etag, self._position = self._body.size, self._body.etag, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(view):
            return 0
        end = self._body.start + len(self._body.data)
        if not self._body.start <= self._position < end:
            self._step = min(2 * self._step, MAX_BLOCK) if self._position == end else self._block
            last = min(self._position + max(len(view), self._step), self._size) - 1
            self._body = get(
                self._bucket, self._key, span=f"bytes={self._position}-{last}", if_match=self._etag
            )
        offset = self._position - self._body.start
        piece = self._body.data[offset : offset + len(view)]
        if not piece:
            raise StorageError(
                f"{redact(f's3://{self._bucket}/{self._key}')}: the store sent other bytes than "
                f"those asked for at {self._position:,}"
            )
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


def put(
    bucket: str,
    key: str,
    data: bytes,
    *,
    condition: Literal["new", "any"] | tuple[Literal["match"], str],
) -> str:
    """Put `data` and return the ETag.

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
                if status not in (409, 412) and not (match is not None and code == "NoSuchKey"):
                    raise
        if status != 409:
            stored = _same(bucket, key, data)
            if isinstance(stored, str):
                return stored
            if match is not None:
                became = "is gone" if stored is None else "was changed"
                raise Changed(f"{where} {became} since version {match} was read")
            if stored is False:
                raise AlreadyExists(f"{where} exists already, with other contents")
        if attempt == s3_client.ATTEMPTS or time.monotonic() - began > CALL_SECONDS:
            break
        # 409: another put of this key is under way; or what was in the way is gone again
        log_retry(f"PUT {uri}", attempt, f"S3 answered {status} {code}")
        _wait(attempt)
    raise StorageError(
        f"{where}: every one of {attempt} puts met another writer's; "
        "is more than one program writing this key?"
    )


def _same(bucket: str, key: str, data: bytes) -> str | Literal[False] | None:
    """The ETag of what is stored if it is `data`; False if it is not; None if nothing is."""
    try:
        body = get(bucket, key, max_bytes=len(data))
    except TooLarge:
        return False
    except NotFound:
        return None
    return body.etag if body.data == data else False


def delete(bucket: str, key: str) -> None:
    """Remove an object; no error if it is gone already."""
    with errors(f"s3://{bucket}/{key}"):
        client().delete_object(Bucket=bucket, Key=key)


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0.1, 0.2) * 2**attempt)
