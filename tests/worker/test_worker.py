"""nstray.worker.worker: a shard's whole way without Ray, with the first three layers of a random network and tiny pictures."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import Bench, pair, pixels, read, same, weights
from outputs import picture
from PIL import Image

from nstray import storage
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import pair_seed
from nstray.engine.stylizer import Stylizer
from nstray.errors import AccessDenied, ErrorCode, OutputError, Unreachable
from nstray.images.encode import encode
from nstray.images.resize import fit
from nstray.manifest.pair import pairs
from nstray.manifest.shards import Shard
from nstray.output.part_file import read_footer
from nstray.output.parts import Parts
from nstray.storage.backoff import STORAGE_TRIES
from nstray.worker import inputs as worker_inputs
from nstray.worker import rows as worker_rows
from nstray.worker.messages import ShardReport
from nstray.worker.timing import PHASES

__all__ = ["weights"]  # a fixture


@pytest.fixture
def bench(tmp_path: Path, weights: VGGWeights) -> Bench:
    return Bench(tmp_path, weights)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# rows


def test_no_row_names_a_folder_above_the_manifest(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Datasets are published. What lies elsewhere keeps its path."""
    (bench.folder / "x").mkdir()
    (bench.folder / "x/bad.png").write_bytes(b"no picture")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "c.png"
    elsewhere.write_bytes((bench.folder / "c0.png").read_bytes())
    rows = bench.run(
        [
            *(pair("a", str(bench.folder / "c1.png")), pair("b", str(elsewhere)), pair("c", "x/none.png"), pair("d", "./x/bad.png")),
            pair("e", f"..{bench.folder}/n.png"),
        ]
    )
    assert [rows[i]["content_uri"] for i in "abcd"] == ["c1.png", str(elsewhere), "x/none.png", "x/bad.png"]
    assert rows["e"]["content_uri"] == f"{bench.folder.parent}{bench.folder}/n.png"
    assert rows["e"]["content_uri"] in rows["e"]["error_message"]
    assert [rows[i]["error_code"] for i in "abcde"] == [None, None, "not_found", "not_an_image", "not_found"]
    for i in "cd":
        assert f" {rows[i]['content_uri']}: " in rows[i]["error_message"]
        assert str(bench.folder) not in rows[i]["error_message"]


def test_a_part_holds_the_rows_of_its_shard_with_everything_known_about_them(bench: Bench) -> None:
    worker, shard = bench.worker([pair("a", caption="one"), pair("b", "c1.png", "s1.png", caption="two")])
    report = worker.process(shard, attempt=2)
    rows = read(worker, shard)
    assert [rows[i]["caption"] for i in "ab"] == ["one", "two"]
    row = rows["b"]
    assert (row["content_uri"], row["style_uri"]) == ("c1.png", ["s1.png"])
    assert len(row["content_sha256"]) == len(row["style_sha256"][0]) == 64
    assert row["content_sha256"] != rows["a"]["content_sha256"]
    assert (row["width"], row["height"]) == (24, 20)
    assert (row["content_width"], row["content_height"]) == (36, 30)
    assert pixels(row).shape == (20, 24, 3)
    assert row["image"]["path"] == "b.png"
    assert (row["error_code"], row["error_message"], row["attempt"]) == (None, None, 2)
    assert row["evaluations"] == 4
    assert len(row["loss_curve"]) == 4
    assert row["loss_curve"][-1] == pytest.approx(row["loss_total"], rel=1e-6)
    assert row["loss_total"] == pytest.approx(row["loss_content"] + 1000 * row["loss_style"], rel=1e-4)
    assert row["loss_tv"] is None
    assert row["seed"] == pair_seed(0, "b")
    assert row["weights_id"] == bench.weights.id
    assert row["config_fingerprint"] == worker.spec.fingerprint
    assert (row["device"], row["dtype"]) == ("cpu", "float32")

    assert (report.rows, report.ok, report.errors, report.evaluations, report.won) == (2, 2, {}, 8, True)
    part = read_footer(worker.output.data_uri(shard.name))
    assert (part.rows, part.ok, part.size) == (2, 2, report.size)
    assert part.footer["ids_digest"] == shard.ids_digest
    assert part.footer["fingerprint"] == worker.spec.fingerprint
    assert part.footer["evaluations"] == 8
    assert part.footer["started"] <= part.footer["finished"]


