"""nstray.storage.s3 against moto's server, and against answers that no server gives on demand; the real server's tests are in tests/s3."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted import Scripted, error_body, scripted

from nstray import storage
from nstray.errors import AccessDenied, Changed, NotFound, StorageError, Unreachable, UsageError
from nstray.storage import s3_client

__all__ = ["scripted"]  # a fixture


def test_s3_bucket_missing(s3: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.read("s3://no-such-bucket/k"),
        lambda: storage.open_input("s3://no-such-bucket/k"),
        lambda: storage.put_new("s3://no-such-bucket/k", b"1"),
        lambda: storage.put_over("s3://no-such-bucket/k", b"1", if_match="0" * 32),
        lambda: list(storage.list_files("s3://no-such-bucket")),
        lambda: list(storage.list_prefix("s3://no-such-bucket/a/part-")),
        lambda: storage.delete("s3://no-such-bucket/k"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="bucket no-such-bucket does not exist"):
            call()
    assert list(storage.list_files(f"{s3}/no keys here")) == []


def test_s3_a_bucket_is_no_object(s3: str) -> None:
    for call in (storage.read, storage.head, storage.open_input, storage.delete):
        with pytest.raises(UsageError, match="names a bucket"):
            call(s3)


def test_s3_folder_markers_are_not_files(s3: str) -> None:
    s3_client.client().put_object(Bucket=s3.removeprefix("s3://"), Key="f/", Body=b"")
    storage.put_new(f"{s3}/f/a", b"1")
    assert [f.uri for f in storage.list_files(s3)] == [f"{s3}/f/a"]


def test_s3_a_listing_is_what_botocore_reads(s3: str) -> None:
    bucket = s3.removeprefix("s3://").partition("/")[0]
    names = [f"plain-{i}" for i in range(5)] + ["with space", "plus+", "100%", "%2F", "a%20b", "é", "<&>", "deep/er/name"]
    for name in names:
        storage.put_new(f"{s3}/listed/{name}", name.encode())
    plain = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    pages = plain.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3})
    expected = [(f"s3://{bucket}/{o['Key']}", o["Size"], o["ETag"].strip('"'), o["LastModified"].timestamp()) for p in pages for o in p["Contents"]]
    found = [(o.uri, o.size, o.etag, o.modified) for o in storage.list_files(f"s3://{bucket}")]
    assert found == expected
    assert {uri.partition("/listed/")[2] for uri, *_ in found} >= set(names)


def test_s3_a_footer_costs_one_request(s3: str) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": range(20_000), "noise": [os.urandom(64) for _ in range(20_000)]}), sink, compression="none")
    storage.put_new(f"{s3}/t.parquet", sink.getvalue())
    ranges: list[object] = []
    s3_client.client().meta.events.register("before-send.s3.GetObject", lambda request, **_: ranges.append(request.headers["Range"]))
    with storage.open_input(f"{s3}/t.parquet", tail=storage.BLOCK) as file:
        assert pq.ParquetFile(file).metadata.num_rows == 20_000
    assert ranges in ([b"bytes=-262144"], ["bytes=-262144"])


def test_s3_replaced_while_open(s3: str) -> None:
    storage.put_new(f"{s3}/k", bytes(1_000_000))
    with storage.open_input(f"{s3}/k", tail=storage.BLOCK) as file:
        storage.put_over(f"{s3}/k", bytes(999_999))
        with pytest.raises(Changed, match="changed since it was opened"):
            file.read(10)


def test_s3_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "only-half")
    with pytest.raises(AccessDenied, match=r"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.*AWS_PROFILE.*IAM role"):
        storage.put_new(f"{s3}/k", b"1")
    monkeypatch.setenv("AWS_PROFILE", "missing-profile")
    with pytest.raises(AccessDenied, match="missing-profile"):
        list(storage.list_files(s3))


def test_s3_endpoint_that_is_no_url(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(UsageError, match="check AWS_ENDPOINT_URL"):
        storage.read(f"{s3}/k")


def test_s3_client_settings(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = s3_client.client()
    assert s3_client.client() is first
    assert first.meta.config.s3["addressing_style"] == "path"
    assert first.meta.config.request_checksum_calculation == "when_required"
    assert first.meta.config.retries == {"mode": "standard", "total_max_attempts": 5}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    assert s3_client.client().meta.config.retries["total_max_attempts"] == 2
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    assert s3_client.client().meta.config.request_checksum_calculation == "when_supported"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    aws = s3_client.client()
    assert aws.meta.endpoint_url.endswith("amazonaws.com")
    assert (aws.meta.config.s3 or {}).get("addressing_style") != "path"


def test_a_body_that_breaks_off_is_read_again(scripted: Scripted) -> None:
    scripted.answers = [(200, {"Content-Length": "6"}, b"abc"), (200, {}, b"abcdef")]
    assert storage.read("s3://b/k") == b"abcdef"
    scripted.answers = [(200, {"Content-Length": "6"}, b"abc")] * s3_client.ATTEMPTS
    with pytest.raises(Unreachable, match=r"s3://b/k"):
        storage.read("s3://b/k")
    assert scripted.answers == []


def test_a_put_whose_answer_was_lost_is_our_own(scripted: Scripted) -> None:
    scripted.answers = [None, (412, {}, error_body("PreconditionFailed")), (200, {}, b"mine")]
    assert storage.put_new("s3://b/k", b"mine") == "abc"
    assert [r[0] for r in scripted.requests] == ["PUT", "PUT", "GET"]
    assert scripted.requests[0][1]["If-None-Match"] == "*"
    scripted.answers = [None, (412, {}, error_body("PreconditionFailed")), (200, {}, b"mine")]
    assert storage.put_over("s3://b/k", b"mine", if_match="old") == "abc"
    assert scripted.requests[-2][1]["If-Match"] == "old"


def test_409_is_tried_again(scripted: Scripted) -> None:
    conflict = (409, {}, error_body("ConditionalRequestConflict"))
    scripted.answers = [conflict, conflict, (200, {}, b"")]
    assert storage.put_new("s3://b/k", b"mine") == "abc"
    scripted.answers = [conflict] * s3_client.ATTEMPTS
    with pytest.raises(StorageError, match="more than one program"):
        storage.put_new("s3://b/k", b"mine")
    assert scripted.answers == []


def test_what_was_in_the_way_is_gone_again(scripted: Scripted) -> None:
    scripted.answers = [(412, {}, error_body("PreconditionFailed")), (404, {}, error_body("NoSuchKey")), (200, {}, b"")]
    assert storage.put_new("s3://b/k", b"mine") == "abc"


@pytest.mark.parametrize(
    ("status", "code", "expected", "message"),
    [
        (403, "AccessDenied", AccessDenied, "S3 answered 403 AccessDenied .because.*bucket's policy"),
        (400, "ExpiredToken", AccessDenied, "have expired"),
        (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
        (503, "SlowDown", Unreachable, "fewer workers"),
        (500, "InternalError", Unreachable, "500 InternalError"),
        (501, "NotImplemented", StorageError, "no conditional puts"),
        (400, "EntityTooLarge", StorageError, "400 EntityTooLarge"),
        (400, "AuthorizationHeaderMalformed", StorageError, "AWS_DEFAULT_REGION"),
    ],
)
def test_s3_answers_in_our_words(scripted: Scripted, status: int, code: str, expected: type[Exception], message: str) -> None:
    scripted.answers = [(status, {}, error_body(code))] * 3
    with pytest.raises(expected, match=message) as caught:
        storage.put_new("s3://b/k", b"1")
    assert "s3://b/k" in str(caught.value)
    assert caught.value.__cause__ is None


def test_endpoint_down(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        for call in (storage.read, storage.head, storage.open_input, lambda uri: list(storage.list_files(uri))):
            with pytest.raises(Unreachable, match="check AWS_ENDPOINT_URL"):
                call("s3://b/k")
