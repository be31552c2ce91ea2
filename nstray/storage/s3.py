"""S3 behind `nstray.storage`: one client per process, conditional puts, range reads, and botocore's errors in our words.

The only module that imports boto3. Measured on radosgw 16.2: If-Match on PUT wants the ETag without quotes (AWS takes both); If-Match on
a key that is gone gives 412 where AWS gives 404; a suffix range of an empty object gives 416.

How long a call can take. One request: ATTEMPTS times READ_TIMEOUT and the pauses between, 315 s where a store takes connections and never
answers; 65 s where it takes none. A call of several requests (a body that broke off, a put that met another) begins none after CALL_SECONDS;
a body is given up when it is later than READ_TIMEOUT plus its size at LEAST_RATE. So an image of 64 MB is there or given up after 180 + 315 +
316 s at the worst, below the `stall_timeout` (900 s) after which a worker counts as hung. Not bounded from here: what the system's resolver
takes for a name (/etc/resolv.conf; glibc gives each server 5 s twice), times ATTEMPTS; and a listing as a whole, which has many requests.
AWS_MAX_ATTEMPTS changes ATTEMPTS of a request.
"""

from __future__ import annotations

import io
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote_plus, urlsplit
from xml.etree import ElementTree

import boto3
import botocore.session
from botocore import exceptions as boto
from botocore.config import Config
from urllib3.exceptions import HTTPError

from nstray.errors import (
    AccessDenied,
    AlreadyExists,
    BadCredentials,
    Changed,
    NoSuchBucket,
    NotFound,
    NstrayError,
    StorageError,
    TooLarge,
    Unreachable,
    UsageError,
)
from nstray.text import log_event, redact

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT = 10.0  # seconds, of each address of the endpoint; also for the peer to take 16 KiB of what is sent
READ_TIMEOUT = 60.0  # seconds without a byte of the answer
CALL_SECONDS = 180.0  # after which a call begins no further request
LEAST_RATE = 256 * 1024  # bytes a second below which a body counts as stalled
ATTEMPTS = 5  # of one request (unless AWS_MAX_ATTEMPTS says otherwise), of a body that breaks off, of a put that meets a conflict
MAX_BLOCK = 8 * 2**20  # to which range reads grow while a file is read in sequence

_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.MetadataRetrievalError,
    boto.ProfileNotFound,
)
_NETWORK = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)
_WHERE_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or AWS_PROFILE, "
    "or give the machine or pod an IAM role; on a cluster, on every node"
)
_DENIED = {
    "SignatureDoesNotMatch": "the secret key is not this access key's: check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "no such access key: check AWS_ACCESS_KEY_ID, and AWS_ENDPOINT_URL for a store that is not AWS",
    "ExpiredToken": "the credentials have expired: renew them",
    "InvalidToken": "the session token is not valid: renew the credentials, or unset AWS_SESSION_TOKEN",
    "TokenRefreshRequired": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
}
_NOT_ALLOWED = (
    "these credentials may not do this: check the bucket's policy and the role's (s3:GetObject, s3:PutObject, s3:ListBucket); "
    "without s3:ListBucket an object that does not exist looks the same"
)

log = logging.getLogger("nstray.storage")
_lock = threading.Lock()
_clients: dict[tuple[object, ...], S3Client] = {}


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it at the fork


os.register_at_fork(after_in_child=_after_fork)


