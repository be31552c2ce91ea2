"""Ports for the servers that tests start."""

from __future__ import annotations

import random
import socket


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, below the range that outgoing connections take theirs from."""
    for _ in range(200):
        first = random.randint(20_000, 31_000)
        sockets = [socket.socket() for _ in range(count)]
        try:
            for i, s in enumerate(sockets):
                s.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()
    raise RuntimeError("no free ports on loopback")
