"""Counts of an output: by style, label and split, by error code, and by time and worker."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nstray.output import histograms
from nstray.output.histograms import Finished
from nstray.reports.report_data import Failure, Sampled, SpeedLine, Table
from nstray.reports.sampling import Row, Sample
from nstray.reports.survey import Survey, Window
from nstray.text import counted

MOST = 50  # values of a table
WORKERS = 24  # lines of the speed
POINTS = 60  # of a line
EXAMPLES = 3  # of an error code
_GAP = 5.0  # medians of the time between two commits
_MEND = {
    "not_found": "The picture's file is missing: put it there or mend the manifest, then retry.",
    "access_denied": "The credentials do not allow reading the picture: mend them, then retry.",
    "fetch_failed": "The store did not give the picture: retry once it answers.",
    "source_changed": "An archive has changed since the manifest was built: build the manifest "
    "again, or restore the archive, then retry.",
    "bad_archive": "An archive is truncated or damaged: replace it, then retry.",
    "empty_file": "The picture's file is empty: replace it, then retry.",
    "too_many_bytes": "The file is larger than max_bytes: make it smaller, or leave the pair out.",
    "too_many_pixels": "The picture has more than max_pixels: make it smaller, or leave it out.",
    "not_an_image": "The file is no picture: replace it, or leave the pair out.",
    "unsupported_format": "The format is not read: convert the picture, then retry.",
    "decode_failed": "The picture is truncated or damaged: replace it, then retry.",
    "too_small": "The picture is too small for the network: take a larger one.",
    "bad_mask": "The mask does not fit its picture: mend it, then retry.",
    "out_of_memory": "The pair does not fit the device: retry on one with more memory.",
    "diverged": "The loss was not finite: look at the pair's own settings.",
    "worker_died": "The pair killed its worker twice: look at the workers' logs.",
    "timed_out": "The pair made no progress before its deadline: retry on a faster device.",
    "internal": "An unexpected error: retry; if it stays, report it with its message.",
}


@dataclass(frozen=True)
class Outcomes:
    """Good rows and error rows, as far as they are known without reading each row.

    Attributes:
        counted: number of rows that were counted, of those that are there.
    """

    ok: int
    errors: dict[str, int]
    counted: Sampled


def outcomes(survey: Survey, sample: Sample) -> Outcomes:
    """Rows by outcome: of closed windows by their indexes, of others by the footers read."""
    ok = 0
    errors: Counter[str] = Counter()
    whole = set()
    for window in survey.windows:
        if window.index is not None:
            ok += window.index["ok"]
            errors.update(window.index["errors"])
            whole.add(window.number)
    for (number, _), part in sample.footers.items():
        if number not in whole:
            ok += part.ok
            errors.update(part.errors)
    known = ok + sum(errors.values())
    return Outcomes(ok, dict(errors), Sampled(known, max(known, sample.total)))


def failures(found: Outcomes, rows: Sequence[Row]) -> tuple[Failure, ...]:
    """The error rows by code, the most frequent first, with examples among the sampled rows."""
    return tuple(
        Failure(
            code,
            number,
            found.counted,
            tuple(
                (row["pair_id"], row["error_message"] or "")
                for row in [row for row in rows if row["error_code"] == code][:EXAMPLES]
            ),
            _MEND.get(code, "Look at the messages, then retry."),
        )
        for code, number in sorted(found.errors.items(), key=lambda each: (-each[1], each[0]))
    )


def tables(
    survey: Survey,
    sample: Sample,
    style_name: Callable[[str], str],
    names: Mapping[str, Sequence[str] | None],
) -> tuple[Table, ...]:
    """The counts by style, label, split, and split and label, as far as rows have them.

    Args:
        names: of the classes of ``label`` and ``split``, if their numbers have names.
    """

    def value(column: str) -> Callable[[str], str]:
        known = names.get(column)

        def named(text: str) -> str:
            if known and text.isdecimal() and int(text) < len(known):
                return known[int(text)]
            return text or "none"

        return named

    label, split = value("label"), value("split")
    found = [_style_table(survey, sample, style_name)]
    if any(row["label"] is not None for row in sample.rows):
        counts, of = _counts(survey, sample, "labels", lambda row: row["label"])
        found.append(
            _table("by label", of, ("label", "rows"), {(label(k),): n for k, n in counts.items()})
        )
    if any(row["split"] is not None for row in sample.rows):
        counts, of = _counts(survey, sample, "splits", lambda row: row["split"])
        found.append(
            _table("by split", of, ("split", "rows"), {(split(k),): n for k, n in counts.items()})
        )
    if any(row["split"] is not None and row["label"] is not None for row in sample.rows):
        counts, of = _counts(
            survey, sample, "split_labels", lambda row: f"{row['split']}\t{row['label']}"
        )
        pairs: dict[tuple[str, ...], int] = {}
        for key, number in counts.items():
            first, _, second = key.partition("\t")
            pairs[split(first), label(second)] = number
        found.append(_table("by split and label", of, ("split", "label", "rows"), pairs))
    return tuple(table for table in found if table.rows)


def _counts(
    survey: Survey, sample: Sample, table: str, key: Callable[[Row], str | None]
) -> tuple[Counter[str], Sampled]:
    """Rows by value: of windows whose index has them all, of others those of the sample."""
    counts: Counter[str] = Counter()
    whole = set()
    for window in () if sample.whole else survey.windows:
        found = getattr(window.small, table) if window.small is not None else None
        if found is not None:
            counts.update(found)
            whole.add(window.number)
    counts.update(key(row) or "" for row in sample.rows if row["window"] not in whole)
    known = sum(counts.values())
    return counts, Sampled(known, max(known, sample.total))


def _style_table(survey: Survey, sample: Sample, style_name: Callable[[str], str]) -> Table:
    ok: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    whole = set()
    for window in () if sample.whole else survey.windows:
        styles = window.small.styles if window.small is not None else None
        if styles is not None:
            ok.update({key: of.ok for key, of in styles.items()})
            errors.update({key: of.errors for key, of in styles.items()})
            whole.add(window.number)
    for row in sample.rows:
        if row["window"] not in whole:
            (ok if row["status"] == "ok" else errors)[row["style"]] += 1
    rows = {key: ok[key] + errors[key] for key in {*ok, *errors}}
    known = sum(rows.values())
    table = _table(
        "by style",
        Sampled(known, max(known, sample.total)),
        ("style", "rows", "ok", "errors"),
        {(key,): number for key, number in rows.items()},
    )
    cells = [
        (style_name(key), number, f"{ok[key]:,}", f"{errors[key]:,}") for key, number in table.rows
    ]
    return Table(table.name, table.of, table.columns, tuple(cells), table.rest)


def _table(
    name: str, of: Sampled, columns: tuple[str, ...], counts: Mapping[tuple[str, ...], int]
) -> Table:
    """The `MOST` largest of counts, and what the rest adds up to."""
    largest = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    rest = largest[MOST:]
    words = None
    if rest:
        rows = sum(number for _, number in rest)
        words = f"and {counted(len(rest), 'other')} with {counted(rows, 'row')}"
    return Table(
        name, of, columns, tuple((*key, f"{number:,}") for key, number in largest[:MOST]), words
    )


def speed(survey: Survey, sample: Sample) -> tuple[tuple[SpeedLine, ...], float]:
    """Pairs per second by worker, the busiest first; and the share of the rows that they are of.

    Windows whose index says when its parts were finished are taken whole. Of the others the footers
    that were read stand for all.
    """
    lines: dict[str, list[Finished]] = {}
    seen = 0.0
    whole = set()
    for window in survey.windows:
        if window.small is not None and window.small.finished:
            whole.add(window.number)
            seen += window.rows_done
            for name, of in window.small.finished.items():
                lines.setdefault(name, []).append(of)
    for window in survey.windows:
        footers = [p for (number, _), p in sample.footers.items() if number == window.number]
        if window.number in whole or not footers:
            continue
        rows = sum(part.rows for part in footers)
        seen += rows
        scale = window.rows_done / rows
        given = [{**part.footer, "rows": round(part.rows * scale)} for part in footers]
        for name, of in histograms.finished(given).items():
            lines.setdefault(name, []).append(of)
    if not lines:
        return (), 0.0
    begin = min(of.begin for each in lines.values() for of in each)
    end = max(of.begin + of.step * len(of.rows) for each in lines.values() for of in each)
    busiest = sorted(lines, key=lambda name: -sum(sum(of.rows) for of in lines[name]))
    found = tuple(
        _line(name, lines[name], begin, max(1.0, (end - begin) / POINTS))
        for name in busiest[:WORKERS]
    )
    return found, seen / max(1, sample.total)


def _line(name: str, of: Sequence[Finished], begin: float, step: float) -> SpeedLine:
    """A worker's line: each bin of `step` seconds has its rows by second."""
    rates: dict[int, float] = {}
    times = []
    for each in of:
        for i, number in enumerate(each.rows):
            if number:
                start = each.begin + i * each.step - begin
                times.append(start)
                for place, share in _shares(start, each.step, step):
                    rates[place] = rates.get(place, 0.0) + number * share / step
    times.sort()
    last = max(rates, default=0)
    points = tuple(
        (round((i + 0.5) * step, 1), float(f"{rates.get(i, 0.0):.4g}")) for i in range(last + 1)
    )
    return SpeedLine(name, of[0].device, of[0].host, points, tuple(_gaps(times, step)))


