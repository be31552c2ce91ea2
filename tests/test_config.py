"""The job's settings: read once, checked once, named when wrong; and the fingerprint that says what they decide."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nstray.commands.config_file import load
from nstray.config import ROW_FIELDS, RUN_FIELDS, JobConfig, check_size, differences, fingerprint, make, row_adapter
from nstray.engine.settings import StylizeConfig
from nstray.errors import ConfigError


def test_defaults_are_the_engines() -> None:
    assert JobConfig().engine() == StylizeConfig()
    for field in fields(StylizeConfig):
        assert getattr(JobConfig(), field.name) == getattr(StylizeConfig(), field.name)


def test_every_field_is_described() -> None:
    assert [name for name, field in JobConfig.model_fields.items() if not field.description] == []


def test_the_engine_gets_what_was_set() -> None:
    c = make(
        {"content_layers": "relu3_1", "style_layers": "conv1_1,relu2_1", "evaluations": "40", "init": "noise", "style_weight": "1e4", "size": 64}
    )
    assert c.engine() == StylizeConfig(
        content_layers=("conv3_1",), style_layers=("conv1_1", "conv2_1"), evaluations=40, init="noise", style_weight=1e4
    )


def test_a_job_is_frozen() -> None:
    with pytest.raises(ValidationError):
        JobConfig().size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"evaluation": 3}, "evaluation: no such setting; did you mean evaluations"),
        ({"zzz": 3}, "zzz: no such setting$"),
        ({"preset": "gatys2051"}, "preset: no such preset: 'gatys2051'.*did you mean gatys201"),
        ({"style_layer_weights": "1,2"}, "style_layer_weights: 2 weights for 5 style_layers"),
        ({"coarse": "256:100,128:100"}, "coarse: the sides of the stages must grow"),
        ({"style_scale": 0}, "style_scale: "),
        ({"evaluations": 0}, "evaluations: must be a whole number from 1"),
        ({"evaluations": "many"}, "evaluations: "),
        ({"pooling": "avg"}, "pooling: "),
        ({"content_layers": "conv9_1"}, "content_layers: VGG-19 has no layer 'conv9_1'"),
        ({"size": 0}, "size: each side must be from 1 to 65536"),
        ({"size": "big"}, "size: must be a number of pixels .512., original .each picture's own size. or WIDTHxHEIGHT"),
        ({"size": True}, "size: must be a number"),
        ({"size": "640x480"}, "size '640x480' needs size_rule exact"),
        ({"size_rule": "biggest"}, "size_rule: "),
        ({"image_format": "gif"}, "image_format: "),
        ({"quality": 90}, "quality has no meaning for png"),
        ({"quality": 101, "image_format": "jpeg"}, "quality: "),
        ({"max_error_rate": 1.5}, "max_error_rate: "),
        ({"depth": 0}, "depth: "),
        ({"shard_size": 0}, "shard_size: must be auto or from 1 to 65536 pairs; got 0"),
        ({"shard_size": "65537"}, "shard_size: must be auto or from 1 to 65536 pairs; got '65537'"),
        ({"shard_size": True}, "shard_size: must be auto or from 1 to 65536 pairs; got True"),
        ({"shard_size": "few"}, "shard_size: must be auto or from 1 to 65536 pairs; got 'few'"),
        ({"gpus_per_actor": 0}, "gpus_per_actor: "),
        ({"content_weight": 0, "style_weight": 0}, "nothing to optimise"),
        ({"style_weight": "nan"}, "style_weight: .*finite"),
        ({"device": "tpu"}, "device: "),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make(values)


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"device": "gpu"}, "cuda"),
        ({"device": "GPU"}, "cuda"),
        ({"device": "cdua"}, "cuda"),
        ({"pooling": "mean"}, "average"),
        ({"dtype": "bf16"}, "bfloat16"),
        ({"dtype": "fp32"}, "float32"),
        ({"image_format": "jpg"}, "jpeg"),
        ({"column_types": "label=int"}, "int64"),
        ({"column_types": {"label": "Integer"}}, "int64"),
        ({"column_types": "label=float"}, "float64"),
        ({"column_types": "label=double"}, "float64"),
        ({"column_types": "label=str"}, "string"),
        ({"column_types": "label=text"}, "string"),
        ({"column_types": "label=boolean"}, "bool"),
        ({"column_types": "label=datetime"}, "timestamp[us]"),
        ({"column_types": "label=date"}, "date32"),
        ({"column_types": "label=int_8"}, "int8"),
    ],
)
def test_a_word_of_other_programs_is_given_its_name_here(values: dict[str, Any], meant: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(values)
    assert str(error.value).endswith(f"did you mean {meant}?")


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        make({"depth": 0, "pooling": "avg", "evalutions": 3})
    assert all(name in str(error.value) for name in ("depth: ", "pooling: ", "evalutions: ", "did you mean evaluations"))


@pytest.mark.parametrize(("given", "canonical"), [(512, 512), ("512", 512), (" 640X480 ", "640x480")])
def test_sizes(given: Any, canonical: int | str) -> None:
    assert make({"size": given, "size_rule": "exact"}).size == canonical


def test_check_size() -> None:
    check_size(512, "area")
    check_size("640x480", "exact")
    with pytest.raises(ValueError, match="needs size_rule exact"):
        check_size("640x480", "longest")


def test_a_file_with_overrides_on_top(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("style-layers: conv1_1,conv2_1\nsize: 256\nevaluations: 30\n")
    c = load(str(path), [("size", 128)])
    assert (c.size, c.evaluations, c.style_layers) == (128, 30, ("conv1_1", "conv2_1"))
    path.write_text("style_layers: [conv1_1]\n")
    assert load(str(path)).style_layers == ("conv1_1",)
    path.write_text("# nothing set\n")
    assert load(str(path)) == load(None) == JobConfig()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"size: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- size\n- 3\n", "expected lines of 'name: value', got list"),
        (b"just words", "expected lines of 'name: value', got str"),
        (b"sise: 3", "sise: no such setting; did you mean size"),
        (b"3: 4", "3: no such setting"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=text):
        load(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml: No such file"):
        load(str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match="directory"):
        load(str(tmp_path))


def test_the_fingerprint_follows_what_decides_the_results() -> None:
    base = fingerprint(JobConfig(), "w")
    assert len(base) == 64
    assert fingerprint(JobConfig(), "w") == base
    assert fingerprint(JobConfig(), "other weights") != base
    assert fingerprint(make({"style_layers": "relu1_1,conv2_1,conv3_1,conv4_1,conv5_1"}), "w") == base  # another spelling
    assert fingerprint(make({"weights": "another/path/of/the/same.pth"}), "w") == base  # the id says which weights
    other: dict[str, Any] = {
        "weights_input": "bgr",
        "pooling": "max",
        "content_layers": "conv3_1",
        "style_layers": "conv1_1",
        "content_weight": 2,
        "style_weight": 2,
        "tv_weight": 2,
        "loss_scale": "paper",
        "init": "noise",
        "style_layer_weights": "1,2,3,4,5",
        "coarse": "auto",
        "color": "match",
        "color_match": "pca",
        "style_scale": 2,
        "max_side": 1024,
        "style_statistic": "mean-std",
        "fine_layers": "conv1_1",
        "value_range": "free",
        "range_weight": 1,
        "seed": 1,
        "optimizer": "adam",
        "learning_rate": 0.5,
        "evaluations": 3,
        "dtype": "bfloat16",
        "size": 64,
        "size_rule": "area",
        "upsample": True,
        "max_bytes": 5,
        "max_pixels": 5,
        "image_format": "webp",
    }
    for name, value in other.items():
        weights = {"weights": "a.pth"} if name == "weights_input" else {}
        assert fingerprint(make({name: value, **weights}), "w") != base, name
    assert fingerprint(JobConfig(), "w", "sha256:of a start") != base
    with pytest.raises(ConfigError, match="weights_input is for a file of weights"):
        make({"weights": "random", "weights_input": "bgr"})
    assert fingerprint(make({"image_format": "webp", "quality": 80}), "w") != fingerprint(make({"image_format": "webp"}), "w")
    free: dict[str, Any] = {
        "allow_local": True,
        "batch_size": 3,
        "tile_size": 256,
        "device": "cpu",
        "actors": 3,
        "gpus_per_actor": 0.5,
        "cpus_per_actor": 2,
        "depth": 3,
        "stall_timeout": 5,
        "max_error_rate": 0.5,
        "allow_remote": "gs",
        "request_payer": True,
        "preset": None,
    }
    assert set(free) == set(RUN_FIELDS)
    free |= {"column_types": "label=int64", "shard_size": 3}
    assert set(other) | set(free) | {"weights", "quality"} == set(JobConfig.model_fields)  # a new setting must be put on one side
    for name, value in free.items():
        assert fingerprint(make({name: value}), "w") == base, name


def test_differences_name_both_sides() -> None:
    old, new = JobConfig().result_fields(), make({"size": 256, "init": "noise"}).result_fields()
    assert differences(old, old) == []
    assert differences(old, new) == ["init: 'content' there, 'noise' here", "size: 512 there, 256 here"]
    assert differences({"a": 1}, {}) == ["a: 1 there, 'absent' here"]


@pytest.mark.parametrize("name", ROW_FIELDS)
def test_a_column_of_overrides_obeys_the_fields_own_rule(name: str) -> None:
    good: dict[str, Any] = {"seed": 5, "init": "noise", "size": 64, "size_rule": "area", "evaluations": 9}
    good |= {"content_layers": ("conv1_1",), "style_layers": ("conv1_1", "conv2_1"), "style_layer_weights": (1.0, 2.0)}
    good |= {
        "coarse": "auto",
        "color": "match",
        "color_match": "pca",
        "style_statistic": "gram",
        "fine_layers": ("conv1_1",),
        "value_range": "clamped",
    }
    bad: dict[str, Any] = {"seed": -1, "init": "nosie", "size": 0, "size_rule": "huge", "evaluations": 0}
    bad |= {"content_layers": "conv9_1", "style_layers": "conv1", "style_layer_weights": "-1", "coarse": "5", "color": "red", "color_match": "x"}
    bad |= {"style_statistic": "grams", "fine_layers": "conv1", "value_range": "clipped"}
    value = good.get(name, 0.5)
    assert row_adapter(name).validate_python([value, value]) == [value, value]
    with pytest.raises(ValidationError) as error:
        row_adapter(name).validate_python([value, bad.get(name, -1.0)])
    assert error.value.errors()[0]["loc"][0] == 1  # it says which row
