"""A proxy that stands between a client and a real S3 server and causes faults by rule: what a network and a busy store do, on demand.

Requests reach the server byte for byte, the Host header included, which SigV4 signs: a client needs nothing but the proxy's
address as AWS_ENDPOINT_URL. ::

    with FaultProxy("http://127.0.0.1:7480", seed=1) as proxy:
        proxy.add("answer", method="PUT", status=503, code="SlowDown", count=2)
        proxy.add("drop_reply", method="PUT", key=r"/data/part-", probability=0.1)
        ...  # a client of proxy.url
        proxy.caused  # Counter({"answer": 2, ...})
        proxy.clear()
"""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote, urlsplit

# What a rule may cause; all but the last five end the connection.
KINDS = {
    "reset": "the connection is reset before the server has seen the request",
    "deaf": "nobody reads the request's body for `seconds`, then a reset",
    "cut_request": "the server gets the head and half of the body, then both sides are reset",
    "drop_reply": "the server carries the request out; the client gets a reset instead of its answer",
    "reset_body": "half of the answer's body, then a reset",
    "truncate": "half of the answer's body, then an orderly end",
    "stall": "the server carries the request out; the client gets nothing for `seconds`, then a reset",
    "stall_body": "half of the answer's body, then nothing for `seconds`, then a reset",
    "answer": "an answer of S3's, `status` and `code`, without asking the server",
    "delay": "the request waits `seconds` first",
    "trickle": "the answer's body comes at `rate` bytes a second",
    "flip": "`bits` bits of the answer's body are flipped, at random places or from `place` (0 to 1) on",
    "flip_request": "the same of the request's body",
}
TIMEOUT = 1.0  # seconds after which the tests' own client gives a silent peer up
_BLOCK = 64 * 1024


@dataclass
class Rule:
    """Which requests meet which fault.

    Args:
        kind: of `KINDS`.
        method: ``*``, an HTTP method, or ``LIST`` for a GET that lists a bucket (``GET`` is then that of an object).
        key: a regular expression searched in ``/bucket/key``.
        count: how many requests it meets at most.
        skip: how many requests it lets through first.
        probability: of meeting a request.
        duration: seconds after which it ends.
        action: called where the fault stands, before the client learns of it.
    """

    kind: str
    method: str = "*"
    key: str = ""
    count: int | None = None
    skip: int = 0
    probability: float = 1.0
    duration: float | None = None
    seconds: float = 0.0
    rate: float = 1000.0
    status: int = 500
    code: str = "InternalError"
    bits: int = 1
    place: float | None = None
    action: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is none of {', '.join(KINDS)}")
        self.caused, self.added = 0, time.monotonic()

    def flipped(self, data: bytes, chance: random.Random) -> bytes:
        """`data` with bits flipped."""
        out = bytearray(data)
        for i in range(self.bits if data else 0):
            at = chance.randrange(len(out)) if self.place is None else min(int(self.place * len(out)) + i, len(out) - 1)
            out[at] ^= 1 << (chance.randrange(8) if self.place is None else 0)
        return bytes(out)

    def meets(self, method: str, path: str, chance: random.Random) -> bool:
        """Whether it meets this request; counts it if so."""
        if self.method not in ("*", method) or not re.search(self.key, path) or (self.count is not None and self.caused >= self.count):
            return False
        if self.duration is not None and time.monotonic() - self.added > self.duration:
            return False
        if self.probability < 1 and chance.random() >= self.probability:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.caused += 1
        return True


