"""nstray.storage over local files and moto's server; the real server's tests are in tests/s3."""

from __future__ import annotations

import csv
import errno
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from nstray import storage
from nstray.errors import AccessDenied, AlreadyExists, Changed, NotFound, StorageError, TooLarge
from nstray.storage import local as storage_local


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.dev)])
def base(request: pytest.FixtureRequest) -> str:
    """An empty folder, local or in a bucket."""
    if request.param == "local":
        return str(request.getfixturevalue("tmp_path"))
    return f"{request.getfixturevalue('s3')}/a folder"


# --- local files and moto alike ----------------------------------------------------------------------------------------------------


def test_put_new_read_head(base: str) -> None:
    uri = storage.join(base, "x/ü ?#%41.bin")
    etag = storage.put_new(uri, b"12345")
    info = storage.head(uri)
    assert info is not None
    assert (info.uri, info.size, info.etag) == (uri, 5, etag)
    assert '"' not in etag
    assert info.modified > 1_700_000_000
    assert storage.read(uri) == b"12345"
    assert storage.read(uri, max_bytes=5) == b"12345"


def test_absent(base: str) -> None:
    uri = storage.join(base, "x/none.png")
    assert storage.head(uri) is None
    with pytest.raises(NotFound, match=r"none\.png"):
        storage.read(uri)
    with pytest.raises(NotFound, match=r"none\.png"):
        storage.open_input(uri)
    storage.delete(uri)
    assert list(storage.list_prefix(uri)) == []


def test_head_of_a_folder_is_none(base: str) -> None:
    storage.put_new(storage.join(base, "x/a"), b"1")
    assert storage.head(storage.join(base, "x")) is None


def test_too_large(base: str) -> None:
    uri = storage.join(base, "big")
    storage.put_new(uri, bytes(1001))
    with pytest.raises(TooLarge, match="1,001 bytes, more than the 1,000 allowed"):
        storage.read(uri, max_bytes=1000)


def test_put_new_twice(base: str) -> None:
    uri = storage.join(base, "k")
    first = storage.put_new(uri, b"one")
    for other in (b"two", b"longer"):
        with pytest.raises(AlreadyExists, match="k exists already"):
            storage.put_new(uri, other)
    assert storage.read(uri) == b"one"
    assert storage.put_new(uri, b"one") == first  # what a retry of the same put meets


def test_put_over(base: str) -> None:
    uri = storage.join(base, "new folder/k")
    first = storage.put_over(uri, b"one")
    second = storage.put_over(uri, b"two", if_match=first)
    assert storage.read(uri) == b"two"
    with pytest.raises(Changed, match="was changed"):
        storage.put_over(uri, b"three", if_match=first)
    assert storage.read(uri) == b"two"
    third = storage.put_over(uri, b"three", if_match=f'"{second}"')
    info = storage.head(uri)
    assert info is not None
    assert info.etag == third
    storage.delete(uri)
    with pytest.raises((Changed, NotFound)):
        storage.put_over(uri, b"four", if_match=third)
    assert storage.head(uri) is None


class Pieces(io.BytesIO):
    """A file that notes how many bytes were read at once."""

    most = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.most = max(self.most, len(data))
        return data


def test_put_file_reads_a_piece_at_a_time(base: str) -> None:
    uri, data = storage.join(base, "new folder/k"), os.urandom(3 * 2**20)
    file = Pieces(data)
    for place in (0, 5, len(data)):
        file.seek(place)
        etag = storage.put_file(uri, file)
        info = storage.head(uri)
        assert info is not None
        assert (info.etag, storage.read(uri)) == (etag, data)
    assert 0 < file.most <= 2**20
    storage.put_file(uri, io.BytesIO(b""))
    assert storage.read(uri) == b""


def test_a_file_is_put_new_or_not_at_all(base: str) -> None:
    uri, data = f"{base}/new", bytes(range(256)) * 40_000  # more than is compared at once
    etag = storage.put_file(uri, io.BytesIO(data), new=True)
    assert storage.read(uri) == data
    assert storage.put_file(uri, io.BytesIO(data), new=True) == etag  # a retry of our own
    for other in (data[:-1] + b"x", data[:-1], b""):
        with pytest.raises(AlreadyExists, match="exists already, with other contents"):
            storage.put_file(uri, io.BytesIO(other), new=True)
    assert storage.read(uri) == data


def test_list_files(base: str) -> None:
    keys = ["a-b", "a.txt", "a/1", "a/b/2", "a0", "ü", "z space"]
    for key in reversed(keys):
        storage.put_new(storage.join(base, f"in/{key}"), key.encode())
    storage.put_new(storage.join(base, "in2/other"), b"")
    folder = storage.join(base, "in")
    found = list(storage.list_files(folder))
    assert [f.uri.removeprefix(folder + "/") for f in found] == sorted(keys, key=str.encode)
    assert [f.size for f in found] == [len(f.uri.removeprefix(folder + "/").encode()) for f in found]
    assert [f.etag for f in found] == [info.etag for f in found if (info := storage.head(f.uri))]
    assert [f.uri for f in storage.list_files(folder + "/")] == [f.uri for f in found]
    flat = [f.uri.removeprefix(folder + "/") for f in storage.list_files(folder, recursive=False)]
    assert flat == [k for k in sorted(keys, key=str.encode) if "/" not in k]


