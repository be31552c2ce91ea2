"""The command line under signals, on local files: what is committed stays, a rerun completes, no process is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import jobs
import pytest
import saboteur
from heads import Head
from runs import PAIRS, Run

from nstray.commands import verify

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_a_rerun_completes(run: Run, number: signal.Signals) -> None:
    process = run.start_and_wait_for_part()
    below = jobs.descendants(process.pid)
    assert below
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal does: to everything in the foreground
    else:
        process.send_signal(number)
    assert process.wait(400) == 4, run.log.read_text()
    kept = jobs.parts(run.out)
    assert 0 < len(kept) < PAIRS
    text = run.log.read_text()
    assert f"event=draining signal={number.name}" in text
    assert f"event=stopped rows_done={len(kept)} rows={PAIRS} output=" in text
    assert "Traceback" not in text
    jobs.until(lambda: not jobs.alive(below), "Ray's processes to end", seconds=120)
    if number == signal.SIGTERM:
        run.finish(kept)


def test_killed_driver_leaves_nothing_behind_and_a_rerun_completes(run: Run) -> None:
    process = run.start_and_wait_for_part()
    below = jobs.descendants(process.pid)
    assert any("raylet" in Path(f"/proc/{pid}/cmdline").read_text() for pid in jobs.alive(below))
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    # Ray's servers end with their parent, and a worker when it notices that they did.
    try:
        jobs.until(lambda: not jobs.working(below), "Ray's processes to end", seconds=60)
    finally:
        jobs.kill(below)
    kept = jobs.parts(run.out)
    assert 0 < len(kept) < PAIRS
    run.finish(kept)


@pytest.mark.parametrize("depth", [1, 2])
def test_everything_killed_at_once_costs_what_was_in_the_workers_hands(run: Run, depth: int) -> None:
    """As by a loss of power: the driver and all below it in one moment. Redone is at most what each worker holds: its depth."""
    begun = run.base / "begun"
    run.sabotage({}, begun=str(begun))
    actors = 2
    run.words += ["--actors", str(actors), "--cpus-per-actor", "1", "--depth", str(depth)]
    process = run.start()
    jobs.until(lambda: len(jobs.parts(run.out)) >= 4, "four parts", alive=process)
    below = jobs.descendants(process.pid)
    process.kill()
    jobs.kill(below)
    process.wait(30)
    kept, first = jobs.parts(run.out), begun.read_text().split()
    assert len(first) == len(set(first))
    lost = set(first) - set(kept)
    assert len(lost) <= actors * depth
    run.finish(kept)
    redone = set(first) & set(begun.read_text().split()[len(first) :])
    print(f"begun {len(first)}, committed {len(kept)}, redone {len(redone)}")
    assert redone == lost


def test_a_pair_that_crashes_and_one_that_fills_the_memory_take_nobody_along(run: Run) -> None:
    with saboteur.memory_cgroup(200 << 20) as cgroup:
        print("killed by", "the kernel, out of memory" if cgroup else "SIGKILL, as no cgroup can be made here")
        run.sabotage({"c0-s1": "segfault", "c0-s3": "leak"}, cgroup=cgroup)
        run.words += ["--shard-size", "15", "--evaluations", "5"]
        process = run.start()
        assert process.wait(400) == 3, run.log.read_text()  # complete, with error rows
        jobs.end(process)
    found = {r["pair_id"]: (r["status"], r["error_code"]) for r in jobs.rows(run.out)}
    assert list(found) == jobs.all_pairs()
    assert {i: found.pop(i) for i in ("c0-s1", "c0-s3")} == dict.fromkeys(("c0-s1", "c0-s3"), ("error", "worker_died"))
    assert set(found.values()) == {("ok", None)}
    assert verify.verify(run.out).problems == []
    assert "event=node_given_up" not in run.log.read_text()


def test_the_head_of_the_cluster_dies_and_a_rerun_on_a_new_one_completes(run: Run) -> None:
    sooner = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}  # Ray's own is 60
    kept: dict[str, str | None] = {}
    for alive in (False, True):
        with jobs.ray_folder() as folder:
            head = Head(folder, **sooner)
            try:
                head.wait()
                run.env = {**run.env, **sooner, "RAY_ADDRESS": head.ray_address, "RAY_AUTH_MODE": "disabled"}
                if alive:
                    run.finish(kept)
                    return
                process = run.start_and_wait_for_part()
                for pid in jobs.alive(jobs.descendants(head.process.pid)):
                    if "gcs_server" in jobs.command(pid).split(" ")[0]:
                        os.kill(pid, signal.SIGKILL)
                killed = time.monotonic()
                assert process.wait(60) == 1, run.log.read_text()
                print(f"ended {time.monotonic() - killed:.1f} s after the head")
            finally:
                head.end()
        text = run.log.read_text()
        assert "event=ray_died process=" in text  # the raylet follows its head, or the head is silent
        assert "run the same command again" in text
        kept = jobs.parts(run.out)
        assert 0 < len(kept) < PAIRS


def test_two_runs_started_together_both_end_well(run: Run) -> None:
    with jobs.ray_folder() as folder:
        first, log, other = run.start(), run.log, run.base / "other.log"
        run.log, run.env = other, {**run.env, "RAY_TMPDIR": folder}
        second = run.start()
        try:
            assert [first.wait(400), second.wait(400)] == [0, 0], log.read_text() + other.read_text()
        finally:
            jobs.end(second)
        texts = [log.read_text(), other.read_text()]
        assert all(f"event=complete rows={PAIRS} ok={PAIRS}" in text for text in texts)
        print("races lost:", [text.count("event=lost_race") for text in texts])
        run.finish(jobs.parts(run.out))
