"""nstray.commands.shard_size: `shard_size: auto` is chosen when a job begins, and every later run takes what was chosen."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest

from nstray import config
from nstray.commands import prepare, run, shard_size
from nstray.commands.plan import plan
from nstray.commands.shard_size import FEW_PARTS, MANY_PARTS, MOST, USUAL, by_rows, on_cpu
from nstray.errors import OutputError, UsageError
from nstray.output.folder import Output
from nstray.system import gpus

AUTO = {**jobs.SETTINGS, "weights": "random", "shard_size": "auto", "device": "cpu"}


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    return jobs.write_inputs(str(tmp_path), contents=3, styles=4)[0]


def checked(tmp_path: Path, manifest: str, **settings: Any) -> prepare.Job:
    return prepare.check(manifest, str(tmp_path / "out"), config.make({**AUTO, **settings}))


def begin(job: prepare.Job) -> dict[str, Any]:
    return job.output.job.open(prepare.record(job))


# the rule


@pytest.mark.parametrize(
    ("rows", "least", "size"),
    [
        (1, 1, 1),
        (32, 1, 1),
        (FEW_PARTS, 1, 1),
        (FEW_PARTS + 1, 1, 2),
        (5_000, 1, 5),
        (16_000, 1, USUAL),
        (1_000_000, 1, USUAL),
        (USUAL * MANY_PARTS, 1, USUAL),
        (USUAL * MANY_PARTS + 1, 1, USUAL + 1),
        (100_000_000, 1, 100),
        (4_000_000_000, 1, MOST),
        (32, 8, 8),
        (100_000, 8, USUAL),
        (32, 32, 32),
        (32, 4096, MOST),
    ],
)
def test_the_rule(rows: int, least: int, size: int) -> None:
    assert by_rows(rows, least) == size


def test_parts_are_few_or_of_the_usual_size() -> None:
    for rows in sorted({round(1.3**k) for k in range(1, 80)}):
        size = by_rows(rows, 1)
        assert size >= USUAL or -(-rows // size) <= FEW_PARTS


@pytest.fixture
def gpu_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(gpus, "DEVICES", (str(tmp_path / "nvidia[0-9]*"),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "nvidia0"


def test_where_the_workers_will_be(gpu_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = config.make({})
    assert on_cpu(auto)
    assert not on_cpu(config.make({"device": "cuda"}))
    gpu_files.touch()
    assert not on_cpu(auto)
    assert on_cpu(config.make({"device": "cpu"}))
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert on_cpu(auto)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # it may have GPUs
    assert not on_cpu(auto)
    monkeypatch.setenv("RAY_ADDRESS", "ftp://head")
    with pytest.raises(UsageError, match="RAY_ADDRESS ftp://head"):
        on_cpu(auto)


def test_large_pictures_make_small_parts(tmp_path: Path, manifest: str) -> None:
    assert checked(tmp_path, manifest, device="cuda").config.rows_per_shard == 8
    huge = checked(tmp_path, manifest, device="cuda", size=8192, image_format="tiff")  # 292 MB each
    assert huge.config.rows_per_shard == 3
    with pytest.raises(UsageError, match=r"shard_size 1: a part would have about 7\.4 GB"):
        checked(tmp_path, manifest, device="cuda", size=65_536)


# a job keeps it


def test_a_job_keeps_what_was_chosen_when_it_began(tmp_path: Path, manifest: str) -> None:
    first = checked(tmp_path, manifest)
    assert (first.config.shard_size, first.shards, plan(first)["shard_size"]) == (1, 12, 1)
    stored = begin(first)
    assert (stored["shard_size"], stored["config"]["shard_size"]) == (1, 1)
    assert "shard_size" not in stored["result"]
    again = checked(tmp_path, manifest, device="cuda")
    assert (again.config.shard_size, again.chosen_shards) == (1, False)
    assert jobs.shards_of(again) == jobs.shards_of(first)
    assert again.spec.fingerprint == first.spec.fingerprint
    assert plan(again)["shards"] == 12
    begin(again)
    begin(checked(tmp_path, manifest, shard_size=1))  # the same number, given
    with pytest.raises(OutputError, match=r"another job: shard_size: 1 there, 4 here"):
        begin(checked(tmp_path, manifest, shard_size=4))


def test_a_number_that_was_given_is_kept_too(tmp_path: Path, manifest: str) -> None:
    begin(checked(tmp_path, manifest, shard_size=5))
    assert checked(tmp_path, manifest).config.shard_size == 5


def test_a_job_that_grows_keeps_it(tmp_path: Path, manifest: str) -> None:
    begin(checked(tmp_path, manifest, device="cuda"))
    with Path(manifest).open("a") as file:
        file.write("".join(f"more-{i},c0.png,s0.png\n" for i in range(5)))
    grown = prepare.check(manifest, str(tmp_path / "out"), config.make(AUTO), extend=True)
    assert (grown.config.shard_size, grown.layout) == (8, [2, 1])
    assert plan(grown)["shards"] == 3


def test_the_fingerprint_of_development_versions_stays(tmp_path: Path, manifest: str) -> None:
    """They took the shard size for a setting that decides results: it stands in their rows and footers."""
    job = checked(tmp_path, manifest, shard_size=16)
    record = prepare.record(job)
    record["result"]["shard_size"] = 16
    record["fingerprint"] = config.fingerprint(job.config, job.weights.id, "content", with_layout=True)
    assert record["fingerprint"] != job.spec.fingerprint
    storage_file = Path(job.output.job_uri)
    storage_file.parent.mkdir(parents=True)
    storage_file.write_text(json.dumps(record))
    resumed = checked(tmp_path, manifest)
    assert (resumed.config.shard_size, resumed.spec.fingerprint) == (16, record["fingerprint"])
    assert begin(resumed)["fingerprint"] == record["fingerprint"]
    with pytest.raises(OutputError, match=r"another job: shard_size: 16 there, 4 here"):
        begin(checked(tmp_path, manifest, shard_size=4))


def test_two_runs_that_begin_at_once_agree(tmp_path: Path, manifest: str) -> None:
    late = checked(tmp_path, manifest, device="cuda")
    begin(checked(tmp_path, manifest))
    job, stored = run._begin(late)
    assert (job.config.shard_size, job.spec.config.shard_size, job.shards, stored["shard_size"]) == (1, 1, 12, 1)
    other = dataclasses.replace(checked(tmp_path, manifest), chosen_shards=True).with_shard_size(4)
    with pytest.raises(OutputError, match="shard_size: 1 there, 4 here"):  # it was not chosen
        run._begin(other)


def test_what_is_not_chosen_yet_can_t_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_size auto is chosen when a job begins"):
        _ = config.make({}).rows_per_shard


def test_the_command_line_says_it(tmp_path: Path, manifest: str, call: Callable[..., tuple[int, str, str]]) -> None:
    words = jobs.options({**AUTO, "weights": "random"})
    code, out, err = call("plan", manifest, tmp_path / "out", "--json", *words)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["shard_size"], told["shards"]) == (1, 12)
    assert not Path(Output(str(tmp_path / "out")).job_uri).exists()
    assert shard_size.PART_BYTES < prepare.PART_BYTES  # what is chosen is never refused
