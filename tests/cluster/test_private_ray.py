"""What nstray.cluster.ray_session uses of Ray without a promise: one test for each use, which fails when Ray changes it.

The errors come from a real cluster whose workers and nodes die.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest
from ray._private import ray_constants, services, worker
from ray._private.authentication import authentication_token_setup
from ray._private.runtime_env import uv_runtime_env_hook, working_dir
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.state import state as ray_state
from ray._private.utils import validate_socket_filepath
from ray.exceptions import RayActorError

from nstray.cluster import ray_session
from nstray.commands import ray_job

pytestmark = pytest.mark.slow  # a cluster of its own

# Actors that raise, exit, and lose their nodes. Prints what the seams make of the errors.
PROGRAM = """
import json, os, subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
from nstray.cluster import ray_session

STARTING = sys.argv[1]  # a file that an actor makes as it starts
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
settings = ray_session.job_config_without_folders()
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", job_config=settings)
found = {"head": cluster.head_node.node_id, "address": cluster.address, "bootstrap": ray_session.bootstrap_address(cluster.address)}

@ray.remote(num_cpus=0, max_restarts=0)
class Actor:
    def __init__(self, fault=None):
        if fault == "raise":
            raise RuntimeError("no such library: libfoo.so.3")
        if fault == "hang":
            open(STARTING, "w").close()
            time.sleep(3600)
    def ready(self):
        return os.getpid()
    def die(self):
        os._exit(17)
    def fail(self):
        raise ValueError("this pair is wrong")

def told(name, ref):
    try:
        ray.get(ref, timeout=60)
    except Exception as error:
        found[name] = {
            "type": type(error).__mro__[0].__name__, "text": str(error), "reason": ray_session.reason_of(error),
            "cause": type(getattr(error, "cause", None)).__name__, "preempted": getattr(error, "preempted", None),
            "failed_node": ray_session.failed_node(error), "lost_node": ray_session.lost_node(error),
        }

def on(name, fault=None):
    return Actor.options(resources={name: 1}).remote(fault)

@ray.remote(num_cpus=0)
def path():
    return [os.path.realpath(entry) for entry in sys.path]

found["here"], found["path of a worker"] = os.path.realpath(os.curdir), ray.get(path.remote())
found["sockets"] = [ray._private.worker._global_node.plasma_store_socket_name, ray._private.worker._global_node.get_temp_dir_path()]

# one node: an address names it
told("raised in its constructor", Actor.remote("raise").ready.remote())
actor = Actor.remote()
told("raised", actor.fail.remote())
told("exited", actor.die.remote())

# a node that dies while an actor starts there
found["second"] = (second := cluster.add_node(num_cpus=1, resources={"second": 1})).node_id
ref = on("second", "hang").ready.remote()
while not os.path.exists(STARTING):
    time.sleep(0.1)
cluster.remove_node(second, allow_graceful=False)
told("node died", ref)

# a node that drains, while an actor is still there
found["third"] = (third := cluster.add_node(num_cpus=1, resources={"third": 1})).node_id
actor = on("third")
ray.get(actor.ready.remote())
found["draining before"] = ray_session.draining_nodes()
words = ["drain-node", "--address", cluster.address, "--node-id", third.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
words += ["--reason-message", "test", "--deadline-remaining-seconds", "600"]
subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words], check=True, stdout=subprocess.DEVNULL)
found["draining"] = ray_session.draining_nodes()
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What PROGRAM has found."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    log = tmp_path_factory.mktemp("private") / "log"
    with jobs.ray_folder() as folder, log.open("wb") as file:
        words = [sys.executable, "-c", PROGRAM, str(log.with_name("starting"))]
        env = {**environment, "RAY_TMPDIR": folder}
        here = log.parent  # and not the checkout, which PYTHONPATH may name
        process = subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=env, start_new_session=True, cwd=here)
        try:
            jobs.until(lambda: process.poll() is not None, "the program's end", seconds=240, every=0.2)
        finally:
            jobs.end(process)
    assert process.returncode == 0, log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("FOUND ")]
    return dict(json.loads(line.removeprefix("FOUND ")))


# private modules


