"""nstray.storage and whole small jobs over a real S3 server (radosgw) behind a proxy that causes faults: right bytes or the right error, in time."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from proxy import TIMEOUT, FaultProxy

from nstray import storage
from nstray.errors import AccessDenied, AlreadyExists, NotFound, NstrayError, Unreachable
from nstray.storage import s3 as storage_s3
from nstray.storage import s3_client

DATA = os.urandom(700_000)
OTHER = DATA[:-1] + bytes([DATA[-1] ^ 1])
PATIENCE = 30.0  # no call below takes longer, whatever the fault


def outcome(call: Callable[[], object]) -> object:
    """What a call returns, or the NstrayError it raises; it must end in time."""
    began = time.monotonic()
    try:
        return call()
    except NstrayError as error:
        return error
    finally:
        assert time.monotonic() - began < PATIENCE


# What the client's own retries mend: the fault, and the requests that can meet it.
PASSING: dict[str, tuple[dict[str, Any], str]] = {
    "reset": ({}, "PUT GET HEAD LIST"),
    "500": ({"status": 500, "code": "InternalError"}, "PUT GET HEAD LIST"),
    "503": ({"status": 503, "code": "SlowDown"}, "PUT GET HEAD LIST"),
    "stall": ({"seconds": 2}, "PUT GET HEAD LIST"),
    "drop_reply": ({}, "PUT GET HEAD LIST"),
    "cut_request": ({}, "PUT"),
    "deaf": ({"seconds": 2}, "PUT"),
    "reset_body": ({}, "GET LIST"),
    "truncate": ({}, "GET LIST"),
    "stall_body": ({"seconds": 2}, "GET LIST"),
    "delay": ({"seconds": 0.3}, "PUT GET HEAD LIST"),
    "trickle": ({"rate": 2_000_000}, "GET LIST"),
}


def cause(proxy: FaultProxy, fault: str, **which: Any) -> None:
    proxy.add("answer" if fault.isdigit() else fault, **{**PASSING[fault][0], **which})


def retries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.message.startswith("event=storage_retry")]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_costs_a_retry(rgw: str, proxy: FaultProxy, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    uri, whole = f"{rgw}/f/k", f"{rgw}/f/whole"
    etag = storage.put_new(whole, DATA)
    calls: list[tuple[str, Callable[[], object], object]] = [
        ("PUT", lambda: storage.put_new(uri, DATA), etag),
        ("PUT", lambda: storage.put_over(uri, DATA, if_match=etag), etag),
        ("GET", lambda: storage.read(whole), DATA),
        ("GET", lambda: storage.open_input(whole).read(), DATA),
        ("HEAD", lambda: storage.head(whole), storage.head(whole)),
        ("LIST", lambda: [f.uri for f in storage.list_files(f"{rgw}/f/w")], []),
    ]
    for method, call, expected in calls:
        if method in PASSING[fault][1]:
            before = len(retries(caplog))
            cause(proxy, fault, method=method, count=1)
            assert outcome(call) == expected
            proxy.clear()
            assert len(retries(caplog)) > before or fault in ("delay", "trickle")
    assert all(rgw.removeprefix("s3://") in line and " try=" in line and " error=" in line for line in retries(caplog))
    assert {info.uri: info.size for info in storage.list_files(rgw)}.get(uri, len(DATA)) == len(DATA)


# What outlasts the client's retries: how it reads, and within how many seconds, with TIMEOUT and two attempts.
LASTING = {
    "reset": (Unreachable, "check AWS_ENDPOINT_URL"),
    "500": (Unreachable, "500 InternalError .*try again later"),
    "503": (Unreachable, "503 SlowDown .*fewer workers"),
    "stall": (Unreachable, "[Rr]ead timeout"),
    "cut_request": (Unreachable, "check AWS_ENDPOINT_URL"),
    "deaf": (Unreachable, "check AWS_ENDPOINT_URL"),
    "reset_body": (Unreachable, "[Cc]onnection"),
    "truncate": (Unreachable, "[Cc]onnection"),
    "stall_body": (Unreachable, "[Rr]ead timeout"),
}


@pytest.mark.parametrize("fault", LASTING)
def test_a_lasting_fault_ends_in_an_error_that_says_so_and_leaves_nothing(
    rgw: str, proxy: FaultProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    uri, whole = f"{rgw}/f/k", f"{rgw}/f/whole"
    storage.put_new(whole, DATA)
    cause(proxy, fault)
    kind, message = LASTING[fault]
    calls: dict[str, Callable[[], object]] = {
        "PUT": lambda: storage.put_new(uri, DATA),
        "GET": lambda: storage.read(whole),
        "HEAD": lambda: storage.head(whole),
        "LIST": lambda: list(storage.list_files(f"{rgw}/f")),
    }
    for method in PASSING[fault][1].split()[: 1 if "stall" in fault else None]:  # each takes its time
        error = outcome(calls[method])
        assert isinstance(error, kind)
        assert rgw in str(error)
        assert method == "HEAD" or re.search(message, str(error)), error
    proxy.clear()
    time.sleep(0.2)  # what the server still has in hand
    stored = {info.uri: info.size for info in storage.list_files(rgw)}
    assert stored.pop(whole) == len(DATA)
    assert stored in ({}, {uri: len(DATA)} if fault == "stall" else {})  # a stall's put was carried out
    storage.put_new(uri, DATA)
    assert storage.read(uri) == DATA


@pytest.mark.parametrize("fault", ["reset_body", "stall_body"])
def test_an_error_whose_body_breaks_off_is_asked_for_again(
    rgw: str, proxy: FaultProxy, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What S3 says of a key that is not there has a body too."""
    cause(proxy, fault, method="GET", count=1)
    assert isinstance(outcome(lambda: storage.read(f"{rgw}/f/none")), NotFound)
    assert len(retries(caplog)) == 1
    proxy.clear()
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    cause(proxy, fault, method="GET")
    assert isinstance(outcome(lambda: storage.read(f"{rgw}/f/none")), Unreachable)


