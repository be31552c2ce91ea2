"""`gs://`, `az://` and `hf://` through fsspec: what is read, what is refused, and what every error becomes. The store is fsspec's memory."""

from __future__ import annotations

import errno
import importlib.util
import io
from collections.abc import Callable
from typing import Any, get_args

import pytest
from stores import Memory, gs

from nstray import config, storage
from nstray.errors import (
    AccessDenied,
    BadCredentials,
    Changed,
    ConfigError,
    NotFound,
    NstrayError,
    ShortRead,
    StorageError,
    TooLarge,
    Unreachable,
    UsageError,
)
from nstray.storage import remote, schemes

__all__ = ["gs"]  # a fixture
DATA = bytes(range(256)) * 4


def test_what_may_be_allowed_is_what_is_read() -> None:
    assert tuple(schemes.STORES) == config.REMOTE_SCHEMES
    assert not get_args(config.JobConfig.model_fields["allow_remote"].default)


def test_an_object(gs: Memory) -> None:
    uri = gs.put("gs://b/a folder/ü#?é.bin", DATA)
    found = storage.head("GS://b/a folder/ü#?é.bin")
    assert found is not None
    assert (found.uri, found.size) == (uri, 1024)
    assert found.etag is not None
    assert found.etag.endswith("-1024")
    assert found.modified == pytest.approx(gs.store["/b/a folder/ü#?é.bin"].created.timestamp())
    assert storage.read(uri) == storage.read(uri, max_bytes=1024) == DATA
    assert storage.read_start(uri, 3) == DATA[:3]
    assert storage.read_start(uri, 3000) == DATA
    assert storage.read_range(uri, 5, 7, max_bytes=7) == storage.Piece(DATA[5:12], 5, 1024, found.etag)
    assert storage.read_range(uri, 5, 7, max_bytes=7, if_match=found.etag).data == DATA[5:12]
    assert storage.read_range(uri, -7, 7, max_bytes=7, if_match=f'"{found.etag}"') == storage.Piece(DATA[-7:], 1017, 1024, found.etag)
    assert storage.read_range(uri, -1, 9999, max_bytes=9999) == storage.Piece(DATA, 0, 1024, found.etag)
    assert storage.read_range(uri, 1024, 0, max_bytes=0).data == b""


def test_bounds(gs: Memory) -> None:
    uri = gs.put("gs://b/k", DATA)
    gs.calls.clear()
    with pytest.raises(TooLarge, match=r"^gs://b/k: 1,024 bytes, more than the 1,023 allowed$"):
        storage.read(uri, max_bytes=1023)
    assert gs.calls == ["info b/k"]
    with pytest.raises(TooLarge):
        storage.read_range(uri, 0, 10, max_bytes=9)
    for start, length in ((1020, 5), (1024, 1), (5000, 1)):
        with pytest.raises(ShortRead, match=rf"^gs://b/k: ends before its byte {start + length:,}"):
            storage.read_range(uri, start, length, max_bytes=9)
    gs.before["cat_file"] = lambda: gs.put(uri, DATA * 2)
    with pytest.raises(TooLarge, match="2,048 bytes"):
        storage.read(uri, max_bytes=1024)


def test_an_empty_object_and_what_is_none(gs: Memory) -> None:
    uri = gs.put("gs://b/f/empty", b"")
    assert storage.read(uri) == storage.read_start(uri, 5) == b""
    with storage.open_input(uri) as file:
        assert file.read() == b""
    for folder in ("gs://b/f", "gs://b/f/", "gs://b/none"):
        assert storage.head(folder) is None
    for missing in ("gs://b/none", "gs://none/k", "gs://b/f/empty/"):
        for read in (storage.read, storage.open_input, lambda u: storage.read_range(u, 0, 1, max_bytes=1), lambda u: storage.read_start(u, 1)):
            with pytest.raises(NotFound, match=f"^{missing}: "):
                read(missing)
    for bucket in ("gs://b", "gs://b/"):
        with pytest.raises(UsageError, match="names a bucket; an object is gs://BUCKET/KEY"):
            storage.read(bucket)


