"""Small histograms of rows, which a part's footer and a window's index hold beside their sums.

A report of a million rows is made of them and of a sample. They are derived. Those of earlier
versions may lack, and damaged ones count as lacking: no run reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nstray.output.records import DAMAGE, unix_seconds

MOST = 64  # entries of a histogram at most
KEY = "histograms"  # in a footer and in an index
VALUES = ("ratio", "seconds", "loss_content", "loss_style")
ANY_STYLE = ("ratio", "seconds")  # those that compare across styles
FOOTER_BYTES, INDEX_BYTES = 8 * 2**10, 64 * 2**10  # of JSON, about
_FINEST = 3  # 2^3 bins to an octave: a bin is 9 % wide
_LONGEST = 300  # characters of a style, label or split
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Name = Annotated[str, Field(max_length=2 * _LONGEST + 1)]
_Time = Annotated[float, Field(ge=0, lt=1e12, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=False, extra="ignore", frozen=True)


class Bins(_Model):
    """How many values lie in each bin; bin k is from 2^(k / n) to 2^((k + 1) / n), n = 2^`step`.

    Values that are not above 0, or not finite, are in none.
    """

    step: Annotated[int, Field(ge=-12, le=_FINEST)] = _FINEST
    counts: Annotated[
        dict[Annotated[int, Field(ge=-(2**14), le=2**14)], _Count], Field(max_length=MOST)
    ] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of values."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The value that `share` of the values are below, at the resolution of the bins."""
        left = share * self.total
        scale = 2.0**self.step
        for place, number in sorted(self.counts.items()):
            if left <= number and number:
                return float(2.0 ** ((place + left / number) / scale))
            left -= number
        raise ValueError("no values")


class StyleCounts(_Model):
    """The rows of one style; `first` and `last` are numbers of parts (in an index alone)."""

    ok: _Count = 0
    errors: _Count = 0
    first: _Count | None = None
    last: _Count | None = None
    values: Annotated[dict[_Name, Bins], Field(max_length=len(VALUES))] = Field(
        default_factory=dict
    )


class Finished(_Model):
    """Rows of one worker by the time at which their part was finished.

    `begin` is in unix seconds, `step` the width of a bin in seconds.
    """

    host: _Name
    device: _Name
    begin: _Time
    step: _Time
    rows: Annotated[list[_Count], Field(max_length=MOST)]


class Histograms(_Model):
    """What rows add up to, value by value. A table of more than `MOST` entries is None.

    Attributes:
        rows: number of rows that were counted.
        styles: by the style's key (`style_key`).
        split_labels: by split and label with a tab between them.
        finished: by worker, in an index alone.
    """

    rows: _Count = 0
    values: Annotated[dict[_Name, Bins], Field(max_length=len(VALUES))] = Field(
        default_factory=dict
    )
    styles: Annotated[dict[_Name, StyleCounts], Field(max_length=MOST)] | None = None
    labels: Annotated[dict[_Name, _Count], Field(max_length=MOST)] | None = None
    splits: Annotated[dict[_Name, _Count], Field(max_length=MOST)] | None = None
    split_labels: Annotated[dict[_Name, _Count], Field(max_length=MOST)] | None = None
    finished: Annotated[dict[_Name, Finished], Field(max_length=MOST)] | None = None


def style_key(uris: Sequence[str | None] | None) -> str:
    """The styles of a row as one text."""
    return "\n".join(uri or "" for uri in uris or ())


def texts(column: pa.ChunkedArray | pa.Array) -> list[str] | None:
    """A carried column as text, null as ""; None for a type that Arrow does not write as text."""
    try:
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            column = column.cast(kind.storage_type)
        return [value or "" for value in pc.cast(column, pa.string()).to_pylist()]
    except (pa.ArrowException, ValueError, TypeError):
        return None


