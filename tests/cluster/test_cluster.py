"""nstray.cluster on a real Ray: real workers with a small network, and workers that die, hang and raise on purpose."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jobs
import pyarrow as pa
import pytest
import ray
import ray.exceptions as rex
from ray.core.generated.common_pb2 import ActorDiedErrorContext

import nstray
from nstray import config, storage
from nstray.cluster import actor, ray_session, worker_handle, worker_pool
from nstray.cluster.actor import WorkerActor
from nstray.cluster.driver import Driver, Outcome
from nstray.cluster.failures import STORAGE_TRIES
from nstray.cluster.metrics import JobMetrics, WorkerMetrics
from nstray.cluster.progress import Display, JobProgress
from nstray.cluster.reporter import Reporter
from nstray.cluster.resources import Devices, devices
from nstray.cluster.scheduling import Backlog, FailureCounter, IsolatedShard
from nstray.cluster.worker_handle import WorkerHandle
from nstray.cluster.worker_pool import WorkerPool
from nstray.commands import prepare, verify
from nstray.errors import AccessDenied, ConfigError, Corrupt, ErrorCode, JobFailed, OutputError, StorageError, Unreachable
from nstray.manifest.shards import Shard
from nstray.output import live_status
from nstray.output.folder import Output
from nstray.output.part_file import read_footer
from nstray.system import stop_signals
from nstray.worker.messages import WorkerProgress

pytestmark = pytest.mark.usefixtures("weights_once")
DIES, HANGS, RAISES = 661, 662, 663  # the seeds by which a worker knows the pairs that undo it


class Recorder(Display):
    """A display that keeps its lines."""

    def __init__(self, total: int) -> None:
        super().__init__(JobProgress(total), terminal=False)
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)
        print(line)  # for whoever reads the report of a test that failed

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)


class Small:
    """A job of `contents` x `styles` small pairs below `base`, and drivers for it."""

    def __init__(self, base: Path, *, contents: int = 2, styles: int = 3, poison: dict[str, int] | None = None, **settings: Any) -> None:
        self.base, self.out = base, str(base / "out")
        extra = {pair_id: {"seed": seed} for pair_id, seed in (poison or {}).items()}
        self.manifest, self.weights = jobs.write_inputs(str(base / "in"), contents=contents, styles=styles, rows=extra)
        self.ids = jobs.all_pairs(contents, styles)
        self.settings = {**jobs.SETTINGS, "weights": self.weights, "actors": 1, **settings}
        self.display = Recorder(len(self.ids))

    def driver(self, actor_class: type[WorkerActor] | None = None, *more: Any, **settings: Any) -> Driver:
        """One driver; with `actor_class`, its workers are of that class, which gets `more` after WorkerActor's own arguments."""
        self.job = prepare.check(self.manifest, self.out, config.make({**self.settings, **settings}))
        self.job.output.job.open(prepare.record(self.job))
        self.display = Recorder(len(self.ids))
        create = actor.actor_factory(self.job.spec, self.job.weights)
        if actor_class is not None:
            stored = ray.put(self.job.weights)
            groups = {"work": self.job.config.depth + 1, "health": 1}
            made = ray.remote(concurrency_groups=groups)(actor_class).options(max_restarts=0, num_cpus=1, num_gpus=1)

            def create(found: Devices) -> Any:
                return made.remote(self.job.spec, stored, found.kind, found.threads, *more)

        return Driver(self.job.spec, self.job.manifest, self.job.output, create, self.display)

    def run(self, actor_class: type[WorkerActor] | None = None, *more: Any, **settings: Any) -> Outcome:
        return run(self.driver(actor_class, *more, **settings))

    def check(self, errors: dict[str, str] | None = None) -> None:
        """Every pair has one row, and those of `errors` alone are errors, with that code; `nstray verify` agrees."""
        rows = jobs.rows(self.out)
        assert [r["pair_id"] for r in rows] == sorted(self.ids)
        assert {r["pair_id"]: r["error_code"] for r in rows if r["status"] == "error"} == (errors or {})
        report = verify.verify(self.out)
        assert report.problems == []


def run(driver: Driver, seconds: float = 400) -> Outcome:
    async def main() -> Outcome:
        return await asyncio.wait_for(driver.run(), seconds)

    return asyncio.run(main())


def when(true: Callable[[], Any], do: Callable[[], None]) -> threading.Thread:
    """Do something beside a driver, as soon as a condition holds."""

    def body() -> None:
        jobs.until(true, "the moment to interfere", every=0.02)
        do()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


# real workers


