"""Whole small jobs from S3 to S3 through a proxy that causes faults: every pair once, no error row that patience could save."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jobs
import pytest
from proxy import FaultProxy
from small import Small

from nstray import storage
from nstray.commands import verify
from nstray.errors import AccessDenied, BadCredentials, Unreachable
from nstray.storage import backoff

# Together three requests in twenty.
MIX: dict[str, dict[str, Any]] = {
    "reset": {},
    "drop_reply": {},
    "truncate": {},
    "reset_body": {},
    "cut_request": {"method": "PUT"},
    "answer": {"status": 503, "code": "SlowDown"},
    "delay": {"seconds": 0.2},
}


def cause_mix(proxy: FaultProxy) -> None:
    for kind, how in MIX.items():
        proxy.add(kind, probability=0.025, **how)


def tries(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Numbers of the tries after which a worker has paused, as it says them."""
    return [int(found[1]) for r in caplog.records if (found := re.search(r"event=storage_retry what=\S+ try=(\d+)", r.message))]


ALL_OK = [(pair, "ok", None) for pair in jobs.all_pairs(2, 2)]


@pytest.fixture
def small(rgw: str, proxy: FaultProxy) -> Small:
    return Small(f"{rgw}/in", f"{rgw}/out")


def test_a_worker_gets_through_a_mix(small: Small, proxy: FaultProxy) -> None:
    for kind, how in MIX.items():
        proxy.add(kind, probability=0.06, **how)
    for shard in small.shards:
        small.worker.process(shard)
    proxy.clear()
    assert proxy.caused
    assert small.rows() == ALL_OK


