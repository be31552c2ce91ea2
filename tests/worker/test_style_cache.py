"""nstray.worker.style_cache: one fetch per image and machine, whoever asks; nothing of it outlives its users for long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nstray.errors import NotFound
from nstray.worker.style_cache import StyleCache

DATA = b"bytes of an image" * 1000


class Store:
    """Where images are fetched: counts by URI."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.fetched = seconds, list[str]()

    def fetch(self, uri: str) -> Callable[[], bytes]:
        def get() -> bytes:
            self.fetched.append(uri)
            time.sleep(self.seconds)
            return DATA + uri.encode()

        return get


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_one_worker_fetched_another_reads(temporary: Path) -> None:
    store, first, second = Store(), StyleCache("run"), StyleCache("run")
    for cache in (first, second, first):
        for uri in ("s3://b/one", "s3://b/two"):
            assert cache.get(uri, store.fetch(uri)) == DATA + uri.encode()
    assert store.fetched == ["s3://b/one", "s3://b/two"]
    assert (temporary / "nstray-styles-run").stat().st_mode & 0o077 == 0


def test_workers_that_ask_at_once_wait_for_one_fetch() -> None:
    store, caches = Store(seconds=0.3), [StyleCache("run") for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: caches[i % 4].get("s3://b/one", store.fetch("s3://b/one")), range(16)))
    assert set(found) == {DATA + b"s3://b/one"}
    assert len(store.fetched) == 1


def test_a_fetch_that_hangs_holds_the_others_only_so_long() -> None:
    hangs, store = threading.Event(), Store()
    slow, quick = StyleCache("run"), StyleCache("run", wait=0.2)

    def hang() -> bytes:
        hangs.wait(60)
        return DATA

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow.get, "s3://b/one", hang)
        while not list(Path(tempfile.gettempdir()).glob("nstray-styles-run/lock-*")):
            time.sleep(0.01)
        assert quick.get("s3://b/one", store.fetch("s3://b/one")) == DATA + b"s3://b/one"
        assert not first.done()
        hangs.set()
        assert first.result() == DATA


def test_an_image_that_the_store_does_not_have_is_asked_for_again() -> None:
    cache, store = StyleCache("run"), Store()

    def missing() -> bytes:
        raise NotFound("s3://b/one: not there")

    for _ in range(2):
        with pytest.raises(NotFound):
            cache.get("s3://b/one", missing)
    assert cache.get("s3://b/one", store.fetch("s3://b/one")) == DATA + b"s3://b/one"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:10], lambda data: data[:-1] + b"?", lambda data: b""])
def test_a_damaged_file_is_fetched_again(temporary: Path, damage: Callable[[bytes], bytes]) -> None:
    cache, store = StyleCache("run"), Store()
    cache.get("s3://b/one", store.fetch("s3://b/one"))
    (kept,) = (p for p in (temporary / "nstray-styles-run").iterdir() if len(p.name) == 64)
    kept.write_bytes(damage(kept.read_bytes()))
    for _ in range(2):
        assert cache.get("s3://b/one", store.fetch("s3://b/one")) == DATA + b"s3://b/one"
    assert len(store.fetched) == 2


def test_the_images_used_last_stay_within_the_bound(temporary: Path) -> None:
    cache, store = StyleCache("run", bound=5 * (len(DATA) + 100)), Store()
    for i in range(20):
        for uri in ("s3://b/hot", f"s3://b/{i:02d}"):
            cache.get(uri, store.fetch(uri))
    assert store.fetched.count("s3://b/hot") == 1
    kept = [p for p in (temporary / "nstray-styles-run").iterdir() if len(p.name) == 64]
    assert len(kept) == 5


def test_the_last_to_leave_removes_it(temporary: Path) -> None:
    store, first, second = Store(), StyleCache("run"), StyleCache("run")
    for cache in (first, second):
        cache.get("s3://b/one", store.fetch("s3://b/one"))
    first.close()
    assert (temporary / "nstray-styles-run").exists()
    second.close()
    assert not list(temporary.iterdir())
    assert first.get("s3://b/one", store.fetch("s3://b/one")) == DATA + b"s3://b/one"  # of the store itself, from now on
    assert not list(temporary.iterdir())


def test_what_a_killed_worker_left_goes_with_the_next_one_and_what_is_in_use_stays(temporary: Path) -> None:
    code = "import sys, time; from nstray.worker.style_cache import StyleCache\n"
    code += "StyleCache(sys.argv[1]).get('s3://b/x', lambda: b'x'); print(1, flush=True); time.sleep(60)"
    env = {**os.environ, "TMPDIR": str(temporary)}
    workers = [subprocess.Popen([sys.executable, "-c", code, run], env=env, stdout=subprocess.PIPE) for run in ("dead", "alive")]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline()
        workers[0].kill()
        workers[0].wait()
        cache = StyleCache("mine")
        cache.get("s3://b/x", lambda: b"x")
        assert sorted(p.name for p in temporary.iterdir()) == ["nstray-styles-alive", "nstray-styles-mine"]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_a_folder_that_others_may_write_is_not_trusted(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    (temporary / "nstray-styles-run").mkdir(mode=0o700)
    (temporary / "nstray-styles-run").chmod(0o777)
    cache, store = StyleCache("run"), Store()
    for _ in range(2):
        assert cache.get("s3://b/one", store.fetch("s3://b/one")) == DATA + b"s3://b/one"
    assert len(store.fetched) == 2
    assert not list((temporary / "nstray-styles-run").iterdir())
    assert [r.message.split()[0] for r in caplog.records] == ["event=style_cache_off"]


def test_a_full_disk_costs_fetches_alone() -> None:
    cache, store = StyleCache("run", reserve=2**62), Store()
    for _ in range(2):
        assert cache.get("s3://b/one", store.fetch("s3://b/one")) == DATA + b"s3://b/one"
    assert len(store.fetched) == 2