def test_workers_run_the_nstray_that_is_tested(local_ray: None) -> None:
    @ray.remote(num_cpus=0)
    def where() -> str:
        import nstray

        return str(nstray.__file__)

    assert ray.get(where.remote()) == nstray.__file__


def test_two_workers_do_every_row_once(local_ray: None, tmp_path: Path) -> None:
    # Four are wanted and two fit: those that are never placed hold nothing up.
    small = Small(tmp_path, contents=3, styles=4, shard_size=2, evaluations=40, actors=4)
    outcome = small.run()
    assert outcome.complete
    assert (outcome.counts.rows, outcome.counts.ok, outcome.counts.parts) == (12, 12, 6)
    assert small.display.count("event=worker_ready") == 2
    assert small.display.job_progress.done == 12
    small.check()
    footers = [part.footer for part in (read_footer(small.job.output.data_uri(name)) for name in jobs.parts(small.out))]
    assert len({f["pid"] for f in footers}) == 2
    assert small.job.output.indexes.read(0) is not None


@pytest.mark.slow
def test_resume_does_only_what_is_missing(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=2, styles=3)
    assert small.run().complete
    whole = jobs.parts(small.out)
    lost = sorted(whole)[1::3]
    for name in lost:
        (Path(small.out) / "data" / name).unlink()
    Path(small.job.output.index_uri(0)).unlink()
    outcome = small.run()
    assert outcome.complete
    assert outcome.counts.rows == 6
    assert small.display.job_progress.resumed == 6 - len(lost)
    again = jobs.parts(small.out)
    assert sorted(again) == sorted(whole)
    assert sorted(name for name in whole if again[name] != whole[name]) == lost
    index = small.job.output.indexes.read(0)
    assert index is not None
    assert index["rows"] == 6
    small.check()
    # Everything there but the index; then everything, known from the index alone.
    Path(small.job.output.index_uri(0)).unlink()
    assert small.run().counts == outcome.counts
    assert small.job.output.indexes.read(0) == index
    assert small.run().counts == outcome.counts


@pytest.mark.slow
@pytest.mark.slow
def test_a_job_that_was_begun_on_cpus_goes_on_where_other_workers_are(local_ray: None, tmp_path: Path) -> None:
    """What was chosen for CPUs stays: other workers, with other threads, make the same shards and the same rows."""
    small = Small(tmp_path, contents=3, styles=4, evaluations=40, shard_size="auto", device="cpu", cpus_per_actor=1)
    stopper = when(lambda: jobs.parts(small.out), lambda: stop_signals._state.callback(signal.SIGTERM))
    begun = small.driver()
    shards, print_there = jobs.shards_of(small.job), small.job.spec.fingerprint
    assert not run(begun).complete
    stopper.join()
    before = jobs.parts(small.out)
    assert 1 <= len(before) < 12 == len(shards)
    there = config.make({**small.settings, "device": "cuda", "cpus_per_actor": 2})
    assert prepare.check(small.manifest, str(tmp_path / "another"), there).config.rows_per_shard == there.batch_size  # a job that begins there
    assert small.run(device="auto", cpus_per_actor=2).complete  # on workers with GPUs, by name
    assert (jobs.shards_of(small.job), small.job.spec.fingerprint) == (shards, print_there)
    after = jobs.parts(small.out)
    assert {name: after[name] for name in before} == before
    assert sorted(after) == [name for name, _ in shards]
    small.check()


def test_drain_then_rerun(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=4, styles=5, evaluations=60)
    driver = small.driver()
    stopper = when(lambda: jobs.parts(small.out), lambda: stop_signals._state.callback(signal.SIGTERM))  # the command line's handler calls it
    outcome = run(driver)
    stopper.join()
    kept = jobs.parts(small.out)
    assert not outcome.complete
    assert 0 < len(kept) < 20
    assert outcome.counts.rows == len(kept)
    assert small.display.count("event=draining signal=SIGTERM") == 1
    # A drained worker finishes what is on its device and what it writes; the shard behind it is left.
    assert len(kept) < 20 - 2 * small.job.config.depth
    outcome = small.run()
    assert outcome.complete
    assert small.display.job_progress.resumed == len(kept)
    assert {name: etag for name, etag in jobs.parts(small.out).items() if name in kept} == kept
    small.check()


# workers that break


