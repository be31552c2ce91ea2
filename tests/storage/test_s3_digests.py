"""nstray.storage.s3_digests and what follows: bytes that came damaged are asked for again, and never taken."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zlib
from typing import Any

import pytest
from scripted import Scripted, error_body, scripted

from nstray import storage
from nstray.errors import Corrupt
from nstray.storage import s3_client, s3_digests

__all__ = ["scripted"]  # a fixture
DATA = os.urandom(100_000)
WRONG = DATA[:-1] + bytes([DATA[-1] ^ 1])
OTHER = DATA[:-1] + bytes([DATA[-1] ^ 2])


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_digests, "_are_md5", {})


def whole(data: bytes, of: bytes = DATA, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """An answer of `data`, with the ETag of `of`."""
    return 200, {"ETag": f'"{hashlib.md5(of).hexdigest()}"', **headers}, data


def listing(*keys: tuple[str, int]) -> tuple[int, dict[str, str], bytes]:
    items = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>x</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        for key, size in keys
    )
    return 200, {"Content-Type": "application/xml"}, f"<ListBucketResult>{items}</ListBucketResult>".encode()


# whole bodies against what the store says of them


def test_a_flipped_bit_is_read_again(scripted: Scripted) -> None:
    scripted.answers = [whole(WRONG), whole(DATA)]
    assert storage.read("s3://b/k") == DATA
    assert len(scripted.requests) == 2


def test_bits_that_flip_each_time_end_in_an_error_that_says_what_came(scripted: Scripted) -> None:
    scripted.answers = [whole(DATA[:-2] + bytes([i, 0])) for i in range(s3_client.ATTEMPTS)]
    with pytest.raises(Corrupt, match=r"s3://b/k: its 100,000 bytes came with MD5 [0-9a-f]{32}, and the store says [0-9a-f]{32}: .* over https"):
        storage.read("s3://b/k")
    assert scripted.answers == []


def test_the_same_damage_twice_is_the_store_s(scripted: Scripted) -> None:
    scripted.answers = [whole(b"good", b"good")]
    storage.read("s3://b/good")
    scripted.answers = [whole(WRONG), whole(WRONG), whole(DATA)]
    with pytest.raises(Corrupt, match="damaged in the store or on the way"):
        storage.read("s3://b/k")
    assert len(scripted.answers) == 1


@pytest.mark.parametrize(
    "answer",
    [
        whole(WRONG, ETag='"0123456789abcdef0123456789abcdef-2"'),
        whole(WRONG, ETag='"0123456789abcdef"'),
        whole(WRONG, ETag='W/"0123456789abcdef0123456789abcdef"'),
        whole(WRONG, **{"x-amz-server-side-encryption": "aws:kms"}),
        whole(WRONG, **{"x-amz-server-side-encryption": "aws:kms:dsse"}),
        whole(WRONG, **{"x-amz-server-side-encryption-customer-algorithm": "AES256"}),
        whole(WRONG, **{"x-goog-stored-content-encoding": "gzip"}),
    ],
    ids=["put in parts", "short", "weak", "kms", "kms twice", "a client's key", "unpacked on its way"],
)
def test_an_etag_that_is_no_md5_of_the_body_is_not_compared(scripted: Scripted, answer: Any) -> None:
    scripted.answers = [answer]
    assert storage.read("s3://b/k") == WRONG


def test_a_directory_bucket_has_etags_of_its_own() -> None:
    answer = {"ETag": '"0123456789abcdef0123456789abcdef"', "ResponseMetadata": {"HTTPHeaders": {}}}
    assert s3_digests.expected_md5("data--use1-az4--x-s3", answer) is None
    assert s3_digests.expected_md5("data", answer) == "0123456789abcdef0123456789abcdef"
    assert s3_digests.expected_md5("data", {**answer, "ServerSideEncryption": "AES256"}) is not None
    assert s3_digests.expected_md5("data", {**answer, "ETag": '"0123456789ABCDEF0123456789ABCDEF"'}) == "0123456789abcdef0123456789abcdef"


def test_a_store_without_etags_or_lengths_can_be_read(scripted: Scripted) -> None:
    scripted.answers = [(200, {"ETag": ""}, DATA)]
    assert storage.read("s3://b/k") == DATA


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_a_checksum_that_the_store_gives_counts_where_the_etag_says_nothing(scripted: Scripted, algorithm: str) -> None:
    right = zlib.crc32(DATA).to_bytes(4, "big") if algorithm == "crc32" else hashlib.sha256(DATA).digest()
    more = {f"x-amz-checksum-{algorithm}": base64.b64encode(right).decode(), "ETag": '"0123456789abcdef0123456789abcdef-2"'}
    scripted.answers = [whole(WRONG, **more), whole(DATA, **more)]
    assert storage.read("s3://b/k") == DATA
    scripted.answers = [whole(WRONG, **more)] * s3_client.ATTEMPTS
    with pytest.raises(Corrupt, match=r"s3://b/k: .*over https"):
        storage.read("s3://b/k")


def test_a_store_whose_etags_are_never_md5s_is_believed(scripted: Scripted) -> None:
    odd = {"ETag": '"0123456789abcdef0123456789abcdef"'}
    others = [whole(b"one", **odd)] * 2 + [whole(b"two", **odd)] * 2
    scripted.answers = [whole(DATA, **odd), whole(DATA, **odd), listing(("f/k", len(DATA)), ("f/one", 3), ("f/two", 3)), *others, whole(OTHER, **odd)]
    assert storage.read("s3://b/f/k") == DATA
    scripted.answers = [whole(OTHER, **odd)] * 2
    assert storage.read("s3://b/f/l") == OTHER


def test_a_neighbour_shows_that_etags_are_md5s(scripted: Scripted) -> None:
    scripted.answers = [whole(WRONG), whole(WRONG), listing(("f/k", len(DATA)), ("f/one", 3)), whole(b"one", b"one"), whole(b"one", b"one")]
    with pytest.raises(Corrupt):
        storage.read("s3://b/f/k")
    scripted.answers = [whole(WRONG), whole(WRONG), (403, {}, error_body("AccessDenied"))]
    with pytest.raises(Corrupt):  # nothing to compare
        storage.read("s3://c/f/k")


# puts


@pytest.mark.parametrize("code", ["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"])
def test_a_put_that_came_damaged_is_tried_again(scripted: Scripted, code: str) -> None:
    refused = (400, {}, error_body(code))
    scripted.answers = [refused, refused, (200, {}, b"")]
    assert storage.put_new("s3://b/k", DATA) == "abc"
    assert [body for _, _, body in scripted.requests] == [DATA] * 3
    scripted.requests.clear()
    scripted.answers = [refused, (500, {}, b""), (200, {}, b"")]
    assert storage.put_file("s3://b/k", io.BytesIO(DATA)) == "abc"
    assert [body for _, _, body in scripted.requests] == [DATA] * 3
    scripted.answers = [refused] * s3_client.ATTEMPTS
    with pytest.raises(Corrupt, match=f"400 {code} .*what is sent comes damaged; check the network"):
        storage.put_over("s3://b/k", DATA, if_match="0" * 32)
    assert scripted.answers == []


# what is opened


def test_a_small_object_that_is_opened_is_compared_and_read_again(scripted: Scripted) -> None:
    part = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
    scripted.answers = [(206, *whole(WRONG, **part)[1:]), (206, *whole(DATA, **part)[1:])]
    with storage.open_input("s3://b/k") as file:
        assert file.read() == DATA


def test_a_large_object_read_in_sequence_is_compared_at_its_end(scripted: Scripted) -> None:
    data, n = DATA * 6, 6 * len(DATA)
    wrong = data[:300_000] + bytes([data[300_000] ^ 1]) + data[300_001:]

    def parts(data: bytes, *starts: int) -> list[tuple[int, dict[str, str], bytes]]:
        ends = {0: 262_144}
        headers = whole(b"", b"".join([DATA] * 6))[1]
        return [(206, {**headers, "Content-Range": f"bytes {a}-{ends.get(a, n) - 1}/{n}"}, data[a : ends.get(a, n)]) for a in starts]

    def read(start: int = 0) -> bytes:
        with storage.open_input("s3://b/k", tail=1000) as file:
            file.seek(start)
            return b"".join(iter(lambda: file.read(30_000), b""))

    scripted.answers = parts(data, n - 1000, 0, 262_144)
    assert read() == data
    scripted.answers = [*parts(wrong, n - 1000, 0, 262_144), (403, {}, error_body("AccessDenied"))]
    with pytest.raises(Corrupt, match="600,000 bytes came with MD5"):
        read()
    scripted.answers = parts(wrong, n - 1000, 262_144)
    assert read(262_144) == wrong[262_144:]  # not read from the start: nothing to compare
