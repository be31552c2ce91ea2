"""All that the report of one output shows, read from its record, its indexes and a sample."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nstray import config, storage
from nstray.images import Pixels
from nstray.output import live_status, records
from nstray.output.folder import Output
from nstray.output.histograms import row_values
from nstray.output.schema import carried_schema, features
from nstray.reports import counts, statistics
from nstray.reports.pictures import INDEX_REQUESTS, Originals, content_digests, results
from nstray.reports.report_data import PairShown, Report, Sampled
from nstray.reports.sampling import Row, Sample, by_strata, draw
from nstray.reports.survey import Survey, survey
from nstray.reports.thumbnails import MOST_BYTES, SIDE, jpegs

GALLERY = 48  # pairs, without those that other sections show
_RANKED, _UNMOVED, _FAILED = 24, 6, 8  # pairs of the other sections, all styles together
_MOST_RANKS = 3  # worst and best pairs of a style
_STYLES = 500  # that are named
_SECONDS = 60.0  # an older live.json is of a run that was killed
_MESSAGE = 2000  # characters


@dataclass(frozen=True)
class Names:
    """What a report calls the styles and classes of an output."""

    styles: Mapping[str, str]
    classes: Mapping[str, Sequence[str] | None]

    def style(self, key: str) -> str:
        """The name of a style by its key."""
        return self.styles.get(key, key.replace("\n", " + "))

    def value(self, column: str, row: Row) -> str | None:
        """A row's label or split; of a ClassLabel its name."""
        text, known = row[column], self.classes.get(column)
        if text and known and text.isdecimal() and int(text) < len(known):
            return str(known[int(text)])
        return text or None


