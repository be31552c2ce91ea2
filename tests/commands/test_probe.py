"""nstray.commands.probe: which pairs are probed, on a real Ray what a probe says, and what a run then shows beside it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest

from nstray import config
from nstray.commands import cost, prepare, probe, status
from nstray.commands.cost import PairCost, cost_of, row_costs
from nstray.commands.probe import ProbeOptions, pick, shortened, to_do
from nstray.errors import JobFailed, UsageError
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.worker.messages import ShardReport

pytestmark = pytest.mark.usefixtures("weights_once")
Call = Callable[..., tuple[int, str, str]]
SETTINGS = {**jobs.SETTINGS, "evaluations": 12, "shard_size": 4}


def checked(folder: Path, rows: dict[str, dict[str, Any]] | None = None, **settings: Any) -> prepare.Job:
    manifest, weights = jobs.write_inputs(str(folder / "in"), contents=4, styles=5, rows=rows)
    return prepare.check(manifest, str(folder / "out"), config.make({**SETTINGS, "weights": weights, **settings}))


def rows_of(made: prepare.Job) -> Counter[PairCost]:
    return Counter(pair for shard in to_do(made) for pair in row_costs(shard.table, made.config))


# what is probed


def test_samples_are_spread_over_what_is_to_do(tmp_path: Path) -> None:
    made = checked(tmp_path)
    ordered = [pair for shard in to_do(made) for pair in shard.table["pair_id"].to_pylist()]
    samples = pick(made, rows_of(made), whole=False)
    assert [p.shard.table["pair_id"].to_pylist() for p in samples] == [[ordered[i]] for i in (1, 5, 8, 11, 15, 18)]
    whole = pick(made, rows_of(made), whole=True)
    assert [p.shard.number for p in whole] == [0, 1, 2, 3, 4]
    assert {p.shard.table.num_rows for p in whole} == {4}


def test_every_cost_has_a_sample_before_one_has_two_and_the_work_decides(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {f"c0-s{s}": {"size": 12} for s in range(5)} | {"c1-s1": {"evaluations": 5}, "c2-s2": {"coarse": "16:3"}}
    made = checked(tmp_path, rows)
    default = cost_of(made.config)
    samples = pick(made, rows_of(made), whole=False)
    assert len({p.pair for p in samples[:4]}) == 4
    assert [p.pair for p in samples[4:]] == [default, default]
    assert {pair for p in samples if p.pair.size == "12" for pair in p.shard.table["pair_id"].to_pylist()} <= set(rows)
    many = Counter({PairCost(n, "none", "24", "longest"): 1 for n in range(1, 10)})
    assert [pair.evaluations for pair in probe._shares(many)] == [9, 8, 7, 6, 5, 4]


def test_a_sample_has_as_many_evaluations_as_it_is_told(tmp_path: Path) -> None:
    made = checked(tmp_path, {"c0-s0": {"coarse": "16:6", "size": 20}})
    staged = next(p for p in pick(made, rows_of(made), whole=True) if p.pair.coarse != "none")
    table = shortened(staged, 4).table
    assert [table[name].to_pylist() for name in ("evaluations", "coarse", "size")] == [[4], ["16:2"], ["20"]]
    assert set(probe._spec(made).info.overrides) == {"coarse", "size", "evaluations"}


class Modelled:
    """Stands in for a ProbePool: two workers whose pairs take `fixed` seconds and 0.001 of their work, the second one's twice that."""

    cpu = False

    def __init__(self, fixed: float, failing: str | None = None) -> None:
        self.fixed, self.failing, self.runs = fixed, failing, 0

    def run(self, shard: Shard) -> list[ShardReport]:
        self.runs += 1
        ids = shard.table["pair_id"].to_pylist()
        ok = sum(pair != self.failing for pair in ids)
        works = [cost.work for cost, pair in zip(row_costs(shard.table, config.make(SETTINGS)), ids, strict=True) if pair != self.failing]
        seconds = sum(self.fixed + 0.001 * work for work in works) + (7.0 if self.runs == 1 else 0.0)
        return [
            ShardReport(
                0,
                0,
                len(ids),
                ok,
                {"not_found": len(ids) - ok},
                0,
                n * seconds,
                1000 * ok,
                footer={"started": 5.0, "finished": 5.0 + n * seconds + 0.5 * len(ids)},
                example=f"{self.failing}: gone",
            )
            for n in (1, 2)
        ]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seconds", [1e-9, 60.0])
