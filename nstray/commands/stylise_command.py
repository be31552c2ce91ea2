"""`nstray stylise` on the command line: its options, and what it prints."""

from __future__ import annotations

import copy
import sys
from typing import Any

import click

from nstray.commands.options import (
    JobCommand,
    given,
    json_option,
    overwrite_option,
    setting_options,
)
from nstray.config import CARRIED_FIELDS, RUN_FIELDS, JobConfig
from nstray.engine.presets import QUICK
from nstray.system import torch_threads

# Settings without a meaning here: there are no workers, no shards, and no rows of a manifest.
_LEFT_OUT = {"fine_layers", "shard_size", *RUN_FIELDS, *CARRIED_FIELDS}
_KEPT = {"preset", "batch_size", "tile_size", "device", "allow_remote", "request_payer"}
SETTINGS = tuple(n for n in JobConfig.model_fields if n not in _LEFT_OUT or n in _KEPT)


@click.command(
    "stylise", cls=JobCommand, short_help="Stylise pictures at once: no manifest, no Ray."
)
@click.argument("content", metavar="CONTENT")
@click.argument("style", metavar="STYLE")
@click.option(
    "-o",
    "--out",
    metavar="PATH",
    help="The picture's file, .png, .jpg, .webp or .tiff; of a grid the folder. Local or s3://.  "
    "[CONTENT--STYLE.png here]",
)
@click.option(
    "--preview",
    metavar="FILE",
    help="A local file that has the picture so far. It is rewritten every few seconds.",
)
@overwrite_option("Replace files that exist.")
@json_option
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="YAML file of settings, as of `nstray run`. Without --preset, none is taken then.",
)
@setting_options(SETTINGS, preset={"preset": "quick", **QUICK})
def stylise_command(
    content: str,
    style: str,
    out: str | None,
    preview: str | None,
    overwrite: bool,
    as_json: bool,
    config_file: str | None,
    **options: Any,
) -> None:
    """Stylise CONTENT with STYLE in this process, and show how it goes.

    CONTENT and STYLE are pictures or folders of them, local or s3://. If one is a folder, every
    content is made with every style: the files CONTENT--STYLE.png, and sheet.png with all of them.
    Without --preset or --config the preset is quick: the compact network, no download. Options take
    precedence over a preset.

    \b
    nstray stylise photo.jpg painting.jpg
    nstray stylise photo.jpg painting.jpg -o out.png --preview preview.png
    nstray stylise photos/ paintings/ -o made/
    """
    from nstray import storage
    from nstray.commands import stylise, stylise_plan

    torch_threads.let_sleep()
    config = stylise_plan.settings(config_file, given(options), out)
    storage.request_payer(config.request_payer)
    storage.allow_remote(config.allow_remote)
    plan = stylise_plan.plan(content, style, config, out=out, preview=preview, overwrite=overwrite)
    sys.exit(stylise.stylise(plan, config, as_json=as_json))


# The other spelling; no help lists it.
stylize_command = copy.copy(stylise_command)
stylize_command.name, stylize_command.hidden = "stylize", True
