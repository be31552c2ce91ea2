"""nstray.commands.cost and nstray.commands.forecast: the arithmetic of an estimate, without a clock."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pytest

from nstray import config
from nstray.commands.cost import PairCost, cost_of, row_costs
from nstray.commands.forecast import CURVE_BYTES, SPREAD, UNSETTLED, Forecast, Measured, RemainingWork, SampleCost, full_seconds, makespan

PLAIN = PairCost(100, "none", "200", "exact")
SMALL = PairCost(100, "none", "100", "exact")


def sample(pair: PairCost = PLAIN, device: float = 50.0, host: float = 1.0, size: float = 1000.0, *, settled: bool = True) -> SampleCost:
    return SampleCost(pair, device, host, size, settled)


def forecast(*samples: SampleCost, remaining: RemainingWork | None = None, depth: int = 2, **more: Any) -> Forecast:
    """Of four shards of two pairs, unless `remaining` says otherwise."""
    measured: dict[str, Any] = {"per_device": 1, "cpu": True, "ray": 10.0, "start": 5.0, "warm_up": 1.0, "part_bytes": 100, **more}
    return Forecast(remaining or RemainingWork([{PLAIN: 2}], [0] * 4), Measured(samples or (sample(),), **measured), depth, "png")


# what settings cost


def test_the_work_of_a_pair_counts_its_stages_by_their_pixels() -> None:
    assert PLAIN.stages == [(40_000.0, 100)]
    assert PairCost(100, "none", "320x200", "exact").pixels == 64_000
    assert PairCost(100, "none", "200", "longest").pixels == 200 * 150
    staged = PairCost(100, "half", "200", "exact")
    assert (staged.budget, staged.work) == (200, 40_000 * 100 + 10_000 * 100)
    own = PairCost(100, "50:40,50%:8", "200", "exact")
    assert (own.budget, own.work) == (148, 40_000 * 100 + 2500 * 40 + 10_000 * 8)


@pytest.mark.parametrize(("evaluations", "coarse"), [(50, "50:20,100:4"), (1, "50:1,100:1"), (100, "50:40,100:8")])
def test_a_shorter_cost_shortens_its_own_stages_too(evaluations: int, coarse: str) -> None:
    assert PairCost(100, "50:40,100:8", "200", "exact").shortened(evaluations) == PairCost(evaluations, coarse, "200", "exact")
    assert PairCost(100, "auto", "200", "exact").shortened(evaluations).coarse == "auto"


def test_rows_have_costs_of_their_own() -> None:
    job = config.make({"size": 64, "evaluations": 7})
    rows = pa.table({"pair_id": ["a", "b", "c"], "size": ["32", None, "64"], "evaluations": [None, 9, None], "seed": [1, 2, 3]})
    default = cost_of(job)
    assert row_costs(rows, job) == [dataclasses.replace(default, size="32"), dataclasses.replace(default, evaluations=9), default]
    assert row_costs(rows.select(["pair_id", "seed"]), job) == [default] * 3


# extrapolation


def test_two_runs_give_what_is_fixed_and_what_an_evaluation_takes() -> None:
    assert full_seconds((2.0, 5.0), (6.0, 9.0), 100.0) == 103.0
    assert full_seconds((6.0, 9.0), (2.0, 5.0), 100.0) == 103.0
    assert full_seconds((2.0, 5.0), (6.0, 9.0), 6.0) == 9.0  # the longer one was the whole


@pytest.mark.parametrize(("short", "long"), [((2.0, 9.0), (6.0, 6.0)), ((2.0, 1.0), (6.0, 6.0)), ((6.0, 6.0), (6.0, 6.0))])
def test_noise_makes_neither_term_negative(short: tuple[float, float], long: tuple[float, float]) -> None:
    assert full_seconds(short, long, 12.0) == 12.0


@pytest.mark.parametrize(
    ("costs", "workers", "depth", "expected"),
    [
        ([3.0] * 5, 1, 2, 15.0),
        ([3.0] * 5, 2, 1, 9.0),
        ([3.0] * 4, 8, 2, 3.0),
        ([10.0, 1.0, 1.0, 1.0], 2, 1, 10.0),
        ([10.0, 1.0, 1.0, 1.0], 2, 2, 11.0),  # the third is already in line behind the first
        ([], 3, 2, 0.0),
    ],
)
def test_shards_go_to_workers_as_the_driver_hands_them_out(costs: list[float], workers: int, depth: int, expected: float) -> None:
    assert makespan(costs, workers, depth) == expected


# the whole job


def test_a_job_on_a_cpu_adds_up() -> None:
    told = forecast().on(2)
    pairs = 4 * (50 + 1)  # on each of two workers
    assert told["wall_seconds"] == 10 + 5 + 1 + pairs
    assert told["device_hours"] == pytest.approx(2 * (5 + 1 + pairs) / 3600)
    assert told["bytes"] == 8 * 1000 + 4 * 100
    assert told["evaluations_per_s"] == pytest.approx(800 / told["wall_seconds"])
    assert "money" not in told
    assert forecast().seconds_per_evaluation == 0.5


def test_devices_share_out_the_shards_but_not_the_start() -> None:
    walls = [forecast().on(n)["wall_seconds"] for n in (1, 2, 3, 4, 100)]
    assert walls == [16 + 102 * n for n in (4, 2, 2, 1, 1)]
    assert forecast(per_device=2).on(1)["wall_seconds"] == walls[1]
    assert forecast(per_device=2).on(1)["device_hours"] == pytest.approx(forecast().on(2)["device_hours"] / 2)


@pytest.mark.parametrize(("host", "depth", "shard"), [(1.0, 2, 100.0), (1.0, 1, 102.0), (70.0, 2, 120.0)])
def test_a_gpu_does_not_wait_for_files_as_far_as_depth_hides_them(host: float, depth: int, shard: float) -> None:
    told = forecast(sample(host=host), cpu=False, depth=depth).on(1)
    assert told["wall_seconds"] == 10 + 5 + 1 + 2 * host + 4 * shard


def test_a_price_is_of_device_hours() -> None:
    told = forecast().on(3, 2.5)
    for end in ("", "_low", "_high"):
        assert told[f"money{end}"] == pytest.approx(2.5 * told[f"device_hours{end}"])
    assert forecast().on(1, 0.0)["money"] == 0


def test_the_spread_is_that_of_the_samples_and_never_less_than_a_machines_own() -> None:
    alone = forecast().on(1)
    assert alone["wall_seconds_high"] - 16 == pytest.approx((1 + SPREAD) * (alone["wall_seconds"] - 16))
    assert alone["wall_seconds_low"] - 16 == pytest.approx((1 - SPREAD) * (alone["wall_seconds"] - 16))
    wide = forecast(sample(device=30.0, size=500), sample(device=70.0, size=1500)).on(1)
    assert wide["wall_seconds"] == alone["wall_seconds"]
    assert wide["wall_seconds_low"] == pytest.approx(16 + 8 * (30 + 0.9))
    assert wide["wall_seconds_high"] == pytest.approx(16 + 8 * (70 + 1.1))
    assert [wide[f"bytes{end}"] for end in ("_low", "", "_high")] == [4400, 8400, 12400]


def test_every_cost_counts_as_often_as_it_stands() -> None:
    remaining = RemainingWork([{PLAIN: 2}, {PLAIN: 1, SMALL: 1}], [0, 1, 1])
    assert remaining.rows == {PLAIN: 4, SMALL: 2}
    told = forecast(sample(), sample(SMALL, device=10.0, host=0.5, size=300), remaining=remaining).on(1)
    assert told["wall_seconds"] == 16 + 4 * 51 + 2 * 10.5
    assert told["bytes"] == 4 * 1000 + 2 * 300 + 3 * 100


def test_a_cost_that_was_not_probed_is_taken_from_the_nearest_size_by_its_work() -> None:
    longer = dataclasses.replace(SMALL, evaluations=300)
    remaining = RemainingWork([{longer: 1}], [0])
    told = forecast(sample(), sample(SMALL, device=10.0, host=0.5, size=300), remaining=remaining).on(1)
    assert told["wall_seconds"] == 16 + 3 * 10 + 0.5
    larger = dataclasses.replace(PLAIN, size="400")
    told = forecast(sample(), sample(SMALL, device=10.0), remaining=RemainingWork([{larger: 1}], [0])).on(1)
    assert told["wall_seconds"] == 16 + 4 * 51
    assert told["bytes"] == 4 * 1000 + 100


def test_pictures_of_too_few_evaluations_say_nothing_of_the_bytes() -> None:
    told = forecast(sample(settled=False)).on(1)
    picture = 40_000 * 2.3
    assert told["bytes"] == round(8 * (picture + CURVE_BYTES * 100) + 400)
    assert told["bytes_high"] - told["bytes"] == pytest.approx(8 * UNSETTLED * picture, abs=1)
    assert forecast(sample(settled=False), sample()).on(1)["bytes"] == 8400
