"""Networks of any widths and either border: the right features, the right gradients, and what their files say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from nets import pair, picture, relative
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from nstray.engine import StylizeConfig, Stylizer, stylize
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.network.weight_files import load_weights, parse_weights, to_safetensors
from nstray.engine.network.weights import VGGWeights
from nstray.engine.settings import CONV_LAYERS
from nstray.errors import WeightsError

COMPRESSED = Path(__file__).parents[2].parent / "shared/data/weights/vgg19-compressed16x.safetensors"
TEN = CONV_LAYERS[:9]
LAYERS = {"content_layers": ("conv3_2",), "style_layers": ("conv1_1", "conv2_1", "conv3_1", "conv4_1")}


def narrow(padding: str = "zero", layers: tuple[str, ...] = TEN) -> VGGWeights:
    """Conv1_1 to conv4_1 with 4, 6, 5 and 7 filters a block."""
    return dataclasses.replace(random_weights(layers, widths=(4, 6, 5, 7, 3)), padding=padding)


def plain(made: VGGWeights, x: Tensor, padding: str) -> dict[str, Tensor]:
    """The features of x (1, 3, H, W) over 0..1 by torch's own functions, float64, average pooling."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x.double() - mean.double().view(1, 3, 1, 1)) / std.double().view(1, 3, 1, 1)
    out = {}
    for layer in made.layers:
        if layer.endswith("_1") and layer != "conv1_1":
            x = F.avg_pool2d(x, 2)
        x = F.pad(x, (1, 1, 1, 1), mode="reflect") if padding == "reflect" else F.pad(x, (1, 1, 1, 1))
        out[layer] = x = F.relu(F.conv2d(x, made.tensors[f"{layer}.weight"].double(), made.tensors[f"{layer}.bias"].double()))
    return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_features_and_their_gradients(padding: str, dtype: str) -> None:
    made = narrow(padding)
    x = picture(3, 37, 42)[None].requires_grad_()
    y = x.detach().clone().requires_grad_()
    taps = ("conv1_1", "conv2_2", "conv4_1")
    ours, theirs = VGGFeatures(made, taps, "average", dtype)(x, taps), plain(made, y, padding)
    assert {tap: f.shape for tap, f in ours.items()} == {tap: theirs[tap].shape for tap in taps}
    tolerance = 1e-5 if dtype == "float32" else 0.06
    for tap in taps:
        assert relative(ours[tap], theirs[tap]) < tolerance
    sum(ours[tap].float().square().sum() for tap in taps).backward()
    sum(theirs[tap].square().sum() for tap in taps).backward()
    assert relative(x.grad, y.grad) < tolerance


def test_the_two_borders_differ() -> None:
    x = picture(3, 24, 24)[None]
    with torch.no_grad():
        zero, reflect = (VGGFeatures(narrow(p), ("conv4_1",), "average")(x, ("conv4_1",))["conv4_1"] for p in ("zero", "reflect"))
    assert relative(zero, reflect) > 0.05


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_tiles_give_the_same_losses_and_gradient(padding: str) -> None:
    """A tile's margin hides how its own border is treated."""
    configs = [StylizeConfig(**LAYERS, tile_size=side) for side in (0, 64)]
    found = []
    for config in configs:
        made = Stylizer(config, narrow(padding))
        task = dataclasses.replace(pair(5), content=picture(5, 150, 170), styles=[picture(6, 140, 130)])
        contents = task.content[None]
        found.append(made.objective([task], contents).evaluate(picture(7, 150, 170)[None]))
    for whole, tiled in zip(found[0], found[1], strict=True):
        assert relative(tiled, whole) < 1e-4


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_a_file_keeps_widths_and_conventions(padding: str) -> None:
    made = dataclasses.replace(narrow(padding), pooling="max")
    back = parse_weights(to_safetensors(made), "f")
    assert (back.padding, back.pooling, back.input, back.widths) == (padding, "max", "rgb", made.widths)
    assert back.widths == {**dict.fromkeys(("conv1_1", "conv1_2"), 4), **dict.fromkeys(("conv2_1", "conv2_2"), 6),
                           **dict.fromkeys(("conv3_1", "conv3_2", "conv3_3", "conv3_4"), 5), "conv4_1": 7}  # fmt: skip
    assert all(torch.equal(back.tensors[k], v) for k, v in made.tensors.items())
    assert back.up_to(["conv2_1"]).padding == padding


def test_filters_of_a_block_may_differ() -> None:
    made = random_weights(TEN[:2], widths=(4, 4, 4, 4, 4))
    more = {**made.tensors, "conv2_1.weight": torch.ones(9, 4, 3, 3), "conv2_1.bias": torch.zeros(9)}
    assert parse_weights(save(more, {"input": "rgb"}), "f").widths == {"conv1_1": 4, "conv1_2": 4, "conv2_1": 9}


def state() -> dict[str, Tensor]:
    return dict(narrow().tensors)


