"""nstray.commands.load_weights: weights come through a process of their own, whose death is a failure and no wrong setting."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest

from nstray import storage
from nstray.commands import load_weights
from nstray.engine.network.weight_files import parse_weights
from nstray.errors import JobFailed, NotFound, Unreachable, WeightsError


@pytest.fixture
def file(tmp_path: Path) -> str:
    return jobs.write_inputs(str(tmp_path), contents=1, styles=1)[1]


def test_the_arrays_are_those_of_the_file(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    found = load_weights.read(file, input="auto", taps=["conv2_1"])
    direct = parse_weights(Path(file).read_bytes(), file)
    assert (found.id, found.source, found.input) == (direct.id, direct.source, direct.input)
    assert {n: a.dtype for n, a in found.arrays.items()} == dict.fromkeys(direct.tensors, np.dtype(np.float32))
    for name, tensor in direct.tensors.items():
        np.testing.assert_array_equal(found.arrays[name], tensor.numpy())
    assert list(folder.iterdir()) == []


def test_what_is_wrong_with_a_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"nonsense")
    for source, text in ((str(tmp_path / "bad.pth"), "neither .safetensors nor .pth"), (str(tmp_path / "none.pth"), "no such file")):
        with pytest.raises(WeightsError, match=text) as caught:
            load_weights.read(source, input="auto", taps=["conv2_1"])
        assert caught.value.exit_code == 2


DEATHS = [
    ("kill -KILL $$", "was killed by SIGKILL"),
    ("kill -SEGV $$", "was killed by SIGSEGV"),
    ("kill -ABRT $$", "was killed by SIGABRT"),
    ("kill -TERM $$", "was killed by SIGTERM"),
    ("head -c 3 > /dev/null; kill -KILL $$", "was killed by SIGKILL"),
    ("exit 7", "died (code 7)"),
    ("exit 0", "died (code 0)"),
    ('cat > /dev/null & echo "{\\"id\\": 1, \\"shapes\\": {\\"a\\": [2]}}"; printf abc; exit 1', "died (code 1)"),
    ("echo nonsense; exit 1", "died (code 1)"),
]


@pytest.mark.parametrize(("death", "how"), DEATHS)
def test_a_process_that_dies_is_a_failure_to_run_again(death: str, how: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\n{death}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(JobFailed) as caught:
        load_weights.read(file, input="auto", taps=["conv2_1"])
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f"weights {file}: the process that reads them {how}; run the same command again; "
        "if that recurs, the machine or container has too little memory"
    )


@pytest.mark.parametrize(
    ("error", "kind"), [(Unreachable("s3://b/w.pth: no answer"), Unreachable), (NotFound("s3://b/w.pth: no such object"), WeightsError)]
)
def test_a_store_that_is_away_is_no_wrong_setting(error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(storage, "read", read)
    with pytest.raises(kind) as caught:
        load_weights.read("s3://b/w.pth", input="auto", taps=["conv2_1"])
    assert getattr(caught.value, "exit_code", None) == (1 if kind is Unreachable else 2)


def test_a_process_whose_parent_was_killed_ends_and_leaves_nothing(file: str, tmp_path: Path) -> None:
    (folder := tmp_path / "temporary").mkdir()
    text = f"from nstray.commands import load_weights\nload_weights.read({file!r}, input='auto', taps=['conv2_1'])"
    parent = subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.PIPE, text=True)
    below = jobs.until(lambda: jobs.descendants(parent.pid), "the process that reads", alive=parent)
    time.sleep(0.5)
    parent.kill()
    assert parent.communicate(timeout=60)[1] == ""
    jobs.until(lambda: not jobs.alive(below), "its end", seconds=120)
    assert list(folder.iterdir()) == []


def test_an_interrupt_ends_the_process(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            started.append(self.pid)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()  # it takes a second to import torch

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background
    try:
        with pytest.raises(KeyboardInterrupt):
            load_weights.read(file, input="auto", taps=["conv2_1"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(started) == 1
    assert not Path(f"/proc/{started[0]}").exists()


@pytest.mark.parametrize("name", ["torch", "numpy", "safetensors", "json", "nstray"])
def test_it_imports_nothing_from_the_current_folder(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert load_weights.read(file, input="auto", taps=["conv1_1"]).arrays