class Interfering(WorkerActor):
    """A worker that dies of one pair, hangs on another, and raises on a third."""

    def __init__(self, spec: Any, weights: Any, want: str, threads: int) -> None:
        super().__init__(spec, weights, want, threads)
        honest = self._worker.stylizer.run

        def run(pairs: Any, *more: Any) -> Any:
            seeds = {p.seed for p in pairs}
            if DIES in seeds:
                os._exit(17)
            if HANGS in seeds:
                time.sleep(3600)
            if RAISES in seeds:
                raise ValueError("this pair is wrong")
            return honest(pairs, *more)

        self._worker.stylizer.run = run  # type: ignore[method-assign]


@pytest.mark.slow
def test_bad_pairs_take_nobody_along(local_ray: None, tmp_path: Path) -> None:
    """One of each kind, in three shards of two: each becomes its own error row, every neighbour a picture."""
    small = Small(tmp_path, poison={"c1-s0": DIES, "c0-s1": HANGS, "c1-s2": RAISES}, shard_size=2, stall_timeout=5)
    outcome = small.run(Interfering)
    assert outcome.complete
    assert outcome.counts.errors == {"worker_died": 1, "timed_out": 1, "internal": 1}
    small.check({"c1-s0": "worker_died", "c0-s1": "timed_out", "c1-s2": "internal"})
    reasons = {r["pair_id"]: r for r in jobs.rows(small.out)}
    assert "killed its worker 2 times, alone: ActorDiedError" in reasons["c1-s0"]["error_message"]
    assert "made no progress before its deadline 2 times, alone" in reasons["c0-s1"]["error_message"]
    assert "ValueError: this pair is wrong" in reasons["c1-s2"]["error_message"]
    assert reasons["c1-s0"]["attempt"] == 3
    assert small.display.count("pair=c1-s0") == 2
    assert small.display.count("pairs=c0-s1") >= 2  # the stall report names it


class Faulty(WorkerActor):
    """A worker with a fault outside of what a pair's own row catches."""

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def process(self, shard: Shard, attempt: int) -> Any:
        if "c0-s1" in shard.table["pair_id"].to_pylist():
            raise RuntimeError("a fault of the worker")
        return self._worker.process(shard, attempt)

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def process_single(self, shard: Shard, index: int, attempt: int, lost: tuple[str, str] | None) -> Any:
        if lost is not None:
            return self._worker.failed_row(shard, index, attempt, *lost)
        if shard.table["pair_id"][index].as_py() == "c0-s1":
            raise RuntimeError("a fault of the worker")
        return self._worker.process_single(shard, index, attempt)


def test_worker_that_raises_loses_one_pair(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=2, styles=2, shard_size=2)
    assert small.run(Faulty).complete
    small.check({"c0-s1": "internal"})
    assert small.display.count("event=careful") == 1
    assert small.display.count("event=worker_ready") == 1  # nothing died
    row = next(r for r in jobs.rows(small.out) if r["pair_id"] == "c0-s1")
    assert "RuntimeError: a fault of the worker" in row["error_message"]


class Stillborn(WorkerActor):
    def __init__(self, spec: Any, weights: Any, want: str, threads: int, user: bool) -> None:
        if not user:
            raise RuntimeError("no such library: libfoo.so.3")
        super().__init__(spec, weights, "cuda", threads)  # which this machine's torch lacks


@pytest.mark.slow
def test_worker_that_never_starts(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=1, styles=2)
    with pytest.raises(JobFailed, match=r"3 workers in a row failed to start.*libfoo\.so\.3") as failure:
        small.run(Stillborn, False)
    assert "\n" not in str(failure.value)
    assert failure.value.exit_code == 1
    assert jobs.parts(small.out) == {}


