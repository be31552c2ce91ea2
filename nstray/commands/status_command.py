"""The command `nstray status`: its words, and what it prints."""

from __future__ import annotations

import sys

import click

from nstray.commands.options import json_option, out_argument, request_payer_option
from nstray.commands.printing import columns_of, print_record, say
from nstray.system.stop_signals import EXIT_STOPPED


@click.command("status", short_help="Say where a job stands.")
@out_argument
@click.option("--verbose", is_flag=True, help="Also hashes, times, settings and every worker.")
@click.option(
    "--watch",
    "watched",
    is_flag=True,
    help="Go on until the job is complete: refreshed in place on a terminal, elsewhere a line for "
    "each change.",
)
@json_option
@request_payer_option
def status_command(out: str, verbose: bool, watched: bool, as_json: bool) -> None:
    """Say where a job stands, from its output alone: progress, error rows with an example of each
    code, when it will end, and the command to type next.

    --watch ends with code 0 when the job is complete. Ctrl-C ends it with code 4.
    """
    from nstray.commands import status, status_lines, watch

    if watched:
        try:
            watch.watch(out, verbose=verbose, as_json=as_json)
        except KeyboardInterrupt:
            sys.exit(EXIT_STOPPED)
        return
    answer = status.status(out)
    if as_json:
        print_record(answer, as_json)
        return
    for line in status_lines.status_lines(answer, verbose=verbose, columns=columns_of(sys.stdout)):
        say(line)