def row_values(row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row that are counted, as far as it has them; a `ratio` is end / start."""
    curve = row.get("loss_curve")
    start = curve[0] if curve else None
    ratio = curve[-1] / start if curve and start else None
    found = {"ratio": ratio, **{name: row.get(name) for name in VALUES[1:]}}
    return {name: float(v) for name, v in found.items() if v is not None and math.isfinite(v)}


def of_rows(rows: Sequence[Mapping[str, Any]], carried: pa.Table | None) -> dict[str, Any]:
    """The histograms of a part, for its footer; `carried` has its rows' carried columns."""
    by_style: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_style.setdefault(style_key(row.get("style_uri")), []).append(row)
    labels, splits = (
        texts(carried[name]) if carried is not None and name in carried.column_names else None
        for name in ("label", "split")
    )
    found = Histograms(
        rows=len(rows),
        values=_values(rows, ANY_STYLE),
        styles=_few(
            {
                key: StyleCounts(
                    ok=sum(row["status"] == "ok" for row in group),
                    errors=sum(row["status"] != "ok" for row in group),
                    values=_values(group),
                )
                for key, group in by_style.items()
            }
        ),
        labels=_counted(labels),
        splits=_counted(splits),
        split_labels=(
            _counted([f"{split}\t{label}" for split, label in zip(splits, labels, strict=True)])
            if labels and splits
            else None
        ),
    )
    return _bounded(found, FOOTER_BYTES).model_dump(mode="json", exclude_defaults=True)


def of_parts(parts: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any] | None:
    """The histograms of a window from the footers of its numbered parts.

    None if one of the parts has none: then the window is to be sampled.
    """
    found = []
    for number, footer in parts:
        each = load(footer)
        if each is None or each.rows != footer.get("rows", each.rows):
            return None
        found.append(
            each.model_copy(
                update={
                    "styles": each.styles
                    and {
                        key: style.model_copy(update={"first": number, "last": number})
                        for key, style in each.styles.items()
                    }
                }
            )
        )
    whole = merge(found).model_copy(
        update={"finished": _few(finished([footer for _, footer in parts]))}
    )
    return _bounded(whole, INDEX_BYTES).model_dump(mode="json", exclude_defaults=True)


def load(record: Mapping[str, Any]) -> Histograms | None:
    """The histograms of a footer or index; None if it has none, or damaged ones."""
    try:
        given = record.get(KEY)
        return None if given is None else Histograms.model_validate(given)
    except (ValidationError, RecursionError):
        return None


def merge(found: Sequence[Histograms]) -> Histograms:
    """What histograms add up to, apart from `finished`. A table that one of them lacks is None."""
    return Histograms(
        rows=sum(each.rows for each in found),
        values=_merged_values([each.values for each in found]),
        styles=_merged([each.styles for each in found], _merged_style),
        labels=_merged([each.labels for each in found], sum),
        splits=_merged([each.splits for each in found], sum),
        split_labels=_merged([each.split_labels for each in found], sum),
    )


def finished(footers: Iterable[Mapping[str, Any]]) -> dict[str, Finished]:
    """Rows by worker and by the time at which their part was finished.

    Parts whose footer names no time are left out.
    """
    by_worker: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    for footer in footers:
        try:
            time = unix_seconds(footer.get("finished"))
            rows = int(footer["rows"])
        except DAMAGE:
            continue
        if time is not None and 0 <= time < 1e12:
            names = (str(footer.get(name) or "")[:100] for name in ("host", "device", "pid"))
            host, device, pid = names
            by_worker.setdefault((host, device, pid), []).append((time, rows))
    return {
        " ".join(filter(None, key)): _by_time(key[0], key[1], times)
        for key, times in by_worker.items()
    }


def _by_time(host: str, device: str, times: list[tuple[float, int]]) -> Finished:
    begin = min(time for time, _ in times)
    step = max(1.0, math.ceil((max(time for time, _ in times) - begin + 1) / MOST))
    rows = [0] * (int((max(time for time, _ in times) - begin) / step) + 1)
    for time, number in times:
        rows[int((time - begin) / step)] += number
    return Finished(host=host, device=device, begin=begin, step=step, rows=rows)


def bins(values: Iterable[float]) -> Bins:
    """The histogram of values."""
    counts: dict[int, int] = {}
    for value in values:
        if 1e-300 < value < 1e300:
            place = math.floor(math.log2(value) * 2**_FINEST)
            counts[place] = counts.get(place, 0) + 1
    return _coarse(_FINEST, counts)


def _coarse(step: int, counts: dict[int, int], most: int = MOST) -> Bins:
    while len(counts) > most:
        step, counts = step - 1, _halved(counts)
    return Bins(step=step, counts=counts)


def _halved(counts: Mapping[int, int]) -> dict[int, int]:
    halved: dict[int, int] = {}
    for place, number in counts.items():
        halved[place // 2] = halved.get(place // 2, 0) + number
    return halved


def merged_bins(found: Sequence[Bins]) -> Bins:
    """What histograms add up to."""
    step = min((each.step for each in found), default=_FINEST)
    counts: dict[int, int] = {}
    for each in found:
        own = dict(each.counts)
        for _ in range(each.step - step):
            own = _halved(own)
        for place, number in own.items():
            counts[place] = counts.get(place, 0) + number
    return _coarse(step, counts)


def _values(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = VALUES) -> dict[str, Bins]:
    each = [row_values(row) for row in rows]
    found = {name: bins(v[name] for v in each if name in v) for name in names}
    return {name: of for name, of in found.items() if of.counts}


def _merged_values(found: Sequence[Mapping[str, Bins]]) -> dict[str, Bins]:
    names = {name for each in found for name in each}
    return {
        name: merged_bins([each[name] for each in found if name in each])
        for name in VALUES
        if name in names
    }


def _merged_style(found: Sequence[StyleCounts]) -> StyleCounts:
    return StyleCounts(
        ok=sum(each.ok for each in found),
        errors=sum(each.errors for each in found),
        first=min((each.first for each in found if each.first is not None), default=None),
        last=max((each.last for each in found if each.last is not None), default=None),
        values=_merged_values([each.values for each in found]),
    )


def _merged(found: Sequence[Mapping[str, Any] | None], add: Any) -> dict[str, Any] | None:
    """Tables added up by `add`; None if one is missing or the sum has too many entries."""
    entries: dict[str, list[Any]] = {}
    for table in found:
        if table is None:
            return None
        for name, value in table.items():
            entries.setdefault(name, []).append(value)
    return _few({name: add(values) for name, values in entries.items()})


def _few(table: dict[str, Any]) -> dict[str, Any] | None:
    sound = len(table) <= MOST and all(len(name) <= 2 * _LONGEST for name in table)
    return table if sound else None


def _counted(values: Sequence[str] | None) -> dict[str, int] | None:
    if values is None:
        return None
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return _few(counts)


def _bounded(found: Histograms, limit: int) -> Histograms:
    """`found` with less of its styles, and then less of the rest, if its JSON is too long."""
    if len(found.model_dump_json()) <= limit:
        return found
    styles = found.styles and {
        key: style.model_copy(update={"values": {}}) for key, style in found.styles.items()
    }
    for less in (
        {"styles": styles},
        {"styles": None},
        {"styles": None, "split_labels": None},
        {"styles": None, "split_labels": None, "labels": None, "splits": None},
    ):
        short = found.model_copy(update=less)
        if len(short.model_dump_json()) <= limit:
            return short
    return short
