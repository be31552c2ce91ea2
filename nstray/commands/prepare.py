"""A job from its words: everything checked and recorded before any worker starts; the run."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nstray import __version__, storage
from nstray.cluster.progress import Display, Tally
from nstray.commands import cost, load_weights, spent
from nstray.config import JobConfig, fingerprint, make
from nstray.engine import settings
from nstray.errors import AccessDenied, ConfigError, ErrorCode, JobFailed, NoSuchBucket, NotFound, OutputError, StorageError, Unreachable, UsageError
from nstray.manifest import cached_check
from nstray.manifest.manifest import Manifest, ManifestInfo
from nstray.manifest.shards import parts_per_window
from nstray.output.folder import Output, carried_schema, encode_schema
from nstray.output.records import FORMAT, GROWN_FORMAT
from nstray.worker.messages import JobSpec

EXIT_COMPLETE, EXIT_FAILED, EXIT_USAGE, EXIT_ERROR_ROWS, EXIT_STOPPED = 0, 1, 2, 3, 4

PART_BYTES = 4e9  # S3 takes 5 GB in one put
PREFLIGHT = 8  # images of one bucket or folder tried before it is called out of reach


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
    content = config.content_layers if config.content_weight > 0 or "content_weight" in info.overrides else ()
    style = config.style_layers if config.style_weight > 0 or "style_weight" in info.overrides else ()
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
        stored = output.find_job()
    init = config.init if config.init in settings.INITS else storage.absolute(config.init)
    init_id = init if init in settings.INITS else _digest(init, config)
    cuts: tuple[int, ...] = ()
    if stored is None:
        info = manifest.check(config)
    else:
        digest = manifest.digest()
        info = cached_check.again(stored, manifest.uri, digest, config, init_id) or manifest.check(config, stored["rows"], digest)
        cuts = _cuts(output, stored, info, extend)
    loaded = load_weights.read(config.weights, input=config.weights_input, taps=taps(config, info))
    spec = JobSpec(config, output.out, fingerprint(config, loaded.id, init_id), loaded.id, info, init, cuts=cuts)
    evaluations = cost.evaluations(manifest, info, config)
    part = config.shard_size * cost.kind_of(config).pixels * cost.BYTES_PER_PIXEL[config.image_format]
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
        raise type(error)(f"the output {output} can't be opened: {error}; give an OUT that can be written") from None


def _cuts(output: Output, stored: Mapping[str, Any], info: ManifestInfo, extend: bool) -> tuple[int, ...]:
    """Where the windows of a job that was begun are cut (`plan.windows`); raises OutputError for a manifest that grew as it may not."""
    before, cuts = stored["rows"], tuple(stored["cuts"])
    if info.digest == stored["manifest_digest"]:
        return cuts
    grew = info.rows > before and info.marked_digest == stored.get("rows_digest")
    if not extend:
        if grew:
            raise OutputError(f"{output}: the manifest has grown from {before} rows to {info.rows}; give --extend to make the new ones too")
        return cuts
    if "rows_digest" not in stored:
        raise OutputError(
            f"{output} was begun by nstray {stored.get('nstray_version')}, which kept no digest of the manifest's rows, so nothing can tell "
            "whether it only grew; put the new rows into a manifest of their own with an OUT of its own"
        )
    if encode_schema(info.kept) != stored["carried_schema"]:
        there, here = ({f"{f.name} ({f.type})" for f in s} for s in (carried_schema(stored), info.kept))
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
        return "sha256:" + hashlib.sha256(storage.read(init, max_bytes=config.max_bytes)).hexdigest()
    except NotFound:
        raise UsageError(f"init {storage.redact(init)}: no such image; give content, noise, style, or an image's path or URI") from None


def record(job: Job) -> dict[str, Any]:
    """The job's record for job.json."""
    config = job.config.model_dump(mode="json")
    return {
        "format": GROWN_FORMAT if job.spec.cuts else FORMAT,
        "nstray_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "manifest": storage.redact(job.info.uri),
        "manifest_digest": job.info.digest,
        "rows": job.info.rows,
        "rows_digest": job.info.rows_digest,
        "cuts": list(job.spec.cuts),
        "checked": cached_check.keep(job.info),
        "shard_size": job.config.shard_size,
        "fingerprint": job.spec.fingerprint,
        "weights_id": job.weights.id,
        "weights": storage.redact(job.config.weights),
        "result": job.config.result_fields(job.init_id),
        "config": {**config, "weights": storage.redact(config["weights"]), "init": storage.redact(config["init"])},
        "carried_schema": encode_schema(job.info.kept),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "torchvision", "ray", "pyarrow", "pillow", "boto3", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def run(job: Job) -> int:
    """Run or resume; returns the exit code. Raises the errors of `nstray.errors`."""
    with _opening(job.output):
        stored = job.output.open_job(record(job))
    tally = Tally(job.info.rows, expected_evaluations=float(job.evaluations))
    with Display(tally) as display:
        for warning in (*job.info.warnings, *stored["warnings"]):
            display.log(f"event=warning text={warning!r}")
        display.log(
            f"event=job rows={job.info.rows} shards={job.shards} evaluations={job.evaluations} weights={job.weights.id} "
            f"fingerprint={job.spec.fingerprint[:12]} output={job.output}"
        )
        if job.weights.source == "random":
            display.log("event=warning text='weights random: colours and texture, not what the trained network gives; see README, Glossary'")
        summary = job.output.read_summary()
        if job.spec.retry:
            rows = _to_retry(job)
            display.log(f"event=retry rows={rows} codes={','.join(job.spec.retry) if len(job.spec.retry) < len(ErrorCode) else 'all'}")
            if rows or summary is None:
                return _run_on_ray(job, stored, display)
        if summary is not None and summary.get("rows") == job.info.rows and _all_there(job):
            display.log("event=already_complete")
            tally.done = tally.resumed = job.info.rows
            return _verdict(job, summary, display)
        _preflight(job)
        job.output.write_card(stored)
        return _run_on_ray(job, stored, display)


def retry(out: str, codes: Collection[str], changes: Mapping[str, Any], manifest_uri: str | None = None) -> int:
    """Make the error rows of `codes` again (all error rows where empty), leaving every other row as it is; returns the exit code.

    Args:
        changes: settings that may differ from those the job was begun with (`RUN_FIELDS`), and where its weights or init are now.
        manifest_uri: where the manifest is now; default: where it was.
    Raises ConfigError for a code or setting that is none, OutputError where there is no job or it is another one, and as `check` does.
    """
    for code in codes:
        if code not in set(ErrorCode):
            raise ConfigError(f"code: no such error code: {code!r}; there are {', '.join(ErrorCode)}{settings.did_you_mean(code, ErrorCode)}")
    output = Output(out)
    stored = output.read_job()
    known = {name: value for name, value in stored["config"].items() if name in JobConfig.model_fields}
    job = check(manifest_uri or stored["manifest"], out, make({**known, **changes}))
    output.compare_job(stored, record(job))
    job = dataclasses.replace(job, spec=dataclasses.replace(job.spec, retry=tuple(codes) or tuple(ErrorCode)))
    return run(job)


def _to_retry(job: Job) -> int:
    """Error rows that a retry would make again."""
    with ThreadPoolExecutor(storage.LIST_THREADS) as pool:
        found = pool.map(lambda window: job.output.window_counts(*window), enumerate(job.layout))
        return sum(counts.errors.get(code, 0) for counts in found if counts is not None for code in job.spec.retry)


def _all_there(job: Job) -> bool:
    """Whether every part of a job that has a summary still exists: one that was damaged and removed is to be made again."""
    expected = job.layout
    with ThreadPoolExecutor(storage.LIST_THREADS) as pool:
        return all(set(there) == set(range(n)) for there, n in zip(pool.map(job.output.list_window, range(len(expected))), expected, strict=True))


def _run_on_ray(job: Job, stored: dict[str, Any], display: Display) -> int:
    # Ray takes a second to import and the checks above must be quick
    from nstray.cluster import driver, ray_session

    started = time.monotonic()
    ray_session.start_ray()
    try:
        ours = driver.Driver(job.spec, job.manifest, job.output, ray_session.stylist_factory(job.spec, job.weights), display)
        outcome = asyncio.run(ours.run())
    finally:
        ray_session.stop_ray()
    counts = outcome.counts
    if not outcome.complete:
        display.log(f"event=stopped rows_done={counts.rows} rows={job.info.rows} hint=run_the_same_command_again_to_resume")
        return EXIT_STOPPED
    summary = {
        **{name: getattr(counts, name) for name in ("rows", "ok", "errors", "parts", "bytes", "evaluations", "seconds", "started", "finished")},
        "last_run_seconds": round(time.monotonic() - started, 3),
        "last_run_rows": counts.rows - outcome.before.rows,
        "last_run_bytes": counts.bytes - outcome.before.bytes,
        "last_run_devices": outcome.devices,
        "last_run_device_hours": round(outcome.device_seconds / 3600, 6),
        "last_run_evaluations_per_s": round(display.tally.evaluations / (time.monotonic() - started), 3),
        "last_run_busy": display.tally.busy,
        "nstray_version": __version__,
    }
    if not job.spec.retry and (forecast := spent.forecast_of(job.output.read_estimate(), job.spec.fingerprint, summary)) is not None:
        summary["estimate"] = forecast
    if not _all_there(job):
        raise JobFailed(f"{job.output}: parts that workers committed are not to be seen from here; use s3:// or a folder that all machines share")
    job.output.write_card(stored, counts)
    job.output.write_summary(summary)
    display.log(f"event=cost {spent.line(summary)}")
    return _verdict(job, summary, display)


def _verdict(job: Job, summary: dict[str, Any], display: Display) -> int:
    errors = sum(summary["errors"].values())
    words = " ".join(f"error_{code}={n}" for code, n in sorted(summary["errors"].items()))
    display.log(f"event=complete rows={summary['rows']} ok={summary['ok']} errors={errors} {words}".rstrip())
    share = errors / summary["rows"]
    if share > job.config.max_error_rate:
        display.log(
            f"event=error_rows share={share:.4g} allowed={job.config.max_error_rate:g} "
            "hint=their_reasons_are_in_error_code_and_error_message;_raise_max_error_rate_to_accept_them"
        )
        return EXIT_ERROR_ROWS
    return EXIT_COMPLETE


def _preflight(job: Job) -> None:
    """Stop before any worker starts where the images are out of reach altogether, rather than write it up pair by pair.

    Tries the first images of each bucket, and of the local disk, among the manifest's first rows. Stops where a bucket does
    not exist, does not answer, or refuses every one of them, and where none of `PREFLIGHT` images exists anywhere: a manifest
    that was moved without its pictures. A missing picture among others is its pair's error row.
    """
    first = next(job.manifest.tables(job.info)).slice(0, 1000)
    places: dict[str, list[str]] = {}
    for uri in dict.fromkeys([*first["content"].to_pylist(), *(u for styles in first["style"].to_pylist() for u in styles)]):
        if uri:
            places.setdefault(uri.split("/")[2] if storage.is_uri(uri) else "", []).append(uri)
    missing = tried = 0
    for uris in places.values():
        refused: list[StorageError] = []
        for uri in uris[:PREFLIGHT]:
            tried += 1
            try:
                storage.read(uri, max_bytes=job.config.max_bytes)
                break
            except (NoSuchBucket, Unreachable):
                raise
            except NotFound:
                missing += 1
            except AccessDenied as error:
                refused.append(error)
            except StorageError:
                break
        if refused and len(refused) == len(uris[:PREFLIGHT]):
            raise refused[0]
    if missing == tried >= PREFLIGHT:
        some = storage.redact(next(iter(places.values()))[0])
        raise UsageError(f"none of the first {tried} images exists, {some} for one: is the manifest where its relative paths start?")
