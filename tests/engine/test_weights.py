"""Weights from files of every kind, from torchvision's cache, and made from a seed."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from nets import THREE, weights
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from nstray.engine.network.key_names import FEATURE_INDEX
from nstray.engine.network.random_weights import RANDOM_ID, calibration_images, random_weights
from nstray.engine.network.vgg import VGGFeatures, minimum_side
from nstray.engine.network.weight_files import load_weights, parse_weights
from nstray.engine.network.weights import VGGWeights
from nstray.engine.settings import CONV_LAYERS, StylizeConfig
from nstray.engine.stylizer import Stylizer
from nstray.errors import WeightsError

CAFFE = {k: v.contiguous() for k, v in weights(3).tensors.items()}
TORCHVISION = {f"features.{FEATURE_INDEX[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in CAFFE.items()}


def pth(state: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def same(network: VGGWeights) -> bool:
    return network.tensors.keys() == CAFFE.keys() and all(torch.equal(network.tensors[k], v) for k, v in CAFFE.items())


def test_the_layers_sit_where_torchvision_puts_them() -> None:
    with torch.device("meta"):
        features = make_layers(cfgs["E"], batch_norm=False)
    convolutions = [i for i, layer in enumerate(features) if isinstance(layer, torch.nn.Conv2d)]
    assert convolutions == [FEATURE_INDEX[name] for name in CONV_LAYERS]
    assert FEATURE_INDEX["conv4_2"] == 21
    assert FEATURE_INDEX["conv5_1"] == 28


@pytest.mark.parametrize(
    ("data", "convention"),
    [
        (save(TORCHVISION), "rgb"),
        (save(TORCHVISION, metadata={"input": "bgr, 0-255"}), "bgr"),
        (save(CAFFE), "bgr"),
        (save(CAFFE, metadata={"input": "rgb"}), "rgb"),
        (save(CAFFE, metadata={"title": "no word about the input"}), "bgr"),
        (pth(TORCHVISION), "rgb"),
        (pth(CAFFE), "bgr"),
        (pth({f"module.{k}": v for k, v in TORCHVISION.items()}), "rgb"),
        (pth({**TORCHVISION, "classifier.0.weight": torch.zeros(2, 2), "note": "kept beside"}), "rgb"),
        (pth(TORCHVISION, _use_new_zipfile_serialization=False), "rgb"),
        (save({k: v.half() for k, v in TORCHVISION.items()}), "rgb"),
    ],
    ids=[
        "st",
        "st says bgr",
        "st caffe",
        "st caffe says rgb",
        "st caffe says nothing",
        "pth",
        "pth caffe",
        "pth parallel",
        "pth whole",
        "pth old",
        "st half",
    ],
)
def test_files_of_every_kind(tmp_path: Path, data: bytes, convention: str) -> None:
    path = tmp_path / "vgg"
    path.write_bytes(data)
    network = load_weights(str(path))
    assert network.input == convention
    assert network.id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert network.source == str(path)
    assert network.layers == CONV_LAYERS[:3]
    assert all(v.dtype == torch.float32 for v in network.tensors.values())
    if data != save({k: v.half() for k, v in TORCHVISION.items()}):
        assert same(network)


def test_the_caller_may_say_the_input_convention() -> None:
    assert parse_weights(save(TORCHVISION), "x", input="bgr").input == "bgr"
    assert parse_weights(save(CAFFE), "x", input="rgb").input == "rgb"


class Code:
    """What a malicious .pth does when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "old", "bare pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    made = tmp_path / "made"
    state = {**TORCHVISION, "extra": Code(made)}
    data = pickle.dumps(state, protocol=2) if kind == "bare pickle" else pth(state, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(WeightsError, match="not a file of plain tensors"):
        parse_weights(data, "evil.pth")
    assert not made.exists()
    pickle.loads(pickle.dumps(Code(made)))  # the code does run where it is let
    assert made.exists()


def changed(key: str, value: Tensor | None) -> dict[str, Tensor]:
    out = dict(TORCHVISION)
    if value is None:
        del out[key]
    else:
        out[key] = value
    return out


NAN = torch.full((64,), float("nan"))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file is empty; copy or download it again"),
        (b"these are not weights", "neither .safetensors nor .pth .it begins with 'these are not weights'"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "begins with '<!DOCTYPE html>"),
        (save(TORCHVISION)[:-1000], "damaged .safetensors file, perhaps cut short .*copy or download it again"),
        (save(TORCHVISION)[:40], r"damaged .safetensors file, perhaps cut short \(40 bytes"),
        (save(TORCHVISION)[:5], "neither .safetensors nor .pth"),
        (pth(TORCHVISION)[:5000], r"a damaged .pth file, perhaps cut short \(5,000 bytes\); copy or download it again"),
        (pth([1, 2, 3]), "holds a list, not a state_dict"),
        (pth({"state_dict": TORCHVISION}), "its tensors lie below 'state_dict'; save that alone"),
        (
            save(changed("features.0.weight", torch.ones(64, 3, 3, 3, dtype=torch.int32))),
            "conv1_1 holds torch.int32 and torch.float32; weights are float16",
        ),
        (save({"fc.weight": torch.zeros(3)}), "no conv1_1 in it; .* found fc.weight"),
        (save(changed("features.0.weight", None)), "no conv1_1"),
        (save(changed("features.2.weight", torch.zeros(64, 32, 3, 3))), r"conv1_2 has shape \(64, 32, 3, 3\) .*VGG-19 has \(N, 64, 3, 3\)"),
        (save(changed("features.2.bias", torch.zeros(63))), r"conv1_2 has shape .* and bias \(63,\)"),
        (save(changed("features.2.bias", NAN)), "conv1_2 holds values that are not finite"),
    ],
    ids=[
        "empty",
        "text",
        "html",
        "cut",
        "cut head",
        "cut length",
        "cut pth",
        "list",
        "nested",
        "whole numbers",
        "other",
        "first gone",
        "shape",
        "bias",
        "nan",
    ],
)
def test_what_is_no_vgg(data: bytes, text: str) -> None:
    with pytest.raises(WeightsError, match=text) as error:
        parse_weights(data, "some/file")
    assert "some/file" in str(error.value)


