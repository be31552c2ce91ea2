"""A JSON file that can be made again: the summary of a job, or the estimate of a probe."""

from __future__ import annotations

import json
from typing import Any

from nstray import storage
from nstray.errors import TooLarge
from nstray.output import records
from nstray.output.paths import read_file


class DerivedFile:
    """One JSON object under one URI. No run depends on it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def write(self, values: dict[str, Any]) -> None:
        """Write the file; replaces an earlier one."""
        storage.put_over(self._uri, records.dump(values))

    def read(self) -> dict[str, Any] | None:
        """What the file holds; None if it is missing or damaged."""
        try:
            data = read_file(self._uri)
            found = None if data is None else json.loads(data)
        except (TooLarge, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None