def _shares(start: float, length: float, step: float) -> Iterable[tuple[int, float]]:
    """The bins of `step` seconds that a stretch of time covers, and the share of it in each."""
    first, end = int(start / step), start + length
    for place in range(first, int(end / step) + 1):
        inside = min(end, (place + 1) * step) - max(start, place * step)
        if inside > 0:
            yield place, inside / length


def _gaps(times: Sequence[float], step: float) -> Iterable[tuple[float, float]]:
    """Stretches without a commit, far longer than is usual for the worker."""
    between = [b - a for a, b in itertools.pairwise(times) if b > a]
    if len(between) < 3:
        return
    limit = max(_GAP * statistics.median(between), 2 * step)
    for a, b in itertools.pairwise(times):
        if b - a > limit:
            yield round(a, 1), round(b, 1)


def known_styles(survey: Survey, sample: Sample) -> dict[str, int]:
    """Every style that indexes or sampled rows name, with its rows there."""
    counts: Counter[str] = Counter()
    whole = set()
    for window in survey.windows:
        for key, of in _styles(window).items():
            counts[key] += of.ok + of.errors
            whole.add(window.number)
    counts.update(row["style"] for row in sample.rows if row["window"] not in whole)
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _styles(window: Window) -> Mapping[str, histograms.StyleCounts]:
    return (window.small.styles if window.small else None) or {}
