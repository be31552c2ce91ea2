"""nstray.worker.batch_progress: the stage of a batch, and its share of the work."""

from __future__ import annotations

import pytest

from nstray.config import make
from nstray.worker.batch_progress import BatchProgress
from nstray.worker.messages import FIXED_PIXELS


def test_stages_and_shares_of_a_picture_in_stages() -> None:
    config = make({"preset": "quick"}).engine()  # 25%:30,50%:40 and 150
    batch = BatchProgress.of(2, config, 192, 256, 1)
    assert (batch.pairs, batch.ends) == (2, [30, 70, 220])
    assert batch.weights == [FIXED_PIXELS + 48 * 64, FIXED_PIXELS + 96 * 128, FIXED_PIXELS + 192 * 256]
    assert [batch.stage(n) for n in (1, 30, 31, 70, 71, 220)] == [(1, 3), (1, 3), (2, 3), (2, 3), (3, 3), (3, 3)]
    whole = 30 * batch.weights[0] + 40 * batch.weights[1] + 150 * batch.weights[2]
    assert batch.share(0) == 0
    assert batch.share(30) == pytest.approx(30 * batch.weights[0] / whole)
    assert batch.share(145) == pytest.approx((whole - 75 * batch.weights[2]) / whole)
    assert batch.share(220) == 1
    assert batch.share(10**6) == 1


def test_a_stage_that_is_too_small_is_left_out() -> None:
    config = make({"preset": "quick"}).engine()
    assert BatchProgress.of(1, config, 192, 256, 64).ends == [40, 190]
    assert BatchProgress.of(1, make({"evaluations": 7}).engine(), 8, 8, 1).stage(3) == (1, 1)
