"""The demo: the example's pictures, a job over them, a sheet. Everything through the same calls as a real job."""

from __future__ import annotations

from pathlib import Path

import click

from nstray import storage
from nstray.commands import prepare, run
from nstray.config import JobConfig
from nstray.errors import UsageError
from nstray.examples import write_example
from nstray.reports.contact_sheet import contact_sheet

# Random weights need no download. Chosen by eye over six settings: with random filters the texture is in conv1_1 to conv3_1
# (deeper taps add noise), and a ratio alpha/beta of 1e-4 keeps the scene; a little total variation calms the grain.
SETTINGS = {
    "weights": "random",
    "content_layers": "conv3_1",
    "style_layers": "conv1_1,conv2_1,conv3_1",
    "style_weight": 1e4,
    "tv_weight": 3.0,
    "size": 256,
    "evaluations": 80,
    "shard_size": 2,
    "batch_size": 2,
}


def demo(out: str, config: JobConfig) -> int:
    """Draw, stylise and lay out below the folder `out`; returns the exit code of the job. Raises the errors of `nstray.errors`."""
    if storage.is_uri(out):
        raise UsageError(
            f"{storage.redact(out)}: the demo draws into a local folder; give its path, or leave OUT out"
        )
    folder = Path(out).absolute()
    try:
        manifest = write_example(str(folder / "input"))
    except OSError as error:
        raise UsageError(
            f"{folder}: the demo can't write there ({error.strerror}); give another folder as OUT"
        ) from None
    code = run.run(prepare.check(manifest, str(folder / "dataset"), config))
    if code in (run.EXIT_COMPLETE, run.EXIT_ERROR_ROWS):
        contact_sheet(str(folder / "dataset"), str(folder / "sheet.png"))
        click.echo(f"dataset: {folder / 'dataset'}\nsheet:   {folder / 'sheet.png'}")
    return code
