"""The columns of the output: the one list of names, types and meanings."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nstray.errors import ErrorCode, OutputError


class Column(NamedTuple):
    """A column of the output's own: its name, its Arrow type, and what it holds."""

    name: str
    type: Any
    meaning: str


IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_LOSS = "at the end, without its weight; null if the term is off"
COLUMNS: tuple[Column, ...] = tuple(
    Column(*each)
    for each in (
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
        ("content_width", pa.int32(), "of the content image, once oriented, pixels"),
        ("content_height", pa.int32(), "of the content image, once oriented, pixels"),
        (
            "loss_total",
            pa.float64(),
            "the objective at the end: the weighted sum of the four below",
        ),
        ("loss_content", pa.float64(), _LOSS),
        ("loss_style", pa.float64(), _LOSS),
        ("loss_tv", pa.float64(), _LOSS),
        ("loss_range", pa.float64(), _LOSS),
        (
            "loss_curve",
            pa.list_(pa.float32()),
            "the objective of the best picture so far, after each evaluation; "
            "the first is the start's",
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
)
# Parts of records before format 3 lack these.
SINCE_FORMAT_3 = ("content_width", "content_height")
# The names that a manifest's carried columns may not have.
RESERVED: tuple[str, ...] = tuple(column.name for column in COLUMNS)
# The columns that `ok_row` and `error_row` fill by themselves.
OUTCOME_COLUMNS = ("image", "status", "error_code", "error_message")
HUGGINGFACE = b"huggingface"  # the key of the features in a schema's metadata
_IMAGE_FEATURE = {"image": {"_type": "Image"}}


def part_schema(carried: pa.Schema, *, without: Collection[str] = ()) -> pa.Schema:
    """The schema of a job's parts: the output's own columns, then the manifest's `carried` ones.

    Args:
        without: own columns that the parts lack.
    """
    own = [
        pa.field(name, kind, nullable=name != "pair_id")
        for name, kind, _ in COLUMNS
        if name not in without
    ]
    return with_features(pa.schema([*own, *carried]), {**features(carried), **_IMAGE_FEATURE})


def with_features(schema: pa.Schema, given: Mapping[str, Any]) -> pa.Schema:
    """`schema` with these Hugging Face features by column, and no other metadata of its own."""
    value = json.dumps({"info": {"features": dict(given)}}).encode()
    return schema.with_metadata({HUGGINGFACE: value} if given else None)


def features(schema: pa.Schema) -> dict[str, Any]:
    """The Hugging Face features of a schema that `with_features` made."""
    if HUGGINGFACE not in (schema.metadata or {}):
        return {}
    return dict(json.loads(schema.metadata[HUGGINGFACE])["info"]["features"])


def changed_columns(then: pa.Schema, now: pa.Schema) -> tuple[list[str], list[str]]:
    """Names of the columns that came, went or have another type, and of those with another feature.

    Types are compared as types: two texts of one type may differ, as those of maps do.
    """
    before, after = ({field.name: field.type for field in schema} for schema in (then, now))
    meant, means = features(then), features(now)
    changed = [n for n in sorted({*before, *after}) if before.get(n) != after.get(n)]
    renamed = [
        n
        for n in sorted({*meant, *means})
        if meant.get(n) != means.get(n) and before.get(n) == after.get(n)
    ]
    return changed, renamed


def full_row(**values: Any) -> dict[str, Any]:
    """A row with every column of the output; a column that is not given is null.

    Raises ValueError for a name that is not a column.
    """
    if unknown := sorted(set(values) - set(RESERVED)):
        raise ValueError(f"no such columns of the output: {', '.join(unknown)}")
    return {**dict.fromkeys(RESERVED), **values}


def ok_row(picture: bytes, path: str, **values: Any) -> dict[str, Any]:
    """A row with a picture: its encoded bytes under the bare file name `path`; see `full_row`."""
    return full_row(**values, status="ok", image={"bytes": picture, "path": path})


def error_row(code: ErrorCode, message: str, **values: Any) -> dict[str, Any]:
    """A row without a picture, and why there is none; see `full_row`."""
    return full_row(**values, status="error", error_code=code.value, error_message=message)


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text for the job record."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decode_schema(text: str, name: str) -> pa.Schema:
    """The schema in `text`, which stands under `name` in a job record.

    Raises `OutputError` if it can't be read.
    """
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True)))
        features(schema)
        return schema
    except (ValueError, TypeError, KeyError, RecursionError, OSError, pa.ArrowException) as error:
        raise OutputError(
            f"the job's record is damaged: {name} can't be read ({error}); "
            "restore it, or use another OUT"
        ) from None


def carried_schema(job: Mapping[str, Any]) -> pa.Schema:
    """The schema of the carried columns of a job record."""
    return decode_schema(job["carried_schema"], "carried_schema")


def job_schema(job: Mapping[str, Any]) -> pa.Schema:
    """The schema of the parts of a job record, of any format."""
    return part_schema(carried_schema(job), without=() if job["format"] >= 3 else SINCE_FORMAT_3)


def empty_part(schema: pa.Schema) -> pq.ParquetFile:
    """A Parquet file of `schema` without rows, in memory."""
    sink = io.BytesIO()
    # `Schema.empty_table` knows no lists or structs of extension types.
    none = [pa.nulls(0, field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(none, schema=schema), sink)
    return pq.ParquetFile(sink)


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """`schema` as it is read back from Parquet, which lacks some types, such as whole seconds."""
    return empty_part(schema).schema_arrow