def test_the_optimisation_lowers_the_loss_and_changes_the_picture(bench: Bench) -> None:
    row = bench.run([pair("a")], evaluations=10)["a"]
    assert row["loss_curve"][-1] < 0.5 * row["loss_curve"][0]
    start = fit(picture(0, 36, 30), 24, "longest", False, what="c0")
    assert np.abs(pixels(row) - start.astype(int)).mean() > 2


def test_a_pair_gives_the_same_picture_in_whatever_company(bench: Bench) -> None:
    rows = [pair(f"{c}{s}", f"c{c}.png", f"s{s}.png") for c in range(3) for s in range(2)]
    together = bench.run(rows, batch_size=4)
    backwards = bench.run(rows[::-1], batch_size=3)
    for row in rows:
        alone = bench.run([row], batch_size=1)
        assert same(alone[row["pair_id"]], together[row["pair_id"]])
        assert same(alone[row["pair_id"]], backwards[row["pair_id"]])
    assert not same(together["00"], together["01"])


# what a row may say for itself


def test_a_row_may_set_its_own_seed_and_the_recorded_seed_gives_the_same_picture_again(bench: Bench) -> None:
    first = bench.run([pair("a"), pair("b")], init="noise")
    assert first["a"]["seed"] == pair_seed(0, "a") != first["b"]["seed"]
    assert not same(first["a"], first["b"])
    again = bench.run([pair("other", seed=first["a"]["seed"]), pair("b", seed=7)], init="noise", seed=5)
    assert same(again["other"], first["a"])
    assert again["b"]["seed"] == 7
    assert not same(again["b"], first["b"])


def test_a_row_may_set_its_own_size_evaluations_and_weights(bench: Bench) -> None:
    rows = bench.run(
        [
            pair("plain", size="", size_rule="", evaluations="", content_weight="", style_weight="", tv_weight=""),
            pair("small", size=16),
            pair("shortest", size=16, size_rule="shortest"),
            pair("exact", size="20x12", size_rule="exact"),
            pair("longer", evaluations=9),
            pair("content", style_weight=0),
            pair("style", content_weight=0),
            pair("smooth", tv_weight=1e4),
        ]
    )
    assert {r["status"] for r in rows.values()} == {"ok"}
    sizes = {name: (rows[name]["width"], rows[name]["height"]) for name in ("plain", "small", "shortest", "exact")}
    assert sizes == {"plain": (24, 20), "small": (16, 13), "shortest": (19, 16), "exact": (20, 12)}
    assert [rows[name]["evaluations"] for name in ("plain", "longer")] == [4, 9]
    assert len(rows["longer"]["loss_curve"]) == 9
    terms = {name: [rows[name][f"loss_{t}"] is not None for t in ("content", "style", "tv")] for name in ("plain", "content", "style", "smooth")}
    assert terms == {"plain": [True, True, False], "content": [True, False, False], "style": [False, True, False], "smooth": [True, True, True]}
    assert not same(rows["smooth"], rows["plain"])


def test_a_row_may_begin_with_an_image_of_its_own(bench: Bench) -> None:
    bench.save("start.png", np.full((10, 10, 3), (200, 40, 90), np.uint8))
    rows = bench.run(
        [pair("plain", init=""), pair("file", init="start.png"), pair("style", init="style"), pair("noise", init="noise")], evaluations=1
    )
    # one evaluation is the start itself
    assert np.abs(pixels(rows["file"]) - (200, 40, 90)).max() <= 1
    assert np.abs(pixels(rows["noise"]) - pixels(rows["plain"])).mean() > 20
    assert not same(rows["style"], rows["plain"])


