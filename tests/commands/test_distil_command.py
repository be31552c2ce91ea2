"""`nstray weights distil`: the file, the report, checkpoints of a killed process, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from outputs import picture
from safetensors import safe_open

from nstray import storage
from nstray.commands.distil import CHECKPOINT
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.weight_files import load_weights, to_safetensors
from nstray.engine.settings import CONV_LAYERS
from nstray.images.encode import encode

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path]:
    """A teacher up to conv2_1, and a folder of ten pictures."""
    folder = tmp_path / "pictures"
    for i in range(10):
        storage.put_new(storage.join(str(folder), f"{i}.png"), encode(picture(i, 40, 48), "png"))
    (tmp_path / "teacher.safetensors").write_bytes(to_safetensors(random_weights(CONV_LAYERS[:3], widths=(8, 8, 8, 8, 8))))
    return tmp_path / "teacher.safetensors", folder


def words(teacher: Path, images: Path, out: Path, *more: str) -> list[str]:
    small = ["--widths", "4,5,6,6,6", "--steps", "30", "--side", "32", "--crops", "2"]
    return ["weights", "distil", "--teacher", str(teacher), "--images", str(images), "-o", str(out), *small, *more]


def test_a_student_and_its_report(given: tuple[Path, Path], tmp_path: Path, call: Call) -> None:
    teacher, images = given
    (images / "not.png").write_text("no picture")
    storage.put_new(str(images / "little.png"), encode(picture(1, 20, 90), "png"))
    out = tmp_path / "student.safetensors"
    code, said, log = call(*words(teacher, images, out, "--json"))
    assert code == 0, log
    told = json.loads(said)
    assert (told["images"], told["held_out"], told["skipped"], told["steps"]) == (9, 1, 2, 30)
    assert "skipped: not_an_image" in log
    assert "little.png" in log
    assert "event=progress step=30 of=30" in log
    made = load_weights(str(out))
    assert told["weights_id"] == made.id
    assert "holds conv1_1 to conv2_1; left out: conv3_1, conv4_1, conv4_2, conv5_1. Jobs with" in log
    assert made.widths == {"conv1_1": 4, "conv1_2": 4, "conv2_1": 5}
    assert (made.input, made.padding, made.pooling) == ("rgb", "zero", "max")
    assert list(told["variance"]) == ["conv1_1", "conv2_1"]
    assert all(v <= 1 for v in told["variance"].values())
    with safe_open(out, "pt") as file:
        assert file.get_tensor("conv1_1.weight").dtype == torch.float16
        about = file.metadata()
    assert json.loads(about["variance"]) == told["variance"]
    assert json.loads(about["gram_error"]) == told["gram_error"]
    assert about["teacher_id"] == told["teacher_id"] == load_weights(str(teacher)).id
    assert not Path(f"{out}{CHECKPOINT}").exists()


def test_pictures_that_are_held_out_are_given(given: tuple[Path, Path], tmp_path: Path, call: Call) -> None:
    teacher, images = given
    other = tmp_path / "other"
    for i in range(3):
        storage.put_new(storage.join(str(other), f"{i}.png"), encode(picture(90 + i, 40, 48), "png"))
    code, said, log = call(*words(teacher, images, tmp_path / "s.safetensors", "--held-out", str(other), "--json"))
    assert code == 0, log
    assert (json.loads(said)["images"], json.loads(said)["held_out"]) == (10, 3)


def test_a_killed_training_goes_on(given: tuple[Path, Path], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGTERM, which leaves a checkpoint of the last step, and by SIGKILL, which leaves the last one written."""
    teacher, images = given
    out = tmp_path / "s.safetensors"
    more = ("--steps", "100000")
    code = "import sys; from nstray.commands import distil; distil.SAVE_EVERY = 0.2; from nstray.__main__ import main; main()"
    for ending in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *words(teacher, images, out, *more)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        checkpoint = Path(f"{out}{CHECKPOINT}")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        try:
            jobs.until(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns != before, "a checkpoint", alive=process)  # noqa: B023
            process.send_signal(ending)
            _, log = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == (4 if ending == signal.SIGTERM else -signal.SIGKILL), log
        if before:
            assert "event=resumed step=" in log
        assert not out.exists()
    # another recipe is not gone on with
    code_, _, log = call(*words(teacher, images, out))
    assert code_ == 2
    assert "is the checkpoint of another training: steps 100000, now 30; remove it" in log


def test_a_checkpoint_that_is_none(given: tuple[Path, Path], tmp_path: Path, call: Call) -> None:
    teacher, images = given
    out = tmp_path / "s.safetensors"
    Path(f"{out}{CHECKPOINT}").write_bytes(b"nothing")
    code, _, log = call(*words(teacher, images, out))
    assert code == 2
    assert f"{out}{CHECKPOINT} is no checkpoint of a training" in log


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--widths", "4,5"], "'4,5': give 5 numbers of 1 or more, one for each block"),
        (["--widths", "4,5,6,7,no"], "give 5 numbers of 1 or more"),
        (["--widths", "4,5,6,7,0"], "give 5 numbers of 1 or more"),
        (["--layers", "conv9_1"], "VGG-19 has no layer 'conv9_1'"),
        (["--layers", "pre:conv1_1"], "rectified layers alone"),
        (["--layers", "conv5_1"], "hold conv1_1 to conv2_1, and none of conv5_1"),
        (["--teacher", "absent.safetensors"], "absent.safetensors"),
        (["--images", "absent"], "--images"),
        (["--side", "64"], "of 10 pictures none can be used"),
        (["--device", "cuda"], "torch sees no GPU here"),
        (["--stepps", "3"], "No such option"),
    ],
)
def test_what_is_refused(given: tuple[Path, Path], tmp_path: Path, call: Call, more: list[str], text: str) -> None:
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    teacher, images = given
    code, _, log = call(*words(teacher, images, tmp_path / "s.safetensors", *more))
    assert code == 2, log
    assert text in log
    assert "Traceback" not in log


def test_few_pictures(given: tuple[Path, Path], tmp_path: Path, call: Call) -> None:
    teacher, images = given
    code, _, log = call(*words(teacher, images, tmp_path / "s.safetensors", "--limit", "3"))
    assert code == 2
    assert "3 pictures are too few to hold any out; give 9 at least" in log


def test_a_file_is_not_replaced(given: tuple[Path, Path], tmp_path: Path, call: Call) -> None:
    teacher, images = given
    out: Any = tmp_path / "s.safetensors"
    out.write_bytes(b"mine")
    assert call(*words(teacher, images, out))[0] == 2
    assert out.read_bytes() == b"mine"
