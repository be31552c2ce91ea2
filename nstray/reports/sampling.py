"""A sample of an output's rows by style, label and status: seeded, bounded in requests and memory.

A part is read for its rows without their pictures. Rows are sorted by style inside a window, so
parts that are spread over a window are a sample by style. Indexes say where each style begins and
ends, and which parts have error rows. Windows without such an index are searched for the places
where the style changes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import Changed, NotFound, OutputError
from nstray.output.histograms import style_key, texts
from nstray.output.part_file import damaged, read_batches
from nstray.output.reader import reading, table_rows
from nstray.output.records import FIRST_ORDER, PartInfo, order_of
from nstray.output.schema import carried_schema
from nstray.reports.survey import Survey, Window

MOST_PARTS = 160  # that are read: each takes two or three requests
MOST_ROWS = 4096
THREADS = 16
_ROUNDS = 13  # a window has at most 2^16 parts
_COLUMNS = (
    *("status", "error_code", "error_message", "content_uri", "style_uri"),
    *("content_sha256", "style_sha256", "width", "height", "loss_total", "loss_content"),
    *("loss_style", "loss_curve", "evaluations", "seconds", "device"),
)
_STRATA = ("label", "split")
Row = dict[str, Any]
Place = tuple[int, int]  # window and number of a part


@dataclass(frozen=True)
class Sample:
    """Rows of an output without their pictures, and what they were drawn from.

    A row has the keys of the output's columns that reports need, and ``uri`` of its part, ``group``
    (its row group), ``window``, ``style`` (`style_key`), ``label`` and ``split`` (text; None if
    the manifest carries none).

    Attributes:
        rows: in the order of the output.
        total: number of rows that are there.
        footers: of the parts that were read, by window and number.
        damaged: what is wrong with parts, and what to do, a part each.
        gone: parts that were removed or replaced while they were read.
    """

    rows: list[Row]
    total: int
    seed: int
    parts_read: int
    parts_listed: int
    footers: dict[Place, PartInfo]
    damaged: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it has every row that is there."""
        return len(self.rows) == self.total

    @property
    def words(self) -> str:
        """How it was drawn, in words."""
        if self.whole:
            return f"all {self.total:,} rows"
        return (
            f"{len(self.rows):,} of {self.total:,} rows, drawn by style, label and status from "
            f"{self.parts_read:,} of {self.parts_listed:,} parts; seed {self.seed}"
        )


