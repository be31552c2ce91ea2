"""`nstray export`: the pictures of an output in a format that people train from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nstray.commands import ray_job
from nstray.exports.export import run_export
from nstray.exports.files import export_files
from nstray.exports.options import make_options


def export(
    out: str,
    to: str,
    *,
    on_warning: Callable[[str], object] = lambda text: None,
    **given: Any,
) -> dict[str, Any]:
    """Export `out` into the folder `to`, local or s3://.

    Args:
        on_warning: called with lines for a person.
        given: the options of the command line that were given, by name.

    Returns what was exported, as `nstray.exports.files.export_files` and
    `nstray.exports.export.run_export` say. Raises `UsageError` for options that don't go together.
    """
    ray_job.refuse_its_folder("--to", to)
    if given.get("scratch") is not None:
        ray_job.refuse_its_folder("--scratch", given["scratch"])
    options = make_options(given)
    if options.format == "files":
        overwrite = bool(given.get("overwrite"))
        return export_files(out, to, options, overwrite=overwrite, on_warning=on_warning)
    return run_export(
        out,
        to,
        options,
        workers=given.get("workers"),
        scratch=given.get("scratch"),
        on_warning=on_warning,
    )
