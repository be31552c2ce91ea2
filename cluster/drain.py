"""What a pod does before it is stopped (preStop): finish what is on its device, take nothing new.

`drain.py head` tells the drivers of the cluster's jobs to stop, and waits for the jobs' end. nstray
answers by committing what runs. `drain.py worker` tells Ray that its node is about to go, so that
nothing is placed there any more. Then it waits until the node is idle, at which Ray itself ends it.
Both give up after --seconds, with exit code 1. No row is lost then either, only the evaluations that
are under way.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# How long the job server stays after the end of the jobs that it was asked to stop. KubeRay asks it
# every few seconds, and does not try a job again if it has not seen the job's end.
_SEEN_S = 30


def drain_head(address: str, seconds: float) -> bool:
    """Stop the jobs of the job server at `address` (http://HOST:PORT).

    Returns whether all of them have ended within `seconds`.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(address)
    told: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        live = [job for job in client.list_jobs() if job.submission_id and job.status in (JobStatus.PENDING, JobStatus.RUNNING)]
        if not live:
            time.sleep(_SEEN_S if told else 0)
            return True
        for job in live:
            if job.submission_id not in told:
                told.add(job.submission_id)
                print(f"drain: stopping job {job.submission_id}", flush=True)
                # To KubeRay a driver that stops by itself is a failed job, which it tries again. A
                # job that Ray stops has ended.
                if not (job.driver_info and _signalled(int(job.driver_info.pid), job.submission_id)):
                    client.stop_job(job.submission_id)
        time.sleep(1)
    return False


def _signalled(pid: int, job: str) -> bool:
    """Send SIGTERM to `pid` if it is a process of this job; returns whether it is.

    It is none if the driver runs on another node.
    """
    try:
        if job.encode() not in Path(f"/proc/{pid}/environ").read_bytes():
            return False
        os.kill(pid, signal.SIGTERM)
    except OSError:
        return False
    return True


def drain_worker(seconds: float, node: str | None) -> bool:
    """Drain a node of the cluster at RAY_ADDRESS; returns whether Ray has ended it within `seconds`.

    `node` is its id in hex; None is the node that this runs on.
    """
    import ray
    from ray.util.state import get_node

    address = os.environ["RAY_ADDRESS"]
    if node is None:
        ray.init(address=address, log_to_driver=False)
        node = ray.get_runtime_context().get_node_id()
        ray.shutdown()  # otherwise the node would wait for this driver
    words = ["drain-node", "--address", address, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "pod is stopped"]
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words, "--deadline-remaining-seconds", str(int(seconds))], check=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = get_node(node, address=address)
        if found is None or found.state != "ALIVE":
            return True
        time.sleep(1)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("head", "worker"))
    parser.add_argument("--seconds", type=float, default=840, help="how long to wait; less than the pod's terminationGracePeriodSeconds")
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="of the head's job server")
    parser.add_argument("--node", help="of a worker: its node id, if several nodes share a machine")
    options = parser.parse_args()
    ended = drain_head(options.address, options.seconds) if options.role == "head" else drain_worker(options.seconds, options.node)
    print(f"drain: {'done' if ended else 'not done in time'}", flush=True)
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(main())
