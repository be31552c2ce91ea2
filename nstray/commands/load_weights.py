"""The job's weights, read and checked in a process of its own.

Torch and torchvision take 700 MB of a process that imports them (measured). The driver needs
neither. It needs only the arrays, 80 MB for all of conv1_1 to conv5_4, to put them into the object
store. So a child process reads them with `nstray.engine.network.weights` and hands them back, all
through its stdin and stdout: a line of JSON, then bytes. No file is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, cast

import numpy as np

from nstray import storage
from nstray.engine.settings import NAMED_WEIGHTS
from nstray.errors import JobFailed, StorageError, Unreachable, UsageError, WeightsError
from nstray.system import streams
from nstray.text import did_you_mean

if TYPE_CHECKING:
    from nstray.engine.network.weights import VGGWeights

# what is known of a network besides its tensors
ABOUT = ("id", "source", "input", "padding", "pooling")


@dataclass(frozen=True)
class Weights:
    """The convolutions that a job needs.

    Attributes:
        arrays: float32, by names such as ``conv1_1.weight``.
        id, source, input, padding, pooling: as in `nstray.engine.network.weights`.
    """

    arrays: dict[str, np.ndarray[Any, np.dtype[np.float32]]]
    id: str
    source: str
    input: str
    padding: str = "zero"
    pooling: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What is known of the network besides its tensors."""
        return {name: getattr(self, name) for name in ABOUT}

    @property
    def widths(self) -> list[int]:
        """The filters of the first convolution of every block that is there."""
        return [len(array) for name, array in self.arrays.items() if name.endswith("_1.bias")]


def read(source: str, *, input: str, taps: Sequence[str]) -> Weights:
    """The weights of `source` (a name, a path or s3://) up to the deepest of `taps`.

    Raises `WeightsError`, `Unreachable` if the store is out of reach, and `JobFailed` if the
    process that reads them died.
    """
    shown = storage.redact(source)
    given = b""
    if source not in NAMED_WEIGHTS:
        given = read_file(source)
    request = {
        "source": shown,
        "named": source in NAMED_WEIGHTS,
        "input": input,
        "taps": list(taps),
        "bytes": len(given),
    }
    # The child finds modules where this process does, and nowhere else (-P). In a group of its own
    # it gets no Ctrl-C: this process ends it.
    code = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as m; m.child()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    try:
        with contextlib.suppress(BrokenPipeError):  # it is dead: its answer is missing
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.write(given)
            stdin.flush()
        del given
        answer = _answer(stdout)
    finally:
        process.kill()
        status = process.wait()
        stdout.close()
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
    if answer is None:
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"died (code {status})"
        raise JobFailed(
            f"weights {shown}: the process that reads them {how}; run the same command again; "
            "if that recurs, the machine or container has too little memory"
        )
    if "error" in answer:
        raise WeightsError(answer["error"])
    return Weights(**answer)


def _answer(stdout: IO[bytes]) -> dict[str, Any] | None:
    """What the child says; None if it died before it had said all."""
    try:
        answer: dict[str, Any] = json.loads(stdout.readline())
    except ValueError:
        return None
    arrays = {}
    for name, shape in answer.pop("shapes", {}).items():
        arrays[name] = array = np.empty(shape, dtype=np.float32)
        left = array.data.cast("B")
        while left:
            if not (got := stdout.readinto(left)):  # type: ignore[attr-defined]
                return None
            left = left[got:]
    return {**answer, "arrays": arrays}


def read_file(source: str) -> bytes:
    """The bytes of the file or URI `source`; raises WeightsError, and Unreachable.

    For a bare word, which may have been meant as a name, the message lists the names.
    """
    try:
        return storage.read(storage.absolute(source))
    except Unreachable:
        raise
    except (StorageError, UsageError) as error:
        raise _unreadable(source, error) from None


def _unreadable(source: str, error: Exception) -> WeightsError:
    hint = ""
    if "/" not in source and "." not in source:
        hint = f"; by name there are {', '.join(NAMED_WEIGHTS)}"
        hint += did_you_mean(source.lower(), NAMED_WEIGHTS)
    return WeightsError(f"weights {storage.redact(source)}: {error}{hint}")


def up_to_taps(
    source: str, data: bytes | None, *, input: Literal["auto", "rgb", "bgr"], taps: Sequence[str]
) -> VGGWeights:
    """The network of a name, or of a file's bytes, up to the deepest of `taps`. Imports torch.

    Args:
        source: the name; of a file, as messages call it.
        data: of the file; None for a name.

    Raises `WeightsError`.
    """
    from nstray.engine.network.weight_files import load_weights, parse_weights

    if data is None:
        weights = load_weights(source, layers=taps)
    else:
        weights = parse_weights(data, source, input=input)
    weights.require(taps)
    return weights.up_to(taps)


def _write_answer(request: dict[str, Any], given: bytes, answer: IO[bytes]) -> None:
    data = None if request["named"] else given
    try:
        weights = up_to_taps(request["source"], data, input=request["input"], taps=request["taps"])
    except WeightsError as error:
        answer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    arrays = {name: tensor.numpy() for name, tensor in weights.tensors.items()}
    about = {name: getattr(weights, name) for name in ABOUT}
    shapes = {name: array.shape for name, array in arrays.items()}
    answer.write(json.dumps({**about, "shapes": shapes}).encode() + b"\n")
    for array in arrays.values():
        answer.write(np.ascontiguousarray(array, dtype=np.float32).tobytes())


def _end_with_parent() -> None:
    # The parent holds the pipe open until it has its answer.
    os.read(0, 1)
    os._exit(1)


def child() -> None:
    """What the child process does."""
    streams.protect()
    # Nothing but the answer goes to the pipe, whatever a library prints.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the parent was stopped before it asked
        return
    request = json.loads(line)
    given = sys.stdin.buffer.read(request["bytes"])
    if len(given) < request["bytes"]:  # the parent died
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _write_answer(request, given, answer)
    answer.close()
