"""nstray.storage.read_range: one range of one version, local and on S3."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scripted import Scripted, error_body, scripted

from nstray import storage
from nstray.errors import AccessDenied, Changed, NotFound, ShortRead, StorageError, TooLarge
from nstray.storage import s3_client

__all__ = ["scripted"]  # a fixture
DATA = bytes(range(256)) * 4


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An object of 1,024 bytes."""
    folder = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    storage.put_new(f"{folder}/k", DATA)
    return f"{folder}/k"


def read(uri: str, start: int, length: int, **more: object) -> bytes:
    return storage.read_range(uri, start, length, **{"max_bytes": 2000, **more}).data  # type: ignore[arg-type]


def test_a_range_is_what_is_asked_for(uri: str) -> None:
    etag = storage.head(uri).etag
    assert storage.read_range(uri, 10, 5, max_bytes=5, if_match=etag) == storage.Piece(DATA[10:15], 10, 1024, etag)
    assert read(uri, 0, 1024) == DATA
    assert read(uri, 1023, 1) == DATA[1023:]
    assert read(uri, 500, 0) == b""
    assert read(uri, 500, 0, if_match=f'"{etag}"') == b""
    assert storage.read_range(uri, -1, 24, max_bytes=24) == storage.Piece(DATA[1000:], 1000, 1024, etag)
    assert storage.read_range(uri, -1, 1500, max_bytes=1500) == storage.Piece(DATA, 0, 1024, etag)


def test_a_short_read_is_an_error(uri: str) -> None:
    etag = storage.head(uri).etag
    for start, length in ((1000, 25), (1024, 1), (10**17, 5)):
        for known in (None, etag):
            with pytest.raises(ShortRead, match=f"ends before its byte {start + length:,}"):
                read(uri, start, length, if_match=known)


def test_more_than_max_bytes_is_not_asked_for(uri: str) -> None:
    storage.delete(uri)
    with pytest.raises(TooLarge, match="10,000,000,000 bytes, more than the 2,000 allowed"):
        read(uri, 0, 10**10)


def test_another_version_is_said(uri: str) -> None:
    etag = storage.head(uri).etag
    storage.put_over(uri, DATA[::-1])
    if not storage.is_uri(uri):
        os.utime(uri, ns=(1, 1))
    with pytest.raises(Changed):
        read(uri, 0, 5, if_match=etag)
    with pytest.raises(Changed):
        read(uri, 0, 0, if_match=etag)
    assert read(uri, 0, 5) == DATA[::-1][:5]


def test_what_is_missing_is_not_found(uri: str) -> None:
    with pytest.raises(NotFound):
        read(f"{uri}2", 0, 5)
    with pytest.raises(NotFound):
        read(f"{uri}2", -1, 5, if_match="x")


def test_an_empty_object_has_no_last_bytes(uri: str) -> None:
    storage.put_over(uri, b"")
    assert storage.read_range(uri, -1, 24, max_bytes=24).data == b""
    assert storage.read_range(uri, -1, 24, max_bytes=24).size == 0
    with pytest.raises(ShortRead):
        read(uri, 0, 1)


def test_a_copy_that_keeps_time_and_size_is_the_same_version(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    for path in (one, other):
        path.write_bytes(DATA)
        os.utime(path, ns=(5, 5))
    etag = storage.head(str(one)).etag
    assert etag != storage.head(str(other)).etag
    assert read(str(other), 3, 4, if_match=etag) == DATA[3:7]
    os.utime(other, ns=(5, 6))
    with pytest.raises(Changed, match="is not the version 5-1024-"):
        read(str(other), 3, 4, if_match=etag)


def test_a_folder_or_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StorageError, match=r"folder|regular"):
            read(str(path), 0, 1)


def test_s3_one_request_with_if_match(s3: str) -> None:
    storage.put_new(f"{s3}/k", DATA)
    etag = storage.head(f"{s3}/k").etag
    sent: list[tuple[object, object]] = []
    s3_client.client().meta.events.register(
        "before-send.s3.GetObject", lambda request, **_: sent.append((request.headers["Range"], request.headers["If-Match"]))
    )
    read(f"{s3}/k", 7, 9, if_match=etag)
    assert [tuple(v.decode() if isinstance(v, bytes) else v for v in each) for each in sent] == [("bytes=7-15", etag)]


def test_s3_a_store_that_ignores_ranges(scripted: Scripted) -> None:
    scripted.answers = [(200, {"ETag": '"e"'}, DATA)] * 3
    assert read("s3://b/k", 10, 5) == DATA[10:15]
    assert read("s3://b/k", -1, 5) == DATA[-5:]
    with pytest.raises(TooLarge):
        storage.read_range("s3://b/k", 10, 5, max_bytes=100)


def test_s3_refusals_have_the_types_of_read(scripted: Scripted) -> None:
    scripted.answers = [(403, {}, error_body("AccessDenied")), (412, {}, error_body("PreconditionFailed"))]
    with pytest.raises(AccessDenied, match="s3://b/k"):
        read("s3://b/k", 0, 5)
    with pytest.raises(Changed):
        read("s3://b/k", 0, 5, if_match="x")
