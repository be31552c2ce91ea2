"""The command that a person types next, as a job stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from nstray.config import make
from nstray.errors import UsageError
from nstray.output.folder import Output
from nstray.output.records import check_resumable, known_settings

# What a resume takes from the job's record, what the other settings follow from, and an agreement
# that no record makes for a person.
_LEFT_OUT = ("shard_size", "column_types", "preset", "request_payer")


def next_command(activity: str, errors: int, record: Mapping[str, Any], output: Output) -> str:
    """The next command for a job with `errors` error rows; ``activity`` is that of `status`."""
    out = shlex.quote(str(output))
    if activity in ("running", "starting"):
        return f"nstray status {out} --watch"
    if activity == "complete":
        return f"nstray retry {out}" if errors else f"nstray report {out} -o report.html"
    try:
        check_resumable(record, str(output))
        return resume_command(record, output)
    except UsageError:
        return f"nstray status {out} --verbose"


def resume_command(record: Mapping[str, Any], output: Output) -> str:
    """The command that goes on with the job of `record`, its settings as it was begun with them.

    Raises `ConfigError` if this version can't read them.
    """
    words = ["nstray", "run", str(record.get("manifest")), str(output)]
    return " ".join(map(shlex.quote, [*words, *_setting_words(known_settings(record))]))


def _setting_words(settings: Mapping[str, Any]) -> Iterator[str]:
    named = {"preset": settings["preset"]} if settings.get("preset") else {}
    given = make(settings).model_dump(mode="json")
    usual = make(named).model_dump(mode="json")
    if named:
        yield from ("--preset", str(settings["preset"]))
    for name, value in given.items():
        if name in _LEFT_OUT or value == usual[name] or value is None:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif isinstance(value, list):
            yield from (f"--{flag}", ",".join(map(str, value)))
        else:
            yield from (f"--{flag}", str(value))