def test_another_version_is_no_read(gs: Memory) -> None:
    uri = gs.put("gs://b/k", DATA)
    etag = storage.read_range(uri, 0, 1, max_bytes=1).etag
    gs.put(uri, DATA[::-1])
    for start in (3, -3, 1024):
        with pytest.raises(Changed, match=rf"^gs://b/k: is not the version {etag}"):
            storage.read_range(uri, start, 3, max_bytes=3, if_match=etag)
    etag = storage.read_range(uri, 0, 1, max_bytes=1).etag
    gs.before["cat_file"] = lambda: gs.put(uri, DATA)
    for known in (etag, None):  # replaced between the question and the bytes
        with pytest.raises(Changed):
            storage.read_range(uri, 3, 3, max_bytes=3, if_match=known)
    gs.before["cat_file"] = lambda: gs.store.pop("/b/k", None)
    with pytest.raises(NotFound):
        storage.read_range(uri, 3, 3, max_bytes=3)


def test_a_store_that_sends_too_little(gs: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = gs.put("gs://b/k", DATA)
    monkeypatch.setattr(Memory, "cat_file", lambda *_, **__: DATA[:2])
    for read in (storage.read, lambda u: storage.read_range(u, 0, 5, max_bytes=5), lambda u: storage.read_range(u, -5, 5, max_bytes=5)):
        with pytest.raises(ShortRead, match=r"^gs://b/k: its store sent 2 of "):
            read(uri)


def test_a_range_behind_the_end_that_the_store_refuses(gs: Memory) -> None:
    uri = gs.put("gs://b/k", DATA)

    def refuse() -> None:
        raise ValueError("416: InvalidRange")

    gs.before["cat_file"] = refuse
    etag = storage.head(uri).etag  # type: ignore[union-attr]
    with pytest.raises(ShortRead, match="ends before its byte 1,025"):
        storage.read_range(uri, 1024, 1, max_bytes=1, if_match=etag)
    with pytest.raises(StorageError, match=r"^gs://b/k: ValueError: 416: InvalidRange$"):
        storage.read_range(uri, 1023, 1, max_bytes=1, if_match=etag)


def test_a_file_is_read_by_ranges(gs: Memory) -> None:
    data = bytes(i * i % 251 for i in range(3 * 2**20))
    uri = gs.put("gs://b/k", data)
    with storage.open_input(uri, tail=100) as file:
        assert file.read(5) == data[:5]
        assert file.seek(-7, io.SEEK_END) == len(data) - 7
        assert file.read() == data[-7:]
        assert file.seek(2**20) == file.tell() == 2**20
        assert file.read(2**20) == data[2**20 : 2 * 2**20]
        assert file.seek(0) == 0
        assert file.read() == data
    with storage.open_input(uri, tail=100) as file:
        gs.put(uri, data)
        with pytest.raises(Changed):
            file.read(5)


def test_listings(gs: Memory) -> None:
    names = ["a.txt", "a/2.jpg", "a/é.jpg", "a/b c/1.jpg", "a-b/1", "z"]
    for name in names:
        gs.put(f"gs://b/f/{name}", b"x")
    gs.put("gs://b/other", b"")
    every = [f"gs://b/f/{name}" for name in sorted(names, key=str.encode)]
    for folder in ("gs://b/f", "gs://b/f/", "GS://b/f"):
        assert [info.uri for info in storage.list_files(folder)] == every
    assert [info.uri for info in storage.list_files("gs://b")] == [*every, "gs://b/other"]
    assert [info.uri for info in storage.list_files("gs://b/f", recursive=False)] == ["gs://b/f/a.txt", "gs://b/f/z"]
    assert [info.uri for info in storage.list_prefix("gs://b/f/a")] == ["gs://b/f/a.txt"]
    for info in storage.list_files("gs://b/f"):
        assert info == storage.head(info.uri)
    gs.mkdir("b/empty")
    assert list(storage.list_files("gs://b/empty")) == list(storage.list_files("gs://b/other")) == []
    for none in ("gs://b/none", "gs://none"):
        with pytest.raises(NotFound, match=f"^{none}"):
            next(iter(storage.list_files(none)))


def test_a_folder_that_goes_while_it_is_listed_is_left_out(gs: Memory) -> None:
    for name in ("a/1", "b"):
        gs.put(f"gs://b/f/{name}", b"x")
    listed = storage.list_files("gs://b/f")
    gs.before["ls"] = lambda: gs.calls.count("ls b/f/a") and gs.store.pop("/b/f/a/1")
    assert [info.uri for info in listed] == ["gs://b/f/b"]


@pytest.mark.parametrize(
    ("entry", "etag"),
    [
        ({"generation": "17", "etag": "CKih16GjycICEAE=", "mtime": 5}, "17"),
        ({"blob_id": "2b6f", "xet_hash": "3"}, "2b6f"),
        ({"etag": '"0x8D4"', "last_modified": "2024-05-01T00:00:00Z"}, "0x8D4"),
        ({"etag": "", "updated": "1970-01-01T00:00:02.5Z"}, "2500000-9"),
        ({"ETag": "ü" * 3, "mtime": 2.5}, "2500000-9"),
        ({"etag": "x" * 201}, "0-9"),
        ({"etag": "with space", "created": "no time"}, "0-9"),
    ],
)
def test_versions(gs: Memory, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], etag: str) -> None:
    monkeypatch.setattr(Memory, "info", lambda *_, **__: {"name": "/b/k", "type": "file", "size": 9, **entry})
    found = storage.head("gs://b/k")
    assert found is not None
    assert found.etag == etag
    monkeypatch.setattr(Memory, "info", lambda *_, **__: {"name": "/b/k", "type": "file", "size": None, **entry})
    with pytest.raises(StorageError, match="does not say how large"):
        storage.head("gs://b/k")


