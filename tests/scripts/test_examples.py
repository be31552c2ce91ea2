"""The example pictures: deterministic, of their promised shapes, pictures rather than test cards, and those on disk are those drawn."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import examples
import numpy as np
import pytest

from nstray.commands import config_file, demo
from nstray.images.decode import decode, decode_mask
from nstray.manifest.manifest import Manifest

REPOSITORY = Path(__file__).parents[2]
REPOSITORY_EXAMPLE = REPOSITORY / "manifests" / "example"
GALLERY = REPOSITORY / "manifests" / "gallery"
LIMITS = {"max_bytes": 2**20, "max_pixels": 10**6}


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return {name: examples.draw(name) for name in examples.CONTENTS + examples.STYLES}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of a written example."""
    folder = tmp_path_factory.mktemp("example") / "made"
    assert examples.write_example(str(folder)) == str(folder / examples.MANIFEST)
    return folder


def _decoded(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), what=str(path), **LIMITS)


def test_shapes(drawn):
    for name, pixels in drawn.items():
        assert pixels.dtype == np.uint8
        assert pixels.shape == ((288, 384, 3) if name in examples.CONTENTS else (320, 320, 3)), name


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(drawn):
    assert np.array_equal(examples.draw("mosaic"), drawn["mosaic"])
    assert np.array_equal(examples.draw("swirls", seed=0), drawn["swirls"])
    assert np.abs(examples.draw("mosaic", seed=1).astype(int) - drawn["mosaic"]).mean() > 5


@pytest.mark.parametrize("name", examples.CONTENTS + examples.STYLES)
def test_not_flat(drawn, name):
    pixels = drawn[name].astype(float)
    assert pixels.std(axis=(0, 1)).min() > 30  # every channel varies
    assert len(np.unique(drawn[name].reshape(-1, 3) // 16, axis=0)) > 120  # many colours, not an indexed card
    steps = np.abs(np.diff(pixels.mean(axis=2), axis=1))
    assert steps.mean() > 2.5
    # structure everywhere: no ninth of the picture is one plain colour
    height, width = pixels.shape[:2]
    for i in range(3):
        for j in range(3):
            part = pixels[i * height // 3 : (i + 1) * height // 3, j * width // 3 : (j + 1) * width // 3]
            assert part.std() > 8, (i, j)


def test_the_styles_differ_in_palette_and_in_strokes(drawn):
    mean = {name: drawn[name].reshape(-1, 3).mean(axis=0) for name in examples.STYLES}
    assert mean["swirls"][2] > mean["swirls"][0] + 20  # blue
    assert mean["mosaic"][0] > mean["mosaic"][2] + 60  # red
    grey = {name: drawn[name].astype(float).mean(axis=2) for name in examples.STYLES}
    fine = {name: np.abs(np.diff(g, axis=1)).mean() / g.std() for name, g in grey.items()}
    assert fine["mosaic"] > 1.5 * fine["swirls"]


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'nothing'.*lake, still_life, swirls, mosaic, waves"):
        examples.draw("nothing")


def test_write_example(made, drawn):
    manifest = made / examples.MANIFEST
    rows = list(csv.DictReader(manifest.open(newline="", encoding="utf-8")))
    assert len({row["pair_id"] for row in rows}) == len(rows) == 6
    assert {(row["content"], row["style"]) for row in rows} == {
        (f"content/{c}.jpg", f"style/{s}.jpg") for c in examples.CONTENTS for s in examples.STYLES
    }
    assert {row["split"] for row in rows} == {"train", "test"}
    for row in rows:
        for column in ("content", "style"):
            path = manifest.parent / row[column]
            # JPEG at quality 90 against what was drawn: a few levels on average, in the stroke-rich styles most
            assert np.abs(_decoded(path).astype(int) - drawn[path.stem]).mean() < 6


def test_the_repository_holds_what_the_script_draws(made):
    assert (made / examples.MANIFEST).read_bytes() == (REPOSITORY_EXAMPLE / examples.MANIFEST).read_bytes()
    written = sorted(p.relative_to(made) for p in made.rglob("*.jpg"))
    assert written == sorted(p.relative_to(REPOSITORY_EXAMPLE) for p in REPOSITORY_EXAMPLE.rglob("*.jpg"))
    assert len(written) == 5
    for path in written:
        # not byte for byte: sines and exponentials differ in the last bit between processors, and with it a pixel here and there
        assert np.abs(_decoded(made / path).astype(int) - _decoded(REPOSITORY_EXAMPLE / path)).mean() < 0.5, path
    assert sum(p.stat().st_size for p in REPOSITORY_EXAMPLE.rglob("*") if p.is_file()) < 600_000


def test_the_package_holds_the_repositorys_pictures_and_manifest():
    shipped = sorted(p.relative_to(demo.PICTURES) for p in demo.PICTURES.rglob("*") if p.is_file())
    drawn = [p for folder in ("content", "style") for p in (REPOSITORY_EXAMPLE / folder).iterdir()]
    assert shipped == sorted(p.relative_to(REPOSITORY_EXAMPLE) for p in [REPOSITORY_EXAMPLE / examples.MANIFEST, *drawn])
    for path in shipped:
        assert (demo.PICTURES / path).read_bytes() == (REPOSITORY_EXAMPLE / path).read_bytes(), path


def test_the_repository_holds_the_masks_that_the_script_draws(tmp_path):
    script = runpy.run_path(str(REPOSITORY / "scripts" / "draw_examples.py"))
    script["write_masks"](tmp_path)
    masks = script["masks"]()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (REPOSITORY_EXAMPLE / "mask").iterdir())
    assert sorted(p.stem for p in tmp_path.iterdir()) == sorted(masks)
    for name, drawn in masks.items():
        assert set(np.unique(drawn)) == {0, 255}
        for folder in (tmp_path, REPOSITORY_EXAMPLE / "mask"):
            held = decode_mask((folder / f"{name}.png").read_bytes(), what=name, **LIMITS)
            assert np.mean(held != drawn) < 1e-4, name  # the line between two points may round otherwise on another processor


@pytest.mark.parametrize("name", ["lake", "waves"])
def test_masks_fit_their_picture_and_each_other(drawn, name):
    masks = runpy.run_path(str(REPOSITORY / "scripts" / "draw_examples.py"))["masks"]()
    sky, below = masks[f"{name}-sky"], masks[f"{name}-below"]
    assert sky.shape == drawn[name].shape[:2]
    assert np.array_equal(sky, 255 - below)
    brightness = drawn[name].mean(axis=2)
    assert brightness[sky > 0].mean() > brightness[below > 0].mean() + 40


def test_the_gallery_is_a_valid_manifest_of_pictures_of_this_repository():
    info = Manifest(str(GALLERY / "pairs.csv")).check(config_file.load(str(GALLERY / "settings.yaml")))
    assert not info.warnings
    with (GALLERY / "pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["figure_order"]) for row in rows] == list(range(info.rows))
    cells = [row[name] for row in rows for name in ("content", "style", "content_masks", "style_masks", "fine_style") if row[name]]
    named = {path for cell in cells for path in (json.loads(cell) if cell.startswith("[") else [cell])}
    assert {f"../example/mask/{mask.name}" for mask in (REPOSITORY_EXAMPLE / "mask").iterdir()} <= named
    for path in named:
        assert (GALLERY / path).is_file(), path
