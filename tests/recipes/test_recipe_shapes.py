"""The study of docs/recipes/shapes.md on next to nothing: its pictures, its files and its table."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from draw_shapes import CLASSES, OUTLINES, TEXTURES, background, draw_scene, mask, render, surface
from jobs import LOCAL_RAY
from PIL import Image
from study_shapes import SIZE, SMALL, shares

ROOT = Path(__file__).parents[2]
NUMBERS = range(len(CLASSES))


def test_classes_have_an_outline_and_a_texture_of_their_own() -> None:
    assert len(set(CLASSES)) == len(OUTLINES) == len(TEXTURES) == 10
    scene = draw_scene(np.random.default_rng(0))
    insides = [mask(scene, k, SIZE) > 0.5 for k in NUMBERS]
    surfaces = [surface(scene, k, SIZE) for k in NUMBERS]
    for a in NUMBERS:
        assert 0.1 < insides[a].mean() < 0.6
        for b in range(a):
            assert (insides[a] ^ insides[b]).sum() > 0.1 * (insides[a] | insides[b]).sum(), (CLASSES[a], CLASSES[b])
            assert np.abs(surfaces[a] - surfaces[b]).mean() > 0.05, (CLASSES[a], CLASSES[b])


@pytest.mark.parametrize(("a", "b"), [(0, 1), (6, 4), (7, 9), (3, 8)])
def test_a_conflict_picture_has_the_outline_of_one_class_and_the_texture_of_the_other(a: int, b: int) -> None:
    scene = draw_scene(np.random.default_rng([a, b]))
    conflict, first, second = render(scene, a, b, SIZE), render(scene, a, a, SIZE), render(scene, b, b, SIZE)
    in_a, in_b = (mask(scene, k, SIZE)[..., None].repeat(3, 2) for k in (a, b))
    assert (conflict[in_a == 0] == first[in_a == 0]).all()  # around the outline of a: a's picture
    both = (in_a == 1) & (in_b == 1)
    assert both.sum() > 200
    assert (conflict[both] == second[both]).all()  # inside of both: b's picture
    only_a = (in_a == 1) & (in_b == 0)
    assert (conflict[only_a] == (surface(scene, b, SIZE) * 255).round()[only_a]).all()
    assert (conflict[in_a == 1] != first[in_a == 1]).mean() > 0.1  # and not a's texture
    assert np.abs(surface(scene, b, SIZE) - background(scene, SIZE)).mean() > 0.1


def test_shares_of_decisions() -> None:
    decisions, shapes, textures = (
        torch.tensor([0, 0, 3, 4, 9, 7, 7, 1]),
        torch.tensor([0, 1, 3, 4, 5, 6, 7, 8]),
        torch.tensor([1, 0, 2, 2, 4, 5, 6, 1]),
    )
    shape, texture, neither, bias = shares(decisions, shapes, textures)
    assert (shape, texture, neither) == (0.5, 0.25, 0.25)
    assert bias == pytest.approx(2 / 3)
    assert math.isnan(shares(torch.tensor([2]), torch.tensor([0]), torch.tensor([1]))[3])


@pytest.mark.slow
def test_the_study_runs(tmp_path: Path) -> None:
    work, out, sheet = tmp_path / "work", tmp_path / "result.txt", tmp_path / "example.jpg"
    words = [sys.executable, str(ROOT / "scripts" / "study_shapes.py"), str(work), "--small", "--out", str(out), "--picture", str(sheet)]
    # For scripts that import each other, also where PYTHONSAFEPATH keeps their own folder out of the path.
    env = {**os.environ, **LOCAL_RAY, "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, env=env)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert done.stdout == text
    assert "train, plain 30; train, stylised 30; train, plain + stylised 60; val, plain 20; val, stylised 20; conflict 90" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["plain", "stylised", "plain + stylised"]
    for row in rows:
        means = [float(re.fullmatch(r"(\d\.\d\d|nan) \((\d\.\d\d|nan)-(\d\.\d\d|nan)\)", cell)[1]) for cell in row[1:]]
        assert len(means) == 6
        assert sum(means[2:5]) == pytest.approx(1, abs=0.02)
    assert Image.open(sheet).size == (10 * SIZE, 3 * SIZE)
    for split, number in (("train", SMALL.train), ("val", SMALL.val)):
        for k, name in enumerate(CLASSES):
            files = sorted(path.name for path in (work / "folders" / split / name).iterdir())
            assert files == sorted(f"{i:04d}{kind}.png" for i in range(number) for kind in ("", "--original"))
            plain = np.asarray(Image.open(work / "folders" / split / name / "0000--original.png"))
            assert (plain == render(draw_scene(np.random.default_rng([split == "val", k, 0])), k, k, SIZE)).all()
            assert (plain != np.asarray(Image.open(work / "folders" / split / name / "0000.png"))).mean() > 0.5
    assert (np.asarray(Image.open(work / "conflict" / "6--2--00.png")) == render(draw_scene(np.random.default_rng([3, 6, 2, 0])), 6, 2, SIZE)).all()
    assert len(list((work / "conflict").iterdir())) == 90