def test_the_address_that_ray_would_connect_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The given one, else that of the environment, else the one in the file that `ray start` has written; else none."""
    assert next(iter(inspect.signature(services.canonicalize_bootstrap_address).parameters)) == "addr"
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_session.bootstrap_address(None) is None
    assert ray_session.bootstrap_address("local") is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.1.2.3:6379")
    assert ray_session.bootstrap_address(None) == "10.1.2.3:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.4.5.6:6379")
    assert ray_session.bootstrap_address(None) == "10.4.5.6:6379"
    assert ray_session.bootstrap_address("10.7.8.9:6379") == "10.7.8.9:6379"


def test_the_address_of_a_cluster_that_runs(found: dict[str, Any]) -> None:
    assert found["bootstrap"] == found["address"]


def test_loopback_is_where_a_cluster_of_our_own_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that Ray's processes read, and the constant that this process has read from it already."""
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(services, "node_ip_address_from_perspective", lambda address: "10.1.2.3")
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    monkeypatch.setattr(services.ray._private.worker, "_global_node", None)
    assert services.get_node_ip_address() == "10.1.2.3"
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")  # its owner's wish
    ray_session.bind_to_loopback()
    assert ray_constants.ENABLE_RAY_CLUSTER is True
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    ray_session.bind_to_loopback()
    assert ray_constants.ENABLE_RAY_CLUSTER is False
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert services.get_node_ip_address() in {info[4][0] for info in socket.getaddrinfo("localhost", None)}


def test_workers_import_nothing_from_the_driver_s_folders(found: dict[str, Any]) -> None:
    """Without the seam Ray puts the driver's current folder first in every worker's path."""
    assert found["here"] not in found["path of a worker"]
    assert "" not in found["path of a worker"]
    config = ray_session.job_config_without_folders()
    config._py_driver_sys_path.extend(["/here"])  # as ray._private.worker.connect does
    assert list(config._get_proto_job_config().py_driver_sys_path) == []
    assert "job_config._py_driver_sys_path.extend(code_paths)" in inspect.getsource(worker)


def test_what_ray_appends_to_its_folder_for_a_socket(found: dict[str, Any]) -> None:
    socket_name, folder = found["sockets"]
    pid = re.search(r"_(\d+)/sockets/", socket_name)
    assert pid is not None
    assert len(socket_name) - len(folder) + 7 - len(pid[1]) == 64  # a process id has 7 digits at most
    validate_socket_filepath("/" + "x" * (ray_session.FOLDER_BYTES + 63))
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath("/" + "x" * (ray_session.FOLDER_BYTES + 64))


TOKEN = """
import json, os
from ray import _raylet
from nstray.cluster import ray_session
ray_session.ensure_token()
loader = _raylet.AuthenticationTokenLoader.instance()
print(json.dumps([os.environ.get("RAY_AUTH_TOKEN"), loader.has_token(ignore_auth_mode=True)]))
"""


