"""A manifest that grows at its end: the old rows stay as they are, the new ones are made, and anything else that changed is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from outputs import job_record

from nstray import config, storage
from nstray.commands import prepare, status, verify
from nstray.commands.plan import plan
from nstray.errors import OutputError
from nstray.manifest.manifest import Manifest
from nstray.output import records
from nstray.output.folder import Output
from nstray.output.layout import part_name
from nstray.output.schema import with_features

pytestmark = pytest.mark.usefixtures("weights_once")

# the job


def test_a_manifest_that_was_checked_is_not_read_again(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nothing changed that a check could find otherwise; and the driver is told the same as after a check."""
    read = []
    check = Manifest.check
    monkeypatch.setattr(Manifest, "check", lambda *args: read.append(1) or check(*args))
    first = growing.check()
    assert (first.info, read) == (dataclasses.replace(check(first.manifest, growing.config), marked_digest=None, marked_carried=None), [])
    assert [t.num_rows for t in first.manifest.tables(first.info)] == [4]
    for changes in ({"evaluations": 5}, {"allow_local": True}):
        growing.config = config.make({**jobs.SETTINGS, "weights": "random", **changes})
        growing.check()
        assert read.pop() == 1
    growing.config = config.make({**jobs.SETTINGS, "weights": "random", "actors": 3})
    growing.check()
    assert read == []
    growing.write(7)
    assert growing.check(extend=True).info.rows == 7
    assert read.pop() == 1
    growing.write(4)
    path = Path(Output(growing.out).job_uri)
    stored = json.loads(path.read_text())
    for damage in ({"nstray_version": "0.0"}, {"checked": None}, {"checked": {}}, {"checked": {**stored["checked"], "schema": "?"}}):
        path.write_text(json.dumps({**stored, **damage}))
        assert growing.check().info.rows == 4
        assert read.pop() == 1


class Growing:
    """A manifest of ten pairs of which the first few stand in it, and the job of them; nothing is run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, str(folder / "out")
        jobs.write_inputs(str(folder), contents=2, styles=5)
        self.manifest = folder / "pairs.csv"
        self.lines = self.manifest.read_text().splitlines(keepends=True)
        self.config = config.make({**jobs.SETTINGS, "weights": "random"})

    def write(self, rows: int) -> None:
        self.manifest.write_text("".join(self.lines[: rows + 1]))

    def check(self, *, extend: bool = False) -> prepare.Job:
        return prepare.check(str(self.manifest), self.out, self.config, extend=extend)

    def begin(self, rows: int) -> None:
        self.write(rows)
        begun = self.check()
        begun.output.job.open(prepare.record(begun))


@pytest.fixture
def growing(tmp_path: Path) -> Growing:
    growing = Growing(tmp_path)
    growing.begin(4)
    return growing


def test_the_record_grows_with_the_manifest(growing: Growing) -> None:
    first = Output(growing.out).job.read()
    assert (first["format"], first["cuts"]) == (records.FORMAT, [])
    growing.write(7)
    with pytest.raises(OutputError, match=r"the manifest has grown from 4 rows to 7; give --extend"):
        growing.check()
    for rows, cuts in ((7, [4]), (7, [4]), (9, [4, 7])):
        growing.write(rows)
        grown = growing.check(extend=True)
        assert (grown.spec.cuts, grown.shards) == (tuple(cuts), rows)
        before = storage.head(grown.output.job_uri)
        plan(grown)
        assert storage.head(grown.output.job_uri) == before
        stored = grown.output.job.open(prepare.record(grown))
        assert (stored["rows"], stored["cuts"], stored["format"], stored["manifest_digest"]) == (rows, cuts, records.FORMAT, grown.info.digest)
        assert stored["created_at"] == first["created_at"]
        assert {**stored, "warnings": []} == {**Output(growing.out).job.read(), "warnings": []}
        growing.check()  # as it now is, it needs no --extend


def test_a_job_is_begun_with_extend_too(tmp_path: Path) -> None:
    growing = Growing(tmp_path)
    assert growing.check(extend=True).spec.cuts == ()


def test_the_same_rows_in_another_format_are_the_same_rows(growing: Growing) -> None:
    growing.write(7)
    pq.write_table(pacsv.read_csv(growing.manifest), growing.folder / "pairs.parquet")
    growing.manifest = growing.folder / "pairs.parquet"
    assert growing.check(extend=True).spec.cuts == (4,)


def drop_first(lines: list[str]) -> list[str]:
    return [lines[0], *lines[2:]]


def other_style(lines: list[str]) -> list[str]:
    return [lines[0], lines[1].replace("s0.png", "s1.png"), *lines[2:]]


def other_order(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


@pytest.mark.parametrize("change", [drop_first, other_style, other_order])
def test_old_rows_that_changed_are_refused(growing: Growing, change: Callable[[list[str]], list[str]]) -> None:
    growing.lines = change(growing.lines)
    growing.write(7)
    with pytest.raises(OutputError, match="its first 4 rows are no longer those that the job was begun with"):
        growing.check(extend=True)
    again = growing.check()
    with pytest.raises(OutputError, match=r"another job: manifest rows: 4 there, [67] here; use another OUT or the manifest"):
        again.output.job.open(prepare.record(again))


def test_a_manifest_that_shrank_is_refused(growing: Growing) -> None:
    growing.write(3)
    with pytest.raises(OutputError, match="its first 4 rows are no longer"):
        growing.check(extend=True)


def test_new_rows_with_new_columns_are_refused(growing: Growing) -> None:
    rows = growing.lines[:8]
    growing.manifest.write_text("".join(line.rstrip() + (",who" if i == 0 else ",me" if i > 4 else ",") + "\n" for i, line in enumerate(rows)))
    with pytest.raises(OutputError, match=r"the manifest's columns are no longer those that the job was begun with: who \(absent then, string now\)"):
        growing.check(extend=True)


def test_a_record_without_a_digest_can_not_grow(growing: Growing) -> None:
    """Neither a damaged one nor one of a version that kept no digest of the manifest's rows."""
    path = Path(Output(growing.out).job_uri)
    stored = json.loads(path.read_text())
    del stored["rows_digest"], stored["cuts"]
    growing.write(7)
    for format_, said in ((records.FORMAT, "lacks rows_digest, cuts"), (1, r"can't go on with it: finish it with nstray")):
        path.write_text(json.dumps({**stored, "format": format_}))
        for extend in (False, True):
            with pytest.raises(OutputError, match=said):
                growing.check(extend=extend)


