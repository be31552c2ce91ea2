"""The indexes of an output: what each window adds up to, so that its footers need no reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from nstray import storage
from nstray.errors import TooLarge
from nstray.output import histograms, records
from nstray.output.layout import parse_part
from nstray.output.parts import Parts
from nstray.output.paths import Paths, read_file
from nstray.output.records import Counts, PartInfo, total

EXAMPLES = 20  # parts of a window that are named for their error rows


class Indexes:
    """One index per window. Each is derived from the footers of the window's parts."""

    def __init__(self, paths: Paths, parts: Parts) -> None:
        self._paths, self._parts = paths, parts

    def write(self, window: int, parts: Sequence[PartInfo]) -> None:
        """Write the index of a window whose parts are all committed; replaces an earlier one."""
        numbered = []
        for part in parts:
            place = parse_part(storage.name(part.uri))
            if place is None or place[0] != window:
                raise ValueError(f"{part.uri} is not a part of window {window}")
            numbered.append((place[1], part))
        small = histograms.of_parts([(n, {**p.footer, "rows": p.rows}) for n, p in numbered])
        more = None if small is None else {histograms.KEY: small}
        storage.put_over(self._paths.index_uri(window), records.dump_index(window, numbered, more))

    def forget(self, window: int) -> None:
        """Remove the index of a window whose parts are about to be replaced."""
        storage.delete(self._paths.index_uri(window))

    def read(self, window: int) -> dict[str, Any] | None:
        """The index of a window; None if it is missing or damaged: it can be rebuilt."""
        try:
            data = read_file(self._paths.index_uri(window))
        except TooLarge:
            return None
        return None if data is None else records.load_index(data, window)

    def indexed_counts(
        self, window: int, listed: Mapping[int, storage.ObjectInfo], expected_parts: int
    ) -> Counts | None:
        """What a complete window adds up to, from its index.

        None if parts are missing, or if the index is not about the very parts `listed`.
        """
        index = self.read_complete(window, listed, expected_parts)
        return None if index is None else records.index_counts(index)

    def read_complete(
        self, window: int, listed: Mapping[int, storage.ObjectInfo], expected_parts: int
    ) -> dict[str, Any] | None:
        """The index of a window if it is about the very parts `listed`, and none is missing."""
        if set(listed) != set(range(expected_parts)):
            return None
        index = self.read(window)
        if index is None or {(p[0], p[3]) for p in index["parts"]} != {
            (n, info.size) for n, info in listed.items()
        }:
            return None
        return index

    def window_counts(
        self, window: int, expected_parts: int, pool: Executor | None = None
    ) -> Counts | None:
        """What the committed parts of a window add up to; None if there is none.

        Takes the index if it lists the very parts that are there. Else it reads every footer, in
        the threads of `pool` or its own.
        """
        found = self.window_state(window, expected_parts, pool)
        return None if found is None else found[0]

    def window_state(
        self, window: int, expected_parts: int, pool: Executor | None = None
    ) -> tuple[Counts, list[str]] | None:
        """As `window_counts`, with URIs of parts that hold error rows, at most `EXAMPLES`.

        If footers were read there is a part of every code among them.
        """
        listed = self._parts.list_window(window)
        if not listed:
            return None
        if (indexed := self.indexed_counts(window, listed, expected_parts)) is not None:
            index = (self.read(window) if indexed.errors else None) or {"parts": []}
            numbers = [number for number, rows, ok, _ in index["parts"] if rows > ok]
            return indexed, [listed[n].uri for n in numbers[:EXAMPLES] if n in listed]
        parts = self._parts.read_footers(listed, pool)
        first: dict[str, str] = {}
        for part in parts:
            for code in part.errors:
                first.setdefault(code, part.uri)
        return total(parts), list(dict.fromkeys(first.values()))[:EXAMPLES]
