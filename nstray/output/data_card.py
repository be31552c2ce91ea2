"""The data card: an output's README.md. It tells ``datasets.load_dataset`` where rows are."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nstray import storage
from nstray.engine.settings import BLOCK_WIDTHS
from nstray.errors import AlreadyExists
from nstray.output.paths import read_file
from nstray.output.records import Counts
from nstray.output.schema import COLUMNS, carried_schema
from nstray.text import counted

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


class Card:
    """The card of one output."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def write(self, job: Mapping[str, Any], counts: Counts | None = None) -> bool:
        """Write the card of the record `job`; False if one that somebody wrote or edited stays.

        Args:
            counts: what the job adds up to, once it is complete.
        """
        columns = [
            (name, "image" if name == "image" else str(kind), text) for name, kind, text in COLUMNS
        ]
        columns += [(f.name, str(f.type), "from the manifest") for f in carried_schema(job)]
        text = render(job, columns, counts).encode()
        try:
            storage.put_new(self._uri, text)
            return True
        except AlreadyExists:
            there = read_file(self._uri) or b""
        if not untouched(there.decode("utf-8", "replace")):
            return False
        storage.put_over(self._uri, text)
        return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cell(value: Any) -> str:
    """A value as the text of a cell of a table."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def untouched(text: str) -> bool:
    """Whether `text` is a card of nstray that nobody has edited, so that it may be replaced."""
    match = _MARKER.search(text)
    return match is not None and match[1] == _digest(text[: match.start()] + text[match.end() :])


def _carried_changes(job: Mapping[str, Any]) -> list[str]:
    """Lines that say when the manifest's own columns got other values; none if they never did."""
    if not (times := job.get("carried_changes")):
        return []
    return [
        "",
        f"Columns from the manifest got other values on {cell(', '.join(times))}. Each row has "
        "the values of the time at which it was made (`created_at`).",
    ]


def _network(job: Mapping[str, Any]) -> list[str]:
    """Lines that say if the features are not those of a VGG-19 of full width; else none."""
    widths = tuple(job.get("widths") or ())
    if job.get("weights") == "random":
        what = "a VGG-19 whose filters are random, not trained"
    elif widths and widths != BLOCK_WIDTHS[: len(widths)]:
        filters = cell("-".join(map(str, widths)))
        what = f"a VGG-19 of other widths ({filters} filters a block), not those of VGG-19 itself"
    else:
        return []
    return [
        "",
        f"The features are those of {what}: losses are not comparable with those of others.",
    ]


def render(
    job: Mapping[str, Any], columns: Iterable[tuple[str, str, str]], counts: Counts | None
) -> str:
    """The text of a card.

    Args:
        job: the job's record.
        columns: name, type and description of every column of the output.
        counts: what the whole job adds up to, or None while it runs.
    """
    head = (
        "---\n# license: (yours to choose: it depends on the pictures)\n"
        "configs:\n- config_name: default\n  data_files: data/*.parquet\n"
        "tags:\n- style-transfer\n---\n"
    )
    if counts is None:
        state = f"This job has {counted(job['rows'], 'row')}; it has not been completed yet."
    else:
        errors = ", ".join(f"{n:,} {code}" for code, n in sorted(counts.errors.items())) or "none"
        state = (
            f"{counted(counts.rows, 'row')}: {counted(counts.ok, 'picture')}; error rows: {errors}."
        )
    load = (
        'rows = datasets.load_dataset("PATH_OF_THIS_FOLDER", split="train")'
        '.filter(lambda s: s == "ok", input_columns="status")\n'
        "rows = rows.shuffle(seed=0)  # they are sorted by style"
    )
    body = [
        "# A stylised dataset",
        "",
        state,
        *_carried_changes(job),
        "",
        "Each row is one pair of a content image and a style, made into one picture by the "
        "optimisation of Gatys, Ecker and Bethge",
        f"(arXiv 1508.06576), as computed by nstray {cell(job['nstray_version'])}. "
        "A pair that could not be stylised has a row too: "
        "`status` is `error`, `image` is null, and `error_code` says why.",
        *_network(job),
        "",
        "```python",
        "import datasets",
        load,
        "```",
        "",
        "**Shuffle before training**: rows are sorted by style, within each 65,536 rows of the "
        "manifest. `nstray export --format parquet` writes them shuffled, with splits.",
        "",
        *column_table(columns),
        *how_made(job),
    ]
    return marked(head, "\n".join(body))


def column_table(columns: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lines of a table of columns: name, type and description of each."""
    return [
        "## Columns",
        "",
        "| column | type | |",
        "|---|---|---|",
        *(f"| `{cell(name)}` | {cell(kind)} | {cell(text)} |" for name, kind, text in columns),
        "",
    ]


def _named(uri: object) -> str:
    """A manifest or weights for the card: of a local path its name, since cards are published."""
    text = str(uri or "")
    local = text.startswith(("/", "file://"))
    return cell(text.rpartition("/")[2] if local else text)


def how_made(job: Mapping[str, Any]) -> list[str]:
    """Lines of a table of a job's settings."""
    settings = dict(job["result"])
    ordered = [
        *(n for n in _FIRST if n in settings),
        *sorted(n for n in settings if n not in _FIRST),
    ]
    manifest = f"{_named(job.get('manifest'))} ({counted(job['rows'], 'row')}, "
    return [
        "## How it was made",
        "",
        "| setting | value |",
        "|---|---|",
        f"| weights | {_named(job.get('weights'))} (`{cell(job['weights_id'])}`) |",
        *(f"| {cell(name)} | {cell(settings[name])} |" for name in ordered),
        f"| manifest | {manifest}`{cell(job['manifest_digest'])}`) |",
        f"| fingerprint | `{cell(job['fingerprint'])}` |",
        "",
    ]


def marked(head: str, text: str) -> str:
    """A card with the mark by which `untouched` knows it."""
    marker = (
        f"<!-- nstray card {_digest(head + text)}: written by nstray; "
        "edit it freely, an edited card is left alone -->\n"
    )
    return f"{head}{marker}{text}"
