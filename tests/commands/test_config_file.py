"""nstray.commands.config_file: settings as YAML, within bounds; what is wrong names the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nstray.commands.config_file import load
from nstray.errors import ConfigError

LAUGHS = "a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 20)}]}}\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def problem(path: Path, text: str | bytes, **options: object) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(str(path), options.items())
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases (*name) stand for more than a mebibyte of text"),
        (MERGES, "aliases (*name) stand for more than a mebibyte of text"),
        ("size: &a [*a]\n", "aliases (*name) stand for more than a mebibyte of text"),
        ("size: " + "[" * 100_000, "nested too deeply"),
        ("# " + "x" * 2**20 + "\nsize: 64\n", "more than 1,048,576 bytes; is it a file of settings?"),
        ("size: 64\nseed: 1\nsize: 32\n", "size is set twice, in line 1 and in line 3; keep one of them"),
        ("max-bytes: 64\nmax_bytes: 32\n", "max_bytes is set twice, in line 1 and in line 2"),
        ("size: 64\n'size': 64\n", "size is set twice, in line 1 and in line 2"),
        ("seed: {a: 1,\n a: 2}\n", "a is set twice, in line 1 and in line 2"),
        ("seed: 2026-13-45\n", "not YAML: month must be in 1..12"),
        ("- size\n", "expected lines of 'name: value', got list"),
        ("size: [1\n", "is not YAML: expected ',' or ']'"),
        ("seed: !!python/name:os.system\n", "could not determine a constructor"),
        (b"size: \xff\n", "is not YAML: invalid start byte at byte 6"),
        ("size: banana\n", "size: must be a number of pixels (512), original (each picture's own size) or WIDTHxHEIGHT (640x480); got 'banana'"),
        ("sise: 64\n", "sise: no such setting; did you mean size?"),
        ("size: 640x480\n", "size '640x480' needs size_rule exact"),
        ("preset: gatys1915\n", "preset: "),
        ("seed: " + "x" * 100_000 + "\n", "..."),
    ],
    ids=range(19),
)
def test_what_is_wrong_names_the_file(tmp_path: Path, text: str | bytes, said: str) -> None:
    found = problem(tmp_path / "job.yaml", text)
    assert found.startswith(f"--config {tmp_path}/job.yaml")
    assert said in found
    assert len(found) < 1000


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("128:50", "128:50 without quotes is a number of base 60 in YAML; put it in quotes: '128:50'"),
        ("12:30", "12:30 without quotes is a number of base 60"),
        ("12:30.5", "12:30.5 without quotes is a number of base 60"),
        ("1:30:00", "1:30:00 without quotes is a number of base 60"),
        ("[1, -1:30]", "-1:30 without quotes is a number of base 60"),
        ("016", "016 is an octal number in YAML; write it without the 0 in front"),
        ("-0_7", "-0_7 is an octal number in YAML"),
    ],
)
@pytest.mark.parametrize("name", ["coarse", "seed", "size", "style_weight", "style_layer_weights", "column_types"])
def test_a_number_that_yaml_reads_as_another_one_is_refused(tmp_path: Path, name: str, value: str, said: str) -> None:
    found = problem(tmp_path / "job.yaml", f"evaluations: 9\n{name}: {value}\n")
    assert found.startswith(f"--config {tmp_path}/job.yaml: line 2: {said}")


def test_numbers_and_quoted_text_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "coarse: '128:50'\nsize: 0x40\nseed: 0\nstyle_weight: 1_000\ncontent_weight: 0.5\ntv_weight: 00.5\nmax_error_rate: 1.5e-1\nshard_size: 20\n"
    )
    c = load(str(path))
    assert (c.coarse, c.size, c.seed, c.style_weight, c.content_weight, c.tv_weight) == ("128:50", 64, 0, 1000, 0.5, 0.5)
    assert (c.max_error_rate, c.shard_size) == (0.15, 20)


def test_a_wrong_option_does_not_blame_the_file(tmp_path: Path) -> None:
    assert problem(tmp_path / "job.yaml", "size: 64\n", seed="x").startswith("seed: ")
    assert problem(tmp_path / "job.yaml", "size: banana\n", seed=1).startswith("--config ")
    (tmp_path / "job.yaml").write_text("size: banana\n")
    assert load(str(tmp_path / "job.yaml"), {"size": 64}.items()).size == 64  # the option takes its place


def test_a_device_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="--config /dev/zero: more than 1,048,576 bytes"):
        load("/dev/zero")


def test_aliases_and_merges_of_ordinary_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("style-layers: &layers [conv1_1, conv2_1]\ncontent_layers: *layers\nsize: 64\n")
    config = load(str(path))
    assert (config.style_layers, config.content_layers, config.size) == (("conv1_1", "conv2_1"), ("conv1_1", "conv2_1"), 64)
    path.write_text("")
    assert load(str(path)) == load(None)
