"""Which files of a folder are pictures, and what is said of the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nstray import storage
from nstray.errors import ManifestError, StorageError
from nstray.manifest.build import build
from nstray.sources.listing.folder_pictures import ENDINGS, find_pictures

JPEG, PNG, WEBP = b"\xff\xd8\xff\xe0" + bytes(20), b"\x89PNG\r\n\x1a\n" + bytes(20), b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(20)


def put(folder: Path, *names: str, data: bytes = b"not looked at") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def found(folder: Path | str, *, any_ending: bool = False) -> tuple[list[str], list[str]]:
    """The paths of the pictures below a folder, and what is said of the rest."""
    got = find_pictures(str(folder), any_ending=any_ending)
    return [uri.removeprefix(f"{folder}/") for uri in got.uris], got.left_out.lines()


PROGRAMS = {
    "Jupyter": ".ipynb_checkpoints/a-checkpoint.png",
    "GNOME": ".thumbnails/normal/a.png",
    "macOS's zip": "__MACOSX/a.png",
    "macOS's file server": ".AppleDouble/a.png",
    "macOS's trash": ".Trashes/501/a.png",
    "Linux's trash": ".Trash-1000/files/a.png",
    "Windows's trash": "$RECYCLE.BIN/S-1-5-21/$R0.png",
    "Windows": "System Volume Information/a.png",
    "Synology": "@eaDir/a.png/SYNOPHOTO_THUMB_M.png",
    "Synology's trash": "#recycle/a.png",
    "Synology, temporary": "@tmp/a.png",
    "QNAP": ".@__thumb/a.png",
    "QNAP's trash": "@Recycle/a.png",
    "NetApp": "~snapshot/daily/a.png",
    "ext4": "lost+found/a.png",
    "git": ".git/a.png",
    "Python": "__pycache__/a.png",
    "in upper case": "__PYCACHE__/a.png",
    "in lower case": "@eadir/a.png",
    "deep": "x/y/.cache/z/a.png",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_folder_that_a_program_left_is_left_out(tmp_path: Path, program: str) -> None:
    put(tmp_path, "b.png", PROGRAMS[program])
    (taken, (line,)) = found(tmp_path)
    assert taken == ["b.png"]
    name = next(part for part in PROGRAMS[program].split("/") if part not in ("x", "y"))
    shown = repr(name) if " " in name else name
    assert line == f"left out 1 file in hidden folders and those that programs leave ({shown}): 1 .png"


def test_only_names_below_the_given_folder_count(tmp_path: Path) -> None:
    put(tmp_path, ".cache/__MACOSX/set/a.png", ".cache/__MACOSX/set/deep/b.png")
    assert found(tmp_path / ".cache/__MACOSX/set") == (["a.png", "deep/b.png"], [])
    assert found(tmp_path / ".cache")[0] == []


def test_a_file_may_have_the_name_of_such_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "lost+found.png", "x@eaDir/a.png", "@eaDir.jpg", "my .git/a.png")
    assert found(tmp_path) == (["@eaDir.jpg", "lost+found.png", "my .git/a.png", "x@eaDir/a.png"], [])


def test_what_is_left_out_is_counted_by_ending(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i}.tif" for i in range(3)), "a.TIFF", "b.bmp", "c.gif", "d.heic", "e.avif", "f.txt", "0f3a", "a.very long note", "b.png")
    put(tmp_path, "._b.png", ".DS_Store", ".b.png", "@eaDir/1.jpg", "@eaDir/2.jpg", ".git/config", "x/@eaDir/1.jpg")
    assert found(tmp_path) == (
        ["b.png"],
        [
            "left out 4 files in hidden folders and those that programs leave (@eaDir, .git): 3 .jpg, 1 without an ending",
            "left out 3 files with a dot in front: 2 .png, 1 .ds_store",
            "left out 11 files without an ending of JPEG, PNG or WebP: "
            "3 .tif, 2 without an ending, 1 .avif, 1 .bmp, 1 .gif, 1 .heic, 1 .tiff, 1 .txt",
        ],
    )


def test_many_endings_and_folders_are_cut(tmp_path: Path) -> None:
    put(tmp_path, "a.png", *(f"a.e{i}" for i in range(20)), *(f".f{i:02d}/a" for i in range(20)))
    _, (folders, endings) = found(tmp_path)
    assert folders.endswith("(.f00, .f01, .f02, .f03, .f04, .f05, .f06, .f07 and 12 more): 20 without an ending")
    assert endings.endswith("1 .e14, 1 .e15 and 12 more")


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings_of_pictures_in_either_case(tmp_path: Path, ending: str) -> None:
    put(tmp_path, f"a{ending}", f"b{ending.upper()}", f"c{ending.title()}")
    assert found(tmp_path) == ([f"a{ending}", f"b{ending.upper()}", f"c{ending.title()}"], [])


def test_pictures_under_other_names(tmp_path: Path) -> None:
    put(tmp_path, "jpeg", "a.dat", "b.tif", "c.png ", "d.jpg~", "e.img.2020", data=JPEG)
    put(tmp_path, "f.bin", ".hidden", "@eaDir/g", data=PNG)
    put(tmp_path, "h.gif", data=WEBP)
    put(tmp_path, "no.tif", data=b"II*\0" + bytes(20))
    put(tmp_path, "no.gif", data=b"GIF89a" + bytes(20))
    put(tmp_path, "empty", data=b"")
    put(tmp_path, "short", data=JPEG[:2])
    put(tmp_path, "taken.png", data=b"by its ending")
    taken, said = found(tmp_path, any_ending=True)
    assert taken == ["a.dat", "b.tif", "c.png ", "d.jpg~", "e.img.2020", "f.bin", "h.gif", "jpeg", "taken.png"]
    assert said == [
        "left out 1 file in hidden folders and those that programs leave (@eaDir): 1 without an ending",
        "left out 1 file with a dot in front: 1 .hidden",
        "left out 4 files that do not begin as JPEG, PNG or WebP: 2 without an ending, 1 .gif, 1 .tif",
    ]
    assert found(tmp_path)[0] == ["taken.png"]


def test_links_and_loops(tmp_path: Path) -> None:
    put(tmp_path, "in/a.png", "elsewhere/b.png", ".hidden/c.png")
    os.symlink(tmp_path / "in", tmp_path / "in/loop")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in/linked")
    os.symlink(tmp_path / "in", tmp_path / "elsewhere/back")
    os.symlink(tmp_path / ".hidden/c.png", tmp_path / "in/c.png")
    os.symlink(tmp_path / ".hidden", tmp_path / "in/shown")
    os.symlink(tmp_path / "gone", tmp_path / "in/dangling.png")
    os.symlink("itself.jpg", tmp_path / "in/itself.jpg")
    os.symlink(tmp_path / "gone", tmp_path / "elsewhere/dangling.txt")
    os.symlink(tmp_path / "in/a.png/below", tmp_path / "elsewhere/below-a-file.png")
    os.symlink(tmp_path / "gone", tmp_path / "elsewhere/.lock")
    os.symlink(tmp_path / "gone", tmp_path / ".hidden/x.png")
    os.mkfifo(tmp_path / "in/pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "in/server"))
    for any_ending in (False, True):
        assert found(tmp_path / "in", any_ending=any_ending) == (
            ["a.png", "c.png", "linked/b.png", "shown/c.png"],
            [
                "left out 1 file with a dot in front: 1 .lock",
                "left out 2 files of another kind (pipe, socket): 1 .png, 1 without an ending",
                "left out 2 links to a folder above it: 2 without an ending",
                "left out 1 link to itself: 1 .jpg",
                "left out 4 links to nothing (was the data fetched?): 3 .png, 1 .txt",
            ],
        )
    os.remove(tmp_path / ".hidden/c.png")
    os.symlink(tmp_path / "gone", tmp_path / ".hidden/c.png")
    with pytest.raises(ManifestError, match=r"no pictures: left out 2 links to nothing \(was the data fetched\?\): 2 \.png"):
        build(str(tmp_path / ".hidden"), str(tmp_path / "in"), pairs="all", seed=0, out=str(tmp_path / "m.csv"))
    os.remove(tmp_path / ".hidden/c.png")
    put(tmp_path, ".hidden/c.png")
    os.symlink(tmp_path / "in", tmp_path / "mount")
    assert found(tmp_path / "mount")[0] == ["a.png", "c.png", "linked/b.png", "shown/c.png"]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """They matter only where a picture is meant."""
    put(tmp_path, "a.png", ".cache/x.png")
    for name in (b"not\xe9.txt", b".hidden\xe9.png", b".cache/x\xe9.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
            pass
    os.mkdir(os.fsencode(tmp_path) + b"/.folder\xe9")
    assert found(tmp_path) == (
        ["a.png"],
        [
            "left out 1 file in hidden folders and those that programs leave (.cache, .folder\\udce9), and 2 that can't be read: 1 .png",
            "left out 1 file with a dot in front: 1 .png",
            "left out 1 file without an ending of JPEG, PNG or WebP: 1 .txt",
        ],
    )
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(StorageError, match=r"caf\\xe9'?: the name is not UTF-8; rename the folder"):
        found(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_of_a_program_that_may_not_be_read(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "lost+found/b.png", "mine/c.png")
    (tmp_path / "lost+found").chmod(0)
    try:
        assert found(tmp_path) == (
            ["a.png", "mine/c.png"],
            ["left out 0 files in hidden folders and those that programs leave (lost+found), and 1 that can't be read"],
        )
        (tmp_path / "mine").chmod(0)
        with pytest.raises(StorageError, match="mine: permission denied"):
            found(tmp_path)
    finally:
        for name in ("lost+found", "mine"):
            (tmp_path / name).chmod(0o700)


def test_a_folder_that_can_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for a user who may read everything."""
    put(tmp_path, "a.png", "lost+found/b.png", "mine/c.png")
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith(refused):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = "lost+found"
    assert found(tmp_path)[0] == ["a.png", "mine/c.png"]
    refused = "mine"
    with pytest.raises(StorageError, match="mine: permission denied"):
        found(tmp_path)


def test_the_same_in_a_bucket(s3: str) -> None:
    folder = f"{s3}/kept/.hidden/set"
    for name in ("a.png", "@eaDir/b.png", ".x/c.png", "x/.d.png", "e.tif", "f//g.jpg"):
        storage.put_new(f"{folder}/{name}", b"not looked at")
    storage.put_new(f"{folder}/jpeg", JPEG)
    storage.put_new(f"{folder}/empty", b"")
    assert found(folder) == (
        ["a.png", "f//g.jpg"],
        [
            "left out 2 files in hidden folders and those that programs leave (.x, @eaDir): 2 .png",
            "left out 1 file with a dot in front: 1 .png",
            "left out 3 files without an ending of JPEG, PNG or WebP: 2 without an ending, 1 .tif",
        ],
    )
    assert found(folder, any_ending=True)[0] == ["a.png", "f//g.jpg", "jpeg"]
