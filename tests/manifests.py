"""Manifests written as files, read back, and the message about one that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nstray.config import JobConfig
from nstray.errors import ManifestError
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo, Pair, pairs

CONFIG = JobConfig()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`rows` in the format of the name's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        names = list(dict.fromkeys(n for r in rows for n in r))
        lines = [",".join(names)]
        for row in rows:
            cells = ["" if row.get(n) is None else json.dumps(row[n]) if isinstance(row[n], list) else str(row[n]) for n in names]
            lines.append(",".join('"' + c.replace('"', '""') + '"' if set(c) & set(',"\n') else c for c in cells))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def load(path: Path, config: JobConfig = CONFIG) -> tuple[ManifestInfo, list[Pair]]:
    manifest = Manifest(str(path))
    info = manifest.check(config)
    tables = list(manifest.tables(info))
    assert all(t.schema.equals(info.schema) for t in tables)
    return info, [p for t in tables for p in pairs(t, info)]


def problem(path: Path, config: JobConfig = CONFIG) -> str:
    with pytest.raises(ManifestError) as caught:
        Manifest(str(path)).check(config)
    return str(caught.value)


# Names of pictures that a format, a shell, a URI or a terminal could take for something else.
ODD_NAMES = [
    "é.png",
    "e\u0301.png",
    "日本語.png",
    "🎨.png",
    "new\nline.png",
    "car\rriage.png",
    "cr\r\nlf.png",
    "tab\there.png",
    'quo"te.png',
    "'.png",
    "com,ma.png",
    "semi;colon.png",
    "pi|pe.png",
    "[bracket.png",
    '["json"].png',
    "{brace}.png",
    " leading.png",
    "trail /x.png",
    "a ::b.png",
    "x.tar::b.png",
    "shard.tar/x.zip::b.png",
    "C:/x.png",
    "#hash.png",
    "q?x=1&y=2.png",
    "100%.png",
    "%20.png",
    "back\\slash.png",
    "C:\\pictures\\a.png",
    "s3:x.png",
    "s3:/bucket/key.png",
    "file:/x.png",
    "~home.png",
    "-dash.png",
    "=1+1.png",
    "@at.png",
    "NA.png",
    "null.png",
    "\u2028line.png",
    "\u202eright.png",
    "\ufeffbom.png",
    "\x01control.png",
    "sep=;.png",
]
