"""Everything a user can get wrong, through the command line: one message that says what and what to do, the right exit code, no traceback.

Nothing here but the last test gets as far as Ray: what is wrong with a job is found before any worker starts.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import jobs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file
from scripted import Scripted, error_body, scripted

from nstray import config, storage
from nstray.commands import prepare
from nstray.commands import run as run_command
from nstray.engine.network.random_weights import random_weights
from nstray.engine.settings import CONV_LAYERS
from nstray.errors import ErrorCode
from nstray.images.encode import encode

__all__ = ["scripted"]  # a fixture

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URIs of a good manifest and of good weights."""
    return jobs.write_inputs(str(tmp_path_factory.mktemp("inputs")), contents=2, styles=2)


@pytest.fixture
def good(shared: tuple[str, str], weights_once: None) -> tuple[str, list[str]]:
    """A good manifest, and the options of a good job."""
    return shared[0], jobs.options({**jobs.SETTINGS, "weights": shared[1]})


@pytest.fixture
def refused(call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The message of a call that must fail with `code` before Ray starts, holding `words`; nothing on stdout."""

    def on_ray(*a: object) -> int:
        raise AssertionError("got as far as Ray")

    monkeypatch.setattr(run_command, "_run_on_ray", on_ray)

    def run(*argv: object, code: int = 2, words: tuple[str, ...] = ()) -> str:
        got, out, err = call(*argv)
        assert got == code, err
        assert out == ""
        assert "Traceback" not in err
        # `manifest build` says what it found before it says what is wrong.
        said = [line for line in err.splitlines() if "event=" not in line and not line.startswith(("content /", "style /"))]
        assert said[0].startswith(("nstray: ", "Usage: ")), err
        for word in words:
            assert word in err
        return err

    return run


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# manifests


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("contant,style\na,b\n", ("no column content", "contant", "rename")),
        ("content,style\n", ("no rows",)),
        ("", ("no rows",)),
        ("pair_id,content,style\na,c.png,s.png\na,d.png,s.png\n", ("pair_id 'a' appears twice", "row 1", "row 2")),
        ("pair_id,content,style\na/b,c.png,s.png\n", ("row 1", "pair_id", "a/b")),
        ("content,style,evaluations\nc.png,s.png,9\nc.png,t.png,lots\n", ("row 2", "evaluations", "lots")),
        ("content,style,evaluations\nc.png,s.png,0\n", ("row 1", "evaluations", "0")),
        ("content,style,size_rule\nc.png,s.png,longer\n", ("row 1", "size_rule", "longer")),
        ("content,style\nc.png,\n", ("row 1", "style")),
        ("content,style\n,s.png\n", ("row 1", "content")),
        ("content,style\nc.png,gs://b/s.png\n", ("row 1", "gs://")),
    ],
)
def test_a_manifest_that_is_wrong(refused: Refused, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = write(tmp_path / "pairs.csv", text)
    for command in (["manifest", "check", path], ["plan", path, tmp_path / "out"], ["run", path, tmp_path / "out"]):
        refused(*command, words=("pairs.csv", *words))
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_not_there_or_no_manifest(refused: Refused, tmp_path: Path) -> None:
    refused("run", tmp_path / "gone.csv", tmp_path / "out", words=("gone.csv", "no such"))
    refused("run", tmp_path, tmp_path / "out", words=(str(tmp_path), "no manifest in this folder", ".csv"))
    refused("run", write(tmp_path / "x.parquet", "text"), tmp_path / "out", words=("x.parquet",))
    refused("run", write(tmp_path / "x.txt", "text"), tmp_path / "out", words=("x.txt", ".csv"))
    refused("run", "gs://b/x.csv", tmp_path / "out", words=("gs://", "s3://"))


def test_building_a_manifest_of_nothing(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "s.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8), "png"))
    out = tmp_path / "pairs.csv"

    def build(content: object, style: object, *more: object) -> list[object]:
        return ["manifest", "build", "--content", content, "--style", style, "-o", out, *more]

    refused(*build(tmp_path / "empty", tmp_path / "style"), words=("empty", "no pictures", ".png"))
    refused(*build(tmp_path / "style", tmp_path / "gone"), words=("gone", "does not exist"))
    refused(*build(tmp_path / "style", tmp_path / "style", "--pairs", "many"), words=("--pairs", "many", "all"))
    refused(*build(tmp_path / "style", tmp_path / "style", "--pairs", "5"), words=("--pairs", "5", "1"))
    assert not out.exists()


# words and settings


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--pooling", "averge"], ("pooling", "average", "max")),
        (["--evaluations", "ten"], ("evaluations", "integer")),
        (["--evaluations", "0"], ("evaluations", "from 1")),
        (["--size", "12x"], ("size", "12x", "640x480")),
        (["--size", "12x12"], ("12x12", "size_rule exact")),
        (["--style-layers", "conv1_1,conv6_1"], ("style_layers", "conv6_1", "did you mean conv5_1")),
        (["--init", "noize"], ("init", "noize", "did you mean noise")),
        (["--init", "noize.png"], ("init", "noize.png", "no such image")),
        (["--quality", "80"], ("quality", "png")),
        (["--content-weight", "0", "--style-weight", "0"], ("nothing to optimise", "content_weight")),
        (["--evalutions", "10"], ("--evalutions", "--evaluations")),
        (["--json"], ("--json",)),
    ],
)
def test_an_option_that_is_wrong(refused: Refused, good: tuple[str, list[str]], tmp_path: Path, option: list[str], words: tuple[str, ...]) -> None:
    refused("run", good[0], tmp_path / "out", *good[1], *option, words=words)
    assert not (tmp_path / "out").exists()


def test_a_command_or_an_argument_that_is_wrong(refused: Refused) -> None:
    refused("runn", words=("runn", "Did you mean 'run'"))
    refused("run", "pairs.csv", words=("OUT",))
    refused("sheet", "out", words=("--to",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weigths: random\n", ("weigths", "did you mean weights")),
        ("size: [1, 2\n", ("job.yaml", "not YAML")),
        ("- size\n", ("job.yaml", "name: value")),
        ("size: big\n", ("size", "big")),
        ("evaluations: null\n", ("evaluations",)),
    ],
)
def test_a_settings_file_that_is_wrong(refused: Refused, good: tuple[str, list[str]], tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    refused("run", good[0], tmp_path / "out", "--config", write(tmp_path / "job.yaml", text), words=words)


def test_a_settings_file_that_is_not_there(refused: Refused, good: tuple[str, list[str]], tmp_path: Path) -> None:
    refused("plan", good[0], tmp_path / "out", "--config", tmp_path / "gone.yaml", words=("--config", "gone.yaml", "No such file"))


# weights


def test_weights_that_are_wrong(refused: Refused, shared: tuple[str, str], tmp_path: Path) -> None:
    lacking = tmp_path / "lacking.safetensors"
    save_file({k: v.contiguous() for k, v in random_weights(CONV_LAYERS[:2]).tensors.items()}, lacking, {"input": "rgb"})
    run = ["run", shared[0], tmp_path / "out", "--weights"]
    refused(*run, write(tmp_path / "text.pth", "hello"), words=("text.pth", ".safetensors", "hello"))
    refused(*run, lacking, words=("lacking.safetensors", "conv"))
    refused(*run, tmp_path / "gone.pth", words=("gone.pth", "no such file"))
    refused(*run, "randon", words=("randon", "imagenet", "random"))
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_downloaded(refused: Refused, shared: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    refused("run", shared[0], tmp_path / "out", words=("imagenet could not be downloaded", "--weights random", ".safetensors"))


# outputs


def test_an_output_of_another_job(refused: Refused, good: tuple[str, list[str]], tmp_path: Path) -> None:
    begun = prepare.check(
        good[0], str(tmp_path / "out"), config.make(dict(zip([w[2:].replace("-", "_") for w in good[1][::2]], good[1][1::2], strict=True)))
    )
    begun.output.job.open(prepare.record(begun))
    for command in ("plan", "run"):
        said = refused(command, good[0], tmp_path / "out", *good[1], "--size", "30", "--pooling", "max", words=("another job", "use another OUT"))
        assert "size: 24 there, 30 here" in said
        assert "pooling: 'average' there, 'max' here" in said
        assert "evaluations" not in said
    text = Path(good[0]).read_text().splitlines(keepends=True)
    other = write(tmp_path / "other.csv", "".join(text[:-1]))
    refused("run", other, tmp_path / "out", *good[1], words=("another job", "rows: 4 there, 3 here"))


def test_an_output_with_another_writers_parquet(refused: Refused, good: tuple[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "data" / "theirs.parquet")
    refused("run", good[0], tmp_path, *good[1], words=("theirs.parquet", "no .nstray/job.json", "use another OUT"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_an_output_that_is_a_file_or_below_one(refused: Refused, good: tuple[str, list[str]], tmp_path: Path) -> None:
    file = write(tmp_path / "file", "hello")
    for command in ("plan", "run"):
        refused(command, good[0], file, *good[1], words=(str(file), "is a file"))
    refused("run", good[0], file / "below", *good[1], code=1, words=(str(file / "below"), "give an OUT that can be written"))
    refused("demo", file, words=(str(file), "give another folder"))
    refused("demo", "s3://bucket/demo", words=("s3://bucket/demo", "local folder"))
    assert file.read_text() == "hello"


def test_an_output_that_is_read_only(shared: tuple[str, str], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    words = ["run", shared[0], str(locked / "out"), *jobs.options({**jobs.SETTINGS, "weights": shared[1]})]
    root: list[str] = []
    if os.geteuid() == 0:  # to root nothing is read-only, until it gives that up
        root = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
        if shutil.which("setpriv") is None or subprocess.run([*root, "touch", locked / "x"], capture_output=True).returncode == 0:
            pytest.skip("root, and no way to give up its power to write anywhere")
    done = subprocess.run([*root, *jobs.NSTRAY, *words], capture_output=True, text=True, timeout=400)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert str(locked) in done.stderr
    assert "give an OUT that can be written" in done.stderr


@pytest.mark.parametrize("command", [["status"], ["verify"], ["export", "--to", "x"], ["sheet", "-o", "x.png"]])
def test_an_output_that_is_none(refused: Refused, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command[0], tmp_path / "nothing", *command[1:], words=("no nstray job at", "nothing"))
    assert list(tmp_path.iterdir()) == []


# stores


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def manifest_of(folder: Path, bucket: str) -> Path:
    return write(folder / "far.csv", f"content,style\n{bucket}/c0.png,{bucket}/s0.png\n")


def test_a_bucket_that_does_not_exist(refused: Refused, good: tuple[str, list[str]], s3: str, tmp_path: Path) -> None:
    gone = s3 + "-gone"
    said = (f"the bucket {gone.removeprefix('s3://')} does not exist", "check its name")
    refused("run", f"{gone}/pairs.csv", tmp_path / "a", *good[1], words=(gone,))
    refused("run", manifest_of(tmp_path, gone), tmp_path / "b", *good[1], code=1, words=said)
    refused("run", good[0], f"{gone}/out", *good[1], code=1, words=said)
    refused("status", f"{gone}/out", code=2, words=(gone,))
    refused("manifest", "build", "--content", f"{gone}/c", "--style", f"{gone}/s", "-o", tmp_path / "x.csv", words=(gone,))


def test_no_credentials(refused: Refused, good: tuple[str, list[str]], tmp_path: Path, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    scripted.answers = [(403, {}, error_body("AccessDenied"))] * 50
    said = ("no credentials were found", "AWS_ACCESS_KEY_ID")
    refused("run", "s3://bucket/pairs.csv", tmp_path / "a", *good[1], code=1, words=said)
    refused("run", manifest_of(tmp_path, "s3://bucket"), tmp_path / "b", *good[1], code=1, words=said)
    refused("run", good[0], "s3://bucket/out", *good[1], code=1, words=said)


def test_an_endpoint_that_is_down(refused: Refused, good: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    said = ("Could not connect", "check AWS_ENDPOINT_URL")
    refused("run", "s3://bucket/pairs.csv", tmp_path / "a", *good[1], code=1, words=said)
    refused("run", manifest_of(tmp_path, "s3://bucket"), tmp_path / "b", *good[1], code=1, words=said)
    refused("run", good[0], "s3://bucket/out", *good[1], code=1, words=said)
    refused("status", "s3://bucket/out", code=1, words=said)


# images: one real run


def bad_images(folder: Path) -> dict[str, ErrorCode]:
    """Pictures that can't be used, below `folder`, and the code of each."""
    good = encode(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8), "png")
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "page.png").write_bytes(b"<html><body>404</body></html>")
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "one.gif")
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    return {
        "gone.png": ErrorCode.NOT_FOUND,
        "truncated.png": ErrorCode.DECODE_FAILED,
        "page.png": ErrorCode.NOT_AN_IMAGE,
        "empty.png": ErrorCode.EMPTY_FILE,
        "huge.png": ErrorCode.TOO_MANY_PIXELS,
        "animated.webp": ErrorCode.UNSUPPORTED_FORMAT,
        "one.gif": ErrorCode.UNSUPPORTED_FORMAT,
        "one.png": ErrorCode.TOO_SMALL,
    }