@pytest.mark.parametrize(
    "case", ["no home", "read-only home", "empty home", "token in the home", "token in the environment", "token in a file", "off"]
)
def test_a_cluster_of_our_own_has_a_token(tmp_path: Path, case: str) -> None:
    """The user's, where there is one, else one that is written nowhere."""
    (tmp_path / "token").write_text("a" * 32)
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("b" * 32)
    (tmp_path / "empty").mkdir()
    more = {
        "no home": {"HOME": "/proc/none"},
        "read-only home": {"HOME": "/proc"},
        "empty home": {"HOME": str(tmp_path / "empty")},
        "token in the home": {"HOME": str(tmp_path / "home")},
        "token in the environment": {"HOME": "/proc/none", "RAY_AUTH_TOKEN": "c" * 32},
        "token in a file": {"HOME": "/proc/none", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
        "off": {"HOME": "/proc/none", "RAY_AUTH_MODE": "disabled"},
    }[case]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | more
    done = subprocess.run([sys.executable, "-c", TOKEN], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    token, there = json.loads(done.stdout)
    if case.endswith("home") and "token" not in case:
        assert re.fullmatch("[0-9a-f]{64}", token)
    else:
        assert token == more.get("RAY_AUTH_TOKEN")
    assert there == (case != "off")
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_notice_that_is_left_out_comes_from_this_logger() -> None:
    assert authentication_token_setup.logger.name == "ray._private.authentication.authentication_token_setup"
    assert "enable_token_auth_by_default()" in inspect.getsource(worker.init)  # or a cluster of our own has no token at all


def test_under_uv_run_the_workers_stay_in_our_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uv_runtime_env_hook, "_get_uv_run_cmdline", lambda: ["uv", "run", "nstray"])
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    monkeypatch.delenv("RAY_RUNTIME_ENV_HOOK", raising=False)
    monkeypatch.chdir(tmp_path)
    assert worker._maybe_modify_runtime_env(None, False)["working_dir"] == str(tmp_path)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1")  # the user's wish
    ray_session.keep_workers_in_our_environment()
    assert ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV is True
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    ray_session.keep_workers_in_our_environment()
    assert worker._maybe_modify_runtime_env(None, False) is None


def test_the_variable_of_a_submitted_job(tmp_path: Path) -> None:
    """And the folder that its working_dir is unpacked to."""
    assert RAY_JOB_CONFIG_JSON_ENV_VAR == ray_job.JOB_VARIABLE
    resources = tmp_path / "session_2026" / "runtime_resources"
    folder = working_dir.WorkingDirPlugin(str(resources), None)._resources_dir
    assert folder == f"{resources}/working_dir_files"
    assert ray_job._RAY_COPY.search(f"{folder}/_ray_pkg_0/out/")


def test_nodes_that_drain(found: dict[str, Any]) -> None:
    assert list(inspect.signature(ray_state.get_draining_nodes).parameters) == []
    assert (found["draining before"], found["draining"]) == ([], [found["third"]])


# the words of errors


@pytest.mark.parametrize("fault", ["raised in its constructor", "exited"])
def test_the_node_that_a_worker_failed_on(found: dict[str, Any], fault: str) -> None:
    assert found[fault]["type"] == "ActorDiedError"
    assert found[fault]["failed_node"] == found["head"], found[fault]["text"]
    assert found[fault]["lost_node"] is None


def test_the_node_that_died_with_a_worker_on_it(found: dict[str, Any]) -> None:
    assert found["node died"]["type"] == "ActorDiedError"
    assert found["node died"]["lost_node"] == found["second"], found["node died"]["text"]


def test_a_death_with_a_preempted_node_says_so(found: dict[str, Any]) -> None:
    assert found["exited"]["preempted"] is False
    assert RayActorError(preempted=True).preempted is True


def test_the_reason_is_the_cause_or_the_last_line(found: dict[str, Any]) -> None:
    assert found["raised"]["cause"] == "ValueError"
    assert found["raised"]["reason"] == "ValueError: this pair is wrong"
    assert found["raised in its constructor"]["reason"] == "ActorDiedError: RuntimeError: no such library: libfoo.so.3"
    assert found["exited"]["reason"].startswith("ActorDiedError: The actor is dead because its worker process has died. Worker exit type: ")
    assert found["node died"]["reason"].startswith("ActorDiedError: ")


# A Ray of this run's own, as a command line has it. Prints what holds before, while it runs and after.
OWN = """
import json, os, re, signal
from nstray.system import stop_signals
stop_signals.install()
from ray._private import utils, worker
from nstray.cluster import own_cluster, ray_running

def handled():
    caught = int(re.search(r"SigCgt:\\s*(\\w+)", open("/proc/self/status").read())[1], 16)
    ours = all(signal.getsignal(n) is stop_signals._handle for n in stop_signals.SIGNALS)
    return ours and all(caught >> (n - 1) & 1 for n in stop_signals.SIGNALS)

found = {"before": [handled(), list(own_cluster.processes())]}
originals = utils.set_sigterm_handler, worker.connect
with stop_signals.deferred():
    with ray_running.ray_running():
        found["while"] = [handled(), sorted(own_cluster.processes())]
        found["pids"] = {name: process.pid for name, process in own_cluster.processes().items()}
        found["agents"] = sorted(__import__("nstray.cluster.ray_watch", fromlist="x")._agents(found["pids"]["raylet"]))
        found["folder"] = os.path.basename(str(own_cluster._held[0]))
        found["session"] = os.path.dirname(worker._global_node.get_session_dir_path()) == str(own_cluster._held[0])
    found["after"] = [handled(), list(own_cluster.processes())]
    found["restored"] = (utils.set_sigterm_handler, worker.connect) == originals
    os.kill(os.getpid(), signal.SIGTERM)
    found["received"] = stop_signals._state.received.name
print(json.dumps(found))
"""


def test_a_cluster_of_our_own_leaves_our_handlers_of_signals_and_tells_its_processes() -> None:
    with jobs.ray_folder() as folder:
        env = {**os.environ, **jobs.LOCAL_RAY, "RAY_TMPDIR": folder}
        done = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, timeout=400, env=env)
        assert done.returncode == 0, done.stderr
        assert list(Path(folder).iterdir()) == []
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] == [True, []]
    assert found["while"][0]
    assert {"raylet", "gcs_server"} <= set(found["while"][1])
    assert found["agents"] == ["dashboard_agent", "runtime_env_agent"]
    assert found["folder"].startswith("nstray-")
    assert found["session"]
    assert found["after"] == [True, []]
    assert found["restored"]
    assert found["received"] == "SIGTERM"


def test_what_ray_calls_when_it_starts_and_ends() -> None:
    """`own_cluster` puts its own functions in the place of these."""
    begin, end = inspect.getsource(worker.init), inspect.getsource(worker.shutdown)
    assert "ray._private.utils.set_sigterm_handler(" in begin
    assert "\n    connect(" in begin
    assert "global_worker.core_worker.shutdown_driver()" in end