def client() -> S3Client:
    """This process's client; made anew after a fork and when an ``AWS_*`` variable changes."""
    key = (os.getpid(), *sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    with _lock:
        if key not in _clients:
            _clients.clear()
            _clients[key] = _make_client()
        return _clients[key]


def forget_client() -> None:
    """Close this process's client; the next call makes another."""
    with _lock:
        for made in _clients.values():
            made.close()
        _clients.clear()


def _make_client() -> S3Client:
    core = botocore.session.get_session()
    session = boto3.Session(botocore_session=core)
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "max_pool_connections": 32,
        "tcp_keepalive": True,
    }
    if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & set(os.environ):
        options["retries"] = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    try:
        made = session.client("s3", config=Config(**options))
        host = urlsplit(made.meta.endpoint_url).hostname or ""
        if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return _quick_listings(_with_log(made))
        # MinIO and Ceph serve s3.host/bucket, not bucket.s3.host, and older ones know no CRC32 trailers.
        if "addressing_style" not in (core.get_scoped_config().get("s3") or {}):
            options["s3"] = {"addressing_style": "path"}
        for side in ("request_checksum_calculation", "response_checksum_validation"):
            if f"AWS_{side.upper()}" not in os.environ:
                options[side] = "when_required"
        return _quick_listings(_with_log(session.client("s3", config=Config(**options))))
    except ValueError as error:
        said = re.sub(
            r"\S+@", "", redact(str(error))
        )  # a name and password without http:// before them
        raise UsageError(
            f"{said}; check AWS_ENDPOINT_URL (http://HOST:PORT or https://HOST) and AWS_DEFAULT_REGION"
        ) from None


def _quick_listings(made: S3Client) -> S3Client:
    """`made`, which reads the objects of a listing by itself: botocore takes 0.12 s for the thousand of an answer, this 0.02 s."""

    def read(item: ElementTree.Element) -> dict[str, Any]:
        text = {part.tag.rpartition("}")[2]: part.text or "" for part in item}
        changed = datetime.fromisoformat(text["LastModified"])
        return {
            "Key": text["Key"],
            "Size": int(text["Size"]),
            "ETag": text["ETag"],
            "LastModified": changed,
        }

    def read_all(
        response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
    ) -> None:
        try:
            root = ElementTree.fromstring(response_dict["body"])
            objects = [read(item) for item in root.iterfind("{*}Contents")]
        except (ElementTree.ParseError, LookupError, ValueError):
            return  # an error, or nothing that is known here: botocore's to read
        if objects:
            root[:] = [part for part in root if part.tag.rpartition("}")[2] != "Contents"]
            response_dict["body"] = ElementTree.tostring(root)
            customized_response_dict["Contents"] = objects

    # By this name, and no other, it comes before botocore's own handler of "before-parse.s3.*", which parses the whole body to look for an error.
    made.meta.events.register("before-parse.*.ListObjectsV2", read_all)
    return made


def _with_log(made: S3Client) -> S3Client:
    """`made`, which from now on says of each request that botocore repeats what became of the one before."""

    def remember(
        request_dict: dict[str, Any], response: Any, caught_exception: Exception | None, **_: Any
    ) -> None:
        if caught_exception is None and response is not None:
            error = response[1].get("Error", {})
            reason = f"S3 answered {response[0].status_code} {error.get('Code', '')}".rstrip()
        else:
            reason = f"{type(caught_exception).__name__}: {caught_exception}"
        request_dict["context"]["nstray_reason"] = reason

    def tell(request: Any, **_: Any) -> None:
        attempt = request.context.get("retries", {}).get("attempt", 1)
        if attempt > 1:
            _log_retry(
                f"{request.method} {request.url}", attempt - 1, request.context.get("nstray_reason")
            )

    made.meta.events.register("needs-retry.s3", remember)
    made.meta.events.register("request-created.s3", tell)
    return made


def _log_retry(what: str, attempt: int, reason: object) -> None:
    log_event("storage_retry", log.warning, what=what, **{"try": attempt}, error=reason)


# --- errors -------------------------------------------------------------------------------------------------------------------------


@contextmanager
def errors(uri: str) -> Iterator[None]:
    """Turn what botocore raises into exceptions of `nstray.errors` that name `uri`, redacted."""
    try:
        yield
    except boto.ClientError as error:
        raise _explain_answer(error, uri) from None
    except boto.BotoCoreError as error:
        raise _explain_failure(error, uri) from None


