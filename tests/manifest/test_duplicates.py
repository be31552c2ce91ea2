"""nstray.manifest.duplicates: repeated ids are found, in memory or in a file without a name."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from nstray.errors import JobFailed
from nstray.manifest.duplicates import IdHashes


@pytest.mark.parametrize("in_memory", [1, 7, 100, 1000, 10**9])
@pytest.mark.parametrize("batch", [1, 33, 1000])
@pytest.mark.parametrize("distinct", [3, 400, 10**9])
def test_repeats_are_found_however_much_is_in_memory(in_memory: int, batch: int, distinct: int) -> None:
    rng = np.random.default_rng(in_memory + batch)
    hashes = rng.integers(-distinct, distinct, 1000) * 2**33
    values, counts = np.unique(hashes, return_counts=True)
    with IdHashes(in_memory) as ids:
        for begin in range(0, len(hashes), batch):
            ids.add(hashes[begin : begin + batch])
        found, repeats = ids.duplicates()
    assert found.tolist() == values[counts > 1].tolist()
    assert repeats == (counts - 1).sum()


def test_the_file_has_no_name_and_goes_with_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with IdHashes(10) as ids:
        ids.add(np.arange(100))
        assert list(tmp_path.iterdir()) == []
        assert ids.duplicates()[1] == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_folder_that_takes_no_file_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with IdHashes(10) as ids, pytest.raises(JobFailed) as caught:
        ids.add(np.arange(100))
    assert str(caught.value) == (
        f"the temporary folder {tempfile.gettempdir()}: {os.strerror(number)}; the ids of this manifest need 8 bytes a row there; "
        "set TMPDIR to a folder with more room"
    )


def test_a_file_that_may_not_grow_ends_in_the_same_line(tmp_path: Path) -> None:
    text = "import numpy as np, resource, signal\nfrom nstray.manifest.duplicates import IdHashes\n"
    text += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\nids = IdHashes(100)\n"
    text += "ids.add(np.arange(100))\nids.duplicates()\nids.add(np.arange(1000))"
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert f"the temporary folder {tmp_path}: File too large; the ids of this manifest need 8 bytes a row there" in found.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096
    assert list(tmp_path.iterdir()) == []
