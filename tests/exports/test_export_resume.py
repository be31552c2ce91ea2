"""An export that is killed goes on; another one on the same folder is refused; targets on S3."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets_made import class_folders, content, dataset, files, row

from nstray import storage
from nstray.commands.export import export
from nstray.errors import OutputError
from nstray.exports import export as passes
from nstray.exports import source
from nstray.exports.worker import Worker
from nstray.output.folder import Output

FORMATS = ("imagefolder", "webdataset", "parquet")
NSTRAY = (sys.executable, "-P", "-c", "from nstray.__main__ import main; main()")


class Dead(BaseException):
    """The end of a process."""


def contents(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files(folder)}


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An output of 60 rows in 8 parts, which are 8 units."""
    monkeypatch.setattr(source, "_MIN_UNIT", 1)
    monkeypatch.setattr(source, "_MAX_UNIT", 1)
    monkeypatch.setattr(source, "_units", lambda found, size: tuple((source.Slice(i.uri, n),) for n, i in enumerate(found)))
    rows = [row(tmp_path, i, f"cat/{i}.jpg", split=("train", "val")[i % 5 == 0]) for i in range(60)]
    return dataset(tmp_path, rows, part=8)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("put", [2, 9, 16, 23])
def test_an_export_that_dies_at_any_put_goes_on_and_is_the_same(
    many: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, put: int
) -> None:
    words: dict[str, Any] = {"format": kind, "workers": 1} | ({} if kind == "imagefolder" else {"shard_mb": 0.02, "shuffle": "5"})
    whole = tmp_path / "whole"
    counts = export(many, str(whole), **words)
    to = tmp_path / "to"
    honest = {name: getattr(storage, name) for name in ("put_new", "put_over", "put_file")}
    done = 0

    def dying(name: str) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done == put:
                raise Dead
            return honest[name](*arguments, **more)

        return call

    for name in honest:
        monkeypatch.setattr(storage, name, dying(name))
    with pytest.raises(Dead):
        export(many, str(to), **words)
    again: list[int] = []
    spread = Worker.spread
    monkeypatch.setattr(Worker, "spread", lambda self, unit: again.append(unit) or spread(self, unit))
    assert export(many, str(to), **words) == counts
    assert contents(to) == contents(whole)
    assert not (to / ".nstray-export").exists()
    assert put < 6 or len(again) < 8  # units that were done are not done again
    again.clear()
    assert export(many, str(to), **words) == counts
    assert again == []


