"""Fixtures shared by the tests: an environment without ambient AWS settings, moto's S3 server, and a real radosgw."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ports import free_ports

from nstray import cli, storage
from nstray.commands import load_weights
from nstray.storage import s3_client

if TYPE_CHECKING:
    from heads import Head

# The workers that tests start share the machine with the tests: without the first, torch's threads spin against them (docs/performance.md),
# and without the second, Ray gives a worker a thirtieth of a test's share of a core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("RAY_worker_niceness", "0")
SCRIPT = Path(__file__).parent.parent / "scripts" / "radosgw"
# Fixtures that make a test slow, and those that make it need the dev extra.
SLOW = {"radosgw", "head", "network"}
DEV = {"moto_server"}


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks that follow from fixtures."""
    items.sort(key=lambda item: "one_ray" in getattr(item, "fixturenames", ()))  # last, so that it does not idle beside the others
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & SLOW:
            item.add_marker(pytest.mark.slow)
        if fixtures & DEV:
            item.add_marker(pytest.mark.dev)


@pytest.fixture(autouse=True)
def no_ambient_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach an account, a metadata service or a proxy by what happens to be set on this machine."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With PYTHONSAFEPATH=1 an installed nstray is meant, not the checkout; but Ray puts the folder of its driver into its workers' path."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.flags.safe_path:
            patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(scope="session")
def radosgw() -> Iterator[dict[str, str]]:
    """A real S3 server; the AWS_* variables its clients need. Skips where Ceph is not installed, unless NSTRAY_REQUIRE_RADOSGW=1."""
    missing = [p for p in ("radosgw", "ceph", "ceph-mon", "ceph-osd") if shutil.which(p) is None]
    if missing and os.environ.get("NSTRAY_REQUIRE_RADOSGW") != "1":
        pytest.skip(f"not installed: {', '.join(missing)} (see scripts/radosgw); NSTRAY_REQUIRE_RADOSGW=1 makes this a failure")
    folder = tempfile.mkdtemp(prefix="rgw-")
    try:
        done = subprocess.run([SCRIPT, "start", folder, str(free_ports(2))], capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.fail(f"scripts/radosgw start ended with {done.returncode}:\n{done.stderr}")
        yield dict(word.split("=", 1) for word in shlex.split(done.stdout) if "=" in word)
    finally:
        subprocess.run([SCRIPT, "stop", folder], timeout=60, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[dict[str, str]]:
    """moto's S3 server in a thread; the AWS_* variables its clients need."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


def _bucket(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3_client.client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture
def s3(moto_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh, empty bucket of moto's server, as ``s3://NAME``; the environment leads there."""
    yield _bucket(moto_server, monkeypatch)
    s3_client.forget_client()


@pytest.fixture
def rgw(radosgw: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh, empty bucket of the real server, as ``s3://NAME``; the environment leads there."""
    yield _bucket(radosgw, monkeypatch)
    s3_client.forget_client()


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A Ray head with a job server, started by ``ray start``; its processes report to their agent every second, not every ten."""
    from heads import Head
    from jobs import ray_folder

    with ray_folder() as folder:
        made = Head(folder, RAY_metrics_report_interval_ms="1000")
        try:
            made.wait()
            yield made
        finally:
            made.end()


_READ: dict[tuple[object, ...], load_weights.Weights] = {}


@pytest.fixture
def weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes of weights are read once for all tests: that takes a process of its own, which imports torch."""
    honest = load_weights.read

    def read(source: str, *, input: str, taps: Sequence[str]) -> load_weights.Weights:
        file = Path(source)
        key = (file.read_bytes() if file.is_file() else source, input, *taps)
        if key not in _READ:
            _READ[key] = honest(source, input=input, taps=taps)
        return dataclasses.replace(_READ[key], source=storage.redact(source))

    monkeypatch.setattr(load_weights, "read", read)


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """A Ray in this process, for every test that needs no other: two CPUs, and two GPUs by name, so that two workers run on the CPU."""
    import ray
    from jobs import LOCAL_RAY, ray_folder

    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here / "cluster"), os.environ.get("PYTHONPATH", "")])  # workers import the tests' own actors
    with ray_folder() as folder:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**LOCAL_RAY, "PYTHONPATH": path}.items():
                patch.setenv(name, value)
            ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, _temp_dir=folder, logging_level="WARNING", log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture
def local_ray(one_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """That Ray, started for whoever starts one, and no worker left on it afterwards: one that stays would take the place of a later job's."""
    import ray
    from jobs import LOCAL_RAY, until

    from nstray.cluster import worker_pool

    for name, value in LOCAL_RAY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(worker_pool, "POLL", 0.5)
    yield
    until(lambda: ray.available_resources().get("GPU") == 2, "every worker's end", seconds=60)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``nstray WORDS`` as the entry point runs it: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["nstray", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return code, *capsys.readouterr()

    return run
