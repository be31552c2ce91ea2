"""nstray: stylised datasets by the optimisation of Gatys, Ecker and Bethge, on Ray."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nstray")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
