"""Files of weights: where they come from, how they are checked, and how they are written."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from nstray.engine.network import key_names
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.weights import Input, Padding, VGGWeights, layers_up_to
from nstray.engine.settings import CONV_LAYERS, Pooling
from nstray.errors import WeightsError

# trained by `nstray weights distil`; docs/compact.md has the recipe
COMPACT = Path(__file__).with_name("compact.safetensors")
_ANEW = "copy or download it again"
_IMAGENET_SHA256 = "dcbb9e9d"  # as in the file's name, by torchvision's convention


def ways_out() -> str:
    """What to do if a job's network can't be had."""
    return (
        "four ways out: (1) --weights compact, a trained network of a quarter of the filters in "
        "this package, with --preset quick; (2) --weights PATH_OR_URI of a VGG-19 .safetensors or "
        "a .pth file you have; (3) put torchvision's vgg19-dcbb9e9d.pth into the folder "
        f"{_checkpoints()} on the driver's machine; (4) --weights random, which is not trained "
        "and gives colours and texture alone"
    )


def own_file() -> str:
    """What to do if the network that a file is to be made of can't be had."""
    return (
        "two ways out: (1) give the path or URI of a VGG-19 .safetensors or .pth file you have; "
        f"(2) put torchvision's vgg19-dcbb9e9d.pth into the folder {_checkpoints()}"
    )


def _checkpoints() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def load_weights(
    source: str = "imagenet",
    *,
    input: Input | Literal["auto"] = "auto",
    layers: Iterable[str] | None = None,
    advice: Callable[[], str] = ways_out,
) -> VGGWeights:
    """VGG-19 weights by name or local path.

    Args:
        source: ``imagenet`` (torchvision's IMAGENET1K_V1, downloaded once), ``compact`` (the
            narrow network in this package), ``random`` (seeded, calibrated) or a path.
        input: the input convention; ``auto``: as the file says (see `parse_weights`).
        layers: the taps that will be asked for; random weights are made no deeper.
        advice: what an error says to do if the network can't be had.

    Raises WeightsError for what can't be found, downloaded or read, or is no VGG-19.
    """
    if source == "random":
        return random_weights(CONV_LAYERS if layers is None else layers_up_to(layers))
    if source == "imagenet":
        return _imagenet(advice)
    if source == "compact":
        return parse_weights(COMPACT.read_bytes(), "compact")
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {source}: {error.strerror or error}; {advice()}") from None
    return parse_weights(data, source, input=input)


def parse_weights(
    data: bytes, source: str, *, input: Input | Literal["auto"] = "auto"
) -> VGGWeights:
    """VGG-19 weights from a file's bytes.

    A .safetensors file says in its metadata its input convention (``input``: ``rgb...`` or
    ``bgr...``), its ``padding`` (``zero``, ``reflect``) and its ``pooling`` (``average``, ``max``).
    What it does not say follows from its keys (`nstray.engine.network.key_names`). A .pth file is
    read with ``weights_only=True``: it can hold tensors, not code.

    Args:
        data: of a .safetensors or .pth file.
        source: as the user named it, for messages.
        input: overrides the file's convention, unless ``auto``.

    Raises WeightsError for what is no file of weights, or no VGG-19.
    """
    metadata: Mapping[str, str] = {}
    if len(data) > 8 and data[8:9] == b"{":
        state, metadata = _safetensors(data, source)
    elif data[:2] == b"PK" or data[:1] == b"\x80":
        if data[:2] == b"PK" and not zipfile.is_zipfile(io.BytesIO(data)):
            raise WeightsError(
                f"weights {source}: a damaged .pth file, perhaps cut short ({len(data):,} bytes); "
                f"{_ANEW}"
            )
        try:
            with warnings.catch_warnings(action="ignore"):  # of files that are refused below
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:
            raise WeightsError(
                f"weights {source}: not a file of plain tensors ({type(error).__name__}); "
                "save the state_dict alone"
            ) from None
        if not isinstance(state, dict):
            raise WeightsError(
                f"weights {source}: holds a {type(state).__name__}, not a state_dict of tensors"
            )
    else:
        if not data:
            raise WeightsError(f"weights {source}: the file is empty; {_ANEW}")
        head = data[:24].decode("latin-1").strip()
        raise WeightsError(
            f"weights {source}: neither .safetensors nor .pth (it begins with {head!r})"
        )
    found = key_names.convolutions(state, source)
    own = _convention(metadata.get("input"), found.input) if input == "auto" else input
    return VGGWeights(
        found.tensors,
        "sha256:" + hashlib.sha256(data).hexdigest(),
        source,
        own,
        cast(Padding, _said(metadata, "padding", get_args(Padding), source) or found.padding),
        cast(Pooling | None, _said(metadata, "pooling", get_args(Pooling), source))
        or found.pooling,
        found.gap,
    )


