"""`nstray retry`: makes error rows again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from nstray import storage, text
from nstray.commands import moved, ray_job
from nstray.commands.prepare import check, record
from nstray.commands.run import run
from nstray.config import make
from nstray.engine.settings import INITS, NAMED_WEIGHTS
from nstray.errors import ConfigError, ErrorCode, ManifestError, StorageError
from nstray.output.folder import Output
from nstray.output.records import known_settings
from nstray.sources.reference import file_of


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
    config = make(settings)
    storage.request_payer(config.request_payer)
    storage.allow_remote(config.allow_remote)
    base = None
    if manifest_uri is None:
        manifest = moved.manifest_of(stored, output)
        manifest_uri = manifest.uri
        try:
            base = manifest.base()
        except (ManifestError, StorageError) as error:
            raise moved.unusable("manifest", error) from None
    if "weights" not in changes and config.weights not in NAMED_WEIGHTS:
        _must_be_there("weights", config.weights)
    if "init" not in changes and config.init not in INITS:
        _must_be_there("init", config.init)
    job = check(manifest_uri, out, config, base=base)
    output.job.compare(stored, record(job))
    job = dataclasses.replace(
        job, spec=dataclasses.replace(job.spec, retry=tuple(codes) or tuple(ErrorCode))
    )
    return run(job)


def _must_be_there(name: str, uri: str) -> None:
    """Raise the `UsageError` that names the option if the job's weights or init are gone."""
    if storage.head(storage.absolute(file_of(uri))) is None:
        raise moved.unusable(name, f"{storage.redact(uri)}: no such file")
