"""The job's weights, read and checked in a process of its own.

Torch and torchvision take 700 MB of a process that imports them (measured). The driver needs
neither. It needs only the arrays, 80 MB for all of conv1_1 to conv5_4, to put them into the object
store. So a child process reads them with `nstray.engine.network.weights` and hands them back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nstray import storage
from nstray.errors import StorageError, UsageError, WeightsError

NAMED = ("imagenet", "random")


@dataclass(frozen=True)
class Weights:
    """The convolutions that a job needs.

    Attributes:
        arrays: float32, by names such as ``conv1_1.weight``.
        id, source, input: as in `nstray.engine.network.weights`.
    """

    arrays: dict[str, np.ndarray[Any, np.dtype[np.float32]]]
    id: str
    source: str
    input: str


def read(source: str, *, input: str, taps: Sequence[str]) -> Weights:
    """The weights of `source` (a name, a path or s3://) up to the deepest of `taps`.

    Raises `WeightsError`.
    """
    shown = storage.redact(source)
    with tempfile.TemporaryDirectory(prefix="nstray-weights-") as folder:
        given = Path(folder) / "given"
        if source not in NAMED:
            try:
                given.write_bytes(storage.read(storage.absolute(source)))
            except (StorageError, UsageError) as error:
                raise unreadable(source, error) from None
        request = {"source": shown, "named": source in NAMED, "input": input, "taps": list(taps)}
        child = subprocess.run(
            [sys.executable, "-P", "-m", __name__, folder],  # -P: not from the current folder
            input=json.dumps(request),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        try:
            answer = json.loads(child.stdout)
        except ValueError:
            raise WeightsError(
                f"weights {shown}: the process that reads them died (code {child.returncode}); "
                "does the machine have enough memory?"
            ) from None
        if "error" in answer:
            raise WeightsError(answer["error"])
        with np.load(Path(folder) / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    return Weights(arrays, answer["id"], answer["source"], answer["input"])


def unreadable(source: str, error: Exception) -> WeightsError:
    """What to raise if the file or URI `source` can't be read.

    For a bare word, which may have been meant as a name, the message lists the names.
    """
    hint = "" if "/" in source or "." in source else f"; by name there are {' and '.join(NAMED)}"
    return WeightsError(f"weights {storage.redact(source)}: {error}{hint}")


def _child(folder: Path) -> dict[str, str]:
    from nstray.engine.network.weights import load_weights, parse_weights

    request = json.load(sys.stdin)
    try:
        if request["named"]:
            weights = load_weights(request["source"], layers=request["taps"])
        else:
            weights = parse_weights(
                (folder / "given").read_bytes(), request["source"], input=request["input"]
            )
        weights.require(request["taps"])
    except WeightsError as error:
        return {"error": str(error)}
    weights = weights.up_to(request["taps"])
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in weights.tensors.items()}
    np.savez(folder / "arrays.npz", **arrays)
    return {"id": weights.id, "source": weights.source, "input": weights.input}


if __name__ == "__main__":
    print(json.dumps(_child(Path(sys.argv[1]))))
