"""A whole `nstray run` with a Ray of its own in surroundings that people have: each ends with its rows and without a word of Ray's."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jobs
import pyarrow.parquet as pq
import pytest
from outputs import picture

from nstray import storage
from nstray.images.encode import encode
from nstray.output.folder import Output

pytestmark = pytest.mark.slow
DEAD = "http://127.0.0.1:9"
PROXIES = {name: DEAD for word in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy") for name in (word, word.upper())}
# For each: variables ({} is a folder of the test's), and the name of OUT.
CASES: dict[str, tuple[dict[str, str], str]] = {
    "a long TMPDIR": ({"TMPDIR": "{}/job-0123456789/users/some-group/some-user/tmp-0000"}, "résultats"),
    "a TMPDIR beyond ASCII": ({"TMPDIR": "{}/tëmp 一時"}, "結果"),
    "a RAY_TMPDIR with a space": ({"RAY_TMPDIR": "{ray}/a b"}, "🎨 out"),
    "no home to write to": ({"HOME": "/proc"}, 'it\'s "mine" \\ all'),
    "no home at all": ({"HOME": "/proc/none", "XDG_CONFIG_HOME": ""}, "100% ü"),
    "a proxy": (PROXIES, "выход"),
    "the locale POSIX": ({"LC_ALL": "POSIX", "LANG": ""}, "ñandú"),
    "white space for an address": ({"RAY_ADDRESS": " "}, "line\nbreak é"),
    "control characters": ({}, "tab\t\x1b[31mred é\x7f"),
}


# Letters, blanks, quotes, and what shells, URLs, patterns, CSV and terminals take for something else.
NAMES = ["résultats", "結果", "🎨", "a b", " lead", "it's", 'say "x"', "a\\b", "line\nbreak", "tab\tx", "\x1b[31mred", "\x7f", "100%", "$(touch x)"]
NAMES += ["*?[x]", "-dash", "~", "#1", "a,b;c|d", "=1+1", "אב\u202e", "é" * 60]


def run(
    tmp_path: Path,
    out: str,
    variables: dict[str, str],
    prefix: Sequence[str] = (),
    cwd: Path | None = None,
    inputs: tuple[str, str] | None = None,
    rows: int = 2,
) -> str:
    """A small job of two pairs, or of the manifest and weights `inputs` with so many `rows`; returns its log."""
    manifest, weights = inputs or jobs.write_inputs(str(tmp_path / "ïn"), contents=1, styles=2)
    uri = out if storage.is_uri(out) else str(tmp_path / out)
    with jobs.ray_folder() as folder:
        more = {name: value.replace("{ray}", folder).replace("{}", str(tmp_path)) for name, value in variables.items()}
        for name in ("TMPDIR", "RAY_TMPDIR"):
            if name in more:
                Path(more[name]).mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k not in ("TMPDIR", "no_proxy", "NO_PROXY")}
        usual = {} if "TMPDIR" in more else {"RAY_TMPDIR": folder}
        env = {**kept, "RAY_USAGE_STATS_ENABLED": "0", **usual, **more}
        words = [*prefix, *jobs.NSTRAY, "run", manifest, uri, *jobs.options({**jobs.SETTINGS, "weights": weights})]
        done = subprocess.run(words, env=env, cwd=cwd, capture_output=True, timeout=200)
    log = done.stderr.decode(errors="replace")
    assert done.returncode == 0, log
    assert {row["status"] for row in jobs.rows(uri)} == {"ok"}
    assert len(jobs.rows(uri)) == rows
    for word in ("Traceback", "Token authentication", "UnicodeEncodeError", "\x1b[31mred"):
        assert word not in log
    assert storage.head(Output(uri).summary_uri) is not None
    return log


@pytest.mark.parametrize("case", CASES)
def test_the_job_runs(tmp_path: Path, case: str) -> None:
    variables, out = CASES[case]
    log = run(tmp_path, out, variables)
    assert ("event=ray_folder" in log) == ("TMPDIR" in variables)
    assert str(Output(str(tmp_path / out))) == str(tmp_path / out)


def test_pictures_ids_and_labels_of_every_kind(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    """Their names go through manifest, worker, Ray, log, verify, sheet and export."""
    _, weights = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    manifest = tmp_path / "in" / "ünï.csv"
    with manifest.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["content", "style", "label"])
        for i, name in enumerate(NAMES):
            (tmp_path / "in" / "p").mkdir(exist_ok=True)
            (tmp_path / "in" / "p" / f"{name}.png").write_bytes(encode(picture(i, 30, 28), "png"))
            lines.writerow([f"./p/{name}.png", "s0.png", name])  # taken literally
    out = tmp_path / "out \x1b[31m é"
    run(tmp_path, out.name, {}, inputs=(str(manifest), weights), rows=len(NAMES))
    table = pq.read_table(out / "data")
    assert sorted(table["label"].to_pylist()) == sorted(NAMES)
    assert sorted(Path(uri).stem for uri in table["content_uri"].to_pylist()) == sorted(NAMES)
    for words in (["verify", out], ["status", out], ["export", out, "--to", tmp_path / "to \n é"], ["sheet", out, "-o", tmp_path / "shéet \x7f.png"]):
        code, stdout, stderr = call(*words)
        assert code == 0, stderr
        assert "\x1b" not in stdout + stderr
    assert len(list((tmp_path / "to \n é").glob("*.png"))) == len(NAMES)


def test_keys_of_a_bucket(tmp_path: Path, s3: str) -> None:
    run(tmp_path, f"{s3}/ré 結果 🎨 q'\"x%", {"NO_PROXY": "*"}, inputs=jobs.write_inputs(f"{s3}/ïn 一 'x' \\ %41", contents=1, styles=2))


def test_under_uv_run_a_large_folder_is_not_copied(tmp_path: Path) -> None:
    """Ray takes a process for one under uv if a parent's words begin with `uv run`; it would refuse a folder of more than 512 MiB."""
    folder = tmp_path / "project"
    folder.mkdir()
    with (folder / "data.bin").open("wb") as file:
        file.truncate(600 * 2**20)
    (folder / "run").write_text('"$@"\n')
    inherited = [p for p in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")) if p]
    run(tmp_path, "out é", {"PYTHONPATH": os.pathsep.join(inherited)}, ["bash", "-c", 'exec -a uv bash run "$@"', "-"], folder)


@pytest.mark.parametrize("size", ["64m", "1m"])
def test_a_small_shared_memory(tmp_path: Path, size: str) -> None:
    """As in a container; Ray then says that it takes the disk."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("not root: a mount of its own needs it")
    log = run(tmp_path, "out", {}, ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"', "-"])
    assert "instead of /dev/shm" in log


def test_under_uv_run_with_a_cluster_that_exists(tmp_path: Path) -> None:
    """There Ray copies the folder, as its users want; one that it refuses ends in one line that says what to set."""
    from heads import Head

    folder = tmp_path / "project"
    folder.mkdir()
    with (folder / "data.bin").open("wb") as file:
        file.truncate(600 * 2**20)
    (folder / "run").write_text('"$@"\n')
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    with jobs.ray_folder() as ray_folder:
        head = Head(ray_folder)
        try:
            head.wait()
            words = ["bash", "-c", 'exec -a uv bash run "$@"', "-", *jobs.NSTRAY, "run", manifest, str(tmp_path / "out")]
            env = {**head.env, "RAY_ADDRESS": head.ray_address, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
            words += jobs.options({**jobs.SETTINGS, "weights": weights})
            done = subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, timeout=200)
        finally:
            head.end()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nstray: Ray did not start: ")
    assert last.endswith("set RAY_ENABLE_UV_RUN_RUNTIME_ENV=0, and Ray does not copy this folder to the nodes")