def draw(
    survey: Survey,
    job: Mapping[str, Any],
    *,
    seed: int = 0,
    parts: int = MOST_PARTS,
    rows: int = MOST_ROWS,
    places: Sequence[Place] | None = None,
) -> Sample:
    """Draw a sample of the rows that a survey found.

    A part that is damaged, or gone since, is left out and noted. Raises `StorageError` if a store
    is out of reach.

    Args:
        parts: that are read at most. If there are no more, all of them are.
        rows: about how many are read at most.
        places: the parts that are read, up to `parts` of them; default: the sample chooses.
    """
    rng = random.Random(seed)
    there = {(window.number, number): window for window, number in survey.parts}
    reader = _Reader(there, job, rng, rows, min(parts, len(there) or 1))
    if places is not None:
        reader.read([place for place in places if place in there][:parts])
    elif len(there) <= parts:
        reader.read(there)
    else:
        unknown = {w.number for w in survey.windows if w.listed and not _styles(w)}
        reader.read(_first_parts(survey, rng, parts if not unknown else parts * 3 // 4))
        if order_of(job) == FIRST_ORDER:
            for _ in range(_ROUNDS):
                more = reader.between(unknown)[: parts - len(reader.found)]
                if not more:
                    break
                reader.read(more)
        rest = [place for place in there if place not in reader.found]
        reader.read(rng.sample(rest, min(len(rest), parts - len(reader.found))))
    found = [row for place in sorted(reader.found) for row in reader.found[place]]
    return Sample(
        found,
        survey.rows_done,
        seed,
        len(reader.footers),
        len(there),
        reader.footers,
        sorted(reader.damaged),
        sorted(reader.gone),
    )


def _styles(window: Window) -> Mapping[str, Any] | None:
    return None if window.small is None else window.small.styles


def _first_parts(survey: Survey, rng: random.Random, most: int) -> list[Place]:
    """Parts with each style, parts with error rows, and parts that are spread evenly."""
    chosen: dict[Place, None] = {}
    styles: dict[str, list[tuple[Window, Any]]] = {}
    failed: list[Place] = []
    for window in survey.windows:
        for key, of in (_styles(window) or {}).items():
            if of.first in window.listed and of.last in window.listed:
                styles.setdefault(key, []).append((window, of))
        if window.index is not None:
            failed += [(window.number, p[0]) for p in window.index["parts"] if p[2] < p[1]]
    for key in rng.sample(sorted(styles), min(len(styles), most // 2)):
        window, of = rng.choice(styles[key])
        chosen[window.number, _part_with(window, of, rng)] = None
    for place in rng.sample(failed, min(len(failed), most // 8)):
        chosen[place] = None
    rest = [
        place for place in ((w.number, number) for w, number in survey.parts) if place not in chosen
    ]
    number = min(len(rest), most - len(chosen))
    offset = rng.random()
    for i in range(number):
        chosen[rest[int((i + offset) * len(rest) / number)]] = None
    return list(chosen)


def _part_with(window: Window, of: Any, rng: random.Random) -> int:
    """A part with rows of a style: its first or last one, or any between if it has them all."""
    apart = of.last - of.first + 1
    if (apart - 2) * window.shard_size < of.ok + of.errors:
        return rng.randint(of.first, of.last)
    return int(rng.choice((of.first, of.last)))


class _Reader:
    """Reads parts, each once.

    Args:
        there: the parts by place, with their windows.
        rows: about how many rows of all parts are read.
        parts: among how many parts these are shared.
    """

    def __init__(
        self,
        there: Mapping[Place, Window],
        job: Mapping[str, Any],
        rng: random.Random,
        rows: int,
        parts: int,
    ) -> None:
        self._there, self._rng = there, rng
        self._each = max(100, rows // parts)
        self._carried = [n for n in _STRATA if n in carried_schema(job).names]
        self.found: dict[Place, list[Row]] = {}
        self.footers: dict[Place, PartInfo] = {}
        self.damaged: set[str] = set()
        self.gone: set[str] = set()

    def read(self, places: Iterable[Place]) -> None:
        """Read the rows of parts."""
        wanted = [(place, self._rng.randrange(2**32)) for place in places]
        with ThreadPoolExecutor(THREADS) as pool:
            for (place, _), answer in zip(
                wanted, pool.map(lambda each: self._part(*each), wanted), strict=True
            ):
                if answer is None:
                    self.found[place] = []
                else:
                    self.footers[place], self.found[place] = answer

    def _part(self, place: Place, seed: int) -> tuple[PartInfo, list[Row]] | None:
        window, number = place
        uri = self._there[place].listed[number].uri
        try:
            with reading(uri, ["pair_id", *_COLUMNS, *self._carried]) as (file, info):
                groups = _groups(file, self._each, random.Random(seed))
                rows: list[Row] = []
                for group in groups:
                    # The ids stand before the pictures and the rest behind them, near the footer:
                    # read apart, each takes a request at most.
                    rest = _table(read_batches(uri, file, self._names, groups=[group]))
                    ids = _table(read_batches(uri, file, ["pair_id"], groups=[group]))
                    rows += self._rows(ids, rest, {"uri": uri, "group": group, "window": window})
                return info, rows
        except (NotFound, Changed):
            self.gone.add(f"{storage.redact(uri)} was removed or replaced while it was read")
        except OutputError as error:
            self.damaged.add(f"{error}")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self.damaged.add(f"{damaged(uri, error)}")
        return None

    @property
    def _names(self) -> list[str]:
        return [*_COLUMNS, *self._carried]

    def _rows(self, ids: pa.Table, rest: pa.Table, more: Row) -> list[Row]:
        strata: dict[str, Sequence[str | None]] = {
            name: texts(rest[name]) or [None] * len(rest) for name in self._carried
        }
        own = table_rows(rest.drop_columns(self._carried).append_column("pair_id", ids["pair_id"]))
        return [
            {
                **row,
                **more,
                "style": style_key(row["style_uri"]),
                **{name: strata[name][i] if name in strata else None for name in _STRATA},
            }
            for i, row in enumerate(own)
        ]

    def between(self, windows: set[int]) -> list[Place]:
        """The parts halfway between two parts that were read, if their styles differ."""
        places: list[Place] = []
        for number in sorted(windows):
            read = sorted(p for w, p in self.found if w == number and self.found[w, p])
            there = sorted(p for w, p in self._there if w == number)
            position = {part: i for i, part in enumerate(there)}
            for a, b in itertools.pairwise(read):
                middle = (position[a] + position[b]) // 2
                differ = self.found[number, a][-1]["style"] != self.found[number, b][0]["style"]
                if differ and (number, there[middle]) not in self.found:
                    places.append((number, there[middle]))
        self._rng.shuffle(places)
        return places


def _table(batches: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(list(batches))


def _groups(file: pq.ParquetFile, most: int, rng: random.Random) -> list[int]:
    """Row groups of about `most` rows: one of each style that they begin with, then any."""
    number = file.num_row_groups
    rows = [file.metadata.row_group(i).num_rows for i in range(number)]
    if sum(rows) <= most:
        return list(range(number))
    wanted = max(1, most // max(rows))
    begins = _first_styles(file)
    fresh = [i for i in range(number) if i == 0 or begins[i] != begins[i - 1]]
    chosen = rng.sample(fresh, min(len(fresh), wanted))
    rest = sorted(set(range(number)) - set(chosen))
    chosen += rng.sample(rest, min(len(rest), wanted - len(chosen)))
    return sorted(chosen)


def _first_styles(file: pq.ParquetFile) -> list[Any]:
    """The least style of each row group, as Parquet's statistics give it."""
    first = file.metadata.row_group(0)
    paths = [first.column(i).path_in_schema for i in range(first.num_columns)]
    place = next((i for i, path in enumerate(paths) if path.startswith("style_uri.")), None)
    found = []
    for i in range(file.num_row_groups):
        statistics = None if place is None else file.metadata.row_group(i).column(place).statistics
        found.append(statistics.min if statistics is not None and statistics.has_min_max else None)
    return found


def by_strata(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """At most `most` rows: styles in turn, and of each style its labels and its errors in turn.

    If there are no more styles than `most`, all of them appear.
    """
    rng = random.Random(seed)
    styles: dict[str, dict[Any, list[Row]]] = {}
    for row in rows:
        stratum = (0, row["label"] or "") if row["status"] == "ok" else (1, "")
        styles.setdefault(row["style"], {}).setdefault(stratum, []).append(row)
    turns = [_in_turn(list(strata.items()), rng) for _, strata in sorted(styles.items())]
    rng.shuffle(turns)
    chosen: list[Row] = []
    for i in range(max(map(len, turns), default=0)):
        chosen += [turn[i] for turn in turns if i < len(turn)]
        if len(chosen) >= most:
            break
    return chosen[:most]


def _in_turn(strata: list[tuple[Any, list[Row]]], rng: random.Random) -> list[Row]:
    """The rows of one style: a picture of up to three labels, an error, pictures of the others."""
    rng.shuffle(strata)
    strata.sort(key=lambda each: each[0][0])  # errors last
    errors = [rows for stratum, rows in strata if stratum[0]]
    good = [rows for stratum, rows in strata if not stratum[0]]
    turns = [*good[:3], *errors, *good[3:]]
    for rows in turns:
        rng.shuffle(rows)
    return [
        rows[i] for i in range(max(map(len, turns), default=0)) for rows in turns if i < len(rows)
    ]
