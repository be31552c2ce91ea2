"""The types of carried CSV columns: named once, they stand in the job's record, and every later command takes them from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nstray import config
from nstray.commands import prepare, retry, verify
from nstray.errors import OutputError
from nstray.output.folder import Output

pytestmark = pytest.mark.usefixtures("weights_once")

TYPES = "label=int64"


class Job:
    """A manifest of four pairs with a label, of which a job was begun and nothing was run."""

    def __init__(self, folder: Path, types: str = TYPES) -> None:
        self.folder, self.out = folder, str(folder / "out")
        jobs.write_inputs(str(folder), contents=2, styles=3)
        self.manifest = folder / "pairs.csv"
        lines = self.manifest.read_text().splitlines()
        self.lines = [line + (",label" if i == 0 else f",00{i}") for i, line in enumerate(lines)]
        self.write(4)
        begun = self.check(types)
        begun.output.job.open(prepare.record(begun))

    def write(self, rows: int) -> None:
        self.manifest.write_text("\n".join(self.lines[: rows + 1]) + "\n")

    def check(self, types: str = "", **more: Any) -> prepare.Job:
        settings = {**jobs.SETTINGS, "weights": "random", "column_types": types}
        return prepare.check(str(self.manifest), self.out, config.make(settings), **more)

    def change_record(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = Path(Output(self.out).job_uri)
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def labels(job: prepare.Job) -> list[Any]:
    return [value for table in job.manifest.tables(job.info) for value in table["label"].to_pylist()]


def test_a_run_again_takes_the_types_from_the_record(job: Job) -> None:
    assert Output(job.out).job.read()["config"]["column_types"] == ["label=int64"]
    for given in ("", TYPES):
        again = job.check(given)
        assert again.config.column_types == ("label=int64",)
        assert labels(again) == [1, 2, 3, 4]
        again.output.job.compare(again.output.job.read(), prepare.record(again))


def test_other_types_are_refused(job: Job) -> None:
    with pytest.raises(OutputError, match=r"begun with column_types label=int64, .* got label=float64: leave column_types out"):
        job.check("label=float64")


def test_of_two_that_begin_at_once_the_later_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path)
    Path(Output(job.out).job_uri).unlink()
    one, two = job.check(TYPES), job.check("label=float64")
    one.output.job.open(prepare.record(one))
    with pytest.raises(OutputError, match=r"another job: column_types: \['label=int64'\] there, \['label=float64'\] here"):
        two.output.job.open(prepare.record(two))


def test_types_for_a_job_that_was_begun_without_are_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, "")
    assert labels(job.check()) == ["001", "002", "003", "004"]
    with pytest.raises(OutputError, match=r"begun with column_types \(none\)"):
        job.check(TYPES)


def test_a_manifest_that_grows_keeps_its_types(job: Job) -> None:
    job.write(6)
    grown = job.check(extend=True)
    assert grown.info.schema.field("label").type == pa.int64()
    assert grown.spec.cuts == (4,)
    assert labels(grown) == [1, 2, 3, 4, 5, 6]


def test_retry_takes_them_from_the_record(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[prepare.Job] = []
    monkeypatch.setattr(retry, "run", lambda made: seen.append(made) or 0)
    assert retry.retry(job.out, (), {"weights": "random"}) == 0
    assert labels(seen[0]) == [1, 2, 3, 4]


def test_verify_takes_them_from_the_record(job: Job) -> None:
    report = verify.verify(job.out)
    assert report.problems == [
        "4 of 4 parts missing: part-00000-0000.parquet, part-00000-0001.parquet, part-00000-0002.parquet, part-00000-0003.parquet"
    ]


def test_a_job_of_inferred_types_says_which_to_name(job: Job) -> None:
    """An earlier version took the types from the values, and its record has no column_types."""

    def earlier(record: dict[str, Any]) -> None:
        del record["config"]["column_types"]
        record["nstray_version"] = "0.2.0.dev0"

    job.change_record(earlier)
    with pytest.raises(OutputError, match=r"carried columns of other types \(label=int64\); name them with --column-types"):
        job.check()
    assert labels(job.check(TYPES)) == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", [5, "label", ["label=complex"], {"label": []}])
def test_a_damaged_record(job: Job, damage: Any) -> None:
    job.change_record(lambda record: record["config"].update(column_types=damage))
    with pytest.raises(OutputError, match="the job's record is damaged: column_types"):
        job.check()


@pytest.mark.parametrize("form", ["option", "file"])
def test_from_the_command_line(call: Callable[..., tuple[int, str, str]], job: Job, form: str) -> None:
    given = ["--column-types", "lable=int64"]
    if form == "file":
        (job.folder / "job.yaml").write_text("column_types: {lable: int64}\n")
        given = ["--config", job.folder / "job.yaml"]
    code, _, err = call("manifest", "check", job.manifest, *given)
    assert code == 2
    assert "column_types names lable, which is no column of the manifest: it carries label; did you mean label?" in err
    code, out, _ = call("manifest", "check", job.manifest, "--column-types", TYPES)
    assert (code, out.split()[:2]) == (0, ["rows", "4"])


@pytest.mark.slow
def test_a_whole_job(local_ray: None, call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Run with a type named; rows added, a picture mended: extend and retry name none, and all parts have the same columns."""
    job = Job(tmp_path)
    out = str(tmp_path / "whole")
    words = [*jobs.options({**jobs.SETTINGS, "weights": str(tmp_path / "weights.safetensors"), "actors": 1, "max_error_rate": 1})]
    late = tmp_path / "c0.png"
    late.rename(tmp_path / "away.png")
    code, _, said = call("run", job.manifest, out, *words, "--column-types", TYPES)
    assert code == 0, said
    assert parts(out)["status"].to_pylist().count("error") == 3
    (tmp_path / "away.png").rename(late)
    job.write(6)
    assert call("run", job.manifest, out, *words, "--extend")[0] == 0
    assert call("retry", out)[0] == 0
    table = parts(out)
    assert table.schema.field("label").type == pa.int64()
    assert sorted(table["label"].to_pylist()) == [1, 2, 3, 4, 5, 6]
    assert set(table["status"].to_pylist()) == {"ok"}
    assert verify.verify(out).problems == []


def parts(out: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(Path(out, "data").glob("*.parquet"))])