def test_bad_images_cost_their_own_rows(
    call: Callable[..., tuple[int, str, str]], good: tuple[str, list[str]], local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(good[0]).parent
    expected: dict[str, str | None] = {"good-0": None, "good-1": None}
    lines = [["good-0", source / "c0.png", source / "s0.png"], ["good-1", source / "c1.png", source / "s1.png"]]
    for i, (name, code) in enumerate(bad_images(tmp_path).items()):
        expected |= {f"content-{i}": code.value, f"style-{i}": code.value}
        lines += [[f"content-{i}", tmp_path / name, source / "s0.png"], [f"style-{i}", source / "c0.png", tmp_path / name]]
    for name, image in {
        "cmyk.jpg": Image.new("CMYK", (30, 28), (10, 90, 40, 0)),
        "deep.png": Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70),
        "grey.png": Image.new("L", (30, 28), 77),
    }.items():
        image.save(tmp_path / name)
        expected[name] = None
        lines.append([name, tmp_path / name, source / "s1.png"])
    manifest = tmp_path / "pairs.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["pair_id", "content", "style"], *lines])
    out = tmp_path / "out"
    words = ["run", manifest, out, *good[1], "--shard-size", "4", "--cpus-per-actor", "1", "--actors", "1"]

    code, stdout, err = call(*words)
    assert (code, stdout) == (3, ""), err
    assert {row["pair_id"]: row["error_code"] for row in jobs.rows(str(out))} == expected
    assert len(jobs.rows(str(out))) == len(expected)
    bad = [row for row in jobs.rows(str(out)) if row["status"] == "error"]
    assert all(row["error_message"] for row in bad)
    counts = {c: list(expected.values()).count(c) for c in set(expected.values()) if c}
    complete = next(line for line in err.splitlines() if "event=complete" in line)
    assert f"rows={len(expected)} ok=5 errors=16" in complete
    assert all(f"error_{c}={n}" in complete for c, n in counts.items())
    assert "max_error_rate" in err

    assert call("verify", out)[0] == 0
    code, told, _ = call("status", out)
    assert code == 0
    assert "complete" in told
    assert [c for c, n in counts.items() if f"{n} {c}, such as " not in told] == [], told

    def on_ray(*a: object) -> int:
        raise AssertionError("a complete job needs no Ray")

    ours = run_command._run_on_ray
    monkeypatch.setattr(run_command, "_run_on_ray", on_ray)
    before = jobs.parts(str(out))
    assert call(*words)[0] == 3
    assert call(*words, "--max-error-rate", "1")[0] == 0

    # A part that was lost, or removed because it was damaged, is made again.
    monkeypatch.setattr(run_command, "_run_on_ray", ours)
    name = min(before)
    storage.delete(storage.join(str(out), f"data/{name}"))
    assert call(*words, "--max-error-rate", "1")[0] == 0
    after = jobs.parts(str(out))
    assert set(after) == set(before)
    assert [n for n in after if after[n] != before[n]] == [name]
    assert call("verify", out)[0] == 0
