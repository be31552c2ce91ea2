"""Students: what is learned, what a checkpoint keeps, and what fidelity measures."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from nets import picture, relative
from torch import Tensor

from nstray.engine.network.distil import Distillation, draw_crops
from nstray.engine.network.fidelity import fidelity, positions_by_filter, regression
from nstray.engine.network.normalise import normalise, without_rare
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.recipe import Recipe
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.network.weights import VGGWeights
from nstray.engine.optim.muon import Muon, orthogonalised
from nstray.engine.settings import CONV_LAYERS
from nstray.errors import WeightsError

RECIPE = Recipe(widths=(6, 8, 8, 8, 8), layers=("conv1_1", "conv2_1"), steps=60, crops=2, side=32)


def teacher() -> VGGWeights:
    return random_weights(CONV_LAYERS[:4], seed=3, widths=(12, 16, 4, 4, 4))


def pictures(seed: int = 0, number: int = 6) -> list[Tensor]:
    return [(picture(seed + i, 40, 48) * 255).round().to(torch.uint8) for i in range(number)]


def begun(recipe: Recipe = RECIPE) -> Distillation:
    sample = torch.cat([draw_crops(pictures(), recipe, -1 - i) for i in range(4)])
    return Distillation(teacher(), recipe, "max", sample)


def trained(state: Distillation, until: int) -> Distillation:
    while state.step_number < until:
        state.step(draw_crops(pictures(), state.recipe, state.step_number))
    return state


def judge(student: VGGWeights) -> dict[str, float]:
    found = fidelity(teacher(), student, "max", RECIPE.layers, pictures(), pictures(50, 3))
    return {layer: f.variance for layer, f in found.items()}


def test_a_student_learns() -> None:
    state = begun()
    before = judge(state.weights())
    after = judge(trained(state, RECIPE.steps).weights())
    assert after["conv1_1"] > before["conv1_1"] + 0.02
    assert after["conv2_1"] > before["conv2_1"] + 0.05
    made = state.weights()
    assert made.layers == ("conv1_1", "conv1_2", "conv2_1")  # nothing behind the deepest feature
    assert made.widths == {"conv1_1": 6, "conv1_2": 6, "conv2_1": 8}
    assert (made.input, made.padding, made.pooling) == ("rgb", "zero", "max")


def test_the_students_features_are_those_of_its_weights() -> None:
    state = trained(begun(), 3)
    x = picture(9, 32, 32)[None]
    with torch.no_grad():
        theirs = state.student(x)["conv2_1"]
        ours = VGGFeatures(state.weights(), ("conv2_1",), "max")(x, ("conv2_1",))["conv2_1"]
    assert relative(ours, theirs) < 1e-5


def test_a_checkpoint_goes_on_to_the_same_student() -> None:
    straight = trained(begun(), 12).weights()
    stream = io.BytesIO()
    torch.save(trained(begun(), 5).state(), stream)
    stream.seek(0)
    resumed = begun()
    resumed.restore(torch.load(stream, weights_only=True))
    assert resumed.step_number == 5
    made = trained(resumed, 12).weights()
    assert all(relative(made.tensors[k], v) < 1e-5 for k, v in straight.tensors.items())


def test_a_teacher_that_lacks_layers_gives_those_it_has() -> None:
    recipe = dataclasses.replace(RECIPE, layers=("conv1_1", "conv2_1", "conv4_2"))
    assert begun(recipe).taps == ("conv1_1", "conv2_1")
    with pytest.raises(WeightsError, match=r"hold conv1_1 to conv2_2, and none of conv4_2"):
        begun(dataclasses.replace(RECIPE, layers=("conv4_2",)))


def test_dead_filters_are_not_imitated() -> None:
    tensors = dict(teacher().tensors)
    tensors["conv1_1.weight"] = tensors["conv1_1.weight"].clone()
    tensors["conv1_1.bias"] = tensors["conv1_1.bias"].clone()
    tensors["conv1_1.weight"][2], tensors["conv1_1.bias"][2] = 0, -1
    sample = draw_crops(pictures(), RECIPE, 0)
    made = Distillation(dataclasses.replace(teacher(), tensors=tensors), RECIPE, "max", sample)
    assert 2 not in made.alive["conv1_1"].tolist()
    assert len(made.alive["conv1_1"]) == 11


def test_crops_are_those_of_their_step() -> None:
    first, again, other = (draw_crops(pictures(), RECIPE, step) for step in (7, 7, 8))
    assert first.shape == (2, 3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= float(first.min()) < float(first.max()) <= 1


def test_some_crops_are_noisy() -> None:
    """White noise differs most between neighbours; the pictures are soft."""

    def roughness(noisy: float) -> float:
        recipe = dataclasses.replace(RECIPE, noisy=noisy, crops=16)
        crops = draw_crops(pictures(), recipe, 1)
        return float((crops[..., 1:] - crops[..., :-1]).square().mean())

    assert roughness(1.0) > 1.5 * roughness(0.0)


def test_filters_that_hardly_fire_are_removed() -> None:
    given = teacher()
    tensors = {name: tensor.clone() for name, tensor in given.tensors.items()}
    for kind in ("weight", "bias"):
        tensors[f"conv1_2.{kind}"][3] *= 1e-4
    given = dataclasses.replace(given, tensors=tensors)
    made = without_rare(given, normalise(given, pictures(), "max").means, 1e-3)
    assert not made.tensors["conv1_2.weight"][3].any()
    assert not made.tensors["conv1_2.bias"][3].any()
    assert not made.tensors["conv2_1.weight"][:, 3].any()
    assert made.tensors["conv1_2.weight"][4].any()
    x = picture(9, 32, 32)[None]
    before, after = (VGGFeatures(w, ("conv2_2",), "max")(x, ("conv2_2",))["conv2_2"] for w in (given, made))
    assert relative(after, before) < 1e-3
    # given.tensors are its own still
    assert given.tensors["conv1_2.weight"][3].any()


def test_fidelity_is_one_for_a_network_that_holds_the_teacher() -> None:
    """Filters in another order and scale, and one more: a regression undoes it."""
    given = teacher().up_to(["conv1_1"])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    tensors = {
        "conv1_1.weight": torch.cat([given.tensors["conv1_1.weight"][order] * 3, torch.ones(1, 3, 3, 3)]),
        "conv1_1.bias": torch.cat([given.tensors["conv1_1.bias"][order] * 3, torch.ones(1)]),
    }
    found = fidelity(given, dataclasses.replace(given, tensors=tensors), "max", ("conv1_1",), pictures(), pictures(50, 2))
    assert found["conv1_1"].variance == pytest.approx(1, abs=1e-3)
    assert found["conv1_1"].gram == pytest.approx(0, abs=5e-3)


def test_fidelity_is_zero_for_a_network_that_says_nothing() -> None:
    given = teacher().up_to(["conv1_1"])
    tensors = {"conv1_1.weight": torch.zeros(2, 3, 3, 3), "conv1_1.bias": torch.ones(2)}
    found = fidelity(given, dataclasses.replace(given, tensors=tensors), "max", ("conv1_1",), pictures(), pictures())
    assert found["conv1_1"].variance == pytest.approx(0, abs=1e-3)
    assert found["conv1_1"].gram > 0.05


def test_a_regression_finds_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(0)
    x, matrix, offset = torch.randn(500, 5, generator=generator), torch.randn(3, 5, generator=generator), torch.randn(3, generator=generator)
    found = regression(x, x @ matrix.T + offset)
    assert relative(found[0], matrix) < 1e-3
    assert relative(found[1], offset) < 1e-3


def test_positions_by_filter() -> None:
    x = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)
    assert positions_by_filter(x).tolist()[:2] == [[0, 4, 8], [1, 5, 9]]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_orthogonalised_keeps_directions_and_levels_their_size(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalised(matrix)
    values = torch.linalg.svdvals(made)
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert relative(made, u @ v) < 0.3


def test_muon_steps_down() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)))
    goal = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = (weight - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
