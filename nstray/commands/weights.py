"""`nstray weights`: normalises a network's activations, converts weights to .safetensors.

Functions that need torch import it in their bodies.
"""

from __future__ import annotations

from typing import Any

from nstray.commands.decoded_pictures import Pictures, Say
from nstray.commands.network_files import (
    InputWord,
    about_file,
    read_network,
    writable,
    write_file,
)
from nstray.engine.settings import Pooling, pooling_note
from nstray.errors import UsageError


def normalise(
    weights: str,
    images: str,
    out: str,
    *,
    pooling: Pooling | None,
    size: int,
    limit: int | None,
    overwrite: bool,
    say: Say,
) -> dict[str, Any]:
    """Write `weights` to `out`, with every filter scaled to mean activation 1 over pictures.

    Args:
        weights: ``imagenet``, ``random``, or a path or URI.
        images: folder or s3:// prefix of the pictures.
        out: .safetensors, local or s3://.
        pooling: that of the job that will use the weights; None for the network's own, or average
            if its file does not say.
        size: longest side, in pixels, at which pictures are measured; smaller ones keep their
            size.
        limit: at most so many pictures, taken evenly from the sorted names.
        overwrite: replace `out` if it exists.
        say: called with a line for each picture that can't be used, and with one a minute.

    Returns what was done. Raises `UsageError`, `WeightsError`, `StorageError`.
    """
    out = writable(out, overwrite)
    pictures = Pictures(images, size, limit, say)
    network = read_network(weights, "auto")
    from nstray.engine.network.normalise import normalise as run
    from nstray.engine.network.vgg import deepest, minimum_side
    from nstray.engine.network.weight_files import to_safetensors

    pictures.least = minimum_side(network.layers, network.padding)
    pictures.deepest = deepest(network.layers)
    if size < pictures.least:
        raise UsageError(
            f"--size {size}: {pictures.deepest} needs at least {pictures.least} pixels"
        )
    if (note := pooling_note(network.pooling, pooling or network.pooling)) is not None:
        say(f"warning: weights {network.source}: {note}")
    done = run(network, pictures, pooling or network.pooling or "average")
    done.require_alive()
    data = to_safetensors(done.weights, {**done.metadata, "size": str(size)})
    write_file(out, data, overwrite)
    return {
        **about_file(out, data, done.weights),
        "source_id": done.source_id,
        "pooling": done.pooling,
        "images": done.images,
        "skipped": pictures.skipped,
        "means_before": {
            layer: float(f"{float(means.mean()):.4g}") for layer, means in done.means.items()
        },
        "dead": {layer: len(filters) for layer, filters in done.dead.items() if filters},
    }


def convert(source: str, out: str, *, input: InputWord, overwrite: bool) -> dict[str, Any]:
    """Write the convolutions of `source` to `out` as .safetensors that says its input convention.

    Args:
        source: ``imagenet``, ``random``, or a .pth or .safetensors file, local or s3://.
        out: .safetensors, local or s3://.
        input: the convention `source` was trained in; ``auto``: as
            `nstray.engine.network.weights.parse_weights` reads it.
        overwrite: replace `out` if it exists.

    Values are not changed, but for a convolution of the pixels that is folded into conv1_1.
    Returns what was done. Raises `UsageError`, `WeightsError`, `StorageError`.
    """
    out = writable(out, overwrite)
    network = read_network(source, input)
    from nstray.engine.network.weight_files import to_safetensors

    data = to_safetensors(network, {"source_id": network.id})
    write_file(out, data, overwrite)
    return {**about_file(out, data, network), "source_id": network.id}
