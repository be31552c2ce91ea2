"""A job from its words: everything checked and recorded before any worker starts; the run."""

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
from nstray.errors import NotFound, OutputError, StorageError, UsageError
from nstray.manifest import cached_check
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo
from nstray.output.folder import Output
from nstray.output.layout import parts_per_window
from nstray.output.records import FORMAT
from nstray.output.schema import carried_schema, encode_schema
from nstray.worker.messages import JobSpec

PART_BYTES = 4e9  # S3 takes 5 GB in one put


@dataclass(frozen=True)
class Job:
    """A checked job: nothing of it is wrong as far as can be known without opening its images."""

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
        """Parts that each window of the finished dataset has."""
        return parts_per_window(self.info.rows, self.config.shard_size, self.spec.cuts)

    @property
    def shards(self) -> int:
        """Parts the finished dataset has."""
        return sum(self.layout)


def taps(config: JobConfig, info: ManifestInfo) -> tuple[str, ...]:
    """The layers the job may need: those of terms that are on, or that a row may turn on, and those that rows name."""
    content = (
        config.content_layers
        if config.content_weight > 0 or "content_weight" in info.overrides
        else ()
    )
    style = (
        config.style_layers if config.style_weight > 0 or "style_weight" in info.overrides else ()
    )
    fine = config.fine_layers if "fine_style" in info.images else ()
    return (*content, *style, *fine, *info.layers)


def check(manifest_uri: str, out: str, config: JobConfig, *, extend: bool = False) -> Job:
    """Read and check everything but the images; writes nothing. Raises the errors of `nstray.errors`.

    Args:
        extend: take rows that were added at the manifest's end since the job was begun; else they make it another job.
    """
    output = Output(out)
    if not storage.is_uri(output.out) and storage.head(output.out) is not None:
        raise OutputError(f"{output} is a file; OUT is the folder that the dataset goes to")
    manifest = Manifest(manifest_uri)
    with _opening(output):
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
    part = (
        config.shard_size * cost.cost_of(config).pixels * cost.BYTES_PER_PIXEL[config.image_format]
    )
    if part > PART_BYTES:
        raise UsageError(
            f"shard_size {config.shard_size}: a part would have about {part / 1e9:.1f} GB and is one put, of 5 GB at most; use a smaller one"
        )
    return Job(config, manifest, info, output, loaded, spec, evaluations, init_id)


@contextlib.contextmanager
def _opening(output: Output) -> Iterator[None]:
    """Adds to what storage complains of that it is about OUT."""
    try:
        yield
    except StorageError as error:
        raise type(error)(
            f"the output {output} can't be opened: {error}; give an OUT that can be written"
        ) from None


def _cuts(
    output: Output, stored: Mapping[str, Any], info: ManifestInfo, extend: bool
) -> tuple[int, ...]:
    """Where the windows of a job that was begun are cut (`plan.windows`); raises OutputError for a manifest that grew as it may not."""
    before, cuts = stored["rows"], tuple(stored["cuts"])
    if info.digest == stored["manifest_digest"]:
        return cuts
    grew = info.rows > before and info.marked_digest == stored["rows_digest"]
    if not extend:
        if grew:
            raise OutputError(
                f"{output}: the manifest has grown from {before} rows to {info.rows}; give --extend to make the new ones too"
            )
        return cuts
    if encode_schema(info.carried_schema) != stored["carried_schema"]:
        there, here = (
            {f"{f.name} ({f.type})" for f in s} for s in (carried_schema(stored), info.carried_schema)
        )
        raise OutputError(
            f"{output}: the manifest's columns are no longer those that the job was begun with: {', '.join(sorted(there ^ here))}; parts of one "
            "dataset have the same ones: put them back, or use another OUT"
        )
    if not grew:
        raise OutputError(
            f"{output}: --extend takes rows added at the manifest's end, and its first {before} rows are no longer those that the job was begun "
            "with; put them back, or use another OUT"
        )
    return (*cuts, before)


def _digest(init: str, config: JobConfig) -> str:
    try:
        return (
            "sha256:" + hashlib.sha256(storage.read(init, max_bytes=config.max_bytes)).hexdigest()
        )
    except NotFound:
        raise UsageError(
            f"init {storage.redact(init)}: no such image; give content, noise, style, or an image's path or URI"
        ) from None


def record(job: Job) -> dict[str, Any]:
    """The job's record for job.json."""
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
