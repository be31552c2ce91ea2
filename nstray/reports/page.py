"""A report and a comparison as one HTML file each, that needs no network."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2

from nstray.reports import charts, page_text
from nstray.reports.page_pictures import Pictures
from nstray.reports.report_data import Compare, ComparedPair, PairShown, Report
from nstray.text import counted, printable

LIMIT = 5_000_000  # bytes of a page
FIRST = 12  # pairs of a style that the gallery opens with
LONGEST = 14  # rows of a table that needs no box of its own to scroll in
_CUT = 600  # characters of one text: messages quote other programs
_FILES = resources.files("nstray.reports") / "html"


def render_report(report: Report) -> str:
    """The page of one output as HTML of at most 5 MB.

    If it were larger, pictures are left out, the last ones of each style first, and a note says so.
    """
    pairs = list(enumerate(report.pairs))
    wanted = [
        picture
        for pair in _by_turns(report.pairs)
        for picture in (pair.result, pair.content, pair.style_image)
    ]
    data = _plain(report)
    for of_pair, pair in zip(data["pairs"], report.pairs, strict=True):
        of_pair["facts"] = _plain(page_text.facts(pair))
    for band in data["curves"]:
        del band["samples"]  # the curves of the pairs that are shown are there
    values = {
        "report": report,
        "pairs": pairs,
        "by_id": {pair.pair_id: (index, pair) for index, pair in reversed(pairs)},
        "styles": _indexes(report.styles),
        "labels": _indexes(report.labels),
        "splits": _indexes(report.splits),
        "box_charts": [charts.boxes(d) for d in report.distributions],
        "curve_chart": charts.curves(report.curves),
        "speed_chart": charts.speed(report.speed),
    }
    return _within_limit("report.html.j2", wanted, report.notes, data, values)


def render_compare(compare: Compare) -> str:
    """The page of two outputs, pair by pair, as HTML of at most 5 MB.

    If it were larger, pictures are left out, the last ones of each style first, and a note says so.
    """
    wanted = [
        picture
        for pair in _by_turns(compare.pairs)
        for picture in (
            pair.left.result if pair.left else None,
            pair.right.result if pair.right else None,
            pair.content,
            pair.style_image,
        )
    ]
    values = {
        "compare": compare,
        "pairs": list(enumerate(compare.pairs)),
        "styles": _indexes(compare.styles),
        "labels": _indexes(compare.labels),
    }
    return _within_limit("compare.html.j2", wanted, compare.notes, _plain(compare), values)


def _within_limit(
    template: str,
    wanted: Sequence[bytes | None],
    notes: tuple[str, ...],
    data: dict[str, Any],
    values: Mapping[str, Any],
) -> str:
    """The page with as many of the `wanted` pictures as its size allows."""
    budget = math.inf
    while True:
        pictures = Pictures()
        left_out = pictures.fit(wanted, budget)
        said = notes
        if left_out:
            said += (
                f"{counted(left_out, 'picture')} of {pictures.asked:,} are left out: with them the "
                f"page would be larger than {LIMIT / 1e6:g} MB.",
            )
        page = _render(template, pictures, {**data, "notes": _plain(said)}, said, values)
        over = len(page.encode()) - LIMIT
        if over <= 0 or not pictures.bytes:
            return page
        budget = max(0, pictures.bytes - over)


def _render(
    template: str,
    pictures: Pictures,
    data: dict[str, Any],
    notes: Sequence[str],
    values: Mapping[str, Any],
) -> str:
    style, script = ((_FILES / name).read_text("utf-8") for name in ("page.css", "page.js"))
    text = _environment().get_template(template)
    page = text.render(
        **values,
        pictures=pictures,
        notes=notes,
        json=_json(data),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        first=FIRST,
        longest=LONGEST,
    )
    # A file's name may hold lone surrogates, which UTF-8 can't.
    return page.encode("utf-8", "replace").decode("utf-8")


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (_FILES / name).read_text("utf-8")),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(
        number=page_text.number,
        of=lambda sampled, noun="pair": page_text.of(sampled.n, sampled.total, noun),
        value_name=page_text.name_of,
        titled=lambda name: name if name.startswith("nstray") else name[:1].upper() + name[1:],
    )
    made.tests["contains"] = lambda values, value: value in values
    made.tests["numeral"] = lambda text: text.replace(",", "").replace(".", "", 1).isdigit()
    made.globals.update(share=page_text.share, text=page_text, ratio_name=page_text.NAMES["ratio"])
    return made


def _shown(value: object) -> object:
    """A text as a page shows it: redacted, of a bounded length, control characters as escapes."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return _cut(value)
    return "" if value is None else value


def _cut(text: str) -> str:
    return printable(text if len(text) <= _CUT else text[:_CUT] + " ...")


def _hash(text: str) -> str:
    """The word by which a Content-Security-Policy allows the style or script `text`."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _indexes(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def _by_turns(pairs: Iterable[Any]) -> list[Any]:
    """The first pair of each style, the second of each, and so on: what is last is left out first.

    Args:
        pairs: `PairShown` or `ComparedPair`.
    """
    seen: Counter[str] = Counter()
    order: list[tuple[int, PairShown | ComparedPair]] = []
    for pair in pairs:
        order.append((seen[pair.style], pair))
        seen[pair.style] += 1
    return [pair for _, pair in sorted(order, key=lambda item: item[0])]


def _plain(value: Any) -> Any:
    """`value` as JSON has it: without pictures; a number that is not finite is null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(v) for name, v in found if not isinstance(v, bytes)}
    if isinstance(value, dict):
        return {_cut(str(key)): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return _cut(value) if isinstance(value, str) else value


def _json(data: Any) -> str:
    """JSON that is no HTML: ``<``, ``>``, ``&`` and whatever is not ASCII as escapes."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
