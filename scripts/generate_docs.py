"""Writes docs/reference/settings.md and docs/reference/cli.md from the code.

python scripts/generate_docs.py            write both pages
python scripts/generate_docs.py --check    exit code 1 if a page is not what the code says; writes nothing
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from nstray import cli
from nstray.commands import options
from nstray.config import ROW_FIELDS, RUN_FIELDS, JobConfig

GROUPS: Mapping[str, tuple[str, ...]] = {title: tuple(names.split()) for title, names in options.GROUPS.items()}
FOLDER = Path(__file__).parent.parent / "docs" / "reference"
NOTICE = "<!-- scripts/generate_docs.py writes this page. Change the code, not the page. -->"
COLUMNS = 100
KINDS: Mapping[Any, str] = {bool: "yes or no", int: "whole number", float: "number", str: "text"}


def prose(*sentences: str) -> str:
    """One paragraph, wrapped."""
    return textwrap.fill(" ".join(sentences), COLUMNS, break_long_words=False, break_on_hyphens=False)


def cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def kind(name: str, annotation: Any) -> str:
    """What a setting takes: its words, or the kind of its value."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    if name == "size":
        return "whole number, `original`, or `WIDTHxHEIGHT`"
    if name == "shard_size":
        return "whole number, or `auto`"
    if name == "column_types":
        return "`NAME=TYPE`, comma-separated"
    if get_origin(annotation) is tuple:
        return "layers, comma-separated" if get_args(annotation)[0] is str else "numbers, comma-separated"
    while get_args(annotation):  # Annotated[int, ...] | None is int
        annotation = get_args(annotation)[0]
    return KINDS[annotation]


def default(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def changes(name: str) -> str:
    """Where a setting may be given besides the job: per row; or whether it may differ on a resume."""
    return "row" if name in ROW_FIELDS else "run" if name in RUN_FIELDS else ""


def settings_page() -> str:
    lines = [
        "# Settings reference",
        NOTICE,
        prose(
            "Each setting is an option (`--style-weight`) and a key of `--config job.yaml` (`style_weight`).",
            "The page [Settings](../settings.md) goes by task.",
        ),
        prose(
            "The column *may change* says `row` if a manifest column of the same name may set it for one row.",
            "It says `run` if a resume may have another value. Every other setting belongs to the job.",
        ),
    ]
    for title, names in GROUPS.items():
        rows = ["| setting | takes | default | may change | |", "|---|---|---|---|---|"]
        for name in names:
            field = JobConfig.model_fields[name]
            cells = (f"`{name}`", kind(name, field.annotation), default(field.default), changes(name), cell(field.description or ""))
            rows.append(f"| {' | '.join(cells)} |")
        lines += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(lines) + "\n"


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below `group` that is no group itself and not hidden, with the words that call it, in the order of the help."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def paragraphs(text: str) -> Iterator[str]:
    """A help text as Markdown. A paragraph behind click's backspace mark keeps its lines."""
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines()]
        yield "\n".join(["```text", *lines[1:], "```"]) if lines[0] == "\b" else prose(*lines)


def metavar(option: click.Option) -> str:
    """What stands for the option's value, the same under every version of click."""
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return " " + " or ".join(map(str, option.type.choices))
    words = option.metavar or ("INT" if isinstance(option.type, click.types.IntParamType) else "TEXT")
    return " " + words.replace("|", " or ")  # inside a table, Markdown has no spelling of | that every renderer shows right


def is_setting(option: click.Option) -> bool:
    """Whether an option is the job's setting of that name, and not the command's own of the same name."""
    field = JobConfig.model_fields.get(option.name or "")
    return field is not None and (option.help or "").startswith(field.description or "-")


def options_table(options: Iterable[click.Option]) -> str:
    rows = ["| option | |", "|---|---|"]
    for option in options:
        names = ", ".join(f"`{name}{metavar(option)}`" for name in (*option.opts, *option.secondary_opts))
        notes = [cell(option.help or "")]
        if option.required:
            notes.append("required")
        elif option.show_default:
            notes.append(f"default: `{option.default}`")
        rows.append(f"| {names} | {'; '.join(notes)} |")
    return "\n".join(rows)


def cli_page() -> str:
    lines = [
        "# Command reference",
        NOTICE,
        prose("`nstray COMMAND --help` prints the same. Paths may be local or `s3://`. [Resume](../resume.md#exit-codes) has the exit codes."),
    ]
    for path, command in commands(cli.cli, ("nstray",)):
        arguments = [p.metavar or (p.name or "").upper() for p in command.params if isinstance(p, click.Argument)]
        options = [p for p in command.params if isinstance(p, click.Option)]
        settings = [p for p in options if is_setting(p)]
        own = [p for p in options if p not in settings]
        lines += [f"## {' '.join(path)}", "\n".join(["```text", " ".join([*path, *(["[OPTIONS]"] if options else []), *arguments]), "```"])]
        lines += paragraphs(command.help or "")
        if own:
            lines.append(options_table(own))
        if len(settings) == len(JobConfig.model_fields):
            lines.append("It also takes every [setting](settings.md) as an option.")
        elif settings:
            names = ", ".join(f"`{option.opts[0]}`" for option in settings)
            lines.append(prose(f"It also takes these [settings](settings.md) as options: {names}."))
    return "\n\n".join(lines) + "\n"


PAGES = {"settings.md": settings_page, "cli.md": cli_page}


def stale(folder: Path = FOLDER) -> list[str]:
    """The pages below `folder` that are not what the code says."""
    return [name for name, page in PAGES.items() if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != page()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is not what the code says")
    if parser.parse_args().check:
        for name in (found := stale()):
            print(f"{FOLDER / name} is not what the code says; run python scripts/generate_docs.py", file=sys.stderr)
        return 1 if found else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
