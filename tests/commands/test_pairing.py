"""A job that is given sources of pictures in place of a manifest: it keeps its pairs, and goes on from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import picture

from nstray.commands import run as run_module
from nstray.commands.prepare import Job, record
from nstray.images.encode import encode

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("weights_once")
WORDS = ("--weights", "random", *jobs.options({**jobs.SETTINGS, "size": 24, "evaluations": 1}))


def image(seed: int) -> bytes:
    return encode(picture(seed, 24, 24), "png")


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str, str]:
    """A Parquet file of three pictures in a column ``photo`` and one in ``other``, a folder of two styles, and an output."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": image(seed), "path": f"{seed}.png"} for seed in range(3)], kind)
    pq.write_table(pa.table({"photo": cells, "other": cells, "label": ["a", "b", "a"]}), tmp_path / "photos.parquet")
    (tmp_path / "paintings").mkdir()
    for seed in (7, 8):
        (tmp_path / f"paintings/s{seed}.png").write_bytes(image(seed))
    return str(tmp_path / "photos.parquet"), str(tmp_path / "paintings"), str(tmp_path / "out")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """`run` begins a job and runs nothing; the jobs."""
    found: list[Job] = []

    def begin(job: Job) -> int:
        job.output.job.open(record(job))
        found.append(job)
        return 0

    monkeypatch.setattr(run_module, "run", begin)
    return found


def run(call: Call, sources: tuple[str, str, str], *more: str, command: str = "run") -> tuple[int, str, str]:
    contents, styles, out = sources
    return call(command, contents, out, "--style", styles, "--content-column", "photo", *WORDS, *more)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_parquet_file_of_pictures_is_run_moved_and_retried(sources: tuple[str, str, str], call: Call) -> None:
    code, _, err = run(call, sources)
    assert (code, "6 pairs of " in err) == (0, True), err
    rows = pq.read_table(f"{sources[2]}/data", columns=["content_uri", "style_uri", "label", "status"]).to_pylist()
    assert sorted((row["content_uri"].rpartition("/")[2], row["style_uri"][0].rpartition("/")[2], row["label"], row["status"]) for row in rows) == [
        (f"photos.parquet::photo[{i}]", f"s{s}.png", "aba"[i], "ok") for i in range(3) for s in (7, 8)
    ]
    moved = shutil.move(sources[2], f"{sources[2]}-moved")
    assert call("verify", moved)[0] == 0
    code, _, err = call("retry", moved)
    assert (code, "rows=6 ok=6 errors=0" in err) == (0, True), err
    code, _, err = run(call, (*sources[:2], moved))
    assert (code, "event=already_complete" in err) == (0, True), err


def test_a_resume_takes_the_pairs_as_they_are(sources: tuple[str, str, str], call: Call, begun: list[Job]) -> None:
    assert run(call, sources)[0] == 0
    Path(sources[1], "new.png").write_bytes(image(9))
    for command in ("run", "plan"):
        code, _, err = run(call, sources, command=command)
        assert (code, "pairs of" in err) == (0, False), err
    assert [job.info.rows for job in begun] == [6, 6]
    assert {job.info.uri for job in begun} == {f"{sources[2]}/.nstray/pairs.parquet"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--pairs", "1"], "its pairs were made of other sources: --pairs all then, 1 now"),
        (["--content-column", "other"], "--content-column photo then, other now"),
        (["--extend"], "--extend takes rows added at a manifest's end"),
        (["--style", "{content}"], "--style {style} then, {content} now"),
    ],
)
def test_a_job_of_other_sources_is_refused(sources: tuple[str, str, str], words: list[str], why: str, call: Call, begun: list[Job]) -> None:
    names = dict(zip(("content", "style"), sources, strict=False))
    assert run(call, sources)[0] == 0
    kept = Path(sources[2], ".nstray/pairs.parquet").read_bytes()
    for command in ("run", "plan"):
        code, _, err = run(call, sources, *(word.format(**names) for word in words), command=command)
        assert (code, why.format(**names) in err) == (2, True), err
    assert Path(sources[2], ".nstray/pairs.parquet").read_bytes() == kept
    assert len(begun) == 1


def test_pairs_of_a_job_that_did_not_begin_are_made_again(sources: tuple[str, str, str], call: Call, begun: list[Job]) -> None:
    assert run(call, sources, "--shard-size", "0")[0] == 2
    assert run(call, sources, "--weights", "missing.safetensors")[0] == 2
    assert begun == []
    assert run(call, sources, "--pairs", "1")[0] == 0
    assert begun[0].info.rows == 3


def test_a_job_of_a_manifest_takes_no_sources(sources: tuple[str, str, str], call: Call, begun: list[Job], tmp_path: Path) -> None:
    assert call("manifest", "build", "--content", sources[1], "--style", sources[1], "-o", str(tmp_path / "m.csv"))[0] == 0
    assert call("run", str(tmp_path / "m.csv"), sources[2], *WORDS)[0] == 0
    code, _, err = run(call, sources)
    assert (code, "its job was begun from a manifest; give that in place of --style" in err) == (2, True), err
    assert not Path(sources[2], ".nstray/pairs.parquet").exists()


def test_damaged_pairs_of_a_job_are_named(sources: tuple[str, str, str], call: Call, begun: list[Job]) -> None:
    assert run(call, sources)[0] == 0
    Path(sources[2], ".nstray/pairs.parquet").write_bytes(b"PAR1")
    code, _, err = run(call, sources)
    assert (code, ".nstray/pairs.parquet, the manifest of its job, is damaged" in err) == (2, True), err


def test_plan_and_check_leave_no_trace(sources: tuple[str, str, str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    code, answer, err = run(call, sources, "--pairs", "1", "--json", command="plan")
    found: dict[str, Any] = json.loads(answer)
    assert (code, found["rows"], found["manifest"]) == (0, 3, f"pairs of {sources[0]} and {sources[1]}"), err
    code, answer, err = call("manifest", "check", sources[1], "--style", sources[1], "--json")
    assert (code, json.loads(answer)["rows"]) == (0, 4), err
    assert not Path(sources[2]).exists()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--content-column", "photo"], "give --style, or leave them out"),
        (["--pairs", "2"], "give --style, or leave them out"),
        ([], "no column content; its columns are photo, other, label; to pair its pictures with styles, name these with --style"),
        (["--style", "{style}"], "2 columns of pictures (photo, other); choose one with --content-column"),
        (["--style", "{style}", "--content-column", "phot"], "--content-column phot: this column is not there"),
        (["--style", "{style}x", "--content-column", "photo"], "{style}x: does not exist"),
        (["--style", "{style}", "--content-column", "photo", "--pairs", "3"], "--pairs 3: only 2 styles"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_is_asked_wrongly(sources: tuple[str, str, str], command: str, words: list[str], why: str, call: Call) -> None:
    contents, styles, out = sources
    code, _, err = call(command, contents, out, *WORDS, *(word.format(style=styles) for word in words))
    assert (code, why.format(style=styles) in err) == (2, True), err
    assert not Path(out).exists()