def gather(
    out: str,
    *,
    seed: int = 0,
    limit: int = GALLERY,
    cost: Sequence[tuple[str, str, str]] = (),
    title: str | None = None,
) -> Report:
    """Read what a report shows: the indexes of an output, and a sample of its rows.

    It takes at most 1,000 requests, however many rows there are. A part, a picture or an original
    that can't be read is noted, and the rest is shown. Raises `OutputError` if there is no job, and
    `StorageError` if the store is out of reach.

    Args:
        seed: of the sample.
        limit: pairs of the gallery at most.
        cost: rows of `Report.cost`.
    """
    output = Output(out)
    job = output.job.read()
    found = survey(output, job, seed)
    sample = draw(found, job, seed=seed)
    styles = counts.known_styles(found, sample)
    names = names_of(job, list(styles))
    kept = {key: names.styles[key] for key in list(styles)[:_STYLES]}
    values = statistics.StyleValues(found, sample, kept)
    outcomes = counts.outcomes(found, sample)
    speed, timed = counts.speed(found, sample)

    each = max(1, min(_MOST_RANKS, _RANKED // max(1, 2 * len(styles))))
    worst, best = statistics.ranked(sample.rows, each)
    ranked_styles = list(worst)[: _RANKED // 2]
    unmoved = statistics.unmoved(sample.rows, _UNMOVED)
    failed = [row for row in sample.rows if row["status"] != "ok"]
    why: dict[str, list[str]] = {}
    shown: dict[str, Row] = {}
    for word, rows in (
        ("gallery", by_strata(sample.rows, limit, seed)),
        ("worst", [row for key in ranked_styles for row in worst[key]]),
        ("best", [row for key in ranked_styles for row in best[key]]),
        ("unmoved", unmoved),
        ("failed", by_strata(failed, _FAILED, seed)),
    ):
        for row in rows:
            shown[row["pair_id"]] = row
            why.setdefault(row["pair_id"], []).append(word)
    pairs = pairs_shown(list(shown.values()), sample.rows, job, names, why)

    of_classes = {name: _named(sample, names, name) for name in ("label", "split")}
    return Report(
        title=storage.name(output.out) if title is None else title,
        out=str(output),
        state=state(output, job, found, outcomes),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows_total=job["rows"],
        rows_done=found.rows_done,
        ok=outcomes.ok,
        errors=sum(outcomes.errors.values()),
        sample=_words(sample, found, len(pairs)),
        seed=seed,
        shown=Sampled(len(pairs), found.rows_done),
        windows=Sampled(sum(w.index is not None for w in found.windows), found.all_windows),
        header=header(job, found, sample),
        settings=settings(job),
        cost=tuple(cost),
        styles=tuple(kept.values()),
        labels=of_classes["label"],
        splits=of_classes["split"],
        pairs=pairs,
        distributions=values.distributions(),
        curves=statistics.curve_bands(sample.rows, kept, values),
        worst={names.style(k): tuple(r["pair_id"] for r in worst[k]) for k in ranked_styles},
        best={names.style(k): tuple(r["pair_id"] for r in best[k]) for k in ranked_styles},
        unmoved=tuple(row["pair_id"] for row in unmoved),
        failures=counts.failures(outcomes, sample.rows),
        retry=f"nstray retry {shlex.quote(storage.redact(out))}" if outcomes.errors else None,
        speed=speed,
        tables=counts.tables(found, sample, names.style, names.classes),
        notes=_notes(job, found, sample, outcomes, values, timed, len(styles), pairs),
    )


def names_of(job: Mapping[str, Any], styles: Sequence[str]) -> Names:
    """What a report calls the styles of an output, and the classes of its labels and splits."""
    known = features(carried_schema(job))
    classes = {name: _classes(known.get(name)) for name in ("label", "split")}
    return Names(statistics.style_names(styles), classes)


def _classes(feature: Any) -> list[str] | None:
    """The names of a ClassLabel; None of anything else."""
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if sound else None


def _named(sample: Sample, names: Names, column: str) -> tuple[str, ...]:
    """The labels or splits of the sampled rows, the most frequent first."""
    found: dict[str, int] = {}
    for row in sample.rows:
        if (value := names.value(column, row)) is not None:
            found[value] = found.get(value, 0) + 1
    return tuple(sorted(found, key=lambda value: (-found[value], value)))


def pairs_shown(
    rows: Sequence[Row],
    sampled: Sequence[Row],
    job: Mapping[str, Any],
    names: Names,
    why: Mapping[str, Sequence[str]],
    outputs: int = 1,
) -> tuple[PairShown, ...]:
    """Rows with their pictures and originals as JPEGs; a style has the same bytes in each pair.

    Args:
        sampled: rows that may know the digests of originals that an error row lacks.
        outputs: among how many the bytes of a page are shared.
    """
    digests = content_digests(sampled)
    uris = {uri for row in rows for uri in (row["content_uri"], *(row["style_uri"] or ())) if uri}
    originals = Originals(str(job.get("base") or ""), SIDE, INDEX_REQUESTS)
    inputs = originals.read_all({uri: digests.get(uri) for uri in sorted(uris)})
    made = results(rows, SIDE)
    pixels: dict[str, Pixels] = {}
    for kind, found in (("result", made), ("input", inputs)):
        pixels |= {f"{kind} {k}": p for k, p in found.items() if not isinstance(p, str)}
    small = jpegs(pixels, MOST_BYTES // outputs)
    shown = []
    for row in rows:
        style = (row["style_uri"] or [None])[0]
        pictures = {
            "content": f"input {row['content_uri']}",
            "style_image": f"input {style}",
            "result": f"result {row['pair_id']}",
        }
        reasons = {
            "content": inputs.get(row["content_uri"] or "", "it has no content image"),
            "style_image": inputs.get(style or "", "it has no style image"),
            "result": made.get(row["pair_id"], "an error row has no picture"),
        }
        missing = {
            name: text
            for name, key in pictures.items()
            if key not in small and isinstance(text := reasons[name], str)
        }
        shown.append(
            PairShown(
                **facts(row, names),
                content=small.get(pictures["content"]),
                style_image=small.get(pictures["style_image"]),
                result=small.get(pictures["result"]),
                missing=missing,
                why=tuple(why.get(row["pair_id"], ())),
            )
        )
    return tuple(shown)


def facts(row: Row, names: Names) -> dict[str, Any]:
    """The fields of a `PairShown` that are no pictures."""
    message = row["error_message"]
    return {
        "pair_id": row["pair_id"],
        "style": names.style(row["style"]),
        "label": names.value("label", row),
        "split": names.value("split", row),
        "status": "ok" if row["status"] == "ok" else "error",
        "error_code": row["error_code"],
        "error_message": message and message[:_MESSAGE],
        "ratio": row_values(row).get("ratio"),
        "curve": statistics.curve_of(row),
        **{
            name: row[name]
            for name in (
                *("width", "height", "loss_total", "loss_content", "loss_style"),
                *("seconds", "evaluations"),
            )
        },
    }


def state(output: Output, job: Mapping[str, Any], found: Survey, outcomes: counts.Outcomes) -> str:
    """Where a job stands, in one of the words of `Report.state`."""
    live = live_status.read(output)
    running = live is not None and (datetime.now(UTC) - live.written_at).total_seconds() <= _SECONDS
    if running:
        return "running"
    if not found.rows_done:
        return "empty"
    if not outcomes.ok:
        return "failed"
    everything = found.rows_done >= job["rows"] or found.all_windows > len(found.windows)
    return "complete" if everything and output.summary.read() is not None else "incomplete"


def _words(sample: Sample, found: Survey, shown: int) -> str:
    closed = sum(window.index is not None for window in found.windows)
    text = (
        f"{sample.words[0].upper()}{sample.words[1:]}. Of them {shown:,} are shown, drawn by "
        f"style, label and status; seed {sample.seed}."
    )
    if not sample.whole:
        text += (
            f" Counts come from the indexes of {closed:,} of {found.all_windows:,} windows; "
            "other windows are sampled."
        )
    return text


def header(job: Mapping[str, Any], found: Survey, sample: Sample) -> tuple[tuple[str, str], ...]:
    """What the record says of a job, and when its rows were made."""
    indexes = [window.index for window in found.windows if window.index is not None]
    footers = [part.footer for part in sample.footers.values()]
    times = [*indexes, *footers]
    began = [t for i in times if (t := records.unix_seconds(i.get("started"))) is not None]
    ended = [t for i in times if (t := records.unix_seconds(i.get("finished"))) is not None]
    given = (
        ("network", job.get("weights")),
        ("network id", job["weights_id"]),
        ("manifest", job.get("manifest")),
        ("command", job.get("command")),
        ("begun", job.get("created_at")),
        ("first part begun", records.iso_time(min(began, default=None))),
        ("last part finished", records.iso_time(max(ended, default=None))),
        ("shard size", str(job["shard_size"])),
        ("nstray version", job.get("nstray_version")),
        ("fingerprint", job["fingerprint"]),
    )
    return tuple((name, storage.redact(str(value))) for name, value in given if value)


def settings(job: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """The settings of a job that are not at their default: name, value, default."""
    usual = config.make({}).model_dump(mode="json")
    there = records.known_settings(job)
    return tuple(
        (name, setting(value), setting(usual[name]))
        for name, value in there.items()
        if value != usual[name]
    )


def setting(value: Any) -> str:
    """A setting's value as the command line has it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else storage.redact(str(value))


def _notes(
    job: Mapping[str, Any],
    found: Survey,
    sample: Sample,
    outcomes: counts.Outcomes,
    values: statistics.StyleValues,
    timed: float,
    styles: int,
    pairs: Sequence[PairShown],
) -> tuple[str, ...]:
    """What could not be read or shown, and why; and what is an estimate."""
    notes = [*sample.damaged, *sample.gone]
    if len(found.windows) < found.all_windows:
        notes.append(
            f"{len(found.windows):,} of {found.all_windows:,} windows were looked at: all numbers "
            "are of their rows"
        )
    counted = outcomes.counted
    if counted.n < counted.total:
        notes.append(
            f"Good rows and error rows were counted in {counted.n:,} of the {counted.total:,} rows "
            "that are there: windows that are still open are sampled"
        )
    if values.estimated:
        notes.append("How many rows a style has in windows that are sampled is an estimate")
    if 0 < timed < 1:
        notes.append(
            f"The speed is of parts with {timed:.0%} of the rows; they stand for the others of "
            "their windows"
        )
    if styles > _STYLES:
        notes.append(f"The {_STYLES} styles with the most rows are named, of {styles:,}")
    for name, what in (("content", "content images"), ("style_image", "style images")):
        reasons = [pair.missing[name] for pair in pairs if name in pair.missing]
        if reasons:
            notes.append(
                f"{len(reasons)} of {len(pairs)} {what} can't be shown, the first because "
                f"{reasons[0]}"
            )
    broken = [p for p in pairs if p.status == "ok" and "result" in p.missing]
    notes += [f"The picture of {p.pair_id} can't be shown: {p.missing['result']}" for p in broken]
    return tuple(notes)
