"""nstray.system.torch_threads: threads that wait give way, unless the user wishes otherwise."""

from __future__ import annotations

import os

import pytest

from nstray.system import torch_threads


@pytest.mark.parametrize(("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)])
def test_threads_sleep_soon_unless_the_user_wishes_otherwise(given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    torch_threads.let_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")  # so that what was set is undone
