"""nstray.system.owned_folders: a folder stays while a process uses it, and goes with the next look once all of them are dead."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nstray.system import owned_folders

# Joins a folder, says so, and waits to be killed.
USER = """
import sys
from pathlib import Path
from nstray.system import owned_folders
owned_folders.join(Path(sys.argv[1]))
print("in", flush=True)
sys.stdin.read()
"""


def user(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", USER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def sweep(tmp_path: Path) -> set[str]:
    owned_folders.remove_all_unused(tmp_path, "nstray-")
    return {p.name for p in tmp_path.iterdir()}


def test_a_folder_of_a_living_process_stays_and_a_dead_ones_goes(tmp_path: Path) -> None:
    first, second = user(tmp_path / "nstray-a"), user(tmp_path / "nstray-a")
    (tmp_path / "nstray-a" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "nstray-a" / "deep" / "file").write_bytes(b"x")
    first.kill()
    first.wait()
    assert sweep(tmp_path) == {"nstray-a"}
    second.kill()
    second.wait()
    assert sweep(tmp_path) == set()


def test_the_last_that_leaves_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "nstray-a"
    one, two = owned_folders.join(path), owned_folders.join(path)
    assert path.stat().st_mode & 0o077 == 0
    owned_folders.leave(path, one)
    assert path.exists()
    owned_folders.leave(path, two)
    assert not path.exists()


def test_a_folder_whose_process_died_before_it_was_used_goes(tmp_path: Path) -> None:
    (tmp_path / "nstray-a").mkdir(mode=0o700)
    assert sweep(tmp_path) == set()


def test_a_folder_whose_removal_was_cut_short_goes(tmp_path: Path) -> None:
    path = tmp_path / "nstray-a"
    os.close(owned_folders.join(path))
    (path / "left").write_bytes(b"x")
    (path / "in-use").unlink()
    assert sweep(tmp_path) == set()


def test_what_is_no_folder_of_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "nstray-file").write_bytes(b"x")
    (tmp_path / "nstray-link").symlink_to(tmp_path / "other")
    (tmp_path / "nstray-kept").mkdir()
    owned_folders.remove_all_unused(tmp_path, "nstray-", keep=tmp_path / "nstray-kept")
    assert {p.name for p in tmp_path.iterdir()} == {"other", "nstray-file", "nstray-link", "nstray-kept"}
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's folder")
def test_another_users_folder_stays_and_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "nstray-a"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    assert sweep(tmp_path) == {"nstray-a"}
    with pytest.raises(PermissionError, match="not a folder of this user alone"):
        owned_folders.join(path)


def test_a_folder_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "nstray-a").mkdir(mode=0o755)
    with pytest.raises(PermissionError):
        owned_folders.join(tmp_path / "nstray-a")


def test_a_missing_or_forbidden_parent_is_no_error(tmp_path: Path) -> None:
    owned_folders.remove_all_unused(tmp_path / "none", "nstray-")
    owned_folders.remove_unused(tmp_path / "none")


def test_processes_that_join_leave_and_sweep_at_once_never_share_a_removed_folder(tmp_path: Path) -> None:
    path = tmp_path / "nstray-a"

    def work(_: int) -> bool:
        use = owned_folders.join(path)
        (path / "file").write_bytes(b"x")
        there = os.path.samestat(os.fstat(use), os.stat(path / "in-use"))
        owned_folders.remove_all_unused(tmp_path, "nstray-")
        owned_folders.leave(path, use)
        return there

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(1500)))
    assert sweep(tmp_path) == set()
