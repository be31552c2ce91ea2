"""What an output says of itself: status, verify, export."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import CARRIED, error_row, footer, make_output, ok_row, picture
from PIL import Image

from nstray import storage
from nstray.commands.export import export
from nstray.commands.status import status
from nstray.commands.verify import verify
from nstray.errors import ManifestError, NstrayError, OutputError
from nstray.images.encode import encode
from nstray.output import part_file, paths
from nstray.output.folder import Output
from nstray.output.part_file import FOOTER_KEY, encode_part
from nstray.output.records import dump
from nstray.output.schema import encode_schema, part_schema

PARTS = ["part-00000-0000.parquet", "part-00000-0001.parquet", "part-00000-0002.parquet"]


# status


def test_status_of_a_complete_job(tmp_path: Path) -> None:
    made = make_output(tmp_path, errors={"c0-s1": "not_found", "c1-s2": "too_small"})
    said = status(made.out)
    assert json.loads(json.dumps(said)) == said
    assert said["state"] == "complete"
    assert (said["rows_total"], said["rows_done"], said["ok"]) == (6, 6, 4)
    assert said["errors"] == {"not_found": 1, "too_small": 1}
    assert (said["parts_done"], said["parts_total"]) == (3, 3)
    assert (said["evaluations"], said["seconds"]) == (18, 4.5)
    assert said["bytes"] == sum(p.stat().st_size for p in Path(made.out, "data").iterdir())
    assert (said["first_commit"], said["last_commit"]) == ("2023-11-14T22:13:20+00:00", "2023-11-14T22:13:32+00:00")
    assert said["weights_id"] == made.job["weights_id"]


@pytest.mark.parametrize("skip", [PARTS[:1], PARTS[:2], PARTS])
def test_status_of_a_running_or_dead_job(tmp_path: Path, skip: list[str]) -> None:
    made = make_output(tmp_path, skip=skip, finish=False)
    said = status(made.out)
    assert said["state"] == "incomplete"
    assert (said["parts_done"], said["parts_total"]) == (3 - len(skip), 3)
    assert (said["rows_done"], said["ok"]) == (2 * (3 - len(skip)),) * 2
    assert (said["first_commit"] is None) == (len(skip) == 3)


def test_a_summary_beside_missing_rows_is_not_complete(tmp_path: Path) -> None:
    made = make_output(tmp_path, skip=PARTS[:1], finish=False)
    Output(made.out).summary.write({"rows": 6})
    assert status(made.out)["state"] == "incomplete"


def test_status_without_a_job(tmp_path: Path) -> None:
    for ask in (status, verify):
        with pytest.raises(OutputError, match="no nstray job at"):
            ask(str(tmp_path / "nothing"))


# verify


@pytest.mark.parametrize("decode", [True, False])
def test_a_whole_dataset_passes(tmp_path: Path, decode: bool) -> None:
    made = make_output(tmp_path, errors={"c0-s1": "not_found"})
    seen: list[tuple[int, int]] = []
    report = verify(made.out, decode=decode, progress=lambda done, total: seen.append((done, total)))
    assert report.problems == []
    assert report.passed
    assert (report.parts, report.rows, report.ok, report.errors) == (3, 6, 5, {"not_found": 1})
    assert seen == [(1, 3), (2, 3), (3, 3)]


def put_back(made: Any, name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Replace a part by `rows`, with the footer it had, changed by `more`."""
    old = json.loads(pq.read_metadata(made.part(name)).metadata[FOOTER_KEY])
    made.part(name).write_bytes(encode_part(rows, part_schema(CARRIED), {**old, **more}))


def rewrite(made: Any, name: str, change: Callable[[pa.Table], pa.Table], **more: Any) -> None:
    """Replace a part by a table that `encode_part` would not write."""
    table = change(pq.read_table(made.part(name)))
    info = {**json.loads(pq.read_metadata(made.part(name)).metadata[FOOTER_KEY]), **more}
    with pq.ParquetWriter(made.part(name), table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"nstray": json.dumps(info)})


