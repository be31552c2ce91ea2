"""`nstray retry`: error rows made again."""

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
    """Make the error rows of `codes` again (all error rows where empty), leaving every other row as it is; returns the exit code.

    Args:
        changes: settings that may differ from those the job was begun with (`RUN_FIELDS`), and where its weights or init are now.
        manifest_uri: where the manifest is now; default: where it was.
    Raises ConfigError for a code or setting that is none, OutputError where there is no job or it is another one, and as `check` does.
    """
    for code in codes:
        if code not in set(ErrorCode):
            raise ConfigError(
                f"code: no such error code: {code!r}; there are {', '.join(ErrorCode)}{text.did_you_mean(code, ErrorCode)}"
            )
    output = Output(out)
    stored = output.job.read(resume=True)
    settings = {**known_settings(stored), **changes}
    job = check(manifest_uri or stored["manifest"], out, make(settings))
    output.job.compare(stored, record(job))
    job = dataclasses.replace(
        job, spec=dataclasses.replace(job.spec, retry=tuple(codes) or tuple(ErrorCode))
    )
    return run(job)
