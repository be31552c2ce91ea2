"""Values of rows as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any


def plain(value: Any) -> Any:
    """A value as JSON: times as ISO 8601, bytes as base64, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def row_json(file_name: str | None, row: Mapping[str, Any]) -> str:
    """A row as one line of JSON, with its picture's name first.

    A carried column may be called file_name, which an imagefolder reserves: it becomes
    ``manifest_file_name``.
    """
    renamed = {("manifest_file_name" if k == "file_name" else k): v for k, v in row.items()}
    return json.dumps({"file_name": file_name, **plain(renamed)}, ensure_ascii=False)