class FaultProxy:
    """The proxy. Rules may be added and cleared while it runs, from any thread; the first that meets a request counts.

    Args:
        upstream: ``http://HOST:PORT`` of the server.
        seed: of the rules' probabilities.
        port: to listen on, 0 for any.

    Attributes:
        caused: number of faults by kind.
        requests: number of requests by method (``LIST`` apart from ``GET``).
    """

    def __init__(self, upstream: str, *, seed: int = 0, port: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._chance, self._port = random.Random(seed), port
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopped = threading.Event()
        self.caused: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()

    def start(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK)  # "deaf" means nothing to a client whose body fits the buffers
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and end every connection."""
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for each in left:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, kind: str, **how: Any) -> Rule:
        """Begin to cause a fault; see `Rule`."""
        rule = Rule(kind, **how)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """End every rule; faults in progress go on."""
        with self._lock:
            self._rules = []

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Requests of one connection, each over a connection to the server of its own, until a fault or the client ends it."""
        with self._lock:
            self._open.add(client)
        try:
            # A client that was killed, or that gave up, is no trouble of ours.
            with suppress(OSError), client.makefile("rb") as source:
                while self._one(client, source):
                    pass
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()

    def _one(self, client: socket.socket, source: Any) -> bool:
        """One request; False where the connection has ended."""
        head = _read_head(source)
        if not head:
            return False
        verb, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        length, expects = int(_header(head, b"content-length") or 0), _header(head, b"expect") is not None
        path = unquote(urlsplit(target).path)
        method = "LIST" if verb == "GET" and not path.strip("/").partition("/")[2] else verb
        with self._lock:
            self.requests[method] += 1
            rule = next((r for r in self._rules if r.meets(method, path, self._chance)), None)
            if rule is not None:
                self.caused[rule.kind] += 1
        kind = rule.kind if rule else ""
        if rule and kind == "reset":
            self._act(rule)
            return _reset(client)
        if rule and kind == "deaf":
            self._act(rule)
            self._stopped.wait(rule.seconds)
            return _reset(client)
        if rule and kind == "delay":
            self._stopped.wait(rule.seconds)
        if expects:
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        wanted = length // 2 if kind == "cut_request" else length
        body = source.read(wanted)
        if len(body) < wanted:  # the client died
            return False
        if rule and kind == "flip_request":
            self._act(rule)
            body = rule.flipped(body, self._chance)
        if rule and kind == "answer":
            self._act(rule)
            client.sendall(_answer(rule, verb))
            return True
        with socket.create_connection(self._upstream, timeout=120) as server, server.makefile("rb") as answers:
            server.sendall(head + body)
            if rule and kind == "cut_request":
                time.sleep(0.05)  # until the server has read what it gets
                self._act(rule)
                _reset(server)
                return _reset(client)
            answer = _read_head(answers)
            while answer.split(b" ", 2)[1].startswith(b"1"):  # the server's own 100 Continue
                answer = _read_head(answers)
            return self._pass_on(rule, verb, answer, answers, client)

    def _pass_on(self, rule: Rule | None, verb: str, answer: bytes, answers: Any, client: socket.socket) -> bool:
        """The server's answer to the client, or what the rule makes of it."""
        kind = rule.kind if rule else ""
        bare = verb == "HEAD" or answer.split(b" ", 2)[1] in (b"204", b"304")
        chunked = (_header(answer, b"transfer-encoding") or b"").lower() == b"chunked"
        length = 0 if bare else int(_header(answer, b"content-length") or 0)
        content = _read_chunks(answers) if chunked and not bare else answers.read(length)
        if rule and kind == "flip" and not chunked:
            self._act(rule)
            content = rule.flipped(content, self._chance)
        if rule and kind in ("drop_reply", "stall"):
            self._act(rule)
            self._stopped.wait(rule.seconds)
            return _reset(client)
        if rule and kind in ("reset_body", "truncate", "stall_body"):
            client.sendall(answer + content[: len(content) // 2])
            self._act(rule)
            self._stopped.wait(rule.seconds)
            if kind == "truncate":
                client.shutdown(socket.SHUT_RDWR)
                return False
            return _reset(client)
        client.sendall(answer)
        if rule and kind == "trickle":
            self._act(rule)
            step = max(1, int(rule.rate / 10))
            for start in range(0, len(content), step):
                client.sendall(content[start : start + step])
                if self._stopped.wait(step / rule.rate):
                    return False
        else:
            client.sendall(content)
        return (_header(answer, b"connection") or b"").lower() != b"close"

    def _act(self, rule: Rule) -> None:
        if rule.action is not None:
            rule.action()


def _reset(connection: socket.socket) -> bool:
    """End a connection by a TCP reset; False."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # close() alone waits for the files made of the socket; this leaves the descriptor to them and sends the reset now
        socket.socket(fileno=connection.detach()).close()
    return False


def _read_head(source: Any) -> bytes:
    """Everything up to and with the empty line; nothing where the connection has ended."""
    lines = []
    while line := source.readline(_BLOCK):
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _read_chunks(source: Any) -> bytes:
    """A chunked body as it came, its frames included."""
    pieces = []
    while size := source.readline(_BLOCK):
        chunk = source.read(int(size.partition(b";")[0], 16) + 2)
        pieces += [size, chunk]
        if chunk == b"\r\n":
            break
    return b"".join(pieces)


def _answer(rule: Rule, verb: str) -> bytes:
    """What S3 answers in such a case: an XML body, none to a HEAD."""
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{rule.code}</Code><Message>caused by the test</Message></Error>".encode()
    head = f"HTTP/1.1 {rule.status} {rule.code}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    return head if verb == "HEAD" else head + text
