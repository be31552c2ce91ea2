"""How a run finds or starts its Ray: every form of RAY_ADDRESS, the folder of Ray's sockets, and one line for whatever fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import ray
from ray.exceptions import AuthenticationError, RaySystemError

from nstray.cluster import own_cluster, ray_session
from nstray.errors import JobFailed, NstrayError, UsageError
from nstray.system import torch_threads


@pytest.fixture(autouse=True)
def no_ray_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray_session, "bind_to_loopback", lambda: None)
    monkeypatch.setattr(ray_session, "keep_workers_in_our_environment", lambda: None)
    monkeypatch.setattr(torch_threads, "let_sleep", lambda: None)
    monkeypatch.setattr(ray_session, "ensure_token", lambda: None)
    monkeypatch.setattr(own_cluster, "require_loopback", lambda: None)
    monkeypatch.setattr(own_cluster, "make_folder", lambda root: f"{root}/nstray-0000")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/none")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What ray.init was called with."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(ray, "init", lambda address, **options: calls.append((address, options)))
    return calls


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that takes connections, at every address of this machine: Ray looks for a local head at the one of its node."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


# RAY_ADDRESS


@pytest.mark.parametrize("address", [None, "", " ", "local", " local\n"])
def test_a_ray_of_its_own(monkeypatch: pytest.MonkeyPatch, started: list[Any], address: str | None) -> None:
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    ray_session.start_ray()
    assert [(address, options["_temp_dir"]) for address, options in started] == [("local", "/tmp/none/nstray-0000")]


def test_the_ray_that_was_started_last(monkeypatch: pytest.MonkeyPatch, started: list[Any], listener: int, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{listener}")
    ray_session.start_ray()
    assert [(address, "_temp_dir" in options) for address, options in started] == [(None, False)]  # None: Ray then uses its token


@pytest.mark.parametrize("last", ["127.0.0.1:1", "garbage", "\x00\xff"])
def test_the_ray_that_was_started_last_is_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, started: list[Any], tmp_path: Path, last: str
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(last)
    monkeypatch.setattr(ray_session, "_ray_folder", lambda: "/tmp/none")  # tmp_path is too long
    with caplog.at_level("WARNING"):
        ray_session.start_ray()
    assert [address for address, _ in started] == ["local"]
    said = [record.getMessage() for record in caplog.records if record.name == "nstray.cluster"]  # Ray tells of others on this machine
    assert [line.partition(" ")[0] for line in said] == ["event=ray_gone"]


def test_the_ray_at_an_address(monkeypatch: pytest.MonkeyPatch, started: list[Any], listener: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f" 127.0.0.1:{listener} ")
    ray_session.start_ray()
    assert [(address, "_temp_dir" in options) for address, options in started] == [(f"127.0.0.1:{listener}", False)]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://10.0.0.1:8265", r"that is a job server; submit the job to it \(ray job submit --address ADDRESS -- nstray"),
        ("https://ray.example.com", r"that is a job server; submit"),
        ("ray://10.0.0.1:10001", r"not through a Ray Client; set RAY_ADDRESS=10\.0\.0\.1:6379 on a machine of it, or submit the job"),
        ("ray://head", r"set RAY_ADDRESS=head:6379 on a machine of it"),
        ("anyscale://cluster", r"Ray's address is HOST:PORT, auto or local"),
        ("head", r"Ray's address is HOST:PORT, auto or local"),
        ("Auto", r"Ray's address is HOST:PORT, auto or local"),
        (":6379", r"Ray's address is HOST:PORT, auto or local"),
        ("head:", r"Ray's address is HOST:PORT, auto or local"),
        ("head:port", r"Ray's address is HOST:PORT, auto or local"),
        ("head:99999", r"Ray's address is HOST:PORT, auto or local"),
        ("head:６３７９", r"Ray's address is HOST:PORT, auto or local"),
    ],
)
def test_what_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, started: list[Any], address: str, message: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=message) as caught:
        ray_session.start_ray()
    assert str(caught.value).startswith(f"RAY_ADDRESS {address}: ")
    assert "\n" not in str(caught.value)
    assert started == []


def test_it_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    code, _, stderr = call("run", manifest, tmp_path / "out", *jobs.options({**jobs.SETTINGS, "weights": weights}))
    assert (code, stderr.startswith("nstray: RAY_ADDRESS http://127.0.0.1:8265: that is a job server")) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "no-such-host.invalid:6379", "é" + "x" * 70 + ":6379"])
def test_an_address_where_nothing_answers(monkeypatch: pytest.MonkeyPatch, started: list[Any], address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(JobFailed, match=r"no Ray head answers there .*; start one, correct the address, or unset it"):
        ray_session.start_ray()
    assert started == []


def test_auto_without_a_head(monkeypatch: pytest.MonkeyPatch, started: list[Any]) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")

    def nothing(address: str | None) -> str | None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_session, "bootstrap_address", nothing)
    with pytest.raises(JobFailed, match="RAY_ADDRESS auto: no Ray head runs on this machine; start one"):
        ray_session.start_ray()
    monkeypatch.setattr(ray_session, "bootstrap_address", lambda address: "127.0.0.1:1")
    with pytest.raises(JobFailed, match="RAY_ADDRESS auto: no Ray head answers there"):
        ray_session.start_ray()
    assert started == []


# the folder


LONG = "/scratch/job-0123456789/users/some-group/some-user/tmp-0000"


@pytest.mark.parametrize("folder", [LONG, "/scratch/tmp-é", "/scratch/一時", "/scratch/it's", '/scratch/"x"', "/scratch/a\nb", "/scratch/🎨"])
def test_a_folder_that_ray_can_t_use(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: str) -> None:
    """TMPDIR is the machine's, so Ray goes to /tmp and the log says so; RAY_TMPDIR is the user's word, so it is refused."""
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", folder)
    with caplog.at_level("WARNING"):
        assert ray_session._ray_folder() == "/tmp"
    (record,) = caplog.records
    assert record.getMessage().startswith('event=ray_folder folder=/tmp reason="TMPDIR has ')
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(UsageError, match=r"(?s)RAY_TMPDIR .*: the path has .*; set RAY_TMPDIR to another folder"):
        ray_session._ray_folder()
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(ray_session, "SHORT_FOLDER", "/proc/none")
    with pytest.raises(UsageError, match=r"(?s)^TMPDIR .*; set RAY_TMPDIR to another folder"):
        ray_session._ray_folder()


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_ray_can_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    longest = "/" + "x" * (ray_session.FOLDER_BYTES - 2 - own_cluster.NAME_BYTES)
    for folder in ("/scratch", "/scratch/a b", longest):
        monkeypatch.setenv(name, folder)
        assert ray_session._ray_folder() == folder
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv(name, "here")
    assert ray_session._ray_folder() == "/tmp/here"
    monkeypatch.delenv(name)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert ray_session._ray_folder() == "/tmp"


# whatever fails


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            Exception("The current node timed out during startup.\n\nThis could happen because ..."),
            "Exception: The current node timed out during startup.",
        ),
        (
            OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x"),
            "; set RAY_TMPDIR to a folder with a short path",
        ),
        (OSError(28, "No space left on device", "/tmp/ray"), "; set RAY_TMPDIR to a folder that can be written and has room"),
        (OSError(30, "Read-only file system", "/tmp/ray"), "Read-only file system: '/tmp/ray'; set RAY_TMPDIR to a folder that can be written"),
        (PermissionError(13, "Permission denied", "/tmp/ray"), "Permission denied: '/tmp/ray'; set RAY_TMPDIR to a folder that can be written"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"), "ordinal not in range"),
        (RaySystemError("System error: Broken pipe"), "Broken pipe"),
        (AuthenticationError("Token authentication is enabled but no authentication token was found"), "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"),
        (RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.55.0\n    Python: 3.11.9"), "with: Ray: 2.55.0 Python: 3.11.9"),
        (ValueError("Package size (629145600) exceeds the maximum size of 536870912"), "set RAY_ENABLE_UV_RUN_RUNTIME_ENV=0"),
        (AssertionError(), "AssertionError: "),
        (KeyError("node_ip_address"), "node_ip_address"),
    ],
)
def test_whatever_keeps_ray_from_starting_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(JobFailed) as caught:
        ray_session.start_ray()
    text = str(caught.value)
    assert text.startswith(f"Ray did not start: {type(error).__name__}: ")
    assert message in text
    assert "\n" not in text


def test_a_traceback_in_ray_s_own_text_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        text = 'Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n  File "x.py", line 1, in f\n'
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379") from RuntimeError(
            text + "ray.exceptions.AuthenticationError: InvalidAuthToken: Authentication token is missing or incorrect\n\n"
        )

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(NstrayError) as caught:
        ray_session.start_ray()
    assert str(caught.value) == (
        "Ray did not start: ConnectionError: Failed to connect to Ray cluster at 10.0.0.1:6379; Failed to connect to GCS. Last connection error: "
        "ray.exceptions.AuthenticationError: InvalidAuthToken: Authentication token is missing or incorrect; "
        "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token, or RAY_AUTH_MODE to its mode"
    )


def test_the_cause_is_part_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379") from RuntimeError(
            "Failed to connect\nto GCS, AKIAABCDEFGHIJKLMNOP"
        )

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(NstrayError, match=r"Failed to connect to Ray cluster at 10\.0\.0\.1:6379; Failed to connect to GCS, AKIA\.\.\.$"):
        ray_session.start_ray()
