"""`nstray stylise`: the pictures of a job, made in this process; their files, and what is said of mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import Bench, weights
from jobs import NSTRAY, until
from outputs import picture
from PIL import Image

from nstray import storage
from nstray.commands import stylise, stylise_plan, stylise_preview
from nstray.engine.network.weights import VGGWeights
from nstray.errors import StorageError

Call = Callable[..., tuple[int, str, str]]
__all__ = ["weights"]  # a fixture

LAYERS = {"content_layers": "conv2_1", "style_layers": "conv1_1,conv2_1"}
QUICK = {"preset": "quick", "weights": "random", "size": 24, "evaluations": 5, "coarse": "50%:3", **LAYERS}
WORDS = tuple(word for name, value in QUICK.items() for word in ("--" + name.replace("_", "-"), str(value)))


def save(path: Path, data: np.ndarray[Any, Any] | Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (data if isinstance(data, Image.Image) else Image.fromarray(data)).save(path, **options)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photo.jpg, painting.png, photos/ of three kinds of files and paintings/."""
    monkeypatch.chdir(tmp_path)
    turned = Image.Exif()
    turned[0x0112] = 6
    save(tmp_path / "photo.jpg", picture(1, 40, 30), quality=95, exif=turned)
    save(tmp_path / "painting.png", picture(2, 36, 36))
    clear = np.dstack([picture(3, 30, 26), np.full((26, 30), 128, np.uint8)])
    save(tmp_path / "photos/clear.png", clear)
    save(tmp_path / "photos/grey.png", Image.fromarray(picture(4, 28, 34)).convert("L"))
    save(tmp_path / "photos/more/few.png", Image.fromarray(picture(5, 30, 30)).quantize(16))
    for i in range(2):
        save(tmp_path / f"paintings/s{i}.png", picture(10 + i, 30, 30))
    return tmp_path


