"""nstray weights normalise and convert, through the command line: what they write, what they print, and what they refuse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from outputs import picture
from safetensors import safe_open
from safetensors.torch import load, save

from nstray import storage
from nstray.commands import decoded_pictures, weights
from nstray.engine.network.key_names import FEATURE_INDEX
from nstray.engine.network.normalise import normalise
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.vgg import VGGFeatures
from nstray.engine.network.weight_files import load_weights, parse_weights, to_safetensors
from nstray.engine.network.weights import VGGWeights
from nstray.engine.settings import CONV_LAYERS
from nstray.errors import Unreachable
from nstray.images.decode import decode
from nstray.images.encode import encode
from nstray.images.resize import fit

Call = Callable[..., tuple[int, str, str]]


@lru_cache
def network() -> VGGWeights:
    return random_weights(CONV_LAYERS[:3])


def caffe_names() -> dict[str, torch.Tensor]:
    return dict(network().tensors)


def torchvision_names() -> dict[str, torch.Tensor]:
    return {f"features.{FEATURE_INDEX[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in network().tensors.items()}


def pth(state: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path]:
    """Weights, and a folder of three pictures of two sizes, one in a folder of its own."""
    folder = tmp_path / "pictures"
    fill(str(folder))
    (tmp_path / "given.safetensors").write_bytes(to_safetensors(network()))
    return tmp_path / "given.safetensors", folder


def fill(folder: str) -> None:
    for i, path in enumerate(("a.png", "b.PNG", "below/c.png")):
        storage.put_new(storage.join(folder, path), encode(picture(i, 30, 20 + 8 * i), "png"))


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def equal(a: VGGWeights, b: VGGWeights) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(torch.equal(v, b.tensors[k]) for k, v in a.tensors.items())


# normalise


def test_normalise_writes_what_the_engine_makes(call: Call, given: tuple[Path, Path], tmp_path: Path) -> None:
    source, folder = given
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.png").write_bytes(b"macOS")
    code, out, err = call(
        "weights", "normalise", "--weights", source, "--images", folder, "-o", tmp_path / "n.safetensors", "--pooling", "max", "--json"
    )
    left_out = ("1 file with a dot in front: 1 .png", "1 file without an ending of JPEG, PNG or WebP: 1 .txt")
    assert (code, err.splitlines()) == (0, [f"--images {folder}: left out {each}" for each in left_out])
    said = json.loads(out)
    made = load_weights(str(tmp_path / "n.safetensors"))
    pixels = [decode(p.read_bytes(), what="", max_bytes=10**6, max_pixels=10**6) for p in sorted(folder.rglob("[abc].*"))]
    expected = normalise(load_weights(str(source)), pixels, "max")
    assert equal(made, expected.weights)
    assert made.input == "rgb"
    assert metadata(tmp_path / "n.safetensors") == {**expected.metadata, "input": "rgb", "pooling": "max", "size": "512"}
    assert said == {
        "out": str(tmp_path / "n.safetensors"),
        "weights_id": made.id,
        "input": "rgb",
        "padding": "zero",
        "widths": "64-128",
        "layers": "conv1_1 to conv2_1",
        "source_id": load_weights(str(source)).id,
        "pooling": "max",
        "images": 3,
        "skipped": 0,
        "means_before": {k: pytest.approx(float(v.mean()), rel=1e-3) for k, v in expected.means.items()},
        "dead": {},
    }


def test_size_and_limit(call: Call, given: tuple[Path, Path], tmp_path: Path) -> None:
    source, folder = given
    common = ["weights", "normalise", "--weights", source, "--images", folder]
    code, out, _ = call(*common, "-o", tmp_path / "n.safetensors", "--size", 16, "--limit", 2)
    assert code == 0
    assert "images        2\n" in out
    pixels = [
        fit(decode((folder / n).read_bytes(), what="", max_bytes=10**6, max_pixels=10**6), 16, "longest", False, what="") for n in ("a.png", "b.PNG")
    ]
    assert equal(load_weights(str(tmp_path / "n.safetensors")), normalise(network(), pixels).weights)
    assert metadata(tmp_path / "n.safetensors")["size"] == "16"


def test_a_limit_takes_pictures_evenly(given: tuple[Path, Path]) -> None:
    def taken(limit: int | None) -> list[str]:
        return [storage.name(u) for u in decoded_pictures.Pictures(str(given[1]), 16, limit, print).uris]

    assert taken(None) == taken(3) == taken(9) == ["a.png", "b.PNG", "c.png"]
    assert taken(2) == ["a.png", "b.PNG"]
    for name in ("d.png", "e.png", "f.png"):
        (given[1] / name).write_bytes(b"")
    assert taken(3) == ["a.png", "c.png", "e.png"]


def test_pictures_that_cannot_be_used_are_named_skipped_and_counted(call: Call, given: tuple[Path, Path], tmp_path: Path) -> None:
    source, folder = given
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "page.jpg").write_text("<html>404</html>")
    (folder / "dot.png").write_bytes(encode(picture(1, 1, 1), "png"))
    code, out, err = call("weights", "normalise", "--weights", source, "--images", folder, "-o", tmp_path / "n.safetensors", "--json")
    assert code == 0
    assert (json.loads(out)["images"], json.loads(out)["skipped"]) == (3, 3)
    lines = err.splitlines()
    assert [line.startswith("warning: skipped: ") for line in lines] == [True] * 3
    for line, words in zip(lines, [("broken.png", "truncated"), ("dot.png", "1x1", "conv2_1", "2x2"), ("page.jpg", "HTML")], strict=True):
        assert all(word in line for word in words), line


def test_a_minute_gives_a_line(call: Call, given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_pictures, "LINE_EVERY", 0.0)
    _, _, err = call("weights", "normalise", "--weights", given[0], "--images", given[1], "-o", tmp_path / "n.safetensors")
    assert err.splitlines()[-1] == "event=progress done=3 total=3 skipped=0"


def test_normalise_on_s3(call: Call, s3: str, given: tuple[Path, Path], tmp_path: Path) -> None:
    fill(f"{s3}/pictures")
    storage.put_new(f"{s3}/w.safetensors", given[0].read_bytes())
    code, out, err = call(
        "weights", "normalise", "--weights", f"{s3}/w.safetensors", "--images", f"{s3}/pictures", "-o", f"{s3}/n.safetensors", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["out"] == f"{s3}/n.safetensors"
    call("weights", "normalise", "--weights", given[0], "--images", given[1], "-o", tmp_path / "n.safetensors")
    assert storage.read(f"{s3}/n.safetensors") == (tmp_path / "n.safetensors").read_bytes()
    code, _, err = call("weights", "normalise", "--weights", given[0], "--images", f"{s3}/nothing", "-o", tmp_path / "m.safetensors")
    assert (code, f"{s3}/nothing" in err, "no pictures" in err) == (2, True, True)
    code, _, err = call("weights", "normalise", "--weights", given[0], "--images", "s3://no-such-bucket/x", "-o", tmp_path / "m.safetensors")
    assert (code, "no-such-bucket" in err) == (2, True)


def test_a_store_that_is_down_is_not_a_broken_picture(call: Call, given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = storage.read

    def read(uri: str, **options: Any) -> bytes:
        if uri.endswith("b.PNG"):
            raise Unreachable(f"{uri}: no answer")
        return whole(uri, **options)

    monkeypatch.setattr(storage, "read", read)
    code, out, err = call("weights", "normalise", "--weights", given[0], "--images", given[1], "-o", tmp_path / "n.safetensors")
    assert (code, out, err) == (1, "", f"nstray: {given[1]}/b.PNG: no answer\n")
    assert not (tmp_path / "n.safetensors").exists()


# convert


@pytest.mark.parametrize(
    ("names", "option", "convention"),
    [
        (caffe_names, [], "bgr"),
        (torchvision_names, [], "rgb"),
        (caffe_names, ["--input", "rgb"], "rgb"),
        (torchvision_names, ["--input", "bgr"], "bgr"),
        (torchvision_names, ["--input", "auto"], "rgb"),
    ],
    ids=["caffe", "torchvision", "caffe says rgb", "torchvision says bgr", "auto"],
)
def test_convert_keeps_the_network(
    call: Call, tmp_path: Path, names: Callable[[], dict[str, torch.Tensor]], option: list[str], convention: Any
) -> None:
    data = pth({**names(), "classifier.0.weight": torch.zeros(2, 2)})
    (tmp_path / "vgg_conv.pth").write_bytes(data)
    code, out, err = call("weights", "convert", tmp_path / "vgg_conv.pth", "-o", tmp_path / "vgg.safetensors", "--json", *option)
    assert (code, err) == (0, "")
    before = parse_weights(data, "vgg_conv.pth", input=convention)
    made = load_weights(str(tmp_path / "vgg.safetensors"))
    assert made.input == before.input == convention
    assert equal(made, before)
    assert json.loads(out) == {
        "out": str(tmp_path / "vgg.safetensors"),
        "weights_id": made.id,
        "input": convention,
        "padding": "zero",
        "widths": "64-128",
        "layers": "conv1_1 to conv2_1",
        "source_id": before.id,
    }
    assert metadata(tmp_path / "vgg.safetensors") == {"input": convention, "source_id": before.id}
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    taps = ["conv1_1", "conv2_1"]
    ours, theirs = (VGGFeatures(w, taps, "average")(x, taps) for w in (made, before))
    assert all(torch.equal(ours[tap], theirs[tap]) for tap in taps)


def test_what_is_written_can_be_read_again(call: Call, tmp_path: Path, given: tuple[Path, Path]) -> None:
    (tmp_path / "vgg_conv.pth").write_bytes(pth(caffe_names()))
    assert call("weights", "convert", tmp_path / "vgg_conv.pth", "-o", tmp_path / "a.safetensors")[0] == 0
    code, out, _ = call(
        "weights", "normalise", "--weights", tmp_path / "a.safetensors", "--images", given[1], "-o", tmp_path / "b.safetensors", "--json"
    )
    assert (code, json.loads(out)["input"]) == (0, "bgr")
    assert call("weights", "convert", tmp_path / "b.safetensors", "-o", tmp_path / "c.safetensors")[0] == 0
    assert equal(load_weights(str(tmp_path / "b.safetensors")), load_weights(str(tmp_path / "c.safetensors")))
    assert load_weights(str(tmp_path / "c.safetensors")).input == "bgr"


# what is refused


def test_what_is_refused(call: Call, given: tuple[Path, Path], tmp_path: Path) -> None:
    source, folder = given
    empty, text, broken = (tmp_path / name for name in ("empty", "text", "broken"))
    for made in (empty, text, broken):
        made.mkdir()
    (text / "notes.txt").write_text("no picture")
    (broken / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "hello.pth").write_text("hello")
    out = tmp_path / "n.safetensors"
    cases: list[tuple[list[Any], tuple[str, ...]]] = [
        (["--weights", source, "--images", empty], ("empty", "no pictures", "no files lie below it", ".png")),
        (["--weights", source, "--images", text], ("text", "left out 1 file without an ending of JPEG, PNG or WebP: 1 .txt")),
        (["--weights", source, "--images", broken], ("broken", "of 1 picture none can be used", "a.png")),
        (["--weights", source, "--images", tmp_path / "gone"], ("--images", "gone", "no such file or folder")),
        (["--weights", source, "--images", source], ("given.safetensors", "folder")),
        (["--weights", tmp_path / "gone.pth", "--images", folder], ("gone.pth", "no such file")),
        (["--weights", tmp_path / "hello.pth", "--images", folder], ("hello.pth", "hello")),
        (["--weights", "randon", "--images", folder], ("randon", "imagenet, compact, random")),
        (["--weights", source, "--images", folder, "--pooling", "avrage"], ("--pooling", "avrage", "average", "max")),
        (["--weights", source, "--images", folder, "--size", "0"], ("--size",)),
        (["--weights", source, "--images", folder, "--size", "1"], ("--size 1", "conv2_1", "2 pixels")),
        (["--weights", source, "--images", folder, "--limit", "0"], ("--limit",)),
        (["--weights", source], ("--images",)),
    ]
    for words, said in cases:
        code, stdout, err = call("weights", "normalise", *words, "-o", out)
        assert (code, stdout) == (2, ""), (words, err)
        assert "Traceback" not in err
        assert all(word in err for word in said), err
    for words, said in [
        ([tmp_path / "gone.pth"], ("gone.pth", "no such file")),
        ([tmp_path / "hello.pth"], ("hello.pth", "neither .safetensors nor .pth")),
        ([source, "--input", "grb"], ("--input", "grb")),
        (["random", "--input", "bgr"], ("--input bgr", "random is RGB")),
    ]:
        code, stdout, err = call("weights", "convert", *words, "-o", out)
        assert (code, stdout) == (2, ""), (words, err)
        assert all(word in err for word in said), err
    assert not out.exists()


@pytest.mark.parametrize("command", ["normalise", "convert"])
def test_an_output_is_replaced_only_on_demand(call: Call, given: tuple[Path, Path], tmp_path: Path, command: str) -> None:
    source, folder = given
    words = ["weights", command, *(["--weights", source, "--images", folder] if command == "normalise" else [source])]
    out = tmp_path / "n.safetensors"
    out.write_text("mine")
    code, stdout, err = call(*words, "-o", out)
    assert (code, stdout) == (2, "")
    assert f"{out} exists" in err
    assert "--overwrite" in err
    assert out.read_text() == "mine"
    assert call(*words, "-o", out, "--overwrite")[0] == 0
    assert load_weights(str(out)).layers == network().layers
    code, _, err = call(*words, "-o", tmp_path / "n.pth")
    assert (code, ".safetensors" in err) == (2, True)


@pytest.mark.parametrize("command", ["normalise", "convert"])
def test_an_output_that_appears_meanwhile_is_kept(
    call: Call, given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    source, folder = given
    words = ["weights", command, *(["--weights", source, "--images", folder] if command == "normalise" else [source])]
    out = tmp_path / "n.safetensors"
    reading = weights.read_network

    def read(*a: Any) -> VGGWeights:
        out.write_text("theirs")
        return reading(*a)

    monkeypatch.setattr(weights, "read_network", read)
    code, _, err = call(*words, "-o", out)
    assert code == 2
    assert "appeared meanwhile" in err
    assert out.read_text() == "theirs"


GAPS = {"conv1_2.weight": "conv1_2 is missing", "conv1_1.bias": "no conv1_1 in it"}


@pytest.mark.parametrize("command", ["normalise", "convert", "distil"])
@pytest.mark.parametrize("key", GAPS)
def test_a_network_with_a_gap_makes_no_file(call: Call, given: tuple[Path, Path], tmp_path: Path, command: str, key: str) -> None:
    state = load(given[0].read_bytes())
    del state[key]
    (tmp_path / "gap.safetensors").write_bytes(save(state))
    first = {"normalise": ["--weights"], "convert": [], "distil": ["--teacher"]}[command]
    images = [] if command == "convert" else ["--images", given[1]]
    code, _, err = call("weights", command, *first, tmp_path / "gap.safetensors", *images, "-o", tmp_path / "made.safetensors")
    assert (code, GAPS[key] in err, "gap.safetensors" in err, "Traceback" in err) == (2, True, True, False), err
    assert not (tmp_path / "made.safetensors").exists()


@pytest.mark.parametrize("command", ["normalise", "distil"])
@pytest.mark.parametrize("layer", ["conv1_1", "conv2_1"])
def test_a_layer_that_never_fires_is_named(call: Call, given: tuple[Path, Path], tmp_path: Path, command: str, layer: str) -> None:
    state = load(given[0].read_bytes())
    state |= {f"{layer}.{kind}": torch.zeros_like(state[f"{layer}.{kind}"]) for kind in ("weight", "bias")}
    (tmp_path / "zero.safetensors").write_bytes(save(state))
    for i in range(12):
        (given[1] / f"more{i}.png").write_bytes(encode(picture(i, 40, 40), "png"))
    option = {"normalise": ["--weights"], "distil": ["--side", "32", "--steps", "1", "--widths", "4,4,4,4,4", "--teacher"]}[command]
    code, _, err = call("weights", command, *option, tmp_path / "zero.safetensors", "--images", given[1], "-o", tmp_path / "made.safetensors")
    assert (code, f"no filter of {layer} fires on these images" in err, "Traceback" in err) == (2, True, False), err


def test_a_vgg16_is_told(call: Call, tmp_path: Path) -> None:
    keys = {"0": (4, 3), "2": (4, 4), "5": (4, 4), "7": (4, 4), "10": (4, 4), "12": (4, 4), "14": (4, 4), "17": (4, 4), "19": (4, 4), "21": (4, 4)}
    state = {f"features.{k}.weight": torch.rand(*n, 3, 3) for k, n in keys.items()} | {f"features.{k}.bias": torch.rand(4) for k in keys}
    (tmp_path / "vgg16.safetensors").write_bytes(save(state))
    code, _, err = call("weights", "convert", tmp_path / "vgg16.safetensors", "-o", tmp_path / "made.safetensors")
    assert (code, "conv3_4 is missing" in err, "a VGG-16 lacks it, and nstray needs a VGG-19" in err) == (2, True, True), err


def test_without_a_download_a_command_names_its_own_ways_out(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def away(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", away)
    code, _, err = call("weights", "convert", "imagenet", "-o", tmp_path / "made.safetensors")
    assert (code, "two ways out" in err, f"{tmp_path}/torch/hub/checkpoints" in err, "--preset" in err) == (2, True, True, False), err
