"""How torch's threads wait for each other."""

from __future__ import annotations

import os

SPINS = 1000  # turns of a thread's loop before it sleeps (docs/performance.md, "Torch's threads")


def let_sleep() -> None:
    """Let torch's threads give way soon: in this process, if torch is not there yet, and below it.

    They spin while they wait for each other. By default they go on for so long that beside one
    other busy process two cores do a tenth of the work (docs/performance.md). GNU's OpenMP reads
    the variable when it is loaded; processes inherit it. One that is set stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
