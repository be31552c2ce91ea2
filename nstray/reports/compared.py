"""All that the comparison of two outputs shows: the same pairs under two settings."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nstray import storage
from nstray.config import result_defaults
from nstray.errors import UsageError
from nstray.output.folder import Output
from nstray.output.histograms import VALUES, row_values
from nstray.reports import counts, gather
from nstray.reports.report_data import (
    Compare,
    ComparedLoss,
    ComparedPair,
    ComparedSide,
    PairShown,
    Sampled,
)
from nstray.reports.sampling import MOST_PARTS, Place, Row, Sample, by_strata, draw
from nstray.reports.statistics import UNITS, style_names
from nstray.reports.survey import Survey, survey

PAIRS = 40  # shown
_SAMPLED_PARTS = 60  # of the left side, if either is too large to be read whole
# Settings that change neither what a loss measures nor how it is scaled.
_SAME_LOSS = frozenset(
    (
        *("evaluations", "optimizer", "learning_rate", "init", "coarse", "seed", "dtype"),
        *("image_format", "quality", "shard_size", "max_bytes", "max_pixels", "range_weight"),
        "value_range",
    )
)
# Those that weigh the terms: the terms themselves, without their weights, still compare.
_WEIGHTS = frozenset(("content_weight", "style_weight", "tv_weight"))


@dataclass(frozen=True)
class _Side:
    out: str
    output: Output
    job: dict[str, Any]
    found: Survey


def gather_compare(
    left: str, right: str, *, seed: int = 0, limit: int = PAIRS, title: str | None = None
) -> Compare:
    """Read what a comparison of two outputs shows.

    Pairs are joined on their ids or, if the outputs have no id in common, on content and style. Of
    large outputs a sample of the left one is looked up in the right one. Raises `UsageError` if
    both are one output, `OutputError` if one of them has no job, and `StorageError` if a store is
    out of reach.

    Args:
        seed: of the sample.
        limit: pairs that are shown at most.
    """
    sides = [_side(out, seed) for out in (left, right)]
    if sides[0].output.out == sides[1].output.out:
        raise UsageError(f"{sides[0].output}: a comparison takes two outputs; give another one")
    samples = _samples(sides[0], sides[1], seed)
    joined, joined_on = _join(samples[0].rows, samples[1].rows)
    keys = list(dict.fromkeys(a["style"] for a, _ in joined))
    styles = style_names(keys)
    names = [gather.Names(styles, gather.names_of(side.job, []).classes) for side in sides]
    chosen = {a["pair_id"] for a in by_strata([a for a, _ in joined], limit, seed)}
    rows = [(a, b) for a, b in joined if a["pair_id"] in chosen]
    # The right one's styles may have other references: the pair has the left one's name.
    pictures = [
        gather.pairs_shown(
            [{**pair[i], "style": pair[0]["style"]} for pair in rows],
            samples[i].rows,
            sides[i].job,
            names[i],
            {},
            2,
        )
        for i in (0, 1)
    ]
    pairs = tuple(map(_pair, pictures[0], pictures[1]))
    settings = _differing(sides[0].job, sides[1].job)
    return Compare(
        title=_title(sides) if title is None else title,
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        left=_told(sides[0], samples[0]),
        right=_told(sides[1], samples[1]),
        settings=settings,
        joined_on=joined_on,
        styles=tuple(styles.values()),
        labels=tuple(sorted({pair.label for pair in pairs if pair.label is not None})),
        pairs=pairs,
        losses=tuple(_losses(joined, styles, _incomparable(sides[0].job, sides[1].job))),
        sample=_words(samples, joined, pairs, seed),
        seed=seed,
        shown=Sampled(len(pairs), len(joined)),
        notes=_notes(samples, joined, joined_on, pairs),
    )


def _side(out: str, seed: int) -> _Side:
    output = Output(out)
    job = output.job.read()
    return _Side(out, output, job, survey(output, job, seed))


def _title(sides: Sequence[_Side]) -> str:
    return " and ".join(storage.name(side.output.out) for side in sides)


def _samples(left: _Side, right: _Side, seed: int) -> list[Sample]:
    """Rows of both sides: all of small outputs, else a sample of the left and its pairs' parts."""
    if all(len(side.found.parts) <= MOST_PARTS // 2 for side in (left, right)):
        return [
            draw(side.found, side.job, seed=seed, rows=2**16, parts=MOST_PARTS)
            for side in (left, right)
        ]
    parts = _SAMPLED_PARTS
    if right.job["shard_size"] < left.job["shard_size"]:
        parts = max(8, parts * right.job["shard_size"] // left.job["shard_size"])
    first = draw(left.found, left.job, seed=seed, parts=parts, rows=parts * 100)
    sizes = left.job["shard_size"], right.job["shard_size"]
    places: dict[Place, None] = {}
    for window, number in sorted(first.footers):
        start, end = number * sizes[0], (number + 1) * sizes[0]
        places |= {(window, n): None for n in range(start // sizes[1], -(-end // sizes[1]))}
    second = draw(
        right.found, right.job, seed=seed, parts=MOST_PARTS, rows=2**15, places=list(places)
    )
    return [first, second]


def _join(left: Sequence[Row], right: Sequence[Row]) -> tuple[list[tuple[Row, Row]], str]:
    """Rows of the same pair, and what they were joined on."""
    by_id = {row["pair_id"]: row for row in right}
    joined = [(row, by_id[row["pair_id"]]) for row in left if row["pair_id"] in by_id]
    if joined:
        return joined, "pair_id"
    by_images: dict[Any, list[Row]] = {}
    for row in right:
        by_images.setdefault(_images(row), []).append(row)
    found = []
    for row in left:
        if others := by_images.get(_images(row)):
            found.append((row, others.pop(0)))
    return found, "content and style"


def _images(row: Row) -> tuple[Any, ...]:
    """A pair's images: their digests, or, of an error row, their names."""
    styles = row["style_sha256"] or row["style_uri"] or ()
    return row["content_sha256"] or row["content_uri"], *styles


def _pair(left: PairShown, right: PairShown) -> ComparedPair:
    content, style = left.content or right.content, left.style_image or right.style_image
    missing = {
        name: left.missing[name]
        for name, data in (("content", content), ("style_image", style))
        if data is None and name in left.missing
    }
    return ComparedPair(
        left.pair_id, left.style, left.label or right.label, content, style, left, right, missing
    )


def _differing(
    left: Mapping[str, Any], right: Mapping[str, Any]
) -> tuple[tuple[str, str, str], ...]:
    """The settings of two jobs that decide results and differ: name, left, right."""
    settings = [
        {**result_defaults(), **job["result"], "weights": job["weights_id"]}
        for job in (left, right)
    ]
    names = dict.fromkeys([*settings[0], *settings[1]])
    return tuple(
        (name, *(gather.setting(side.get(name)) for side in settings))
        for name in names
        if settings[0].get(name) != settings[1].get(name)
    )


def _incomparable(left: Mapping[str, Any], right: Mapping[str, Any]) -> set[str]:
    """The values that measure something else under the two settings."""
    differ = {name for name, _, _ in _differing(left, right)}
    if differ - _SAME_LOSS - _WEIGHTS:
        return {"ratio", "loss_content", "loss_style"}
    # The start of the curve is that of the initial picture.
    return {"ratio"} if differ & (_WEIGHTS | {"init", "range_weight", "value_range"}) else set()


def _losses(
    joined: Sequence[tuple[Row, Row]], styles: Mapping[str, str], incomparable: set[str]
) -> Iterator[ComparedLoss]:
    for name in VALUES:
        for key, style in styles.items():
            pairs = [(row_values(a), row_values(b)) for a, b in joined if a["style"] == key]
            both = [(a[name], b[name]) for a, b in pairs if name in a and name in b]
            if both:
                yield ComparedLoss(
                    name,
                    UNITS[name],
                    style,
                    Sampled(len(both), len(pairs)),
                    statistics.median(a for a, _ in both),
                    statistics.median(b for _, b in both),
                    sum(b < a for a, b in both),
                    name not in incomparable,
                )


def _told(side: _Side, sample: Sample) -> ComparedSide:
    outcomes = counts.outcomes(side.found, sample)
    return ComparedSide(
        str(side.output),
        gather.state(side.output, side.job, side.found, outcomes),
        side.job["rows"],
        side.found.rows_done,
        outcomes.ok,
        sum(outcomes.errors.values()),
        gather.header(side.job, side.found, sample),
    )


def _words(
    samples: Sequence[Sample],
    joined: Sequence[tuple[Row, Row]],
    pairs: Sequence[ComparedPair],
    seed: int,
) -> str:
    read = " and ".join(f"{len(s.rows):,} of {s.total:,} rows" for s in samples)
    return (
        f"{read} were read, left and right. {len(joined):,} pairs are in both; {len(pairs):,} of "
        f"them are shown, drawn by style, label and status; seed {seed}."
    )


def _notes(
    samples: Sequence[Sample],
    joined: Sequence[tuple[Row, Row]],
    joined_on: str,
    pairs: Sequence[ComparedPair],
) -> tuple[str, ...]:
    notes = [note for sample in samples for note in (*sample.damaged, *sample.gone)]
    if not joined and all(sample.rows for sample in samples):
        whole = all(sample.whole for sample in samples)
        notes.append(
            "The outputs have no pair in common: neither ids nor contents and styles agree"
            if whole
            else "No pair is in both samples: neither ids nor contents and styles agree"
        )
    elif joined_on != "pair_id" and joined:
        notes.append("The outputs have no pair id in common: pairs are joined on content and style")
    for side in ("left", "right"):
        for pair in pairs:
            shown: PairShown | None = getattr(pair, side)
            if shown is not None and shown.status == "ok" and "result" in shown.missing:
                why = shown.missing["result"]
                notes.append(f"The {side} picture of {pair.pair_id} can't be shown: {why}")
    return tuple(notes)
