"""Jobs whose pictures lie in archives, from the command line; the order that a job keeps."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import jobs
import pytest
from archives import arrow, parquet, table, tar
from outputs import picture

from nstray import config, storage
from nstray.commands import prepare
from nstray.errors import OutputError
from nstray.images.encode import encode
from nstray.output.folder import Output

pytestmark = pytest.mark.usefixtures("weights_once")
Call = Callable[..., tuple[int, str, str]]
SETTINGS = config.make({**jobs.SETTINGS, "weights": "random", "shard_size": 2})
CONTENTS = [encode(picture(i, 30, 28), "png") for i in range(3)]
ROWS = """pair_id,content,style
tar,a.tar::d/0.png,s.arrow::image[1]
parquet,a.parquet::image[1],"[""s.arrow::image[0]"", ""s0.png""]"
arrow,a.arrow::image[2],s0.png
missing,a.tar::d/9.png,s0.png
loose,s0.png,./s0.png
null,a.parquet::image[3],s0.png
"""


def write(folder: str, rows: str = ROWS) -> tuple[str, str]:
    """Archives, a manifest of `rows` and weights; returns the URIs of the last two."""
    _, weights = jobs.write_inputs(folder, contents=0, styles=1, manifest="other.csv")
    files = {
        "a.tar": tar({f"d/{i}.png": data for i, data in enumerate(CONTENTS)}),
        "a.parquet": parquet(table([*CONTENTS, None])),
        "a.arrow": arrow(table(CONTENTS), 2),
        "s.arrow": arrow(table(CONTENTS), 2, stream=False),
        "m.csv": rows.encode(),
    }
    for name, data in files.items():
        storage.put_new(f"{folder}/{name}", data)
    return f"{folder}/m.csv", weights


def run(*words: object) -> tuple[int, str]:
    """``nstray WORDS`` in a process with a Ray of its own, whose workers have this environment: exit code and stderr."""
    done = subprocess.run([*jobs.NSTRAY, *map(str, words)], capture_output=True, text=True, env={**os.environ, **jobs.LOCAL_RAY}, timeout=600)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "s3", "rgw"])
def test_a_job_over_archives(tmp_path: Path, request: pytest.FixtureRequest, where: str) -> None:
    folder = str(tmp_path) if where == "local" else request.getfixturevalue(where)
    manifest, weights = write(folder)
    out = f"{folder}/out"
    words = jobs.options({**jobs.SETTINGS, "weights": weights, "actors": 1, "shard_size": 2})
    code, said = run("run", manifest, out, *words, "--max-error-rate", "1")
    assert code == 0, said
    made = {row["pair_id"]: row for row in jobs.rows(out)}
    codes = {name: row["error_code"] for name, row in made.items()}
    assert codes == {"tar": None, "parquet": None, "arrow": None, "loose": None, "missing": "not_found", "null": "not_found"}
    assert made["missing"]["error_message"] == "content: a.tar: has no member 'd/9.png'"
    assert json.loads(storage.read(Output(out).job_uri))["order"] == "archive"
    code, said = run("verify", out)
    assert (code, said) == (0, "")
    if where == "local":
        code, said = run("sheet", out, "-o", tmp_path / "sheet.png")
        assert (code, (tmp_path / "sheet.png").exists()) == (0, True), said
    # the archive gets what it lacked: the rows are made by retry
    storage.put_over(f"{folder}/a.tar", tar({f"d/{i}.png": CONTENTS[i % 3] for i in range(10)}))
    code, said = run("retry", out, "--weights", weights)
    assert {row["pair_id"]: row["error_code"] for row in jobs.rows(out)} == {**codes, "missing": None}, said


def checked(folder: Path, *, extend: bool = False) -> prepare.Job:
    return prepare.check(f"{folder}/m.csv", f"{folder}/out", SETTINGS, extend=extend)


def test_a_job_keeps_the_order_that_it_was_begun_with(tmp_path: Path) -> None:
    write(str(tmp_path))
    job = checked(tmp_path)
    assert job.spec.order == "archive"
    record = prepare.record(job)
    job.output.job.open(record)
    assert json.loads(storage.read(job.output.job_uri))["order"] == "archive"
    assert jobs.shards_of(checked(tmp_path)) == jobs.shards_of(job)
    # a record of a version without the rule
    del record["order"]
    storage.put_over(job.output.job_uri, json.dumps(record).encode())
    old = checked(tmp_path)
    assert old.spec.order == "style"
    assert jobs.shards_of(old) != jobs.shards_of(job)
    stored = old.output.job.open(prepare.record(old))
    assert "order" not in stored
    # a rule of a later version
    storage.put_over(job.output.job_uri, json.dumps({**record, "order": "later"}).encode())
    with pytest.raises(OutputError, match=r"whose order of rows \(later\) this version lacks: finish it with that version"):
        checked(tmp_path)
    storage.put_over(job.output.job_uri, json.dumps({**record, "order": 3}).encode())
    with pytest.raises(OutputError, match="it says of order what can't be"):
        checked(tmp_path)


def test_a_job_of_loose_files_that_grows_by_members_keeps_its_order(tmp_path: Path) -> None:
    write(str(tmp_path), "content,style\ns0.png,s0.png\na.png,s0.png\n")
    job = checked(tmp_path)
    assert job.spec.order == "style"
    assert prepare.record(job)["order"] == "style"
    job.output.job.open(prepare.record(job))
    (tmp_path / "m.csv").write_text("content,style\ns0.png,s0.png\na.png,s0.png\na.tar::d/0.png,s0.png\n")
    grown = checked(tmp_path, extend=True)
    assert (grown.spec.order, grown.info.archives) == ("style", True)


def test_places_may_be_written_anew_while_a_job_is_under_way(tmp_path: Path) -> None:
    rows = "".join(f"a.parquet::image[{i}],s{i % 3}.png\n" for i in range(250))
    write(str(tmp_path), "content,style\n" + rows)
    job = checked(tmp_path)
    job.output.job.open(prepare.record(job))
    placed = "".join(f"a.parquet::image[{i}],s{i % 3}.png,{i // 10}:{i % 10}\n" for i in range(250))
    (tmp_path / "m.csv").write_text("content,style,content_at\n" + placed)
    again = checked(tmp_path)
    assert jobs.shards_of(again) == jobs.shards_of(job)
    again.output.job.open(prepare.record(again))


def test_a_check_names_file_row_and_column(tmp_path: Path, call: Call) -> None:
    write(str(tmp_path), "content,style,content_at\na.tar::d/0.png,s0.png,512:10\na.tar::d/1.png,s0.png,here\n")
    code, _, said = call("manifest", "check", tmp_path / "m.csv")
    assert code == 2
    assert "m.csv row 2: content_at: 'here' is no place: it is OFFSET:LENGTH in a tar and GROUP:ROW in Parquet and Arrow" in said


def test_an_init_may_be_a_member(tmp_path: Path) -> None:
    write(str(tmp_path))
    given = SETTINGS.model_copy(update={"init": f"{tmp_path}/a.tar::d/1.png"})
    job = prepare.check(f"{tmp_path}/m.csv", f"{tmp_path}/out", given)
    assert job.spec.init == f"{tmp_path}/a.tar::d/1.png"
    assert job.init_id == "sha256:" + sha256(CONTENTS[1]).hexdigest()
