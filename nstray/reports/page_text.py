"""Numbers and sentences of a report's pages."""

from __future__ import annotations

import math

from nstray.reports.report_data import Compare, PairShown, Report, Sampled
from nstray.text import counted

# What the names of values are called in front of people.
NAMES = {
    "ratio": "Last loss / first loss",
    "loss_total": "Loss",
    "loss_content": "Content loss",
    "loss_style": "Style loss",
    "seconds": "Seconds",
    "evaluations": "Evaluations",
}


def number(value: float | None) -> str:
    """A number with three digits: ``0.0123``, ``1.23``, ``1,234``, ``3.5e7``; ``?`` for none."""
    if value is None or not math.isfinite(value):
        return "?"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    if size >= 1000:
        return f"{value:,.0f}"
    places = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def of(n: int, total: int, noun: str = "pair") -> str:
    """``all 150 pairs``, or ``30 of 150 pairs``."""
    if n == total:
        return f"all {total:,} {noun}s" if total > 1 else counted(total, noun)
    return f"{n:,} of {counted(total, noun)}"


def share(n: int, total: int) -> str:
    """``n`` of ``total`` in percent; never 0 % or 100 % of what is more than none or not all."""
    if not total:
        return "0 %"
    percent = round(100 * n / total)
    if n and percent == 0:
        return "under 1 %"
    return "over 99 %" if n < total and percent == 100 else f"{percent} %"


def name_of(value: str) -> str:
    """What a value is called in front of people."""
    return NAMES.get(value, value)


def facts(pair: PairShown) -> list[tuple[str, str]]:
    """The values of a pair by name, those that it has."""
    found = [(name, text) for name, text in (("Label", pair.label), ("Split", pair.split)) if text]
    if pair.status != "ok":
        found += [("Error", pair.error_code or "unknown"), ("Message", pair.error_message or "")]
    if pair.width and pair.height:
        found.append(("Size", f"{pair.width} × {pair.height} px"))
    values = {
        "Last loss / first loss": number(pair.ratio) if pair.ratio is not None else None,
        "Loss": number(pair.loss_total) if pair.loss_total is not None else None,
        "Content loss": number(pair.loss_content) if pair.loss_content is not None else None,
        "Style loss": number(pair.loss_style) if pair.loss_style is not None else None,
        "Evaluations": f"{pair.evaluations:,}" if pair.evaluations is not None else None,
        "Seconds": number(pair.seconds) if pair.seconds is not None else None,
    }
    return found + [(name, text) for name, text in values.items() if text is not None]


def progress(report: Report) -> str:
    """What the state of a job means, in a sentence or two."""
    total = counted(report.rows_total, "pair")
    done = f"{report.rows_done:,} of {total}"
    left = report.rows_total - report.rows_done
    failed = f" {report.errors:,} of them failed." if report.errors else " None of them failed."
    if report.rows_total == 0:
        return "The job has no pairs: its manifest is empty."
    if report.state == "complete":
        return f"The job is complete: all {total} are done.{failed}"
    if report.state == "running":
        if not report.rows_done:
            return f"The job is running. None of its {total} is done yet."
        return f"The job is running: {done} are done, {left:,} are to come.{failed}"
    if report.state == "failed":
        return f"The job failed. {done} are done: {report.ok:,} ok, {report.errors:,} failed."
    if not report.rows_done:
        return f"The job is not running, and none of its {total} is done."
    return f"The job is not complete and not running: {done} are done, {left:,} are not.{failed}"


def windows(read: Sampled) -> str:
    """Which windows' numbers come from their index, and which from single rows."""
    if read.n == read.total:
        return f"The numbers of {of(read.n, read.total, 'window')} come from their indexes."
    if not read.n:
        return "No window has its index yet: rows were read instead."
    return (
        f"The numbers of {of(read.n, read.total, 'window')} come from their indexes; rows of the "
        "others were read."
    )


def compared(compare: Compare) -> str:
    """How many pairs both sides share and how they are joined."""
    joined = compare.joined_on.replace("_", " ")
    return f"{of(compare.shown.n, compare.shown.total)} that both outputs have, joined on {joined}."
