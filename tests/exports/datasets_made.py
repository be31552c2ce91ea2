"""Outputs of chosen rows for the tests of exports, made of the package's own parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from outputs import error_row, footer, job_record, ok_row, picture

from nstray.images.encode import encode
from nstray.output.folder import Output
from nstray.output.part_file import encode_part
from nstray.output.schema import encode_schema, part_schema, with_features

CLASSES = ["cat", "dog", "sea lion"]
CARRIED = with_features(
    pa.schema([("split", pa.string()), ("label", pa.int64()), ("caption", pa.string())]), {"label": {"_type": "ClassLabel", "names": CLASSES}}
)


def dataset(
    base: Path,
    rows: Sequence[dict[str, Any]],
    *,
    carried: pa.Schema = CARRIED,
    part: int = 4,
    out: str | None = None,
    inputs: str | None = None,
    **job: Any,
) -> str:
    """An output of `rows` in parts of `part` rows; returns its folder. The job's base is `inputs`, else the folder ``in``."""
    rows = list(rows)
    output = Output(out or str(base / "out"))
    record = job_record(rows=max(1, len(rows)), shard_size=part, base=inputs or str(base / "in"), carried_schema=encode_schema(carried), **job)
    output.job.open(record)
    for number in range(0, len(rows), part):
        some = rows[number : number + part]
        foot = footer([row["pair_id"] for row in some], number=number // part)
        name = f"part-00000-{number // part:04d}.parquet"
        assert output.parts.commit(name, encode_part(some, part_schema(carried), foot))
    return output.out


def row(base: Path, number: int, content: str, style: str = "s0.jpg", **more: Any) -> dict[str, Any]:
    """A row with a picture; `content` and `style` are relative to the job's base."""
    values = {"split": "train", "label": 0, "caption": f"caption {number}", **more}
    where = base / "in"
    return ok_row(values.pop("pair_id", f"p{number:04d}"), seed=number, content=str(where / content), style=(str(where / style),), **values)


def failed(base: Path, number: int, content: str, **more: Any) -> dict[str, Any]:
    """A row without a picture."""
    values = {"split": "train", "label": 0, "caption": "failed", **more}
    return error_row(f"p{number:04d}", content=str(base / "in" / content), **values)


def content(base: Path, name: str, seed: int) -> str:
    """Draw a content below the job's base; returns the sha256 of its bytes."""
    path = base / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(picture(seed, 60, 40), "png"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> list[str]:
    """The paths of the files below a folder, but for hidden ones and the card."""
    found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    return sorted(name for name in found if not name.startswith(".") and name != "README.md")


def class_folders(base: Path) -> list[dict[str, Any]]:
    """Three classes in two splits: nested names, and two pictures of one name in two classes."""
    where = [
        ("train/cat/001.jpg", "train", 0),
        ("train/cat/tabby/001.jpg", "train", 0),
        ("train/dog/001.jpg", "train", 1),
        ("train/dog/002.jpg", "train", 1),
        ("train/sea lion/süß 1.jpg", "train", 2),
        ("val/cat/001.jpg", "val", 0),
        ("val/dog/003.jpg", "val", 1),
        ("val/sea lion/4.jpg", "val", 2),
    ]
    rows = [row(base, i, name, split=split, label=label) for i, (name, split, label) in enumerate(where)]
    return [*rows, row(base, 8, "train/dog/002.jpg", "s1.jpg", label=1), failed(base, 9, "train/dog/9.jpg", label=1)]


def as_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())
