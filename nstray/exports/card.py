"""The card of an export: its README.md, which says what is there and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nstray import storage
from nstray.errors import AlreadyExists
from nstray.exports.packing import FILES_PER_FOLDER
from nstray.exports.plan import ORIGINAL, Plan
from nstray.output.data_card import cell, column_table, how_made, marked
from nstray.output.schema import COLUMNS
from nstray.text import counted

_MEANINGS = {column.name: column.meaning for column in COLUMNS}
_ORIGINAL_MEANING = "whether the picture is a content as it was, not stylised"


def write(target: str, job: Mapping[str, Any], plan: Plan, counts: Mapping[str, Any]) -> None:
    """Write the card, unless somebody's own README.md is there."""
    text = render(job, plan, counts)
    try:
        storage.put_new(storage.join(target, "README.md"), text.encode())
    except AlreadyExists:
        return


def render(job: Mapping[str, Any], plan: Plan, counts: Mapping[str, Any]) -> str:
    """The text of the card.

    Args:
        counts: what `run_export` returns.
    """
    kind = plan.options.format
    pieces = [f"{counted(counts['images'], 'picture')}"]
    if counts["originals"]:
        pieces.append(f"of which {counted(counts['originals'], 'is', 'are')} not stylised")
    if plan.options.with_errors and counts["errors"]:
        pieces.append(f"and {counted(counts['errors'], 'error row')} without one")
    rows = [f"| {cell(name)} | {number:,} |" for name, number in sorted(counts["splits"].items())]
    body = [
        "# A stylised dataset",
        "",
        f"{', '.join(pieces)}, exported as {kind} from the output of nstray "
        f"{cell(job['nstray_version'])}: "
        "pictures made by the optimisation of Gatys, Ecker and Bethge (arXiv 1508.06576).",
        "",
        "| split | rows |",
        "|---|---|",
        *rows,
        "",
        _order(plan),
        "",
        *_loading(plan, counts),
    ]
    if kind != "imagefolder":
        body += column_table(_columns(plan))
    return marked(_head(plan, counts), "\n".join([*body, *how_made(job)]))


def _order(plan: Plan) -> str:
    if plan.options.format == "imagefolder":
        return "A loader has to shuffle."
    if plan.options.shuffle is None:
        return "Rows are in the order of the output, sorted by style: shuffle them."
    return f"Rows are shuffled within each split (seed {plan.options.shuffle})."


def _head(plan: Plan, counts: Mapping[str, Any]) -> str:
    lines = ["---", "# license: (yours to choose: it depends on the pictures)"]
    if plan.options.format == "parquet":
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in sorted(counts["splits"]):
            lines += [
                f'  - split: "{split}"',
                f"    path: {_glob(split, counts['files_of'][split])}",
            ]
    return "\n".join([*lines, "tags:", "- style-transfer", "---", ""])


def _glob(split: str, files: int) -> str:
    folders = "*/" if files > FILES_PER_FOLDER else ""
    return f"data/{folders}{split}-*-of-{files:05d}.parquet"


def _tars(split: str, files: int) -> str:
    """The tars of a split as webdataset takes them, which expands braces."""
    if files == 1:
        return f"{split}-000000.tar"
    if files <= FILES_PER_FOLDER:
        return f"{split}-{{000000..{files - 1:06d}}}.tar"
    whole, rest = divmod(files, FILES_PER_FOLDER)
    folders = [
        f"{i:05d}/{split}-{{{i * FILES_PER_FOLDER:06d}..{last:06d}}}.tar"
        for i in range(whole + (rest > 0))
        for last in [min((i + 1) * FILES_PER_FOLDER, files) - 1]
    ]
    return "::PATH_OF_THIS_FOLDER/".join(folders)


def _loading(plan: Plan, counts: Mapping[str, Any]) -> list[str]:
    split = "train" if "train" in counts["splits"] else sorted(counts["splits"])[0]
    match plan.options.format:
        case "parquet":
            code = [
                "import datasets",
                f'rows = datasets.load_dataset("PATH_OF_THIS_FOLDER", split="{split}")',
            ]
        case "webdataset":
            code = [
                "import webdataset",
                f'files = "PATH_OF_THIS_FOLDER/{_tars(split, counts["files_of"][split])}"',
                'rows = webdataset.WebDataset(files, shardshuffle=100).decode("pil")',
            ]
        case _:
            code = [
                "import torchvision",
                f'rows = torchvision.datasets.ImageFolder("PATH_OF_THIS_FOLDER/{split}")',
            ]
    return ["```python", *code, "```", ""]


def _columns(plan: Plan) -> list[tuple[str, str, str]]:
    found = []
    for field in plan.schema:
        kind = "image" if field.name == "image" else str(field.type)
        meaning = _MEANINGS.get(field.name, "from the manifest")
        if field.name in plan.joined:
            meaning = "from a joined table"
        elif field.name == ORIGINAL and plan.options.with_originals:
            meaning = _ORIGINAL_MEANING
        if plan.options.format != "webdataset" or field.name != "image":
            found.append((field.name, kind, meaning))
    return found
