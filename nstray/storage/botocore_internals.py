"""What nstray relies on inside botocore and urllib3, beyond what they document.

``tests/storage/test_private_botocore.py`` fails if one of them changes.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def read_listings(made: S3Client) -> None:
    """Let `made` read the objects of a listing with code of our own.

    botocore takes 0.12 s for the thousand objects of an answer, this 0.02 s.
    """

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
            return  # an error, or nothing that is known here: botocore reads it
        if objects:
            root[:] = [part for part in root if part.tag.rpartition("}")[2] != "Contents"]
            response_dict["body"] = ElementTree.tostring(root)
            customized_response_dict["Contents"] = objects

    # By this name, and no other, the handler comes before botocore's own one of
    # "before-parse.s3.*", which parses the whole body to look for an error.
    made.meta.events.register("before-parse.*.ListObjectsV2", read_all)


def attempt_of(request: Any) -> int:
    """Which attempt at a request this is, from 1; `request` is that of event request-created."""
    attempt: int = request.context.get("retries", {}).get("attempt", 1)
    return attempt


def break_off(body: Any) -> None:
    """End the reading of a body (`StreamingBody`) that another thread reads.

    urllib3 below 2.3 can't. A body that has just been read to its end is no error.
    """
    with suppress(AttributeError, OSError, RuntimeError, ValueError):
        body._raw_stream.shutdown()
