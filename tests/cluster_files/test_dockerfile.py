"""cluster/Dockerfile's own steps, run as far as they can be without Docker, and what scripts/run_dockerfile.py refuses."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUN = ROOT / "scripts" / "run_dockerfile.py"
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
START = "FROM some/image:1\nUSER someone\nWORKDIR /home/someone\n"


def build(dockerfile: Path, context: Path, root: Path, **build_args: str) -> subprocess.CompletedProcess[str]:
    words = [word for name, value in build_args.items() for word in ("--build-arg", f"{name}={value}")]
    command = [sys.executable, RUN, dockerfile, "--context", context, "--root", root, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def weights(folder: Path) -> tuple[str, str]:
    """A file in place of torchvision's 550 MB: its URL and its sha256."""
    file = folder / "vgg19-dcbb9e9d.pth"
    file.write_bytes(b"not really weights")
    return file.as_uri(), hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.dev
def test_the_image_s_steps_run_and_install_a_working_nstray(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")  # or the build backend would be fetched
    url, digest = weights(tmp_path)
    done = build(DOCKERFILE, ROOT, tmp_path / "image", WEIGHTS_URL=url, WEIGHTS_SHA256=digest)
    assert done.returncode == 0, done.stdout + done.stderr
    home = tmp_path / "image" / "home" / "ray"
    assert (home / "torch" / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth").read_bytes() == b"not really weights"
    copied = {p.relative_to(home / "nstray").as_posix() for p in (home / "nstray").rglob("*")}
    assert {"nstray/cli.py", "cluster/drain.py", "pyproject.toml", "README.md", "LICENSE"} <= copied
    assert not {path for path in copied if path.startswith(("tests", ".git", "scripts")) or (path.startswith("nstray/") and "__pycache__" in path)}


def short(tmp_path: Path, text: str, **build_args: str) -> str:
    """What is said of a Dockerfile that can't be run; its context holds a.txt, a secret, and a .dockerignore that keeps the secret out."""
    context = tmp_path / "context"
    (context / "folder" / "deep").mkdir(parents=True)
    for name in ("a.txt", "folder/b.txt", "folder/deep/key.pem", "folder/deep/kept.pem"):
        (context / name).write_text(name)
    (context / ".dockerignore").write_text("# keys\n**/*.pem\n!folder/deep/kept.pem\n")
    (context / "Dockerfile").write_text(text)
    done = build(context / "Dockerfile", context, tmp_path / "image", **build_args)
    assert done.returncode == 1, done.stdout
    return done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (START + 'ENTRYPOINT ["x"]', "line 4: ENTRYPOINT is no instruction that can be run outside Docker"),
        (START + "RUN touch /etc/nstray", "line 4: RUN: /etc/nstray would be this machine's own"),
        (START + "RUN true && \\\n    # why\n    exit 7", "line 4: RUN: exit code 7"),
        (START + 'RUN ["true"]', "line 4: RUN: only the shell form"),
        (START + "COPY folder/deep/key.pem .", "line 4: COPY: folder/deep/key.pem is not in the context (.dockerignore keeps it out)"),
        (START + "COPY nothing .", "line 4: COPY: nothing is not in the context"),
        (START + "COPY ../image .", "line 4: COPY: ../image lies outside the context"),
        (START + "COPY --link a.txt .", "of the options only --chown"),
        (START + "ENV A=$NOTHING", "line 4: $NOTHING is set by no ARG or ENV before"),
        ("ARG TAG=1\nFROM some/image:$TAG\nENV A=$TAG", "line 3: $TAG is set by no ARG"),
        ("RUN true", "line 1: RUN before FROM"),
        (START + "RUN true \\", "line 4: the last line ends with a backslash"),
        ("FROM some/image:1 AS base", "line 1: FROM some/image:1 AS base: one stage"),
        ("FROM some/image:1\nUSER root", "the image would run as root"),
        (START, "no RUN installs anything"),
        (START + "RUN true", "the image has no nstray of its own"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in short(tmp_path, text)


def test_copies_follow_the_dockerignore(tmp_path: Path) -> None:
    short(tmp_path, START + "COPY . all/\nCOPY folder/ ./part")
    home = tmp_path / "image" / "home" / "someone"
    found = {p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()}
    assert found == {
        *("all/a.txt", "all/folder/b.txt", "all/folder/deep/kept.pem", "all/.dockerignore", "all/Dockerfile"),
        *("part/b.txt", "part/deep/kept.pem"),
    }


@pytest.mark.slow
def test_weights_of_another_digest_end_the_build(tmp_path: Path) -> None:
    url, _ = weights(tmp_path)
    lines = DOCKERFILE.read_text().splitlines(keepends=True)
    begin = next(n for n, line in enumerate(lines) if line.startswith("ARG WEIGHTS_URL"))
    end = next(n for n, line in enumerate(lines) if line.startswith("COPY") and n > begin)
    said = short(tmp_path, START + "".join(lines[begin:end]), WEIGHTS_URL=url, WEIGHTS_SHA256="0" * 64)
    assert "RUN: exit code 1" in said
    assert "invalid hash value" in said


def test_a_build_argument_that_no_step_takes(tmp_path: Path) -> None:
    assert "no ARG is called TYPO" in short(tmp_path, START, TYPO="1")