def test_a_missing_file_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"No such file.*four ways out"):
        load_weights(str(tmp_path / "absent.pth"))


def test_missing_layers_are_named() -> None:
    network = parse_weights(save(changed("features.2.weight", None)), "part.safetensors")
    assert network.layers == ("conv1_1",)  # nothing behind a gap can be computed
    with pytest.raises(
        WeightsError,
        match=r"part.safetensors hold conv1_1 to conv1_1 .conv1_2 is missing, .*; the job asks for conv2_1, pre:conv4_2",
    ):
        network.require(["conv1_1", "conv2_1", "pre:conv4_2"])
    with pytest.raises(WeightsError, match="conv2_1"):
        Stylizer(StylizeConfig(**THREE), network)


def test_cut_keeps_what_the_taps_need() -> None:
    network = weights(3)
    assert network.up_to(["pre:conv1_2", "conv1_1"]).layers == ("conv1_1", "conv1_2")
    assert network.up_to(["conv1_2"]).id == network.id


def test_imagenet_without_a_network_gives_four_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("name resolution failed")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError) as error:
        load_weights("imagenet")
    text = str(error.value)
    assert "could not be downloaded" in text
    assert "name resolution failed" in text
    for way in ("(1) --weights compact", "(2) --weights PATH_OR_URI", "(3) put torchvision's vgg19-dcbb9e9d.pth", "(4) --weights random"):
        assert way in text


