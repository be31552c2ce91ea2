"""What is not kept inside a Ray job: Ray's own copy of the folder that was submitted."""

from __future__ import annotations

import os
import re

from nstray import storage
from nstray.errors import UsageError
from nstray.text import redact

# Ray's job server sets it for the command that `ray job submit` names (Ray 2.60), and a RayJob of
# KubeRay submits in the same way.
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Where Ray unpacks a working_dir on each node. It removes it when the job has ended.
_RAY_COPY = re.compile(r"/session_[^/]+/runtime_resources/")


def refuse_its_folder(what: str, path: str) -> None:
    """Raise `UsageError` if the local `path` leads to where Ray runs a job, and not to its user.

    Also if nothing is written to a `path` of its scheme.

    In a Ray job a relative path starts at the folder that Ray chose: its copy of the working_dir,
    or where the head was started. Elsewhere a relative path is right, unless it, or an absolute
    one, leads into such a copy. Every other absolute path is right: whether all nodes see it is
    asked of them.

    Args:
        what: how the caller names `path`.
    """
    storage.refuse_to_write(path)
    bucket, local = storage.resolve(path)
    if bucket is not None:
        return
    place = os.path.realpath(local)
    copy = _RAY_COPY.search(place + "/") is not None
    relative = not os.path.isabs(local)
    if not copy and not (relative and JOB_VARIABLE in os.environ):
        return
    if copy:
        where = f"that is {redact(place)}, in Ray's own copy of a job's folder, which Ray removes"
    else:
        where = (
            "in a Ray job a relative path starts where the Ray head was started, so that is "
            f"{redact(place)} on one machine"
        )
    raise UsageError(
        f"{what} {redact(path)}: {where}; give s3://BUCKET/PREFIX, or the absolute path of a "
        "folder that all nodes mount"
    )
