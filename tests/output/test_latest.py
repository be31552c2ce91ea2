"""nstray.output.latest: the last pictures as plain files, which disturb nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, pair, weights
from outputs import make_output, picture

from nstray import storage
from nstray.commands import export, verify
from nstray.engine.network.weights import VGGWeights
from nstray.images.encode import encode
from nstray.output import latest
from nstray.output.folder import Output
from nstray.output.latest import KEEP, LatestPictures
from nstray.sources.listing.detect import open_source
from nstray.sources.listing.parquet_files import ParquetPictures
from nstray.sources.listing.pictures import Options

__all__ = ["weights"]  # a fixture


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    monkeypatch.setattr(latest, "EVERY", 0.0)
    (tmp_path / "out/.nstray").mkdir(parents=True)
    return Output(str(tmp_path / "out"))


def row(name: str, data: bytes = b"x") -> dict[str, Any]:
    return {"image": {"bytes": data, "path": name}}


def files(output: Output) -> list[str]:
    return sorted(os.listdir(output.latest_uri))


def test_the_last_ones_are_there_whole(output: Output) -> None:
    pictures = LatestPictures(output)
    pictures.add([row(f"a{i}.png", bytes([i])) for i in range(3)])
    assert files(output) == ["a0.png", "a1.png", "a2.png"]
    assert (Path(output.latest_uri) / "a2.png").read_bytes() == b"\x02"
    for name in files(output):
        os.utime(Path(output.latest_uri) / name, (0, 0))
    for number in range(1, 21):
        pictures.add([row(f"b{number:02}.png"), {"image": None}])
        os.utime(Path(output.latest_uri) / f"b{number:02}.png", (number, number))
    assert files(output) == [f"b{n}.png" for n in range(13, 21)]
    shutil.rmtree(output.latest_uri)
    pictures.add([row(f"c{i:02}.png") for i in range(30)])
    assert files(output) == [f"c{i}.png" for i in range(30 - KEEP, 30)]
    pictures.add([row("c29.png", b"again")])
    assert (Path(output.latest_uri) / "c29.png").read_bytes() == b"again"


def test_it_writes_once_a_second_at_most(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest, "EVERY", 1.0)
    clock = [100.0]
    monkeypatch.setattr(latest.time, "monotonic", lambda: clock[0])
    pictures = LatestPictures(output)
    for step, name in ((0, "a.png"), (0.5, "b.png"), (0.6, "c.png")):
        clock[0] += step
        pictures.add([row(name)])
    assert files(output) == ["a.png", "c.png"]


@pytest.mark.parametrize("name", ["../../escaped.png", "/tmp/escaped.png", ".hidden.png", "a/b.png", "run.sh"])
def test_a_name_is_no_path(output: Output, name: str) -> None:
    LatestPictures(output).add([row(name)])
    assert files(output) == []
    assert not Path(output.out, "escaped.png").exists()


def test_files_of_others_stay(output: Output) -> None:
    folder = Path(output.latest_uri)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    LatestPictures(output).add([row(f"a{i}.png") for i in range(KEEP)])
    assert (folder / "notes.txt").exists()


def test_what_can_t_be_written_fails_nothing(output: Output) -> None:
    Path(output.latest_uri).write_text("a file where the folder should be")
    LatestPictures(output).add([row("a.png")])
    shutil.rmtree(output.out)
    LatestPictures(output).add([row("a.png")])
    assert not Path(output.out).exists()  # it was removed, and is not made again


def test_a_store_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest, "_put", lambda *_: pytest.fail("it was written"))
    LatestPictures(Output("s3://bucket/out")).add([row("a.png")])


def test_a_worker_writes_them_after_the_commit(tmp_path: Path, weights: VGGWeights) -> None:
    bench = Bench(tmp_path, weights)
    bench.run([pair("a"), pair("b", content="missing.png")])
    found = {path.name: path.read_bytes() for path in tmp_path.glob("out-1/.nstray/latest/*")}
    made = bench.run([pair("a")])["a"]
    assert set(found) == {"a.png"}
    assert found["a.png"] == made["image"]["bytes"]


def test_they_disturb_nobody(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    card = storage.read(Output(made.out).card_uri)
    LatestPictures(Output(made.out)).add([row("c0-s0.png", encode(picture(1, 8, 8), "png"))])
    assert files(Output(made.out)) == ["c0-s0.png"]
    assert verify.verify(made.out).problems == []
    assert export.export(made.out, str(tmp_path / "plain"))["images"] == 6
    assert Output(made.out).job.open(made.job)["warnings"] == []
    assert storage.read(Output(made.out).card_uri) == card
    assert isinstance(open_source(made.out, "content", Options()), ParquetPictures)  # an output is a source of pictures
    assert json.loads(Path(Output(made.out).job_uri).read_text())
