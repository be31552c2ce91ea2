"""Strict schemas of the deployment files: what Ray, EC2 and KubeRay would ignore or refuse only once a cluster is paid for is a problem here.

The launcher's file is held against Ray's own schema, and its nodes against botocore's model of EC2's RunInstances. The KubeRay files are held
against the fields of KubeRay 1.7's ray.io/v1 and of Kubernetes' pods that they use; another real field has to be added here before it is used.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import botocore.session
import pytest
import ray.autoscaler
from botocore.validate import ParamValidator
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

jsonschema = pytest.importorskip("jsonschema")
# Ray's launcher takes this one out and picks from it.
_OF_THE_LAUNCHER = {"SubnetIds"}


class Strict(BaseModel):
    """No unknown field, and no value that would have to be converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[MGT]|[KMGT]i)?$")]
Label = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]  # DNS-1035, of the length that KubeRay allows a job's name


class Metadata(Strict):
    name: Label


class PodMetadata(Strict):
    annotations: dict[str, str] = {}


class SecretRef(Strict):
    name: str
    optional: bool = False


class EnvFrom(Strict):
    secretRef: SecretRef


class Exec(Strict):
    command: Annotated[list[str], Field(min_length=1)]


class Hook(Strict):
    exec: Exec


class Lifecycle(Strict):
    preStop: Hook


class Port(Strict):
    name: str
    containerPort: Annotated[int, Field(ge=1, le=65535)]


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Container(Strict):
    name: Label
    image: str
    lifecycle: Lifecycle
    envFrom: list[EnvFrom] = []
    ports: list[Port] = []
    resources: Resources


class PodSecurity(Strict):
    runAsNonRoot: bool
    runAsUser: Positive


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class Pod(Strict):
    serviceAccountName: str
    automountServiceAccountToken: bool = True
    terminationGracePeriodSeconds: Positive
    securityContext: PodSecurity
    tolerations: list[Toleration] = []
    containers: Annotated[list[Container], Field(min_length=1)]


class Template(Strict):
    metadata: PodMetadata = PodMetadata()
    spec: Pod


class Group(Strict):
    rayStartParams: dict[str, str]
    template: Template


class WorkerGroup(Group):
    groupName: Label
    replicas: Count
    minReplicas: Count
    maxReplicas: Count


class Autoscaler(Strict):
    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: Count
    resources: Resources


class Auth(Strict):
    mode: Literal["disabled", "token"]


class ClusterSpec(Strict):
    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    authOptions: Auth
    enableInTreeAutoscaling: bool
    autoscalerOptions: Autoscaler
    headGroupSpec: Group
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]


class JobSpec(Strict):
    entrypoint: str
    runtimeEnvYAML: str
    backoffLimit: Count
    preRunningDeadlineSeconds: Positive
    activeDeadlineSeconds: Positive
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Count
    rayClusterSpec: ClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


def kuberay_problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a RayJob or RayCluster, one line each: the field's path and why."""
    kinds: dict[str, type[Strict]] = {"RayJob": RayJob, "RayCluster": RayCluster}
    kind = kinds.get(document.get("kind", ""))
    if kind is None:
        return [f"kind: {document.get('kind')!r} is none of {', '.join(kinds)}"]
    try:
        kind.model_validate(document)
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return []


def launcher_problems(config: dict[str, Any]) -> list[str]:
    """What is wrong with a configuration of Ray's cluster launcher for AWS, one line each."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    problems = [f"ray: {e.json_path}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(config)]
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # jsonschema's, or whatever Ray meets first in a file that is not what it expects
        problems.append(f"ray: {getattr(error, 'message', None) or repr(error)}")
    # Ray's schema lets any key pass under provider; those it names are the ones there are.
    known = schema["properties"]["provider"]["properties"]
    problems += [f"provider.{key}: no such key" for key in config.get("provider", {}) if key not in known]
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node in config.get("available_node_types", {}).items():
        wanted = {"MinCount": 1, "MaxCount": 1, **{k: v for k, v in node.get("node_config", {}).items() if k not in _OF_THE_LAUNCHER}}
        report = ParamValidator().validate(wanted, shape)
        problems += [f"{name}.node_config: {line}" for line in report.generate_report().splitlines()]
    return problems
