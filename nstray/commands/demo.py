"""`nstray demo`: the example's pictures, a job over them, a sheet, by the calls of a real job."""

from __future__ import annotations

from pathlib import Path

import click

from nstray import storage
from nstray.commands import prepare, ray_job, run
from nstray.config import JobConfig
from nstray.errors import UsageError
from nstray.reports.contact_sheet import contact_sheet

# The example's pictures and manifest, as `scripts/draw_examples.py` draws them.
PICTURES = Path(__file__).parent / "demo_pictures"
# The compact network needs no download, and its pictures look as the paper's do.
SETTINGS = {
    "preset": "quick",
    "size": 256,
    "evaluations": 80,
    "shard_size": 2,
    "batch_size": 2,
}


def demo(out: str, config: JobConfig) -> int:
    """Copy the pictures below the folder `out`, stylise them and lay them out on a sheet.

    Returns the exit code of the job. Raises the errors of `nstray.errors`.
    """
    if storage.is_uri(out):
        raise UsageError(
            f"{storage.redact(out)}: the demo needs a local folder; give its path, or omit OUT"
        )
    ray_job.refuse_its_folder("OUT", out)
    folder = Path(storage.absolute(out))
    try:
        manifest = _copy_pictures(folder / "input")
    except OSError as error:
        raise UsageError(
            f"{folder}: the demo can't write there ({error.strerror}); give another folder as OUT"
        ) from None
    code = run.run(prepare.check(str(manifest), str(folder / "dataset"), config))
    if code in (run.EXIT_COMPLETE, run.EXIT_ERROR_ROWS):
        contact_sheet(str(folder / "dataset"), str(folder / "sheet.png"))
        click.echo(f"dataset: {folder / 'dataset'}\nsheet:   {folder / 'sheet.png'}")
    return code


def _copy_pictures(folder: Path) -> Path:
    """Copy the example into `folder` and return its manifest's path.

    Only bytes are copied: an installed package may be read-only, its copies must not be.
    """
    for source in sorted(path for path in PICTURES.rglob("*") if path.is_file()):
        target = folder / source.relative_to(PICTURES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    return folder / "manifest.csv"
