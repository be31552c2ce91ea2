"""What a job's record names and may have moved since, and the option that says where it is now."""

from __future__ import annotations

from typing import Any

from nstray import config, storage
from nstray.errors import ManifestError, StorageError, UsageError, WeightsError
from nstray.manifest.cached_check import order_base
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo
from nstray.output.folder import Output
from nstray.output.paths import MANIFEST_PATH
from nstray.output.records import known_settings

_ERRORS = {"manifest": ManifestError, "weights": WeightsError, "init": UsageError}


def unusable(what: str, why: Exception | str) -> UsageError:
    """What to raise if the job's manifest, weights or init can't be used where its record says."""
    return _ERRORS[what](
        f"the {what} that the job names can't be used: {why}; say where to look with --{what}"
    )


def manifest_of(job: dict[str, Any], output: Output) -> Manifest:
    """The manifest of a job; one that its output keeps moves with the output.

    The paths of one that an output keeps start from the folder that the job's record names.
    """
    named = str(job["manifest"])
    if named.endswith(MANIFEST_PATH) and storage.head(output.manifest_uri) is not None:
        return Manifest(output.manifest_uri, order_base(job))
    return Manifest(named)


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
        named = manifest_of(job, output)
        return named, named.check(settings, mark=job["rows"])
    except (StorageError, ManifestError) as error:
        raise unusable("manifest", error) from None
