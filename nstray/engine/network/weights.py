"""Where the weights of VGG-19 come from, how they are checked, and what input they expect."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nstray.engine.settings import BLOCKS, CONV_LAYERS
from nstray.errors import WeightsError

Input = Literal["rgb", "bgr"]


def _feature_index() -> dict[str, int]:
    index, found = 0, {}
    for block, convolutions in enumerate(BLOCKS, 1):
        for i in range(1, convolutions + 1):
            found[f"conv{block}_{i}"] = index
            index += 2  # a ReLU follows each convolution
        index += 1  # a pooling ends each block
    return found


# Position of each convolution in torchvision's `vgg19().features`.
FEATURE_INDEX = _feature_index()
_BY_INDEX = {v: k for k, v in FEATURE_INDEX.items()}

WIDTHS = (64, 128, 256, 512, 512)  # filters per block (arXiv 1409.1556, table 1)
RANDOM_SEED = 0
# The recipe is the identity of random weights. Recomputed on another machine, their last bits
# differ and their pictures do not.
RANDOM_ID = f"random-v1-seed{RANDOM_SEED}"

_IMAGENET_SHA256 = "dcbb9e9d"  # as in the file's name, by torchvision's convention

WAYS_OUT = (
    "three ways out: (1) --weights PATH_OR_URI of a VGG-19 .safetensors or .pth file you have; "
    "(2) put torchvision's vgg19-dcbb9e9d.pth into the folder torch.hub.get_dir()/checkpoints "
    "on the driver's machine; "
    "(3) --weights random, which needs no download and gives colours and texture "
    "but not the paper's quality"
)


@dataclass(frozen=True)
class VGGWeights:
    """The convolutions of a VGG-19, from conv1_1 to the deepest one present without a gap.

    Attributes:
        tensors: ``conv1_1.weight`` (N, C, 3, 3) float32, ``conv1_1.bias`` (N,), and so on.
        id: ``sha256:...`` of the file, or the recipe's name for random weights.
        source: as the user named it.
        input: ``rgb``: torchvision's mean and standard deviation over 0..1; ``bgr``: Caffe's 0..255
            minus a mean.
    """

    tensors: Mapping[str, Tensor]
    id: str
    source: str
    input: Input

    @property
    def layers(self) -> tuple[str, ...]:
        """The convolutions present, in order."""
        return tuple(n for n in CONV_LAYERS if f"{n}.weight" in self.tensors)

    def require(self, taps: Iterable[str]) -> None:
        """Raise WeightsError unless every tap (``conv4_2``, ``pre:conv4_2``) can be computed."""
        missing = [t for t in taps if t.removeprefix("pre:") not in self.layers]
        if missing:
            raise WeightsError(
                f"weights {self.source} hold {self.layers[0]} to {self.layers[-1]}; "
                f"the job asks for {', '.join(missing)}: "
                "choose shallower content_layers and style_layers, or a whole VGG-19"
            )

    def up_to(self, taps: Iterable[str]) -> VGGWeights:
        """The same weights without the layers behind the deepest tap."""
        layers = _up_to(taps)
        tensors = {k: v for k, v in self.tensors.items() if k.split(".")[0] in layers}
        return VGGWeights(tensors, self.id, self.source, self.input)


def _up_to(taps: Iterable[str]) -> tuple[str, ...]:
    """The convolutions from the first to the deepest of `taps`."""
    return CONV_LAYERS[
        : 1 + max((CONV_LAYERS.index(t.removeprefix("pre:")) for t in taps), default=0)
    ]


def load_weights(
    source: str = "imagenet",
    *,
    input: Input | Literal["auto"] = "auto",
    layers: Iterable[str] | None = None,
) -> VGGWeights:
    """VGG-19 weights by name or local path.

    Args:
        source: ``imagenet`` (torchvision's IMAGENET1K_V1, downloaded once), ``random`` (seeded,
            calibrated) or a path.
        input: the input convention; ``auto``: as the file says (see `parse_weights`).
        layers: the taps that will be asked for; random weights are made no deeper.

    Raises WeightsError for what can't be found, downloaded or read, or is no VGG-19.
    """
    if source == "random":
        return random_weights(CONV_LAYERS if layers is None else _up_to(layers))
    if source == "imagenet":
        return _imagenet()
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {source}: {error.strerror or error}; {WAYS_OUT}") from None
    return parse_weights(data, source, input=input)


def parse_weights(
    data: bytes, source: str, *, input: Input | Literal["auto"] = "auto"
) -> VGGWeights:
    """VGG-19 weights from a file's bytes.

    A .safetensors file says its input convention in its metadata key ``input`` (``rgb...`` or
    ``bgr...``). Without it, keys named ``conv1_1.weight`` are the Caffe networks' (BGR, 0-255) and
    keys named ``features.0.weight`` torchvision's (RGB). A .pth file is read with
    ``weights_only=True``: it can hold tensors, not code.

    Args:
        data: of a .safetensors or .pth file.
        source: as the user named it, for messages.
        input: overrides the file's convention, unless ``auto``.

    Raises WeightsError for what is no file of weights, or no VGG-19.
    """
    said: str | None = None
    if len(data) > 8 and data[8:9] == b"{":
        state, said = _safetensors(data, source)
    elif data[:2] == b"PK" or data[:1] == b"\x80":
        try:
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
        head = data[:24].decode("latin-1").strip() or "nothing"
        raise WeightsError(
            f"weights {source}: neither .safetensors nor .pth (it begins with {head!r})"
        )
    tensors, caffe_names = _convolutions(state, source)
    guessed: Input = (
        "bgr" if (said or "").lower().startswith("bgr") or (said is None and caffe_names) else "rgb"
    )
    return VGGWeights(
        tensors,
        "sha256:" + hashlib.sha256(data).hexdigest(),
        source,
        guessed if input == "auto" else input,
    )


def _safetensors(data: bytes, source: str) -> tuple[dict[str, Tensor], str | None]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise WeightsError(
            f"weights {source}: reading .safetensors needs the package safetensors; "
            "install it or use a .pth file"
        ) from None
    import json

    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        return load(data), metadata.get("input")
    except Exception as error:
        raise WeightsError(f"weights {source}: a damaged .safetensors file ({error})") from None


def _convolutions(state: Mapping[str, object], source: str) -> tuple[dict[str, Tensor], bool]:
    """The convolutions under this module's names, checked for shape, up to the first gap."""
    found: dict[str, Tensor] = {}
    caffe_names = False
    for key, value in state.items():
        match = re.fullmatch(
            r"(?:module\.)?(?:features\.(\d+)|(conv\d_\d))\.(weight|bias)", str(key)
        )
        if not match or not isinstance(value, Tensor):
            continue
        layer = _BY_INDEX.get(int(match[1])) if match[1] else match[2]
        if layer:
            found[f"{layer}.{match[3]}"] = value
            caffe_names |= bool(match[2])
    out: dict[str, Tensor] = {}
    channels = 3
    for layer in CONV_LAYERS:
        weight, bias = found.get(f"{layer}.weight"), found.get(f"{layer}.bias")
        if weight is None or bias is None:
            break
        n = WIDTHS[int(layer[4]) - 1]
        if tuple(weight.shape) != (n, channels, 3, 3) or tuple(bias.shape) != (n,):
            raise WeightsError(
                f"weights {source}: {layer} has shape {tuple(weight.shape)} "
                f"and bias {tuple(bias.shape)}; VGG-19 has ({n}, {channels}, 3, 3) and ({n},)"
            )
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise WeightsError(f"weights {source}: {layer} holds values that are not finite")
        out[f"{layer}.weight"], out[f"{layer}.bias"] = (
            weight.float().contiguous(),
            bias.float().contiguous(),
        )
        channels = n
    if not out:
        sample = ", ".join(list(map(str, state))[:3]) or "none"
        raise WeightsError(
            f"weights {source}: no conv1_1 in it; "
            f"expected keys like features.0.weight or conv1_1.weight, found {sample}"
        )
    return out, caffe_names