def test_a_job_may_begin_with_an_image(bench: Bench) -> None:
    bench.save("start.png", np.full((10, 10, 3), (200, 40, 90), np.uint8))
    rows = bench.run([pair("a"), pair("b", init="content")], init=str(bench.folder / "start.png"), evaluations=1)
    assert np.abs(pixels(rows["a"]) - (200, 40, 90)).max() <= 1
    gone = bench.run([pair("a")], init=str(bench.folder / "gone.png"))["a"]
    assert gone["error_code"] == "not_found"
    assert "init" in gone["error_message"]


@pytest.mark.parametrize("name", ["./ a.png", "./a.png ", "./sub /a.png", "./a.png\t"])
def test_a_missing_file_with_white_space_in_its_name_is_shown_in_quotes(bench: Bench, name: str) -> None:
    row = bench.run([pair("a", content=name)])["a"]
    assert row["error_code"] == "not_found"
    assert repr(name.removeprefix("./")) in row["error_message"]


def test_styles_blend_by_their_weights(bench: Bench, tmp_path: Path) -> None:
    blends = {"first": "[1, 0]", "second": "[0, 1]", "half": "[1, 1]", "most": "[9, 1]"}
    both = '["s0.png", "s1.png"]'
    rows = bench.run([pair(name, style=both, style_weights=w) for name, w in blends.items()] + [pair("only", style_weights="")], evaluations=8)
    assert same(rows["first"], rows["only"])
    assert len(rows["half"]["style_sha256"]) == 2

    def far(one: str, other: str) -> float:
        return float(np.abs(pixels(rows[one]) - pixels(rows[other])).mean())

    assert far("most", "first") < far("half", "first") < far("second", "first")


# images that are not right

MISSING = "gone.png"


