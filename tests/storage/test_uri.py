"""nstray.storage.uri, by the names nstray.storage gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nstray import storage
from nstray.errors import UsageError


def test_is_uri() -> None:
    assert storage.is_uri("s3://b/k")
    assert storage.is_uri("file:///x")
    assert not storage.is_uri("a/b.png")
    assert not storage.is_uri("/a:b//c.png")


@pytest.mark.parametrize(
    ("folder", "relative", "expected"),
    [
        ("s3://b/jobs", "a.png", "s3://b/jobs/a.png"),
        ("s3://b/jobs/", "x/a b?c#d%20.png", "s3://b/jobs/x/a b?c#d%20.png"),
        ("s3://b", "a.png", "s3://b/a.png"),
        ("s3://b/jobs/today", "../../images/./a.png", "s3://b/images/a.png"),
        ("s3://b/jobs", "s3://c/a.png", "s3://c/a.png"),
        ("s3://b/a//", "c.png", "s3://b/a//c.png"),
        ("s3://b//", "c.png", "s3://b//c.png"),
        ("s3://b//a", "x//c.png", "s3://b//a/x//c.png"),
        ("s3://b/a//b", "../c.png", "s3://b/a//c.png"),
        ("s3://b/jobs", "s3://c//./../a", "s3://c//./../a"),
        ("s3://b/e\u0301", "\u00e9+%2F.png", "s3://b/e\u0301/\u00e9+%2F.png"),
        ("s3://b/jobs", "/data/a.png", "/data/a.png"),
        ("/data", "a.png", "/data/a.png"),
        ("/data", "../a.png", "/a.png"),
        ("/data", "s3://c/a.png", "s3://c/a.png"),
        ("file:///data/my%20set", "a%20b.png", "/data/my set/a%20b.png"),
    ],
)
def test_join(folder: str, relative: str, expected: str) -> None:
    assert storage.join(folder, relative) == expected


def test_join_does_not_leave_the_bucket() -> None:
    with pytest.raises(UsageError, match="out of the bucket"):
        storage.join("s3://b/jobs", "../../a.png")


def test_parent_and_name() -> None:
    assert (storage.parent("s3://b/x/y.csv"), storage.name("s3://b/x/y.csv")) == ("s3://b/x", "y.csv")
    assert (storage.parent("s3://b/x/"), storage.name("s3://b/x/")) == ("s3://b", "x")
    assert (storage.parent("s3://b"), storage.name("s3://b")) == ("s3://b", "b")
    assert storage.parent("s3://b/x//y.csv") == "s3://b/x//"
    assert storage.parent("s3://b//y.csv") == "s3://b//"
    assert storage.parent("s3://b/x/./../y.csv") == "s3://b/x/./.."
    assert (storage.parent("/x/y.csv"), storage.name("/x/y.csv/")) == ("/x", "y.csv")


def test_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("out/") == str(tmp_path / "out")
    assert storage.absolute("file:///a%20b/c") == "/a b/c"
    assert storage.absolute("file://localhost/a") == "/a"
    assert storage.absolute("s3://b/x//y/") == "s3://b/x//y/"
    assert storage.absolute("S3://b/x@2.png") == "s3://b/x@2.png"


@pytest.mark.parametrize("bad", ["", "a\0b", "http://host/a.png", "s3a://b/k", "gs://b/k", "s3:///k", "s3://b b/k", "file://host/a", "file://a"])
def test_unusable_uris(bad: str) -> None:
    with pytest.raises(UsageError):
        storage.absolute(bad)


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("s3:/bucket/out", "s3://bucket/out"),
        ("S3:/bucket/out", "s3://bucket/out"),
        ("s3:bucket", "s3://bucket"),
        ("s3:", "s3://"),
        ("s3//bucket/a b", "s3://bucket/a b"),
        ("s3::/bucket", "s3://bucket"),
        ("s3:\\\\bucket", "s3://bucket"),
        ("s3a:/bucket/out", "s3://bucket/out"),
        (" s3://bucket/out", "s3://bucket/out"),
        ("'s3://bucket/out'", "s3://bucket/out"),
        ("file:/data/a", "file:///data/a"),
        ("https:/host/a.png", "https://host/a.png"),
        ("gs:/bucket/a.png", "gs://bucket/a.png"),
    ],
)
def test_a_mistyped_uri_is_no_local_path(mistyped: str, meant: str) -> None:
    for use in (storage.absolute, storage.split, storage.parent, storage.head, lambda path: storage.join("/data", path)):
        with pytest.raises(UsageError, match=r"begins no URI: did you mean (.*)\? Write \./ before a local path") as caught:
            use(mistyped)
        assert f"did you mean {meant}?" in str(caught.value)


@pytest.mark.parametrize("path", ["s3:/bucket/out", "s3:x", "s3//bucket", " s3://b"])
def test_a_local_path_that_looks_like_a_mistyped_uri_is_named_with_a_dot(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = storage.absolute(f"./{path}")
    storage.put_new(file, b"x")
    assert (tmp_path / path).read_bytes() == storage.read(f"./{path}") == storage.read(file) == b"x"
    assert storage.join(str(tmp_path), f"./{path}") == file


@pytest.mark.parametrize("path", ["s3", "s3/bucket", "s3x:/a", "a/s3:/b", "12:30.png", "file", "files:1", "file//a", "https", "/s3:/a"])
def test_other_names_stay_local_paths(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute(path) == str(tmp_path / path).replace("//", "/")


def test_a_mistyped_uri_with_credentials_is_not_repeated() -> None:
    for bad in ("s3:/key:tops/3cret@b/k", "s3:/b/k?X-Amz-Signature=tops3cret"):
        with pytest.raises(UsageError, match="did you mean") as caught:
            storage.absolute(bad)
        assert "3cret" not in str(caught.value)


@pytest.mark.parametrize("bad", ["s3://AKIAABCDEFGHIJKLMNOP:tops3cret@b/k", "s3://key:tops/3cret@b/k", "s3://tops3cret@b/k"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(UsageError, match="no credentials in a URI") as caught:
        storage.read(bad)
    assert "3cret" not in str(caught.value)
    assert "ABCDEFGH" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://me:pw@host:8080/a.png?X-Amz-Signature=abc&x=1 now", "see https://host:8080/a.png?... now"),
        ("'https://h/a?sig=1', 'https://h/b?token'", "'https://h/a?...', 'https://h/b?...'"),
        ("s3://key:se/cr+et@b/k", "s3://b/k"),
        ("s3://b/k?access_key=AKIAABCDEFGHIJKLMNOP&secret_key=x", "s3://b/k?..."),
        ("s3://b/what?.png and s3://b/dir/a@2x.png", "s3://b/what?.png and s3://b/dir/a@2x.png"),
        ("http://host:8080/a@b.png", "http://host:8080/a@b.png"),
        ("id AKIAABCDEFGHIJKLMNOP", "id AKIA..."),
        ("a b?X-Amz-Security-Token=zzz&v=1", "a b?X-Amz-Security-Token=...&v=1"),
        ("/plain/me@home.png", "/plain/me@home.png"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    assert storage.redact(text) == expected