def test_workers_change_nothing(many: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {"format": "parquet", "shard_mb": 0.02}
    one, three = tmp_path / "one", tmp_path / "three"
    assert export(many, str(one), workers=1, **words) == export(many, str(three), workers=3, scratch=str(tmp_path / "s"), **words)
    assert contents(one) == contents(three)
    assert list((tmp_path / "s").iterdir()) == []


def test_another_command_on_the_folder_is_refused(many: str, tmp_path: Path) -> None:
    to = tmp_path / "to"
    export(many, str(to), format="parquet", workers=1)
    before = contents(to)
    (tmp_path / "ids.txt").write_text("p0001\n")
    for words, message in (
        ({"format": "parquet", "shuffle": "7"}, "shuffle: 0 there, 7 here"),
        ({"format": "webdataset"}, "format: 'parquet' there, 'webdataset' here"),
        ({"format": "parquet", "resize": 8}, "resize: None there, 8 here"),
        ({"format": "parquet", "exclude": str(tmp_path / "ids.txt")}, "exclude: None there, 'sha256:"),
    ):
        with pytest.raises(OutputError, match=f"another export was begun there: {message}"):
            export(many, str(to), workers=1, **words)
    Output(many).parts.replace("part-00000-0001.parquet", b"another", storage.head(f"{many}/data/part-00000-0001.parquet").etag)
    with pytest.raises(OutputError, match="parts: '8 parts of "):
        export(many, str(to), format="parquet", workers=1)
    assert contents(to) == before


def test_a_file_that_is_changed_meanwhile_is_said(many: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "to"
    honest = passes._second_pass

    def second(*arguments: Any) -> Any:
        counts = honest(*arguments)
        (to / "data" / "val-00000-of-00001.parquet").unlink()
        (to / "data" / "other.parquet").write_bytes(b"x")
        return counts

    monkeypatch.setattr(passes, "_second_pass", second)
    with pytest.raises(OutputError, match="does another program write there"):
        export(many, str(to), format="parquet", workers=1)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_that_was_emptied_is_filled_again(many: str, tmp_path: Path, kind: str) -> None:
    """`rm -r to/*` leaves the hidden record there."""
    to = tmp_path / "to"
    words: dict[str, Any] = {"format": kind, "workers": 1} | ({} if kind == "imagefolder" else {"shard_mb": 0.02})
    counts = export(many, str(to), **words)
    before = contents(to)
    for path in to.iterdir():
        if not path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert export(many, str(to), **words) == counts
    assert contents(to) == before
    assert (to / "README.md").exists()
    (to / list(before)[-1]).unlink()
    (to / "notes.txt").write_text("x")
    said = f"its export was complete with {counts['files']} files of {counts['bytes']:,} bytes; now {counts['files']} of [0-9,]+ are there"
    with pytest.raises(OutputError, match=said):
        export(many, str(to), **words)


def test_an_output_that_holds_a_row_twice_is_refused(tmp_path: Path) -> None:
    rows = [row(tmp_path, i, f"{i}.jpg") for i in range(8)]
    rows[6] = {**rows[6], "pair_id": "p0001"}
    out = dataset(tmp_path, rows)
    for kind in ("webdataset", "parquet"):
        with pytest.raises(OutputError, match="pair_id p0001 stands in the output twice"):
            export(out, str(tmp_path / kind), format=kind, workers=1)


def test_an_output_that_still_runs_is_exported_as_far_as_it_is(tmp_path: Path) -> None:
    out = dataset(tmp_path, [row(tmp_path, i, f"{i}.jpg") for i in range(8)])
    storage.delete(f"{out}/data/part-00000-0001.parquet")
    said: list[str] = []
    assert export(out, str(tmp_path / "to"), format="parquet", workers=1, on_warning=said.append)["images"] == 4
    assert said == ["the output is not complete: 4 of its 8 rows are there, and the others are not exported"]


def test_a_part_of_many_rows_is_several_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nstray.output.part_file.ROWS_PER_GROUP", 5)
    out = dataset(tmp_path, [row(tmp_path, i, f"{i}.jpg") for i in range(64)], part=32)
    monkeypatch.setattr(source, "_MIN_UNIT", 5_000)
    found = source.find_source(Output(out), Output(out).job.read())
    assert len(found.units) > 4
    to = tmp_path / "to"
    assert export(out, str(to), format="parquet", workers=1, shuffle="none")["images"] == 64
    table = pa.concat_tables(pq.read_table(p) for p in sorted((to / "data").iterdir()))
    assert table["pair_id"].to_pylist() == [f"p{i:04d}" for i in range(64)]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_target_on_s3(tmp_path: Path, s3: str, kind: str) -> None:
    rows = class_folders(tmp_path)
    rows[0]["content_sha256"] = content(tmp_path, "train/cat/001.jpg", 1)
    out = dataset(tmp_path, rows, out=f"{s3}/made")
    local, to = tmp_path / "local", f"{s3}/to"
    counts = export(out, str(local), format=kind, workers=1)
    assert export(out, to, format=kind, workers=2) == counts
    found = {i.uri.removeprefix(f"{to}/"): hashlib.sha256(storage.read(i.uri)).hexdigest() for i in storage.list_files(to)}
    assert {n: d for n, d in found.items() if not n.startswith(".") and n != "README.md"} == contents(local)
    assert [n for n in found if n.startswith(".")] == [".nstray-export.json"]
    assert export(out, to, format=kind, workers=2) == counts


def test_a_scratch_folder_on_this_disk_for_a_target_on_s3(tmp_path: Path, s3: str) -> None:
    out = dataset(tmp_path, class_folders(tmp_path))
    export(out, f"{s3}/to", format="parquet", workers=1, scratch=str(tmp_path / "scratch"))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [storage.name(i.uri) for i in storage.list_files(f"{s3}/to/data")] == ["train-00000-of-00001.parquet", "val-00000-of-00001.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_process_that_is_killed_leaves_no_other_behind(tmp_path: Path, kind: str) -> None:
    """SIGKILL of the command alone: its workers end by themselves, and the same command goes on."""
    rows = [row(tmp_path, i, f"cat/{i}.jpg") for i in range(1000)]
    out, to = dataset(tmp_path, rows, part=40), tmp_path / "to"
    words = [*NSTRAY, "export", out, "--to", str(to), "--format", kind, "--workers", "2", "--resize", "12"]
    seen = 0
    for _ in range(2):
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 300
        while time.monotonic() < until and running.poll() is None and len(list(to.rglob("*"))) <= seen + 3:
            time.sleep(0.05)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split() if running.poll() is None else []
        running.send_signal(signal.SIGKILL)
        running.wait()
        seen = len(list(to.rglob("*")))
        while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < until:
            time.sleep(0.05)
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, env={**os.environ}, timeout=600)
    assert done.returncode == 0, done.stderr
    assert '"images": 1000' in done.stdout
    whole = tmp_path / "whole"
    export(out, str(whole), format=kind, workers=1, resize=12)
    assert contents(to) == contents(whole)
    assert not list(to.rglob(".nstray-put-*"))


def begun(tmp_path: Path, *more: str) -> tuple[list[str], subprocess.Popen[str], Path]:
    """An export of two processes that has read some units, its words and its target."""
    out, to = dataset(tmp_path, [row(tmp_path, i, f"cat/{i}.jpg") for i in range(4000)], part=100), tmp_path / "to"
    words = [*NSTRAY, "export", out, "--to", str(to), "--format", "parquet", "--workers", "2", "--resize", "12", *more]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while time.monotonic() < until and not (to / ".nstray-export" / "runs").exists():
        time.sleep(0.02)
    return words, running, to


@pytest.mark.slow
def test_a_worker_process_that_is_killed_is_said_and_the_command_goes_on(tmp_path: Path) -> None:
    words, running, to = begun(tmp_path)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    workers = [pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, said = running.communicate(timeout=400)
    assert running.returncode == 1
    assert "a worker process of the export was killed, perhaps because memory ran out" in said
    assert "Traceback" not in said
    assert subprocess.run(words, capture_output=True, timeout=600).returncode == 0
    assert sum(pq.read_metadata(p).num_rows for p in (to / "data").iterdir()) == 4000


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_export_with_its_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    words, running, to = begun(tmp_path)
    running.send_signal(number)
    _, said = running.communicate(timeout=400)
    assert running.returncode == 4
    assert said.splitlines()[-1] == "nstray: interrupted; run the same command again to resume"
    assert "Traceback" not in said
    assert subprocess.run(words, capture_output=True, timeout=600).returncode == 0
    assert sum(pq.read_metadata(p).num_rows for p in (to / "data").iterdir()) == 4000
