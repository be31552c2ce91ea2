"""nstray run as a person sees it: on a terminal of 80 columns, with Ctrl-C; and as a log of CI has it."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import jobs
import pytest
from terminal import COLUMNS, Terminal

from nstray.output.folder import Output

pytestmark = pytest.mark.slow


def words(folder: Path, evaluations: int) -> list[str]:
    manifest, weights = jobs.write_inputs(str(folder), contents=3, styles=4)
    settings = {
        **jobs.SETTINGS,
        "weights": weights,
        "evaluations": evaluations,
        "shard_size": "auto",
        "device": "cpu",
        "cpus_per_actor": 1,
        "actors": 1,
    }
    return [*jobs.NSTRAY, "run", manifest, str(folder / "out"), *jobs.options(settings)]


def test_a_terminal_shows_phases_pictures_and_what_ctrl_c_does(tmp_path: Path) -> None:
    with jobs.ray_folder() as folder:
        shown = Terminal(*words(tmp_path, 400), **jobs.LOCAL_RAY, RAY_TMPDIR=folder)
        latest = Path(Output(str(tmp_path / "out")).latest_uri)
        jobs.until(lambda: latest.is_dir() and list(latest.iterdir()), "the first picture", alive=shown.process)
        shown.process.send_signal(signal.SIGINT)
        code = shown.end()
    lines = shown.lines()
    bars = [line for line in lines if "━" in line]
    assert code == 4, shown.text
    assert all(len(line) <= COLUMNS for line in bars)
    assert "Traceback" not in shown.text
    for phase in ("starting Ray", "loading the network", "stylising", "stopping"):
        assert any(line.startswith(phase) for line in bars), phase
    assert any(re.search(r"guess \S+s$", line) for line in bars)
    assert any(re.search(r"^stylising .* \d+/12 pairs, .*pairs/\w+, ETA \d+", line) for line in bars)
    told = shown.text.replace("\r\n", "")
    assert "event=guess eta=" in told
    assert "event=draining signal=SIGINT shards=" in told
    assert "a second Ctrl-C ends it at once: then that work is lost, and nothing that is committed" in told
    names = [path.name for path in latest.iterdir()]
    assert names
    assert all(re.fullmatch(r"c\d-s\d\.png", name) for name in names)
    assert {f"{row['pair_id']}.png" for row in jobs.rows(str(tmp_path / "out"))} >= set(names)


def test_a_log_has_lines_and_no_colours(tmp_path: Path) -> None:
    with jobs.ray_folder() as folder:
        environment = {**jobs.os.environ, **jobs.LOCAL_RAY, "RAY_TMPDIR": folder, "CI": "true", "GITHUB_ACTIONS": "true"}
        done = subprocess.run(words(tmp_path, 60), capture_output=True, text=True, env=environment, timeout=600)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "\x1b" not in done.stderr
    events = re.findall(r"^\d\d:\d\d:\d\d event=(\w+)", done.stderr, re.MULTILINE)
    for first, then in (("job", "guess"), ("guess", "devices"), ("worker_ready", "progress"), ("progress", "shard"), ("shard", "complete")):
        assert events.index(first) < events.index(then), events
    assert events.count("shard") == 12  # a part of each pair
    assert re.search(r"event=progress done=0 total=12 pairs_per_s=\S+ eta=\d+\S* evaluations=\d+ workers=1", done.stderr)
