"""The job's settings as options of the command line, and the options that commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from nstray.commands.config_file import load
from nstray.config import JobConfig
from nstray.errors import UsageError

Function = Callable[..., Any]

# The settings in the order and under the headings of the help.
GROUPS: dict[str, str] = {
    "Preset": "preset",
    "Network": "weights weights_input pooling",
    "Loss": (
        "content_layers style_layers style_layer_weights style_statistic fine_layers"
        " content_weight style_weight tv_weight value_range range_weight loss_scale"
    ),
    "Start and optimiser": "init coarse seed optimizer learning_rate evaluations dtype",
    "Colour": "color color_match",
    "Images": (
        "size size_rule style_scale max_side upsample max_bytes max_pixels allow_local "
        "allow_remote request_payer image_format quality"
    ),
    "Manifest": "column_types",
    "Layout and run": (
        "batch_size tile_size shard_size device actors gpus_per_actor"
        " cpus_per_actor depth stall_timeout max_error_rate"
    ),
}
_METAVARS: dict[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT"}


class JobCommand(click.Command):
    """A command whose help lists the job's settings in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        settings = {p.name: p for p in options if p.name in JobConfig.model_fields}
        own = [p for p in options if p.name not in settings]
        sections = {"Options": own} | {
            title: [settings[name] for name in names.split() if name in settings]
            for title, names in GROUPS.items()
        }
        for title, members in sections.items():
            if records := [record for p in members if (record := p.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records)


def metavar(name: str, annotation: Any) -> str:
    """The placeholder of a value in the help: the words of a Literal, or the value's type."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if name == "size":
        return "INT|WxH"
    if name == "shard_size":
        return "INT|auto"
    if name == "column_types":
        return "NAME=TYPE,..."
    if name == "allow_remote":
        return "SCHEMES"
    if get_origin(annotation) is tuple:
        return "LAYERS" if get_args(annotation)[0] is str else "NUMBERS"
    while get_args(annotation):  # Annotated[int, ...] | None is INT
        annotation = get_args(annotation)[0]
    return _METAVARS[annotation]


def default_text(value: Any) -> str:
    """A setting's default as the help shows it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _help(field: FieldInfo, flag: str, default: Any) -> str:
    if default in (None, ()):
        return str(field.description)
    if field.annotation is bool:
        shown = flag if default else f"no-{flag}"
    else:
        shown = default_text(default)
    return f"{field.description}  [{shown}]"


def setting_options(
    names: Sequence[str], *, defaults: bool = True, preset: Mapping[str, Any] | None = None
) -> Callable[[Function], Function]:
    """A decorator that adds settings as options of the same names.

    Args:
        defaults: whether the help shows the settings' defaults.
        preset: defaults of the command's own.
    """

    def decorate(command: Function) -> Function:
        for name in reversed(names):
            field = JobConfig.model_fields[name]
            flag = name.replace("_", "-")
            text = _help(field, flag, (preset or {}).get(name, field.default) if defaults else None)
            if field.annotation is bool:
                option = click.option(f"--{flag}/--no-{flag}", name, default=None, help=text)
            else:
                option = click.option(
                    f"--{flag}",
                    name,
                    default=None,
                    metavar=metavar(name, field.annotation),
                    help=text,
                )
            command = option(command)
        return command

    return decorate


def job_options(command: Function) -> Function:
    """Every setting, and --config."""
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="YAML file of settings, by the names below. Options take precedence over it.",
    )(setting_options(tuple(JobConfig.model_fields))(command))


def job_config(config_file: str | None, options: dict[str, Any]) -> JobConfig:
    """The settings of a file and of the options that were given; raises `ConfigError`."""
    return load(config_file, given(options).items())


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def whole_numbers(option: str, text: str | None) -> tuple[int, ...]:
    """The numbers of ``1,8,64``; raises `UsageError`."""
    try:
        return tuple(int(word) for word in text.split(",")) if text is not None else ()
    except ValueError:
        raise UsageError(
            f"{option}: expected whole numbers such as 8 or 1,8,64; got {text!r}"
        ) from None


# What is missing is said by `nstray.commands.pairing.taken`: with --content there is no MANIFEST.
manifest_argument = click.argument("manifest_uri", metavar="[MANIFEST]", required=False)
paired_out_argument = click.argument("out", metavar="OUT", required=False)


def pairing_options(command: Function) -> Function:
    """The options of a command that takes sources of pictures in place of a manifest."""
    for option in reversed(
        (
            click.option(
                "--content",
                metavar="SOURCE",
                help="In place of MANIFEST: a source of contents, as in `nstray manifest build`.",
            ),
            click.option(
                "--style",
                metavar="SOURCE",
                help="Pair the contents with these styles, as in `nstray manifest build`. Without "
                "--content, MANIFEST is the source of contents.",
            ),
            click.option(
                "--content-column",
                metavar="NAME",
                help="With --style: the column that contents come from.",
            ),
            click.option(
                "--style-column",
                metavar="NAME",
                help="With --style: the column that styles come from.",
            ),
            click.option(
                "--pairs",
                metavar="all|N",
                help="With --style: every pair, or N different styles for each content.  [all]",
            ),
        )
    ):
        command = option(command)
    return command


out_argument = click.argument("out", metavar="OUT")
extend_option = click.option(
    "--extend", is_flag=True, help="Also make the rows added at MANIFEST's end since OUT was begun."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
moved_manifest_option = click.option(
    "--manifest",
    "manifest_uri",
    metavar="MANIFEST",
    help="Where the job's manifest is now. Default: where it was.",
)


def _request_payer(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    from nstray import storage

    storage.request_payer(value)


request_payer_option = click.option(
    "--request-payer",
    is_flag=True,
    expose_value=False,
    callback=_request_payer,
    help="Agree to pay for requests to buckets whose owner asks it (Requester Pays).",
)


def _allow_remote(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    from nstray import storage
    from nstray.config import make

    # A package that is missing is told where the first URI is read.
    storage.allow_remote(make(given({"allow_remote": value})).allow_remote, installed=False)


allow_remote_option = click.option(
    "--allow-remote",
    metavar="SCHEMES",
    expose_value=False,
    callback=_allow_remote,
    help=JobConfig.model_fields["allow_remote"].description,
)
weights_file_option = click.option(
    "-o", "--out", required=True, metavar="FILE", help="A .safetensors file, local or s3://."
)


def overwrite_option(text: str) -> Callable[[Function], Function]:
    """--overwrite, with its help."""
    return click.option("--overwrite", is_flag=True, help=text)
