"""docs/recipes/webdataset.md from tars in a bucket of a real S3 server to batches of two workers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jobs
import pytest
import ray
from archives import tar
from built import jpeg
from recipe import run_page

from nstray import storage

pytestmark = [pytest.mark.slow, pytest.mark.dev, pytest.mark.usefixtures("one_ray")]
SAMPLES = 6
CHECK = """
import torch

batches = list(DataLoader(samples, batch_size=None, num_workers=2))
assert len(urls) >= 2
assert all((*p.shape[1:], p.dtype) == (3, 32, 32, torch.float32) for p, _ in batches)
assert {some.dtype for _, some in batches} == {torch.int64}
assert sorted(n for _, some in batches for n in some.tolist()) == [0, 1, 1, 2, 2, 2]
assert len({picture.numpy().tobytes() for some, _ in batches for picture in some}) == 6
# Each of the two workers had a tar, so no batch has all.
assert len(batches) == 2
"""


def nstray(*words: str) -> tuple[int, str, str]:
    """In a process of its own, and a run on the Ray of these tests, whose workers know no store: what they need of this one goes with the job."""
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    job = json.dumps({"runtime_env": {"env_vars": store}})
    there = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_JOB_CONFIG_JSON_ENV_VAR": job} if words[0] == "run" else {}
    done = subprocess.run([*jobs.NSTRAY, *words], capture_output=True, text=True, env={**os.environ, **jobs.LOCAL_RAY, **there}, timeout=600)
    return done.returncode, done.stdout, done.stderr


def test_the_page_from_tars_to_batches_of_two_workers(rgw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")
    monkeypatch.chdir(tmp_path)
    members = {i: {f"{i:06d}.jpg": jpeg(i, 48, 36), f"{i:06d}.cls": b"%d" % (0, 1, 1, 2, 2, 2)[i]} for i in range(SAMPLES)}
    for number, some in enumerate(((0, 1, 2), (3, 4, 5))):
        storage.put_new(f"{rgw}/shards/train-{number:06d}.tar", tar({name: data for i in some for name, data in members[i].items()}))
    storage.put_new(f"{rgw}/paintings/1.jpg", jpeg(100, 48, 36))
    bucket = rgw.removeprefix("s3://")
    smaller = {"BUCKET": bucket, "224x224": "32x32", "--shard-mb 100": "--shard-mb 0.02"}
    run_page("webdataset", tmp_path, nstray, smaller=smaller, checks=(CHECK,))
    assert not [p.name for p in tmp_path.rglob("*.tar")]
    assert json.loads(storage.read(f"{rgw}/tars/classes.json")) == {"0": 0, "1": 1, "2": 2}
