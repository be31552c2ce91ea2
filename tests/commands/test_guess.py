"""nstray.commands.guess: arithmetic from stored rates, marked as a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest

from nstray.commands import guess, prepare
from nstray.commands.cost import PairCost
from nstray.config import make
from nstray.engine.settings import CONV_LAYERS

WIDTHS = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}


def network(share: int = 1) -> dict[str, Any]:
    """The shapes of a VGG-19 up to conv5_1, of 1/share of the filters."""
    arrays, before = {}, 3
    for layer in CONV_LAYERS[: CONV_LAYERS.index("conv5_1") + 1]:
        filters = WIDTHS[layer[4]] // share
        arrays |= {f"{layer}.weight": np.empty((filters, before, 3, 3), np.float16), f"{layer}.bias": np.empty(filters)}
        before = filters
    return arrays


def test_multiplications() -> None:
    assert guess.multiplications(network()) == guess.FULL
    assert guess.multiplications(network(4)) == pytest.approx(guess.FULL * guess.COMPACT, rel=0.02)


@pytest.mark.parametrize(("share", "size", "measured"), [(1, "256x256", 0.455), (4, "256x192", 0.0519), (4, "512x384", 0.1832)])
def test_it_gives_back_what_was_measured(share: int, size: str, measured: float) -> None:
    """Seconds of an evaluation on two cores: the figures that the rates are of."""
    cost = PairCost(1, "none", size, "exact")
    told = guess.pair_seconds(cost, guess.multiplications(network(share)) / guess.FULL, cpu=True) / 2
    assert told == pytest.approx(measured, rel=0.2)


def checked(tmp_path: Path, **settings: Any) -> prepare.Job:
    manifest, weights = jobs.write_inputs(str(tmp_path), contents=3, styles=4)
    return prepare.check(manifest, str(tmp_path / "out"), make({**jobs.SETTINGS, "weights": weights, "device": "cpu", **settings}))


def test_a_long_job_gets_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(guess.os, "cpu_count", lambda: 2)
    job = checked(tmp_path)
    short = guess.guess(job)
    assert short is not None
    assert "hint" not in short
    assert short["basis"] == "stored_rate_of_a_cpu_core"
    assert short["devices"] == "2_cores"
    (tmp_path / "long").mkdir()
    long = guess.guess(checked(tmp_path / "long", size=1024, evaluations=100_000))
    assert long is not None
    assert long["seconds"] > guess.LONG
    assert long["hint"].startswith("--preset quick would take about ")
    assert "; --size 512 about a quarter of the time; " in long["hint"]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert guess.guess(job) is None  # nobody knows what is there
