"""`nstray retry`: makes error rows again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from nstray import storage, text
from nstray.commands import ray_job
from nstray.commands.prepare import check, record
from nstray.commands.run import run
from nstray.config import make
from nstray.errors import ConfigError, ErrorCode, ManifestError, StorageError
from nstray.manifest.manifest import Manifest
from nstray.output.folder import Output
from nstray.output.records import known_settings


def retry(
    out: str, codes: Collection[str], changes: Mapping[str, Any], manifest_uri: str | None = None
) -> int:
    """Make error rows of the job at `out` again; returns the exit code. Every other row stays.

    Args:
        codes: error codes of the rows to make again; empty for all error rows.
        changes: settings that may differ from the job's (`RUN_FIELDS`), and where its weights or
            init are now.
        manifest_uri: where the manifest is now; default: where it was.

    Raises `ConfigError` for an unknown code or setting, `OutputError` if there is no job or
    another one, and what `check` raises.
    """
    for code in codes:
        if code not in set(ErrorCode):
            raise ConfigError(
                f"code: no such error code: {code!r}; there are {', '.join(ErrorCode)}"
                f"{text.did_you_mean(code, ErrorCode)}"
            )
    ray_job.refuse_its_folder("OUT", out)
    output = Output(out)
    stored = output.job.read(resume=True)
    # who pays is said anew each time, not by a record that may be another person's
    settings = {**known_settings(stored), "request_payer": False, **changes}
    storage.request_payer(bool(settings["request_payer"]))
    if manifest_uri is None:
        manifest_uri = stored["manifest"]
        try:
            Manifest(manifest_uri).base()
        except (ManifestError, StorageError) as error:
            raise ManifestError(
                f"the manifest that the job names can't be used: {error}; "
                "say where it is with --manifest"
            ) from None
    job = check(manifest_uri, out, make(settings))
    output.job.compare(stored, record(job))
    job = dataclasses.replace(
        job, spec=dataclasses.replace(job.spec, retry=tuple(codes) or tuple(ErrorCode))
    )
    return run(job)
