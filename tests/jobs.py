"""Small jobs for the tests that really run them: pictures, manifest and the first layers of a network, made here; their rows, read back."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from outputs import picture
from safetensors.torch import save

from nstray import storage
from nstray.commands.prepare import Job
from nstray.engine.network.random_weights import random_weights
from nstray.engine.settings import CONV_LAYERS
from nstray.images.encode import encode
from nstray.manifest.shards import cut_shards, cut_windows

NSTRAY = (sys.executable, "-c", "from nstray.__main__ import main; main()")
# Three layers of 24-pixel pictures: a pair is a few hundredths of a second. `evaluations` makes it as long as a test needs.
SETTINGS: dict[str, Any] = {"content_layers": "conv2_1", "style_layers": "conv1_1,conv2_1", "size": 24, "evaluations": 4, "shard_size": 1}
LOCAL_RAY = {"RAY_ADDRESS": "local", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@lru_cache
def _weights() -> bytes:
    return save({name: tensor.contiguous() for name, tensor in random_weights(CONV_LAYERS[:3]).tensors.items()}, {"input": "rgb"})


def write_inputs(
    folder: str, *, contents: int = 3, styles: int = 5, manifest: str = "pairs.csv", rows: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[str, str]:
    """Pictures ``c0.png``.., ``s0.png``.. and ``weights.safetensors`` below `folder` (local or s3://), and a manifest of every pair.

    Args:
        manifest: where the manifest goes, relative to `folder` or absolute.
        rows: further columns of single rows, by pair id (``c0-s1``).
    Returns: the URIs of manifest and weights.
    """
    for role, number in (("c", contents), ("s", styles)):
        for i in range(number):
            storage.put_new(storage.join(folder, f"{role}{i}.png"), encode(picture(100 * (role == "s") + i, 30, 28), "png"))
    rows = rows or {}
    extra = sorted({name for more in rows.values() for name in more})
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["pair_id", "content", "style", *extra])
    for c in range(contents):
        for s in range(styles):
            more = rows.get(f"c{c}-s{s}", {})
            uris = [storage.join(folder, f"c{c}.png"), storage.join(folder, f"s{s}.png")]
            lines.writerow([f"c{c}-s{s}", *uris, *(more.get(name, "") for name in extra)])
    uri, weights = storage.join(folder, manifest), storage.join(folder, "weights.safetensors")
    storage.put_new(uri, text.getvalue().encode())
    storage.put_new(weights, _weights())
    return uri, weights


def options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of the command line."""
    return [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))]


def parts(out: str) -> dict[str, str | None]:
    """Names and versions of the parts that are there."""
    return {storage.name(info.uri): info.etag for info in storage.list_prefix(storage.join(out, "data/part-"))}


def rows(out: str) -> list[dict[str, Any]]:
    """Every row of every part, without the pictures, in order of pair ids."""
    found: list[dict[str, Any]] = []
    for name in parts(out):
        table = pq.read_table(io.BytesIO(storage.read(storage.join(out, f"data/{name}"))))
        found += table.select(["pair_id", "status", "error_code", "error_message", "attempt"]).to_pylist()
    return sorted(found, key=lambda row: row["pair_id"])


def shards_of(job: Job) -> list[tuple[str, str]]:
    """Name and digest of the ids of every shard of a job, in order."""
    windows = cut_windows(job.manifest.tables(job.info), job.spec.cuts)
    return [(shard.name, shard.ids_digest) for number, table in windows for shard in cut_shards(number, table, job.config.shard_size, job.spec.order)]


def all_pairs(contents: int = 3, styles: int = 5) -> list[str]:
    return [f"c{c}-s{s}" for c in range(contents) for s in range(styles)]


def until(true: Callable[[], Any], what: str, *, seconds: float = 300, every: float = 0.05, alive: subprocess.Popen[Any] | None = None) -> Any:
    """Wait for `true()`; fail after `seconds`, or when the process `alive` has ended before."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert alive is None or alive.poll() is None, f"ended with {alive.returncode} before: {what}"
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(every)
    return found


@contextmanager
def ray_folder() -> Iterator[str]:
    """A folder for a Ray of the test's own; its name is short, because a socket's path may have 107 characters."""
    folder = tempfile.mkdtemp(prefix="nsray-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_cli(words: Iterable[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """``nstray WORDS`` in a session of its own; stdout and stderr are appended to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [*NSTRAY, *words], stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={**os.environ, **env}, start_new_session=True
        )


def end(process: subprocess.Popen[Any]) -> None:
    """Whatever happened: neither the process nor anything below it stays."""
    below = descendants(process.pid) if process.poll() is None else {}
    if process.poll() is None:
        process.kill()
    process.wait(30)
    kill(below)


def _stat(pid: int) -> tuple[int, str, str] | None:
    """(parent, start time, state) of a process; None if there is none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return None
    return int(words[1]), words[19], words[0]


def descendants(pid: int) -> dict[int, str]:
    """Every process below `pid`, with its start time: pids are reused."""
    table = {int(p.name): s for p in Path("/proc").iterdir() if p.name.isdigit() and (s := _stat(int(p.name)))}
    found: dict[int, str] = {}
    grown = {pid}
    while grown:
        grown = {child for child, (parent, *_) in table.items() if parent in grown and child not in found}
        found |= {child: table[child][1] for child in grown}
    return found


def alive(known: Mapping[int, str]) -> list[int]:
    """Those of the processes that still run."""
    return [pid for pid, started in known.items() if (now := _stat(pid)) and now[1] == started and now[2] != "Z"]


def working(known: Mapping[int, str]) -> list[int]:
    """Those of the processes that still run, without two that Ray itself lets look for their dead cluster for 60 s (measured, Ray 2.60)."""
    return [pid for pid in alive(known) if not any(name in command(pid) for name in ("ray::DashboardAgent", "ray::RuntimeEnvAgent"))]


def command(pid: int) -> str:
    """Its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def kill(known: Mapping[int, str]) -> None:
    """End those of the processes that still run."""
    for pid in alive(known):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
