"""Ray from its start to its end: no signal interrupts either, and its death is noticed between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nstray.cluster import own_cluster, ray_session, ray_watch
from nstray.errors import JobFailed
from nstray.system import stop_signals, surroundings
from nstray.worker import style_cache


@contextlib.contextmanager
def ray_running() -> Iterator[None]:
    """A context with Ray. No signal interrupts its start and end, and `RayWatch` watches it.

    What killed runs have left on this machine is removed first. Raises JobFailed and UsageError,
    and StopRequested if a signal came before Ray was there.
    """
    with stop_signals.deferred():
        stop_signals.check()
        style_cache.remove_unused()
        try:
            with own_cluster.keeping_signal_handlers():
                _start()
            stop_signals.check()
            # The watch ends the process. Another program gets Ray's exceptions and goes on.
            with ray_watch.RayWatch() if stop_signals.installed() else contextlib.nullcontext():
                yield
        finally:
            ray_session.stop_ray()


def _start() -> None:
    try:
        ray_session.start_ray()
    except JobFailed as error:
        if limits := surroundings.low_limits():
            raise JobFailed(f"{error}; {limits}: that may be too low for Ray") from None
        raise
