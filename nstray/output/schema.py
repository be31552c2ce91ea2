"""The columns of the output: the one list of names, types and meanings."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nstray.errors import OutputError

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_LOSS = "at the end, without its weight; null where the term is off"
# The output's own columns: name, type, what it holds.
COLUMNS: tuple[tuple[str, Any, str], ...] = (
    ("pair_id", pa.string(), "the manifest's id of the pair"),
    ("image", IMAGE, "the picture: encoded bytes and a bare file name; null in an error row"),
    ("status", pa.string(), "ok or error"),
    ("error_code", pa.string(), "why there is no picture, from a closed list"),
    ("error_message", pa.string(), "the same in words"),
    ("content_uri", pa.string(), "the content image"),
    ("style_uri", pa.list_(pa.string()), "the style images"),
    ("content_sha256", pa.string(), "of the content file's bytes"),
    ("style_sha256", pa.list_(pa.string()), "of the style files' bytes"),
    ("width", pa.int32(), "of the picture, pixels"),
    ("height", pa.int32(), "of the picture, pixels"),
    ("loss_total", pa.float64(), "the objective at the end: the weighted sum of the four below"),
    ("loss_content", pa.float64(), _LOSS),
    ("loss_style", pa.float64(), _LOSS),
    ("loss_tv", pa.float64(), _LOSS),
    ("loss_range", pa.float64(), _LOSS),
    (
        "loss_curve",
        pa.list_(pa.float32()),
        "the objective of the best picture so far, after each evaluation; the first is the start's",
    ),
    ("iterations", pa.int32(), "steps the optimiser took"),
    ("evaluations", pa.int32(), "forward + backward passes"),
    ("seconds", pa.float64(), "the pair's share of its batch's time on the device"),
    ("device", pa.string(), "what computed it"),
    ("dtype", pa.string(), "of its convolutions: float32 or bfloat16"),
    ("seed", pa.int64(), "the pair's own"),
    ("weights_id", pa.string(), "identity of the network's weights"),
    ("config_fingerprint", pa.string(), "sha256 of every setting that decides the result"),
    ("nstray_version", pa.string(), "that wrote the row"),
    ("attempt", pa.int32(), "at which the pair ended, counted from 1"),
    ("created_at", pa.timestamp("us", tz="UTC"), "when the row was made"),
)
_HUGGINGFACE = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})


def part_schema(carried: pa.Schema) -> pa.Schema:
    """The schema of every part of a job: the output's own columns, then the manifest's `carried` ones."""
    own = [pa.field(name, kind, nullable=name != "pair_id") for name, kind, _ in COLUMNS]
    return pa.schema([*own, *carried], metadata={"huggingface": _HUGGINGFACE})


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text for the job record."""
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def decode_schema(text: str, name: str) -> pa.Schema:
    """A schema out of a job record, where it stands under `name`."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True)))
    except (ValueError, OSError, pa.ArrowException) as error:
        raise OutputError(
            f"the job's record is damaged: {name} can't be read ({error}); restore it, or use another OUT"
        ) from None


def carried_schema(job: Mapping[str, Any]) -> pa.Schema:
    """The carried columns' schema out of a job record."""
    return decode_schema(job["carried_schema"], "carried_schema")


def empty_part(schema: pa.Schema) -> pq.ParquetFile:
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    return pq.ParquetFile(sink)


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """`schema` as it is read back from Parquet, which has no times of whole seconds, say."""
    return empty_part(schema).schema_arrow


# What a manifest's carried columns may not be called.
RESERVED: tuple[str, ...] = tuple(name for name, _, _ in COLUMNS)
