"""The click commands: parse the words, call `nstray.commands`, print the answer.

What a command needs is imported in its body, so that `nstray --help` starts quickly.
"""

from __future__ import annotations

import io
import sys
import traceback
from typing import Any, NoReturn

import click

from nstray.commands.command_groups import manifest_group, weights_group
from nstray.commands.export_command import export_command
from nstray.commands.options import (
    JobCommand,
    allow_remote_option,
    extend_option,
    given,
    job_config,
    job_options,
    json_option,
    manifest_argument,
    moved_manifest_option,
    out_argument,
    paired_out_argument,
    pairing_options,
    request_payer_option,
    setting_options,
    whole_numbers,
)
from nstray.commands.printing import columns_of, print_record, say
from nstray.commands.report_commands import compare_command, report_command, sheet_command
from nstray.commands.status_command import status_command
from nstray.commands.stylise_command import stylise_command, stylize_command
from nstray.config import RUN_FIELDS, VERSION, make
from nstray.errors import NstrayError, UsageError
from nstray.system.stop_signals import EXIT_STOPPED, print_interrupted, received
from nstray.system.streams import lost_answer
from nstray.system.surroundings import shortage
from nstray.text import log_to_stderr


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(VERSION, prog_name="nstray")
def cli() -> None:
    """Stylised datasets: the optimisation of Gatys, Ecker and Bethge over a manifest of content x
    style pairs.

    \b
    nstray demo                                   see it work, no download
    nstray stylise photo.jpg painting.jpg         one picture, at once
    nstray manifest build --content DIR --style DIR --pairs all -o pairs.csv
    nstray plan pairs.csv OUT                     what would run
    nstray run  pairs.csv OUT                     run, or resume

    Paths may be local or s3://. Exit codes: 0 complete, 1 failed, 2 wrong usage or settings,
    3 complete with too many error rows, 4 stopped before the end (run again to resume).
    """


cli.add_command(stylise_command)
cli.add_command(stylize_command)
cli.add_command(manifest_group)
cli.add_command(weights_group)


@cli.command("plan", cls=JobCommand, short_help="Say what run would do; runs nothing.")
@manifest_argument
@paired_out_argument
@pairing_options
@extend_option
@click.option(
    "--probe",
    "with_probe",
    is_flag=True,
    help="Run a few pairs on the devices at hand and say what the job would cost.",
)
@click.option(
    "--probe-seconds",
    type=float,
    metavar="SECONDS",
    help="With --probe: about how long it measures.  [60]",
)
@click.option(
    "--devices",
    metavar="N,...",
    help="With --probe: give figures for so many devices (GPUs; on CPUs, workers).  "
    "[those at hand]",
)
@click.option(
    "--price",
    type=float,
    metavar="NUMBER",
    help="With --probe: price of a device-hour, in any currency.",
)
@click.option(
    "--record",
    is_flag=True,
    help="With --probe: write the figures to OUT/.nstray. The run then shows its own beside them.",
)
@json_option
@job_options
def plan_command(
    manifest_uri: str | None,
    out: str | None,
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
    """Say what `run` would do: rows, shards, done and to do, evaluations, bytes. Runs nothing and
    writes nothing to OUT.

    With --probe it runs a few pairs and drops their pictures. Then it says what the job would
    take: device-hours, wall time, bytes, money. Only --record writes a file of these figures to
    OUT.

    \b
    nstray plan pairs.csv OUT --probe
    nstray plan pairs.csv OUT --probe --devices 1,8,64 --price 2.5
    """
    from nstray.commands import pairing, prepare, probe
    from nstray.commands.plan import plan

    probe_words = {
        "--probe-seconds": probe_seconds,
        "--devices": devices,
        "--price": price,
        "--record": record or None,
    }
    if not with_probe and (unused := given(probe_words)):
        raise UsageError(f"{', '.join(unused)}: only with --probe")
    probe_options = probe.ProbeOptions(
        probe.SECONDS if probe_seconds is None else probe_seconds,
        whole_numbers("--devices", devices),
        price,
    )
    asked, (named, target) = pairing.taken(options, manifest_uri, out)
    config = job_config(config_file, options)
    estimate = None
    output = prepare.place(target, config)
    config = pairing.allowing_local(config, asked, output)
    with pairing.temporary(pairing.Given(named), asked, output, extend=extend) as pairs:
        job = prepare.check(pairs.uri, target, config, extend=extend, base=pairs.base)
        answer = plan(job)
        if asked:
            answer["manifest"] = str(asked)
        if with_probe:
            say(
                f"probing for about {probe_options.seconds:g} s once Ray and its workers have "
                "started",
                err=True,
            )
            estimate = probe.probe(job, probe_options)
            if estimate is None:
                say("nothing is left to do, so there is nothing to probe", err=True)
    if estimate is None or as_json:
        print_record(answer if estimate is None else {**answer, "probe": estimate}, as_json)
    else:
        forecasts = estimate["forecasts"]
        figures = {f"probe_{k}": value for k, value in estimate.items() if k != "forecasts"}
        print_record(answer | figures, as_json)
        for line in probe.forecast_table(forecasts, columns_of(sys.stdout)):
            say(line)
    if estimate is not None and record:
        job.output.estimate.write(probe.recorded(job, estimate))


@cli.command("run", cls=JobCommand, short_help="Stylise a manifest into a dataset, or resume.")
@manifest_argument
@paired_out_argument
@pairing_options
@extend_option
@job_options
def run_command(
    manifest_uri: str | None,
    out: str | None,
    extend: bool,
    config_file: str | None,
    **options: Any,
) -> None:
    """Stylise every pair of MANIFEST into the dataset OUT, or go on where an earlier run of the
    same job stopped.

    Runs on the Ray cluster of RAY_ADDRESS or of `ray job submit`, else on this machine. Each row
    of the manifest becomes one row of OUT/data/*.parquet: a picture, or an error with its reason.

    With --content and --style there is no MANIFEST. Both are sources: a folder of images, a Parquet
    file of them, a tar. Their pairs are kept in OUT. A resume takes them from there, and with
    --extend those of pictures that came since, too.

    \b
    nstray run --content photos/ --style paintings/ OUT --preset quick
    nstray run --content hub/ --content-column image --style paintings/ OUT
    nstray run pairs.csv OUT --weights random --size 256 --evaluations 100
    nstray run s3://bucket/pairs.parquet s3://bucket/out --config job.yaml
    """
    from nstray.commands import pairing, prepare, run

    asked, (named, target) = pairing.taken(options, manifest_uri, out)
    config = job_config(config_file, options)
    output = prepare.place(target, config)
    config = pairing.allowing_local(config, asked, output)
    pairs = pairing.kept(pairing.Given(named), output, asked, extend=extend)
    job = prepare.check(pairs.uri, target, config, extend=extend, base=pairs.base)
    sys.exit(run.run(job))


# A retry may set how it runs, and where the job's weights and first image are now.
_RETRY_SETTINGS = ("weights", "init", *(name for name in RUN_FIELDS if name != "preset"))


@cli.command("retry", cls=JobCommand, short_help="Make error rows again.")
@out_argument
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="CODE",
    help="Only error rows of this error_code. May be given several times.",
)
@moved_manifest_option
@setting_options(_RETRY_SETTINGS, defaults=False)
def retry_command(
    out: str, codes: tuple[str, ...], manifest_uri: str | None, **options: Any
) -> None:
    """Make the error rows of OUT again, once their cause is mended. Every other row stays as it is.

    The manifest and the settings are those the job was begun with. A part that has such rows is
    replaced as a whole by one conditional put, which keeps its good rows unchanged. Rows that fail
    again stay error rows. The settings below default to the job's.

    \b
    nstray retry OUT
    nstray retry s3://bucket/out --code not_found --code fetch_failed
    """
    from nstray.commands import retry

    sys.exit(retry.retry(out, codes, given(options), manifest_uri))


