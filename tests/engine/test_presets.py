"""Presets: they are what their sources say, on nstray's scale, and give way to what is given beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import picture, weights
from torch.nn import functional as F

from nstray.config import fingerprint, make
from nstray.engine.losses.gatys import content_loss, gram, style_loss, tv_loss
from nstray.engine.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_whole_valid_job(name: str) -> None:
    config = make({"preset": name})
    assert {k: getattr(config, k) for k in PRESETS[name]} == dict(PRESETS[name])
    assert config.weights == ("compact" if name == "quick" else "imagenet")  # never chosen by a preset of a paper


def test_what_is_given_wins_and_the_name_decides_nothing() -> None:
    assert make({"preset": "johnson", "evaluations": 7}).evaluations == 7
    assert fingerprint(make({"preset": "gatys2015"}), "w") == fingerprint(make(dict(PRESETS["gatys2015"])), "w")


def test_the_ports_constants_on_this_scale() -> None:
    """The authors' PyTorch port and neural-style, each term as its own code writes it, against the preset's weights."""
    rng = torch.Generator().manual_seed(0)
    n, h, w = 64, 6, 9
    f, p, a = (torch.rand(1, n, h, w, generator=rng) for _ in range(3))
    target = gram(a)
    port, lua = PRESETS["gatys-pytorch"], PRESETS["johnson"]
    flat, other = f.view(n, h * w), a.view(n, h * w)

    ours = port["content_weight"] * content_loss(f, p, "mean")
    assert float(ours) == pytest.approx(float(F.mse_loss(f, p)), rel=1e-5)
    theirs = 1e3 / n**2 * F.mse_loss(flat @ flat.T / (h * w), other @ other.T / (h * w))
    ours = port["style_weight"] * port["style_layer_weights"][0] * style_loss(f, target)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)

    assert float(lua["content_weight"] * content_loss(f, p, "mean")) == pytest.approx(5 * float(F.mse_loss(f, p)), rel=1e-5)
    theirs = 1e2 * F.mse_loss(flat @ flat.T / flat.numel(), other @ other.T / other.numel())
    ours = lua["style_weight"] * lua["style_layer_weights"][0] * style_loss(f, target)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)

    x = torch.rand(1, 3, 384, 512, generator=rng)
    pixels = 255 * x
    theirs = 1e-3 / 2 * (pixels.diff(dim=2).square().sum() + pixels.diff(dim=3).square().sum())
    assert float(lua["tv_weight"] * tv_loss(x, "mean")) == pytest.approx(float(theirs), rel=0.02)


def test_a_preset_runs() -> None:
    from nstray.engine.api import stylize

    shallow = {"content_layers": "conv2_1", "style_layers": "conv1_1,conv2_1", "style_layer_weights": "1,2", "evaluations": 3}
    config = make({"preset": "johnson", **shallow}).engine()
    (result,) = stylize([picture(1)], [picture(2)], config, weights=weights(), device="cpu")
    assert np.isfinite(result.loss_total)
