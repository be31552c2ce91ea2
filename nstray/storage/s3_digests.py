"""Whether the bytes that came are those that the store holds.

botocore compares the length of every body, and the checksum (``x-amz-checksum-*``) of a whole one
if the store gives it. This adds the MD5: S3's ETag of an object that was put at once. Plain http
has no other digest of what a store sends.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from nstray.storage.s3_client import client
from nstray.text import log_event

log = logging.getLogger("nstray.storage")
_MD5 = re.compile(r"[0-9A-Fa-f]{32}")
_COMPARED = 3  # other objects that say what a bucket's ETags are
_COMPARED_BYTES = 16 * 2**20  # a larger object is not read for that
_are_md5: dict[str, bool] = {}  # what is known of the ETags of a bucket
_lock = threading.Lock()


def new_md5(data: bytes = b"") -> hashlib._Hash:
    """An MD5 that bytes can be added to. It guards against damage, not against forgery."""
    return hashlib.md5(data, usedforsecurity=False)


def md5(data: bytes) -> str:
    """The MD5 of `data`, in hexadecimal digits."""
    return new_md5(data).hexdigest()


def expected_md5(bucket: str, answer: Mapping[str, Any]) -> str | None:
    """The MD5 of the whole body that `answer`, of GetObject, announces.

    None if the ETag is none: of an object that was put in parts (its ETag has a dash) or is
    encrypted by a key of the client or of KMS, in a directory bucket, and of one that the store
    unpacks on its way (Google's Cloud Storage does that with gzip).
    """
    etag: str = answer.get("ETag", "").strip('"')
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if (
        not _MD5.fullmatch(etag)
        or answer.get("ServerSideEncryption", "AES256") != "AES256"
        or answer.get("SSECustomerAlgorithm")
        or bucket.endswith("--x-s3")
        or headers.get("x-goog-stored-content-encoding", "identity") != "identity"
    ):
        return None
    return etag.lower()


def agreed(bucket: str) -> None:
    """Note that an object of the bucket has its MD5 as ETag."""
    _are_md5[bucket] = True


def etags_are_md5(bucket: str, key: str) -> bool:
    """Whether the ETags of a bucket are MD5s, as far as other objects of the same folder show it.

    Asked if an object came twice with the same bytes, whose MD5 is not its ETag: that is damage,
    unless no object of this store has its MD5 as ETag. True if there is nothing to compare.
    """
    with _lock:
        if bucket not in _are_md5:
            found = list(_others(bucket, key))
            if not found:
                return True
            _are_md5[bucket] = any(found)
            if not any(found):
                log_event("etags_are_no_md5", log.warning, bucket=bucket)
        return _are_md5[bucket]


def _others(bucket: str, key: str) -> Iterator[bool]:
    """Whether an object's ETag is its MD5, for some others of the folder of `key`.

    True of an object that comes with other bytes each time, too: then bytes are damaged on the way.
    """
    try:
        listed = client().list_objects_v2(
            Bucket=bucket, Prefix=key.rpartition("/")[0], MaxKeys=10 * _COMPARED
        )
        compared = 0
        for item in listed.get("Contents", ()):
            if compared == _COMPARED or item["Key"] == key or item["Size"] > _COMPARED_BYTES:
                continue
            came: set[str] = set()
            for _ in range(2):
                answer = client().get_object(Bucket=bucket, Key=item["Key"])
                with closing(answer["Body"]) as body:
                    expected = expected_md5(bucket, answer)
                    came |= {md5(body.read())} if expected else set()
            if came:
                compared += 1
                yield len(came) == 2 or expected in came
    except (boto.ClientError, boto.BotoCoreError, HTTPError):
        return
