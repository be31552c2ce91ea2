"""`nstray retry`: makes error rows again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from nstray import text
from nstray.commands.prepare import check, record
from nstray.commands.run import run
from nstray.config import make
from nstray.errors import ConfigError, ErrorCode
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
    output = Output(out)
    stored = output.job.read(resume=True)
    # who pays is said anew each time, not by a record that may be another person's
    settings = {**known_settings(stored), "request_payer": False, **changes}
    job = check(manifest_uri or stored["manifest"], out, make(settings))
    output.job.compare(stored, record(job))
    job = dataclasses.replace(
        job, spec=dataclasses.replace(job.spec, retry=tuple(codes) or tuple(ErrorCode))
    )
    return run(job)