@pytest.mark.parametrize(
    ("changes", "metadata", "text"),
    [
        (
            {"conv2_1.weight": torch.zeros(6, 5, 3, 3)},
            {},
            r"conv2_1 has shape \(6, 5, 3, 3\) .*behind the 4 channels of conv1_2 VGG-19 has \(N, 4, 3, 3\)",
        ),
        ({"conv2_1.weight": torch.zeros(6, 4, 5, 5)}, {}, r"conv2_1 has shape \(6, 4, 5, 5\)"),
        ({"conv1_1.weight": torch.zeros(4, 1, 3, 3)}, {}, r"conv1_1 has shape .*behind the 3 channels of the picture"),
        ({"conv3_1.bias": torch.zeros(())}, {}, r"conv3_1 has shape .* and bias \(\)"),
        ({"conv3_1.bias": torch.zeros(0), "conv3_1.weight": torch.zeros(0, 6, 3, 3)}, {}, "conv3_1 has shape"),
        ({}, {"padding": "mirror"}, "its metadata says padding 'mirror'; there are zero and reflect"),
        ({}, {"pooling": "mean"}, "its metadata says pooling 'mean'; there are average and max"),
        ({"conv1_1.running_mean": torch.zeros(4)}, {}, "batch normalisation"),
    ],
)
def test_what_is_no_narrow_vgg(changes: dict[str, Tensor], metadata: dict[str, str], text: str) -> None:
    with pytest.raises(WeightsError, match=text) as error:
        parse_weights(save({**state(), **changes}, metadata), "some/file")
    assert "some/file" in str(error.value)


def test_a_gap_is_named() -> None:
    tensors = {k: v for k, v in state().items() if not k.startswith("conv3_2")}
    made = parse_weights(save(tensors), "part")
    with pytest.raises(WeightsError, match=r"hold conv1_1 to conv3_1 \(conv3_2 is missing, deeper ones are there\)"):
        made.require(["conv4_1"])


def distillation_names(pixel: bool = True) -> dict[str, Tensor]:
    """The narrow network under the names of Collaborative Distillation, with read-outs and a conv0."""
    generator = torch.Generator().manual_seed(0)
    out = {f"conv{k.split('.')[0][4:].replace('_', '')}.{k.split('.')[1]}": v for k, v in state().items()}
    out["conv11_aux.weight"] = torch.zeros(64, 4, 1, 1)
    if pixel:
        out |= {"conv0.weight": torch.randn(3, 3, 1, 1, generator=generator), "conv0.bias": torch.randn(3, generator=generator)}
    return out


def test_conv0_is_folded_exactly() -> None:
    given = distillation_names()
    made = parse_weights(save(given), "f")
    assert (made.input, made.padding, made.pooling) == ("rgb", "reflect", "max")
    x = picture(1, 20, 26)[None]
    y = F.conv2d(x.double(), given["conv0.weight"].double(), given["conv0.bias"].double())
    y = F.relu(F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), given["conv11.weight"].double(), given["conv11.bias"].double()))
    assert relative(VGGFeatures(made, ("conv1_1",), "max")(x, ("conv1_1",))["conv1_1"], y) < 1e-5


def test_such_an_encoder_without_conv0_is_refused() -> None:
    with pytest.raises(WeightsError, match="no conv0, which maps the pixels"):
        parse_weights(save(distillation_names(pixel=False)), "f")
    broken = {**distillation_names(), "conv0.weight": torch.zeros(3, 4, 1, 1)}
    with pytest.raises(WeightsError, match=r"conv0 has shape \(3, 4, 1, 1\)"):
        parse_weights(save(broken), "f")


@pytest.mark.skipif(not COMPRESSED.exists(), reason="needs the compressed network beside the checkout")
def test_the_compressed_network_gives_the_features_of_its_own_layers() -> None:
    made, given = load_weights(str(COMPRESSED)), load_file(COMPRESSED)
    taps = ("conv1_1", "conv3_1", "conv5_1")
    x = picture(2, 64, 80)[None]
    ours = VGGFeatures(made, taps, "max")(x, taps)
    y = F.conv2d(x, given["conv0.weight"], given["conv0.bias"])
    for layer in made.layers:
        if layer.endswith("_1") and layer != "conv1_1":
            y = F.max_pool2d(y, 2)
        name = f"conv{layer[4]}{layer[6]}"
        y = F.relu(F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), given[f"{name}.weight"], given[f"{name}.bias"]))
        if layer in taps:
            assert relative(ours[layer], y) < 1e-5
    assert made.widths["conv5_1"] == 128


def test_the_least_side_is_the_networks() -> None:
    """conv4_1 needs 8 pixels, and 16 if borders are reflected; one less is refused, in every stage."""
    for padding, least in (("zero", 8), ("reflect", 16)):
        made = Stylizer(StylizeConfig(**LAYERS, evaluations=2, coarse="50%:1"), narrow(padding))
        small = dataclasses.replace(pair(1), content=picture(1, least, 40), styles=[picture(2, 40, least)])
        assert made.run([small])[0].image.shape == (3, least, 40)
        with pytest.raises(ValueError, match=f"at least {least} a side"):
            made.run([dataclasses.replace(small, content=picture(1, least - 1, 40))])
        with pytest.raises(ValueError, match=f"at least {least} a side"):
            made.run([dataclasses.replace(small, styles=[picture(1, 40, least - 1)])])


def test_another_pooling_than_its_own_is_said() -> None:
    own = dataclasses.replace(narrow(), pooling="max")
    config = StylizeConfig(**LAYERS, evaluations=1)
    with pytest.warns(UserWarning, match=r"made for max pooling, and used with average; --pooling max"):
        stylize([picture(1)], [picture(2)], config, weights=own, device="cpu")


def test_the_same_metadata_gives_the_same_bytes_and_zero_is_left_out() -> None:
    data = to_safetensors(narrow())
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert head == {"input": "rgb"}