@pytest.fixture
def unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that begins to be made is a failure."""

    def begin(*args: object, **more: object) -> int:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(stylise, "stylise", begin)


def by_worker(call: Call, folder: Path, network: VGGWeights, content: str, style: str, **settings: Any) -> dict[str, bytes]:
    """The pictures of a job over the same sources, by pair id."""
    manifest = folder / "pairs.csv"
    assert call("manifest", "build", "--content", content, "--style", style, "--pairs", "all", "--labels", "none", "-o", manifest)[0] == 0
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    made = Bench(folder, network).run([{name: row[name] for name in ("pair_id", "content", "style")} for row in rows], **settings)
    assert {row["status"] for row in made.values()} == {"ok"}, made
    return {pair_id: row["image"]["bytes"] for pair_id, row in made.items()}


@pytest.mark.parametrize("more", [{}, {"init": "noise", "seed": 7, "size": 20, "image_format": "webp", "color": "luminance"}])
def test_a_picture_has_the_bytes_of_a_jobs(here: Path, call: Call, weights: VGGWeights, more: dict[str, Any]) -> None:
    words = [word for name, value in more.items() for word in ("--" + name.replace("_", "-"), value)]
    code, out, err = call("stylise", "photo.jpg", "painting.png", *WORDS, *words)
    name = f"photo--painting.{more.get('image_format', 'png')}"
    assert (code, out) == (0, f"{name}\n"), err
    (expected,) = by_worker(call, here, weights, "photo.jpg", "painting.png", **{**QUICK, **more}).values()
    assert Path(name).read_bytes() == expected


def test_a_grid_has_the_bytes_of_a_jobs_and_a_sheet(here: Path, call: Call, weights: VGGWeights) -> None:
    code, out, err = call("stylise", "photos", "paintings/", "-o", "made", *WORDS, "--init", "noise")
    names = [f"{c}--s{i}.png" for c in ("clear", "grey", "more-few") for i in range(2)]
    assert (code, out.split()) == (0, [*(f"made/{name}" for name in names), "made/sheet.png"]), err
    assert sorted(os.listdir("made")) == sorted([*names, "sheet.png"])
    expected = by_worker(call, here, weights, "photos", "paintings", **QUICK, init="noise")
    assert sorted(Path("made", name).read_bytes() for name in names) == sorted(expected.values())
    with Image.open("made/sheet.png") as sheet:
        assert min(sheet.size) > 300


def test_json_is_an_object_a_picture(here: Path, call: Call) -> None:
    code, out, err = call("stylise", "photos", "painting.png", "-o", "made", *WORDS, "--json")
    assert code == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    assert [Path(r["path"]).name for r in records] == [f"{c}--painting.png" for c in ("clear", "grey", "more-few")]
    for record in records:
        with Image.open(record["path"]) as image:
            assert image.size == (record["width"], record["height"])
        assert 0 < record["loss_total"] < record["loss_start"]
        assert record["evaluations"] == 8
        assert record["seconds"] > 0
        assert storage.head(record["content"]) is not None


def test_the_other_spelling_is_accepted_and_not_listed(here: Path, call: Call) -> None:
    code, out, err = call("stylize", "photo.jpg", "painting.png", *WORDS, "-o", "a/b.jpg")
    assert (code, out) == (0, "a/b.jpg\n"), err
    with Image.open("a/b.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (18, 24))
    assert "  stylise " in (listed := call("--help")[1])
    assert "stylize" not in listed


def test_the_preset_is_quick_unless_one_or_a_file_of_settings_is_given(here: Path) -> None:
    def chosen(given: dict[str, Any], file: str | None = None) -> tuple[str | None, str, str]:
        config = stylise_plan.settings(file, given, None)
        return config.preset, config.weights, config.optimizer

    Path("job.yaml").write_text("evaluations: 3")
    Path("fast.yaml").write_text("preset: fast")
    assert chosen({}) == ("quick", "compact", "lbfgs-spectral")
    assert chosen({"optimizer": "adam"}) == ("quick", "compact", "adam")
    assert chosen({"preset": "gatys2015"}) == ("gatys2015", "imagenet", "lbfgs")
    assert chosen({}, "job.yaml") == (None, "imagenet", "lbfgs")
    assert chosen({}, "fast.yaml") == ("fast", "imagenet", "lbfgs-spectral")


# the preview


def test_a_preview_is_rewritten_at_the_results_size_and_ends_as_it(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylise_preview, "EVERY", 0.0)
    monkeypatch.setattr(stylise_preview, "SHARE", 1e9)
    seen: list[bytes] = []
    honest = storage.put_over

    def put_over(uri: str, data: bytes) -> str:
        seen.append(data)
        return honest(uri, data)

    monkeypatch.setattr(storage, "put_over", put_over)
    code, _, err = call("stylise", "photo.jpg", "painting.png", *WORDS, "--preview", "p.png")
    assert code == 0, err
    assert len(seen) == 9  # after each of the 8 evaluations, and the result
    assert len(set(seen)) > 4
    assert {Image.open(io.BytesIO(data)).size for data in seen} == {(18, 24)}
    assert Path("p.png").read_bytes() == Path("photo--painting.png").read_bytes() == seen[-1] == seen[-2]


def test_a_preview_that_fails_warns_once_and_ends_nothing(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylise_preview, "EVERY", 0.0)

    def full(uri: str, data: bytes) -> str:
        raise StorageError("disk full")

    monkeypatch.setattr(storage, "put_over", full)
    code, out, err = call("stylise", "photo.jpg", "painting.png", *WORDS, "--preview", "p.png")
    assert (code, out) == (0, "photo--painting.png\n")
    assert err.count("disk full") == 1


# what can't be made


def test_what_is_no_picture_in_a_folder_is_named_once_and_left_out(here: Path, call: Call) -> None:
    Path("photos/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    Path("photos/notes.txt").write_text("notes")
    code, out, err = call("stylise", "photos", "paintings", "-o", "made", *WORDS, "--json")
    assert code == 3
    assert err.count("broken.jpg") == 1
    assert "1 .txt" in err
    assert "6 pictures made, 2 of 8 left out" in err
    failed = [record for line in out.splitlines() if (record := json.loads(line))["path"] is None]
    assert [(Path(r["content"]).name, Path(r["style"]).name, r["error_code"]) for r in failed] == [
        ("broken.jpg", f"s{i}.png", "decode_failed") for i in range(2)
    ]
    assert len(os.listdir("made")) == 7


@pytest.mark.parametrize("words", [("broken.jpg", "painting.png"), ("photos", "broken.jpg"), ("broken.jpg", "paintings")])
def test_a_picture_given_by_itself_that_is_none_is_a_mistake(here: Path, call: Call, words: tuple[str, str]) -> None:
    Path("broken.jpg").write_text("<html>not found</html>")
    code, out, err = call("stylise", *words, *WORDS)
    assert (code, out) == (2, "")
    assert "broken.jpg" in err
    assert "Traceback" not in err
    assert not [name for name in os.listdir() if "--" in name]


MISTAKES = [
    (["phots.jpg", "painting.png"], "content phots.jpg: no such file or folder; did you mean photo.jpg?"),
    (["photo.jpg", "paintigns/s0.png"], "style paintigns/s0.png: no such file or folder; did you mean paintings/s0.png?"),
    (["photo.jpg", "nowhere/at/all.png"], "no such file or folder"),
    (["empty", "painting.png"], "content empty: no pictures: no files lie below it"),
    (["texts", "painting.png"], "content texts: no pictures: left out 1 file without an ending of JPEG, PNG or WebP: 1 .txt"),
    (["twice", "painting.png"], "content pictures a.jpg and a.png in"),
    (["photos.tar", "painting.png"], "content photos.tar: an archive; nstray run CONTENT OUT --style STYLE reads"),
    (
        ["photo.jpg", "painting.png", "-o", "photos"],
        "-o photos is a folder, and this makes one picture; give its file: -o photos/photo--",
    ),
    (["photo.jpg", "painting.png", "-o", "out.gif"], "did you mean out.png?"),
    (["photo.jpg", "painting.png", "-o", "out"], "did you mean out.png?"),
    (["photo.jpg", "painting.png", "-o", "out.jpg", "--image-format", "png"], "-o out.jpg and image_format png contradict each other"),
    (["photo.jpg", "painting.png", "-o", "photo.jpg", "--overwrite"], "photo.jpg is one of the pictures that are read"),
    (["photo.jpg", "painting.png", "-o", "photo.jpg/a.png"], "photo.jpg is a file, not a folder"),
    (["photo.jpg", "painting.png", "-o", "gs://b/a.png"], "nothing is written to gs://"),
    (["photos", "painting.png", "-o", "made.png"], "-o made.png is the name of a file, and CONTENT or STYLE is a folder"),
    (["photos", "painting.png", "-o", "texts/a.txt"], "-o texts/a.txt is a file"),
    (["photo.jpg", "painting.png", "--preview", "painting.png"], "--preview"),
    (["photo.jpg", "painting.png", "--preview", "p.gif"], "a preview ends with .png"),
    (["photo.jpg", "painting.png", "--preview", "s3://b/p.png"], "a local file is needed"),
    (["photo.jpg", "painting.png", "--preview", "photos"], "--preview photos is a folder"),
    (["photo.jpg", "painting.png", "-o", "p.png", "--preview", "p.png"], "is the result's own file"),
    (["photo.jpg", "painting.png", "--preset", "quik"], "did you mean quick?"),
    (["photo.jpg", "painting.png", "-o", f"{'n' * 300}.png"], "304 bytes, and 255 are allowed"),
]


@pytest.mark.usefixtures("unmade")
@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_mistakes_are_told_before_any_work(here: Path, call: Call, words: list[str], said: str) -> None:
    Path("empty").mkdir()
    save(here / "twice/a.jpg", picture(1))
    save(here / "twice/a.png", picture(1))
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("text")
    Path("photos.tar").write_bytes(b"")
    before = sorted(here.rglob("*"))
    code, out, err = call("stylise", *words)
    assert (code, out) == (2, ""), err
    assert said in err
    assert len(err.splitlines()) == 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.usefixtures("unmade")
def test_nothing_is_overwritten_unless_that_is_asked_for(here: Path, call: Call) -> None:
    Path("photo--painting.png").write_text("mine")
    Path("made").mkdir()
    Path("made/grey--s1.png").write_text("mine")
    code, _, err = call("stylise", "photo.jpg", "painting.png")
    assert (code, "photo--painting.png exists; give --overwrite" in err) == (2, True), err
    code, _, err = call("stylise", "photos", "paintings", "-o", "made")
    assert (code, "1 of 7 files exist in made, the first: grey--s1.png" in err) == (2, True), err
    with pytest.raises(AssertionError, match="has begun"):
        call_plain(["photo.jpg", "painting.png", "--overwrite"])


def call_plain(words: list[str]) -> None:
    from nstray import cli

    cli.cli(["stylise", *words], standalone_mode=False)


def test_overwrite_replaces_and_a_file_that_came_meanwhile_is_not(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photo--painting.png").write_text("mine")
    assert call("stylise", "photo.jpg", "painting.png", *WORDS, "--overwrite")[0] == 0
    assert Path("photo--painting.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(stylise_plan, "_taken", lambda *_: [])
    Path("photo--painting.png").write_text("mine")
    code, _, err = call("stylise", "photo.jpg", "painting.png", *WORDS)
    assert (code, "has come to exist in the meantime" in err) == (2, True), err
    assert Path("photo--painting.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weights", "none.safetensors"), "none.safetensors: no such file"),
        (("--weights", "compakt"), "by name there are imagenet, compact, random"),
        (("--device", "cuda"), "torch finds no GPU here"),
        (("--size", "1"), "the deepest layer needs"),
        (("--init", "none.png"), "init"),
    ],
)
def test_mistakes_that_the_work_finds(here: Path, call: Call, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, err = call("stylise", "photo.jpg", "painting.png", *WORDS, *words)
    assert (code, out) == (2, ""), err
    assert said in err
    assert "Traceback" not in err
    assert not Path("photo--painting.png").exists()


# interrupts


def test_an_interrupt_says_what_is_lost_and_where_the_rest_is(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = stylise_preview.Preview.write

    def write(self: stylise_preview.Preview, image: Any, name: str, evaluation: int) -> None:
        honest(self, image, name, evaluation)
        if (name, evaluation) == ("grey--s0", 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(stylise_preview.Preview, "write", write)
    code, out, err = call("stylise", "photos", "paintings", "-o", "made", *WORDS, "--preview", "p.png")
    assert (code, out.split()) == (4, ["made/clear--s0.png", "made/clear--s1.png"])
    assert (
        "nstray: stopped at evaluation 1 of 8 of grey--s0, which is lost; 2 of 6 pictures are in made; p.png has grey--s0 as of evaluation 1" in err
    )
    assert sorted(os.listdir("made")) == ["clear--s0.png", "clear--s1.png"]


@pytest.mark.slow
def test_a_real_signal_ends_it_and_leaves_nothing_half(here: Path) -> None:
    words = ["stylise", "photo.jpg", "painting.png", *WORDS, "--evaluations", "900000", "--coarse", "none", "--preview", "p.png"]
    process = subprocess.Popen([*NSTRAY, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: Path("p.png").exists(), "the first preview", alive=process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out) == (4, "")
    assert "of photo--painting, which is lost; nothing was written; p.png has photo--painting as of evaluation" in err
    assert "resume" not in err
    assert not [name for name in os.listdir() if name.startswith(".") or "--" in name]


# the process


def test_neither_ray_nor_matplotlib_is_imported_and_torch_only_for_the_work(here: Path) -> None:
    program = f"""
