"""Files of weights that `nstray weights` reads and writes.

Functions that need torch import it in their bodies.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from nstray import storage
from nstray.commands.load_weights import read_file
from nstray.engine.settings import NAMED_WEIGHTS
from nstray.errors import AlreadyExists, UsageError

if TYPE_CHECKING:
    from nstray.engine.network.weights import VGGWeights

InputWord = Literal["auto", "rgb", "bgr"]


def read_network(source: str, input: InputWord) -> VGGWeights:
    """The network of a name, a path or a URI; raises WeightsError, UsageError and Unreachable."""
    from nstray.engine.network.weight_files import load_weights, own_file, parse_weights

    if source in NAMED_WEIGHTS:
        if input != "auto":
            raise UsageError(f"--input {input}: {source} is RGB; leave --input out")
        return load_weights(source, advice=own_file)
    network = parse_weights(read_file(source), storage.redact(source), input=input)
    network.require_no_gap()
    return network


def writable(out: str, overwrite: bool) -> str:
    """`out` made absolute; raises UsageError if it is no .safetensors file or exists already."""
    out = storage.absolute(out)
    if storage.ending(storage.name(out)) != ".safetensors":
        raise UsageError(
            f"-o {out}: a .safetensors file is written; let its name end with .safetensors"
        )
    if not overwrite and storage.head(out) is not None:
        raise UsageError(f"-o {out} exists; give --overwrite, or another file")
    return out


def write_file(out: str, data: bytes, overwrite: bool) -> None:
    """Write `data`; raises UsageError if `out` exists and may not be replaced."""
    if overwrite:
        storage.put_over(out, data)
        return
    try:
        storage.put_new(out, data)
    except AlreadyExists:
        raise UsageError(
            f"-o {out} appeared meanwhile; give --overwrite, or another file"
        ) from None


def about_file(out: str, data: bytes, network: VGGWeights) -> dict[str, Any]:
    """What a command says of the file that it wrote."""
    return {
        "out": out,
        "weights_id": "sha256:" + hashlib.sha256(data).hexdigest(),
        "input": network.input,
        "padding": network.padding,
        **({} if network.pooling is None else {"pooling": network.pooling}),
        "widths": "-".join(str(n) for n in _widths(network)),
        "layers": f"{network.layers[0]} to {network.layers[-1]}",
    }


def _widths(network: VGGWeights) -> list[int]:
    """The filters of each block's first convolution."""
    return [n for layer, n in network.widths.items() if layer.endswith("_1")]