def test_a_session_finds_the_model_however_little_time_it_has(tmp_path: Path, whole: bool, seconds: float) -> None:
    made = checked(tmp_path, {f"c{c}-s0": {"coarse": "16:6"} for c in range(4)}, evaluations=100)
    pool = Modelled(fixed=3.0, failing="c0-s1")
    session = probe._Session(pool, pick(made, rows_of(made), whole=whole), seconds)  # type: ignore[arg-type]
    session.run()
    assert len(session.costs) == 2 * (pool.runs // 3) >= 2
    for n, (found, _) in enumerate(session.costs):
        assert found.device == pytest.approx((1 + n % 2) * (3.0 + 0.001 * found.pair.work))
        assert found.host == pytest.approx(0.5)
    assert session.warm_up == pytest.approx(2 * 7.0)
    assert session.errors == whole
    if seconds > 1:  # the model takes no time, so that every sample runs whole
        assert (pool.runs, all(found.settled for found, _ in session.costs)) == (3 * len(session._samples), True)
    else:
        assert pool.runs == 3


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--price", "-1", "--price must be a number of at least 0"),
        ("--price", "nan", "--price must be"),
        ("--devices", "0", "--devices must be from 1"),
        ("--devices", "2,x", "--devices: expected whole numbers such as 8 or 1,8,64; got '2,x'"),
        ("--probe-seconds", "0", "--probe-seconds must be a number above 0"),
        ("--probe-seconds", "inf", "--probe-seconds must be"),
    ],
)
def test_bad_probe_options_are_refused(call: Call, tmp_path: Path, option: str, value: str, words: str) -> None:
    code, out, err = call("plan", "no.csv", tmp_path / "out", "--probe", option, value)
    assert (code, out, words in err) == (2, "", True), err


@pytest.mark.parametrize("option", [["--price", "1"], ["--devices", "2"], ["--probe-seconds", "5"], ["--record"]])
def test_options_of_a_probe_need_one(call: Call, tmp_path: Path, option: list[str]) -> None:
    code, _, err = call("plan", "no.csv", tmp_path / "out", *option)
    assert (code, f"{option[0]}: only with --probe" in err) == (2, True), err


def test_probe_options_are_checked_by_whoever_makes_them() -> None:
    with pytest.raises(UsageError, match="price"):
        ProbeOptions(price=-0.01)
    assert ProbeOptions().devices == ()


def test_a_table_for_a_terminal() -> None:
    figures = {"device_hours": 1.5, "wall_seconds": 2700.0, "bytes": 2.5e9, "money": 3.0}
    ends = {f"{name}{end}": value * by for name, value in figures.items() for end, by in (("_low", 0.9), ("_high", 1.1))}
    heading, line = probe.forecast_table([{"devices": 2, **figures, **ends}])
    assert heading.split() == ["devices", "device-hours", "wall", "bytes", "money"]
    assert line.split("  ")[0] == "2"
    for cell in ("1.5 (1.35 to 1.65)", "45m00s (40m30s to 49m30s)", "2.5 GB (2.25 GB to 2.75 GB)", "3.00 (2.70 to 3.30)"):
        assert cell in line


# beside a run


def test_a_forecast_is_of_the_same_run_or_of_none() -> None:
    recorded = {"fingerprint": "f", "rows": 6, "forecasts": [{"devices": 1, "bytes": 1}, {"devices": 2, "bytes": 2}]}
    summary = {"last_run_rows": 6, "last_run_devices": 2}
    assert cost.recorded_forecast(recorded, "f", summary) == {"devices": 2, "bytes": 2}
    assert cost.recorded_forecast(recorded, "other", summary) is None
    assert cost.recorded_forecast(recorded, "f", {**summary, "last_run_rows": 5}) is None
    assert cost.recorded_forecast(recorded, "f", {**summary, "last_run_devices": 3}) is None
    assert cost.recorded_forecast(None, "f", summary) is None
    assert cost.recorded_forecast({**recorded, "forecasts": "damage"}, "f", summary) is None


