"""A job from the words of the command line: checked and recorded before any worker starts."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from nstray import storage
from nstray.commands import load_weights, ray_job, shard_size
from nstray.commands.cost import JobCost
from nstray.config import AUTO, VERSION, JobConfig, fingerprint, make
from nstray.engine import settings
from nstray.errors import (
    BadCredentials,
    ConfigError,
    NotFound,
    OutputError,
    StorageError,
    Unreachable,
    UsageError,
)
from nstray.manifest import cached_check
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.shards import ORDERS, first_order
from nstray.output import records
from nstray.output.folder import Output
from nstray.output.layout import parts_per_window
from nstray.output.records import FORMAT
from nstray.output.schema import carried_schema, changed_columns, encode_schema
from nstray.sources.read import Sources, absolute_reference
from nstray.worker.messages import JobSpec

PART_BYTES = 4e9  # estimated bytes of a part at most; S3 takes 5 GB in one put


@dataclass(frozen=True)
class Job:
    """A checked job: right as far as can be known without opening its images."""

    config: JobConfig
    manifest: Manifest
    info: ManifestInfo
    output: Output
    weights: load_weights.Weights
    spec: JobSpec
    cost: JobCost
    init_id: str  # content, noise, style, or the digest of an image
    base: str  # the folder that paths of the manifest started from when the job was begun
    carried_changes: tuple[str, ...]  # when its carried columns got other values
    chosen_shards: bool  # whether its shard size was chosen just now

    def with_shard_size(self, size: int) -> Job:
        """The same job in shards of `size` rows."""
        config = self.config.model_copy(update={"shard_size": size})
        return replace(
            self, config=config, spec=replace(self.spec, config=config), chosen_shards=False
        )

    @property
    def layout(self) -> list[int]:
        """The number of parts of each window of the finished dataset."""
        return parts_per_window(self.info.rows, self.config.rows_per_shard, self.spec.cuts)

    @property
    def shards(self) -> int:
        """The number of parts of the finished dataset."""
        return sum(self.layout)


def taps(config: JobConfig, info: ManifestInfo) -> tuple[str, ...]:
    """The layers the job may need.

    They are those of the terms that are on or that a row may turn on, and those that rows name.
    """
    found: list[str] = []
    if config.content_weight > 0 or "content_weight" in info.overrides:
        found += config.content_layers
    if config.style_weight > 0 or "style_weight" in info.overrides:
        found += config.style_layers
    if "fine_style" in info.images:
        found += config.fine_layers
    return (*found, *info.layers)


def place(out: str, config: JobConfig) -> Output:
    """The output of a job; raises `UsageError` or `OutputError` if it can't be one."""
    ray_job.refuse_its_folder("OUT", out)
    storage.request_payer(config.request_payer)
    storage.allow_remote(config.allow_remote)
    output = Output(out)
    if not storage.is_uri(output.out) and storage.head(output.out) is not None:
        raise OutputError(f"{output} is a file; OUT is the folder that the dataset goes to")
    return output


def check(
    manifest_uri: str,
    out: str,
    config: JobConfig,
    *,
    extend: bool = False,
    base: str | None = None,
) -> Job:
    """Read and check everything except the images. Writes nothing.

    Args:
        base: the folder that the manifest's paths start from; default: its own.
        extend: accept rows that were added at the manifest's end since the job was begun. Without
            it they make the manifest that of another job.

    Raises the errors of `nstray.errors`.
    """
    output = place(out, config)
    manifest = Manifest(manifest_uri, base)
    with naming_output(output):
        stored = output.job.find(resume=True)
    if stored is not None:
        config = _with_column_types(config, stored, output)
    init = config.init if config.init in settings.INITS else absolute_reference(config.init)
    init_id = init if init in settings.INITS else _digest(init, config)
    cuts: tuple[int, ...] = ()
    carried_changes: tuple[str, ...] = ()
    here = manifest.base()
    begun = storage.redact(here)
    if stored is None:
        info = manifest.check(config)
        order = first_order(info.archives)
    else:
        order = _known_order(output, stored)
        digest = manifest.digest()
        info = cached_check.load(stored, manifest.uri, digest, config, init_id) or manifest.check(
            config, stored["rows"], digest
        )
        _check_carried(output, stored, info)
        cuts = _cuts(output, stored, info, extend)
        carried_changes = _carried_changes(stored, info)
        # The manifest's columns may stand in another order; those of the parts stay in theirs.
        there = [name for name in carried_schema(stored).names if name in info.carried]
        carried = tuple(there) if len(there) == len(info.carried) else info.carried
        info = replace(cached_check.at_base(info, begun, stored), carried=carried)
        begun = cached_check.order_base(stored)
    job_cost = JobCost(manifest, info, config)
    chosen = stored is None and config.shard_size == AUTO
    if config.shard_size == AUTO:
        size = stored["shard_size"] if stored else shard_size.choose(job_cost, info.rows, config)
        config = config.model_copy(update={"shard_size": size})
    loaded = load_weights.read(config.weights, input=config.weights_input, taps=taps(config, info))
    spec = JobSpec(
        config,
        output.out,
        fingerprint(config, loaded.id, init_id, with_layout=records.hashes_layout(stored)),
        loaded.id,
        info,
        init,
        cuts=cuts,
        order=order,
        base=here,
        carried_changed=bool(carried_changes),
    )
    if stored is None or info.digest != stored["manifest_digest"]:  # else the job passed it once
        _check_part_bytes(job_cost, info.rows, config)
    return Job(
        config,
        manifest,
        info,
        output,
        loaded,
        spec,
        job_cost,
        init_id,
        begun,
        carried_changes,
        chosen,
    )


