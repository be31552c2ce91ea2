"""nstray.storage.botocore_internals: what is relied on inside botocore and urllib3 is still there. A failure here names the seam to mend."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import botocore.handlers
import pytest
from botocore import exceptions as boto

from nstray import storage
from nstray.storage import botocore_internals, s3_client


def test_our_reader_of_listings_comes_before_botocores_own(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What botocore looks through for an error, and parses after that, holds no objects any more."""
    for name in ("a", "b"):
        storage.put_new(f"{s3}/{name}", b"1")
    looked_at: list[bytes] = []
    honest = botocore.handlers._looks_like_special_case_error

    def watched(status: int, body: bytes) -> bool:
        looked_at.append(body)
        return bool(honest(status, body))

    # the test's own way to see botocore's handler; if it is renamed, look at its handlers of before-parse.s3.*
    monkeypatch.setattr(botocore.handlers, "_looks_like_special_case_error", watched)
    answer = s3_client.client().list_objects_v2(Bucket=s3.removeprefix("s3://"))
    assert [item["Key"] for item in answer["Contents"]] == ["a", "b"]
    assert {frozenset(item) for item in answer["Contents"]} == {frozenset(("Key", "Size", "ETag", "LastModified"))}
    assert looked_at
    assert all(b"Contents" not in body for body in looked_at)


class _Trickle(http.server.BaseHTTPRequestHandler):
    """Answers the first request with 503, and every later one with a byte every 0.05 s, for a minute."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        late = type(self).asked > 1
        self.send_response(200 if late else 503)
        for name, value in (("Content-Length", "1200" if late else "0"), ("ETag", '"abc"'), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        for _ in range(1200 if late else 0):
            try:
                self.wfile.write(b".")
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def trickle(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Trickle]]:
    handler = type("Handler", (_Trickle,), {"asked": 0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()
    s3_client.forget_client()


def test_a_repeated_request_says_which_attempt_it_is_and_a_body_is_broken_off(trickle: type[_Trickle]) -> None:
    client, attempts = s3_client.client(), list[int]()
    client.meta.events.register("request-created.s3", lambda request, **_: attempts.append(botocore_internals.attempt_of(request)))
    body = client.get_object(Bucket="b", Key="k")["Body"]
    assert attempts == [1, 2]
    assert callable(body._raw_stream.shutdown)  # urllib3 from 2.3 on
    threading.Timer(0.2, botocore_internals.break_off, (body,)).start()
    with pytest.raises((boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)):
        body.read()


def test_breaking_off_a_body_that_was_read_is_no_error(s3: str) -> None:
    storage.put_new(f"{s3}/k", b"whole")
    body = s3_client.client().get_object(Bucket=s3.removeprefix("s3://"), Key="k")["Body"]
    assert body.read() == b"whole"
    botocore_internals.break_off(body)
    assert storage.read(f"{s3}/k") == b"whole"
