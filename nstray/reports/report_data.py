"""What a report and a comparison show, as plain data: gathered by `gather`, drawn by `page`.

Losses of different styles are not comparable: whatever ranks rows ranks them within their style.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sampled:
    """A number that was taken from `n` of `total` rows; exact if both are equal."""

    n: int
    total: int


@dataclass(frozen=True)
class PairShown:
    """One row with its pictures (JPEG bytes, small); `missing` says why a picture is None."""

    pair_id: str
    style: str  # the style's name, as in `Report.styles`
    label: str | None
    split: str | None
    status: str  # ok or error
    error_code: str | None = None
    error_message: str | None = None
    width: int | None = None
    height: int | None = None
    loss_total: float | None = None
    loss_content: float | None = None
    loss_style: float | None = None
    ratio: float | None = None  # last / first value of the loss curve
    seconds: float | None = None
    evaluations: int | None = None
    curve: tuple[float, ...] = ()  # at most 64 points over the evaluations, first and last kept
    content: bytes | None = None
    style_image: bytes | None = None
    result: bytes | None = None
    missing: dict[str, str] = field(default_factory=dict)  # content, style_image, result -> reason
    why: tuple[str, ...] = ()  # gallery, worst, best, unmoved, failed


@dataclass(frozen=True)
class Box:
    """The distribution of a value over rows of one style."""

    style: str
    of: Sampled
    p10: float
    p25: float
    median: float
    p75: float
    p90: float
    low: float
    high: float


@dataclass(frozen=True)
class Distribution:
    """A value by style: ratio end/start, loss_content, loss_style, seconds."""

    name: str
    unit: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class CurveBand:
    """Losses over evaluations of one style, each curve divided by its first value."""

    style: str
    of: Sampled
    evaluations: tuple[int, ...]
    p10: tuple[float, ...]
    median: tuple[float, ...]
    p90: tuple[float, ...]
    samples: tuple[tuple[float, ...], ...]  # a few curves


@dataclass(frozen=True)
class Failure:
    """The error rows of one code, some of them as examples, and what to do about them."""

    code: str
    count: int
    of: Sampled
    examples: tuple[tuple[str, str], ...]  # pair_id, message
    advice: str  # what to do


@dataclass(frozen=True)
class SpeedLine:
    """Pairs per second of a worker over time; a gap is a pair of seconds without a commit."""

    worker: str
    device: str
    host: str
    points: tuple[tuple[float, float], ...]  # seconds since the first commit, pairs/s
    gaps: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Table:
    """Counts: by label, by split, by style, split x label.

    Above 50 values these are the 50 largest and the rest.
    """

    name: str
    of: Sampled
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    rest: str | None = None  # what the rest adds up to


@dataclass(frozen=True)
class Report:
    """All that the page of one output shows."""

    title: str
    out: str
    state: str  # complete, running, incomplete, failed, empty
    written_at: str  # ISO 8601
    rows_total: int
    rows_done: int
    ok: int
    errors: int
    sample: str  # how the sample was drawn: seed, n of N, by what strata
    seed: int
    shown: Sampled
    windows: Sampled  # windows read whole through an index / all
    header: tuple[tuple[str, str], ...]  # network, command, begun, ended, nstray version, ...
    settings: tuple[tuple[str, str, str], ...]  # those off their default: name, value, default
    cost: tuple[tuple[str, str, str], ...]  # name, what it took, what the probe had estimated
    styles: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    pairs: tuple[PairShown, ...]
    distributions: tuple[Distribution, ...]
    curves: tuple[CurveBand, ...]
    worst: dict[str, tuple[str, ...]]  # style -> pair_ids; by rank within the style alone
    best: dict[str, tuple[str, ...]]
    unmoved: tuple[str, ...]  # pair_ids whose loss hardly fell
    failures: tuple[Failure, ...]
    retry: str | None  # the command to type
    speed: tuple[SpeedLine, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()  # what could not be read or shown, and why


@dataclass(frozen=True)
class ComparedSide:
    """One of two outputs that are compared, and the settings of it that the other has not."""

    name: str
    state: str  # as in Report
    rows_total: int
    rows_done: int
    ok: int
    errors: int
    header: tuple[tuple[str, str], ...]  # network, begun, nstray version, ...


@dataclass(frozen=True)
class ComparedPair:
    """One content in one style under both settings; a side is None if it has no such row."""

    pair_id: str
    style: str
    label: str | None
    content: bytes | None
    style_image: bytes | None
    left: PairShown | None
    right: PairShown | None
    missing: dict[str, str] = field(default_factory=dict)  # content, style_image -> reason


@dataclass(frozen=True)
class ComparedLoss:
    """A value over the pairs that both sides have, of one style.

    `lower_right` counts the pairs whose value is lower on the right. `comparable` is False if the
    settings that differ change what the value measures: then only the pictures compare.
    """

    name: str  # ratio, loss_content, loss_style, seconds
    unit: str
    style: str
    of: Sampled
    median_left: float
    median_right: float
    lower_right: int
    comparable: bool = True


@dataclass(frozen=True)
class Compare:
    """All that the page of a comparison of two outputs shows."""

    title: str
    written_at: str  # ISO 8601
    left: ComparedSide
    right: ComparedSide
    settings: tuple[tuple[str, str, str], ...]  # those that differ: name, left, right
    joined_on: str  # pair_id, or content and style
    styles: tuple[str, ...]
    labels: tuple[str, ...]
    pairs: tuple[ComparedPair, ...]
    losses: tuple[ComparedLoss, ...]
    sample: str  # how the sample was drawn: seed, n of N
    seed: int
    shown: Sampled
    notes: tuple[str, ...] = ()
