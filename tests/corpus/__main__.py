"""One part of the corpus through the decoder, in a process of its own: `python -m corpus GROUP`, a line of JSON for each file.

The process may take a gibibyte of addresses beyond what it has at the start, and `CPU_SECONDS` for a file: more of it, in C code
too, ends the process by a signal, with the file's name in its last line.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import corpus
from nstray.errors import PairError
from nstray.images.decode import decode, decode_mask, read_header

CPU_SECONDS = 5.0
ADDRESSES = 2**30


def resident(field: str) -> int:
    """A resident set of this process in KiB: VmRSS, now, or VmHWM, the largest. A child's `ru_maxrss` begins with that of its parent."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def forget_peak() -> int:
    """Let VmHWM begin anew; returns what it begins with."""
    with contextlib.suppress(OSError):  # where it may not be asked, a file counts for those before it too
        Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def outcome(call: Any) -> dict[str, Any]:
    """What became of a call: the picture's width and height, an error's code, or what should not have come out, in words."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            out = call()
            found: dict[str, Any] = {"size": out.shape[1::-1] if hasattr(out, "shape") else out[1:]}
        except PairError as error:
            found = {"code": error.code.value, "message": error.message}
        except BaseException as error:
            found = {"escaped": repr(error)}
    return found | {"warnings": [str(w.message) for w in said]}


def run(group: str) -> None:
    cases = corpus.files(group)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESSES,) * 2)
    for case in cases:
        print(json.dumps({"begins": case.name}), flush=True)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends a process that does not expect it
        start, began = forget_peak(), time.process_time()
        found = {
            "decode": outcome(lambda data=case.data: decode(data, what="content x", **corpus.CAPS)),
            "mask": outcome(lambda data=case.data: decode_mask(data, what="mask x", **corpus.CAPS)),
            "probe": outcome(lambda data=case.data: read_header(data)),
        }
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"name": case.name, "seconds": time.process_time() - began, "grown": resident("VmHWM") - start, **found}), flush=True)


if __name__ == "__main__":
    run(sys.argv[1])
