"""A manifest with a column of every Arrow type, through run, retry, extend, verify, sheet and export."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jobs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from arrow_types import VALUES

pytestmark = pytest.mark.slow
# Views become large strings and large binaries.
COLUMNS = [name for name in VALUES if "view" not in name]


def manifest(rows: int) -> pa.Table:
    """Rows with a column of every type; the second one names a picture that comes later."""
    pairs = {"pair_id": ["a", "b", "c", "d"], "content": ["c0.png", "late.png", "c1.png", "c2.png"], "style": ["s0.png"] * 4}
    return pa.table({**pairs, **{f"x_{name}": pa.concat_arrays([VALUES[name]] * 2) for name in COLUMNS}}).slice(0, rows)


def nstray(*words: str, code: int = 0) -> str:
    done = subprocess.run([*jobs.NSTRAY, *words], capture_output=True, text=True, env={**os.environ, **jobs.LOCAL_RAY}, timeout=600)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def same(out: Path, rows: int) -> None:
    """The output holds the values of the manifest's first rows, of the types that Parquet gives back."""
    pq.write_table(manifest(rows), out.parent / "wanted.parquet")
    wanted = pq.read_table(out.parent / "wanted.parquet")
    got = pa.concat_tables(pq.read_table(part) for part in sorted((out / "data").glob("*.parquet"))).sort_by("pair_id")
    assert got["pair_id"].to_pylist() == wanted["pair_id"].to_pylist()
    for name in (f"x_{name}" for name in COLUMNS):
        assert got.schema.field(name).type == wanted.schema.field(name).type, name
        # Dictionaries of several parts have other indices.
        arrays = [
            pc.cast(t[name], t.schema.field(name).type.value_type) if pa.types.is_dictionary(t.schema.field(name).type) else t[name]
            for t in (got, wanted)
        ]
        assert arrays[0].combine_chunks().to_string() == arrays[1].combine_chunks().to_string(), name


def test_every_type_goes_through_every_command(tmp_path: Path) -> None:
    _, weights = jobs.write_inputs(str(tmp_path), contents=3, styles=1)
    settings = jobs.options({**jobs.SETTINGS, "weights": weights, "size": 16, "evaluations": 1, "shard_size": 2, "max_error_rate": 1})
    path, out = tmp_path / "m.parquet", tmp_path / "out"
    pq.write_table(manifest(2), path)
    said = nstray("manifest", "check", str(path))
    assert "x_uuid (extension<arrow.uuid>) is carried unchanged, and Hugging Face datasets can't load it" in said
    nstray("run", str(path), str(out), *settings)
    same(out, 2)
    (tmp_path / "late.png").write_bytes((tmp_path / "c0.png").read_bytes())
    nstray("retry", str(out))
    same(out, 2)
    pq.write_table(manifest(4), path)
    nstray("run", str(path), str(out), "--extend", *settings)
    same(out, 4)
    assert "verified  True" in nstray("verify", str(out))
    nstray("sheet", str(out), "-o", str(tmp_path / "sheet.png"), "--rows", "x_uuid")
    nstray("export", str(out), "--to", str(tmp_path / "plain"))
    lines = [json.loads(line) for line in (tmp_path / "plain" / "metadata.jsonl").read_text().splitlines()]
    assert {line["pair_id"]: line["x_uuid"][:8] for line in lines} == {"a": "ffd80000", "b": "00000000", "c": "ffd80000", "d": "00000000"}
    assert {line["x_timestamp_ns"] for line in lines} == {"2023-11-14 22:13:20.123456789", None}