def test_list_prefix(base: str) -> None:
    for key in ("part-00003-0002", "part-00003-0001", "part-00030-0001", "part-00003-/x", "other"):
        storage.put_new(storage.join(base, f"data/{key}"), b"1")
    names = [storage.name(f.uri) for f in storage.list_prefix(storage.join(base, "data/part-00003-"))]
    assert names == ["part-00003-0001", "part-00003-0002"]
    assert len(list(storage.list_prefix(storage.join(base, "data") + "/"))) == 4
    assert list(storage.list_prefix(storage.join(base, "no such folder/part-"))) == []


def table(rows: int) -> pa.Table:
    return pa.table({"n": range(rows), "noise": [os.urandom(64) for _ in range(rows)]})


def test_open_input_with_pyarrow(base: str) -> None:
    expected = table(20_000)
    sink = io.BytesIO()
    pq.write_table(expected, sink, row_group_size=5_000, compression="none")
    uri = storage.join(base, "t.parquet")
    storage.put_new(uri, sink.getvalue())
    with storage.open_input(uri) as file:
        parquet = pq.ParquetFile(file)
        assert parquet.metadata.num_rows == 20_000
        assert parquet.read_row_group(2).equals(expected.slice(10_000, 5_000))
        assert pa.Table.from_batches(parquet.iter_batches()).equals(expected)


def test_open_input_with_csv(base: str) -> None:
    text = "n,s\n" + "".join(f"{i},{'x' * 40}\n" for i in range(30_000))
    uri = storage.join(base, "t.csv")
    storage.put_new(uri, text.encode())
    with storage.open_input(uri) as file:
        assert pacsv.read_csv(file)["n"].to_pylist() == list(range(30_000))
    with storage.open_input(uri) as file:
        assert sum(1 for _ in csv.reader(io.TextIOWrapper(file, newline=""))) == 30_001


def test_open_input_seeks_and_reads_like_a_file(base: str) -> None:
    data = os.urandom(700_000)
    uri = storage.join(base, "r")
    storage.put_new(uri, data)
    with storage.open_input(uri) as file:
        assert file.seekable()
        for start, length in ((699_990, 100), (0, 10), (300_000, 390_000), (10, 650_000), (699_999, 1), (262_143, 2)):
            file.seek(start)
            assert file.read(length) == data[start : start + length]
        assert file.seek(-5, os.SEEK_END) == 699_995
        assert file.read() == data[-5:]
        assert file.read() == b""
        file.seek(800_000)
        assert file.read(1) == b""
        file.seek(0)
        assert file.read() == data


def test_open_input_of_an_empty_file(base: str) -> None:
    uri = storage.join(base, "empty")
    storage.put_new(uri, b"")
    with storage.open_input(uri) as file:
        assert file.read() == b""
        assert file.seek(0, os.SEEK_END) == 0
    assert storage.read(uri) == b""


# --- local files only --------------------------------------------------------------------------------------------------------------


def temporaries(folder: Path) -> list[str]:
    return [n for n in os.listdir(folder) if n.startswith(".nstray-put-")]


def test_local_put_leaves_no_temporary_and_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.put_new(str(tmp_path / "a"), b"1")
        storage.put_over(str(tmp_path / "a"), b"2")
        with pytest.raises(AlreadyExists):
            storage.put_new(str(tmp_path / "a"), b"1")
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == ["a"]
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o640