def column(name: str, values: list[Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(
        table.schema.get_field_index(name), table.schema.field(name), pa.array(values, table.schema.field(name).type)
    )


def rows_of(made: Any, name: str) -> list[dict[str, Any]]:
    return [dict(row) for row in made.rows[name]]


def other_bytes(data: bytes) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        rows = rows_of(made, PARTS[1])
        rows[0]["image"] = {**rows[0]["image"], "bytes": data}
        put_back(made, PARTS[1], rows)

    return change


def truncated() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return encode(noise, "png")[:-200]


def swap(made: Any) -> None:
    first, second = (made.part(name).read_bytes() for name in PARTS[:2])
    made.part(PARTS[0]).write_bytes(second)
    made.part(PARTS[1]).write_bytes(first)


def repeated(made: Any) -> None:
    rows = rows_of(made, PARTS[1])
    put_back(made, PARTS[1], [rows_of(made, PARTS[0])[0], rows[1]])


def cut(made: Any) -> None:
    made.part(PARTS[1]).write_bytes(made.part(PARTS[1]).read_bytes()[:-30])


def flipped(made: Any) -> None:
    data = bytearray(made.part(PARTS[1]).read_bytes())
    data[-3] ^= 0xFF
    made.part(PARTS[1]).write_bytes(bytes(data))


def drop_last_row(made: Any) -> None:
    put_back(made, PARTS[1], rows_of(made, PARTS[1])[:1])


def foreign(made: Any) -> None:
    pq.write_table(pa.table({"a": [1]}), made.part(PARTS[1]))


DAMAGE: dict[str, tuple[Callable[[Any], None], list[str]]] = {
    "a missing part": (lambda made: made.part(PARTS[1]).unlink(), [f"1 of 3 parts missing: {PARTS[1]}"]),
    "a part cut short": (cut, [f"{PARTS[1]}: can't be read"]),
    "a flipped byte": (flipped, [f"{PARTS[1]}: can't be read"]),
    "a part nstray did not write": (foreign, [f"{PARTS[1]}: can't be read: ", "that nstray did not write"]),
    "a part too many": (
        lambda made: shutil.copy(made.part(PARTS[1]), made.part("part-00000-0003.parquet")),
        ["1 unexpected file in data/: part-00000-0003.parquet"],
    ),
    "a foreign file among the parts": (lambda made: made.part("train.parquet").write_bytes(b""), ["1 unexpected file in data/: train.parquet"]),
    "two parts swapped": (
        swap,
        [f"{PARTS[0]}: its footer says it is part 1 of window 0", f"{PARTS[0]}: against the manifest's shard it lacks", "belong elsewhere"],
    ),
    "an id twice": (repeated, ["occurs 2 times: in part-00000-0000.parquet, part-00000-0001.parquet", "digest was made from", "lacks"]),
    "a lost row": (
        drop_last_row,
        [f"{PARTS[1]}: its pair ids are not those its footer's digest", f"{PARTS[1]}: against the manifest's shard it lacks"],
    ),
    "rows in another order": (
        lambda made: put_back(made, PARTS[1], rows_of(made, PARTS[1])[::-1]),
        [f"{PARTS[1]}: against the manifest's shard it has another order"],
    ),
    "another fingerprint": (
        lambda made: put_back(made, PARTS[1], rows_of(made, PARTS[1]), fingerprint="0" * 64),
        [f"{PARTS[1]}: its fingerprint 0000"],
    ),
    "a footer that miscounts": (
        lambda made: rewrite(made, PARTS[1], lambda table: table, ok=1, errors={"internal": 1}),
        [f"{PARTS[1]}: its footer counts 2 rows, 1 ok, {{'internal': 1}}; it has 2, 2, {{}}"],
    ),
    "another schema": (
        lambda made: rewrite(made, PARTS[1], lambda table: table.drop_columns(["caption"])),
        [f"{PARTS[1]}: its schema is not the job's"],
    ),
    "no image feature": (
        lambda made: rewrite(made, PARTS[1], lambda table: table.replace_schema_metadata(None)),
        [f"{PARTS[1]}: its schema is not the job's"],
    ),
    "a truncated picture": (other_bytes(truncated()), ["decode_failed"]),
    "a text for a picture": (other_bytes(b"<html>404</html>"), ["not_an_image"]),
    "a picture of another size": (other_bytes(encode(picture(1, 10, 10), "png")), ["its picture is 10x10, the row says 24x16"]),
    "ok without a picture": (
        lambda made: rewrite(made, PARTS[1], column("image", [None, None])),
        ["status is ok and there is no picture"],
    ),
    "a picture's path with folders": (
        lambda made: rewrite(made, PARTS[1], column("image", [{"bytes": b"x", "path": "../a.png"}] * 2)),
        ["path '../a.png' is not a bare file name"],
    ),
    "a struct of nulls": (
        lambda made: rewrite(made, PARTS[0], column("image", [{"bytes": None, "path": None}] * 2)),
        ["an error row whose image is not null"],
    ),
    "an unknown code": (lambda made: rewrite(made, PARTS[0], column("error_code", ["gremlins", "gremlins"])), ["the unknown code 'gremlins'"]),
    "an unknown status": (lambda made: rewrite(made, PARTS[1], column("status", ["fine", "ok"])), ["status is 'fine'"]),
    "ok with a code": (lambda made: rewrite(made, PARTS[1], column("error_code", ["internal", None])), ["status is ok and error_code is 'internal'"]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_named(tmp_path: Path, what: str) -> None:
    # Parts hold two pairs, sorted by style: the first has both error rows.
    made = make_output(tmp_path, errors={"c0-s0": "not_found", "c1-s0": "diverged"})
    assert verify(made.out).passed
    damage, said = DAMAGE[what]
    damage(made)
    report = verify(made.out)
    problems = report.problems
    for text in said:
        assert any(text in p for p in problems), problems
    named = [name for name in PARTS if any(p.startswith(f"{name}: ") for p in problems)]
    assert report.bad_parts == named
    assert any(remedy.startswith(REMEDIES.get(what, f"remove {', '.join(named)} and run the job again to remake ")) for remedy in report.remedies)


REMEDIES = {
    "a missing part": "run the job again: it makes the parts that are missing",
    "a part too many": "move the unexpected files out of data/",
    "a foreign file among the parts": "move the unexpected files out of data/",
}


@pytest.mark.parametrize("what", [w for w in DAMAGE if w not in ("a part too many", "a foreign file among the parts")])
def test_the_remedy_mends_the_damage(tmp_path: Path, what: str) -> None:
    """Removing the parts that are named, and making what is missing as a run does, leaves no problem."""
    made = make_output(tmp_path, errors={"c0-s0": "not_found", "c1-s0": "diverged"})
    whole = {name: made.part(name).read_bytes() for name in PARTS}
    DAMAGE[what][0](made)
    for name in verify(made.out).bad_parts:
        made.part(name).unlink()
    for name in PARTS:
        if not made.part(name).exists():
            assert Output(made.out).parts.commit(name, whole[name])
    assert verify(made.out).problems == []


def test_without_decoding_the_rest_is_still_checked(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    other_bytes(truncated())(made)
    assert verify(made.out, decode=False).passed
    drop_last_row(made)
    assert not verify(made.out, decode=False).passed


def test_a_temporary_file_of_a_killed_writer_is_no_problem(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    made.part(".nstray-put-0123").write_bytes(b"half")
    assert verify(made.out).passed


def test_a_manifest_elsewhere_must_be_the_same_one(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    source = Path(made.manifest)
    text = source.read_bytes()
    source.unlink()
    with pytest.raises(ManifestError, match="--manifest"):
        verify(made.out)
    other = source.with_name("other.csv")
    other.write_bytes(text)
    assert verify(made.out, str(other)).passed
    other.write_bytes(b"".join(text.splitlines(keepends=True)[:-1]))
    report = verify(made.out, str(other))
    (problem,) = report.problems
    assert "is not the job's" in problem
    assert report.remedies == ["give the manifest that the job was run with: --manifest MANIFEST"]


@pytest.mark.parametrize("labels", ["as before", "corrected"])
def test_a_manifest_that_has_grown_is_told_from_another_one(tmp_path: Path, labels: str) -> None:
    made = make_output(tmp_path)
    lines = Path(made.manifest).read_bytes().splitlines(keepends=True)
    if labels == "corrected":
        lines = [lines[0].strip() + b",more\n", *(line.strip() + b",x\n" for line in lines[1:])]
    grown = Path(made.manifest).with_name("grown.csv")
    new = [lines[1].replace(b"c0", b"c9"), lines[2].replace(b"c0", b"c9")]
    grown.write_bytes(b"".join(lines + new))
    report = verify(made.out, str(grown))
    assert report.problems == [f"the manifest {grown} has grown from the job's 6 rows to 8"]
    assert report.remedies == ["run the job with --extend, which makes the new rows"]
    assert [note for note in report.notes if "carries" in note] == (
        [f"the manifest {grown} has the job's rows, but columns that it only carries have other values now"] if labels == "corrected" else []
    )


@pytest.mark.parametrize("change", ["another row", "another order", "fewer rows", "rows before", "another row of two more"])
def test_another_manifest_has_no_note_on_carried_columns(tmp_path: Path, change: str) -> None:
    made = make_output(tmp_path)
    header, *rows = Path(made.manifest).read_bytes().splitlines(keepends=True)
    new = rows[0].replace(b"c0", b"c9")
    changed = {
        "another row": [*rows[:-1], new],
        "another order": rows[::-1],
        "fewer rows": rows[:-1],
        "rows before": [new, *rows],
        "another row of two more": [*rows[:-1], new, new.replace(b"c9", b"c8"), rows[-1]],
    }[change]
    other = Path(made.manifest).with_name("other.csv")
    other.write_bytes(header + b"".join(changed))
    report = verify(made.out, str(other))
    assert report.notes == []
    assert f"the manifest {other} is not the job's: it has {len(changed)} rows" in report.problems[0]
    assert "--extend" not in "".join(report.problems)
    job = Output(made.out).job.read()
    assert job["rows_digest"] in report.problems[0]


def test_many_problems_are_counted_not_listed_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nstray.commands.verify_report.MAX_PROBLEMS", 2)
    made = make_output(tmp_path)
    for name in PARTS:
        put_back(made, name, rows_of(made, name), fingerprint="0" * 64)
    report = verify(made.out)
    assert (len(report.problems), report.more) == (2, 1)


# export


@pytest.mark.dev
def test_export_is_an_imagefolder(tmp_path: Path) -> None:
    made = make_output(tmp_path, errors={"c0-s1": "not_found"})
    to = tmp_path / "plain"
    counts = export(made.out, str(to))
    assert (counts["images"], counts["errors"]) == (5, 1)
    rows = {row["pair_id"]: row for part in made.rows.values() for row in part if row["image"]}
    assert sorted(p.name for p in to.iterdir()) == sorted([*(f"{i}.png" for i in rows), "metadata.jsonl"])
    assert counts["bytes"] == sum(p.stat().st_size for p in to.glob("*.png"))
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(to), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.num_rows == 5
    assert {"image", "pair_id", "caption", "split", "loss_total"} <= set(loaded.column_names)
    assert "loss_curve" not in loaded.column_names
    for row in loaded:
        expected = Image.open(io.BytesIO(rows[row["pair_id"]]["image"]["bytes"]))
        assert np.array_equal(np.asarray(row["image"]), np.asarray(expected))
        assert row["caption"] == rows[row["pair_id"]]["caption"]


def test_export_again_changes_nothing_and_overwrites_only_when_told(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    to = tmp_path / "plain"
    counts = export(made.out, str(to))
    before = {p.name: p.read_bytes() for p in to.iterdir()}
    picture_file = to / "c0-s0.png"
    stamp = picture_file.stat().st_mtime_ns
    assert export(made.out, str(to)) == counts
    assert {p.name: p.read_bytes() for p in to.iterdir()} == before
    assert picture_file.stat().st_mtime_ns == stamp
    picture_file.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"c0-s0\.png exists with other bytes"):
        export(made.out, str(to))
    assert picture_file.read_bytes() == b"mine"
    export(made.out, str(to), overwrite=True)
    assert {p.name: p.read_bytes() for p in to.iterdir()} == before


def test_export_among_other_files_says_so(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    said: list[str] = []
    plain = tmp_path / "plain"
    plain.mkdir()
    export(made.out, str(plain), on_warning=said.append)
    assert export(made.out, str(plain), on_warning=said.append)["images"] == 6
    assert said == []
    cats = tmp_path / "cats"
    cats.mkdir()
    (cats / "cat.jpg").write_bytes(b"cat")
    export(made.out, str(cats), on_warning=said.append)
    (warning,) = said
    assert warning.startswith(f"{cats} holds files already, such as cat.jpg, and no metadata.jsonl of an export")
    assert (cats / "cat.jpg").read_bytes() == b"cat"


def test_export_of_a_growing_job_grows(tmp_path: Path) -> None:
    made = make_output(tmp_path, skip=PARTS[2:], finish=False)
    to = tmp_path / "plain"
    assert export(made.out, str(to))["images"] == 4
    rows = rows_of(made, PARTS[2])
    foot = footer([r["pair_id"] for r in rows], number=2)
    Output(made.out).parts.commit(PARTS[2], encode_part(rows, part_schema(CARRIED), foot))
    assert export(made.out, str(to))["images"] == 6
    assert len((to / "metadata.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("text", ['{"file_name": "cat.png"}\n', "not json\n", "[1]\n"])
def test_export_leaves_somebody_elses_listing(tmp_path: Path, text: str) -> None:
    made = make_output(tmp_path)
    to = tmp_path / "plain"
    to.mkdir()
    (to / "metadata.jsonl").write_text(text)
    with pytest.raises(OutputError, match="of something else"):
        export(made.out, str(to))
    assert [p.name for p in to.iterdir()] == ["metadata.jsonl"]


def test_export_leaves_another_jobs_listing(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    listing = tmp_path / "plain" / "metadata.jsonl"
    export(made.out, str(listing.parent))
    for name, other in (("config_fingerprint", "0" * 64), ("weights_id", "random:1")):
        lines = [json.loads(line) for line in listing.read_text().splitlines()]
        theirs = "".join(json.dumps({**line, name: other}) + "\n" for line in lines)
        listing.write_text(theirs)
        with pytest.raises(OutputError, match="of something else"):
            export(made.out, str(listing.parent))
        assert listing.read_text() == theirs
        export(made.out, str(listing.parent), overwrite=True)
        assert {json.loads(line)[name] for line in listing.read_text().splitlines()} == {lines[0][name]}


def test_export_writes_nowhere_else(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    rewrite(made, PARTS[0], column("image", [{"bytes": b"x", "path": "../outside.png"}] * 2))
    with pytest.raises(OutputError, match="not a bare file name"):
        export(made.out, str(tmp_path / "plain"))
    assert not (tmp_path / "outside.png").exists()


def test_export_writes_json_that_every_reader_takes(tmp_path: Path) -> None:
    def change(name: str, rows: list[dict[str, Any]], foot: dict[str, Any]) -> None:
        rows[0]["loss_total"] = float("nan")

    made = make_output(tmp_path, change=change)
    export(made.out, str(tmp_path / "plain"))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "plain" / "metadata.jsonl").read_text().splitlines()]
    assert [line["loss_total"] for line in lines].count(None) == len(PARTS)
    assert lines[0]["created_at"] == "2026-01-02T03:04:05+00:00"


def test_a_carried_column_called_file_name_does_not_win(tmp_path: Path) -> None:
    carried = pa.schema([("file_name", pa.string()), ("when", pa.timestamp("ns"))])
    made = make_output(tmp_path, contents=1, styles=2)
    output = Output(made.out)
    job = output.job.read()
    Path(made.out, ".nstray", "job.json").write_bytes(dump({**job, "carried_schema": encode_schema(carried)}))
    when = pa.scalar(1_700_000_000_123_456_789, pa.timestamp("ns"))
    rows = [ok_row("a", file_name="theirs.jpg", when=when), error_row("b", file_name="x", when=None)]
    made.part(PARTS[0]).write_bytes(encode_part(rows, part_schema(carried), footer(["a", "b"])))
    export(made.out, str(tmp_path / "plain"))
    (line,) = [json.loads(text) for text in (tmp_path / "plain" / "metadata.jsonl").read_text().splitlines()]
    assert (line["file_name"], line["manifest_file_name"]) == ("a.png", "theirs.jpg")
    assert line["when"].endswith("123456789")


def test_export_does_not_hold_its_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB of it: the pictures' captions, which a part holds once."""
    made = make_output(tmp_path, contents=1, styles=1)
    ids = [f"p{i}" for i in range(200)]
    rows = [ok_row(i, caption="x" * 100_000, split=0) for i in ids]
    made.part(PARTS[0]).write_bytes(encode_part(rows, part_schema(CARRIED), footer(ids)))
    file = tempfile.SpooledTemporaryFile
    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", lambda max_size: file(max_size=2**20))
    monkeypatch.setattr(part_file, "ROWS_PER_GROUP", 8)
    monkeypatch.setattr(paths, "RECORD_BYTES", 2**20)  # of which a buffer is made
    tracemalloc.start()
    try:
        assert export(made.out, str(tmp_path / "plain"))["images"] == 200
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    lines = (tmp_path / "plain" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["caption"] == "x" * 100_000 for line in lines] == [True] * 200
    assert most < 8e6


# the same on S3


def test_an_output_on_s3(tmp_path: Path, s3: str) -> None:
    made = make_output(tmp_path, out=f"{s3}/sets/first", errors={"c0-s1": "not_found"})
    assert made.out == f"{s3}/sets/first"
    said = status(made.out)
    assert (said["state"], said["rows_done"], said["errors"]) == ("complete", 6, {"not_found": 1})
    report = verify(made.out)
    assert (report.problems, report.rows) == ([], 6)
    counts = export(made.out, f"{s3}/plain")
    assert export(made.out, f"{s3}/plain") == counts
    assert [storage.name(info.uri) for info in storage.list_files(f"{s3}/plain")] == [
        *sorted(f"{r['pair_id']}.png" for rows in made.rows.values() for r in rows if r["image"]),
        "metadata.jsonl",
    ]
    output = Output(made.out)
    storage.delete(output.data_uri(PARTS[1]))
    storage.put_over(output.data_uri(PARTS[2]), storage.read(output.data_uri(PARTS[0])))
    problems = verify(made.out).problems
    assert any(f"1 of 3 parts missing: {PARTS[1]}" in p for p in problems)
    assert any(p.startswith(f"{PARTS[2]}: its footer says it is part 0") for p in problems)
    with pytest.raises(OutputError, match="another job"):
        output.job.open({**made.job, "rows": 7})


def test_an_output_on_s3_that_is_not_there(s3: str) -> None:
    with pytest.raises(OutputError, match="no nstray job at"):
        status(f"{s3}/nothing")
    with pytest.raises(NstrayError):
        status("s3://no-such-bucket-here/nothing")
