"""From S3 to S3 (Ceph's radosgw) with the driver killed three times on the way: every pair once, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from pathlib import Path

import jobs
from heads import Head

from nstray.storage import s3_client

PAIRS = 15
KILLS = 3


def test_three_kills_then_every_pair_once(rgw: str, head: Head, tmp_path: Path) -> None:
    bucket = f"out-{uuid.uuid4().hex[:12]}"
    s3_client.client().create_bucket(Bucket=bucket)
    out, log = f"s3://{bucket}/datasets/small", tmp_path / "log"
    manifest, weights = jobs.write_inputs(f"{rgw}/inputs")
    words = ["run", manifest, out, *jobs.options({**jobs.SETTINGS, "weights": weights, "evaluations": 100})]
    # The workers are the head's children, which inherit its environment: what they need of the store travels with the job.
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    env = {**head.env, "RAY_ADDRESS": head.ray_address, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": store}})}
    seen: dict[str, str | None] = {}
    for _ in range(KILLS):
        process = jobs.start_cli(words, log, env)
        try:
            jobs.until(lambda: len(jobs.parts(out)) > len(seen), "a new part", alive=process)  # noqa: B023
        finally:
            process.kill()
        assert process.wait(30) == -signal.SIGKILL
        # Ray ends a dead driver's workers; until then they may commit what they have in hand.
        jobs.until(lambda: not head.workers(), "the workers to end", seconds=60, every=0.2)
        now = jobs.parts(out)
        assert {name: now[name] for name in seen} == seen
        seen = now
    assert KILLS <= len(seen) < PAIRS
    process = jobs.start_cli(words, log, env)
    try:
        assert process.wait(400) == 0, log.read_text()
    finally:
        jobs.end(process)
    now = jobs.parts(out)
    assert len(now) == PAIRS
    assert {name: now[name] for name in seen} == seen
    assert [(r["pair_id"], r["status"]) for r in jobs.rows(out)] == [(i, "ok") for i in jobs.all_pairs()]
    verified = subprocess.run([*jobs.NSTRAY, "verify", out, "--json"], capture_output=True, text=True, timeout=60, env=os.environ)
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout) == {"verified": True, "parts": PAIRS, "rows": PAIRS, "ok": PAIRS, "errors": {}}
