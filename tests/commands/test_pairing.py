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

from nstray import storage
from nstray.commands import pairing
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
    assert sorted((row["content_uri"], row["style_uri"][0], row["label"], row["status"]) for row in rows) == [
        (f"photos.parquet::photo[{i}]", f"paintings/s{s}.png", "aba"[i], "ok") for i in range(3) for s in (7, 8)
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
        assert (code, "pairs of" in err, "--extend adds those of pictures that came since" in err) == (0, False, True), err
    assert [job.info.rows for job in begun] == [6, 6]
    assert {job.info.uri for job in begun} == {f"{sources[2]}/.nstray/manifest.parquet"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--pairs", "1"], "its pairs were made of other sources: --pairs all then, 1 now"),
        (["--content-column", "other"], "--content-column photo then, other now"),
        (["--style", "{content}"], "--style paintings then, photos.parquet now"),
    ],
)
def test_a_job_of_other_sources_is_refused(sources: tuple[str, str, str], words: list[str], why: str, call: Call, begun: list[Job]) -> None:
    names = dict(zip(("content", "style"), sources, strict=False))
    assert run(call, sources)[0] == 0
    kept = Path(sources[2], ".nstray/manifest.parquet").read_bytes()
    for command in ("run", "plan"):
        code, _, err = run(call, sources, *(word.format(**names) for word in words), command=command)
        assert (code, why.format(**names) in err) == (2, True), err
    assert Path(sources[2], ".nstray/manifest.parquet").read_bytes() == kept
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
    assert not Path(sources[2], ".nstray/manifest.parquet").exists()


def test_damaged_pairs_of_a_job_are_named(sources: tuple[str, str, str], call: Call, begun: list[Job]) -> None:
    assert run(call, sources)[0] == 0
    Path(sources[2], ".nstray/manifest.parquet").write_bytes(b"PAR1")
    code, _, err = run(call, sources)
    assert (code, ".nstray/manifest.parquet, the manifest of its job, is damaged" in err) == (2, True), err


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


# both sources as options, and more pictures later


