"""Contents on a store that fsspec reads, in an export with originals; and what a job's record allows `verify` to read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from datasets_made import dataset, row
from outputs import picture
from stores import Memory, gs

from nstray import storage
from nstray.commands import moved
from nstray.commands.export import export
from nstray.errors import UsageError
from nstray.images.encode import encode
from nstray.output.folder import Output

__all__ = ["gs"]  # a fixture


def test_originals(gs: Memory, tmp_path: Path) -> None:
    data = encode(picture(0, 8, 8), "png")
    gs.put("gs://b/a/1.png", data)
    rows = [{**row(tmp_path, 0, "1.png", content_sha256=hashlib.sha256(data).hexdigest()), "content_uri": "gs://b/a/1.png"}]
    out = dataset(tmp_path, rows)
    counts = export(out, str(tmp_path / "to"), format="imagefolder", workers=1, with_originals=1.0)
    assert (counts["images"], counts["originals"]) == (2, 1)
    storage.allow_remote([])
    with pytest.raises(UsageError, match=r"^gs://b/a/1\.png: gs:// is not supported without --allow-remote gs"):  # no export without its originals
        export(out, str(tmp_path / "refused"), format="imagefolder", workers=1, with_originals=1.0)
    assert export(out, str(tmp_path / "files"))["images"] == 1  # which reads no content
    assert export(out, str(tmp_path / "folders"), format="imagefolder", workers=1)["images"] == 1


def test_the_record_of_a_job_allows_what_the_job_allowed(gs: Memory, tmp_path: Path) -> None:
    gs.put("gs://b/m.csv", b"content,style\n1.png,s.png\n")
    out = Output(dataset(tmp_path, [row(tmp_path, 0, "1.png")]))
    job = {**out.job.read(), "manifest": "gs://b/m.csv"}
    storage.allow_remote([])
    with pytest.raises(UsageError, match="without --allow-remote gs"):
        moved.checked_manifest(job, out, None)
    job["config"] = {**job["config"], "allow_remote": ["gs"]}
    _, info = moved.checked_manifest(job, out, None)
    assert info.rows == 1
