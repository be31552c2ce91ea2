"""nstray.storage: who asks a store (nobody, a payer), and keys that are odd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from scripted import Scripted, error_body, scripted

from nstray import config, storage
from nstray.commands import prepare
from nstray.errors import AccessDenied, BadCredentials, NotFound, StorageError
from nstray.output.folder import Output
from nstray.storage import s3_errors

__all__ = ["scripted"]  # a fixture
LISTING = (200, {"Content-Type": "application/xml"}, b"<ListBucketResult></ListBucketResult>")


@pytest.fixture
def nobody(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A store, and no credentials anywhere."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(s3_errors, "_open_buckets", set())
    return scripted


@pytest.fixture(autouse=True)
def who_pays() -> Iterator[None]:
    yield
    storage.request_payer(False)


def signed(store: Scripted) -> list[bool]:
    return ["Authorization" in headers for _, headers, _ in store.requests]


def test_without_credentials_nothing_is_signed(nobody: Scripted) -> None:
    nobody.answers = [(200, {}, b"open"), (200, {}, b""), LISTING, (200, {}, b"")]
    assert storage.read("s3://public/k") == b"open"
    assert storage.head("s3://public/k") is not None
    assert list(storage.list_files("s3://public/f")) == []
    storage.put_new("s3://public/new", b"1")
    assert signed(nobody) == [False] * 4


@pytest.mark.parametrize("code", ["AccessDenied", "AllAccessDisabled"])
def test_a_bucket_that_refuses_strangers_says_that_no_credentials_were_found(nobody: Scripted, code: str) -> None:
    for call in (storage.read, storage.head, storage.open_input, lambda uri: list(storage.list_files(uri)), lambda uri: storage.put_new(uri, b"1")):
        nobody.answers = [(403, {}, error_body(code))]
        with pytest.raises(BadCredentials, match=r"s3://b/k.*S3 answered 403, and no credentials were found.*set AWS_ACCESS_KEY_ID.*on every node"):
            call("s3://b/k")
    assert not any(signed(nobody))


def test_a_public_bucket_s_missing_key_is_no_question_of_credentials(nobody: Scripted) -> None:
    """Without the right to list, S3 answers 403 for a key that is not there."""
    nobody.answers = [(200, {}, b"open"), (403, {}, error_body("AccessDenied")), (404, {}, error_body("NoSuchKey"))]
    storage.read("s3://public/k")
    with pytest.raises(AccessDenied) as caught:
        storage.read("s3://public/none")
    assert not isinstance(caught.value, BadCredentials)
    assert "no credentials were found, and without them this may not be done, or the object does not exist" in str(caught.value)
    with pytest.raises(NotFound):
        storage.read("s3://public/none")


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied"])
def test_credentials_that_are_wrong_are_never_left_out(scripted: Scripted, code: str) -> None:
    scripted.answers = [(403, {}, error_body(code))]
    with pytest.raises(AccessDenied) as caught:
        storage.read("s3://public/k")
    assert "no credentials were found" not in str(caught.value)
    assert signed(scripted) == [True]


def test_half_a_credential_or_a_missing_profile_is_an_error(nobody: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "only-half")
    with pytest.raises(BadCredentials):
        storage.read("s3://public/k")
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(BadCredentials, match="missing"):
        storage.read("s3://public/k")
    assert nobody.requests == []


def test_credentials_that_come_later_are_used(nobody: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody.answers = [(403, {}, error_body("AccessDenied")), (200, {}, b"mine")]
    with pytest.raises(BadCredentials):
        storage.read("s3://b/k")
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert storage.read("s3://b/k") == b"mine"
    assert signed(nobody) == [False, True]


def test_an_output_that_asks_for_credentials_is_not_called_unwritable(nobody: Scripted) -> None:
    nobody.answers = [(403, {}, error_body("AccessDenied"))]
    with (
        pytest.raises(BadCredentials, match=r"the output s3://b/out can't be opened.*no credentials were found") as caught,
        prepare.naming_output(Output("s3://b/out")),
    ):
        storage.read("s3://b/out/.nstray/job.json")
    assert "give an OUT" not in str(caught.value)
    with pytest.raises(StorageError, match="give an OUT that can be written"), prepare.naming_output(Output("/x")):
        raise StorageError("/x: Read-only file system")


def test_the_requester_pays_only_if_told_so(scripted: Scripted) -> None:
    calls: list[Any] = [
        lambda: storage.read("s3://b/k"),
        lambda: storage.open_input("s3://b/k"),
        lambda: storage.head("s3://b/k"),
        lambda: list(storage.list_files("s3://b/f")),
        lambda: storage.put_over("s3://b/k", b"1"),
    ]
    for pays in (False, True, False):
        storage.request_payer(pays)
        scripted.answers, scripted.requests = [(200, {}, b"x")] * 3 + [LISTING, (200, {}, b"")], []
        for call in calls:
            call()
        headers = [{k.lower(): v for k, v in found.items()}.get("x-amz-request-payer") for _, found, _ in scripted.requests]
        assert headers == ["requester" if pays else None] * 5


def test_who_pays_decides_no_result() -> None:
    one, other = config.make({}), config.make({"request_payer": True})
    assert other.request_payer
    assert config.fingerprint(one, "w") == config.fingerprint(other, "w")


KEYS = [
    *("a//b.png", "/leading.png", "//two.png", "a/./b.png", "a/../b.png", "../up.png", "..", "a b.png", " a ", "a+b.png", "a%2Fb.png", "%", "%41"),
    *("a#b.png", "a?b.png", "a?x=1&y=2", "caf\u00e9.png", "cafe\u0301.png", "\u3042\U0001f600.png", "a\\b.png", "a:b;c,d.png", "~a'\"<>|{}^`.png"),
    *("a\tb", "a\nb.png", "x" * 1024, "a/" * 500 + "k"),
]


def test_a_key_is_asked_for_as_it_is(scripted: Scripted) -> None:
    for key in KEYS:
        scripted.paths = []
        scripted.answers = [(200, {}, b"x"), (200, {}, b"x"), (200, {}, b"")]
        uri = f"s3://b/{key}"
        assert storage.absolute(uri) == uri
        assert storage.split(uri) == ("b", key)
        storage.read(uri)
        storage.head(uri)
        storage.put_over(uri, b"1")
        assert [unquote(path.partition("?x-id=")[0]) for path in scripted.paths] == [f"/b/{key}"] * 3


def test_a_folder_with_an_empty_name_is_listed_as_it_is(scripted: Scripted) -> None:
    scripted.answers = [LISTING] * 5
    for folder in ("s3://b", "s3://b/a", "s3://b/a/", "s3://b/a//", "s3://b//"):
        list(storage.list_files(folder))
    prefixes = [unquote(path.partition("prefix=")[2].partition("&")[0]) for path in scripted.paths]
    assert prefixes == ["", "a/", "a/", "a//", "/"]