@pytest.mark.slow
def test_worker_without_the_device_asked_for(local_ray: None, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    small = Small(tmp_path, contents=1, styles=2)
    with pytest.raises(ConfigError, match=r"^device cuda: this worker's torch sees no GPU"):
        small.run(Stillborn, True)


class Unwritable(WorkerActor):
    """A worker whose output can't be written, for good or `times` times."""

    def __init__(self, spec: Any, weights: Any, want: str, threads: int, times: int) -> None:
        super().__init__(spec, weights, want, threads)
        self._left = times

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def process(self, shard: Shard, attempt: int) -> Any:
        self._left -= 1
        if self._left >= 0:
            raise Unreachable("s3://bucket/out/data: the endpoint does not answer")
        return self._worker.process(shard, attempt)


@pytest.mark.slow
def test_output_that_cannot_be_written(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=1, styles=3)
    with pytest.raises(StorageError, match="the endpoint does not answer") as failure:
        small.run(Unwritable, 1000)
    assert failure.value.exit_code == 1
    assert small.display.count("event=retry") == STORAGE_TRIES - 1
    assert small.run(Unwritable, STORAGE_TRIES - 1).complete
    small.check()


@pytest.mark.slow
def test_too_many_error_rows_stop_a_job_early(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=30, styles=10, shard_size=5, evaluations=1)
    for i in range(2, 30):
        (tmp_path / "in" / f"c{i}.png").unlink()
    with pytest.raises(JobFailed, match=r"error rows \(\d+ not_found\).*share of 0.01 allowed.*c\d+-s\d: content: .*c\d+\.png.*nstray retry OUT"):
        small.run()
    made = len(jobs.rows(small.out))
    assert 100 <= made < 300
    assert small.display.count("event=draining reason=max_error_rate") == 1
    outcome = small.run(max_error_rate=1)
    assert (outcome.complete, outcome.counts.errors) == (True, {"not_found": 280})
    small.check({name: "not_found" for name in small.ids if not name.startswith(("c0-", "c1-"))})


@pytest.mark.slow
def test_worker_killed_from_outside(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=3, styles=4, evaluations=60, actors=2)
    driver = small.driver()

    def kill() -> None:
        ready = next(line for line in small.display.lines if "event=worker_ready" in line)
        os.kill(int(ready.rsplit("pid=", 1)[1]), signal.SIGKILL)

    killer = when(lambda: jobs.parts(small.out), kill)
    outcome = run(driver)
    killer.join()
    assert outcome.complete
    small.check()
    assert small.display.count("event=careful") == 0
    assert 1 <= small.display.count("event=retry") <= small.job.config.depth
    assert small.display.count("event=worker_ready") >= 2


@pytest.mark.slow
def test_a_file_for_status_that_can_t_be_written_hurts_no_job(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, tried = storage.put_over, []

    def put_over(uri: str, *more: Any, **named: Any) -> str:
        if not uri.endswith("live.json"):
            return honest(uri, *more, **named)
        tried.append(uri)
        raise AccessDenied("s3://bucket/out/.nstray/live.json: 403")

    monkeypatch.setattr(live_status, "EVERY", 0.0)
    monkeypatch.setattr(storage, "put_over", put_over)
    small = Small(tmp_path, contents=2, styles=3, evaluations=100)
    assert small.run().complete
    assert len(tried) > 1
    assert small.display.count('event=live_failed error="AccessDenied: s3://bucket/out/.nstray/live.json: 403"') == 1
    assert small.display.count("event=shard ") == 6
    small.check()


class Late(WorkerActor):
    """A worker that is ready when a file appears."""

    def __init__(self, spec: Any, weights: Any, want: str, threads: int, file: str) -> None:
        super().__init__(spec, weights, want, threads)
        jobs.until(lambda: os.path.exists(file), "the other driver's first part")


@pytest.mark.slow
def test_two_drivers_on_one_output(local_ray: None, tmp_path: Path) -> None:
    small = Small(tmp_path, contents=3, styles=4, evaluations=20)
    file = tmp_path / "go"
    late = small.driver(Late, str(file))
    lines = small.display
    early = small.driver(actors=1)
    starter = when(lambda: len(jobs.parts(small.out)) >= 3, file.touch)

    async def both() -> list[Outcome]:
        first = asyncio.create_task(late.run())
        while not late._windows.all_opened:  # it has listed the output, and takes every shard for its own
            await asyncio.sleep(0.02)
        return list(await asyncio.wait_for(asyncio.gather(first, early.run()), 150))

    outcomes = asyncio.run(both())
    starter.join()
    assert [o.complete for o in outcomes] == [True, True]
    assert [o.counts.rows for o in outcomes] == [12, 12]
    assert lines.count("event=lost_race") >= 3
    small.check()


# nodes that go, cards that are shared


def _drain_once(patch: pytest.MonkeyPatch, small: Small, begun: Callable[[], Any]) -> None:
    """This Ray's only node drains from when `begun()` is true on, until a worker leaves."""
    node = ray.get_runtime_context().get_node_id()
    patch.setattr(ray_session.ray_state, "get_draining_nodes", lambda: {node: 0} if begun() and not small.display.count("leaving") else {})


@pytest.mark.slow
def test_a_worker_whose_node_drains_hands_back_what_it_has_not_begun(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(tmp_path, contents=3, styles=4, evaluations=60)
    _drain_once(monkeypatch, small, lambda: jobs.parts(small.out))
    outcome = small.run()
    assert outcome.complete
    small.check()
    assert (small.display.count("event=worker_leaving"), small.display.count("event=worker_left")) == (1, 1)
    assert small.display.count("event=worker_ready") == 2
    assert small.display.count("event=retry") == small.display.count("event=lost_race") == 0
    footers = [read_footer(small.job.output.data_uri(name)).footer for name in jobs.parts(small.out)]
    assert len({f["pid"] for f in footers}) == 2  # the first one committed what was on its device


@pytest.mark.slow
def test_an_isolated_shard_goes_on_elsewhere_where_its_node_drains(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(tmp_path, poison={"c1-s0": DIES}, contents=2, styles=3, shard_size=6, evaluations=60)
    _drain_once(monkeypatch, small, lambda: small.display.count("event=careful"))
    assert small.run(Interfering).complete
    small.check({"c1-s0": "worker_died"})
    assert (small.display.count("event=worker_leaving"), small.display.count("event=careful")) == (1, 1)


class Shown(WorkerActor):
    """A worker that says which GPU is its own."""

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def ready(self) -> dict[str, Any]:
        return {**super().ready(), "device": "GPU " + os.environ["CUDA_VISIBLE_DEVICES"]}


@pytest.mark.slow
@pytest.mark.parametrize(("share", "cards"), [(1.0, {"0", "1"}), (0.5, {"0"})])
def test_workers_share_a_gpu_where_that_is_asked_for_alone(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, cards: set[str]
) -> None:
    monkeypatch.setattr(actor, "WorkerActor", Shown)
    small = Small(tmp_path, contents=3, styles=4, evaluations=60, actors=2, gpus_per_actor=share)
    assert small.run().complete
    ready = [line for line in small.display.lines if "event=worker_ready" in line]
    assert len(ready) == 2
    assert {line.partition('"GPU ')[2].partition('"')[0] for line in ready} == cards


# what the cluster holds


def _nodes(patch: pytest.MonkeyPatch, *resources: dict[str, float], dead: int = 0, draining: Iterable[str] = ()) -> None:
    """What Ray says it has: nodes "0", "1" and so on, of which the first `dead` are gone."""
    patch.setattr(ray, "nodes", lambda: [{"NodeID": str(i), "Alive": i >= dead, "Resources": r} for i, r in enumerate(resources)])
    patch.setattr(ray_session.ray_state, "get_draining_nodes", lambda: dict.fromkeys(draining, 0))


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 8.0}], {}, Devices("cpu", 2, 4)),
        ([{"CPU": 2.0}], {}, Devices("cpu", 1, 2)),
        ([{"CPU": 7.0}, {"CPU": 9.0}], {"cpus_per_actor": 3}, Devices("cpu", 5, 3)),
        ([{"CPU": 2.0}, {"CPU": 16.0}], {}, Devices("cpu", 4, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}], {}, Devices("auto", 4, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}], {"device": "cuda"}, Devices("cuda", 4, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}], {"device": "cpu"}, Devices("cpu", 4, 4)),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}], {"gpus_per_actor": 0.5}, Devices("auto", 4, 4, per_device=2)),
        ([{"CPU": 4.0, "GPU": 2.0}], {"gpus_per_actor": 0.4}, Devices("auto", 4, 1, per_device=2)),
        # machines of several kinds: the one without a GPU gets no worker, the one short of CPUs as many as it has
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 96.0, "GPU": 8.0}, {"CPU": 32.0}], {}, Devices("auto", 9, 12)),
        ([{"CPU": 2.0, "GPU": 8.0}], {}, Devices("auto", 2, 1)),
        ([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 4.0}], {"gpus_per_actor": 0.25}, Devices("auto", 8, 1, per_device=4)),
        ([{"CPU": 4.0}], {"device": "cuda", "actors": 3}, Devices("cuda", 0, 1)),
        ([{}, {"CPU": 4.0}], {"cpus_per_actor": 4}, Devices("cpu", 1, 4)),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], settings: dict[str, Any], expected: Devices) -> None:
    _nodes(monkeypatch, *nodes)
    found = devices(config.make({"weights": "random", **settings}))
    assert (found.kind, found.count, found.per_device) == (expected.kind, expected.count, expected.per_device)
    if expected.count:
        assert found.threads == expected.threads


