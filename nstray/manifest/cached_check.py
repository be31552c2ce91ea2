"""What a check of the manifest found, stored in the job's record.

A resumed job takes it from there and need not read a hundred million rows again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nstray import storage
from nstray.config import LAYOUT_FIELDS, VERSION, JobConfig
from nstray.errors import OutputError
from nstray.manifest.files import ENDINGS
from nstray.manifest.pair import ManifestInfo
from nstray.output.schema import decode_schema, encode_schema

_TEXTS = ("carried", "overrides", "layers", "warnings", "images")


def dump(info: ManifestInfo) -> dict[str, Any]:
    """What the job's record stores under ``checked``."""
    return {
        "schema": encode_schema(info.schema),
        "local": info.local,
        "carried_apart": info.carried_apart,
        "file_rows": list(info.file_rows),
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
    if not isinstance(checked, dict) or not stored.get("carried_digest"):
        return None
    result = {name: v for name, v in stored["result"].items() if name not in LAYOUT_FIELDS}
    same = (
        stored["manifest_digest"] == digest
        and stored.get("nstray_version") == VERSION
        and result == json.loads(json.dumps(config.result_fields(init_id)))
        and stored["config"].get("allow_local") == config.allow_local
        and stored["config"].get("allow_remote", []) == list(config.allow_remote)
        and stored["config"].get("column_types", []) == list(config.column_types)
    )
    if not same:
        return None
    try:
        schema = decode_schema(checked["schema"], "checked")
        carried, overrides, layers, warnings, images = (
            tuple(map(str, checked[name])) for name in _TEXTS
        )
        local = bool(checked["local"])
        apart, file_rows = bool(checked["carried_apart"]), tuple(map(int, checked["file_rows"]))
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
            rows_digest=str(stored["rows_digest"]),
            carried_digest=str(stored["carried_digest"]),
            carried_apart=apart,
            file_rows=file_rows,
        )
    except (KeyError, TypeError, ValueError, OutputError):
        # The entry is damaged or of a development version: a new check replaces it.
        return None


def order_base(stored: Mapping[str, Any]) -> str:
    """The folder that relative paths of the stored job's manifest started from at its beginning."""
    if base := stored.get("base"):
        return str(base)
    # A record of a development version or of 0.1.
    uri = stored["manifest"]
    return storage.parent(uri) if uri.lower().endswith(tuple(ENDINGS)) else uri


def at_base(info: ManifestInfo, base: str, stored: Mapping[str, Any]) -> ManifestInfo:
    """`info` with the order of rows that the stored job had at its beginning.

    Args:
        base: the folder that relative paths start from now, redacted.
    """
    begun = order_base(stored)
    return info if base == begun else replace(info, order_base=begun)
