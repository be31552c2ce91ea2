"""The commands: parse, call, print. Nothing else."""

from __future__ import annotations

import io
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NoReturn, get_args, get_origin

import click

from nstray.config import RUN_FIELDS, VERSION, JobConfig, load, make
from nstray.engine.settings import Pooling
from nstray.errors import NstrayError, UsageError
from nstray.text import log_to_stderr, printable

_GROUPS = {
    "Preset": ("preset",),
    "Network": ("weights", "weights_input", "pooling"),
    "Loss": (
        *(
            "content_layers",
            "style_layers",
            "style_layer_weights",
            "style_statistic",
            "fine_layers",
        ),
        *(
            "content_weight",
            "style_weight",
            "tv_weight",
            "value_range",
            "range_weight",
            "loss_scale",
        ),
    ),
    "Start and optimiser": (
        "init",
        "coarse",
        "seed",
        "optimizer",
        "learning_rate",
        "evaluations",
        "dtype",
    ),
    "Colour": ("color", "color_match"),
    "Images": (
        "size",
        "size_rule",
        "style_scale",
        "upsample",
        "max_bytes",
        "max_pixels",
        "allow_local",
        "image_format",
        "quality",
    ),
    "Layout and run": (
        *("batch_size", "tile_size", "shard_size", "device", "actors", "gpus_per_actor"),
        *("cpus_per_actor", "depth", "stall_timeout", "max_error_rate"),
    ),
}