def test_what_dead_writers_left_is_swept_by_its_age(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    ages = {"old": 7200, "young": 600, "new": 0}
    for folder in (tmp_path, below):
        for name, age in ages.items():
            file = folder / f".nstray-put-{name}"
            file.write_bytes(b"x")
            os.utime(file, (time.time() - age,) * 2)
        (folder / "kept").write_bytes(b"x")
        os.utime(folder / "kept", (0, 0))
    storage.sweep(str(tmp_path))
    assert sorted(temporaries(tmp_path)) == [".nstray-put-new", ".nstray-put-young"]
    assert len(temporaries(below)) == 3
    storage.sweep(str(tmp_path), before=time.time() - 60, recursive=True)
    assert temporaries(tmp_path) == temporaries(below) == [".nstray-put-new"]
    assert (tmp_path / "kept").exists()
    assert (below / "kept").exists()


def race(writers: int, put: Callable[[int], str], lost: type[Exception]) -> list[int]:
    """Which of `writers` threads, let go together, succeeded."""
    start = threading.Barrier(writers)

    def one(i: int) -> int | None:
        start.wait()
        try:
            put(i)
        except lost:
            return None
        return i

    with ThreadPoolExecutor(writers) as pool:
        return [i for i in pool.map(one, range(writers)) if i is not None]


def test_local_races_have_one_winner(tmp_path: Path) -> None:
    for round_ in range(20):
        uri = str(tmp_path / f"{round_}")
        won = race(8, lambda i, uri=uri: storage.put_new(uri, b"new %d" % i), AlreadyExists)
        assert [b"new %d" % i for i in won] == [storage.read(uri)]
        info = storage.head(uri)
        assert info is not None
        won = race(8, lambda i, uri=uri, tag=info.etag: storage.put_over(uri, b"over %d" % i, if_match=tag), Changed)
        assert [b"over %d" % i for i in won] == [storage.read(uri)]
    assert temporaries(tmp_path) == []


def test_a_writer_killed_before_its_link_leaves_nothing_visible(tmp_path: Path) -> None:
    uri = str(tmp_path / "part")
    code = f"import os, signal; from nstray import storage; os.link = lambda *a: os.kill(os.getpid(), signal.SIGKILL); storage.put_new({uri!r}, b'1')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(temporaries(tmp_path)) == 1
    assert list(storage.list_files(str(tmp_path))) == []
    assert list(storage.list_prefix(f"{tmp_path}/")) == []
    storage.put_new(uri, b"2")
    assert storage.read(uri) == b"2"


def test_full_disk_and_missing_hard_links_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> Callable[..., None]:
        def call(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    with monkeypatch.context() as patch:
        patch.setattr(storage_local.os, "fsync", fails(errno.ENOSPC))
        with pytest.raises(StorageError, match="disk full"):
            storage.put_new(str(tmp_path / "a"), b"1")
    with monkeypatch.context() as patch:
        patch.setattr(storage_local.os, "link", fails(errno.EPERM))
        with pytest.raises(StorageError, match="no hard links"):
            storage.put_new(str(tmp_path / "a"), b"1")
    assert os.listdir(tmp_path) == []


@contextmanager
def powerless(folder: Path) -> Iterator[None]:
    """`folder` may not be entered: by its mode, and as root by not being root."""
    user = os.geteuid()
    mode = os.stat(folder).st_mode
    os.chmod(folder, 0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        os.chmod(folder, mode)


def test_local_permission_denied(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    uri = str(folder / "a")
    storage.put_new(uri, b"1")
    with powerless(folder):
        for call in (lambda: storage.read(uri), lambda: storage.put_over(uri, b"2"), lambda: list(storage.list_files(str(folder)))):
            with pytest.raises(AccessDenied, match="permission denied"):
                call()


def test_local_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), os.devnull):
        for call in (storage.read, storage.open_input, storage.head):
            with pytest.raises(StorageError, match="not a regular file"):
                call(path)
    with pytest.raises(StorageError, match="is a folder"):
        storage.read(str(tmp_path))
    with pytest.raises(StorageError, match="is a folder"):
        storage.put_new(str(tmp_path), b"1")
    storage.put_new(str(tmp_path / "file"), b"1")
    with pytest.raises(NotFound, match="below something that is a file"):
        storage.put_new(str(tmp_path / "file/a"), b"1")
    assert storage.head(str(tmp_path / "file/a")) is None


def test_local_listing_of_odd_folders(tmp_path: Path) -> None:
    storage.put_new(str(tmp_path / "in/a"), b"1")
    storage.put_new(str(tmp_path / "elsewhere/b"), b"1")
    os.mkfifo(tmp_path / "in/pipe")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in/linked")
    os.symlink(tmp_path / "in", tmp_path / "elsewhere/back")
    os.symlink("self", tmp_path / "in/self")
    os.symlink("nothing", tmp_path / "in/dangling")
    assert [storage.name(f.uri) for f in storage.list_files(str(tmp_path / "in"))] == ["a", "b"]
    with pytest.raises(NotFound, match="no such file or folder"):
        list(storage.list_files(str(tmp_path / "missing")))
    with pytest.raises(NotFound, match="not a folder"):
        list(storage.list_files(str(tmp_path / "in/a")))
    with open(os.fsencode(tmp_path) + b"/in/\xff.png", "wb"):
        pass
    with pytest.raises(StorageError, match="not UTF-8"):
        list(storage.list_files(str(tmp_path / "in")))


def test_list_prefix_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage.put_new("part-1", b"1")
    storage.put_new("d/part-2", b"1")
    assert [f.uri for f in storage.list_prefix("part-")] == [str(tmp_path / "part-1")]
    assert [f.uri for f in storage.list_prefix("d/part-")] == [str(tmp_path / "d/part-2")]
    assert [f.uri for f in storage.list_prefix(f"file://{tmp_path}/d/")] == [str(tmp_path / "d/part-2")]
