"""What a job's record names and may have moved since, and the option that says where it is now."""

from __future__ import annotations

from typing import Any

from nstray import config, storage
from nstray.errors import ManifestError, StorageError, UsageError, WeightsError
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo
from nstray.output.folder import Output
from nstray.output.paths import PAIRS_PATH
from nstray.output.records import known_settings

_ERRORS = {"manifest": ManifestError, "weights": WeightsError, "init": UsageError}


def unusable(what: str, why: Exception | str) -> UsageError:
    """What to raise if the job's manifest, weights or init can't be used where its record says."""
    return _ERRORS[what](
        f"the {what} that the job names can't be used: {why}; say where to look with --{what}"
    )


def manifest_uri(job: dict[str, Any], output: Output) -> str:
    """Where the manifest of a job is; one that its output keeps moves with the output."""
    named = str(job["manifest"])
    kept = named.endswith(PAIRS_PATH) and storage.head(output.pairs_uri) is not None
    return output.pairs_uri if kept else named


def checked_manifest(
    job: dict[str, Any], output: Output, manifest: str | None
) -> tuple[Manifest, ManifestInfo]:
    """The manifest given, or else the one that the job names, and what its check finds.

    The check marks as many rows as the job has. Raises `ManifestError`.
    """
    # Its images are not opened here.
    settings = config.make({**known_settings(job), "allow_local": True})
    schemes = {*storage.remote_allowed(), *settings.allow_remote}
    storage.allow_remote(schemes, installed=False)
    if manifest is not None:
        given = Manifest(manifest)
        return given, given.check(settings, mark=job["rows"])
    try:
        named = Manifest(manifest_uri(job, output))
        return named, named.check(settings, mark=job["rows"])
    except (StorageError, ManifestError) as error:
        raise unusable("manifest", error) from None