class _Status(Exception):
    def __init__(self, status: object, text: str = "said") -> None:
        super().__init__(text)
        self.status_code = status


class DefaultCredentialsError(Exception):
    pass


class ServerDisconnected(Exception):
    pass


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (PermissionError(errno.EACCES, "no"), AccessDenied, "GS_KEY"),
        (OSError("Forbidden: b/k\nno"), AccessDenied, "GS_KEY"),
        (_Status(403), AccessDenied, "GS_KEY"),
        (_Status("401"), BadCredentials, "GS_KEY"),
        (DefaultCredentialsError("none"), BadCredentials, "GS_KEY"),
        (_Status(404), NotFound, "said"),
        (_Status(429), Unreachable, "try again"),
        (_Status(503), Unreachable, "try again"),
        (_Status(400), StorageError, "said"),
        (TimeoutError(), Unreachable, "TimeoutError; check the network"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Unreachable, "reset"),
        (OSError(errno.ENETUNREACH, "no net"), Unreachable, "no net"),
        (ServerDisconnected(), Unreachable, "network"),
        (OSError(errno.EIO, "broken"), StorageError, "broken"),
        (RuntimeError("https://u:canary@h/x?sig=canary " + "page " * 1000), StorageError, "RuntimeError: https://h/x"),
    ],
)
def test_every_error_names_the_uri(gs: Memory, raised: Exception, kind: type[NstrayError], said: str) -> None:
    def fail() -> None:
        raise raised

    gs.put("gs://b/k", DATA)
    for call in ("info", "ls", "cat_file"):
        gs.before.clear()
        gs.before[call] = fail
        uses: list[Callable[[], object]] = [lambda: storage.read("gs://b/k")] if call != "ls" else [lambda: list(storage.list_files("gs://b/k"))]
        for use in uses:
            with pytest.raises(StorageError) as caught:
                use()
            assert type(caught.value) is kind
            text = str(caught.value)
            assert text.startswith("gs://b/k: " if call != "ls" else "gs://b/k/: ")
            assert said in text
            assert "canary" not in text
            assert len(text) < 700


def test_only_what_is_allowed_is_read(gs: Memory) -> None:
    uri = gs.put("gs://b/k", DATA)
    assert storage.remote_allowed() == ("gs",)
    storage.allow_remote([])
    gs.calls.clear()
    for use in (storage.read, storage.head, storage.absolute, storage.list_files, storage.parent, lambda u: storage.join("/data", u)):
        with pytest.raises(UsageError, match=r"^gs://b/k: gs:// is not supported without --allow-remote gs, .*AWS_ENDPOINT_URL$"):
            use(uri)
    assert gs.calls == []
    for scheme in ("http", "https", "HTTPS", "memory", "abfs", "s3a", "ftp"):
        storage.allow_remote([], installed=False)
        with pytest.raises(UsageError, match=rf"{scheme.lower()}:// is not supported"):
            storage.read(f"{scheme}://b/k")
    schemes.allow_remote(["https"], installed=False)  # whatever the process was told
    with pytest.raises(UsageError, match=r"https:// is not supported; .* No --allow-remote lifts this"):
        storage.read("https://host/k.jpg")


@pytest.mark.parametrize("name", ["https", "http", "HTTPS://"])
def test_the_web_stays_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"allow_remote: https? stays refused: .* host"):
        config.make({"allow_remote": f"gs,{name}"})