class _Command(click.Command):
    """A command whose job settings are listed in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        settings = {p.name: p for p in options if p.name in JobConfig.model_fields}
        own = [r for p in options if p.name not in settings and (r := p.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(own)
        for title, names in _GROUPS.items():
            if records := [
                r for n in names if n in settings and (r := settings[n].get_help_record(ctx))
            ]:
                with formatter.section(title):
                    formatter.write_dl(records)


_METAVARS: dict[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT"}


def _metavar(name: str, annotation: Any) -> str:
    """What stands for a value in the help: the words of a Literal, or its kind."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if name == "size":
        return "INT|WxH"
    if get_origin(annotation) is tuple:
        return "LAYERS" if get_args(annotation)[0] is str else "NUMBERS"
    while get_args(annotation):  # Annotated[int, ...] | None is INT
        annotation = get_args(annotation)[0]
    return _METAVARS[annotation]


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(
    command: Callable[..., Any], names: Sequence[str], defaults: bool = True
) -> Callable[..., Any]:
    """Fields of JobConfig as options of the same names, with their defaults in the help."""
    for name in reversed(names):
        field = JobConfig.model_fields[name]
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            text = f"{field.description}" + (
                f"  [{'' if field.default else 'no-'}{flag[2:]}]" if defaults else ""
            )
            command = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)(
                command
            )
        else:
            text = f"{field.description}" + (
                f"  [{_default(field.default)}]"
                if defaults and field.default not in (None, ())
                else ""
            )
            command = click.option(
                flag, name, default=None, metavar=_metavar(name, field.annotation), help=text
            )(command)
    return command


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every field of JobConfig, and --config."""
    command = _settings(command, tuple(JobConfig.model_fields))
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="YAML file of settings by the names below; options win over it",
    )(command)


def _config(config_file: str | None, options: dict[str, Any]) -> JobConfig:
    return load(config_file, [(k, v) for k, v in options.items() if v is not None])


def _say(text: str, *, err: bool = False) -> None:
    click.echo(printable(text), err=err)


def _print(record: dict[str, Any], as_json: bool) -> None:
    """One `key: value` line each, or JSON, on stdout."""
    if as_json:
        _say(json.dumps(record, ensure_ascii=False))
        return
    width = max(map(len, record))
    for key, value in record.items():
        if isinstance(value, dict):
            value = (
                ", ".join(
                    f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}"
                    for k, v in sorted(value.items())
                )
                or "none"
            )
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value)) or "none"
        elif isinstance(value, float):
            value = f"{value:.6g}"
        _say(f"{key:<{width}}  {'-' if value is None else value}")


_extend_option = click.option(
    "--extend", is_flag=True, help="also make the rows added at MANIFEST's end since OUT was begun"
)
_json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON object")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(VERSION, prog_name="nstray")
def cli() -> None:
    """Stylised datasets: the optimisation of Gatys, Ecker and Bethge over a manifest of content x style pairs.

    \b
    nstray demo                                   see it work, no download
    nstray manifest build --content DIR --style DIR --pairs all -o pairs.csv
    nstray plan pairs.csv OUT                     what would run
    nstray run  pairs.csv OUT                     run, or resume

    Paths may be local or s3://. Exit codes: 0 complete, 1 failed, 2 wrong usage or settings, 3 complete with too many error
    rows, 4 stopped before the end (run again to resume).
    """


@cli.group()
def manifest() -> None:
    """Make or check a manifest of pairs."""


@manifest.command("build")
@click.option(
    "--content",
    required=True,
    metavar="DIR",
    help="folder or s3:// prefix of content images (jpg, jpeg, png, webp)",
)
@click.option(
    "--style", required=True, metavar="DIR", help="folder or s3:// prefix of style images"
)
@click.option(
    "--pairs",
    default="all",
    show_default=True,
    metavar="all|N",
    help="every pair, or N different styles for each content",
)
@click.option("--seed", default=0, show_default=True, help="of the choice of styles")
@click.option(
    "-o", "--out", required=True, metavar="FILE", help=".parquet, .csv or .jsonl, local or s3://"
)
def manifest_build(content: str, style: str, pairs: str, seed: int, out: str) -> None:
    """Pair the images of two folders."""
    from nstray.manifest.build import build

    _say(f"{build(content, style, pairs=pairs, seed=seed, out=out)} pairs in {out}")


@manifest.command("check", cls=_Command, short_help="Say what is wrong with a manifest.")
@click.argument("manifest_uri", metavar="MANIFEST")
@_json_option
@_job_options
def manifest_check(
    manifest_uri: str, as_json: bool, config_file: str | None, **options: Any
) -> None:
    """Read a whole manifest and say what is wrong with it, by file, row and column. Opens no image."""
    from nstray.manifest.manifest import Manifest

    info = Manifest(manifest_uri).check(_config(config_file, options))
    for warning in info.warnings:
        _say(f"warning: {warning}", err=True)
    columns = {
        "overrides": list(info.overrides),
        "images": list(info.images),
        "carried": list(info.carried),
    }
    _print({"rows": info.rows, "digest": info.digest, **columns}, as_json)


@cli.group("weights")
def weights_group() -> None:
    """Make a network's weights ready for jobs."""


