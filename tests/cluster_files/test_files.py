"""The deployment files in cluster/: strict schemas, planted mistakes, and what must be true of a cluster that costs money and has no open door."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from schemas import kuberay_problems, launcher_problems

from nstray import cli
from nstray.commands.config_file import load as load_settings

pytestmark = pytest.mark.dev  # jsonschema
ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
GUIDE = ROOT / "docs" / "cluster.md"
KUBERAY = ("rayjob.yaml", "raycluster.yaml")


def problems(name: str, text: str) -> list[str]:
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return launcher_problems(document) if name == "aws.yaml" else kuberay_problems(document)


def load(name: str) -> dict[str, Any]:
    document = yaml.safe_load((CLUSTER / name).read_text())
    assert isinstance(document, dict)
    return document


def cluster_spec(name: str) -> dict[str, Any]:
    spec = load(name)["spec"]
    found = spec.get("rayClusterSpec", spec)
    assert isinstance(found, dict)
    return found


def pod(group: dict[str, Any]) -> dict[str, Any]:
    found = group["template"]["spec"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", ["aws.yaml", *KUBERAY])
def test_the_files_pass_their_schemas(name: str) -> None:
    assert problems(name, (CLUSTER / name).read_text()) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "said"),
    [
        ("aws.yaml", "idle_timeout_minutes: 10", "idle_timeout_minuets: 10", "idle_timeout_minuets"),
        ("aws.yaml", "max_workers: 8\nidle", "max_workers: eight\nidle", "'eight' is not of type 'integer'"),
        ("aws.yaml", "cache_stopped_nodes", "cache_stoped_nodes", "provider.cache_stoped_nodes"),
        ("aws.yaml", "ssh_user", "ssh_usr", "ssh_usr"),
        ("aws.yaml", "worker_image", "workers_image", "workers_image"),
        ("aws.yaml", "  l4:\n    priority: 30", "  l4:\n    priorty: 30", "priorty"),
        ("aws.yaml", "priority: 20", "priority: high", "'high' is not of type 'integer'"),
        ("aws.yaml", "resources: {CPU: 0, GPU: 0}", "resources: {CPU: none, GPU: 0}", "'none' is not of type 'integer'"),
        ("aws.yaml", "head_node_type: head", "head_node_type: haed", "`head_node_type` must be one of"),
        ("aws.yaml", "IamInstanceProfile: {Name: nstray-worker}", "IAMInstanceProfile: {Name: nstray-worker}", "IAMInstanceProfile"),
        ("aws.yaml", "{MarketType: spot}", "{Markettype: spot}", "Markettype"),
        ("aws.yaml", "VolumeSize: 150", 'VolumeSize: "150"', "VolumeSize"),
        ("aws.yaml", "- pip install --no-cache-dir /home/ray/nstray", "- {pip: nstray}", "is not of type 'string'"),
        ("rayjob.yaml", "apiVersion: ray.io/v1\n", "apiVersion: ray.io/v1alpha1\n", "apiVersion"),
        ("rayjob.yaml", "kind: RayJob", "kind: RayJobs", "kind: 'RayJobs'"),
        ("rayjob.yaml", "backoffLimit: 3", "backofLimit: 3", "spec.backofLimit"),
        ("rayjob.yaml", "preRunningDeadlineSeconds: 1800", "preRunningDeadlineSeconds: 30m", "spec.preRunningDeadlineSeconds"),
        ("rayjob.yaml", "shutdownAfterJobFinishes: true", 'shutdownAfterJobFinishes: "true"', "spec.shutdownAfterJobFinishes"),
        ("rayjob.yaml", "enableInTreeAutoscaling", "enableInTreeAutoScaling", "spec.rayClusterSpec.enableInTreeAutoScaling"),
        ("rayjob.yaml", "version: v2", "version: v3", "autoscalerOptions.version"),
        ("rayjob.yaml", 'num-cpus: "0"', "num-cpus: 0", "headGroupSpec.rayStartParams.num-cpus"),
        ("rayjob.yaml", "optional: true", "optionnal: true", "envFrom.0.secretRef.optionnal"),
        ("raycluster.yaml", "mode: token", "mode: tokens", "spec.authOptions.mode"),
        ("raycluster.yaml", "maxReplicas: 8", "maxReplica: 8", "spec.workerGroupSpecs.0.maxReplica"),
        ("raycluster.yaml", "tolerations:", "toleration:", "template.spec.toleration"),
        ("raycluster.yaml", "effect: NoSchedule", "effect: NoSchedul", "tolerations.0.effect"),
        ("raycluster.yaml", "preStop:", "prestop:", "lifecycle.prestop"),
        ("raycluster.yaml", "terminationGracePeriodSeconds: 900", "terminationGracePeriod: 900", "template.spec.terminationGracePeriod"),
        ("raycluster.yaml", "memory: 14Gi", "memory: 14GiB", "resources.requests.memory"),
        ("raycluster.yaml", "runAsUser: 1000", "runAsUser: ray", "securityContext.runAsUser"),
        ("raycluster.yaml", "containerPort: 8265", 'containerPort: "8265"', "ports.1.containerPort"),
    ],
)
def test_planted_mistakes_are_found(name: str, right: str, wrong: str, said: str) -> None:
    text = (CLUSTER / name).read_text()
    assert right in text
    found = problems(name, text.replace(right, wrong))
    assert any(said in line for line in found), found


def test_the_aws_head_works_not_and_the_workers_are_spot_gpus_under_a_role() -> None:
    config = load("aws.yaml")
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert len(types) >= 2
    assert len({node["priority"] for node in types.values()}) == len(types)
    for node in types.values():
        assert node["min_workers"] == 0
        assert node["max_workers"] <= config["max_workers"]
        assert node["resources"]["GPU"] >= 1
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    profiles = {node["node_config"]["IamInstanceProfile"]["Name"] for node in types.values()}
    assert head["node_config"]["IamInstanceProfile"]["Name"] not in profiles  # the head may start machines, a worker may not
    assert all(node["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for node in (head, *types.values()))


def test_the_aws_dashboard_is_on_loopback_and_asks_for_a_token() -> None:
    config = load("aws.yaml")
    (start,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    assert {"--dashboard-host=127.0.0.1", "--num-cpus=0", "--num-gpus=0"} <= set(start.split())
    assert not any("dashboard" in line for line in config["worker_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray"] == "~/.ray"


@pytest.mark.parametrize("name", KUBERAY)
def test_the_kuberay_head_has_no_gpu_and_no_work(name: str) -> None:
    spec = cluster_spec(name)
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "gpu" not in yaml.safe_dump(head)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"] == {"mode": "token"}
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0
        assert [t["key"] for t in pod(group)["tolerations"]] == ["nvidia.com/gpu"]
        for container in pod(group)["containers"]:
            assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_drain_before_they_are_killed(name: str) -> None:
    spec = cluster_spec(name)
    copied = re.search(r"^COPY .*(cluster/drain\.py) cluster/$", (CLUSTER / "Dockerfile").read_text(), re.M)
    workdir = re.findall(r"^WORKDIR (\S+)$", (CLUSTER / "Dockerfile").read_text(), re.M)[-1]
    assert copied
    for role, group in [("head", spec["headGroupSpec"]), *(("worker", g) for g in spec["workerGroupSpecs"])]:
        (container,) = pod(group)["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:4] == ["python", f"{workdir}/{copied[1]}", role, "--seconds"]
        assert float(command[4]) < pod(group)["terminationGracePeriodSeconds"]
        assert pod(group)["securityContext"] == {"runAsNonRoot": True, "runAsUser": 1000}


def test_the_job_s_command_is_one_that_nstray_takes() -> None:
    job = load("rayjob.yaml")["spec"]
    program, verb, *words = job["entrypoint"].split()
    assert (program, verb) == ("nstray", "run")
    given = cli.cli.commands["run"].make_context("run", words).params
    settings = load_settings(None, [(name, given[name]) for name in ("device", "actors")])
    assert settings.device == "cuda"
    assert settings.actors == sum(g["maxReplicas"] for g in job["rayClusterSpec"]["workerGroupSpecs"])
    wait = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
    head = pod(job["rayClusterSpec"]["headGroupSpec"])
    assert int(wait) < head["terminationGracePeriodSeconds"]


def test_the_job_s_cluster_is_the_one_that_stays() -> None:
    assert cluster_spec("rayjob.yaml") == cluster_spec("raycluster.yaml")


def test_every_image_has_one_ray_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = [d.partition(">=")[2] for d in project["dependencies"] if d.startswith("ray[")]
    texts = {path.name: path.read_text() for path in (*CLUSTER.iterdir(), GUIDE) if path.is_file()}
    found = {
        name: set(re.findall(r"(?:rayproject/ray:|nstray:ray-|RAY_VERSION=|rayVersion: \"|ray\[default\]==)(\d+\.\d+\.\d+)", t))
        for name, t in texts.items()
    }
    assert all(found[name] for name in ("aws.yaml", "Dockerfile", "README.md", GUIDE.name, *KUBERAY))
    (version,) = set().union(*found.values())
    assert numbers(version) >= numbers(bound)
    pythons = {match for text in texts.values() for match in re.findall(r"-py3(\d+)-", text)}
    assert pythons
    assert all(int(minor) >= numbers(project["requires-python"].removeprefix(">="))[1] for minor in pythons)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_no_file_holds_a_secret() -> None:
    secret = re.compile(
        r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN|\b[0-9a-f]{32,}\b|aws_secret_access_key\s*[:=]\s*\S|(RAY_AUTH_TOKEN|auth_token)\s*[:=]\s*[\w\"']",
        re.I,
    )
    for path in (*CLUSTER.iterdir(), GUIDE, ROOT / ".dockerignore"):
        if path.is_file():
            assert not secret.search(path.read_text()), path
