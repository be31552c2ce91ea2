"""What a whole job costs, and when the manifest is read for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pyarrow as pa
import pytest

from nstray import config
from nstray.commands import prepare
from nstray.commands.plan import plan
from nstray.engine.settings import same_stages_at_any_size
from nstray.errors import UsageError
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo

pytestmark = pytest.mark.usefixtures("weights_once")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URIs of the manifests whose rows were read after their check."""
    found: list[str] = []
    tables = Manifest.tables

    def counted(self: Manifest, info: ManifestInfo, **more: Any) -> Iterator[pa.Table]:
        found.append(self.uri)
        return tables(self, info, **more)

    monkeypatch.setattr(Manifest, "tables", counted)
    return found


def checked(folder: Path, columns: str, rows: list[str], **settings: Any) -> prepare.Job:
    lines = [f"content,style{columns}", *(f"c{i}.png,s.png{row}" for i, row in enumerate(rows))]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return prepare.check(str(folder / "m.csv"), str(folder / "out"), config.make({**jobs.SETTINGS, "weights": "random", **settings}))


SIDES = (",width,height", [",640,480", ",20,10", ",,"])


@pytest.mark.parametrize(
    ("columns", "rows", "settings", "needed"),
    [
        ("", ["", "", ""], {"coarse": "auto", "size": 512}, 0),
        (*SIDES, {}, 0),
        (*SIDES, {"size": "original"}, 0),
        (*SIDES, {"size_rule": "area", "coarse": "half"}, 0),
        (*SIDES, {"size": "30x20", "size_rule": "exact", "coarse": "25%:3,50%:4"}, 0),
        (*SIDES, {"coarse": "auto", "size": 512}, 1),
        (*SIDES, {"coarse": "12:3"}, 1),
        (*SIDES, {"size_rule": "shortest"}, 1),
        (",seed", [",1", ",2", ","], {"coarse": "auto", "size": 512}, 0),
        (",evaluations", [",7", ",9", ","], {}, 1),
        (",coarse", [",half", ",none", ","], {}, 1),
        (",size", [",12", ",48", ","], {}, 1),
    ],
)
def test_a_run_reads_the_manifest_once_more_only_if_it_must(
    tmp_path: Path, reads: list[str], columns: str, rows: list[str], settings: dict[str, Any], needed: int
) -> None:
    job = checked(tmp_path, columns, rows, **settings)
    evaluations = job.cost.evaluations
    assert len(reads) == needed
    assert evaluations == job.cost.total.evaluations
    assert job.cost.total.pixels / len(rows) <= job.cost.most_pixels
    reads.clear()
    said = plan(checked(tmp_path, columns, rows, **settings))
    assert (said["evaluations_to_do"], len(reads)) == (evaluations, int(columns not in ("", ",seed")))


def test_a_job_that_was_begun_has_parts_that_can_be_put(tmp_path: Path, reads: list[str]) -> None:
    given: tuple[str, list[str]] = (",size", [",12", ",48"])
    job = checked(tmp_path, *given)
    job.output.job.open(prepare.record(job))
    reads.clear()
    assert checked(tmp_path, *given).cost.evaluations == 2 * jobs.SETTINGS["evaluations"]
    assert reads == []


@pytest.mark.parametrize(("columns", "row"), [("", ""), (",width,height", ",8192,6144"), (",size", ",8192")])
def test_a_part_that_no_put_takes_is_refused(tmp_path: Path, columns: str, row: str) -> None:
    size = 64 if columns == ",size" else 8192
    with pytest.raises(UsageError, match=r"shard_size 64: a part would have about 7\.4 GB, .*; use a smaller shard_size"):
        checked(tmp_path, columns, [row], size=size, shard_size=64)


def test_contents_that_are_small_make_small_parts(tmp_path: Path, reads: list[str]) -> None:
    checked(tmp_path, ",width,height", [",96,72"], size=8192, shard_size=64)
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("coarse", "same"),
    [("none", True), ("half", True), ("25%:30,50%:40", True), ("auto", False), ("sqrt2", False), ("128:9", False), ("99%:9", False)],
)
def test_stages_whose_number_follows_the_size(coarse: str, same: bool) -> None:
    assert same_stages_at_any_size(coarse) is same
