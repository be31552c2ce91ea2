"""nstray.cluster.own_cluster: the folder of a Ray of our own, and what it asks of the machine before it starts. Ray itself is in
test_private_ray.py and tests/faults/test_endings.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from nstray.cluster import own_cluster
from nstray.errors import JobFailed
from nstray.system import owned_folders


@pytest.fixture(autouse=True)
def removed() -> Iterator[None]:
    yield
    own_cluster.remove_folder()


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return "TMPDIR"


def test_a_folder_is_locked_and_goes_at_the_end(tmp_path: Path) -> None:
    path = Path(own_cluster.make_folder(str(tmp_path / "deep" / "er")))
    assert path.parent == tmp_path / "deep" / "er"
    assert len(path.name) == own_cluster.NAME_BYTES
    assert path.stat().st_mode & 0o077 == 0
    (path / "session" / "logs").mkdir(parents=True)
    owned_folders.remove_all_unused(path.parent, own_cluster.PREFIX)
    assert path.exists()
    own_cluster.remove_folder()
    assert list(path.parent.iterdir()) == []
    own_cluster.remove_folder()


def test_folders_of_dead_runs_go_and_others_stay(tmp_path: Path) -> None:
    for name in ("nstray-0001", "nstray-0002"):
        os.close(owned_folders.join(tmp_path / name))
        (tmp_path / name / "session").mkdir()
    live = owned_folders.join(tmp_path / "nstray-live")
    (tmp_path / "session_2026-01-01_00-00-00_000000_1").mkdir()  # of `ray start`
    made = own_cluster.make_folder(str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {"nstray-live", "session_2026-01-01_00-00-00_000000_1", Path(made).name}
    os.close(live)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("file", "not a folder"),
        ("below a file", "Not a directory"),
        ("read-only", "Read-only file system"),
        ("proc", "No such file or directory"),
        ("long", "File name too long"),
    ],
)
def test_a_place_that_takes_no_folder_is_named_with_what_to_set(kind: str, why: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    root = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "a", "read-only": Path("/sys/a"), "proc": Path("/proc/a")}.get(
        kind, tmp_path / ("a" * 300)
    )
    if kind == "read-only" and os.access("/sys", os.W_OK):
        why = "Operation not permitted|Permission denied|Read-only file system"
    with pytest.raises(JobFailed, match=why) as caught:
        own_cluster.make_folder(str(root))
    text = str(caught.value)
    assert text.startswith(f"{name} {root}: ")
    assert text.endswith("set RAY_TMPDIR to a folder that can be written")


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_place_without_room_is_named(variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable == "RAY_TMPDIR":
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30, 2**20))
    with pytest.raises(JobFailed) as caught:
        own_cluster.make_folder(str(tmp_path))
    assert str(caught.value) == (
        f"{variable} {tmp_path}: 1.0 MiB are free, and Ray's logs need at least 16; free some space there, or set RAY_TMPDIR to another folder"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_a_loopback_that_is_down_is_named() -> None:
    own_cluster.require_loopback()
    text = "from nstray.cluster import own_cluster\ntry:\n    own_cluster.require_loopback()\nexcept Exception as error:\n    print(error)"
    found = subprocess.run(["unshare", "-n", sys.executable, "-c", text], capture_output=True, text=True, timeout=400)
    assert found.stdout == (
        "127.0.0.1: Network is unreachable; Ray's processes talk to each other there: bring the loopback interface up (ip link set lo up)\n"
    )