def test_a_damaged_summary_shows_its_numbers_alone() -> None:
    summary = {"last_run_seconds": 2.5, "last_run_bytes": 10**400, "last_run_device_hours": math.nan, "estimate": {"bytes": "x", "wall_seconds": 2}}
    assert cost.cost_summary(summary) == {"last_run": {"wall_seconds": 2.5}, "estimate": {"wall_seconds": 2}}
    assert cost.cost_summary({"estimate": 5}) == cost.cost_summary(None) == {"last_run": {}, "estimate": {}}


# on Ray


@pytest.mark.slow
def test_a_probe_and_the_run_after_it(call: Call, local_ray: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=2, styles=3, rows={"c0-s0": {"size": 16}, "c1-s1": {"evaluations": 5}})
    words = [manifest, out, *jobs.options({**SETTINGS, "weights": weights, "actors": 1})]
    code, told, err = call("plan", *words, "--probe", "--json", "--devices", "1,2", "--price", "3", "--probe-seconds", "5")
    assert code == 0, err
    assert not out.exists()
    found = json.loads(told)
    assert (found["rows_to_do"], found["evaluations_to_do"]) == (6, 65)
    probed = found["probe"]
    assert (probed["rows"], probed["kinds"], probed["kinds_measured"], probed["error_rows"]) == (6, 3, 3, 0)
    assert (probed["device"], probed["workers"]) == ("cpu", 1)
    assert min(probed[name] for name in ("seconds", "seconds_per_evaluation", "ray_seconds", "start_seconds")) > 0
    one, two = probed["forecasts"]
    assert (one["devices"], two["devices"]) == (1, 2)
    assert two["wall_seconds"] < one["wall_seconds"]
    for each in (one, two):
        for name in ("device_hours", "wall_seconds", "bytes", "money"):
            assert 0 < each[f"{name}_low"] < each[name] < each[f"{name}_high"]
        assert each["money"] == pytest.approx(3 * each["device_hours"])
        assert each["device_hours"] == pytest.approx(each["devices"] * (each["wall_seconds"] - probed["ray_seconds"]) / 3600)

    code, told, err = call("plan", *words, "--probe", "--record", "--probe-seconds", "5")
    assert (code, "probe_seconds_per_evaluation" in told, told.splitlines()[-2].split()[0]) == (0, True, "devices"), err
    assert [p.name for p in out.rglob("*") if p.is_file()] == ["estimate.json"]
    code, _, err = call("run", *words)
    assert code == 0, err
    summary = Output(str(out)).summary.read()
    assert summary is not None
    assert summary["estimate"]["devices"] == summary["last_run_devices"] == 1
    assert summary["last_run_bytes"] == summary["bytes"] == sum(p.stat().st_size for p in (out / "data").iterdir())
    # The size of pictures does not hang on the clock.
    assert summary["estimate"]["bytes"] == pytest.approx(summary["bytes"], rel=0.15)
    assert 0 < summary["last_run_device_hours"] * 3600 < summary["last_run_seconds"]
    assert summary["last_run_evaluations_per_s"] * summary["last_run_seconds"] == pytest.approx(65, rel=0.01)
    assert "event=cost devices=1 device_hours=" in err
    assert " estimated_device_hours=" in err
    said = status.status(str(out))
    assert said["last_run"]["device_hours"] == summary["last_run_device_hours"]
    assert said["estimate"]["wall_seconds"] == summary["estimate"]["wall_seconds"]

    code, told, err = call("plan", *words, "--probe", "--json")
    assert (code, "nothing is left to do" in err, "probe" in json.loads(told)) == (0, True, False)


@pytest.mark.slow
def test_pairs_that_make_no_picture_are_no_estimate(local_ray: None, tmp_path: Path) -> None:
    made = checked(tmp_path, actors=1)
    for image in (tmp_path / "in").glob("c*.png"):
        image.write_bytes(b"no picture")
    with pytest.raises(JobFailed, match=r"none of the 6 pairs probed made a picture; the last one: c\d-s\d: content"):
        probe.probe(made, ProbeOptions(seconds=5))