def test_other_settings_are_refused_before_the_record_grows(growing: Growing) -> None:
    growing.write(7)
    growing.config = config.make({**jobs.SETTINGS, "weights": "random", "evaluations": 5})
    other = growing.check(extend=True)
    before = Output(growing.out).job.read()
    with pytest.raises(OutputError, match="evaluations"):
        other.output.job.open(prepare.record(other))
    assert Output(growing.out).job.read() == before


def test_of_two_that_extend_at_once_one_puts_and_both_go_on(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    growing.write(7)
    one, two = growing.check(extend=True), growing.check(extend=True)
    put = storage.put_over
    puts: list[str] = []

    def overtaken(uri: str, data: bytes, *, if_match: str | None = None) -> str:
        if not puts:
            puts.append(uri)
            one.output.job.open(prepare.record(one))
        puts.append(uri)
        return put(uri, data, if_match=if_match)

    monkeypatch.setattr(storage, "put_over", overtaken)
    stored = two.output.job.open({**prepare.record(two), "created_at": "later"})
    assert len(puts) == 3
    assert (stored["rows"], stored["cuts"]) == (7, [4])


def test_of_two_that_extend_differently_the_second_is_told(growing: Growing) -> None:
    growing.write(7)
    one = growing.check(extend=True)
    growing.write(8)
    two = growing.check(extend=True)
    one.output.job.open(prepare.record(one))
    with pytest.raises(OutputError, match="another job: manifest rows: 7 there, 8 here"):
        two.output.job.open(prepare.record(two))
    two = growing.check(extend=True)
    assert two.output.job.open(prepare.record(two))["cuts"] == [4, 7]


@pytest.mark.parametrize("cuts", [[0], [6], [7], [3, 3], [4, 2], "4", [1.5], [None], None, [True]])
def test_cuts_that_can_not_be_are_damage(tmp_path: Path, cuts: Any) -> None:
    output = Output(str(tmp_path))
    storage.put_new(output.job_uri, records.dump(job_record(cuts=cuts)))
    with pytest.raises(OutputError, match="damaged: it says of cuts what can't be"):
        output.job.read()


@pytest.mark.slow
def test_a_whole_job_grows_twice(growing: Growing, local_ray: None, call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Run, add rows, run: each part of the first run is still the same object, and the last one short as it was."""
    out = str(tmp_path / "grown")
    words = [*jobs.options({**jobs.SETTINGS, "weights": str(tmp_path / "weights.safetensors"), "actors": 1, "shard_size": 3})]
    kept: dict[str, Any] = {}
    for rows in (4, 6, 10):
        growing.write(rows)
        code, _, said = call("run", growing.manifest, out, "--extend", *words)
        assert code == 0, said
        parts = jobs.parts(out)
        assert {name: parts[name] for name in kept} == kept
        kept = parts
        assert (status.status(out)["rows_done"], status.status(out)["state"]) == (rows, "complete")
    assert sorted(kept) == [part_name(*p) for p in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1))]
    report = verify.verify(out)
    assert (report.problems, report.ok) == ([], 10)
    assert sorted(r["pair_id"] for r in jobs.rows(out)) == sorted(jobs.all_pairs(2, 5))


def test_labels_that_got_other_names_are_refused(tmp_path: Path) -> None:
    """The numbers are the same, and mean something else."""
    there, here = (
        with_features(pa.schema([("label", pa.int64())]), {"label": {"names": names, "_type": "ClassLabel"}}) for names in (["a", "b"], ["b", "a"])
    )
    output = Output(str(tmp_path / "out"))
    prepare._check_same_columns(output, there, there)
    with pytest.raises(OutputError, match=r"label \(another Hugging Face feature, such as a ClassLabel of other names\)"):
        prepare._check_same_columns(output, there, here)
