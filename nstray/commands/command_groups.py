"""The commands of two words: those of `nstray manifest` and of `nstray weights`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import click

from nstray.commands.options import (
    JobCommand,
    allow_remote_option,
    job_config,
    job_options,
    json_option,
    manifest_argument,
    overwrite_option,
    pairing_options,
    request_payer_option,
    weights_file_option,
)
from nstray.commands.printing import print_record, say
from nstray.engine.network.recipe import Recipe
from nstray.engine.settings import BLOCKS, CONV_LAYERS, canonical_layer
from nstray.system import torch_threads
from nstray.text import counted

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _log(line: str) -> None:
    say(line, err=True)


def _names(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """The names in a list with commas."""
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    if "" in names or len(set(names)) < len(names):
        raise click.BadParameter(f"{value!r}: give distinct names with commas between them")
    return names


@click.group("manifest")
def manifest_group() -> None:
    """Make or check a manifest of pairs."""


@manifest_group.command("build")
@click.option(
    "--content",
    required=True,
    metavar="SOURCE",
    help="Contents: a folder, tar, Parquet or Arrow file or an image; local or s3://.",
)
@click.option("--style", required=True, metavar="SOURCE", help="Styles, in the same ways.")
@click.option(
    "--pairs",
    default="all",
    show_default=True,
    metavar="all|N",
    help="Every pair, or N different styles for each content.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the choice of styles and of --sample."
)
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Take N contents alone.")
@click.option(
    "--labels",
    type=click.Choice(["folder", "column", "sidecar", "none"]),
    help="Where the column label comes from. [default: by what SOURCE is]",
)
@click.option(
    "--splits",
    type=click.Choice(["folder", "column", "name", "none"]),
    help="Where the column split comes from. [default: by what SOURCE is]",
)
@click.option(
    "--columns",
    callback=_names,
    metavar="A,B,...",
    help="Columns of the contents to carry. [default: all but other images]",
)
@click.option(
    "--style-columns",
    callback=_names,
    metavar="A,B,...",
    help="Columns of the styles to carry, as style_A, style_B.",
)
@click.option("--style-splits", is_flag=True, help="Give each split styles of its own.")
@click.option("--content-column", metavar="NAME", help="The column that contents come from.")
@click.option("--style-column", metavar="NAME", help="The column that styles come from.")
@click.option(
    "--shapes", is_flag=True, help="Write width and height. Reads the start of each content."
)
@click.option(
    "--digests",
    is_flag=True,
    help="Store a CRC32 of each member of an archive, for every later read. Reads them whole.",
)
@click.option(
    "--any-ending",
    is_flag=True,
    help="Also take files under other names that begin as JPEG, PNG or WebP. Opens them.",
)
@click.option(
    "-o", "--out", required=True, metavar="FILE", help=".parquet, .csv or .jsonl, local or s3://."
)
@request_payer_option
@allow_remote_option
def manifest_build(out: str, **options: Any) -> None:
    """Pair the images of two sources.

    A source is a folder of images, of tars, of Parquet or of Arrow files, subfolders included; or
    one of these. A dataset of Hugging Face, one that was saved with save_to_disk, WebDataset's
    shards and an output of nstray are such folders. stderr says what was found and what was left
    out.

    Images are the files that end with .jpg, .jpeg, .jpe, .jfif, .pjpeg, .pjp, .png or .webp, in
    upper or lower case. Hidden files and folders are left out, and folders that programs leave,
    such as __MACOSX and @eaDir.
    """
    from nstray.manifest.build import build

    options["style_columns"] = options["style_columns"] or ()
    say(f"{counted(build(**options, out=out, say=_log), 'pair')} in {out}")


@manifest_group.command("check", cls=JobCommand, short_help="Say what is wrong with a manifest.")
@manifest_argument
@pairing_options
@json_option
@job_options
def manifest_check(
    manifest_uri: str | None, as_json: bool, config_file: str | None, **options: Any
) -> None:
    """Read a whole manifest and say what is wrong with it, by file, row and column.

    Opens no image.
    """
    from nstray import storage
    from nstray.commands import pairing
    from nstray.manifest.manifest import Manifest

    asked, (named,) = pairing.taken(options, manifest_uri)
    config = job_config(config_file, options)
    storage.request_payer(config.request_payer)
    storage.allow_remote(config.allow_remote, installed=False)  # no image is opened
    with pairing.temporary(pairing.Given(named), asked) as manifest:
        info = Manifest(manifest.uri, manifest.base).check(config)
    for warning in info.warnings:
        say(f"warning: {warning}", err=True)
    columns = {name: list(getattr(info, name)) for name in ("overrides", "images", "carried")}
    print_record({"rows": info.rows, "digest": info.digest, **columns}, as_json)


def _widths(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(word) for word in value.split(","))
    except ValueError:
        widths = ()
    if len(widths) != len(BLOCKS) or min(widths) < 1:
        raise click.BadParameter(
            f"{value!r}: give {len(BLOCKS)} numbers of 1 or more, one for each block, such as "
            "16,32,64,128,128"
        )
    return widths


def _layers(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        found = {canonical_layer(word) for word in value.split(",")}
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if other := sorted(found.difference(CONV_LAYERS)):
        raise click.BadParameter(f"{', '.join(other)}: rectified layers alone are imitated")
    return tuple(layer for layer in CONV_LAYERS if layer in found)


@click.group("weights")
def weights_group() -> None:
    """Make a network's weights ready for jobs."""


