"""What others made and nstray reads: weights, manifests and whole outputs that mean harm. No code of theirs runs, no path of theirs is written."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from outputs import Made, footer, make_output, ok_row
from PIL import Image

import nstray
from nstray import storage
from nstray.config import JobConfig
from nstray.engine.network.random_weights import random_weights
from nstray.engine.network.weight_files import load_weights, parse_weights
from nstray.engine.settings import CONV_LAYERS
from nstray.errors import ManifestError, OutputError, WeightsError
from nstray.images.encode import encode
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import pairs
from nstray.output import part_file, records
from nstray.output.folder import Output
from nstray.output.layout import part_count
from nstray.output.reader import MAX_PIXELS, read_rows
from nstray.output.schema import part_schema
from nstray.reports.gather import gather

Call = Callable[..., tuple[int, str, str]]


class Payload:
    """Unpickled, it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


# no code


def hostile_weights(marker: Path) -> dict[str, bytes]:
    state = {f"{k}": v for k, v in random_weights(CONV_LAYERS[:1]).tensors.items()}
    found: dict[str, bytes] = {}
    for legacy in (False, True):
        for name, holds in (
            ("alone", Payload(marker)),
            ("inside", {**state, "more": Payload(marker)}),
            ("as_a_key", {**state, "x": {1: Payload(marker)}}),
        ):
            sink = io.BytesIO()
            torch.save(holds, sink, _use_new_zipfile_serialization=not legacy)
            found[f"{name}-{'legacy' if legacy else 'zip'}.pth"] = sink.getvalue()
    found["plain.pkl"] = pickle.dumps(Payload(marker))
    found["protocol0.pth"] = pickle.dumps(Payload(marker), protocol=0)
    sink = io.BytesIO()
    torch.save(torch.nn.Conv2d(3, 4, 3), sink)
    found["module.pth"] = sink.getvalue()
    sink = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 4, 3)), sink)
    found["script.pth"] = sink.getvalue()
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("../../evil", "x")
        file.writestr("archive/data.pkl", pickle.dumps(Payload(marker)))
    found["archive.pth"] = sink.getvalue()
    sink = io.BytesIO()
    np.save(sink, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    found["object.npy"] = sink.getvalue()
    found["huge.safetensors"] = (2**62).to_bytes(8, "little") + b"{}"
    found["deep.safetensors"] = (100_000).to_bytes(8, "little") + b'{"a":' * 20_000
    header = b'{"conv1_1.weight":{"dtype":"F32","shape":[64,3,3,3],"data_offsets":[0,9000000]}}'
    found["outside.safetensors"] = len(header).to_bytes(8, "little") + header + bytes(100)
    return found


def test_weights_that_hold_code_are_refused_and_it_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name, data in hostile_weights(marker).items():
        with pytest.raises(WeightsError) as caught:
            parse_weights(data, name)
        assert name in str(caught.value)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError):
            load_weights(str(tmp_path / name))
        assert not marker.exists(), name
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # it would have worked