def _answer(error: boto.ClientError) -> tuple[int, str]:
    """(HTTP status, S3's code); a HEAD has no body, so its code is the status again."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status, str(error.response.get("Error", {}).get("Code", ""))


def _explain_answer(error: boto.ClientError, uri: str) -> NstrayError:
    status, code = _answer(error)
    where, bucket = redact(uri), redact(uri).removeprefix("s3://").partition("/")[0]
    text = error.response.get("Error", {}).get("Message") or ""
    said = f"S3 answered {status} {code}".removesuffix(f" {status}") + (
        f" ({redact(text)})" if text and text != code else ""
    )
    if code == "NoSuchBucket":
        return NoSuchBucket(
            f"{where}: the bucket {bucket} does not exist; create it, or check its name and AWS_ENDPOINT_URL"
        )
    if status == 404:
        return NotFound(f"{where}: no such object")
    if code in _DENIED:
        return BadCredentials(f"{where}: {said}; {_DENIED[code]}")
    if status in (401, 403):
        return AccessDenied(f"{where}: {said}; {_NOT_ALLOWED}")
    if status in (301, 307) or code == "AuthorizationHeaderMalformed":
        return StorageError(
            f"{where}: {said}; the bucket is in another region: set AWS_DEFAULT_REGION"
        )
    if status == 429 or (status >= 500 and status != 501):
        return Unreachable(
            f"{where}: {said}, and kept to it; try again later, or with fewer workers"
        )
    if status == 412:
        return Changed(f"{where}: changed since it was opened")
    return StorageError(f"{where}: {said}")


def _explain_failure(error: boto.BotoCoreError, uri: str) -> NstrayError:
    where, text = (
        redact(uri),
        redact(str(error)).replace(' on endpoint URL: "None"', ""),
    )  # of a body, whose URL botocore does not know
    if isinstance(error, _CREDENTIALS):
        return BadCredentials(f"{where}: {text}; {_WHERE_CREDENTIALS}")
    if isinstance(error, boto.SSLError):
        return Unreachable(
            f"{where}: {text}; check the endpoint's certificate, or name its authority with AWS_CA_BUNDLE"
        )
    if isinstance(error, _NETWORK):
        return Unreachable(
            f"{where}: {text}; check AWS_ENDPOINT_URL, the network, and that the server runs"
        )
    if isinstance(
        error,
        boto.ParamValidationError
        | boto.InvalidRegionError
        | boto.InvalidConfigError
        | boto.ConfigParseError,
    ):
        return UsageError(f"{where}: {text}")
    return StorageError(f"{where}: {type(error).__name__}: {text}")


# --- reading ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """What is stored under a key; `etag` without quotes."""

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True)
class Body:
    """Bytes of an object from `start` on, of `size` in all."""

    data: bytes
    start: int
    size: int
    etag: str


def head(bucket: str, key: str) -> Stored | None:
    """None where there is no such object; a missing bucket can't be told from that, as the answer to HEAD has no body."""
    with errors(f"s3://{bucket}/{key}"):
        try:
            answer = client().head_object(Bucket=bucket, Key=key)
        except boto.ClientError as error:
            if _answer(error)[0] == 404:
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
    """An object, or its bytes `span` (of a Range header), as long as its version is `if_match`; starts again where the body breaks off."""
    uri = f"s3://{bucket}/{key}"
    began = time.monotonic()
    conditions: dict[str, Any] = {
        k: v for k, v in (("Range", span), ("IfMatch", if_match)) if v is not None
    }

    def retried(attempt: int, error: Exception) -> None:
        if attempt == ATTEMPTS or time.monotonic() - began > CALL_SECONDS:
            raise error
        _log_retry(f"GET {uri}", attempt, f"{type(error).__name__}: {error}")
        _wait(attempt)

    with errors(uri):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = client().get_object(Bucket=bucket, Key=key, **conditions)
            except boto.ClientError as error:
                if (
                    span is not None and if_match is None and _answer(error)[0] == 416
                ):  # an object without bytes
                    return Body(b"", 0, 0, "")
                raise
            except HTTPError as error:  # botocore reads an error's body unguarded
                retried(attempt, boto.HTTPClientError(error=error))
                continue
            with closing(answer["Body"]) as stream:
                if max_bytes is not None and answer["ContentLength"] > max_bytes:
                    raise TooLarge(
                        f"{redact(uri)}: {answer['ContentLength']:,} bytes, more than the {max_bytes:,} allowed"
                    )
                try:
                    with _deadline(stream, READ_TIMEOUT + answer["ContentLength"] / LEAST_RATE):
                        data = stream.read()
                    break
                except (*_NETWORK, boto.FlexibleChecksumError) as error:
                    retried(attempt, error)
    start, size = 0, len(data)
    if answer.get(
        "ContentRange"
    ):  # "bytes 299000-299999/300000"; absent where the store ignores ranges and sends all
        first, _, rest = answer["ContentRange"].removeprefix("bytes ").partition("-")
        start, size = int(first), int(rest.partition("/")[2])
    return Body(data, start, size, answer["ETag"].strip('"'))


