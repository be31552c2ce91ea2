"""What a check of the manifest found, stored in the job's record.

A resumed job takes it from there and need not read a hundred million rows again.
"""

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
    """What the job's record stores under ``checked``."""
    return {
        "schema": encode_schema(info.schema),
        "local": info.local,
        **{name: list(getattr(info, name)) for name in _TEXTS},
    }


def load(
    stored: Mapping[str, Any], uri: str, digest: str, config: JobConfig, init_id: str
) -> ManifestInfo | None:
    """What the stored job's check found; None if a new check could find something else.

    A new check finds the same for the same bytes, the same version of nstray and the same settings.

    Args:
        stored: the job's record.
        uri: of the manifest.
        digest: of the manifest now.
        init_id: identity of the `init` image (`JobConfig.result_fields`).
    """
    checked = stored.get("checked")
    if not isinstance(checked, dict):
        return None
    same = (
        stored["manifest_digest"] == digest
        and stored.get("nstray_version") == VERSION
        and stored["result"] == json.loads(json.dumps(config.result_fields(init_id)))
        and stored["config"].get("allow_local") == config.allow_local
        and stored["config"].get("column_types", []) == list(config.column_types)
    )
    if not same:
        return None
    try:
        schema = decode_schema(checked["schema"], "checked")
        carried, overrides, layers, warnings, images = (
            tuple(map(str, checked[name])) for name in _TEXTS
        )
        local, rows_digest = bool(checked["local"]), str(stored["rows_digest"])
        return ManifestInfo(
            uri=uri,
            rows=stored["rows"],
            digest=digest,
            schema=schema,
            carried=carried,
            overrides=overrides,
            layers=layers,
            warnings=warnings,
            images=images,
            local=local,
            rows_digest=rows_digest,
        )
    except (KeyError, TypeError, OutputError):
        # The entry is damaged or of a development version: a new check replaces it.
        return None