def _convention(said: str | None, by_name: Input) -> Input:
    if said is None:
        return by_name
    return "bgr" if said.lower().startswith("bgr") else "rgb"


def _said(
    metadata: Mapping[str, str], key: str, choices: tuple[str, ...], source: str
) -> str | None:
    """The first word of what a file says under `key`; WeightsError if it is none of `choices`."""
    said = metadata.get(key)
    if said is None:
        return None
    word = said.lower().partition(" ")[0]
    if word not in choices:
        raise WeightsError(
            f"weights {source}: its metadata says {key} {said!r}; there are {' and '.join(choices)}"
        )
    return word


def _safetensors(data: bytes, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a .safetensors file."""
    try:
        from safetensors.torch import load
    except ImportError:
        raise WeightsError(
            f"weights {source}: reading .safetensors needs the package safetensors; "
            "install it or use a .pth file"
        ) from None
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        return load(data), metadata
    except Exception as error:
        raise WeightsError(
            f"weights {source}: a damaged .safetensors file, perhaps cut short "
            f"({len(data):,} bytes; {error}); {_ANEW}"
        ) from None


def _imagenet(advice: Callable[[], str]) -> VGGWeights:
    from nstray.engine.network.torchvision_vgg import VGG19_Weights

    url = VGG19_Weights.IMAGENET1K_V1.url
    path = _checkpoints() / Path(url).name
    try:
        data = path.read_bytes() if path.exists() else _download(url, path)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise WeightsError(
            f"weights imagenet could not be downloaded ({error}); {advice()}"
        ) from None
    weights = parse_weights(data, "imagenet", input="rgb")
    if not weights.id.startswith(f"sha256:{_IMAGENET_SHA256}"):
        raise WeightsError(
            f"weights imagenet: {path} is not torchvision's file "
            f"(its sha256 should begin with {_IMAGENET_SHA256}); remove it"
        )
    return weights


def _download(url: str, path: Path) -> bytes:
    """The bytes at `url`, kept at `path` if that can be written."""
    with contextlib.ExitStack() as stack:
        if not _can_write(path.parent):  # a read-only home: it is downloaded anew for every run
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nstray-weights-"))
            path = Path(folder) / path.name
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_IMAGENET_SHA256, progress=False)
        return path.read_bytes()


def _can_write(folder: Path) -> bool:
    """Whether `folder` can be written, once it is made; a relative one is for want of a home."""
    try:
        if folder.is_absolute():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return folder.is_absolute() and os.access(folder, os.W_OK)


def to_safetensors(weights: VGGWeights, metadata: Mapping[str, str] | None = None) -> bytes:
    """A .safetensors file with the keys ``conv1_1.weight`` and so on; `parse_weights` reads it.

    Its metadata says the input convention, the padding and the pooling. The same weights and
    `metadata` give the same bytes and hence the same id. safetensors itself writes metadata in an
    order that changes.
    """
    from safetensors.torch import save

    about = {**(metadata or {}), "input": weights.input}
    # what is usual is left out, so that files without it keep their bytes
    if weights.padding != "zero":
        about["padding"] = weights.padding
    if weights.pooling is not None:
        about["pooling"] = weights.pooling
    data: bytes = save(
        {k: v.contiguous() for k, v in weights.tensors.items()},
        about,
    )
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(
        json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")
    ).encode()
    # tensors begin at a multiple of 8; their offsets count from the header's end
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
