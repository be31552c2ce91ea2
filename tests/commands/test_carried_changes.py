"""Columns that a manifest only carries got other values, such as a corrected label: every command says so and goes on."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jobs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench import Bench, pair, read, weights
from outputs import make_output, picture

from nstray import config, storage
from nstray.cluster.progress import Display
from nstray.commands import prepare, verify
from nstray.commands.plan import plan
from nstray.commands.run import EXIT_COMPLETE, run
from nstray.errors import OutputError
from nstray.images.encode import encode
from nstray.output.folder import Output
from nstray.worker.worker import Worker

__all__ = ["weights"]  # a fixture

CHANGED = "columns that the manifest only carries have other values than before"
SETTINGS = config.make({**jobs.SETTINGS, "weights": "random", "shard_size": 2})


class Labelled:
    """A manifest of labelled pairs, and the job of it; nothing is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "pairs.parquet"
        self.table = pa.table(
            {
                "pair_id": [f"p{i}" for i in range(6)],
                "content": [f"c{i}.png" for i in range(6)],
                "style": ["s.png"] * 6,
                "label": [1, 2, 3, 4, 5, 6],
                "caption": ["a", None, "", "d", "e", "f"],
            }
        )

    def write(self, rows: int = 4, **columns: Any) -> None:
        """The first rows, with other `columns`."""
        table = self.table
        for name, values in columns.items():
            array = values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), name, array)
        pq.write_table(table.slice(0, rows), self.manifest)

    def check(self, *, extend: bool = False) -> prepare.Job:
        return prepare.check(str(self.manifest), str(self.folder / "out"), SETTINGS, extend=extend)

    def open(self, *, extend: bool = False) -> dict[str, Any]:
        job = self.check(extend=extend)
        return job.output.job.open(prepare.record(job))


@pytest.fixture
def labelled(tmp_path: Path, weights_once: None) -> Labelled:
    labelled = Labelled(tmp_path)
    labelled.write()
    assert labelled.open()["carried_changes"] == []
    return labelled


CORRECTIONS: dict[str, dict[str, Any]] = {
    "a label": {"label": [1, 2, 30, 4, 5, 6]},
    "a caption": {"caption": ["a", None, "", "D", "e", "f"]},
    "a caption that was null": {"caption": ["a", "b", "", "d", "e", "f"]},
    "an empty caption": {"caption": ["a", None, None, "d", "e", "f"]},
    "two columns": {"label": [6, 5, 4, 3, 2, 1], "caption": list("uvwxyz")},
    "all null": {"caption": [None] * 6},
}


@pytest.mark.parametrize("what", CORRECTIONS)
def test_the_job_says_so_and_goes_on(labelled: Labelled, what: str) -> None:
    labelled.write(**CORRECTIONS[what])
    before = storage.read(Output(str(labelled.folder / "out")).job_uri)
    job = labelled.check()
    (warning,) = plan(job)["warnings"]
    assert CHANGED in warning
    assert storage.read(job.output.job_uri) == before
    stored = labelled.open()
    assert CHANGED in stored["warnings"][0]
    assert (len(stored["carried_changes"]), stored["carried_digest"], stored["manifest_digest"]) == (1, job.info.carried_digest, job.info.digest)
    assert datetime.now(UTC).timestamp() - datetime.fromisoformat(stored["carried_changes"][0]).timestamp() < 600
    rows = [row for table in job.manifest.tables(job.info) for row in table.select(["label", "caption"]).to_pylist()]
    assert [row["label"] for row in rows] == CORRECTIONS[what].get("label", [1, 2, 3, 4, 5, 6])[:4]
    again = labelled.open()
    assert (again["warnings"], again["carried_changes"]) == ([], stored["carried_changes"])
    labelled.write()
    back = labelled.open()
    assert (len(back["warnings"]), len(back["carried_changes"])) == (1, 2)


