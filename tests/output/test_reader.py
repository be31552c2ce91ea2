"""nstray.output.reader: values that Python lacks come as text, with and without pandas."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from nstray.output.reader import _values

NS = pa.timestamp("ns")
WHEN, TEXT = 1_700_000_000_123_456_789, "2023-11-14 22:13:20.123456789"


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (NS, [WHEN, None], [TEXT, None]),
        (pa.timestamp("ns", "UTC"), [WHEN], [f"{TEXT}Z"]),
        (pa.timestamp("ns", "Europe/Berlin"), [WHEN], ["2023-11-14 23:13:20.123456789+0100"]),
        (pa.time64("ns"), [5, None], ["00:00:00.000000005", None]),
        (pa.duration("ns"), [WHEN, -5], [f"{WHEN} ns", "-5 ns"]),
        (pa.list_(NS), [[WHEN, None], None, []], [[TEXT, None], None, []]),
        (pa.large_list(NS), [[WHEN]], [[TEXT]]),
        (pa.list_(NS, 2), [[WHEN, None]], [[TEXT, None]]),
        (pa.struct([("a", NS), ("b", pa.int32())]), [{"a": WHEN, "b": 3}, None], [{"a": TEXT, "b": 3}, None]),
        (pa.map_(pa.string(), NS), [[("k", WHEN)]], [[("k", TEXT)]]),
        (pa.timestamp("s"), [10**12], ["1000000000000 s"]),  # the year 33658
        (pa.timestamp("us"), [2**60], ["1152921504606846976 us"]),
        (pa.date32(), [10**7], ["29349-01-26"]),
    ],
    ids=str,
)
def test_values_that_python_lacks(kind: pa.DataType, given: list[Any], expected: list[Any]) -> None:
    assert _values(pa.chunked_array([pa.array(given, kind)])) == expected


def test_a_dictionary_of_nanoseconds() -> None:
    assert _values(pa.chunked_array([pa.array([WHEN, None, WHEN], NS).dictionary_encode()])) == [TEXT, None, TEXT]
