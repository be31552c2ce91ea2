"""Faults inside workers: a folder for PYTHONPATH whose sitecustomize alters nstray.worker as a worker imports it. Production code has no hook."""

from __future__ import annotations

from pathlib import Path

_SITE = '''
import ctypes, importlib.abc, importlib.util, os, sys, time


def segfault():
    ctypes.string_at(0)


def hang():
    time.sleep(3600)


def leak():
    """In a memory cgroup of its own, so that the kernel's OOM killer takes this process alone."""
    with open({cgroup!r} + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 8)


def die():
    os._exit(17)


FAULTS = {faults!r}


def alter(module):
    honest = module.Worker._optimise

    def optimise(self, prepared):
        for ready in prepared:
            fault = FAULTS.get(ready.pair.pair_id) or FAULTS.get("*")
            if fault:
                globals()[fault]()
        return honest(self, prepared)

    module.Worker._optimise = optimise


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "nstray.worker":
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


def write(folder: Path, faults: dict[str, str], cgroup: str = "") -> str:
    """Workers started with `folder` first in PYTHONPATH do ``segfault``, ``hang``, ``leak`` or ``die`` at a pair id, or at every one (``*``)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE.format(faults=faults, cgroup=cgroup))
    return str(folder)
