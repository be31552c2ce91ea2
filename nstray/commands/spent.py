"""What a run took, beside what a probe said it would: for the summary, the log and `status`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

# The figures of a forecast (`nstray.commands.forecast`), and the same of a run, in its summary.
COMPARED = {
    "devices": "last_run_devices",
    "device_hours": "last_run_device_hours",
    "wall_seconds": "last_run_seconds",
    "bytes": "last_run_bytes",
    "evaluations_per_s": "last_run_evaluations_per_s",
}


def forecast_of(recorded: Mapping[str, Any] | None, fingerprint: str, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The forecast of the run that `summary` tells of in what ``plan --probe --record`` left.

    None where that is of another job, of other rows to do (the probe was made before an earlier run), or of other numbers of devices.
    """
    found = recorded or {}
    if (found.get("fingerprint"), found.get("rows")) != (fingerprint, summary["last_run_rows"]) or not isinstance(found.get("forecasts"), list):
        return None
    forecasts = [each for each in found["forecasts"] if isinstance(each, dict)]
    return next((each for each in forecasts if each.get("devices") == summary["last_run_devices"]), None)


def line(summary: Mapping[str, Any]) -> str:
    """``key=value`` words for the log."""
    told = shown(summary)
    words = [(name, value) for name, value in told["last_run"].items()]
    words += [(f"estimated_{name}", value) for name, value in told["estimate"].items() if name != "devices"]
    return " ".join(f"{name}={value}" if type(value) is int else f"{name}={value:.4g}" for name, value in words)


def shown(summary: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """``last_run`` and ``estimate`` of a summary, which a stranger may have written: the numbers in it, by the names of a forecast."""
    found = summary or {}
    estimate = found.get("estimate")
    return {
        "last_run": {name: n for name, key in COMPARED.items() if _is_number(n := found.get(key))},
        "estimate": {name: n for name in COMPARED if isinstance(estimate, dict) and _is_number(n := estimate.get(name))},
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value))