@weights_group.command("normalise", short_help="Scale filters to mean activation 1.")
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    metavar="imagenet|random|PATH_OR_URI",
    help="the network to normalise",
)
@click.option(
    "--images",
    required=True,
    metavar="DIR",
    help="folder or s3:// prefix of pictures to measure on (jpg, jpeg, png, webp)",
)
@click.option("-o", "--out", required=True, metavar="FILE", help=".safetensors, local or s3://")
@click.option(
    "--pooling",
    type=click.Choice(["average", "max"]),
    default="average",
    show_default=True,
    help="the pooling of the job that will use it",
)
@click.option(
    "--size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="longest side in pixels; smaller pictures do not grow",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="at most so many pictures, taken evenly from the sorted names",
)
@click.option("--overwrite", is_flag=True, help="replace FILE if it exists")
@_json_option
def weights_normalise(
    weights: str,
    images: str,
    out: str,
    pooling: Pooling,
    size: int,
    limit: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Scale every filter of a VGG-19 to mean activation 1 over pictures and positions, as Gatys et al. (CVPR 2016) did.

    The network computes the same up to one factor per filter. Pictures that can't be read are named and skipped.
    """
    from nstray.commands.weights import normalise

    say = partial(_say, err=True)
    _print(
        normalise(
            weights,
            images,
            out,
            pooling=pooling,
            size=size,
            limit=limit,
            overwrite=overwrite,
            say=say,
        ),
        as_json,
    )


@weights_group.command("convert", short_help="Write weights as .safetensors.")
@click.argument("source", metavar="SOURCE")
@click.option("-o", "--out", required=True, metavar="FILE", help=".safetensors, local or s3://")
@click.option(
    "--input",
    "input_",
    type=click.Choice(["auto", "rgb", "bgr"]),
    default="auto",
    show_default=True,
    help="what SOURCE was trained on: rgb as torchvision's, bgr as Caffe's; auto: as its metadata says, else bgr for keys like conv1_1.weight",
)
@click.option("--overwrite", is_flag=True, help="replace FILE if it exists")
@_json_option
def weights_convert(
    source: str, out: str, input_: Literal["auto", "rgb", "bgr"], overwrite: bool, as_json: bool
) -> None:
    """Write the convolutions of SOURCE (.pth or .safetensors, local or s3://) as .safetensors that says its input convention.

    A Caffe network under torchvision's names (keys like features.0.weight) does not show that it is one: say --input bgr.
    """
    from nstray.commands.weights import convert

    _print(convert(source, out, input=input_, overwrite=overwrite), as_json)


@cli.command("plan", cls=_Command, short_help="Say what run would do; runs nothing.")
@click.argument("manifest_uri", metavar="MANIFEST")
@click.argument("out", metavar="OUT")
@_extend_option
@click.option(
    "--probe",
    "with_probe",
    is_flag=True,
    help="run a few pairs on the devices at hand and say what the job would cost",
)
@click.option(
    "--probe-seconds",
    type=float,
    metavar="SECONDS",
    help="with --probe: time for measuring, about  [60]",
)
@click.option(
    "--devices",
    metavar="N,...",
    help="with --probe: figures for so many devices (GPUs; on CPUs, workers)  [those at hand]",
)
@click.option(
    "--price", type=float, metavar="NUMBER", help="with --probe: of a device-hour, in any currency"
)
@click.option(
    "--record",
    is_flag=True,
    help="with --probe: keep the figures in OUT/.nstray; the run then shows its own beside them",
)
@_json_option
@_job_options
def plan_command(
    manifest_uri: str,
    out: str,
    extend: bool,
    with_probe: bool,
    probe_seconds: float | None,
    devices: str | None,
    price: float | None,
    record: bool,
    as_json: bool,
    config_file: str | None,
    **options: Any,
) -> None:
    """Say what `run` would do: rows, shards, done and to do, evaluations, bytes. Runs nothing, and writes nothing to OUT.

    With --probe it runs a few pairs, keeps none of them, and says what the job would take: device-hours, wall time, bytes, money.
    Only --record writes a file of these figures to OUT.

    \b
    nstray plan pairs.csv OUT --probe
    nstray plan pairs.csv OUT --probe --devices 1,8,64 --price 2.5
    """
    from nstray.commands import prepare, probe
    from nstray.commands.plan import plan

    given = {
        "--probe-seconds": probe_seconds,
        "--devices": devices,
        "--price": price,
        "--record": record or None,
    }
    if not with_probe and (idle := [name for name, value in given.items() if value is not None]):
        raise UsageError(f"{', '.join(idle)}: only with --probe")
    wish = probe.ProbeOptions(
        probe.SECONDS if probe_seconds is None else probe_seconds,
        _counts("--devices", devices),
        price,
    )
    checked = prepare.check(manifest_uri, out, _config(config_file, options), extend=extend)
    told = plan(checked)
    if with_probe:
        _say(
            f"probing for about {wish.seconds:g} s, once Ray and its workers have started", err=True
        )
    found = probe.probe(checked, wish) if with_probe else None
    if with_probe and found is None:
        _say("nothing is left to do, so there is nothing to probe", err=True)
    if found is None or as_json:
        _print(told if found is None else {**told, "probe": found}, as_json)
    else:
        _print(
            told | {f"probe_{name}": value for name, value in found.items() if name != "forecasts"},
            as_json,
        )
        for line in probe.table(found["forecasts"]):
            _say(line)
    if found is not None and record:
        checked.output.estimate.write(probe.recorded(checked, found))


def _counts(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",")) if text is not None else ()
    except ValueError:
        raise UsageError(
            f"{option}: expected whole numbers such as 8 or 1,8,64; got {text!r}"
        ) from None


@cli.command("run", cls=_Command, short_help="Stylise a manifest into a dataset, or resume.")
@click.argument("manifest_uri", metavar="MANIFEST")
@click.argument("out", metavar="OUT")
@_extend_option
@_job_options
def run_command(
    manifest_uri: str, out: str, extend: bool, config_file: str | None, **options: Any
) -> None:
    """Stylise every pair of MANIFEST into the dataset OUT, or go on where an earlier run of the same job stopped.

    Runs on the Ray cluster of RAY_ADDRESS or of `ray job submit`, else on this machine. Each row of the manifest becomes
    one row of OUT/data/*.parquet: a picture, or an error with its reason.

    \b
    nstray run pairs.csv OUT --weights random --size 256 --evaluations 100
    nstray run s3://bucket/pairs.parquet s3://bucket/out --config job.yaml
    """
    from nstray.commands import prepare, run

    sys.exit(
        run.run(prepare.check(manifest_uri, out, _config(config_file, options), extend=extend))
    )


# What a retry may be told otherwise than the run: how it runs, and where the job's weights and first image are now.
_RETRY_SETTINGS = ("weights", "init", *(name for name in RUN_FIELDS if name != "preset"))


@cli.command(cls=_Command, short_help="Make error rows again.")
@click.argument("out", metavar="OUT")
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="CODE",
    help="only error rows of this error_code; may be given several times",
)
@click.option(
    "--manifest",
    "manifest_uri",
    metavar="MANIFEST",
    help="where the job's manifest is now; default: where it was",
)
@partial(_settings, names=_RETRY_SETTINGS, defaults=False)
def retry(out: str, codes: tuple[str, ...], manifest_uri: str | None, **options: Any) -> None:
    """Make the error rows of OUT again, once what caused them is mended; every other row stays as it is.

    The job's manifest and settings are those it was begun with. A part with such rows is replaced as a whole by one
    conditional put, its good rows kept as they are. Rows that fail again stay error rows. Settings below default to the job's.

    \b
    nstray retry OUT
    nstray retry s3://bucket/out --code not_found --code fetch_failed
    """
    from nstray.commands import retry

    sys.exit(
        retry.retry(
            out,
            codes,
            {name: value for name, value in options.items() if value is not None},
            manifest_uri,
        )
    )


@cli.command(short_help="Say where a job stands.")
@click.argument("out", metavar="OUT")
@_json_option
def status(out: str, as_json: bool) -> None:
    """Say where a job stands, from its output alone; of one that is running also what its workers do, who straggles, and when it will end."""
    from nstray.commands import status as command

    said = command.status(out)
    if as_json or "run" not in said:
        _print(said, as_json)
        return
    run = said.pop("run")
    _print({**said, **command.run_summary(run)}, as_json)
    for line in command.worker_table(run):
        _say(line)


@cli.command(short_help="Check every part against the manifest.")
@click.argument("out", metavar="OUT")
@click.option(
    "--manifest",
    "manifest_uri",
    metavar="MANIFEST",
    help="where the job's manifest is now; default: where it was",
)
@click.option(
    "--decode/--no-decode", default=True, help="decode every picture (default) or trust its bytes"
)
@_json_option
def verify(out: str, manifest_uri: str | None, decode: bool, as_json: bool) -> None:
    """Check every part against its footer and the manifest: rows, ids, digests, pictures. Exit code 1 if anything is wrong."""
    from nstray.commands import verify

    report = verify.verify(out, manifest_uri, decode=decode)
    for problem in report.problems:
        _say(f"problem: {problem}", err=True)
    if report.more:
        _say(f"problem: and {report.more} more", err=True)
    _print(
        {
            "verified": report.passed,
            "parts": report.parts,
            "rows": report.rows,
            "ok": report.ok,
            "errors": report.errors,
        },
        as_json,
    )
    sys.exit(0 if report.passed else 1)


@cli.command(short_help="Write plain image files.")
@click.argument("out", metavar="OUT")
@click.option(
    "--to",
    required=True,
    metavar="DIR",
    help="folder or s3:// prefix for the image files and metadata.jsonl",
)
@click.option("--overwrite", is_flag=True, help="replace files there that differ")
@_json_option
def export(out: str, to: str, overwrite: bool, as_json: bool) -> None:
    """Write the pictures as plain image files, with metadata.jsonl beside them."""
    from nstray.commands import export

    _print(export.export(out, to, overwrite=overwrite), as_json)


@cli.command(short_help="Draw a sheet of the pictures.")
@click.argument("out", metavar="OUT")
@click.option(
    "-o",
    "--to",
    required=True,
    metavar="FILE",
    help="the sheet's file, .png or .pdf, local or s3://",
)
@click.option(
    "--rows",
    metavar="COLUMN",
    help="a figure: the carried column that says in which row a picture stands  [figure_row, if carried]",
)
@click.option(
    "--columns",
    metavar="COLUMN",
    help="... and in which column; without it a row's pictures stand side by side",
)
@click.option("--title", metavar="TEXT", help="above the sheet; default: the dataset's name")
@click.option(
    "--limit", type=int, help="pairs shown at most: 24 of a dataset, all of a figure up to 200"
)
def sheet(
    out: str, to: str, rows: str | None, columns: str | None, title: str | None, limit: int | None
) -> None:
    """Draw a labelled sheet of a dataset's pictures, or lay them out as the rows and columns of a figure.

    A manifest's own columns, carried through to the output, say where a picture stands in a figure; figure_row and
    figure_column do so unasked. Rows and columns are in the order of their labels, numbers by value, or, where the
    manifest carries figure_order (numbers), in the order in which they then first appear.

    \b
    nstray sheet OUT -o sheet.png
    nstray sheet OUT -o figure.pdf --rows layers --columns ratio
    """
    from nstray.commands.sheet import sheet as draw

    _say(f"{draw(out, to, rows=rows, columns=columns, title=title, limit=limit)} pairs in {to}")


@cli.command(cls=_Command, short_help="See it work: no download, no GPU.")
@click.argument("out", metavar="[OUT]", default="nstray-demo")
@_job_options
def demo(out: str, config_file: str | None, **options: Any) -> None:
    """Draw two contents and three styles, stylise the six pairs with random weights, and lay them out on a sheet.

    Needs no download and no GPU; a few minutes on two cores. OUT [nstray-demo] gets input/, dataset/ and sheet.png.
    Settings given here or by --config win over the demo's own.
    """
    from nstray.commands import demo

    given = _config(config_file, options)
    sys.exit(
        demo.demo(
            out, make({**demo.SETTINGS, **{k: getattr(given, k) for k in given.model_fields_set}})
        )
    )


def _terminated(*_: Any) -> None:
    raise KeyboardInterrupt  # which click makes an Abort of, and no `except Exception` on the way swallows


def _interrupted() -> NoReturn:
    _say("nstray: interrupted; run the same command again to resume", err=True)
    sys.exit(4)


def main() -> None:
    """The entry point: a user's mistake ends in one message and its exit code, never in a traceback."""
    # From before the driver takes the signals over: ended the same way, with nothing begun.
    signal.signal(signal.SIGTERM, _terminated)
    log_to_stderr()
    try:
        cli(standalone_mode=False)
    except NstrayError as error:
        _say(f"nstray: {error}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        _interrupted()
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        _say(text.getvalue().rstrip(), err=True)
        sys.exit(2)
    except SystemExit as error:
        if error.code == signal.SIGTERM:  # Ray's own handler, which stands while Ray starts
            _interrupted()
        raise
    except Exception:  # a mistake of nstray's own
        _say(traceback.format_exc(), err=True)
        sys.exit(1)
