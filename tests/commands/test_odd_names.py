"""Pictures of odd names, paired, checked, made and verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
from outputs import picture

from manifests import ODD_NAMES
from nstray.images.encode import encode


@pytest.mark.slow
@pytest.mark.usefixtures("weights_once")
@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_what_build_writes_is_made(tmp_path: Path, local_ray: None, call: Callable[..., tuple[int, str, str]], ending: str) -> None:
    _, weights = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    data = encode(picture(1, 30, 28), "png")
    for name in ODD_NAMES:
        (tmp_path / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / name).write_bytes(data)
    manifest, out = tmp_path / f"pairs.{ending}", tmp_path / "out"
    code, said, err = call("manifest", "build", "--content", tmp_path / "c", "--style", tmp_path / "in" / "s0.png", "-o", manifest)
    assert (code, said) == (0, f"{len(ODD_NAMES)} pairs in {manifest}\n")
    contents, styles = err.splitlines()  # nothing was left out
    assert contents == f"content {tmp_path / 'c'}: {len(ODD_NAMES)} loose pictures"
    assert styles.endswith(": 1 loose picture")
    code, _, err = call("manifest", "check", manifest)
    assert (code, err) == (0, "")
    code, _, err = call("run", manifest, out, *jobs.options({**jobs.SETTINGS, "weights": weights, "actors": 1, "shard_size": 50}))
    assert (code, f"event=complete rows={len(ODD_NAMES)} ok={len(ODD_NAMES)} errors=0" in err) == (0, True), err
    code, _, err = call("verify", out)
    assert (code, err) == (0, "")