def pairs_of(out: str) -> list[tuple[str, str]]:
    table = pq.read_table(f"{out}/.nstray/manifest.parquet", columns=["content", "style"])
    return list(zip(table["content"].to_pylist(), table["style"].to_pylist(), strict=True))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str, str]:
    """Folders of three contents and two styles, and an output."""
    for folder, seeds in (("photos", (1, 2, 3)), ("paintings", (7, 8))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            (tmp_path / folder / f"{seed}.png").write_bytes(image(seed))
    return str(tmp_path / "photos"), str(tmp_path / "paintings"), str(tmp_path / "out")


def run_folders(call: Call, folders: tuple[str, str, str], *more: str, command: str = "run") -> tuple[int, str, str]:
    contents, styles, out = folders
    return call(command, "--content", contents, "--style", styles, out, *WORDS, *more)


def test_pairs_of_two_folders_are_relative_to_their_common_parent(
    folders: tuple[str, str, str], call: Call, begun: list[Job], tmp_path: Path
) -> None:
    code, _, err = run_folders(call, folders)
    assert (code, "6 pairs of " in err, "outside" in err) == (0, True, False), err
    assert sorted(pairs_of(folders[2])) == [(f"photos/{i}.png", f"paintings/{s}.png") for i in (1, 2, 3) for s in (7, 8)]
    assert json.loads(Path(folders[2], ".nstray/job.json").read_text())["base"] == str(tmp_path)
    assert begun[0].spec.base == str(tmp_path)
    (table,) = begun[0].manifest.tables(begun[0].info)
    assert set(table["content"].to_pylist()) == {f"{folders[0]}/{i}.png" for i in (1, 2, 3)}
    # The same spelled with MANIFEST, and from elsewhere.
    assert call("run", folders[0], folders[2], "--style", folders[1], *WORDS)[0] == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = tuple(shutil.move(folder, elsewhere) for folder in folders)
    assert run_folders(call, there)[0] == 0
    assert (begun[-1].spec.base, begun[-1].info.order_base) == (str(elsewhere), str(tmp_path))


@pytest.mark.parametrize(("pairs", "number"), [("all", 8), ("1", 2)])
def test_more_pictures_are_taken_with_extend(folders: tuple[str, str, str], pairs: str, number: int, call: Call, begun: list[Job]) -> None:
    contents, styles, out = folders
    assert run_folders(call, folders, "--pairs", pairs)[0] == 0
    first = pairs_of(out)
    for folder, seed in ((contents, 0), (contents, 4), (styles, 6)):
        Path(folder, f"{seed}.png").write_bytes(image(seed))
    Path(contents, "1.png").unlink()
    assert run_folders(call, folders, "--pairs", pairs)[0] == 0
    assert pairs_of(out) == first
    code, answer, err = run_folders(call, folders, "--pairs", pairs, "--extend", "--json", command="plan")
    assert (code, json.loads(answer)["rows"]) == (0, len(first) + number), err
    assert pairs_of(out) == first
    code, _, err = run_folders(call, folders, "--pairs", pairs, "--extend")
    assert (code, "more pairs of" in err) == (0, True), err
    after = pairs_of(out)
    assert after[: len(first)] == first
    added = after[len(first) :]
    assert len(set(after)) == len(after)
    if pairs == "all":
        # Two contents in three styles, and a style for two contents; one content is gone and keeps its rows.
        wanted = {(f"photos/{i}.png", f"paintings/{s}.png") for i in (0, 4) for s in (6, 7, 8)} | {
            (f"photos/{i}.png", "paintings/6.png") for i in (2, 3)
        }
        assert set(added) == wanted
    else:
        assert sorted(content for content, _ in added) == ["photos/0.png", "photos/4.png"]
    assert begun[-1].info.rows == len(after)
    code, _, err = run_folders(call, folders, "--pairs", pairs, "--extend")
    assert (code, "0 more pairs of" in err) == (0, True), err
    assert pairs_of(out) == after


def test_a_new_class_is_taken_and_a_new_column_is_not(sources: tuple[str, str, str], call: Call, begun: list[Job]) -> None:
    assert run(call, sources)[0] == 0
    first = pairs_of(sources[2])
    table = pq.read_table(sources[0])
    more = pa.concat_tables([table, table.slice(0, 1).set_column(2, "label", pa.array(["new"]))])
    pq.write_table(more.append_column("caption", pa.array(["x"] * 4)), sources[0])
    code, _, err = run(call, sources, "--extend")
    assert (code, "the pictures have other columns than when the job was begun: caption: string" in err) == (2, True), err
    assert pairs_of(sources[2]) == first
    pq.write_table(more, sources[0])
    code, _, err = run(call, sources, "--extend")
    assert (code, "2 more pairs of" in err) == (0, True), err
    assert pq.read_table(f"{sources[2]}/.nstray/manifest.parquet")["label"].to_pylist() == ["a", "a", "b", "b", "a", "a", "new", "new"]


def test_a_style_in_another_place_is_named_by_its_whole_path(tmp_path: Path, call: Call, begun: list[Job], s3: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(image(1))
    storage.put_new(f"{s3}/styles/7.png", image(7))
    code, _, err = call("run", "--content", str(tmp_path / "photos"), "--style", f"{s3}/styles", f"{s3}/out", *WORDS)
    assert (code, f"the styles lie outside {tmp_path}" in err) == (0, True), err
    (table,) = begun[0].manifest.tables(begun[0].info)
    assert (table["content"].to_pylist(), table["style"].to_pylist()) == ([f"{tmp_path}/photos/1.png"], [[f"{s3}/styles/7.png"]])
    # Its author named local folders: a retry from the record alone may read them.
    assert begun[0].config.allow_local


@pytest.mark.parametrize(
    ("content", "style", "base"),
    [
        ("/d/photos", "/d/paintings", "/d"),
        ("/d", "/d/paintings", "/d"),
        ("/data/photos", "/home/paintings", "/data"),
        ("/photos", "/paintings", "/"),
        ("s3://b/photos", "s3://b/art/paintings", "s3://b"),
        ("s3://b/a/photos", "s3://c/a/paintings", "s3://b/a"),
        ("/d/photos", "s3://b/paintings", "/d"),
        ("s3://b/a/x", "s3://b/a/xy", "s3://b/a"),
    ],
)
def test_the_folder_that_two_sources_have_in_common(content: str, style: str, base: str) -> None:
    assert pairing.common_folder(content, style) == base


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--content", "{photos}", "{out}"], "--content names a source of contents"),
        (["m.csv", "{out}", "--content", "{photos}", "--style", "{paintings}"], "stands in place of MANIFEST; leave m.csv out"),
        (["--content", "{photos}", "--style", "{paintings}"], "Missing argument: OUT"),
        (["m.csv"], "Missing argument: OUT"),
        ([], "Missing argument: MANIFEST (or --content and --style)"),
        (["--content", "{photos}s", "--style", "{paintings}", "{out}"], "photoss: does not exist"),
        (["--content", "{empty}", "--style", "{paintings}", "{out}"], "empty"),
    ],
)
def test_words_that_do_not_fit(words: list[str], why: str, folders: tuple[str, str, str], call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    names = {"photos": folders[0], "paintings": folders[1], "out": folders[2], "empty": str(tmp_path / "empty")}
    for command in ("run", "plan"):
        code, _, err = call(command, *(word.format(**names) for word in words), *WORDS)
        assert (code, why in err, "Traceback" in err) == (2, True, False), err
    assert not Path(folders[2]).exists()