@contextlib.contextmanager
def naming_output(output: Output) -> Iterator[None]:
    """A context in which an error of storage says that it is about OUT."""
    try:
        yield
    except (BadCredentials, Unreachable) as error:  # says itself what to do
        raise type(error)(f"the output {output} can't be opened: {error}") from None
    except StorageError as error:
        raise type(error)(
            f"the output {output} can't be opened: {error}; give an OUT that can be written"
        ) from None


def _with_column_types(config: JobConfig, stored: Mapping[str, Any], output: Output) -> JobConfig:
    """`config` with the column types of the job that was begun: all its parts have one schema.

    Raises `OutputError` if `config` names other ones.
    """
    if "column_types" not in stored["config"]:  # `_check_carried` says if the types differ
        return config
    try:
        begun = make({"column_types": stored["config"]["column_types"]}).column_types
    except ConfigError as error:
        raise OutputError(
            f"{output}: the job's record is damaged: {error}; restore it, or use another OUT"
        ) from None
    if config.column_types not in ((), begun):
        raise OutputError(
            f"{output}: the job was begun with column_types {','.join(begun) or '(none)'}, and all "
            f"parts of a dataset have the same columns; got {','.join(config.column_types)}: "
            "leave column_types out, or use another OUT"
        )
    return config.model_copy(update={"column_types": begun})


def _known_order(output: Output, stored: Mapping[str, Any]) -> str:
    """The rule by which the stored job orders its rows; raises `OutputError` for an unknown one."""
    order = records.order_of(stored)
    if order not in ORDERS:
        raise OutputError(
            f"{output}: it was begun by nstray {stored.get('nstray_version')}, whose order of rows "
            f"({order}) this version lacks: finish it with that version"
        )
    return order


def _check_carried(output: Output, stored: Mapping[str, Any], info: ManifestInfo) -> None:
    """Raise `OutputError` if the same manifest gives carried columns of other types than before.

    Versions before `column_types` took the types of CSV columns from their values.
    """
    before = carried_schema(stored)
    if info.digest != stored["manifest_digest"] or info.carried_schema.equals(before):
        return
    here = {field.name: field.type for field in info.carried_schema}
    changed = [field for field in before if here.get(field.name) != field.type]
    types = ",".join(f"{field.name}={field.type}" for field in changed)
    raise OutputError(
        f"{output}: the job was begun by nstray {stored.get('nstray_version')} with carried "
        f"columns of other types ({types}); name them with --column-types, or use another OUT"
    )