def test_names_of_schemes() -> None:
    for given in ("hf,gs", "gs://, HF", ["hf", "gs", "gs"], ("gs", "hf")):
        assert config.make({"allow_remote": given}).allow_remote == ("gs", "hf")
    assert config.make({"allow_remote": ""}).allow_remote == config.make({}).allow_remote == ()
    for bad, said in (("s3", "no such scheme: 's3'"), ("hff", "did you mean hf"), (5, "must be names"), ("memory", "no such scheme")):
        with pytest.raises(ConfigError, match=said):
            config.make({"allow_remote": bad})


def test_nothing_is_written(gs: Memory) -> None:
    uri = gs.put("gs://b/k", DATA)
    for allowed in (["gs"], []):
        storage.allow_remote(allowed)
        writes: list[Callable[[], object]] = [
            lambda: storage.put_new("gs://b/new", b""),
            lambda: storage.put_over(uri, b""),
            lambda: storage.put_file(uri, io.BytesIO()),
            lambda: storage.delete(uri),
            lambda: storage.refuse_to_write("GS://b"),
        ]
        for write in writes:
            with pytest.raises(UsageError, match=r"nothing is written to gs://, which is only read; write to a local folder or to s3://"):
                write()
    assert gs.cat_file("b/k") == DATA
    storage.allow_remote(["gs"])
    storage.sweep("gs://b")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gs://me:canary@b/k", "no credentials in a URI"),
        ("gs://canary@b/k", "no credentials in a URI"),
        ("gs:///k", "write gs://BUCKET/KEY"),
        ("gs://b b/k", "write gs://BUCKET/KEY"),
        ("gs://b/\0", "not a path or URI"),
        ("gs:/b/k", "did you mean gs://b/k"),
        ("hf:datasets/u/r", "did you mean hf://datasets/u/r"),
        ("az:/c/k?sig=canary", "did you mean az://c/k"),
        (" gs://b/k", "did you mean gs://b/k"),
    ],
)
def test_odd_uris(gs: Memory, uri: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        storage.read(uri)
    assert "canary" not in str(caught.value)


def test_uris_in_messages_are_redacted(gs: Memory) -> None:
    with pytest.raises(NotFound) as caught:
        storage.read("gs://b/k?X-Goog-Signature=canary&x=canary")
    assert "canary" not in str(caught.value)
    assert "canary" not in storage.redact("az://c/k?sv=canary&se=canary")


def test_forms_of_uris(gs: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert storage.absolute("Gs://b/x//é y?#%20/") == "gs://b/x//é y?#%20/"
    assert (storage.absolute("gs://b"), storage.absolute("gs://b/")) == ("gs://b", "gs://b/")
    assert storage.join("gs://b/jobs/", "../images/./a b.png") == "gs://b/images/a b.png"
    assert storage.join("gs://b/jobs", "s3://c/a") == "s3://c/a"
    assert storage.join("s3://c/jobs", "gs://b/../a") == "gs://b/../a"
    with pytest.raises(UsageError, match="leads out of the bucket"):
        storage.join("gs://b/jobs", "../../a.png")
    assert (storage.parent("gs://b/x/y.csv"), storage.parent("gs://b/x"), storage.parent("gs://b")) == ("gs://b/x", "gs://b", "gs://b")
    assert (storage.name("gs://b/x/y.csv"), storage.name("gs://b/"), storage.name("gs://b")) == ("y.csv", "b", "b")
    assert [storage.is_folder_name(uri) for uri in ("gs://b", "gs://b/", "gs://b/k", "gs://b/k/")] == [True, True, False, True]
    assert storage.split("gs://b/k") == ("gs://b", "k")
    for local in ("az//a.jpg", "hf//a.jpg", "azure:1", "gsx:1"):
        assert storage.absolute(local) == "/" + local.replace("//", "/")


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = importlib.util.find_spec
    for missing, said in (("fsspec", r"pip install 'nstray\[remote\]'"), ("adlfs", "pip install adlfs$")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, missing=missing: None if name in (missing, "adlfs") else honest(name))
        with pytest.raises(UsageError, match=said):
            storage.allow_remote(["az"])
        storage.allow_remote(["az"], installed=False)

        def no_class(scheme: str) -> type:
            raise ImportError("install adlfs")

        monkeypatch.setattr("fsspec.get_filesystem_class", no_class)
        with pytest.raises(UsageError, match=said):
            storage.read("az://c/k")
        storage.allow_remote([])
    assert remote.is_store("az://c")