def _imagenet() -> VGGWeights:
    from nstray.engine.network.torchvision_vgg import VGG19_Weights

    url = VGG19_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    try:
        data = path.read_bytes() if path.exists() else _download(url, path)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise WeightsError(
            f"weights imagenet could not be downloaded ({error}); {WAYS_OUT}"
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


def random_weights(layers: tuple[str, ...] = CONV_LAYERS, *, seed: int = RANDOM_SEED) -> VGGWeights:
    """Seeded weights that need no download: orthogonal filters, calibrated layer by layer.

    Each layer's filters and bias are scaled so that its pre-activations over the built-in images
    have mean 0 and variance 1 per channel (data-dependent initialisation, Kraehenbuehl et al.,
    arXiv 1511.06856). He-initialised filters give noise.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (calibration_images() - RGB_MEAN.view(1, 3, 1, 1)) / RGB_STD.view(1, 3, 1, 1)
    tensors: dict[str, Tensor] = {}
    block = "1"
    with torch.no_grad():
        for layer in layers:
            if layer[4] != block:
                x, block = F.avg_pool2d(x, 2), layer[4]
            n = WIDTHS[int(block) - 1]
            weight = _orthogonal(n, x.shape[1] * 9, generator).view(n, x.shape[1], 3, 3)
            y = F.conv2d(x, weight, padding=1)
            std, mean = torch.std_mean(y, dim=(0, 2, 3))
            std = std.clamp_min(1e-6)
            tensors[f"{layer}.weight"] = weight / std.view(-1, 1, 1, 1)
            tensors[f"{layer}.bias"] = -mean / std
            x = F.relu((y - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1))
    name = RANDOM_ID if seed == RANDOM_SEED else f"random-v1-seed{seed}"
    return VGGWeights(tensors, name, "random", "rgb")


def _orthogonal(n: int, m: int, generator: torch.Generator) -> Tensor:
    """(n, m) float32 with orthonormal rows, or orthonormal columns if n > m.

    By Cholesky QR in float64: 0.3 s for 512 x 4608; Householder's takes 1.4 s.
    """
    wide = torch.randn(min(n, m), max(n, m), generator=generator, dtype=torch.float64)
    rows: Tensor = torch.linalg.solve_triangular(
        torch.linalg.cholesky(wide @ wide.T), wide, upper=False
    )
    return (rows if n <= m else rows.T).float().contiguous()


# torchvision's constants for VGG19_Weights.IMAGENET1K_V1, RGB over 0..1
RGB_MEAN = torch.tensor([0.485, 0.456, 0.406])
RGB_STD = torch.tensor([0.229, 0.224, 0.225])
# the mean of the original Caffe networks, over 0..255, here in RGB order
CAFFE_MEAN = torch.tensor([123.680, 116.779, 103.939])


def calibration_images(count: int = 4, side: int = 128) -> Tensor:
    """Built-in pictures (count, 3, side, side) over 0..1: coloured noise with hard-edged shapes.

    The noise has a 1/f spectrum. Natural images have both.
    """
    generator = torch.Generator().manual_seed(1508_06576)
    fy = torch.fft.fftfreq(side).view(-1, 1)
    fx = torch.fft.rfftfreq(side).view(1, -1)
    amplitude = 1 / torch.sqrt(fx**2 + fy**2).clamp_min(1 / side)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator)) * amplitude
    noise = torch.fft.irfft2(spectrum, s=(side, side))
    # colour channels of natural images are strongly correlated
    noise = noise + 1.5 * noise.mean(1, keepdim=True)
    noise = noise / noise.std(dim=(1, 2, 3), keepdim=True)
    images: Tensor = 0.5 + 0.18 * noise
    yy, xx = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for i in range(count):
        for _ in range(6):
            cx, cy, r = (
                torch.rand(3, generator=generator) * torch.tensor([side, side, side / 5])
            ).tolist()
            colour = torch.rand(3, 1, generator=generator)
            inside = (xx - cx) ** 2 + (yy - cy) ** 2 < r**2
            images[i][:, inside] = 0.6 * colour + 0.4 * images[i][:, inside]
    return images.clamp_(0, 1)
