"""What Prometheus gets of a job that really ran, submitted to a head as a user's: the names the dashboard asks for, and true values."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import jobs
import pytest
from heads import Head

from nstray import storage
from nstray.commands import status
from nstray.output.folder import Output
from nstray.worker.timing import PHASES

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"
# The Prometheus text format: a name, labels, a value.
SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# nstray with the file behind `nstray status` written every second, and its workers looked at as often
LIVELY = (
    "from nstray.output import live_status as live\nfrom nstray.cluster import worker_pool\nlive.EVERY, worker_pool.POLL = 1.0, 0.5\n"
    "from nstray.cli import main\nmain()"
)

EVALUATIONS = 80

Samples = list[tuple[str, dict[str, str], float]]


def scrape(head: Head, folder: Path) -> Samples:
    """Every sample that a Prometheus would get now of the targets that Ray names for it, but for those of jobs elsewhere than in `folder`."""
    try:
        targets = json.loads((Path(head.folder) / "prom_metrics_service_discovery.json").read_text())
    except (OSError, ValueError):
        return []
    found: Samples = []
    for target in {t for group in targets for t in group["targets"]}:
        try:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=20) as reply:
                lines = reply.read().decode().splitlines()
        except OSError:  # named before it listens, as some of Ray's own are
            continue
        found += [(m[1], dict(LABEL.findall(m[2])), float(m[3])) for line in lines if (m := SAMPLE.match(line))]
    return [(name, have, value) for name, have, value in found if have.get("out", str(folder)).startswith(str(folder))]


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(value for n, have, value in samples if n == name and labels.items() <= have.items())


def asked_for() -> set[str]:
    """The names of the metrics in the dashboard's queries."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["definition"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"] for target in panel["targets"])
    return {name for query in queries for name in re.findall(r"\b[a-z]\w*_\w+", re.sub(r'"[^"]*"|\$\w+', "", query)) if name != "label_values"}


def test_the_dashboard_asks_for_what_a_job_exports_and_the_counts_are_the_job_s(head: Head, tmp_path: Path) -> None:
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=6, styles=5)
    out = str(tmp_path / "résultats 結果 'q' 100%-token=canary")
    (tmp_path / "in" / "c5.png").unlink()
    (tmp_path / "in" / "s4.png").write_bytes(b"no picture")
    settings = {**jobs.SETTINGS, "weights": weights, "evaluations": EVALUATIONS, "shard_size": 2, "max_error_rate": 1}
    storage.put_new(Output(out).live_uri, b"damaged")
    words = ["--submission-id", "seen", "--no-wait", "--", sys.executable, "-c", LIVELY, "run", manifest, out, *jobs.options(settings)]
    done = head.job("submit", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    seen: Samples = []
    runs: list[dict[str, Any]] = []

    def ended() -> bool:
        seen.extend(scrape(head, tmp_path))
        if Path(Output(out).job_uri).exists() and (run := status.status(out).get("run")):
            runs.append(run)
        return head.status("seen")["status"] not in ("PENDING", "RUNNING")

    jobs.until(ended, "the job's end", every=0.5)
    log = head.job("logs", "seen").stdout
    assert head.status("seen")["status"] == "SUCCEEDED", log
    rows = jobs.rows(out)
    codes = [row["error_code"] for row in rows if row["status"] == "error"]
    assert {code: codes.count(code) for code in codes} == {"not_found": 5, "not_an_image": 5}

    # Ray's processes have said their last word as they ended.
    jobs.until(lambda: total(scrape(head, tmp_path), "ray_nstray_pairs_total") >= len(rows), "the driver's counts", seconds=30, every=0.5)
    jobs.until(
        lambda: total(scrape(head, tmp_path), "ray_nstray_evaluations_total") >= 20 * EVALUATIONS, "the workers' counts", seconds=30, every=0.5
    )
    after = scrape(head, tmp_path)
    assert total(after, "ray_nstray_pairs_total") == len(rows) == 30
    assert {have["code"]: value for name, have, value in after if name == "ray_nstray_error_rows_total"} == {"not_found": 5, "not_an_image": 5}
    assert total(after, "ray_nstray_evaluations_total") == 20 * EVALUATIONS
    spent = {stage: total(after, "ray_nstray_stage_seconds_total", stage=stage) for stage in PHASES}
    assert all(spent.values())
    summary = json.loads(Path(Output(out).summary_uri).read_text())
    assert spent["optimise"] >= 0.9 * summary["seconds"]
    ours = [(name, have, value) for name, have, value in (*seen, *after) if name.startswith("ray_nstray_")]
    label = "r%C3%A9sultats %E7%B5%90%E6%9E%9C 'q' 100%25-token=..."
    assert all(have["out"] == f"{tmp_path}/{label}" for _, have, _ in ours)
    assert {value for name, _, value in ours if name == "ray_nstray_manifest_rows"} == {30}
    assert max(value for name, _, value in ours if name == "ray_nstray_ready_workers") == 2
    assert 0 < max(value for name, _, value in ours if name == "ray_nstray_device_busy_ratio") <= 1
    assert max(value for name, _, value in ours if name == "ray_nstray_done_rows") == 30

    names = asked_for()
    assert names
    assert names == {name for name, _, _ in ours}

    lines = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in log.splitlines() if "event=shard " in line]
    assert sorted(line["part"] for line in lines) == sorted(jobs.parts(out))
    assert (sum(int(line["rows"]) for line in lines), sum(int(line["errors"]) for line in lines)) == (30, 10)
    ready = {line["worker"]: line for line in (dict(re.findall(r"(\w+)=(\S+)", x)) for x in log.splitlines() if "event=worker_ready" in x)}
    assert all(line["node"] == ready[line["worker"]]["node"] for line in lines)
    for line in lines:
        speed = float(line["evaluations_per_second"])
        assert speed == 0 or speed * float(line["device_seconds"]) == pytest.approx(EVALUATIONS * int(line["ok"]), rel=0.05)
        assert float(line["mb"]) > 0
        assert float(line["seconds"]) >= 0

    # What `nstray status` saw beside it.
    workers = {w["name"]: w for run in runs for w in run["workers"] if w["state"] == "busy"}
    assert set(workers) == {"worker-1", "worker-2"}
    assert all(w["part"] in jobs.parts(out) and w["device"] == "cpu" for w in workers.values())
    assert {w["name"]: w["node"] for w in workers.values()} == {name: line["node"] for name, line in ready.items()}
    assert any(run["eta_low_seconds"] is not None for run in runs)
    assert not Path(Output(out).live_uri).exists()
    assert "event=live_failed" not in log
