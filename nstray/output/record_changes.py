"""What differs between the record of a job and that of a run that may go on with it.

Plain data, no storage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nstray.config import differences, result_defaults
from nstray.output.records import has_both_digests

# What a record says of the manifest. A run replaces it if the same rows stand elsewhere.
_OF_MANIFEST = ("manifest", "manifest_digest", "rows", "rows_digest", "carried_digest", "checked")


def has_grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` is the job `old` with rows added to its manifest since."""
    return bool(new["cuts"] == [*old["cuts"], old["rows"]])


def carried_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the carried columns of the job `old` have other values in the manifest of `new`."""
    if has_grown(old, new):
        return len(new["carried_changes"]) > len(old["carried_changes"])
    return has_both_digests(old) and old["carried_digest"] != new["carried_digest"]


def updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the job `old` once its manifest is that of `new`.

    The manifest may have grown, may have other carried values, may be other files of the same rows,
    and may lie elsewhere. If nothing of this holds, the record is as it was.
    """
    named = ("manifest", "manifest_digest", "carried_digest")
    if all(old.get(name) == new[name] for name in named):
        return dict(old)
    record = {**old, **{name: new[name] for name in _OF_MANIFEST if name in new}}
    record.setdefault("base", new["base"])
    allowed = [
        (r["config"].get("allow_local"), r["config"].get("allow_remote", [])) for r in (old, new)
    ]
    if allowed[0] != allowed[1]:
        record["checked"] = None  # it was made with a setting that the record does not take over
    if has_grown(old, new):
        record["cuts"] = [*old["cuts"], old["rows"]]
    if carried_changed(old, new):
        # Another run may have changed the record since `new` was made.
        known = len(new["carried_changes"]) > len(old["carried_changes"])
        time = new["carried_changes"][-1] if known else new["created_at"]
        record["carried_changes"] = [*old["carried_changes"], time]
    return record


def conflicts(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What makes `there` and `here` different jobs: of their manifests, and of all else.

    Rows at the manifest's end and other carried values do not (`updated`). A result setting that a
    record lacks counts as its default: the record is from a version that did not have the setting
    yet.
    """

    def identity(record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **result_defaults(),
            **json.loads(json.dumps(record["result"])),
            "shard_size": record["shard_size"],
            "weights": record["weights_id"],
        }

    manifests: list[str] = []
    if not has_grown(there, here):
        both = has_both_digests(there) and has_both_digests(here)
        manifests = _different_rows(there, here, "rows_digest" if both else "manifest_digest")
    old, new = identity(there), identity(here)
    if "column_types" in there["config"]:  # all parts of a dataset have one schema
        old["column_types"] = there["config"]["column_types"]
        new["column_types"] = here["config"].get("column_types", [])
    if (unknown := sorted(set(old) - set(new))) and not differences(
        {name: value for name, value in old.items() if name in new}, new
    ):
        return manifests, [
            f"it was begun by nstray {there.get('nstray_version')}, which has settings that this "
            f"version lacks ({', '.join(unknown)}): finish it with that version"
        ]
    return manifests, differences(old, new)


def _different_rows(there: Mapping[str, Any], here: Mapping[str, Any], key: str) -> list[str]:
    """How the manifests of two records differ; `key` is the digest that tells it."""
    if there["rows"] != here["rows"]:
        return [f"manifest rows: {there['rows']} there, {here['rows']} here"]
    if there[key] == here[key]:
        return []
    return [f"manifest digest of its {there['rows']} rows: {there[key]} there, {here[key]} here"]