@pytest.mark.parametrize("what", CORRECTIONS)
def test_a_manifest_may_grow_and_be_corrected_at_once(labelled: Labelled, what: str) -> None:
    labelled.write(6, **CORRECTIONS[what])
    with pytest.raises(OutputError, match="the manifest has grown from 4 rows to 6; give --extend"):
        labelled.check()
    stored = labelled.open(extend=True)
    assert (stored["rows"], stored["cuts"], len(stored["carried_changes"])) == (6, [4], 1)
    assert CHANGED in stored["warnings"][0]
    assert (labelled.open()["warnings"], labelled.open()["cuts"]) == ([], [4])


def test_the_columns_may_stand_in_another_order(labelled: Labelled) -> None:
    """Those of the parts stay as they were."""
    labelled.table = labelled.table.select(["caption", "style", "label", "content", "pair_id"])
    labelled.write()
    stored = labelled.open()
    assert (stored["warnings"], stored["carried_changes"]) == ([], [])
    assert labelled.check().spec.schema.names[-2:] == ["label", "caption"]


def test_new_rows_alone_are_no_correction(labelled: Labelled) -> None:
    labelled.write(6, label=[1, 2, 3, 4, 50, 60])
    stored = labelled.open(extend=True)
    assert (stored["warnings"], stored["carried_changes"]) == ([], [])


OTHER_COLUMNS: dict[str, Callable[[pa.Table], pa.Table]] = {
    "one more": lambda table: table.append_column("split", pa.array(["train"] * 6)),
    "one less": lambda table: table.drop_columns(["caption"]),
    "another name": lambda table: table.rename_columns({"label": "class"}),
    "another type": lambda table: table.set_column(3, "label", table["label"].cast(pa.int32())),
    "text for numbers": lambda table: table.set_column(3, "label", table["label"].cast(pa.string())),
}


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("what", OTHER_COLUMNS)
def test_other_columns_are_refused(labelled: Labelled, what: str, extend: bool) -> None:
    """All parts of a dataset have the same columns."""
    labelled.table = OTHER_COLUMNS[what](labelled.table)
    labelled.write(6 if extend else 4)
    with pytest.raises(OutputError, match=r"the manifest's columns are no longer those that the job was begun with: .*; all parts"):
        labelled.check(extend=extend)


@pytest.mark.parametrize(
    ("name", "values"),
    [("pair_id", list("abcdef")), ("content", list("abcdef")), ("style", list("abcdef"))],
)
def test_what_decides_a_result_is_another_row(labelled: Labelled, name: str, values: list[str]) -> None:
    labelled.write(**{name: values, "label": [6, 5, 4, 3, 2, 1]})
    job = labelled.check()
    with pytest.raises(OutputError, match=r"another job: manifest digest of its 4 rows: .*use another OUT or the manifest"):
        job.output.job.open(prepare.record(job))


@pytest.mark.parametrize("name", ["width", "size", "fine_style", "content_masks", "seed"])
def test_a_column_that_decides_a_result_or_the_order_is_another_row(labelled: Labelled, name: str) -> None:
    labelled.table = labelled.table.append_column(name, pa.array(["s.png"] * 6 if name in ("fine_style", "content_masks") else [64] * 6))
    labelled.write()
    job = labelled.check()
    with pytest.raises(OutputError, match="another job: manifest digest of its 4 rows"):
        job.output.job.open(prepare.record(job))


def test_a_record_of_a_development_version(labelled: Labelled) -> None:
    """It has one digest of all columns. The same file goes on and gives it both; another one is refused, as that version did."""
    path = Path(Output(str(labelled.folder / "out")).job_uri)
    record = json.loads(path.read_text())
    for name in ("carried_digest", "carried_changes", "base"):
        del record[name]
    path.write_text(json.dumps({**record, "rows_digest": "sha256:of all columns"}))
    labelled.write(label=[6, 5, 4, 3, 2, 1])
    job = labelled.check()
    with pytest.raises(OutputError, match="another job: manifest digest of its 4 rows"):
        job.output.job.open(prepare.record(job))
    with pytest.raises(OutputError, match=r"record is of a development version.* the job can't grow; use another OUT"):
        labelled.check(extend=True)
    assert verify.verify(str(labelled.folder / "out"), decode=False).problems[0].startswith("the manifest ")
    labelled.write()
    stored = labelled.open()
    assert (stored["warnings"], stored["carried_changes"], stored["rows_digest"]) == ([], [], record["rows_digest"])
    labelled.write(label=[6, 5, 4, 3, 2, 1])
    assert len(labelled.open()["warnings"]) == 1


