"""Outputs of other versions: those of 0.1 are read and not resumed; a later version with one more setting resumes those of this one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
from outputs import error_row, footer, make_output, ok_row

from nstray import config, storage
from nstray.cluster.resume import pending_windows
from nstray.commands import export, prepare, report, sheet, status, verify
from nstray.commands.plan import plan
from nstray.commands.retry import retry
from nstray.commands.run import EXIT_COMPLETE, run
from nstray.config import JobConfig
from nstray.errors import OutputError
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output import records
from nstray.output.folder import Output
from nstray.output.part_file import encode_part
from nstray.output.schema import SINCE_FORMAT_3

# A record as nstray 0.1.0 wrote it, of the job that `make_output` makes; MANIFEST stands for the manifest's path.
RECORD_0_1 = """{
 "carried_schema": "/////7AAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAIAAABQAAAABAAAAMj///8AAAECEAAAACAAAAAEAAAAAAAAAAUAAA\
BzcGxpdAAAAAgADAAIAAcACAAAAAAAAAFAAAAAEAAUAAgABgAHAAwAAAAQABAAAAAAAAEFEAAAABwAAAAEAAAAAAAAAAcAAABjYXB0aW9uAAQABAAEAAAAAAAAAA==",
 "config": {"actors": null, "allow_local": false, "batch_size": 8, "coarse": "none", "color": "style", "color_match": "cholesky",
  "content_layers": ["conv4_2"], "content_weight": 1.0, "cpus_per_actor": 4, "depth": 2, "device": "auto", "dtype": "float32", "evaluations": 500,
  "fine_layers": ["conv1_1", "conv2_1"], "gpus_per_actor": 1.0, "image_format": "png", "init": "content", "learning_rate": 0.02,
  "loss_scale": "mean", "max_bytes": 67108864, "max_error_rate": 0.01, "max_pixels": 100000000, "optimizer": "lbfgs", "pooling": "average",
  "preset": null, "quality": null, "range_weight": 0.0, "seed": 0, "shard_size": 2, "size": 24, "size_rule": "longest", "stall_timeout": 900.0,
  "style_layer_weights": [], "style_layers": ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"], "style_scale": 1.0,
  "style_statistic": "gram", "style_weight": 1000.0, "tile_size": 0, "tv_weight": 0.0, "upsample": false, "value_range": "clamped",
  "weights": "random", "weights_input": "auto"},
 "created_at": "2026-01-02T03:04:05+00:00",
 "cuts": [],
 "fingerprint": "349fbc6b99f1a81ba1be43df888a1574c6bba1b06fee6de7a4e448a7e5c98d2d",
 "format": 1,
 "manifest": "MANIFEST",
 "manifest_digest": "sha256:3b991d5b548a33f5d8e4f6fb2c4b8b4d9dde95bf4c25a614d01a4ac5c790cbbd",
 "nstray_version": "0.1.0",
 "result": {"coarse": "none", "color": "style", "color_match": "cholesky", "content_layers": ["conv4_2"], "content_weight": 1.0,
  "dtype": "float32", "evaluations": 500, "fine_layers": ["conv1_1", "conv2_1"], "image_format": "png", "init": "content", "learning_rate": 0.02,
  "loss_scale": "mean", "max_bytes": 67108864, "max_pixels": 100000000, "optimizer": "lbfgs", "pooling": "average", "quality": null,
  "range_weight": 0.0, "seed": 0, "shard_size": 2, "size": 24, "size_rule": "longest", "style_layer_weights": [],
  "style_layers": ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"], "style_scale": 1.0, "style_statistic": "gram", "style_weight": 1000.0,
  "tv_weight": 0.0, "upsample": false, "value_range": "clamped", "weights_input": "auto"},
 "rows": 6,
 "rows_digest": "sha256:00f3194dcbb374a0d3dddfce770f887f7d0237883e3045457674b00a7f43e99e",
 "shard_size": 2,
 "versions": {"python": "3.11.2", "torch": "2.6.0"},
 "weights": "random",
 "weights_id": "random:0:0123456789abcdef"
}
"""


def as_it_is(record: dict[str, object]) -> None:
    pass


def grown(record: dict[str, object]) -> None:
    record.update(format=2, cuts=[4], rows_digest="sha256:0")


def from_before_manifests_could_grow(record: dict[str, object]) -> None:
    del record["cuts"], record["rows_digest"]


def with_a_setting_that_is_gone(record: dict[str, object]) -> None:
    for settings in (record["config"], record["result"]):
        settings["varnish"] = "thin"  # type: ignore[index]


@pytest.mark.parametrize("change", [as_it_is, from_before_manifests_could_grow, with_a_setting_that_is_gone])
def test_an_output_of_0_1_is_read(tmp_path: Path, change: Callable[[dict[str, object]], None]) -> None:
    made = make_output(tmp_path, errors={"c0-s1": "not_found"}, without=SINCE_FORMAT_3)
    record = json.loads(RECORD_0_1.replace("MANIFEST", made.manifest))
    change(record)
    Path(Output(made.out).job_uri).write_text(json.dumps(record))
    told = status.status(made.out)
    assert (told["state"], told["rows_done"], told["ok"], told["nstray_version"]) == ("complete", 6, 5, "0.1.0")
    checked = verify.verify(made.out)
    assert (checked.problems, checked.rows, checked.ok) == ([], 6, 5)
    assert export.export(made.out, str(tmp_path / "plain"))["images"] == 5
    assert sheet.sheet(made.out, str(tmp_path / "sheet.png")) == 6
    assert report.report(made.out, str(tmp_path / "report.html")).ok == 5


@pytest.mark.parametrize("change", [as_it_is, grown, from_before_manifests_could_grow])
def test_an_output_of_0_1_is_not_resumed(tmp_path: Path, change: Callable[[dict[str, object]], None]) -> None:
    made = make_output(tmp_path)
    output = Output(made.out)
    record = json.loads(RECORD_0_1.replace("MANIFEST", made.manifest))
    change(record)
    before = json.dumps(record)
    Path(output.job_uri).write_text(before)
    settings = config.make({"weights": "random", "size": 24, "shard_size": 2})
    said = rf"was written by nstray 0\.1\.0 \(format {record['format']} of its record\).*finish it with nstray 0\.1\.0, or use another OUT"
    for extend in (False, True):  # `run`, `plan` and `run --extend` all begin here
        with pytest.raises(OutputError, match=said):
            prepare.check(made.manifest, made.out, settings, extend=extend)
    with pytest.raises(OutputError, match=said):
        retry(made.out, (), {})
    with pytest.raises(OutputError, match=said):
        output.job.open(made.job)
    assert Path(output.job_uri).read_text() == before


class Later(JobConfig):
    """The settings of a later version, with one more that decides results."""

    brushes: int = 3


@pytest.fixture
def begun(tmp_path: Path) -> prepare.Job:
    """A job that this version began: all of its parts but the last are there."""
    manifest, weights = jobs.write_inputs(str(tmp_path), contents=2, styles=3)
    settings = {**jobs.SETTINGS, "weights": weights, "shard_size": 2}
    job = prepare.check(manifest, str(tmp_path / "out"), config.make(settings))
    job.output.job.open(prepare.record(job))
    commit(job, 0, 2)
    return job


def commit(job: prepare.Job, first: int, last: int) -> None:
    ((window, table),) = cut_windows(job.manifest.tables(job.info))
    for shard in cut_shards(window, table, job.config.shard_size)[first:last]:
        ids = shard.table["pair_id"].to_pylist()
        rows = [error_row(i) if i == "c0-s0" else ok_row(i) for i in ids]
        foot = footer(ids, window=window, number=shard.number, fingerprint=job.spec.fingerprint)
        assert job.output.parts.commit(shard.name, encode_part(rows, job.spec.schema, foot))


def later(job: prepare.Job, **changes: object) -> prepare.Job:
    settings = {**job.config.model_dump(exclude={"brushes"}), **changes}
    return prepare.check(job.manifest.uri, job.output.out, config.make(settings))


def test_a_later_version_with_one_more_setting_resumes(begun: prepare.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "JobConfig", Later)
    monkeypatch.setattr(records, "JobConfig", Later)
    job = later(begun)
    assert isinstance(job.config, Later)
    assert job.spec.fingerprint == begun.spec.fingerprint
    assert prepare.record(job)["result"]["brushes"] == 3
    assert plan(job)["shards_done"] == 2
    stored = job.output.job.open(prepare.record(job))
    assert "brushes" not in stored["result"]
    (window,) = pending_windows(cut_windows(job.manifest.tables(job.info)), job.spec, job.output)
    assert sorted(window.present) == [0, 1]
    commit(job, 2, 3)
    counts = job.output.indexes.window_counts(0, 3)
    assert counts is not None
    job.output.summary.write({"rows": counts.rows, "ok": counts.ok, "errors": counts.errors})
    assert run(later(begun, max_error_rate=1.0)) == EXIT_COMPLETE
    assert verify.verify(job.output.out, decode=False).problems == []


def test_a_later_setting_off_its_default_makes_another_job(begun: prepare.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "JobConfig", Later)
    job = later(begun, brushes=5)
    assert job.spec.fingerprint != begun.spec.fingerprint
    before = storage.read(job.output.job_uri)
    for call in (lambda: plan(job), lambda: run(job)):
        with pytest.raises(OutputError, match="another job: brushes: 3 there, 5 here"):
            call()
    assert storage.read(job.output.job_uri) == before


def test_the_defaults_of_a_record_format_stay() -> None:
    """A changed default would make the same record another job: it needs a new `records.FORMAT`, and then another digest here."""
    assert (records.FORMAT, config.fingerprint(config.make({}), "weights")) == (3, DEFAULTS)
    assert set(config.result_defaults()) >= config.HASHED_FIELDS
    # Development versions of 0.2 hashed the shard size, 16 by default. Jobs that they began go on with their fingerprint.
    assert config.fingerprint(config.make({"shard_size": 16}), "weights", with_layout=True) == DEVELOPMENT


DEFAULTS = "98ea05e5995c58055782faf547835ad29870ffdfb72e26a1dc53d372b4a46fb7"
DEVELOPMENT = "374e94ee06d756c97cde7f4168c9b17a4e56791aeea064ca36fa8f985680c2d7"
