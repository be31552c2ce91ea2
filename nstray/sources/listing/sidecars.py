"""The sidecars of pictures in tars: a class, a text, a JSON object; as columns.

Texts are kept as they are while a listing runs. Their types are known at its end.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from nstray.errors import ManifestError
from nstray.sources.listing.pictures import TOLD_BY_PATHS
from nstray.text import did_you_mean

KINDS = ("cls", "txt", "json")  # what follows the key, and the names of the raw columns
MOST_BYTES = 2**19  # of a sidecar
_MOST_FIELDS = 200  # columns that JSON objects may make
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class Sidecars:
    """The columns of sidecars, and what their types may be.

    Args:
        columns: those to carry; None: all.
    """

    def __init__(self, columns: Sequence[str] | None) -> None:
        self._columns = columns
        self._lock = threading.Lock()  # archives are listed by several threads
        self._there: set[str] = set()
        self._integers = True  # every class so far
        self._fields: dict[str, set[str]] = {}

    def wanted(self, kind: str) -> bool:
        """Whether a sidecar that is there is to be read: a class, or one that can be carried."""
        self._there.add(kind)
        columns = self._columns
        if columns is None or kind == "cls" or kind in columns:
            return True
        return kind == "json" and any(name not in KINDS for name in columns)

    def add(self, kind: str, text: str) -> str:
        """Take a sidecar's text; returns it as it is to be kept.

        Raises: ValueError for a .json that holds no object.
        """
        if kind == "cls":
            text = text.strip()
        found: dict[str, Any] = {}
        if kind == "json":
            found = _object(text)
        with self._lock:
            if kind == "cls" and not _INTEGER.fullmatch(text):
                self._integers = False
            for name, value in found.items():
                kinds = self._fields.setdefault(name, set())
                if value is not None:
                    kinds.add(_kind(value))
            if len(self._fields) > _MOST_FIELDS and self._columns is None:
                raise ManifestError(
                    f"the sidecars .json have more than {_MOST_FIELDS} fields; "
                    "choose some with --columns"
                )
        return text

    def finish(self, raw: pa.Table) -> pa.Table:
        """The columns of sidecars that were there: ``cls``, ``txt``, and the fields of .json.

        Classes are int64 if all are whole numbers, else text. A field of JSON is a bool, int64,
        double or text; one of other or mixed types is text that holds JSON.

        Raises: `ManifestError` for a column that is asked for and not there.
        """
        columns: dict[str, pa.Array] = {}
        if "cls" in self._there:
            kind = pa.int64() if self._integers else pa.string()
            columns["cls"] = raw.column("cls").cast(kind)
        if "txt" in self._there and self._is_asked("txt"):
            columns["txt"] = raw.column("txt")
        fields = [name for name in self._fields if self._is_asked(name)]
        if fields:
            rows = [json.loads(t) if t is not None else {} for t in raw.column("json").to_pylist()]
            for name in fields:
                key = f"json.{name}" if name in ("cls", "txt") and name in columns else name
                columns[key] = _typed([row.get(name) for row in rows], self._fields[name])
        missing = [
            name
            for name in self._columns or ()
            if name not in columns and name not in TOLD_BY_PATHS
        ]
        if missing:
            there = [*sorted(self._there - {"json"}), *self._fields]
            raise ManifestError(
                f"the column {missing[0]} is not there; the sidecars have "
                f"{', '.join(there) or 'none'}{did_you_mean(missing[0], there)}"
            )
        return pa.table(columns) if columns else raw.select([])

    def _is_asked(self, name: str) -> bool:
        return self._columns is None or name in self._columns


def _object(text: str) -> dict[str, Any]:
    """The JSON object in `text`; raises ValueError."""
    try:
        found = json.loads(text)
        text.encode()
        json.dumps(found, ensure_ascii=False).encode()  # no lone surrogate, which no file can hold
    except (RecursionError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _kind(value: object) -> str:
    """What a value of JSON is, as far as the type of its column depends on it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if abs(value) <= 2**53 else "long" if -(2**63) <= value < 2**63 else "other"
    return {bool: "bool", float: "float", str: "str"}.get(type(value), "other")


def _typed(values: list[Any], kinds: set[str]) -> pa.Array:
    """A field's values in the one Arrow type that fits all `kinds`."""
    if kinds == {"bool"}:
        return pa.array(values, pa.bool_())
    if kinds and kinds <= {"int", "long"}:
        return pa.array(values, pa.int64())
    if kinds and kinds <= {"int", "float"}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if kinds <= {"str"}:
        return pa.array(values, pa.string())
    return pa.array(
        [None if v is None else json.dumps(v, ensure_ascii=False) for v in values], pa.string()
    )