@pytest.mark.parametrize("fault", ["reset", "answer"])
def test_an_outage_costs_the_wait_and_no_row(
    small: Small, proxy: FaultProxy, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy.add(fault, status=503, code="SlowDown", duration=2)
    small.worker.process(small.shards[0])
    proxy.add(fault, status=503, code="SlowDown", method="PUT", duration=2)
    small.worker.process(small.shards[1])
    assert small.rows() == [("c0-s0", "ok", None), ("c1-s0", "ok", None)]
    tries = [int(found[1]) for r in caplog.records if (found := re.search(r"event=storage_retry what=part-\S+ try=(\d)", r.message))]
    assert tries == [1, 2]


def test_an_outage_that_begins_between_two_images_costs_no_row(small: Small, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store answers for one image of a pair and then for nobody: the other one is not at fault."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy.add("delay", method="GET", key=r"c0\.png", seconds=0.3, count=1)  # read after the other one began
    proxy.add("reset", method="GET", key=r"s0\.png", count=1)
    proxy.add("reset", method="GET", key=r"s0\.png", duration=5.5)
    proxy.add("reset", method="GET", key=r"c0\.png", duration=5.5)
    small.worker.process(small.shards[0])
    assert small.rows() == ALL_OK[:1]


def test_one_image_that_the_store_cannot_give_is_its_pairs_error(
    small: Small, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy.add("answer", method="GET", key=r"s0\.png", status=500)
    for shard in small.shards:
        small.worker.process(shard)
    assert max(tries(caplog)) == 2  # and not patience's 24
    assert small.rows() == [(p, "error", "fetch_failed") if p.endswith("s0") else (p, "ok", None) for p in jobs.all_pairs(2, 2)]


def test_an_image_that_is_refused_is_its_pairs_error_and_a_part_that_is_ends_the_shard(small: Small, proxy: FaultProxy) -> None:
    proxy.add("answer", method="GET", key=r"c1\.png", status=403, code="AccessDenied", count=1)
    small.worker.process(small.shards[1])
    assert small.rows() == [("c1-s0", "error", "access_denied")]
    for code in ("ExpiredToken", "RequestTimeTooSkewed"):
        rule = proxy.add("answer", method="PUT", status=403, code=code)
        with pytest.raises(AccessDenied, match=code):
            small.worker.process(small.shards[0])
        assert rule.caused == 1
        proxy.clear()
    small.worker.process(small.shards[0])
    assert small.rows() == [ALL_OK[0], ("c1-s0", "error", "access_denied")]


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "RequestTimeTooSkewed"])
def test_credentials_that_no_image_could_be_read_with_are_no_pairs_error(small: Small, proxy: FaultProxy, code: str) -> None:
    proxy.add("answer", method="GET", key=r"c0\.png", status=403, code=code)
    with pytest.raises(BadCredentials, match=code):
        small.worker.process(small.shards[0])
    proxy.clear()
    assert jobs.parts(small.out) == {}
    small.worker.process(small.shards[0])
    assert small.rows() == ALL_OK[:1]


def test_an_outage_beyond_patience_gives_the_shard_back(
    small: Small, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(backoff, "MAX_SECONDS", 2.0)  # seconds; the tries alone would last ten minutes
    proxy.add("stall", method="GET", seconds=2)
    with pytest.raises(Unreachable):
        small.worker.process(small.shards[0])
    assert max(tries(caplog), default=0) <= 2  # none if the first try took as long as all may
    proxy.clear()
    assert jobs.parts(small.out) == {}
    assert small.worker.process(small.shards[0]).won


def test_runs_through_a_mix_and_after_a_refusal(rgw: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """`nstray run` twice: refused in the middle, which ends it, then to the end; both with faults at random."""
    out, log = f"{rgw}/out", tmp_path / "log"
    manifest, weights = jobs.write_inputs(f"{rgw}/in")
    words = ["run", manifest, out, *jobs.options({**jobs.SETTINGS, "weights": weights})]
    cause_mix(proxy)
    proxy.add("answer", method="PUT", key="/data/part-", skip=5, status=403, code="AccessDenied")
    with jobs.ray_folder() as folder:
        env = {**jobs.LOCAL_RAY, "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        process = jobs.start_cli(words, log, env)
        try:
            assert process.wait(400) == 1, log.read_text()
            text = log.read_text()
            assert re.search(r"\nnstray: s3://\S+/data/part-\S+: S3 answered 403 AccessDenied .*check the bucket's policy", text), text
            proxy.clear()
            kept = jobs.parts(out)
            assert 0 < len(kept) < 15
            cause_mix(proxy)
            process = jobs.start_cli(words, log, env)
            assert process.wait(400) == 0, log.read_text()
        finally:
            jobs.end(process)
    proxy.clear()
    now = jobs.parts(out)
    assert {name: now[name] for name in kept} == kept
    assert [(r["pair_id"], r["status"]) for r in jobs.rows(out)] == [(pair, "ok") for pair in jobs.all_pairs()]
    report = verify.verify(out)
    assert (report.problems, report.rows) == ([], 15)
    assert sum(proxy.caused.values()) > 5
    assert "event=storage_retry" in log.read_text()
    assert not [info.uri for info in storage.list_files(f"{out}/.nstray") if "probe" in info.uri]


def test_workers_on_one_machine_fetch_a_style_once(rgw: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """Not a fault: the proxy counts what the store is asked for."""
    manifest, weights = jobs.write_inputs(f"{rgw}/in", contents=4, styles=2)
    words = ["run", manifest, f"{rgw}/out", "--weights", weights, *jobs.options(jobs.SETTINGS), "--actors", "2", "--cpus-per-actor", "1"]
    styles = [proxy.add("delay", method="GET", key=rf"s{i}\.png", seconds=0.0) for i in range(2)]
    contents = [proxy.add("delay", method="GET", key=rf"c{i}\.png", seconds=0.0) for i in range(4)]
    with jobs.ray_folder() as shared:
        process = jobs.start_cli(words, tmp_path / "log", {**jobs.LOCAL_RAY, "TMPDIR": shared})
        try:
            assert process.wait(240) == 0, (tmp_path / "log").read_text()
        finally:
            jobs.end(process)
        assert not list(Path(shared).glob("nstray-*"))
    assert [r.caused for r in styles] == [1, 1]
    assert all(r.caused for r in contents)
