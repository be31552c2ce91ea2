"""Where an output may go from inside a Ray job: never where Ray runs the job, always where the user said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jobs
import pytest

from nstray.commands import ray_job
from nstray.errors import UsageError

Call = Callable[..., tuple[int, str, str]]
OPTIONS = jobs.options({**jobs.SETTINGS, "weights": "random"})


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that Ray runs `ray job submit --working-dir .` in, with the variable that it sets."""
    folder = tmp_path / "ray" / "session_2026-01-31_12-00-00_123456_77" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.setenv(ray_job.JOB_VARIABLE, json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}, "metadata": {}}))
    monkeypatch.chdir(folder)
    return folder


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("out", ["out", "./out", "../out", "a/../out", "résultats", ".", "my out/"])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_relative_out_is_refused_in_a_job(call: Call, submitted: Path, command: str, out: str) -> None:
    jobs.write_inputs(str(submitted), contents=1, styles=1)
    before = everything(submitted)
    code, stdout, stderr = call(command, "pairs.csv", out, *OPTIONS)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"nstray: OUT {out}: that is {(submitted / out).resolve()}, in Ray's own copy of a job's folder")
    assert "give s3://BUCKET/PREFIX, or the absolute path of a folder that all nodes mount" in stderr
    assert everything(submitted) == before  # no job.json either


def test_a_relative_out_is_refused_in_a_job_without_a_working_dir(
    call: Call, submitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, stderr = call("run", "pairs.csv", "out", *OPTIONS)
    assert code == 2
    assert f"a relative path starts where the Ray head was started, so that is {tmp_path}/out on one machine" in stderr


@pytest.mark.parametrize(
    "words", [("retry", "out"), ("demo",), ("demo", "here"), ("export", "out", "--to", "images"), ("sheet", "out", "-o", "s.png")]
)
def test_every_command_that_writes_what_a_user_looks_for(call: Call, submitted: Path, words: tuple[str, ...]) -> None:
    code, stdout, stderr = call(*words)
    assert (code, stdout) == (2, "")
    assert "in Ray's own copy of a job's folder, which Ray removes; give s3://" in stderr
    assert everything(submitted) == set()


def test_an_absolute_path_into_ray_s_copy_is_refused_however_it_is_written(submitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(submitted)
    monkeypatch.delenv(ray_job.JOB_VARIABLE)  # a user's own program in a task has no such variable
    for out in (submitted, submitted / "out", link / "new" / "out", f"file://{submitted}/out", f"{tmp_path}/link/../link/out"):
        with pytest.raises(UsageError, match="Ray's own copy of a job's folder"):
            ray_job.refuse_its_folder("OUT", str(out))


def test_no_other_path_is_refused(submitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [tmp_path / "out", "/tmp/out", "/home/me/out", tmp_path / "session_1" / "out", tmp_path / "runtime_resources" / "out", "s3://bucket/out"]
    for out in (*given, f"file://{tmp_path}/out", "s3://bucket/session_1/runtime_resources/out"):
        ray_job.refuse_its_folder("OUT", str(out))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ray_job.JOB_VARIABLE)
    ray_job.refuse_its_folder("OUT", "out")


def test_a_relative_manifest_is_read_in_a_job(call: Call, submitted: Path, tmp_path: Path) -> None:
    _, weights = jobs.write_inputs(str(submitted), contents=1, styles=2)
    code, stdout, stderr = call("plan", "pairs.csv", tmp_path / "out", *jobs.options({**jobs.SETTINGS, "weights": weights}))
    assert code == 0, stderr
    answer = dict(line.split(maxsplit=1) for line in stdout.splitlines())
    assert (answer["output"], answer["rows_to_do"]) == (f"{tmp_path}/out", "2")
