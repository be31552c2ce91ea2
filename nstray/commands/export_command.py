"""`nstray export` on the command line: its options, and what it prints."""

from __future__ import annotations

import sys
from typing import Any

import click

from nstray.commands.options import (
    Function,
    allow_remote_option,
    given,
    json_option,
    out_argument,
    request_payer_option,
)
from nstray.commands.printing import print_record, say
from nstray.text import counted

_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--to", {"required": True, "metavar": "DIR", "help": "Folder or s3:// prefix."}),
    (
        "--format",
        {"metavar": "FORMAT", "help": "files|imagefolder|webdataset|parquet.  [files]"},
    ),
    (
        "--shard-mb",
        {
            "type": float,
            "metavar": "MB",
            "help": "Largest file of webdataset and parquet, in 10^6 bytes.  [500]",
        },
    ),
    (
        "--shuffle",
        {
            "metavar": "SEED|none",
            "help": "Seed of the order of webdataset and parquet. none keeps the output's.  [0]",
        },
    ),
    (
        "--split-by",
        {"metavar": "COLUMN|none", "help": "Column of splits.  [split, if there is one]"},
    ),
    (
        "--class-by",
        {"metavar": "COLUMN|none", "help": "Column of classes.  [label, if there is one]"},
    ),
    (
        "--columns",
        {
            "metavar": "NAME,...",
            "help": "Columns that are kept besides pair_id and the picture.  [all but loss_curve]",
        },
    ),
    (
        "--resize",
        {
            "type": int,
            "metavar": "N",
            "help": "Make the shorter side N pixels. A smaller picture keeps its size.",
        },
    ),
    (
        "--image-format",
        {"metavar": "FORMAT", "help": "png|jpeg|webp.  [that of the pictures]"},
    ),
    ("--quality", {"type": int, "metavar": "INT", "help": "Of jpeg (95) and webp (lossless)."}),
    (
        "--join",
        {
            "metavar": "TABLE",
            "help": "Parquet, CSV or JSON Lines with further or corrected columns of every row.",
        },
    ),
    ("--on", {"metavar": "COLUMN", "help": "Column that --join goes by.  [pair_id]"}),
    (
        "--with-errors",
        {"is_flag": True, "help": "Keep rows without a picture (webdataset, parquet)."},
    ),
    (
        "--with-originals",
        {
            "type": float,
            "metavar": "FRACTION",
            "help": "Add the contents of this share of the pictures, at their size; "
            "the column original says which they are.",
        },
    ),
    (
        "--exclude",
        {"metavar": "FILE", "help": "Text file of pair ids to leave out, one a line."},
    ),
    (
        "--workers",
        {"type": int, "metavar": "N", "help": "Processes.  [one for each CPU]"},
    ),
    (
        "--scratch",
        {
            "metavar": "DIR",
            "help": "Where as much as the export is kept until its end.  [.nstray-export in --to]",
        },
    ),
    ("--overwrite", {"is_flag": True, "help": "With files: replace files there that differ."}),
)


def _options(command: Function) -> Function:
    """The options of `nstray export`."""
    for flag, words in reversed(_OPTIONS):
        command = click.option(flag, **words)(command)
    return command


@click.command("export", short_help="Write the pictures in a format to train from.")
@out_argument
@_options
@json_option
@request_payer_option
@allow_remote_option
def export_command(out: str, to: str, as_json: bool, **options: Any) -> None:
    """Write the pictures in a format that people train from.

    \b
    files        image files in one folder, with metadata.jsonl (default)
    imagefolder  SPLIT/CLASS/NAME.ext, for torchvision's ImageFolder
    webdataset   tar files of pictures, JSON and classes, shuffled
    parquet      files of a few hundred MB, shuffled, as Hugging Face expects

    An export that was stopped goes on if the same command runs again. Exit code 1 if contents of
    --with-originals could not be read; all else is written then.

    \b
    nstray export OUT --to images/
    nstray export OUT --to packed/ --format parquet --shuffle 7
    nstray export OUT --to s3://bucket/tars --format webdataset --resize 256
    """
    from nstray.commands.export import export

    def warn(text: str) -> None:
        say(f"warning: {text}", err=True)

    words = {name: value for name, value in given(options).items() if value is not False}
    counts = export(out, to, on_warning=warn, **words)
    missing = counts.pop("missing", [])
    print_record(counts, as_json)
    for text in missing:
        say(f"original not readable: {text}", err=True)
    if counts.get("missing_originals"):
        say(
            f"nstray: {counted(counts['missing_originals'], 'original is', 'originals are')} "
            "missing in the export; mend them and export into another folder",
            err=True,
        )
        sys.exit(1)
