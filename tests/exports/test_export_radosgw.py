"""Exports from S3 to S3 (Ceph's radosgw): killed half-way at several places, they go on and are the same to the byte."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets_made import dataset, row

from nstray import storage
from nstray.commands.export import export
from nstray.exports import source

FORMATS = ("files", "imagefolder", "webdataset", "parquet")
# `nstray WORDS`, in which each part of the output is a unit of its own, and which kills itself at the n-th put or step of a pass.
# It is no file, so the worker processes do not run it too.
DYING = """
import os, signal, sys
from nstray import storage
from nstray.__main__ import main
from nstray.exports import source
from nstray.exports.progress import ExportProgress

what, left = sys.argv[1], int(sys.argv[2])
owner, name = (storage, "put_new") if what == "put" else (ExportProgress, "step")
honest = getattr(owner, name)
sys.argv[1:3] = []


def dying(*arguments, **more):
    global left
    left -= what == "put" or arguments[0]._phase == what
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(*arguments, **more)


setattr(owner, name, dying)
source._units = lambda found, size: tuple((source.Slice(info.uri, n),) for n, info in enumerate(found))
main()
"""
ROWS, PARTS = 48, 8


def found(folder: str) -> dict[str, str]:
    """The digests of the files of an export, but for its card and its record."""
    base = f"{folder}/"
    names = {info.uri.removeprefix(base): info.uri for info in storage.list_files(folder)}
    return {name: hashlib.sha256(storage.read(uri)).hexdigest() for name, uri in names.items() if name not in ("README.md", ".nstray-export.json")}


def nstray(what: str, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A command that dies at its `number`-th put or step."""
    return subprocess.run([sys.executable, "-P", "-c", DYING, what, str(number), *words], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_is_killed_goes_on(rgw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rows = [row(tmp_path, i, f"cat/{i}.jpg", split=("train", "val")[i % 4 == 0], label=i % 3) for i in range(ROWS)]
    out, to, whole = dataset(tmp_path, rows, part=ROWS // PARTS, out=f"{rgw}/made"), f"{rgw}/x", f"{rgw}/whole"
    options: dict[str, Any] = {"format": kind} | ({"shard_mb": 0.01} if kind in ("webdataset", "parquet") else {})
    words = ["export", out, "--to", to, "--json", *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]
    if kind == "files":
        deaths = [("put", 20)]
    else:  # when so many units are read, or files written
        words.append("--workers=2")
        deaths = [("reading", 3), ("writing", 1 if kind == "imagefolder" else 2)]
    for what, number in deaths:
        done = nstray(what, number, *words)
        assert done.returncode == -signal.SIGKILL, done.stderr
    there = found(to)
    assert there
    done = nstray("put", 10**6, *words)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(source, "_units", lambda found, size: tuple((source.Slice(info.uri, n),) for n, info in enumerate(found)))
    counts = export(out, whole, **options, **({} if kind == "files" else {"workers": 1}))
    assert counts.pop("missing", []) == []
    assert json.loads(done.stdout) == counts
    assert counts["images"] == ROWS
    assert found(to) == found(whole)
    mine = {name: digest for name, digest in there.items() if not name.startswith(".")}
    assert mine.items() <= found(whole).items()
    if kind != "imagefolder":  # whose files are written by one step
        assert 0 < len(mine) < len(found(whole))