@contextmanager
def _deadline(stream: Any, seconds: float) -> Iterator[None]:
    """Break off reading a body after `seconds`: a socket's own timeout never ends a peer that sends a byte now and then.

    urllib3 below 2.3 can't; READ_TIMEOUT between two bytes is all there is then.
    """

    def stop() -> None:
        with suppress(
            AttributeError, OSError, RuntimeError, ValueError
        ):  # it may have been read to its end just now
            stream._raw_stream.shutdown()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Input(io.RawIOBase):
    """An object as a seekable file that reads ranges of one version of it; wrap it in a BufferedReader.

    The first request brings the last `block` bytes, with them the size: a Parquet footer costs one request.
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
                f"{redact(f's3://{self._bucket}/{self._key}')}: the store sent other bytes than those asked for at {self._position:,}"
            )
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


def walk(bucket: str, prefix: str, recursive: bool) -> Iterator[Stored]:
    """Every object whose key starts with `prefix`, in S3's order; not recursive: none with a further slash. Raises `NotFound` for the bucket."""
    with errors(f"s3://{bucket}/{prefix}"):
        list_pages = client().get_paginator("list_objects_v2")
        # Keys that are asked for encoded, botocore leaves so: it takes 6 ms to decode a thousand, of which most have slashes alone.
        for page in list_pages.paginate(
            Bucket=bucket, Prefix=prefix, Delimiter="" if recursive else "/", EncodingType="url"
        ):
            encoded = page.get("EncodingType") == "url"
            for item in page.get("Contents", ()):
                key = item["Key"]
                if encoded and ("%" in (key := key.replace("%2F", "/")) or "+" in key):
                    key = unquote_plus(key)
                if not key.endswith("/"):  # an empty object that a console made to show a folder
                    yield Stored(
                        key, item["Size"], item["ETag"].strip('"'), item["LastModified"].timestamp()
                    )


# --- writing ------------------------------------------------------------------------------------------------------------------------


def put(
    bucket: str,
    key: str,
    data: bytes,
    *,
    condition: Literal["new", "any"] | tuple[Literal["match"], str],
) -> str:
    """Put `data`, on `condition` that the key is new, or holds the version given; returns the ETag.

    After 412 the stored bytes are compared with `data`: botocore repeats a put whose answer was lost, and then meets its own success.
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
    for attempt in range(1, ATTEMPTS + 1):
        with errors(uri):
            try:
                return (
                    client()
                    .put_object(Bucket=bucket, Key=key, Body=data, **header)["ETag"]
                    .strip('"')
                )
            except boto.ClientError as error:
                status, code = _answer(error)
                if status == 501 and header:
                    raise StorageError(
                        f"{where}: this store knows no conditional puts (501 {code}); nstray needs them to commit: use another"
                    ) from None
                if status not in (409, 412) and not (match is not None and code == "NoSuchKey"):
                    raise
        if status != 409:
            stored = _same(bucket, key, data)
            if isinstance(stored, str):
                return stored
            if match is not None:
                raise Changed(
                    f"{where} {'is gone' if stored is None else 'was changed'} since version {match} was read"
                )
            if stored is False:
                raise AlreadyExists(f"{where} exists already, with other contents")
        if attempt == ATTEMPTS or time.monotonic() - began > CALL_SECONDS:
            break
        # 409: another put of this key is under way; or what was in the way is gone again
        _log_retry(f"PUT {uri}", attempt, f"S3 answered {status} {code}")
        _wait(attempt)
    raise StorageError(
        f"{where}: every one of {attempt} puts met another writer's; is more than one program writing this key?"
    )


def _same(bucket: str, key: str, data: bytes) -> str | Literal[False] | None:
    """The ETag of what is stored if it is `data`, False if it is something else, None if nothing is."""
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
