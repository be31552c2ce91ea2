"""The data card: the README.md that travels with an output and tells ``datasets.load_dataset`` where the rows are."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nstray.output.records import Counts

_MARKER = re.compile(r"<!-- nstray card ([0-9a-f]{16})[^\n]*-->\n")
# Settings shown first, in this order; the others follow by name.
_FIRST = (
    "size",
    "size_rule",
    "evaluations",
    "optimizer",
    "init",
    "seed",
    "content_weight",
    "style_weight",
    "tv_weight",
    "loss_scale",
    "pooling",
)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def untouched(text: str) -> bool:
    """Whether `text` is a card of nstray that nobody has edited since, so that it may be replaced."""
    match = _MARKER.search(text)
    return match is not None and match[1] == _digest(text[: match.start()] + text[match.end() :])


def render(
    job: Mapping[str, Any], columns: Iterable[tuple[str, str, str]], counts: Counts | None
) -> str:
    """The card of `job`.

    Args:
        job: its record.
        columns: name, type and description of every column of the output.
        counts: what the whole job came to, or None while it runs.
    """
    head = (
        "---\n# license: (yours to choose: it depends on the pictures)\n"
        "configs:\n- config_name: default\n  data_files: data/*.parquet\ntags:\n- style-transfer\n---\n"
    )
    if counts is None:
        state = f"This job has {job['rows']:,} rows; it has not been completed yet."
    else:
        errors = ", ".join(f"{n:,} {code}" for code, n in sorted(counts.errors.items())) or "none"
        state = f"{counts.rows:,} rows: {counts.ok:,} pictures; error rows: {errors}."
    settings = dict(job["result"])
    ordered = [
        *(n for n in _FIRST if n in settings),
        *sorted(n for n in settings if n not in _FIRST),
    ]
    body = [
        "# A stylised dataset",
        "",
        state,
        "",
        "Each row is one pair of a content image and a style, made into one picture by the optimisation of Gatys, Ecker and Bethge",
        f"(arXiv 1508.06576), as computed by nstray {_cell(job['nstray_version'])}. A pair that could not be stylised has a row too: "
        "`status` is `error`, `image` is null, and `error_code` says why.",
        "",
        "```python",
        "import datasets",
        'rows = datasets.load_dataset("PATH_OF_THIS_FOLDER", split="train").filter(lambda s: s == "ok", input_columns="status")',
        "```",
        "",
        "## Columns",
        "",
        "| column | type | |",
        "|---|---|---|",
        *(f"| `{_cell(name)}` | {_cell(kind)} | {_cell(text)} |" for name, kind, text in columns),
        "",
        "## How it was made",
        "",
        "| setting | value |",
        "|---|---|",
        f"| weights | {_cell(job.get('weights') or '')} (`{_cell(job['weights_id'])}`) |",
        *(f"| {_cell(name)} | {_cell(settings[name])} |" for name in ordered),
        f"| manifest | {_cell(job.get('manifest') or '')} ({job['rows']:,} rows, `{_cell(job['manifest_digest'])}`) |",
        f"| fingerprint | `{_cell(job['fingerprint'])}` |",
        "",
    ]
    text = "\n".join(body)
    return f"{head}<!-- nstray card {_digest(head + text)}: written by nstray; edit it freely, an edited card is left alone -->\n{text}"