def _network_option(name: str, text: str) -> Decorator:
    return click.option(
        name,
        default="imagenet",
        show_default=True,
        metavar="imagenet|compact|random|PATH_OR_URI",
        help=text,
    )


def _pictures_option(text: str) -> Decorator:
    return click.option("--images", required=True, metavar="DIR", help=text)


def _pooling_option(text: str) -> Decorator:
    return click.option("--pooling", type=click.Choice(["average", "max"]), help=text)


def _number_option(name: str, least: int, default: int, text: str) -> Decorator:
    return click.option(
        name, type=click.IntRange(least), default=default, show_default=True, help=text
    )


def _size_option(least: int) -> Decorator:
    text = "Longest side in pixels. Smaller pictures keep their size."
    return _number_option("--size", least, 512, text)


_LIMIT = "Use at most so many pictures, taken evenly from the sorted names."


@weights_group.command("normalise", short_help="Scale filters to mean activation 1.")
@_network_option("--weights", "The network to normalise.")
@_pictures_option("Folder or s3:// prefix of pictures to measure on (JPEG, PNG, WebP).")
@weights_file_option
@_pooling_option(
    "The pooling of the job that will use the network. "
    "[default: the network's own if its file says one, else average]"
)
@_size_option(1)
@click.option("--limit", type=click.IntRange(1), help=_LIMIT)
@overwrite_option("Replace FILE if it exists.")
@json_option
def weights_normalise(weights: str, images: str, out: str, as_json: bool, **options: Any) -> None:
    """Scale every filter of a VGG-19 to mean activation 1 over pictures and positions, as Gatys et
    al. (CVPR 2016) did.

    The network computes the same up to one factor per filter. Pictures that can't be read are
    named and skipped.
    """
    from nstray.commands.weights import normalise

    torch_threads.let_sleep()
    print_record(normalise(weights, images, out, **options, say=_log), as_json)


_RECIPE = Recipe()


@weights_group.command("distil", short_help="Train a narrow network that imitates a wide one.")
@_network_option("--teacher", "The network to imitate.")
@_pictures_option("Folder or s3:// prefix of pictures to train on. Labels are not used.")
@weights_file_option
@click.option(
    "--widths",
    default=",".join(map(str, _RECIPE.widths)),
    show_default=True,
    callback=_widths,
    help="Filters of the five blocks of convolutions.",
)
@click.option(
    "--layers",
    default=",".join(_RECIPE.layers),
    show_default=True,
    callback=_layers,
    help="The features to imitate. Layers that the teacher lacks are left out.",
)
@click.option(
    "--held-out",
    metavar="DIR",
    help="Pictures on which fidelity is measured. [default: one in 16 of --images]",
)
@_number_option("--steps", 1, _RECIPE.steps, "Steps of training.")
@_number_option("--crops", 1, _RECIPE.crops, "Crops of a step.")
@_number_option("--side", 32, _RECIPE.side, "Side of a crop in pixels.")
@_size_option(32)
@_number_option("--limit", 1, 2000, f"{_LIMIT} They stay in memory.")
@_pooling_option("Of both networks. [default: the teacher's own if its file says one, else max]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where it is trained.",
)
@click.option(
    "--seed",
    type=int,
    default=_RECIPE.seed,
    show_default=True,
    help="Of the start and the crops.",
)
@overwrite_option("Replace FILE if it exists.")
@json_option
def weights_distil(teacher: str, images: str, out: str, as_json: bool, **options: Any) -> None:
    """Train a VGG-19 of few filters to imitate the features of TEACHER, and say how faithful it is.

    A checkpoint beside FILE is written every minute. The same command goes on from it. Pictures
    that can't be read are named and skipped.
    """
    from nstray.commands.distil import distil

    torch_threads.let_sleep()
    names = [field.name for field in dataclasses.fields(Recipe) if field.name in options]
    recipe = Recipe(**{name: options.pop(name) for name in names})
    print_record(distil(teacher, images, out, recipe, **options, say=_log), as_json)


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
