"""Which columns an export reads and writes, and where: what every worker process is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nstray import config, storage
from nstray.errors import UsageError
from nstray.exports.labels import Labels, class_numbers
from nstray.exports.options import NONE, ExportOptions
from nstray.exports.source import Slice, Source
from nstray.output.records import known_settings
from nstray.output.schema import (
    RESERVED,
    features,
    job_schema,
    stored_schema,
    with_features,
)
from nstray.text import did_you_mean

ORIGINAL = "original"  # the column that marks contents among stylised pictures
_ALWAYS = ("pair_id", "image")
_BUCKET = 16 * 2**20  # bytes of a bucket at most; its rows are sorted in memory
_BUCKETS_PER_SHARD = 32  # so a file is within 1/32 of the size that is aimed at


@dataclass(frozen=True)
class Plan:
    """An export, as its worker processes need it.

    Attributes:
        target, scratch: URIs of folders. base: what relative contents are relative to.
        schema: of the kept columns; `read` are those that are read of the parts.
        joined: the columns that come from the joined table.
        split_column, class_column: names; None if there is none.
        class_names: of a ClassLabel.
        buckets: into which the order of all rows is cut. parts: of the output.
        image_format: of the job. max_bytes, max_pixels: of a content that is read.
    """

    options: ExportOptions
    target: str
    scratch: str
    base: str
    units: tuple[tuple[Slice, ...], ...]
    parts: int
    buckets: int
    schema: pa.Schema
    read: tuple[str, ...]
    read_schema: pa.Schema
    split_column: str | None
    class_column: str | None
    class_names: tuple[str, ...] | None
    class_is_number: bool
    image_format: str
    max_bytes: int
    max_pixels: int
    joined: tuple[str, ...] = ()
    job_features: Mapping[str, Any] = field(default_factory=dict)


def make_plan(
    options: ExportOptions, job: Mapping[str, Any], source: Source, target: str, scratch: str
) -> Plan:
    """The plan of an export of the job's record `job`; raises `UsageError` for wrong columns."""
    there = _schema(job)
    own = features(there)
    labels = None if options.join is None else prepare_labels(options.join, options.on, own)
    if labels is not None and options.on not in there.names:
        raise UsageError(
            f"--on {options.on}: no column of the output{did_you_mean(options.on, there.names)}"
        )
    every = {f.name: f for f in there}
    if labels is not None:
        if taken := [n for n in labels.table.column_names if n in (*_ALWAYS, "status")]:
            raise UsageError(f"--join: {', '.join(taken)} can't be replaced")
        for f in labels.table.schema:
            every[f.name] = f
            own.pop(f.name, None)
        own |= labels.features
    if options.with_originals and ORIGINAL in every:
        raise UsageError(
            f"--with-originals adds a column {ORIGINAL}, and the output has one already"
        )
    split = _column(options.split_by, "split", "--split-by", every)
    label = _column(options.class_by, "label", "--class-by", every)
    if options.format == "imagefolder" and label is None:
        raise UsageError(
            "--format imagefolder needs classes: the output has no column label; name one with "
            "--class-by, bring one by --join, or use --format files"
        )
    kept = _kept(options, every)
    fields = [every[name] for name in kept]
    if options.with_originals:
        fields.append(pa.field(ORIGINAL, pa.bool_()))
    needed = {*kept, *_ALWAYS, "status", "content_uri", "style_uri", split, label}
    if options.join is not None:
        needed.add(options.on)
    if options.with_originals:
        needed |= {"width", "height", "content_sha256"}
    joined = () if labels is None else tuple(labels.table.column_names)
    read = tuple(n for n in there.names if n in needed and n not in joined)
    settings = config.make({k: v for k, v in known_settings(job).items() if k in _LIMITS})
    size = source.size * (1 + options.with_originals)
    most = min(_BUCKET, options.shard_mb * 1e6 / _BUCKETS_PER_SHARD)
    return Plan(
        options=options,
        target=target,
        scratch=scratch,
        base=str(job.get("base") or ""),
        units=source.units,
        parts=source.parts,
        buckets=max(1, min(2**24, int(size / most))),
        schema=with_features(pa.schema(fields), {n: own[n] for n in kept if n in own}),
        read=read,
        read_schema=pa.schema([there.field(name) for name in read]),
        split_column=split,
        class_column=label,
        class_names=None if label is None else class_names(own.get(label)),
        class_is_number=label is not None and pa.types.is_integer(every[label].type),
        image_format=settings.image_format,
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        joined=joined,
        job_features=features(there),
    )


_LIMITS = ("image_format", "max_bytes", "max_pixels")


def _schema(job: Mapping[str, Any]) -> pa.Schema:
    """The schema of the parts as they are read, with the metadata that the job gave."""
    given = job_schema(job)
    stored = stored_schema(given)
    return pa.schema(
        [f.with_type(stored.field(i).type) for i, f in enumerate(given)], given.metadata
    )


def prepare_labels(uri: str, on: str, own: Mapping[str, Any]) -> Labels:
    """A table to join, with the classes of the output's own ClassLabel columns as numbers.

    Args:
        own: the Hugging Face features of the output's columns.
    """
    labels = Labels(uri, on)
    for name in labels.table.column_names:
        feature = own.get(name)
        if (names := class_names(feature)) is None or name in labels.features:
            continue
        index = labels.table.column_names.index(name)
        column = labels.table[name]
        if is_text(column.type):
            numbers = class_numbers(column.cast(pa.string()), names, name)
            labels.table = labels.table.set_column(index, pa.field(name, pa.int64()), numbers)
        elif not pa.types.is_integer(column.type):
            continue
        labels.features[name] = feature
    return labels


def class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel; None of another feature, or of one that is damaged."""
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _column(
    given: str | None, default: str, option: str, every: Mapping[str, pa.Field]
) -> str | None:
    """The column of splits or classes; raises `UsageError` if it can't be one."""
    name = given if given is not None else default if default in every else NONE
    if name == NONE:
        return None
    if name not in every:
        carried = ", ".join(n for n in every if n not in RESERVED) or "none"
        raise UsageError(
            f"{option} {name}: no such column; the manifest's are {carried}"
            f"{did_you_mean(name, every)}"
        )
    kind = every[name].type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        if given is None:
            return None
        raise UsageError(f"{option} {name}: a column of {kind} names nothing; use text or numbers")
    return name


def _kept(options: ExportOptions, every: Mapping[str, pa.Field]) -> list[str]:
    if options.columns is None:
        return [name for name in every if name != "loss_curve"]
    for name in options.columns:
        if name not in every:
            raise UsageError(f"--columns {name}: no such column{did_you_mean(name, every)}")
    return [name for name in every if name in (*options.columns, *_ALWAYS)]


def default_scratch(target: str) -> str:
    """Where the first pass is kept if no other place is given."""
    return storage.join(target, ".nstray-export")