import sys
from nstray import cli
sys.argv = ["nstray", "stylise", "none.jpg", "painting.png"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 2
assert not {{"torch", "ray", "matplotlib"}} & set(sys.modules)
sys.argv = ["nstray", "stylise", "photo.jpg", "painting.png", *{WORDS!r}]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 0, end.code
assert "torch" in sys.modules
assert not {{"ray", "matplotlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "photo--painting.png\n"


def test_pictures_on_s3(here: Path, s3: str, call: Call) -> None:
    for name in ("photo.jpg", "painting.png", "photos/grey.png"):
        storage.put_new(f"{s3}/{name}", Path(name).read_bytes())
    assert call("stylise", "photo.jpg", "painting.png", *WORDS)[0] == 0
    code, out, err = call("stylise", f"{s3}/photo.jpg", f"{s3}/painting.png", "-o", f"{s3}/made/a.png", *WORDS)
    assert (code, out) == (0, f"{s3}/made/a.png\n"), err
    assert storage.read(f"{s3}/made/a.png") == Path("photo--painting.png").read_bytes()
    code, out, err = call("stylise", f"{s3}/photos/", "painting.png", "-o", f"{s3}/grid/", *WORDS)
    assert (code, out.split()) == (0, [f"{s3}/grid/grey--painting.png", f"{s3}/grid/sheet.png"]), err
    code, _, err = call("stylise", f"{s3}/photos/", "painting.png", "-o", f"{s3}/grid/", *WORDS)
    assert (code, "2 of 2 files exist in" in err) == (2, True), err
    code, _, err = call("stylise", f"{s3}/none.jpg", "painting.png", *WORDS)
    assert (code, f"content {s3}/none.jpg: no pictures" in err) == (2, True), err


def test_large_pictures_take_no_more_than_the_formats_hold(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nstray.images.encode._MAX_SIDE", {"jpeg": 10})
    code, _, err = call("stylise", "photo.jpg", "painting.png", *WORDS, "-o", "a.jpg")
    assert (code, "a side of 24 pixels is more than a jpeg file holds" in err) == (2, True), err
