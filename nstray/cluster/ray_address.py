"""What RAY_ADDRESS may be. It can be asked before ray is imported and anything is written."""

from __future__ import annotations

import os
import re

from nstray.errors import UsageError
from nstray.text import redact


def given() -> str:
    """RAY_ADDRESS as HOST:PORT, ``auto`` or ``local``; empty if there is none.

    Raises `UsageError` for every other form that Ray knows, and for what is none.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address in ("", "auto", "local"):
        return address
    scheme, separator, rest = address.partition("://")
    shown = f"RAY_ADDRESS {redact(address)}"
    if separator and scheme in ("http", "https"):
        raise UsageError(
            f"{shown}: that is a job server; submit the job to it (ray job submit --address "
            "ADDRESS -- nstray ...), or unset RAY_ADDRESS to run on this machine"
        )
    if separator and scheme == "ray":
        head = rest.rpartition(":")[0] or rest
        raise UsageError(
            f"{shown}: nstray runs on the cluster and not through a Ray Client; set RAY_ADDRESS="
            f"{redact(head)}:6379 on a machine of it, or submit the job (ray job submit)"
        )
    host, _, port = address.rpartition(":")
    if separator or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(f"{shown}: Ray's address is HOST:PORT, auto or local")
    return address