def _cuts(
    output: Output, stored: Mapping[str, Any], info: ManifestInfo, extend: bool
) -> tuple[int, ...]:
    """Where the windows of a job that was begun are cut (`nstray.manifest.shards.cut_windows`).

    Raises `OutputError` if the manifest grew without `extend`, if it has other columns, and with
    `extend` if it changed otherwise than by rows at its end and by carried values.
    """
    before, cuts = stored["rows"], tuple(stored["cuts"])
    if info.digest == stored["manifest_digest"]:
        return cuts
    if not records.has_both_digests(stored):
        if extend:
            raise OutputError(
                f"{output}: its record is of a development version, which had no digest of the "
                "manifest's rows without their carried columns, so the job can't grow; "
                "use another OUT"
            )
        return cuts
    same = info.marked_digest == stored["rows_digest"]
    if not same:
        if extend:
            raise OutputError(
                f"{output}: --extend takes rows added at the manifest's end, but its first "
                f"{before} rows are no longer those that the job was begun with; "
                "put them back before the new ones, or use another OUT"
            )
        return cuts  # `JobRecord.compare` says what differs
    _check_same_columns(output, carried_schema(stored), info.carried_schema)
    if info.rows == before:
        return cuts
    if not extend:
        raise OutputError(
            f"{output}: the manifest has grown from {before} rows to {info.rows}; "
            "give --extend to make the new ones too"
        )
    return (*cuts, before)


def _carried_changes(stored: Mapping[str, Any], info: ManifestInfo) -> tuple[str, ...]:
    """When the carried columns of the stored job's rows got other values, as its record holds it.

    The last time is now if they have others in the manifest of `info`.
    """
    before = tuple(stored["carried_changes"])
    same = (
        info.digest == stored["manifest_digest"]
        or not records.has_both_digests(stored)
        or info.marked_digest != stored["rows_digest"]
        or info.marked_carried == stored["carried_digest"]
    )
    return before if same else (*before, _now("milliseconds"))


def _check_part_bytes(job_cost: JobCost, rows: int, config: JobConfig) -> None:
    """Raise `UsageError` if a part would have more than `PART_BYTES`."""
    part_bytes = job_cost.row_bytes(rows, PART_BYTES / config.rows_per_shard)
    part_bytes *= config.rows_per_shard
    if part_bytes > PART_BYTES:
        raise UsageError(
            f"shard_size {config.shard_size}: a part would have about {part_bytes / 1e9:.1f} GB, "
            "and one put takes 5 GB at most; use a smaller shard_size"
        )


def _now(unit: str = "seconds") -> str:
    return datetime.now(UTC).isoformat(timespec=unit)


def _check_same_columns(output: Output, there: pa.Schema, here: pa.Schema) -> None:
    """Raise `OutputError` if carried columns came, went or got another type or feature."""
    then, now = ({field.name: field.type for field in schema} for schema in (there, here))
    changed, renamed = changed_columns(there, here)
    differing = [
        f"{name} ({then.get(name, 'absent')} then, {now.get(name, 'absent')} now)"
        for name in changed
    ] + [
        f"{name} (another Hugging Face feature, such as a ClassLabel of other names)"
        for name in renamed
    ]
    if differing:
        raise OutputError(
            f"{output}: the manifest's columns are no longer those that the job was begun with: "
            f"{', '.join(differing)}; all parts of a dataset have the same columns: put them "
            "back, or use another OUT"
        )


def _digest(init: str, config: JobConfig) -> str:
    try:
        data = Sources(config.max_bytes).read(init)
    except NotFound:
        raise UsageError(
            f"init {storage.redact(init)}: no such image; "
            "give content, noise, style, or an image's path or URI"
        ) from None
    return "sha256:" + hashlib.sha256(data).hexdigest()


def record(job: Job) -> dict[str, Any]:
    """What job.json holds of `job`."""
    config = job.config.model_dump(mode="json")
    return {
        "format": FORMAT,
        "nstray_version": VERSION,
        "created_at": _now(),
        "manifest": storage.redact(job.info.uri),
        "manifest_digest": job.info.digest,
        "rows": job.info.rows,
        "rows_digest": job.info.rows_digest,
        "carried_digest": job.info.carried_digest,
        "carried_changes": list(job.carried_changes),
        "base": job.base,
        "cuts": list(job.spec.cuts),
        "order": job.spec.order,
        "checked": cached_check.dump(job.info),
        "shard_size": job.config.rows_per_shard,
        "fingerprint": job.spec.fingerprint,
        "weights_id": job.weights.id,
        "weights": storage.redact(job.config.weights),
        "widths": job.weights.widths,
        "result": job.config.result_fields(job.init_id),
        "config": {
            **config,
            "weights": storage.redact(config["weights"]),
            "init": storage.redact(config["init"]),
        },
        "carried_schema": encode_schema(job.info.carried_schema),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "torchvision", "ray", "pyarrow", "pillow", "boto3", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
