"""The rules of the engine's settings, each in one place."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from nstray.engine.settings import CONV_LAYERS, StylizeConfig, canonical_layer, check, check_terms


def test_vgg19_has_sixteen_convolutions() -> None:
    assert len(CONV_LAYERS) == 16
    assert CONV_LAYERS[0] == "conv1_1"
    assert CONV_LAYERS[9] == "conv4_2"
    assert CONV_LAYERS[-1] == "conv5_4"


@pytest.mark.parametrize(
    ("written", "canonical"),
    [("conv4_2", "conv4_2"), ("relu4_2", "conv4_2"), (" conv1_1 ", "conv1_1"), ("pre:conv5_4", "pre:conv5_4")],
)
def test_spellings_of_a_layer(written: str, canonical: str) -> None:
    assert canonical_layer(written) == canonical


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("conv4_5", "no layer 'conv4_5'; did you mean conv4_"),
        ("conv_4_2", "did you mean conv4_2"),
        ("pre:relu4_2", "no layer 'pre:relu4_2'"),
        ("pool3", "no layer 'pool3'"),
        ("", "no layer ''"),
    ],
)
def test_layers_vgg19_does_not_have(written: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        canonical_layer(written)


def test_lists_of_layers() -> None:
    assert check("style_layers", "relu1_1, conv2_1,") == ("conv1_1", "conv2_1")
    assert check("content_layers", ["relu4_2"]) == ("conv4_2",)
    assert check("content_layers", ()) == ()
    with pytest.raises(ValueError, match="named twice: conv4_2, conv4_2"):
        check("content_layers", ["conv4_2", "relu4_2"])
    assert check("content_layers", ["pre:conv4_2", "conv4_2"]) == ("pre:conv4_2", "conv4_2")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("pooling", "avg", "one of average, max; got 'avg'"),
        ("loss_scale", "sum", "one of mean, paper"),
        ("optimizer", "sgd", "one of lbfgs, lbfgs-spectral, adam"),
        ("dtype", "float16", "one of float32, bfloat16, auto"),
        ("content_weight", -1.0, "at least 0"),
        ("style_weight", float("nan"), "finite"),
        ("tv_weight", float("inf"), "finite"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", float("inf"), "finite"),
        ("evaluations", 0, "from 1 to 1000000; got 0"),
        ("evaluations", 2.5, "whole number"),
        ("evaluations", True, "whole number"),
        ("batch_size", 0, "from 1 to 4096"),
        ("seed", -1, "from 0 to 9223372036854775807"),
        ("seed", 2**63, "from 0 to"),
        ("init", "nosie", "did you mean noise"),
        ("init", "", "content, content-matched, noise, style"),
        ("init", 3, "content, content-matched, noise, style"),
        ("style_layer_weights", "1,-1", "at least 0"),
        ("style_layer_weights", "0,0", "not all be 0"),
        ("coarse", "128", "SIDE:EVALUATIONS"),
        ("coarse", "128:10,64:10", "must grow"),
        ("coarse", "100%:10", "SIDE:EVALUATIONS"),
        ("coarse", "50%:10,300:10", "all be pixels or all per cent"),
        ("coarse", "atuo", "none, auto, half, sqrt2"),
        ("color", "luma", "style, luminance, match"),
        ("color_match", "pac", "cholesky, pca, symmetric"),
    ],
)
def test_values_that_are_refused(name: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check(name, value)
    with pytest.raises(ValueError, match=f"^{name}: .*{text}"):
        StylizeConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "canonical"),
    [
        ("evaluations", 10.0, 10),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("content_weight", 0, 0.0),
        ("init", "s3://bucket/start.png", "s3://bucket/start.png"),
        ("init", "start.png", "start.png"),
    ],
)
def test_values_that_are_taken(name: str, value: Any, canonical: Any) -> None:
    assert check(name, value) == canonical
    assert type(check(name, value)) is type(canonical)


def test_something_must_be_left_to_optimise() -> None:
    check_terms(0.0, 1.0, (), ("conv1_1",))
    check_terms(1.0, 0.0, ("conv4_2",), ())
    for terms in [(0.0, 0.0, ("conv4_2",), ("conv1_1",)), (1.0, 1.0, (), ()), (0.0, 1.0, ("conv4_2",), ())]:
        with pytest.raises(ValueError, match="nothing to optimise"):
            check_terms(*terms)
    with pytest.raises(ValueError, match="nothing to optimise"):
        StylizeConfig(content_weight=0, style_layers=())


def test_a_config_is_canonical_and_frozen() -> None:
    c = StylizeConfig(content_layers="relu3_1", style_layers=["relu1_1"], evaluations=7.0)  # type: ignore[arg-type]
    assert c == StylizeConfig(content_layers=("conv3_1",), style_layers=("conv1_1",), evaluations=7)
    with pytest.raises(FrozenInstanceError):
        c.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", [None, "many", [1], {}])
def test_values_of_another_type_name_the_setting(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^evaluations: "):
        StylizeConfig(evaluations=value)
