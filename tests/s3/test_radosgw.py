"""nstray.storage against a real S3 server, with signatures, conditions and paging enforced: Ceph's radosgw (scripts/radosgw)."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nstray import storage
from nstray.errors import AccessDenied, AlreadyExists, BadCredentials, Changed, NotFound, TooLarge, Unreachable
from nstray.storage import s3_client

SCRIPT = Path(__file__).parents[2] / "scripts" / "radosgw"


def test_wrong_secret_and_wrong_key(rgw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put_new(f"{rgw}/k", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDenied, match=r"SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"):
        storage.read(f"{rgw}/k")
    with pytest.raises(AccessDenied, match="403"):
        storage.head(f"{rgw}/k")
    with pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
        storage.put_new(f"{rgw}/k2", b"1")
    with pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
        list(storage.list_files(rgw))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(AccessDenied, match=r"InvalidAccessKeyId.*AWS_ENDPOINT_URL"):
        storage.open_input(f"{rgw}/k")


def test_without_credentials_a_public_object_is_read_and_a_private_one_asks_for_them(rgw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = rgw.removeprefix("s3://")
    s3_client.client().put_object(Bucket=bucket, Key="public", Body=b"1", ACL="public-read")
    storage.put_new(f"{rgw}/private", b"2")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BadCredentials, match="no credentials were found"):
        storage.read(f"{rgw}/private")
    assert storage.read(f"{rgw}/public") == b"1"
    with pytest.raises(AccessDenied, match="403"):
        storage.read(f"{rgw}/private")


def test_bucket_missing(rgw: str) -> None:
    for call in (
        storage.read,
        storage.open_input,
        storage.delete,
        lambda uri: storage.put_new(uri, b"1"),
        lambda uri: storage.put_over(uri, b"1"),
        lambda uri: list(storage.list_files(uri)),
        lambda uri: list(storage.list_prefix(uri)),
    ):
        with pytest.raises(NotFound, match="bucket no-such-bucket does not exist"):
            call("s3://no-such-bucket/k")


def test_read_and_head(rgw: str) -> None:
    etag = storage.put_new(f"{rgw}/k", bytes(1001))
    info = storage.head(f"{rgw}/k")
    assert info is not None
    assert (info.uri, info.size, info.etag) == (f"{rgw}/k", 1001, etag)
    assert abs(info.modified - time.time()) < 3600
    assert storage.read(f"{rgw}/k") == bytes(1001)
    with pytest.raises(TooLarge, match="1,001 bytes"):
        storage.read(f"{rgw}/k", max_bytes=1000)
    assert storage.head(f"{rgw}/none") is None
    with pytest.raises(NotFound, match="no such object"):
        storage.read(f"{rgw}/none")
    storage.delete(f"{rgw}/k")
    storage.delete(f"{rgw}/k")
    assert storage.head(f"{rgw}/k") is None


def test_put_new_twice(rgw: str) -> None:
    first = storage.put_new(f"{rgw}/k", b"one")
    for other in (b"two", b"longer"):
        with pytest.raises(AlreadyExists, match="k exists already"):
            storage.put_new(f"{rgw}/k", other)
    assert storage.read(f"{rgw}/k") == b"one"
    assert storage.put_new(f"{rgw}/k", b"one") == first


def test_put_over(rgw: str) -> None:
    first = storage.put_over(f"{rgw}/k", b"one")
    second = storage.put_over(f"{rgw}/k", b"two", if_match=first)
    with pytest.raises(Changed, match="was changed"):
        storage.put_over(f"{rgw}/k", b"three", if_match=first)
    assert storage.put_over(f"{rgw}/k", b"two", if_match=first) == second  # what a retry of the same put meets
    assert storage.read(f"{rgw}/k") == b"two"
    storage.delete(f"{rgw}/k")
    with pytest.raises(Changed, match="is gone"):
        storage.put_over(f"{rgw}/k", b"three", if_match=second)


def test_put_file(rgw: str) -> None:
    data = os.urandom(2**20)
    with tempfile.SpooledTemporaryFile(max_size=10) as file:
        file.write(data)
        for _ in range(2):
            etag = storage.put_file(f"{rgw}/k", file)
            info = storage.head(f"{rgw}/k")
            assert info is not None
            assert (info.etag, storage.read(f"{rgw}/k")) == (etag, data)


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_concurrent_puts_have_one_winner(rgw: str, size: int) -> None:
    for round_ in range(5):
        uri = f"{rgw}/{size}-{round_}"
        start = threading.Barrier(8)

        def new(i: int, uri: str = uri, start: threading.Barrier = start) -> int | None:
            start.wait()
            try:
                storage.put_new(uri, bytes([i]) * size)
            except AlreadyExists:
                return None
            return i

        with ThreadPoolExecutor(8) as pool:
            won = [i for i in pool.map(new, range(8)) if i is not None]
        assert [bytes([i]) * size for i in won] == [storage.read(uri)]


def test_listing_more_than_a_page(rgw: str) -> None:
    keys = [f"in/part-{i:05d}" for i in range(1_203)] + ["in/b/1", "in/c", "other/x"]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3_client.client().put_object(Bucket=rgw.removeprefix("s3://"), Key=key, Body=b""), keys))
    inside = sorted(k for k in keys if k.startswith("in/"))
    assert [f.uri for f in storage.list_files(f"{rgw}/in")] == [f"{rgw}/{k}" for k in inside]
    assert [f.uri for f in storage.list_files(rgw)] == [f"{rgw}/{k}" for k in sorted(keys)]
    assert [f.uri for f in storage.list_files(f"{rgw}/in/", recursive=False)] == [f"{rgw}/{k}" for k in inside if k != "in/b/1"]
    assert len(list(storage.list_prefix(f"{rgw}/in/part-"))) == 1_203
    assert [storage.name(f.uri) for f in storage.list_prefix(f"{rgw}/in/part-0120")] == ["part-01200", "part-01201", "part-01202"]
    assert list(storage.list_files(f"{rgw}/nothing")) == []


def test_odd_keys(rgw: str) -> None:
    keys = [
        "a b/ü+%20?x=#é あ.png",
        "a b/'\"&<>;,:@!$()*~[]{}|\\^`.png",
        "a b//double",
        "a b/./dot",
        "a b/../up",
        "a b/e\u0301",
        "a b/\u00e9",
        "a b/%2F",
    ]
    for key in keys:
        storage.put_new(f"{rgw}/{key}", key.encode())
    assert {f.uri for f in storage.list_files(f"{rgw}/a b")} == {f"{rgw}/{key}" for key in keys}
    for key in keys:
        assert storage.read(f"{rgw}/{key}") == key.encode()
        with storage.open_input(f"{rgw}/{key}") as file:
            assert file.read() == key.encode()


def test_parquet_by_ranges(rgw: str) -> None:
    expected = pa.table({"n": range(20_000), "noise": [os.urandom(64) for _ in range(20_000)]})
    sink = io.BytesIO()
    pq.write_table(expected, sink, row_group_size=5_000, compression="none")
    storage.put_new(f"{rgw}/t.parquet", sink.getvalue())
    with storage.open_input(f"{rgw}/t.parquet", tail=storage.BLOCK) as file:
        parquet = pq.ParquetFile(file)
        assert parquet.metadata.num_row_groups == 4
        assert parquet.read_row_group(1).equals(expected.slice(5_000, 5_000))
        assert parquet.read().equals(expected)
        storage.put_over(f"{rgw}/t.parquet", b"another")
        file.seek(0)
        with pytest.raises(Changed, match="changed since it was opened"):
            file.read()
    storage.put_new(f"{rgw}/empty", b"")
    with storage.open_input(f"{rgw}/empty") as file:
        assert file.read() == b""


def test_default_checksums_work_too(rgw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    storage.put_new(f"{rgw}/k", b"x" * 300_000)
    assert storage.read(f"{rgw}/k") == b"x" * 300_000


def test_endpoint_down(rgw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9.*check AWS_ENDPOINT_URL"):
        storage.read(f"{rgw}/k")


def test_a_forked_process_makes_its_own_client(rgw: str) -> None:
    storage.put_new(f"{rgw}/k", b"1")
    mine = s3_client.client()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if storage.read(f"{rgw}/k") == b"1" and s3_client.client() is not mine else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert s3_client.client() is mine


def test_the_script_refuses_what_it_cannot_do(radosgw: dict[str, str], tmp_path: Path) -> None:
    port = radosgw["AWS_ENDPOINT_URL"].rpartition(":")[2]

    def script(*arguments: str, path: str = os.environ["PATH"]) -> tuple[int, str]:
        done = subprocess.run(["/bin/bash", SCRIPT, *arguments], capture_output=True, text=True, env={**os.environ, "PATH": path})
        return done.returncode, done.stderr

    assert script("start", str(tmp_path / "x"), port) == (1, f"radosgw: port {port} is taken; give another: {SCRIPT} start {tmp_path}/x PORT\n")
    code, message = script("start", str(tmp_path / "x"), path=str(tmp_path))
    assert code == 1
    assert "not installed: radosgw" in message
    assert "apt-get install" in message
    assert script("start", str(tmp_path / "x"), "http")[0] == 1
    assert script("stop", str(tmp_path / "x"))[0] == 1
    assert script("start")[0] == 2