@pytest.mark.parametrize("changes", [["then"], [1], "2026-01-01", None, [["2026-01-01"]], ["2026-01-01T00:00:00+00:00", None]])
def test_times_that_are_none_are_damage(labelled: Labelled, changes: Any) -> None:
    path = Path(Output(str(labelled.folder / "out")).job_uri)
    path.write_text(json.dumps({**json.loads(path.read_text()), "carried_changes": changes}))
    with pytest.raises(OutputError, match="damaged: it says of carried_changes what can't be"):
        labelled.check()


# verify, the card, retry


def corrected(made: Any) -> None:
    """Its manifest with another caption in each row."""
    path = Path(made.manifest)
    path.write_text(path.read_text().replace("number", "no."))


def test_verify_says_so_and_finds_damage_as_before(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    corrected(made)
    report = verify.verify(made.out)
    assert (report.problems, report.notes) == (
        [],
        [f"the manifest {made.manifest} has the job's rows, but columns that it only carries have other values now"],
    )
    made.part("part-00000-0001.parquet").write_bytes(made.part("part-00000-0002.parquet").read_bytes())
    found = verify.verify(made.out)
    assert any("against the manifest's shard it lacks" in problem for problem in found.problems)
    assert len(found.notes) == 1


def test_verify_counts_the_rows_of_before(tmp_path: Path) -> None:
    """Those of `make_output` are made on 2 January 2026 at 3:04:05."""
    made = make_output(tmp_path)
    path = Path(Output(made.out).job_uri)
    record = json.loads(path.read_text())
    before, after, later = "2026-01-01T00:00:00+00:00", "2026-01-02T03:04:06+00:00", "2027-01-01T00:00:00+00:00"
    for times, rows in (([after], 6), ([before], 0), ([before, later], 6)):
        path.write_text(json.dumps({**record, "carried_changes": times}))
        report = verify.verify(made.out)
        assert (report.problems, report.earlier) == ([], rows)
        assert [note.partition(",")[0] for note in report.notes] == [f"{rows} rows were made before {times[-1]}"][: bool(rows)]


def test_verify_prints_notes_and_passes(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    made = make_output(tmp_path)
    corrected(made)
    code, out, err = call("verify", made.out)
    assert (code, "verified  True" in out) == (0, True)
    assert err.startswith("note: the manifest ")


def test_the_card_says_so(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    output = Output(made.out)
    said = "Columns from the manifest got other values on"
    assert said not in Path(output.card_uri).read_text()
    times = ["2026-01-03T00:00:00+00:00", "2026-01-04T00:00:00+00:00"]
    assert output.card.write({**made.job, "carried_changes": times})
    assert f"{said} {', '.join(times)}. Each row has the values of the time at which it was made" in Path(output.card_uri).read_text()


@pytest.mark.usefixtures("weights_once")
def test_a_complete_job_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` has nothing to do, and the card tells why the rows differ from the manifest."""
    made = make_output(tmp_path)
    settings = config.make({"weights": "random", "size": 24, "shard_size": 2})
    real = prepare.check(made.manifest, str(tmp_path / "other"), settings)
    path = Path(Output(made.out).job_uri)
    path.write_text(json.dumps({**json.loads(path.read_text()), "weights_id": real.weights.id}))
    corrected(made)
    lines: list[str] = []
    log = Display.log_event
    monkeypatch.setattr(Display, "log_event", lambda self, name, **fields: (lines.append(f"{name} {fields}"), log(self, name, **fields))[1])
    assert run(prepare.check(made.manifest, made.out, settings)) == EXIT_COMPLETE
    assert [line for line in lines if CHANGED in line]
    assert any(line.startswith("already_complete") for line in lines)
    card = Path(Output(made.out).card_uri).read_text()
    assert "6 rows: 6 pictures; error rows: none." in card
    assert "Columns from the manifest got other values on" in card


def test_a_retry_keeps_the_carried_values_of_the_rows_that_it_keeps(tmp_path: Path, weights: Any) -> None:
    bench = Bench(tmp_path, weights)
    rows = [pair("a", label=1, note="x"), pair("b", content="late.png", label=2, note=""), pair("c", label=3, note="z")]
    worker, shard = bench.worker(rows)
    assert worker.process(shard).errors == {"not_found": 1}
    before = read(worker, shard)
    bench.save("late.png", picture(7, 36, 30))
    again, corrected_shard = bench.worker([{**row, "label": row["label"] * 10, "note": "new"} for row in rows])
    spec = dataclasses.replace(again.spec, out=worker.spec.out, retry=("not_found",), carried_changed=True)
    assert Worker(spec, lambda: bench.weights, "cpu").process(corrected_shard).ok == 3
    after = read(worker, shard)
    assert {name: after[name] for name in "ac"} == {name: before[name] for name in "ac"}
    assert (after["b"]["status"], after["b"]["label"], after["b"]["note"]) == ("ok", "20", "new")


@pytest.mark.slow
@pytest.mark.usefixtures("weights_once")
def test_a_whole_job_with_a_corrected_label(local_ray: None, tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    """Run with a picture missing, remove a part, correct the labels, run, correct again, retry, correct again, extend."""
    out = str(tmp_path / "out")
    given = {f"c{c}-s{s}": {"label": f"old {c}{s}", "content": "late.png" if (c, s) == (1, 1) else f"c{c}.png"} for c in range(2) for s in range(2)}
    _, weights_file = jobs.write_inputs(str(tmp_path), contents=2, styles=2)
    manifest = tmp_path / "labels.csv"

    def write(word: str, ids: list[str]) -> None:
        lines = [f"{i},{given[i]['content']},s{i[-1]}.png,{given[i]['label'].replace('old', word)}\n" for i in ids]
        manifest.write_text("pair_id,content,style,label\n" + "".join(lines))

    def labels() -> dict[str, str]:
        tables = [pq.read_table(io.BytesIO(storage.read(storage.join(out, f"data/{name}")))) for name in jobs.parts(out)]
        return {row["pair_id"]: row["label"] for table in tables for row in table.select(["pair_id", "label"]).to_pylist()}

    words = jobs.options({**jobs.SETTINGS, "weights": weights_file, "actors": 1, "max_error_rate": 0.5, "shard_size": 2})
    write("old", sorted(given))
    code, _, said = call("run", manifest, out, *words)
    assert (code, "error_not_found=1" in said) == (0, True), said
    (tmp_path / "out" / "data" / "part-00000-0000.parquet").unlink()
    write("new", sorted(given))
    code, _, said = call("run", manifest, out, *words)
    assert (code, CHANGED in said) == (0, True), said
    assert labels() == {"c0-s0": "new 00", "c1-s0": "new 10", "c0-s1": "old 01", "c1-s1": "old 11"}
    code, _, said = call("verify", out)
    assert (code, "note: 2 rows were made before" in said) == (0, True), said
    (tmp_path / "late.png").write_bytes(encode(picture(9, 24, 24), "png"))
    write("newer", sorted(given))
    code, _, said = call("retry", out)
    assert (code, CHANGED in said) == (0, True), said
    assert labels() == {"c0-s0": "new 00", "c1-s0": "new 10", "c0-s1": "old 01", "c1-s1": "newer 11"}
    given["c0-s2"] = {"label": "old 02", "content": "c0.png"}
    (tmp_path / "s2.png").write_bytes((tmp_path / "s0.png").read_bytes())
    write("newest", ["c0-s0", "c0-s1", "c1-s0", "c1-s1", "c0-s2"])
    code, _, said = call("run", manifest, out, "--extend", *words)
    assert (code, CHANGED in said) == (0, True), said
    assert labels() == {"c0-s0": "new 00", "c1-s0": "new 10", "c0-s1": "old 01", "c1-s1": "newer 11", "c0-s2": "newest 02"}
    assert len(Output(out).job.read()["carried_changes"]) == 3
    assert Path(Output(out).card_uri).read_text().count("Columns from the manifest got other values on") == 1
    report = verify.verify(out)
    assert (report.problems, report.rows, report.ok) == ([], 5, 5)
