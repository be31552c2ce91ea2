"""What a check of the manifest found, kept in the job's record: resume need not read a hundred million rows to know what it knew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nstray.config import VERSION, JobConfig
from nstray.errors import OutputError
from nstray.manifest.pair import ManifestInfo
from nstray.output.schema import decode_schema, encode_schema

_TEXTS = ("carried", "overrides", "layers", "warnings", "images")


def dump(info: ManifestInfo) -> dict[str, Any]:
    """For the job's record."""
    return {
        "schema": encode_schema(info.schema),
        "local": info.local,
        **{name: list(getattr(info, name)) for name in _TEXTS},
    }


def load(
    stored: Mapping[str, Any], uri: str, digest: str, config: JobConfig, init_id: str
) -> ManifestInfo | None:
    """What the check of the stored job found, where another one would find the same; else None.

    That is so for the same bytes, checked by the same version of nstray against the same settings.
    """
    kept = stored.get("checked")
    if not isinstance(kept, dict):
        return None
    same = (
        stored["manifest_digest"] == digest
        and stored.get("nstray_version") == VERSION
        and stored["result"] == json.loads(json.dumps(config.result_fields(init_id)))
        and stored["config"].get("allow_local") == config.allow_local
    )
    if not same:
        return None
    try:
        schema = decode_schema(kept["schema"], "checked")
        carried, overrides, layers, warnings, images = (
            tuple(map(str, kept[name])) for name in _TEXTS
        )
        local, rows_digest = bool(kept["local"]), str(stored["rows_digest"])
        return ManifestInfo(
            uri,
            stored["rows"],
            digest,
            schema,
            carried,
            overrides,
            layers,
            warnings,
            images,
            local,
            rows_digest,
        )
    except (
        KeyError,
        TypeError,
        OutputError,
    ):  # damaged, or of a version in between: it can be found again
        return None
