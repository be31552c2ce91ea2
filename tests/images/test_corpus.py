"""The corpus of hostile and odd files: through the decoder under caps of memory and time, and through a worker beside good neighbours."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import corpus
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from outputs import picture

from nstray import config, storage
from nstray.engine.network.random_weights import random_weights
from nstray.engine.settings import CONV_LAYERS
from nstray.errors import ErrorCode
from nstray.images.encode import encode
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output.folder import Output
from nstray.worker.messages import JobSpec
from nstray.worker.worker import Worker

CASES = [(group, case) for group in corpus.GROUPS for case in corpus.files(group)]
GROWTH = 160 * 2**10  # KiB: a picture at the pixel cap is 12 MB, and stands a few times in memory as it is turned and converted
TESTS = Path(__file__).parents[1]


@cache
def results(group: str) -> dict[str, dict[str, Any]]:
    """What became of each file of a group, by name."""
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "corpus", group],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        pytest.fail(f"ended with {done.returncode} after {lines[-1:]}\n{done.stderr[-2000:]}")
    return {line["name"]: line for line in lines if "name" in line}


def test_the_corpus_has_what_it_says() -> None:
    names = [case.name for _, case in CASES]
    assert len(names) > 800
    assert len(set(names)) == len(names)
    assert [case.data for _, case in CASES] == [case.data for group in corpus.GROUPS for case in corpus.files(group)]


@pytest.mark.parametrize(("group", "case"), CASES, ids=[f"{group}/{case.name}" for group, case in CASES])
def test_a_picture_or_an_allowed_error_and_nothing_else(group: str, case: corpus.Case) -> None:
    found = results(group)[case.name]
    for way in ("decode", "mask", "probe"):
        assert "escaped" not in found[way], way
        assert found[way]["warnings"] == [], way
    one, mask = found["decode"], found["mask"]
    size, code = one.get("size"), one.get("code")
    assert case.allows(size and tuple(size), code and ErrorCode(code)), one
    assert (mask.get("size"), mask.get("code")) == (size, code)
    if size:
        assert sorted(found["probe"]["size"]) == sorted(size)
    else:
        assert one["message"].startswith("content x: ")
        assert len(one["message"]) < 500


@pytest.mark.parametrize("group", corpus.GROUPS)
def test_memory_and_time(group: str, record_property: pytest.RecordProperty) -> None:
    found = results(group)
    largest = max(found.values(), key=lambda line: line["grown"])
    slowest = max(found.values(), key=lambda line: line["seconds"])
    counts = Counter("picture" if "size" in line["decode"] else line["decode"]["code"] for line in found.values())
    text = f"{group}: {len(found)} files, {dict(counts)}, at most {largest['grown'] >> 10} MiB ({largest['name']}) "
    text += f"and {slowest['seconds']:.2f} s ({slowest['name']}) a file"
    record_property("corpus", text)
    print(text)
    assert largest["grown"] < GROWTH
    assert slowest["seconds"] < 2


@pytest.mark.parametrize(
    ("target", "data"), [("image", b"no image"), ("csv", b"content,style\na,b\nc\xff\n"), ("jsonl", b"[1]"), ("parquet", b"PAR1")]
)
def test_the_fuzzer_runs_a_file_alone_without_atheris(tmp_path: Path, target: str, data: bytes) -> None:
    (tmp_path / "input").write_bytes(data)
    script = TESTS.parent / "scripts" / "fuzz.py"
    done = subprocess.run([sys.executable, script, "--target", target, tmp_path / "input"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'input'}: nothing\n", "")


# Names and neighbours -------------------------------------------------------------------------------------------------


def rows_of(folder: Path, offset: int) -> list[tuple[dict[str, str], frozenset[str]]]:
    """Rows of a manifest, good ones between hostile ones, with the status or code each may have: every third file, and all odd names."""
    good = encode(picture(1, 20, 16), "png")
    (folder / "good.png").write_bytes(good)
    rows: list[tuple[dict[str, str], frozenset[str]]] = []

    def add(content: str, allowed: frozenset[str], style: str = "good.png") -> None:
        if len(rows) % 8 == 0:
            rows.append(({"pair_id": f"good-{len(rows)}", "content": "good.png", "style": "good.png"}, frozenset({"ok"})))
        rows.append(({"pair_id": f"row-{len(rows)}", "content": content, "style": style}, allowed))

    for i, name in enumerate(corpus.odd_names()):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(encode(picture(i, 20, 16), "png"))
        # A name such as ..\\a.png stands for itself only after ./.
        add(f"./{name}", frozenset({"ok"}))
        add("good.png", frozenset({"ok"}), style=f"./{name}")
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    for name in ("x" * 256, "/".join(["y" * 200] * 40), "pipe.png", "loop.png", "sub", "/dev/zero", "."):
        add(name, frozenset({"fetch_failed"}))
        add("good.png", frozenset({"fetch_failed"}), style=name)
    for name in ("gone.png", "good.png/below.png", "sub/../../gone.png", "file:///gone.png"):
        add(name, frozenset({"not_found"}))
    (folder / "files").mkdir()
    for number, (_, case) in enumerate(CASES):
        if number % 3 == offset:
            (folder / "files" / case.name).write_bytes(case.data)
            fine = {"ok", "too_small"} if not case.codes or case.may_be_picture else set()
            add(f"files/{case.name}", frozenset(fine | {code.value for code in case.codes}))
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)), newline="\n")
    else:
        with path.open("w", newline="") as file:
            lines = csv.DictWriter(file, list(rows[0]))
            lines.writeheader()
            # A cell that starts with "[" would be read as a JSON list.
            lines.writerows(row | {"style": json.dumps([row["style"]])} if row["style"].startswith("[") else row for row in rows)


@pytest.mark.parametrize(("offset", "ending"), list(enumerate(("csv", "jsonl", "parquet"))), ids=["csv", "jsonl", "parquet"])
def test_a_worker_gives_every_row_once_and_good_neighbours_are_fine(tmp_path: Path, offset: int, ending: str) -> None:
    torch.set_num_threads(1)
    expected = rows_of(tmp_path, offset)
    write(tmp_path / f"pairs.{ending}", [row for row, _ in expected])
    layers = {"content_layers": "conv1_1", "style_layers": "conv1_1", "size": 16, "evaluations": 1}
    settled = config.make({"weights": "random", **layers, **corpus.CAPS})
    weights = random_weights(CONV_LAYERS[:1])
    source = Manifest(str(tmp_path / f"pairs.{ending}"))
    info = source.check(settled)
    spec = JobSpec(settled, str(tmp_path / "out"), config.fingerprint(settled, weights.id), weights.id, info, settled.init)
    ((window, table),) = cut_windows(source.tables(info))
    (shard,) = cut_shards(window, table, 10_000)
    storage.put_new(Output(spec.out).job_uri, b"{}")  # the job has begun
    worker = Worker(spec, lambda: weights, "cpu")
    report = worker.process(shard)
    assert report.won
    out = pq.read_table(worker.output.data_uri(shard.name)).to_pylist()
    assert sorted(row["pair_id"] for row in out) == sorted(row["pair_id"] for row, _ in expected)
    found = {row["pair_id"]: row for row in out}
    wrong = {}
    for row, allowed in expected:
        made = found[row["pair_id"]]
        if (made["error_code"] or made["status"]) not in allowed:
            wrong[row["content"][:80], row["style"][:80]] = (made["status"], made["error_code"], made["error_message"])
        assert (made["image"] is None) == (made["status"] == "error")
    assert not wrong
    assert report.rows == len(expected) > 400
