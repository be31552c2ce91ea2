"""Faults inside workers: a folder for PYTHONPATH whose sitecustomize alters nstray.worker.worker as it is imported. Production code has no hook."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SITE = '''
import ctypes, importlib.abc, importlib.util, os, signal, sys, time


def segfault():
    ctypes.string_at(0)


def hang():
    time.sleep(3600)


def leak():
    """In a memory cgroup of its own, so that the kernel's OOM killer takes this process alone; without one, SIGKILL stands for it."""
    if not {cgroup!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    with open({cgroup!r} + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 8)


def die():
    os._exit(17)


FAULTS = {faults!r}


def alter(module):
    if FAULTS.get("start") == "hang":
        hang()
    if "start" in FAULTS:
        raise RuntimeError("no such library: libfoo.so.3")
    honest = module.Worker._optimise

    def optimise(self, prepared):
        for ready in prepared:
            fault = FAULTS.get(ready.pair.pair_id) or FAULTS.get("*")
            if fault:
                globals()[fault]()
        return honest(self, prepared)

    module.Worker._optimise = optimise
    if {begun!r}:
        process = module.Worker.process

        def noted(self, shard, *more):
            with open({begun!r}, "a") as file:
                file.write(shard.name + "\\n")
            return process(self, shard, *more)

        module.Worker.process = noted


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "nstray.worker.worker":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            alter(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''


@contextmanager
def memory_cgroup(limit: int) -> Iterator[str]:
    """A cgroup of `limit` bytes of memory; an empty name where this machine lets us make none."""
    for parent, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = Path(parent) / f"nst{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / name).write_text(str(limit))
            usable = str(folder)
        except OSError:
            usable = ""
        try:
            yield usable
        finally:
            folder.rmdir()
        return
    yield ""


def write(folder: Path, faults: dict[str, str], cgroup: str = "", begun: str = "") -> str:
    """Workers started with `folder` first in PYTHONPATH have `faults`.

    These are ``segfault``, ``hang``, ``leak`` or ``die`` by pair id, or ``*`` for every pair; the key ``start`` keeps every worker from
    starting: with ``hang`` it never is ready, else it raises.

    Args:
        cgroup: folder of the memory cgroup that ``leak`` fills; see `memory_cgroup`.
        begun: file to which the names of shards go as they are begun.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.format(faults=faults, cgroup=cgroup, begun=begun))
    return str(folder)
