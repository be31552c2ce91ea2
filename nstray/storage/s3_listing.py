"""Listings of a bucket, in S3's order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_plus

from nstray.storage.s3_client import client
from nstray.storage.s3_errors import errors


@dataclass(frozen=True)
class Stored:
    """What is stored under a key; `etag` without quotes."""

    key: str
    size: int
    etag: str
    modified: float


def walk(bucket: str, prefix: str, recursive: bool) -> Iterator[Stored]:
    """Every object whose key starts with `prefix`, in S3's order.

    Raises `NotFound` if there is no such bucket.

    Args:
        recursive: False leaves out keys with a slash after `prefix`.
    """
    with errors(f"s3://{bucket}/{prefix}"):
        list_pages = client().get_paginator("list_objects_v2")
        # With an EncodingType of our own botocore leaves the keys encoded. It takes 6 ms to decode
        # a thousand keys, most of which hold nothing encoded but slashes.
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
