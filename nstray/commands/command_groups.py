"""The commands of two words: those of `nstray manifest` and of `nstray weights`."""

from __future__ import annotations

from typing import Any, Literal

import click

from nstray.commands.options import (
    JobCommand,
    job_config,
    job_options,
    json_option,
    manifest_argument,
    overwrite_option,
    request_payer_option,
    weights_file_option,
)
from nstray.commands.printing import print_record, say


@click.group("manifest")
def manifest_group() -> None:
    """Make or check a manifest of pairs."""


@manifest_group.command("build")
@click.option(
    "--content",
    required=True,
    metavar="DIR",
    help="Folder or s3:// prefix of content images (JPEG, PNG, WebP).",
)
@click.option(
    "--style", required=True, metavar="DIR", help="Folder or s3:// prefix of style images."
)
@click.option(
    "--pairs",
    default="all",
    show_default=True,
    metavar="all|N",
    help="Every pair, or N different styles for each content.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of styles.")
@click.option(
    "--any-ending",
    is_flag=True,
    help="Also take files under other names that begin as JPEG, PNG or WebP. Opens them.",
)
@click.option(
    "-o", "--out", required=True, metavar="FILE", help=".parquet, .csv or .jsonl, local or s3://."
)
@request_payer_option
def manifest_build(out: str, **options: Any) -> None:
    """Pair the images of two folders, subfolders included.

    Images are the files that end with .jpg, .jpeg, .jpe, .jfif, .pjpeg, .pjp, .png or .webp, in
    upper or lower case. Hidden files and folders are left out, and folders that programs leave,
    such as __MACOSX and @eaDir. stderr says what was left out.
    """
    from nstray.manifest.build import build

    def log(line: str) -> None:
        say(line, err=True)

    say(f"{build(**options, out=out, say=log)} pairs in {out}")


@manifest_group.command("check", cls=JobCommand, short_help="Say what is wrong with a manifest.")
@manifest_argument
@json_option
@job_options
def manifest_check(
    manifest_uri: str, as_json: bool, config_file: str | None, **options: Any
) -> None:
    """Read a whole manifest and say what is wrong with it, by file, row and column.

    Opens no image.
    """
    from nstray import storage
    from nstray.manifest.manifest import Manifest

    config = job_config(config_file, options)
    storage.request_payer(config.request_payer)
    info = Manifest(manifest_uri).check(config)
    for warning in info.warnings:
        say(f"warning: {warning}", err=True)
    columns = {name: list(getattr(info, name)) for name in ("overrides", "images", "carried")}
    print_record({"rows": info.rows, "digest": info.digest, **columns}, as_json)


@click.group("weights")
def weights_group() -> None:
    """Make a network's weights ready for jobs."""


@weights_group.command("normalise", short_help="Scale filters to mean activation 1.")
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    metavar="imagenet|random|PATH_OR_URI",
    help="The network to normalise.",
)
@click.option(
    "--images",
    required=True,
    metavar="DIR",
    help="Folder or s3:// prefix of pictures to measure on (JPEG, PNG, WebP).",
)
@weights_file_option
@click.option(
    "--pooling",
    type=click.Choice(["average", "max"]),
    default="average",
    show_default=True,
    help="The pooling of the job that will use the network.",
)
@click.option(
    "--size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Longest side in pixels. Smaller pictures keep their size.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Use at most so many pictures, taken evenly from the sorted names.",
)
@overwrite_option("Replace FILE if it exists.")
@json_option
def weights_normalise(weights: str, images: str, out: str, as_json: bool, **options: Any) -> None:
    """Scale every filter of a VGG-19 to mean activation 1 over pictures and positions, as Gatys et
    al. (CVPR 2016) did.

    The network computes the same up to one factor per filter. Pictures that can't be read are
    named and skipped.
    """
    from nstray.commands.weights import normalise

    def log(line: str) -> None:
        say(line, err=True)

    print_record(normalise(weights, images, out, **options, say=log), as_json)


@weights_group.command("convert", short_help="Write weights as .safetensors.")
@click.argument("source", metavar="SOURCE")
@weights_file_option
@click.option(
    "--input",
    "input_",
    type=click.Choice(["auto", "rgb", "bgr"]),
    default="auto",
    show_default=True,
    help="The input SOURCE was trained on: rgb (torchvision's), bgr (Caffe's), or auto: as its "
    "metadata says; without metadata bgr for keys like conv1_1.weight.",
)
@overwrite_option("Replace FILE if it exists.")
@json_option
def weights_convert(
    source: str, out: str, input_: Literal["auto", "rgb", "bgr"], overwrite: bool, as_json: bool
) -> None:
    """Write the convolutions of SOURCE (.pth or .safetensors, local or s3://) as .safetensors that
    says its input convention.

    Nothing shows that a network is Caffe's if it has torchvision's names (keys like
    features.0.weight): give --input bgr for it.
    """
    from nstray.commands.weights import convert

    print_record(convert(source, out, input=input_, overwrite=overwrite), as_json)