@pytest.mark.parametrize("cache", ["/proc/torch", "/proc/self/torch", "~/torch"])
def test_imagenet_without_a_cache_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    """A read-only home, or none at all: the download goes to a temporary folder, and nothing stays."""
    data = pth(TORCHVISION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: cache)
    monkeypatch.setattr("nstray.engine.network.weight_files._IMAGENET_SHA256", hashlib.sha256(data).hexdigest()[:8])
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, target, **_: Path(target).write_bytes(data))
    assert same(load_weights("imagenet"))
    assert list(tmp_path.iterdir()) == []


def test_imagenet_takes_the_file_it_finds_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second way out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloaded"))
    path = tmp_path / "hub/checkpoints/vgg19-dcbb9e9d.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(pth(TORCHVISION))
    with pytest.raises(WeightsError, match="is not torchvision's file"):
        load_weights("imagenet")
    monkeypatch.setattr("nstray.engine.network.weight_files._IMAGENET_SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    network = load_weights("imagenet")
    assert (network.input, network.source) == ("rgb", "imagenet")
    assert same(network)


def test_random_weights_are_calibrated_layer_by_layer() -> None:
    """Pre-activations over the built-in images: mean 0 and variance 1 in every channel."""
    images = calibration_images()
    assert images.shape == (4, 3, 128, 128)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    network = weights(5)
    assert network.layers == CONV_LAYERS[:5]
    taps = [f"pre:{name}" for name in network.layers]
    with torch.no_grad():
        features = VGGFeatures(network, taps, "average")(images, taps)
    for tap in taps:
        std, mean = torch.std_mean(features[tap], dim=(0, 2, 3))
        assert float(mean.abs().max()) < 1e-3, tap
        assert float((std - 1).abs().max()) < 1e-3, tap
    # orthogonal before they were scaled: distinct filters do not repeat each other
    filters = F.normalize(network.tensors["conv2_1.weight"].flatten(1), dim=1)
    assert float((filters @ filters.T - torch.eye(128)).abs().max()) < 1e-4


def test_random_weights_are_the_same_every_time_and_say_what_they_are() -> None:
    first, again, other = random_weights(CONV_LAYERS[:2]), random_weights(CONV_LAYERS[:2]), random_weights(CONV_LAYERS[:2], seed=1)
    assert all(torch.equal(first.tensors[k], again.tensors[k]) for k in first.tensors)
    assert first.id == again.id == RANDOM_ID
    assert (first.source, first.input) == ("random", "rgb")
    assert other.id != first.id
    assert not torch.equal(first.tensors["conv1_1.weight"], other.tensors["conv1_1.weight"])
    # a shorter network is the beginning of the longer one
    assert torch.allclose(first.tensors["conv1_2.weight"], weights(5).tensors["conv1_2.weight"], atol=1e-5)


def test_features_leave_the_weights_as_they_are_and_need_no_gradient() -> None:
    before = {k: v.clone() for k, v in weights(3).tensors.items()}
    network = VGGFeatures(weights(3), ["conv2_1"], "average")
    assert not any(p.requires_grad for p in network.parameters())
    network(torch.rand(1, 3, 16, 16), ["conv2_1"])
    assert all(torch.equal(before[k], v) for k, v in weights(3).tensors.items())


def test_a_tap_before_rectification_keeps_its_negative_values() -> None:
    taps = ["pre:conv1_2", "conv1_2", "conv2_1"]
    out = VGGFeatures(weights(3), taps, "average")(torch.rand(1, 3, 16, 16), taps)
    assert float(out["pre:conv1_2"].min()) < 0
    assert torch.equal(out["pre:conv1_2"].clamp_min(0), out["conv1_2"])
    assert out["conv2_1"].shape == (1, 128, 8, 8)


def test_minimum_side() -> None:
    assert minimum_side(["conv1_2"], "zero") == 1
    assert minimum_side(["conv1_1", "pre:conv3_4"], "zero") == 4
    assert minimum_side(["conv5_1", "conv1_1"], "zero") == 16
    assert minimum_side(["conv5_1", "conv1_1"], "reflect") == 32
    assert minimum_side([], "zero") == minimum_side([], "reflect") == 1