@pytest.fixture
def bad(bench: Bench) -> dict[str, ErrorCode]:
    """Bad files by name, with the code each must get."""
    good = encode(picture(5, 36, 30), "png")
    frames = [Image.fromarray(picture(i, 20, 20)) for i in range(2)]
    bench.save("truncated.png", good[: len(good) // 2])
    bench.save("truncated.jpg", encode(picture(5, 36, 30), "jpeg")[:400])
    bench.save("page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
    bench.save("empty.png", b"")
    bench.save("huge.png", png_header(20_000, 20_000))
    bench.save("animated.webp", frames[0], save_all=True, append_images=frames[1:])
    bench.save("animated.png", frames[0], save_all=True, append_images=frames[1:])
    bench.save("still.gif", frames[0])
    bench.save("one.png", np.zeros((1, 1, 3), np.uint8))
    return {
        MISSING: ErrorCode.NOT_FOUND,
        "truncated.png": ErrorCode.DECODE_FAILED,
        "truncated.jpg": ErrorCode.DECODE_FAILED,
        "page.jpg": ErrorCode.NOT_AN_IMAGE,
        "empty.png": ErrorCode.EMPTY_FILE,
        "huge.png": ErrorCode.TOO_MANY_PIXELS,
        "animated.webp": ErrorCode.UNSUPPORTED_FORMAT,
        "animated.png": ErrorCode.UNSUPPORTED_FORMAT,
        "still.gif": ErrorCode.UNSUPPORTED_FORMAT,
        "one.png": ErrorCode.TOO_SMALL,
    }


@pytest.mark.parametrize("role", ["content", "style", "init"])
def test_a_bad_image_costs_its_own_pair_alone(bench: Bench, bad: dict[str, ErrorCode], role: str) -> None:
    if role == "init":
        del bad["one.png"]  # a start grows to the content's shape
    good = [pair("g0", init=""), pair("g1", "c1.png", "s1.png", init="")]
    names = {f"bad{i}": name for i, name in enumerate(bad)}
    rows = bench.run([good[0], *(pair(i) | {role: name} for i, name in names.items()), good[1]])
    for pair_id, name in names.items():
        row = rows[pair_id]
        assert (row["status"], row["error_code"]) == ("error", bad[name].value), row["error_message"]
        assert role in row["error_message"]
        assert name in row["error_message"]
        assert row["image"] is None
        assert row["width"] is None
        assert row["loss_curve"] is None
        assert row["seed"] == pair_seed(0, pair_id)
    alone = bench.run(good)
    assert all(same(rows[i], alone[i]) for i in ("g0", "g1"))


def test_an_image_with_two_roles_is_named_by_the_one_it_has_in_each_pair(bench: Bench) -> None:
    rows = bench.run([pair("a", content=MISSING), pair("b", style=MISSING)])
    assert rows["a"]["error_message"].startswith("content")
    assert rows["b"]["error_message"].startswith("style")
    assert rows["b"]["content_sha256"]
    assert rows["b"]["style_sha256"] is None


def test_unusual_but_good_images_are_stylised(bench: Bench) -> None:
    base = Image.fromarray(picture(3, 36, 30))
    bench.save("cmyk.jpg", base.convert("CMYK"))
    bench.save("deep.png", Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257))
    bench.save("grey.png", base.convert("L"))
    bench.save("palette.png", base.quantize(16))
    alpha = base.convert("RGBA")
    alpha.putalpha(128)
    bench.save("alpha.webp", alpha, lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    bench.save("turned.jpg", base, exif=exif)
    names = ["cmyk.jpg", "deep.png", "grey.png", "palette.png", "alpha.webp", "turned.jpg"]
    rows = bench.run([pair(f"c-{n}", content=n) for n in names] + [pair(f"s-{n}", style=n) for n in names])
    assert {r["status"] for r in rows.values()} == {"ok"}, [r["error_message"] for r in rows.values()]
    assert (rows["c-turned.jpg"]["width"], rows["c-turned.jpg"]["height"]) == (20, 24)
    assert (rows["c-turned.jpg"]["content_width"], rows["c-turned.jpg"]["content_height"]) == (30, 36)
    assert (rows["s-turned.jpg"]["width"], rows["s-turned.jpg"]["height"]) == (24, 20)


def test_a_missing_style_costs_the_pairs_that_use_it(bench: Bench) -> None:
    rows = bench.run([pair("a"), pair("b", style=MISSING), pair("c", "c1.png", style=MISSING), pair("d", style=f'["s0.png", "{MISSING}"]')])
    assert {i: r["status"] for i, r in rows.items()} == {"a": "ok", "b": "error", "c": "error", "d": "error"}


def test_a_file_above_the_byte_cap_is_not_decoded(bench: Bench) -> None:
    large = bench.save("large.png", np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    rows = bench.run([pair("a"), pair("b", content=large)], max_bytes=5000)
    assert rows["a"]["status"] == "ok"
    assert rows["b"]["error_code"] == "too_many_bytes"


def test_exact_makes_every_picture_the_same_size_and_refuses_what_is_too_small(bench: Bench) -> None:
    bench.save("tall.png", picture(1, 20, 70))
    bench.save("little.png", picture(1, 12, 12))
    contents = {"a": "c0.png", "tall": "tall.png", "little": "little.png"}
    rows = bench.run([pair(i, content=name) for i, name in contents.items()], size="20x16", size_rule="exact")
    assert pixels(rows["a"]).shape == pixels(rows["tall"]).shape == (16, 20, 3)
    assert rows["little"]["error_code"] == "too_small"
    grown = bench.run([pair("little", content="little.png")], size="20x16", size_rule="exact", upsample=True)
    assert pixels(grown["little"]).shape == (16, 20, 3)


def test_a_term_that_is_off_does_not_ask_for_larger_images(bench: Bench) -> None:
    bench.save("one.png", np.full((1, 1, 3), 90, np.uint8))
    deep = {"content_layers": "conv1_1", "style_layers": "conv2_1"}
    rows = bench.run([pair("a", content="one.png"), pair("b", content="one.png", style_weight=0)], **deep)
    assert rows["a"]["error_code"] == "too_small"
    assert "needs 2 a side" in rows["a"]["error_message"]
    assert rows["b"]["status"] == "ok", rows["b"]["error_message"]


def test_a_network_that_reflects_borders_needs_larger_images(tmp_path: Path, weights: VGGWeights) -> None:
    for padding, code in (("zero", None), ("reflect", "too_small")):
        folder = tmp_path / padding
        folder.mkdir()
        made = Bench(folder, dataclasses.replace(weights, padding=padding))
        made.save("three.png", np.full((3, 3, 3), 90, np.uint8))
        row = made.run([pair("a", content="three.png")])["a"]
        assert row["error_code"] == code, row["error_message"]
    assert "needs 4 a side" in row["error_message"]


# formats


@pytest.mark.parametrize(
    ("settings", "magic", "end"), [({"image_format": "jpeg", "quality": 80}, "JPEG", "jpg"), ({"image_format": "webp"}, "WEBP", "webp")]
)
def test_other_formats_come_out(bench: Bench, settings: dict[str, Any], magic: str, end: str) -> None:
    row = bench.run([pair("a")], **settings)["a"]
    assert Image.open(io.BytesIO(row["image"]["bytes"])).format == magic
    assert row["image"]["path"] == f"a.{end}"
    plain = bench.run([pair("a")])["a"]
    assert np.abs(pixels(row) - pixels(plain)).mean() < 8


def test_a_picture_that_its_format_cannot_hold_is_an_error_row(bench: Bench) -> None:
    bench.save("long.png", np.full((2, 16_400, 3), 90, np.uint8))
    rows = bench.run([pair("long", content="long.png"), pair("a")], size=16_400, image_format="webp", evaluations=1)
    assert rows["long"]["error_code"] == "too_many_pixels"
    assert "png" in rows["long"]["error_message"]
    assert rows["a"]["status"] == "ok"


# when things break


def test_a_batch_that_fails_costs_the_pair_at_fault_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Stylizer.run

    def failing(self: Stylizer, pairs: Sequence[Any], *more: Any) -> Any:
        if any(p.seed == 666 for p in pairs):
            raise RuntimeError("kernel s3://user:secret@host/x")
        return run(self, pairs, *more)

    monkeypatch.setattr(Stylizer, "run", failing)
    rows = bench.run([pair(f"p{i}", seed=666 if i == 3 else i) for i in range(6)])
    assert {i for i, r in rows.items() if r["status"] == "error"} == {"p3"}
    assert rows["p3"]["error_code"] == "internal"
    assert "RuntimeError: kernel" in rows["p3"]["error_message"]
    assert "secret" not in rows["p3"]["error_message"]


def test_a_pair_that_does_not_fit_the_memory_is_an_error_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Stylizer, pairs: Sequence[Any], *more: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stylizer, "run", full)
    rows = bench.run([pair("a"), pair("b")])
    assert {r["error_code"] for r in rows.values()} == {"out_of_memory"}


def test_a_loss_that_is_no_number_is_an_error_row(bench: Bench) -> None:
    rows = bench.run([pair("a", content_weight=""), pair("b", content_weight=3e38)], loss_scale="paper", init="noise")
    assert rows["a"]["status"] == "ok"
    assert rows["b"]["error_code"] == "diverged"


def test_a_put_that_fails_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, failures, pauses = Parts.commit, [Unreachable("down"), Unreachable("down")], []

    def flaky(self: Parts, name: str, data: bytes) -> bool:
        if failures:
            raise failures.pop()
        return commit(self, name, data)

    monkeypatch.setattr(Parts, "commit", flaky)
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert bench.run([pair("a")])["a"]["status"] == "ok"
    assert pauses == [1, 2]


@pytest.mark.parametrize(("error", "tries"), [(Unreachable("down"), STORAGE_TRIES), (AccessDenied("no"), 1), (OutputError("another job's"), 1)])
def test_a_put_that_keeps_failing_is_raised(bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, tries: int) -> None:
    seen = []

    def down(self: Parts, name: str, data: bytes) -> bool:
        seen.append(name)
        raise error

    monkeypatch.setattr(Parts, "commit", down)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    worker, shard = bench.worker([pair("a")])
    with pytest.raises(type(error)):
        worker.process(shard)
    assert seen == [shard.name] * tries


def test_a_lost_race_leaves_the_winners_part(bench: Bench) -> None:
    worker, shard = bench.worker([pair("a")])
    assert worker.process(shard).won
    first = Path(worker.output.data_uri(shard.name)).read_bytes()
    late = worker.process(shard, attempt=2)
    assert not late.won
    assert not late.skipped
    assert Path(worker.output.data_uri(shard.name)).read_bytes() == first


def test_draining_skips_what_has_not_begun(bench: Bench) -> None:
    worker, shard = bench.worker([pair("a")])
    worker.drain()
    report = worker.process(shard)
    assert (report.skipped, report.won, report.rows) == (True, False, 1)
    assert not Path(worker.output.data_uri(shard.name)).exists()


def test_pairs_one_by_one_make_the_same_part(bench: Bench) -> None:
    rows = [pair("a"), pair("b", MISSING), pair("c", "c1.png"), pair("d", "c2.png")]
    whole = bench.run(rows)
    worker, shard = bench.worker(rows)
    ids = shard.table["pair_id"].to_pylist()
    made = [
        worker.failed_row(shard, i, 3, "worker_died", "killed its worker") if pair_id == "d" else worker.process_single(shard, i, 3)
        for i, pair_id in enumerate(ids)
    ]
    report = worker.commit_isolated(shard, made, 0.0, 3)
    assert (report.rows, report.ok, report.errors) == (4, 2, {"not_found": 1, "worker_died": 1})
    found = read(worker, shard)
    assert same(found["a"], whole["a"])
    assert same(found["c"], whole["c"])
    assert found["b"]["error_code"] == "not_found"
    assert (found["d"]["error_code"], found["d"]["attempt"], found["d"]["seed"]) == ("worker_died", 3, pair_seed(0, "d"))


def test_two_threads_share_a_worker(bench: Bench) -> None:
    rows = [pair(f"{c}{s}", f"c{c}.png", f"s{s}.png") for c in range(3) for s in range(2)]
    whole = bench.run(rows)
    worker, shard = bench.worker(rows)
    info = worker.spec.info
    halves = [Shard(0, number, shard.table.slice(3 * number, 3)) for number in range(2)]
    assert [len(pairs(half.table, info)) for half in halves] == [3, 3]
    reports: list[ShardReport] = []
    threads = [threading.Thread(target=lambda half=half: reports.append(worker.process(half))) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(r.number for r in reports) == [0, 1]
    found = read(worker, halves[0]) | read(worker, halves[1])
    assert all(same(found[i], whole[i]) for i in whole)


def test_progress_tells_what_is_on_the_device_and_counts_the_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = bench.worker([pair("a"), pair("b")])
    seen = []
    run = Stylizer.run

    def watched(self: Stylizer, pairs: Sequence[Any], *more: Any) -> Any:
        seen.append(worker.progress().pairs)
        return run(self, pairs, *more)

    monkeypatch.setattr(Stylizer, "run", watched)
    assert worker.progress().steps == 0
    worker.process(shard)
    after = worker.progress()
    assert seen == [("a",), ("b",)]  # one by one on a CPU
    assert after.pairs == ()
    assert after.evaluations == 8
    assert after.steps >= 4 + 2
    assert 0 < after.busy <= after.now - (after.first or 0) + 1e-3


def test_the_time_of_each_phase_is_told_while_it_runs_and_afterwards(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = bench.worker([pair("a"), pair("b", content="gone.png")])
    during: dict[str, tuple[dict[str, float], dict[str, float]]] = {}

    def watched(phase: str, honest: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            before = worker.progress().phase_seconds
            time.sleep(0.01)
            during[phase] = before, worker.progress().phase_seconds
            return honest(*args, **more)

        return call

    for phase, where, name in (
        ("fetch", storage, "read"),
        ("decode", worker_inputs, "decode"),
        ("optimise", worker.stylizer, "run"),
        ("encode", worker_rows, "encode"),
        ("put", worker.output.parts, "commit"),
    ):
        monkeypatch.setattr(where, name, watched(phase, getattr(where, name)))
    worker.process(shard)
    after = worker.progress()
    assert tuple(after.phase_seconds) == PHASES == tuple(during)
    for phase, (first, second) in during.items():
        assert second[phase] - first[phase] >= 0.01  # it grows while the phase runs
        assert after.phase_seconds[phase] >= second[phase]
    assert worker.progress().phase_seconds == after.phase_seconds  # and stands still when nothing does
    assert after.busy == after.phase_seconds["optimise"]


# when what is around the pairs breaks


def _away(monkeypatch: pytest.MonkeyPatch, away: Sequence[str]) -> list[float]:
    """The store does not answer for URIs that end in one of `away`; returns the pauses that were made."""
    read_file, pauses = storage.read, list[float]()

    def read(uri: str, **options: Any) -> bytes:
        if uri.endswith(tuple(away)):
            raise Unreachable(f"{uri}: no answer")
        return read_file(uri, **options)

    monkeypatch.setattr(storage, "read", read)
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_a_store_that_is_away_is_no_pairs_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = bench.worker([pair("a"), pair("b", "c1.png")])
    pauses = _away(monkeypatch, [".png"])
    with pytest.raises(Unreachable):
        worker.process(shard)
    assert not Path(worker.output.data_uri(shard.name)).exists()  # nothing is written off
    assert sum(pauses) > 500
    assert worker.progress().steps > 0  # waiting is not hanging


def test_a_store_that_comes_back_costs_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = bench.worker([pair("a")])
    failures, read_file = [Unreachable("down")] * 3, storage.read

    def read(uri: str, **options: Any) -> bytes:
        if failures:
            raise failures.pop()
        return read_file(uri, **options)

    monkeypatch.setattr(storage, "read", read)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert worker.process(shard).ok == 1


def test_one_object_its_store_cannot_give_is_its_pairs_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = bench.worker([pair("a"), pair("b", "c1.png"), pair("c", "c2.png")])
    _away(monkeypatch, ["c1.png"])
    slow = storage.read

    def others_later(uri: str, **options: Any) -> bytes:
        if not uri.endswith("c1.png"):
            threading.Event().wait(0.05)  # so that they are read after the trouble began
        return slow(uri, **options)

    monkeypatch.setattr(storage, "read", others_later)
    monkeypatch.setattr(time, "sleep", lambda seconds: threading.Event().wait(0.1))
    assert worker.process(shard).errors == {"fetch_failed": 1}


def test_a_gpu_that_no_longer_computes_ends_its_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, shard = bench.worker([pair("a")])

    def broken(*anything: Any, **more: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def ends(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(Stylizer, "run", broken)
    assert worker.process(shard).errors == {"internal": 1}  # a CPU has no such state
    again, shard = bench.worker([pair("b")])
    again.stylizer.device = torch.device("cuda")
    monkeypatch.setattr(torch, "zeros", broken)
    monkeypatch.setattr(os, "_exit", ends)
    with pytest.raises(SystemExit):
        again.process(shard)
    assert not Path(again.output.data_uri(shard.name)).exists()