def test_devices_of_dead_nodes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    _nodes(monkeypatch, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 8.0}, dead=1)
    assert devices(config.make({"weights": "random"})) == Devices("cpu", 2, 4)


def test_nodes_that_were_given_up_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    _nodes(monkeypatch, {"CPU": 8.0}, {"CPU": 8.0})
    settings = config.make({"weights": "random"})
    assert devices(settings, None, ["0"]) == Devices("cpu", 2, 4, ("0",))
    assert devices(settings, None, ["1", "0"]).count == 0


def test_nodes_that_are_draining_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.make({"weights": "random"})
    _nodes(monkeypatch, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}, draining=["0"])
    assert devices(settings) == Devices("auto", 1, 8, (), ("0",))
    assert devices(settings, None, ["1"]) == Devices("auto", 0, 1, ("1",), ("0",))
    _nodes(monkeypatch, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}, draining=["0"])  # a job that begins now waits for GPUs rather than take to CPUs
    assert devices(settings) == Devices("auto", 0, 1, (), ("0",))


def test_a_job_stays_on_the_kind_of_device_it_began_on(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.make({"weights": "random"})
    _nodes(monkeypatch, {"CPU": 16.0})  # every GPU machine was taken back
    assert devices(settings, Devices("auto", 4, 4)).count == 0
    assert devices(config.make({"weights": "random", "device": "cuda"}), Devices("cuda", 4, 4)).count == 0
    _nodes(monkeypatch, {"CPU": 16.0, "GPU": 2.0})  # GPUs that come later are not mixed in either
    assert devices(settings, Devices("cpu", 4, 4)) == Devices("cpu", 4, 4)


def test_no_gpu_in_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    _nodes(monkeypatch, {"CPU": 8.0})
    with pytest.raises(ConfigError, match=r"^device cuda: the cluster has no GPU; use --device cpu, or --actors N"):
        devices(config.make({"weights": "random", "device": "cuda"}))


def test_gpus_without_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _nodes(monkeypatch, {"GPU": 8.0}, {"CPU": 8.0})
    with pytest.raises(ConfigError, match=r"^the cluster's nodes with GPUs have no CPU.*--num-cpus"):
        devices(config.make({"weights": "random"}))


class Lost:
    """The actor of a worker whose node dies before it is ready: out of reach first, then dead, as Ray says it."""

    def __init__(self, node: str) -> None:
        died = rex.ActorDiedError(
            ActorDiedErrorContext(actor_id=bytes(16), error_message=f"The actor died because its node has died. Node Id: {node}")
        )
        self._answers: list[Exception] = [rex.ActorUnavailableError("RpcError: RPC error: Socket closed", None), died]

    @property
    def ready(self) -> Lost:
        return self

    async def remote(self) -> None:
        raise self._answers.pop(0)


def test_starts_that_die_with_their_node_are_not_held_against_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many in a row; each is said, and every further node makes the pause before the next longer."""
    monkeypatch.setattr(worker_pool, "POLL", 0.01)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    _nodes(monkeypatch, *[{"CPU": 8.0}] * 3, dead=2)
    display = Recorder(1)
    some = WorkerPool(config.make({"weights": "random"}), Lost, display, asyncio.Event())  # type: ignore[arg-type]
    pauses = []
    for i, node in enumerate("000011"):
        some._workers.append(worker := WorkerHandle(f"w{i}", Lost(node)))
        asyncio.run(some._start(worker))
        pauses.append(round(some._start_failures.not_before - time.monotonic()))
    assert pauses == [2, 2, 2, 2, 4, 4]
    assert some._workers == []
    assert display.count("event=start_lost") == 6
    assert (display.count("node=0 nodes_in_a_row=1"), display.count("node=1 nodes_in_a_row=2")) == (4, 2)
    some._workers.append(worker := WorkerHandle("alive", Lost("2")))  # a node that lives: that is the worker's own failure
    asyncio.run(some._start(worker))
    assert display.count("event=start_failed worker=alive") == 1


def test_a_node_that_does_not_see_the_output_ends_the_job_unless_another_has_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    _nodes(monkeypatch, *[{"CPU": 8.0}] * 2)
    display = Recorder(1)
    some = WorkerPool(config.make({"weights": "random"}), Lost, display, asyncio.Event())  # type: ignore[arg-type]
    some._workers.append(WorkerHandle("works", Lost("0"), ready=True, node="0"))
    blind = rex.RayTaskError("ready", "its traceback", OutputError("/out: node 1 sees no .nstray/job.json there"))
    for worked in (False, True):
        if worked:
            some._start_failures.note_finished()
        some._workers.append(worker := WorkerHandle("blind", Raises(blind)))
        if worked:
            asyncio.run(some._start(worker))
        else:
            with pytest.raises(OutputError, match="node 1 sees no"):
                asyncio.run(some._start(worker))
        assert display.count("event=start_failed worker=blind") == 1 + worked
    assert [w.name for w in some._workers] == ["works"]


class Raises:
    """An actor whose start raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    @property
    def ready(self) -> Raises:
        return self

    async def remote(self) -> None:
        raise self.error


def test_a_worker_looks_for_the_record_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is missing, empty, another one of the same path, or unreadable is named with the node."""

    class Context:
        def get_node_id(self) -> str:
            return "0123abcd"

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.1.2.3")
    small = Small(tmp_path, contents=1, styles=1)
    job = prepare.check(small.manifest, small.out, config.make(small.settings))
    stored = job.output.job.open(prepare.record(job))
    spec = dataclasses.replace(job.spec, begun=stored["created_at"])
    actor.check_output(spec)
    actor.check_output(job.spec)
    where = r"/out: node 0123abcd \(10\.1\.2\.3 .+\) "
    needs = r"; a job on several machines needs an OUT on s3:// or in a folder that all nodes mount$"
    with pytest.raises(OutputError, match=f"{where}sees another folder there than the driver: .* of 2020-01-01{needs}"):
        actor.check_output(dataclasses.replace(spec, begun="2020-01-01"))
    record = Path(job.output.job_uri)
    kept = record.read_bytes()
    record.unlink()
    with pytest.raises(OutputError, match=f"{where}sees no .nstray/job.json there{needs}"):
        actor.check_output(spec)
    record.mkdir()
    with pytest.raises(OutputError, match=f"{where}can't read .nstray/job.json: .*{needs}"):
        actor.check_output(spec)
    record.rmdir()
    record.write_bytes(kept)
    actor.check_output(spec)


@pytest.mark.parametrize(("error", "ends"), [(Unreachable("S3 answered 500"), False), (Corrupt("damaged"), False), (AccessDenied("403"), True)])
def test_a_store_that_does_not_answer_a_starting_worker_is_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StorageError, ends: bool
) -> None:
    """It ended the job with 2, as if the user had to mend it. A store that refuses the node still does."""

    class Context:
        def get_node_id(self) -> str:
            return "0123abcd"

    def head(uri: str) -> None:
        raise error

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.1.2.3")
    small = Small(tmp_path, contents=1, styles=1)
    spec = dataclasses.replace(prepare.check(small.manifest, small.out, config.make(small.settings)).spec, out="s3://bucket/out")
    monkeypatch.setattr(storage, "head", head)
    if ends:
        with pytest.raises(OutputError, match=r"node 0123abcd .*403"):
            actor.check_output(spec)
    else:
        actor.check_output(spec)


@pytest.mark.parametrize(
    "out", ["résultats", "結果", "🎨", "a b", 'it\'s "mine" \\ all', "line\nbreak", "\x1b[31m\x7f", "100%", "אב\u202e", "\udcff"]
)
def test_a_metric_s_label_takes_any_output(local_ray: None, out: str) -> None:
    """Ray encodes labels as ASCII when a value is recorded."""
    job = JobMetrics(f"/data/{out}")
    job.committed(3, {"not_found": 1})
    job.set_state(rows=5, done=3, backlog=1, in_flight=1, ready=1)
    worker = WorkerMetrics(f"/data/{out}", 7, WorkerProgress())
    worker.export(WorkerProgress(evaluations=4, phase_seconds={"optimise": 1.0}, first=0.0, now=2.0))
    for metric in (job._pairs, worker._evaluations, worker._busy):
        assert metric._default_tags["out"].isascii()


# policy


def _shard(number: int, style: str, rows: int = 1) -> Shard:
    ids = [f"p{number}-{i}" for i in range(rows)]
    return Shard(0, number, pa.table({"pair_id": ids, "style": [[style]] * rows}))


def _taken(backlog: Backlog, cached: list[str], times: int) -> list[int]:
    return [backlog.take([(c,) for c in cached]).number for _ in range(times)]


def test_backlog_prefers_a_cached_style() -> None:
    backlog = Backlog()
    backlog.extend(_shard(i, "ab"[i % 2]) for i in range(6))
    assert _taken(backlog, ["b"], 3) == [1, 3, 5]
    assert _taken(backlog, ["b"], 3) == [0, 2, 4]
    with pytest.raises(IndexError):
        backlog.take([])


def test_backlog_looks_a_bounded_distance_ahead() -> None:
    backlog = Backlog(look_ahead=3)
    backlog.extend(_shard(i, "b" if i == 3 else "a") for i in range(5))
    assert _taken(backlog, ["b"], 5) == [0, 3, 1, 2, 4]


def test_backlog_passes_its_head_over_a_bounded_number_of_times() -> None:
    backlog = Backlog(look_ahead=3)
    backlog.extend([_shard(0, "a"), *(_shard(i, "b") for i in range(1, 9))])
    assert _taken(backlog, ["b"], 4) == [1, 2, 3, 0]


def test_backlog_put_back_comes_first() -> None:
    backlog = Backlog()
    backlog.extend(_shard(i, "a") for i in range(3))
    first = backlog.take([])
    backlog.put_back(first)
    assert len(backlog) == 3
    assert backlog.take([]) is first
    backlog.clear()
    assert not backlog


def test_second_death_isolates_a_shard() -> None:
    failures, shard, other = FailureCounter(), _shard(0, "a"), _shard(1, "a")
    assert not failures.add(shard)
    assert not failures.add(other)
    assert failures.add(shard)
    assert (failures.of(shard), failures.of(other)) == (2, 1)
    failures.forget(shard)
    assert failures.of(shard) == 0
    assert not failures.add(shard)


@pytest.mark.parametrize(("stalled", "code"), [(False, ErrorCode.WORKER_DIED), (True, ErrorCode.TIMED_OUT)])
def test_an_isolated_shard_gives_a_pair_up_at_its_second_kill(stalled: bool, code: ErrorCode) -> None:
    isolated = IsolatedShard(_shard(0, "a", rows=3), attempt=3, started=0.0)
    isolated.rows[0] = {}
    assert isolated.next() == 1
    isolated.touching = 1
    isolated.blame(stalled=stalled, reason="killed")
    assert isolated.lost == {}
    isolated.blame(stalled=stalled, reason="killed")  # not while it touched a pair: nobody's fault
    assert isolated.lost == {}
    isolated.touching = 1
    isolated.blame(stalled=stalled, reason="killed")
    assert isolated.lost[1][0] == code.value
    assert isolated.lost[1][1].endswith("2 times, alone: killed")
    isolated.rows |= {1: {}, 2: {}}
    assert isolated.next() is None


def test_what_is_told_of_each_worker(tmp_path: Path) -> None:
    display, now = Recorder(100), time.monotonic()
    some = WorkerPool(config.make({}), Lost, display, asyncio.Event())
    for _ in range(4):
        display.job_progress.shard_times.add(10.0, 1)
    busy = {"ready": True, "node": "n", "host": "h", "device": "d", "moved": now - 2, "latest": WorkerProgress(evaluations=9, pairs=("a", "b"))}
    some._workers = [
        WorkerHandle("new", None),
        WorkerHandle("idle", None, ready=True),
        WorkerHandle("busy", None, in_flight={(0, 4): _shard(4, "a", rows=3), (0, 5): _shard(5, "a")}, since=now - 29, **busy),
        WorkerHandle("alone", None, isolated=_shard(6, "a", rows=2), since=now - 31, **busy),
        WorkerHandle("hung", None, stalled=True, in_flight={(0, 7): _shard(7, "a")}, since=now - 900, **busy),
    ]
    told = Reporter(Output(str(tmp_path)), some, display, lambda: 8)._live()
    assert [(w.name, w.state, w.part, w.rows, w.straggler) for w in told.workers] == [
        ("new", "starting", None, None, False),
        ("idle", "idle", None, None, False),
        ("busy", "busy", "part-00000-0004.parquet", 3, False),
        ("alone", "busy", "part-00000-0006.parquet", 2, True),
        ("hung", "stalled", "part-00000-0007.parquet", 1, True),
    ]
    one = told.workers[2]
    assert (one.node, one.host, one.device, one.evaluations, one.pairs) == ("n", "h", "d", 9, ("a", "b"))
    assert (round(one.seconds or 0), round(one.quiet or 0)) == (29, 2)
    assert (told.rows, told.backlog_shards, told.in_flight_shards, told.median_shard_seconds) == (100, 8, 4, 10)


def test_devices_count_as_long_as_their_workers_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_handle.time, "monotonic", lambda: 100.0)
    some = WorkerPool.__new__(WorkerPool)
    some._target, some._most, some._past_seconds = Devices("cuda", 4, 1, per_device=2), 3, 0.0
    some._workers = [WorkerHandle("a", None, born=60.0), WorkerHandle("b", None, born=80.0), WorkerHandle("waits for a place", None)]
    some._remove(some._workers[1])
    assert (some.device_seconds, some.devices) == ((40 + 20) / 2, 2)
    monkeypatch.setattr(worker_handle.time, "monotonic", lambda: 110.0)
    assert some.device_seconds == (50 + 20) / 2
