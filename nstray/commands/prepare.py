"""A job from the words of the command line: checked and recorded before any worker starts."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nstray import storage
from nstray.commands import cost, load_weights
from nstray.config import VERSION, JobConfig, fingerprint
from nstray.engine import settings
from nstray.errors import (
    BadCredentials,
    NotFound,
    OutputError,
    StorageError,
    Unreachable,
    UsageError,
)
from nstray.manifest import cached_check
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo
from nstray.output.folder import Output
from nstray.output.layout import parts_per_window
from nstray.output.records import FORMAT
from nstray.output.schema import carried_schema, encode_schema
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
    evaluations: int
    init_id: str  # content, noise, style, or the digest of an image

    @property
    def layout(self) -> list[int]:
        """The number of parts of each window of the finished dataset."""
        return parts_per_window(self.info.rows, self.config.shard_size, self.spec.cuts)

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


def check(manifest_uri: str, out: str, config: JobConfig, *, extend: bool = False) -> Job:
    """Read and check everything except the images. Writes nothing.

    Args:
        extend: accept rows that were added at the manifest's end since the job was begun. Without
            it they make the manifest that of another job.

    Raises the errors of `nstray.errors`.
    """
    storage.request_payer(config.request_payer)
    output = Output(out)
    if not storage.is_uri(output.out) and storage.head(output.out) is not None:
        raise OutputError(f"{output} is a file; OUT is the folder that the dataset goes to")
    manifest = Manifest(manifest_uri)
    with naming_output(output):
        stored = output.job.find(resume=True)
    init = config.init if config.init in settings.INITS else storage.absolute(config.init)
    init_id = init if init in settings.INITS else _digest(init, config)
    cuts: tuple[int, ...] = ()
    if stored is None:
        info = manifest.check(config)
    else:
        digest = manifest.digest()
        info = cached_check.load(stored, manifest.uri, digest, config, init_id) or manifest.check(
            config, stored["rows"], digest
        )
        cuts = _cuts(output, stored, info, extend)
    loaded = load_weights.read(config.weights, input=config.weights_input, taps=taps(config, info))
    spec = JobSpec(
        config,
        output.out,
        fingerprint(config, loaded.id, init_id),
        loaded.id,
        info,
        init,
        cuts=cuts,
    )
    evaluations = cost.evaluations(manifest, info, config)
    part_bytes = config.shard_size * cost.picture_bytes(config)
    if part_bytes > PART_BYTES:
        raise UsageError(
            f"shard_size {config.shard_size}: a part would have about {part_bytes / 1e9:.1f} GB, "
            "and one put takes 5 GB at most; use a smaller shard_size"
        )
    return Job(config, manifest, info, output, loaded, spec, evaluations, init_id)


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


def _cuts(
    output: Output, stored: Mapping[str, Any], info: ManifestInfo, extend: bool
) -> tuple[int, ...]:
    """Where the windows of a job that was begun are cut (`nstray.manifest.shards.cut_windows`).

    Raises `OutputError` if the manifest changed otherwise than by rows at its end, or if it grew
    without `extend`.
    """
    before, cuts = stored["rows"], tuple(stored["cuts"])
    if info.digest == stored["manifest_digest"]:
        return cuts
    grew = info.rows > before and info.marked_digest == stored["rows_digest"]
    if not extend:
        if grew:
            raise OutputError(
                f"{output}: the manifest has grown from {before} rows to {info.rows}; "
                "give --extend to make the new ones too"
            )
        return cuts
    if encode_schema(info.carried_schema) != stored["carried_schema"]:
        there, here = (
            {f"{f.name} ({f.type})" for f in s}
            for s in (carried_schema(stored), info.carried_schema)
        )
        raise OutputError(
            f"{output}: the manifest's columns are no longer those that the job was begun with: "
            f"{', '.join(sorted(there ^ here))}; all parts of a dataset have the same columns: "
            "put them back, or use another OUT"
        )
    if not grew:
        raise OutputError(
            f"{output}: --extend takes rows added at the manifest's end, but its first {before} "
            "rows are no longer those that the job was begun with; "
            "put them back, or use another OUT"
        )
    return (*cuts, before)


def _digest(init: str, config: JobConfig) -> str:
    try:
        data = storage.read(init, max_bytes=config.max_bytes)
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
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "manifest": storage.redact(job.info.uri),
        "manifest_digest": job.info.digest,
        "rows": job.info.rows,
        "rows_digest": job.info.rows_digest,
        "cuts": list(job.spec.cuts),
        "checked": cached_check.dump(job.info),
        "shard_size": job.config.shard_size,
        "fingerprint": job.spec.fingerprint,
        "weights_id": job.weights.id,
        "weights": storage.redact(job.config.weights),
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