cli.add_command(status_command)


@cli.command("verify", short_help="Check every part against the manifest.")
@out_argument
@moved_manifest_option
@click.option(
    "--decode/--no-decode",
    default=True,
    help="Decode every picture (default), or trust its bytes.",
)
@json_option
@request_payer_option
@allow_remote_option
def verify_command(out: str, manifest_uri: str | None, decode: bool, as_json: bool) -> None:
    """Check every part against its footer and the manifest: rows, ids, digests, pictures. Exit
    code 1 if anything is wrong."""
    from nstray.commands import verify

    report = verify.verify(out, manifest_uri, decode=decode)
    for problem in report.problems:
        say(f"problem: {problem}", err=True)
    if report.more:
        say(f"problem: and {report.more} more", err=True)
    for remedy in report.remedies:
        say(f"remedy: {remedy}", err=True)
    for note in report.notes:
        say(f"note: {note}", err=True)
    counts = {name: getattr(report, name) for name in ("parts", "rows", "ok", "errors")}
    print_record({"verified": report.passed, **counts}, as_json)
    if not report.passed:
        sys.exit(1)


cli.add_command(export_command)
cli.add_command(sheet_command)
cli.add_command(report_command)
cli.add_command(compare_command)


@cli.command("demo", cls=JobCommand, short_help="See it work: no download, no GPU.")
@click.argument("out", metavar="[OUT]", default="nstray-demo")
@job_options
def demo_command(out: str, config_file: str | None, **options: Any) -> None:
    """Stylise two contents in three styles with the compact network, and lay the six pictures out
    on a sheet.

    Needs no download and no GPU, and takes a minute on two cores. OUT [nstray-demo] gets
    input/, dataset/ and sheet.png. Settings given here or by --config take precedence over the
    demo's own.
    """
    from nstray.commands import demo

    config = job_config(config_file, options)
    own = {name: getattr(config, name) for name in config.model_fields_set}
    sys.exit(demo.demo(out, make({**demo.SETTINGS, **own})))


def _fail(error: Exception) -> NoReturn:
    """End with code 1: by a line if the machine lacks something, else by a traceback."""
    why = shortage(error)
    say(f"nstray: {why}" if why else traceback.format_exc(), err=True)
    sys.exit(1)


def main() -> None:
    """Run one command.

    A user's mistake ends in one message and its exit code, never in a traceback. A signal that
    asks the command to stop is a KeyboardInterrupt (`nstray.system.stop_signals`).
    """
    log_to_stderr()
    try:
        cli(standalone_mode=False)
    except NstrayError as error:
        say(f"nstray: {error}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        print_interrupted()
        sys.exit(EXIT_STOPPED)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        say(text.getvalue().rstrip(), err=True)
        sys.exit(2)
    except Exception as error:
        if received():  # a library may make another error of the interrupt
            print_interrupted()
            sys.exit(EXIT_STOPPED)
        _fail(error)
    if why := lost_answer():
        say(f"nstray: the answer could not be written to stdout: {why}", err=True)
        sys.exit(1)