def test_the_commands_refuse_them_too(call: Call, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    manifest, _ = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    found = hostile_weights(marker)
    for name in ("inside-zip.pth",):
        path = tmp_path / name
        path.write_bytes(found[name])
        for words in (["run", manifest, tmp_path / "out", "--weights", path], ["weights", "convert", path, "-o", tmp_path / "x.safetensors"]):
            code, told, err = call(*words)
            assert (code, told) == (2, "")
            assert f"{name}: not a file of plain tensors (UnpicklingError); save the state_dict alone" in err
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


UNSAFE = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.loads"),
    *("marshal.loads", "shelve.open", "dill.loads", "joblib.load", "pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.unsafe_load"),
    *("yaml.full_load", "torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url", "tempfile.mktemp", "Image.open"),
}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe(source: str) -> list[str]:
    """What in `source` could run code out of data."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            found += [name for name in names if name.split(".")[0] in ("pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib")]
    for name, node in calls(tree):
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            name in UNSAFE
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False")
            or given.get("shell", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
            or given.get("trust_remote_code", "False") != "False"
        ):
            found.append(name)
    return found


def test_nothing_in_the_source_runs_code_out_of_data() -> None:
    files = sorted(Path(nstray.__file__).parent.rglob("*.py"))
    assert len(files) > 50
    assert {str(path): bad for path in files if (bad := unsafe(path.read_text()))} == {}
    for bad in ("import pickle", "from cloudpickle import loads", "torch.load(f)", "torch.load(f, weights_only=False)", "yaml.load(f)", "eval(x)"):
        assert unsafe(bad), bad
    for bad in ("np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)", "exec(x)"):
        assert unsafe(bad), bad


EXTENSIONS = ("arrow.py_extension_type", "ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_pickled_object")


def test_parquet_with_pickles_in_its_metadata(tmp_path: Path) -> None:
    """Read in a process of its own, as the command line reads it; and none of the metadata is handed on to the output."""
    marker = tmp_path / "marker"
    code = pickle.dumps(Payload(marker))
    fields = [pa.field("content", pa.string()), pa.field("style", pa.string())]
    fields += [
        pa.field(f"x{i}", pa.binary(), metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": code}) for i, name in enumerate(EXTENSIONS)
    ]
    about = {"pandas": json.dumps({"index_columns": [], "columns": []}), "evil": code, "ARROW:extension:name": EXTENSIONS[0]}
    table = pa.table([pa.array(["c.png"]), pa.array(["s.png"]), *[pa.array([code])] * len(EXTENSIONS)], schema=pa.schema(fields, metadata=about))
    pq.write_table(table, tmp_path / "m.parquet")
    assert b"py_extension_type" in base64.b64decode(pq.read_metadata(tmp_path / "m.parquet").metadata[b"ARROW:schema"])
    program = (
        "import sys\nfrom nstray import cli, config\nfrom nstray.cluster import driver\nfrom nstray.commands import verify\n"
        "from nstray.manifest import manifest\nfrom nstray.worker import worker\n"
        "m = manifest.Manifest(sys.argv[1]); info = m.check(config.JobConfig()); t = list(m.tables(info))\n"
        "assert not info.schema.metadata and not any(f.metadata for f in info.schema), info.schema\n"
        "print(sorted(n for n in sys.modules if n == 'ray.data'), t[0].num_rows)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "m.parquet"], capture_output=True, text=True, timeout=400)
    assert done.stdout.strip() == "[] 1", done.stderr
    assert not marker.exists()


def test_a_settings_file_makes_no_objects(call: Call, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    manifest, _ = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    for text in (f"weights: !!python/object/apply:os.system ['touch {marker}']\n", f"!!python/object/new:os.system ['touch {marker}']\n"):
        (tmp_path / "job.yaml").write_text(text)
        code, _, err = call("plan", manifest, tmp_path / "out", "--config", tmp_path / "job.yaml")
        assert code == 2
        assert "could not determine a constructor" in err
    assert not marker.exists()


# no paths


NAMES = [
    *("../x", "..", ".", ".hidden", "a/b", "/etc/passwd", "/", "a\\b", "C:\\x", "C:x", "\\\\host\\share", "a\0b", "\0", "a\nb", "a\n", "\na", "a\rb"),
    *("a\tb", "a b", " a", "~", "~root", "$HOME", "a:b", "a%2f..", "-rf", "--help", "_x", "a" * 129, "a" * 1000),
    *(
        "\u202egnp.x",
        "a\u2044b",
        "a\u2215b",
        "\uff0e\uff0e\uff0fx",
        "\u0430bc",
        "e\u0301",
        "\u00e9",
        "\u2024\u2024/x",
        "\u0661",
        "\uff21",
        "a\u200b",
        "\x7f",
    ),
]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_pair_id_is_no_path(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "csv" and "\0" in name:
        pytest.skip("no CSV holds a NUL")
    path = tmp_path / f"m.{kind}"
    row = {"pair_id": name, "content": "c.png", "style": "s.png"}
    if kind == "csv":
        path.write_bytes(('pair_id,content,style\n"' + name.replace('"', '""') + '",c.png,s.png\n').encode())
    elif kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(ManifestError, match=r"row 1: pair_id: .* must be 1 to 128 of A-Z a-z 0-9 . _ -") as caught:
        Manifest(str(path)).check(JobConfig())
    assert len(str(caught.value)) < 1500
    assert not records.PICTURE_NAME.fullmatch(f"{name}.png") or len(name) in (129, 1000)


@pytest.mark.parametrize("name", ["CON", "nul", "aux.txt", "a..b", "a.", "a" * 128, "0", "metadata.jsonl", "README.md", "A-_."])
def test_a_pair_id_that_looks_odd_and_is_a_file_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "m.csv").write_text(f"pair_id,content,style\n{name},c.png,s.png\n")
    source = Manifest(str(tmp_path / "m.csv"))
    (pair,) = (p for table in source.tables(source.check(JobConfig())) for p in pairs(table, source.check(JobConfig())))
    assert pair.pair_id == name
    assert records.PICTURE_NAME.fullmatch(f"{name}.png")
    assert storage.name(storage.join(str(tmp_path), f"{name}.png")) == f"{name}.png"


# outputs of others


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], None], kind: dict[str, pa.DataType] | None = None) -> None:
    """A part as its maker pleases, past every check of `encode_part`; its footer stays."""
    file = pq.ParquetFile(path)
    foot = file.metadata.metadata[b"nstray"].decode()
    rows, schema = file.read().to_pylist(), file.schema_arrow
    change(rows)
    for name, wanted in (kind or {}).items():
        schema = schema.set(schema.get_field_index(name), pa.field(name, wanted))
    with pq.ParquetWriter(path, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        writer.add_key_value_metadata({"nstray": foot})


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_output(tmp_path / "theirs")


def look(call: Call, made: Made, folder: Path, only: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)) -> str:
    """What every command that reads an output says of it: each ends in its own words, and nothing is written outside `folder`."""
    before = {p for p in folder.parent.rglob("*") if folder not in p.parents}
    said = []
    commands: list[list[object]] = [
        ["status", made.out],
        ["verify", made.out],
        ["verify", made.out, "--no-decode"],
        ["export", made.out, "--to", folder / "x"],
        ["export", made.out, "--to", folder / "x", "--overwrite"],
        ["sheet", made.out, "-o", folder / "s.png"],
        ["sheet", made.out, "-o", folder / "f.png", "--rows", "caption", "--columns", "split"],
        ["report", made.out, "-o", folder / "r.html"],
    ]
    for words in (commands[i] for i in only):
        code, told, err = call(*words)
        assert code in (0, 1, 2), words
        assert "Traceback" not in err, err
        assert "\x1b" not in told + err
        said.append(err)
    assert {p for p in folder.parent.rglob("*") if folder not in p.parents and p != folder} == before - {folder}
    return "".join(said)


PATHS = [
    "../evil.png",
    "/tmp/nstray-evil.png",
    "a/../../evil.png",
    "..",
    "",
    "x.png\0.png",
    "x\n.png",
    "C:\\evil.png",
    ".bashrc",
    "evil.sh",
    "x.png/../../e.png",
    "é.png",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_picture_s_path_is_a_bare_name_or_nothing_is_written(call: Call, made: Made, tmp_path: Path, path: str) -> None:
    rewrite(made.part("part-00000-0000.parquet"), lambda rows: rows[0]["image"].update(path=path))
    folder = tmp_path / "mine"
    folder.mkdir()
    said = look(call, made, folder)
    assert said.count("is not a bare file name") == 4  # verify with and without decoding, export with and without --overwrite
    assert not Path("/tmp/nstray-evil.png").exists()
    assert not list(folder.glob("x/*"))


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "\x1b]0;evil\x07\x1b[2J", "a" * 5000, "\u202egnp"])
def test_ids_and_texts_of_an_output_are_only_shown(call: Call, made: Made, tmp_path: Path, name: str) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0] |= {"pair_id": name, "caption": name, "content_uri": name, "style_uri": [name], "error_code": name, "device": name}

    rewrite(made.part("part-00000-0000.parquet"), change)
    (tmp_path / "mine").mkdir()
    look(call, made, tmp_path / "mine")


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"image": None}, {}),
        ({"image": {"bytes": None, "path": "a.png"}}, {}),
        ({"image": {"bytes": b"", "path": None}}, {}),
        ({"width": None, "height": None}, {}),
        ({"width": -5, "height": 2**31 - 1}, {}),
        ({"status": "\0", "error_code": "x" * 1000}, {}),
        ({"style_uri": None, "content_uri": None, "style_sha256": [None]}, {}),
        ({"style_uri": [None], "content_uri": "http://127.0.0.1:9/x", "content_sha256": "0" * 64}, {}),
        ({"caption": "9" * 5000}, {}),
        ({"image": "text"}, {"image": pa.string()}),
        ({"pair_id": 7}, {"pair_id": pa.int64()}),
        ({"status": 7}, {"status": pa.int64()}),
        ({"style_uri": "a"}, {"style_uri": pa.string()}),
        ({"pair_id": None}, {"pair_id": pa.string()}),
        ({"caption": [{"a": b"\xff"}]}, {"caption": pa.list_(pa.struct([("a", pa.binary())]))}),
    ],
    ids=range(15),
)
def test_an_output_with_rows_that_can_t_be(call: Call, made: Made, tmp_path: Path, changed: dict[str, Any], kind: dict[str, pa.DataType]) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows if kind else rows[:1]:
            row.update(changed)

    rewrite(made.part("part-00000-0000.parquet"), change, kind)
    (tmp_path / "mine").mkdir()
    look(call, made, tmp_path / "mine", (1, 3, 5, 6))


def test_text_that_is_no_utf8_and_columns_that_are_not_there(call: Call, made: Made, tmp_path: Path) -> None:
    path = made.part("part-00000-0000.parquet")
    file = pq.ParquetFile(path)
    table, foot = file.read(), file.metadata.metadata[b"nstray"].decode()
    bad = pa.Array.from_buffers(pa.string(), table.num_rows, pa.array([b"\xff\xfe"] * table.num_rows, pa.binary()).buffers())
    (tmp_path / "mine").mkdir()
    for changed in (
        table.set_column(table.column_names.index("device"), "device", bad),
        table.set_column(table.column_names.index("pair_id"), table.schema.field("pair_id"), bad),
        table.set_column(table.column_names.index("caption"), "caption", bad),
        table.drop_columns(["image"]),
        table.drop_columns(["caption"]),
        table.append_column("image", table["image"]),
    ):
        with pq.ParquetWriter(path, changed.schema) as writer:
            writer.write_table(changed)
            writer.add_key_value_metadata({"nstray": foot})
        look(call, made, tmp_path / "mine", (0, 1, 3, 5, 6))


@pytest.mark.parametrize(
    "changed",
    [
        *({"rows": value} for value in (0, -1, 10**30, "6", 1.5, None, True, [])),
        *({"shard_size": value} for value in (0, -1, 10**30, "2", None)),
        *({"carried_schema": value} for value in ("", "x", "AAAA", base64.b64encode(b"\xff" * 100).decode(), 7)),
        *({"result": value} for value in ({}, [], "x", {"content_weight": "x", "style_weight": []})),
        *({"config": value} for value in ([], "x", {"size": "x"}, {"preset": 7}, {"no": 1})),
        *({"manifest": value} for value in (7, "", "http://host/m.csv", "s3://me:pw@b/m.csv", "\0", "/etc/passwd", "/dev/zero", "/dev/stdin")),
        *({"weights": 7}, {"weights_id": []}, {"fingerprint": {}}, {"created_at": 7}, {"nstray_version": "\x1b[2J"}, {"format": []}),
    ],
    ids=str,
)
def test_an_output_whose_record_can_t_be(call: Call, made: Made, tmp_path: Path, changed: dict[str, Any]) -> None:
    (Path(made.out) / ".nstray" / "job.json").write_text(json.dumps({**made.job, **changed}))
    (tmp_path / "mine").mkdir()
    look(call, made, tmp_path / "mine", (0, 2, 3, 5))


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "[]", "null", '{"format": 1}', "\xff", '{"rows": ' + "9" * 5000 + "}", "NaN"])
@pytest.mark.parametrize("name", ["job.json", "summary.json", "live.json", "index/window-00000.json"])
def test_an_output_whose_records_are_no_such_thing(call: Call, made: Made, tmp_path: Path, name: str, text: str) -> None:
    (Path(made.out) / ".nstray" / name).write_text(text, encoding="latin-1")
    (tmp_path / "mine").mkdir()
    look(call, made, tmp_path / "mine", (0, 2, 3))


@pytest.mark.parametrize(
    "changed",
    [
        *({"started": value} for value in (1e30, "never", float("nan"), float("inf"), [], {}, "9999-99-99")),
        *({"seconds": value} for value in ("x", [], {})),
        *({"evaluations": value} for value in ("x", [], float("inf"))),
        *({"rows": value} for value in (float("inf"), "x", None, -1)),
        *({"errors": value} for value in ([], None, {"a": "x"}, {"\x1b[2J": 1})),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["footer", "index"])
def test_an_output_whose_sums_can_t_be(call: Call, made: Made, tmp_path: Path, changed: dict[str, Any], where: str) -> None:
    index = Path(made.out) / ".nstray" / "index" / "window-00000.json"
    if where == "index":
        index.write_text(json.dumps({**json.loads(index.read_text()), **changed}))
    else:
        index.unlink()
        path = made.part("part-00000-0000.parquet")
        file = pq.ParquetFile(path)
        table, foot = file.read(), json.loads(file.metadata.metadata[b"nstray"])
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"nstray": json.dumps({**foot, **changed})})
    (tmp_path / "mine").mkdir()
    look(call, made, tmp_path / "mine", (0, 2))


def test_a_picture_that_unpacks_to_more_than_memory_is_not_decoded(call: Call, made: Made, tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(sink, "png")
    assert MAX_PIXELS < 20_000**2
    bomb = {"image": {"bytes": sink.getvalue(), "path": "c0-s0.png"}, "width": 20_000, "height": 20_000}
    rewrite(made.part("part-00000-0000.parquet"), lambda rows: rows[0].update(bomb))
    (tmp_path / "mine").mkdir()
    assert "20000x20000 pixels, more than the 100,000,000 that are decoded" in look(call, made, tmp_path / "mine")


def test_a_part_larger_than_any_of_ours_is_not_read(call: Call, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    for name, value, said in (
        ("MAX_ROWS", 1, "it has 2 rows, and a part has at most 1"),
        ("MAX_FOOTER_BYTES", 100, "its footer has"),
        ("MAX_ROW_BYTES", 300, "bytes each, more than the 300 that are read"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part_file, name, value)
            assert said in look(call, made, tmp_path / "mine")


def test_rows_are_read_a_few_at_a_time_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"p{i}" for i in range(250)]
    noise = np.random.default_rng(1).bytes(20_000)
    rows = [ok_row(i, image={"bytes": noise, "path": f"{i}.png"}) for i in ids]
    monkeypatch.setattr(part_file, "ROWS_PER_GROUP", 1000)
    (tmp_path / "p.parquet").write_bytes(part_file.encode_part(rows, part_schema(pa.schema([])), footer(ids)))
    monkeypatch.setattr(part_file, "ROWS_PER_GROUP", 100)
    assert [len(group) for group in read_rows(str(tmp_path / "p.parquet"), ["pair_id"])] == [100, 100, 50]
    monkeypatch.setattr(part_file, "BYTES_PER_GROUP", 1_000_000)
    groups = list(read_rows(str(tmp_path / "p.parquet"), ["pair_id", "image"]))
    assert max(len(group) for group in groups) in (49, 50)
    assert [row["pair_id"] for group in groups for row in group] == ids
    assert {row["image"]["bytes"] for group in groups for row in group} == {noise}


@pytest.mark.slow  # four pictures of 99 million pixels
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_output_of_huge_pictures_takes_little_memory(tmp_path: Path, kind: str) -> None:
    sink = io.BytesIO()
    width = 6_000 if kind == "webp" else 9_900
    how = {"png": {}, "jpeg": {"progressive": True, "subsampling": 0}, "webp": {"lossless": True, "method": 0}}[kind]
    Image.new("RGB", (width, 10_000), (40, 90, 200)).save(sink, kind, **how)
    huge = {"bytes": sink.getvalue(), "path": "x.png"}
    made = make_output(tmp_path, change=lambda _, rows, __: [row.update(image=huge, width=width, height=10_000) for row in rows])
    for words in (
        ("verify", made.out),
        ("sheet", made.out, "-o", tmp_path / "s.png"),
        ("report", made.out, "-o", tmp_path / "r.html"),
        ("status", made.out),
        ("export", made.out, "--to", tmp_path / "e"),
    ):
        log = tmp_path / "time"
        program = "import resource, subprocess, sys; code = subprocess.call(sys.argv[2:]); \n"
        program += "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)); sys.exit(code)"
        done = subprocess.run([sys.executable, "-c", program, log, *jobs.NSTRAY, *map(str, words)], capture_output=True, text=True, timeout=600)
        assert int(log.read_text()) < 1_500_000, words  # KiB
        assert done.returncode == 0, done.stderr


def test_a_sheet_draws_no_file_whose_bytes_the_rows_do_not_know(call: Call, tmp_path: Path) -> None:
    """Another person's output may name any file of this machine as an original."""
    mine = tmp_path / "private.png"
    mine.write_bytes(encode(np.full((40, 60, 3), (1, 254, 3), np.uint8), "png"))

    def shows(path: Path) -> bool:
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        return bool((np.abs(pixels - (1, 254, 3)).max(-1) < 4).any())

    def named(name: str, rows: list[dict[str, Any]], foot: dict[str, Any]) -> None:
        for row in rows:
            if row["content_uri"].endswith("c0.png"):
                row["content_uri"] = str(mine)

    made = make_output(tmp_path / "theirs", change=named)
    assert call("sheet", made.out, "-o", tmp_path / "a.png")[0] == 0
    assert not shows(tmp_path / "a.png")
    mine.unlink()
    mine.write_bytes((tmp_path / "theirs" / "inputs" / "c0.png").read_bytes())
    assert call("sheet", made.out, "-o", tmp_path / "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()  # the very picture is drawn


def test_a_report_holds_no_file_whose_bytes_the_rows_do_not_know(tmp_path: Path) -> None:
    mine = tmp_path / "private.png"
    mine.write_bytes(encode(np.full((40, 60, 3), (1, 254, 3), np.uint8), "png"))

    def named(name: str, rows: list[dict[str, Any]], foot: dict[str, Any]) -> None:
        for row in rows:
            row["content_uri"] = str(mine)

    made = make_output(tmp_path / "theirs", change=named)
    pairs = gather(made.out).pairs
    assert len(pairs) == 6
    assert all(pair.content is None and pair.missing["content"] == "the file has changed since" for pair in pairs)


def test_an_export_replaces_a_link_and_not_what_it_leads_to(call: Call, made: Made, tmp_path: Path) -> None:
    folder, target = tmp_path / "x", tmp_path / "target"
    folder.mkdir()
    target.write_text("mine")
    for name in ("metadata.jsonl", "c0-s0.png"):
        (folder / name).symlink_to(target)
    assert call("export", made.out, "--to", folder)[0] == 2
    assert call("export", made.out, "--to", folder, "--overwrite")[0] == 0
    assert target.read_text() == "mine"
    assert not (folder / "c0-s0.png").is_symlink()


def test_two_pictures_of_one_name_are_not_mixed_up(call: Call, made: Made, tmp_path: Path) -> None:
    rewrite(made.part("part-00000-0000.parquet"), lambda rows: rows[1]["image"].update(path=rows[0]["image"]["path"]))
    code, _, err = call("export", made.out, "--to", tmp_path / "x")
    assert code == 2
    assert "exists with other bytes" in err


def test_the_record_s_limits_let_every_real_job_through(tmp_path: Path) -> None:
    made = make_output(tmp_path / "ours")
    assert Output(made.out).job.read()["rows"] == made.job["rows"]
    assert records.MAX_ROWS >= 1e9
    most = JobConfig.model_validate({"shard_size": records.MAX_SHARD})
    assert most.shard_size == records.MAX_SHARD
    assert part_count(records.MAX_ROWS, 1) > 0
    with pytest.raises(OutputError, match="damaged"):
        records.load_job(json.dumps({**made.job, "rows": records.MAX_ROWS + 1}).encode(), "x")


def test_each_claim_of_the_security_page_names_a_test_that_exists() -> None:
    root = Path(__file__).parent.parent
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (root / "SECURITY.md").read_text())
    assert len(named) >= 20
    for file, name in named:
        assert f"\ndef {name}(" in (root / file).read_text(), f"{file}::{name}"


def listening(pids: set[int]) -> set[str]:
    """The local addresses, in hex, on which these processes wait for connections."""
    inodes = set()
    for pid in pids:
        try:
            inodes |= {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes}


@pytest.mark.slow
@pytest.mark.parametrize("last", [None, "127.0.0.1:9"], ids=["first", "after one that died"])
def test_a_cluster_of_our_own_listens_on_loopback_alone(last: str | None) -> None:
    program = (
        "import sys\nfrom nstray.cluster.ray_session import start_ray, stop_ray\n"
        "start_ray()\nprint('started', flush=True)\nsys.stdin.read()\nstop_ray()"
    )
    with jobs.ray_folder() as folder:
        env = {**{k: v for k, v in os.environ.items() if not k.startswith("RAY_")}, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        if last:  # as `ray start` leaves it, and a machine that goes down does not clean up
            (Path(folder) / "ray").mkdir()
            (Path(folder) / "ray" / "ray_current_cluster").write_text(last)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", program], env=env, start_new_session=True, **pipes) as process:
            try:
                assert process.stdout.readline() == "started\n"
                found = listening({process.pid, *jobs.descendants(process.pid)})
            finally:
                jobs.end(process)
    assert found
    assert found <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