def test_a_body_that_only_trickles_is_given_up(rgw: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_s3, "CALL_SECONDS", 0.0)
    storage.put_new(f"{rgw}/k", DATA)
    proxy.add("trickle", method="GET", rate=20_000)  # 35 s, with a byte every 0.1 s
    began = time.monotonic()
    error = outcome(lambda: storage.read(f"{rgw}/k"))
    assert isinstance(error, Unreachable)
    assert time.monotonic() - began < TIMEOUT + len(DATA) / storage_s3.LEAST_RATE + 3


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDenied", "bucket's policy"),
        ("ExpiredToken", "credentials have expired: renew them"),
        ("RequestTimeTooSkewed", "clock is wrong: set it"),
    ],
)
def test_a_refusal_is_not_tried_again_and_says_what_to_do(rgw: str, proxy: FaultProxy, code: str, message: str) -> None:
    storage.put_new(f"{rgw}/k", DATA)
    proxy.add("answer", status=403, code=code)
    for call in (
        lambda: storage.put_new(f"{rgw}/new", DATA),
        lambda: storage.read(f"{rgw}/k"),
        lambda: list(storage.list_files(rgw)),
        lambda: storage.delete(f"{rgw}/k"),
    ):
        error = outcome(call)
        assert isinstance(error, AccessDenied)
        assert re.search(f"403 {code}.*{message}", str(error))
    assert isinstance(outcome(lambda: storage.head(f"{rgw}/k")), AccessDenied)
    assert proxy.caused == {"answer": 5}
    proxy.clear()
    assert [storage.name(info.uri) for info in storage.list_files(rgw)] == ["k"]


def test_a_put_whose_answers_are_all_lost_is_found_done(rgw: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.add("drop_reply", method="PUT", count=1)
    etag = outcome(lambda: storage.put_new(f"{rgw}/k", DATA))
    assert proxy.requests == {"PUT": 2, "GET": 1}  # the put, its repetition that met its own 412, the comparison
    assert storage.read(f"{rgw}/k") == DATA
    proxy.add("drop_reply", method="PUT")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert isinstance(outcome(lambda: storage.put_new(f"{rgw}/other", DATA)), Unreachable)
    proxy.clear()
    assert outcome(lambda: storage.put_new(f"{rgw}/other", DATA)) == etag


@pytest.mark.parametrize("fault", ["drop_reply", "stall", "reset", "cut_request", "503"])
def test_a_put_never_takes_anothers_bytes_for_its_own(rgw: str, proxy: FaultProxy, radosgw: dict[str, str], fault: str) -> None:
    """Another writer's bytes of the same size arrive while our put is in trouble."""
    uri = f"{rgw}/k"
    direct = boto3.client("s3", endpoint_url=radosgw["AWS_ENDPOINT_URL"])

    def another() -> None:
        with suppress(ClientError):
            direct.put_object(Bucket=rgw.removeprefix("s3://"), Key="k", Body=OTHER, IfNoneMatch="*")

    cause(proxy, fault, method="PUT", count=1, action=another)
    result = outcome(lambda: storage.put_new(uri, DATA))
    there = storage.read(uri)
    if fault in ("drop_reply", "stall"):  # our put was the first
        assert (isinstance(result, str), there) == (True, DATA)
    else:
        assert isinstance(result, AlreadyExists)
        assert there == OTHER


def test_faults_at_random_under_concurrent_puts_leave_one_winner_each(rgw: str, proxy: FaultProxy) -> None:
    for fault in ("reset", "503", "drop_reply", "cut_request", "truncate"):
        cause(proxy, fault, probability=0.12)
    data = [bytes([i]) * 50_000 for i in range(4)]
    ends: list[tuple[str, list[bytes]]] = []
    for key in range(6):
        uri = f"{rgw}/k{key}"

        def new(body: bytes, uri: str = uri) -> object:
            return outcome(lambda: storage.put_new(uri, body))

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(new, data))
        won = [body for body, result in zip(data, results, strict=True) if isinstance(result, str)]
        assert len(won) <= 1
        assert all(isinstance(r, str | AlreadyExists | Unreachable) for r in results)
        ends.append((uri, won))
    proxy.clear()
    for uri, won in ends:
        assert storage.head(uri) is None or storage.read(uri) in (won or data)
        assert not won or storage.read(uri) == won[0]
    assert sum(proxy.caused.values()) > 5
