"""The network in the package: what its file says, and that it does its work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nets import picture
from safetensors import safe_open

from nstray.config import make
from nstray.engine import StylizeConfig, stylize
from nstray.engine.network.random_weights import calibration_images
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.network.weight_files import COMPACT, load_weights, parse_weights
from nstray.engine.presets import PRESETS
from nstray.engine.settings import NAMES

LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv4_2", "conv5_1")


def test_the_file() -> None:
    assert COMPACT.stat().st_size <= 2_000_000
    made = load_weights("compact")
    assert made.id == parse_weights(COMPACT.read_bytes(), "f").id
    assert made.source == "compact"
    assert (made.input, made.padding, made.pooling) == ("rgb", "zero", "max")
    assert made.layers[-1] == "conv5_1"
    assert {layer: made.widths[layer] for layer in LAYERS} == dict(zip(LAYERS, (16, 32, 64, 128, 128, 128), strict=True))
    with safe_open(COMPACT, "pt") as file:
        about = file.metadata()
        assert file.get_tensor("conv1_1.weight").dtype == torch.float16
    variance = json.loads(about["variance"])
    assert list(variance) == list(LAYERS)
    assert all(value > 0.3 for value in variance.values())


def test_its_filters_are_normalised_and_alive() -> None:
    """Mean activation 1 on the pictures of its training; the built-in ones are others."""
    features = VGGFeatures(load_weights("compact"), LAYERS, "max")(calibration_images(), LAYERS)
    for layer in LAYERS:
        means = features[layer].mean((0, 2, 3))
        assert 0.3 < float(means.mean()) < 3, layer
        assert float((means > 1e-3).float().mean()) > 0.95, layer


def test_the_preset_quick_names_it_and_gives_way() -> None:
    config = make({"preset": "quick"})
    assert (config.weights, config.pooling) == ("compact", "max")
    assert make({"preset": "quick", "weights": "imagenet"}).weights == "imagenet"


@pytest.mark.filterwarnings("error")  # its own pooling: nothing to say
def test_it_stylises() -> None:
    config = StylizeConfig(**{k: v for k, v in PRESETS["quick"].items() if k in NAMES} | {"evaluations": 15, "coarse": "none"})
    (result,) = stylize([picture(1, 64, 64)], [picture(2, 64, 64)], config, weights="compact", device="cpu")
    assert result.loss_total < 0.5 * result.loss_curve[0]


def test_it_travels_with_the_package() -> None:
    assert COMPACT.parent == Path(__file__).parents[2] / "nstray/engine/network" or "site-packages" in str(COMPACT)
