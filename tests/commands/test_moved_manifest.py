"""A project that was moved, mounted elsewhere or copied to another bucket: its rows are the same, and so is their order."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import shards_of

from nstray import config, storage
from nstray.commands import prepare, verify
from nstray.commands import retry as retry_module
from nstray.commands.retry import retry
from nstray.errors import ManifestError, OutputError, UsageError
from nstray.output.folder import Output

pytestmark = pytest.mark.usefixtures("weights_once")

SETTINGS = config.make({**jobs.SETTINGS, "weights": "random", "shard_size": 2})
MANIFESTS = {
    "relative": "content,style\nc.png,s.png\nd.png,s.png\nd.png,t.png\n",
    "with ids": "pair_id,content,style\na,c.png,s.png\nb,d.png,s.png\nc,d.png,t.png\n",
    "lists of styles": 'content,style,style_weights\nc.png,"[""s.png"",""t.png""]","[1,2]"\nd.png,s.png,\nd.png,"[""t.png""]",\n',
    "masks": "content,style,content_masks,style_masks\n"
    'c.png,s.png,c.png,\nd.png,s.png,,s.png\nd.png,"[""s.png"",""t.png""]","[""c.png"",""d.png""]",\n',
    "fine styles": "content,style,fine_style\nc.png,s.png,t.png\nd.png,s.png,\nd.png,t.png,s.png\n",
    "starts": "content,style,init\nc.png,s.png,d.png\nd.png,s.png,noise\nd.png,t.png,\n",
    "settings": "content,style,size,seed\nc.png,s.png,32,7\nd.png,s.png,,\nd.png,t.png,48,\n",
    "folders above": "content,style\n../x/c.png,s.png\nd.png,../x/s.png\n./d.png,x/../t.png\n",
    "absolute and relative": "content,style\nc.png,/k/s.png\n/k/d.png,s.png\n/zz/d.png,t.png\n",
    "URIs": "content,style\ns3://k/c.png,s.png\nfile:///k/d.png,s.png\nd.png,s3://zz/t.png\n",
    "archives": "content,style\nx.tar::c.png,s.png\nd.parquet::image[150],s.png\nd.parquet::image[0],t.png\n",
    "carried": "content,style,label\nc.png,s.png,1\nd.png,s.png,2\nd.png,t.png,3\n",
}
ADDED = {name: text.splitlines()[-1].replace("t.png", "u.png").removeprefix("c,") + "\n" for name, text in MANIFESTS.items()}
ADDED["with ids"] = "z,d.png,u.png\n"


def begin(folder: Path, text: str) -> list[tuple[str, str]]:
    """Begin a job of the manifest `text` in `folder`, without running it; returns its shards."""
    folder.mkdir(parents=True)
    (folder / "m.csv").write_text(text)
    job = checked(folder)
    job.output.job.open(prepare.record(job))
    return shards_of(job)


def checked(folder: Path | str, *, extend: bool = False, manifest: str = "m.csv", out: str = "out") -> prepare.Job:
    return prepare.check(f"{folder}/{manifest}", f"{folder}/{out}", SETTINGS, extend=extend)


def moved(old: Path) -> Path:
    new = old.parent / "zz" / "deep"
    new.parent.mkdir()
    return old.rename(new)


def moved_up(old: Path) -> Path:
    return old.rename(old.parent / "A")


def mounted(old: Path) -> Path:
    os.symlink(old, old.parent / "mnt")
    return old.parent / "mnt"


def mounted_elsewhere(old: Path) -> Path:
    away = old.rename(old.parent / "disk")
    os.symlink(away, old.parent / "mnt")
    return old.parent / "mnt"


def copied(old: Path) -> Path:
    return Path(shutil.copytree(old, old.parent / "copy"))


MOVES = [moved, moved_up, mounted, mounted_elsewhere, copied]


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_project_that_moved_goes_on_and_grows(tmp_path: Path, kind: str, move: Callable[[Path], Path]) -> None:
    begun = begin(tmp_path / "project", MANIFESTS[kind])
    there = move(tmp_path / "project")
    again = checked(there)
    assert again.output.job.open(prepare.record(again))["warnings"] == []
    assert shards_of(again) == begun
    (there / "m.csv").write_text(MANIFESTS[kind] + ADDED[kind])
    with pytest.raises(OutputError, match="the manifest has grown from 3 rows to 4; give --extend"):
        checked(there)
    grown = checked(there, extend=True)
    stored = grown.output.job.open(prepare.record(grown))
    assert (stored["rows"], stored["cuts"], stored["warnings"]) == (4, [3], [])
    assert (stored["manifest"], stored["base"]) == (f"{there}/m.csv", str(tmp_path / "project"))
    assert shards_of(grown)[:2] == begun
    assert verify.verify(str(there / "out"), decode=False).problems == ["3 of 3 parts missing: " + ", ".join(name for name, _ in shards_of(grown))]


@pytest.mark.parametrize("seed", range(20))
def test_rows_keep_their_order_wherever_the_manifest_is(tmp_path: Path, seed: int) -> None:
    """Also those that name a mixture of places, and after it grew in two of them."""
    choice = random.Random(seed)
    names = ["c.png", "../c.png", "../../c.png", "/m/c.png", "/a/c.png", "/z/c.png", "s3://b/c.png", "x/../c.png", "project/c.png", "zz/c.png"]
    rows = [f"p{i},{choice.choice(names)},{choice.choice(names)}\n" for i in range(30)]
    text = ["pair_id,content,style\n", *rows]
    first = begin(tmp_path / "m" / "project", "".join(text[:11]))
    there = moved(tmp_path / "m" / "project")
    (there / "m.csv").write_text("".join(text[:21]))
    grown = checked(there, extend=True)
    grown.output.job.open(prepare.record(grown))
    second = shards_of(grown)
    assert second[:5] == first
    there = there.rename(tmp_path / "0")
    (there / "m.csv").write_text("".join(text))
    grown = checked(there, extend=True)
    grown.output.job.open(prepare.record(grown))
    assert shards_of(grown)[:10] == second
    assert shards_of(checked(there)) == shards_of(grown)


@pytest.mark.parametrize("name", ["other.parquet", "other.jsonl", "folder/part.parquet"])
def test_the_same_rows_in_another_file_are_the_same_job(tmp_path: Path, name: str) -> None:
    """Of another name, format and order of columns, with lists in place of JSON's text; no word is said."""
    lists = 'd.png,"[""s.png"",""t.png""]","[""c.png"",""d.png""]"'
    begun = begin(tmp_path / "project", f"content,style,content_masks,label\nc.png,s.png,c.png,a\nd.png,s.png,,s.png\n{lists},b\n")
    rows = [
        {"label": "a", "content_masks": ["c.png"], "style": ["s.png"], "content": "c.png"},
        {"label": "s.png", "content_masks": None, "style": ["s.png"], "content": "d.png"},
        {"label": "b", "content_masks": ["c.png", "d.png"], "style": ["s.png", "t.png"], "content": "d.png"},
    ]
    where = tmp_path / "project" / name
    where.parent.mkdir(exist_ok=True)
    if name == "folder/part.parquet":  # its paths start from the folder
        name = "folder"
    if where.suffix == ".jsonl":
        where.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), where)
    again = checked(tmp_path / "project", manifest=name)
    stored = again.output.job.open(prepare.record(again))
    assert (stored["warnings"], stored["carried_changes"]) == ([], [])
    assert (stored["manifest"], stored["manifest_digest"]) == (str(tmp_path / "project" / name), again.info.digest)
    assert shards_of(again) == begun
    assert verify.verify(str(tmp_path / "project" / "out"), decode=False).problems == [f"2 of 2 parts missing: {begun[0][0]}, {begun[1][0]}"]


@pytest.mark.parametrize(
    "change",
    [("c.png", "./c.png"), ("c.png", "C.png"), ("s.png", "/k/s.png"), ("d.png,t.png", "d.png,s.png")],
)
def test_a_reference_that_is_written_otherwise_is_another_row(tmp_path: Path, change: tuple[str, str]) -> None:
    begin(tmp_path / "project", MANIFESTS["with ids"])
    (tmp_path / "project" / "m.csv").write_text((MANIFESTS["with ids"] + ADDED["with ids"]).replace(*change))
    with pytest.raises(OutputError, match="its first 3 rows are no longer those that the job was begun with"):
        checked(tmp_path / "project", extend=True)


def test_a_record_from_before_the_base_was_kept(tmp_path: Path) -> None:
    """The manifest's place says it."""
    begun = begin(tmp_path / "project", MANIFESTS["absolute and relative"])
    path = Path(Output(str(tmp_path / "project" / "out")).job_uri)
    record = json.loads(path.read_text())
    del record["base"]
    path.write_text(json.dumps(record))
    there = moved(tmp_path / "project")
    again = checked(there)
    assert shards_of(again) == begun
    stored = again.output.job.open(prepare.record(again))
    assert (stored["base"], stored["manifest"]) == (str(tmp_path / "project"), str(there / "m.csv"))
    assert shards_of(checked(there)) == begun


def test_retry_and_verify_of_a_moved_project(tmp_path: Path) -> None:
    begin(tmp_path / "project", MANIFESTS["relative"])
    there = moved(tmp_path / "project")
    out = str(there / "out")
    for call in (lambda: retry(out, (), {}), lambda: verify.verify(out)):
        with pytest.raises(ManifestError, match=r"the manifest that the job names can't be used: .*m\.csv.*; say where to look with --manifest"):
            call()
    assert verify.verify(out, str(there / "m.csv"), decode=False).problems == [
        "2 of 2 parts missing: part-00000-0000.parquet, part-00000-0001.parquet"
    ]
    again = checked(there)  # what `retry` does with --manifest
    assert Output(out).job.compare(Output(out).job.read(), prepare.record(again)) == []


def test_retry_of_a_project_that_moved_with_its_weights_and_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    manifest, weights = jobs.write_inputs(str(folder), contents=1, styles=1)
    init = str(folder / "c0.png")
    job = prepare.check(manifest, str(folder / "out"), config.make({**jobs.SETTINGS, "weights": weights, "init": init}))
    job.output.job.open(prepare.record(job))
    there = moved(folder)
    out, given = str(there / "out"), {"weights": str(there / "weights.safetensors"), "init": str(there / "c0.png")}
    monkeypatch.setattr(retry_module, "run", lambda job: 0)
    for name, old in (("weights", weights), ("init", init)):
        changes = {other: path for other, path in given.items() if other != name}
        with pytest.raises(UsageError) as caught:
            retry(out, (), changes, f"{there}/pairs.csv")
        assert str(caught.value) == f"the {name} that the job names can't be used: {old}: no such file; say where to look with --{name}"
    assert retry(out, (), given, f"{there}/pairs.csv") == 0


def test_a_prefix_that_was_copied_to_another_bucket(s3: str) -> None:
    for bucket in ("one", "two"):
        storage.put_new(f"{s3}/{bucket}/m.csv", MANIFESTS["with ids"].encode())
    begun = checked(f"{s3}/one")
    begun.output.job.open(prepare.record(begun))
    storage.put_new(f"{s3}/two/out/.nstray/job.json", storage.read(begun.output.job_uri))
    storage.put_over(f"{s3}/two/m.csv", (MANIFESTS["with ids"] + ADDED["with ids"]).encode())
    grown = checked(f"{s3}/two", extend=True)
    stored = grown.output.job.open(prepare.record(grown))
    assert (stored["cuts"], stored["manifest"], stored["base"]) == ([3], f"{s3}/two/m.csv", f"{s3}/one")
    assert shards_of(grown)[:2] == shards_of(begun)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relative", "folders above"])
def test_a_whole_job_moves_and_grows(tmp_path: Path, local_ray: None, call: Callable[..., tuple[int, str, str]], kind: str) -> None:
    folder = tmp_path / "m" / "project"
    jobs.write_inputs(str(folder), contents=2, styles=2)
    text = MANIFESTS[kind].replace("c.png", "c0.png").replace("d.png", "c1.png").replace("s.png", "s0.png").replace("t.png", "s1.png")
    if kind == "folders above":
        text = text.replace("../x/", "../project/").replace("x/../", "")
    (folder / "m.csv").write_text(text)
    words = jobs.options({**jobs.SETTINGS, "weights": str(folder / "weights.safetensors"), "actors": 1})
    code, _, said = call("run", folder / "m.csv", folder / "out", *words)
    assert code == 0, said
    there = folder.rename(folder.parent / "project2") if kind == "relative" else mounted(folder)
    words = jobs.options({**jobs.SETTINGS, "weights": str(there / "weights.safetensors"), "actors": 1})
    before: dict[str, Any] = jobs.parts(str(there / "out"))
    (there / "m.csv").write_text(text + "c0.png,s1.png\n")
    code, _, said = call("run", there / "m.csv", there / "out", "--extend", *words)
    assert code == 0, said
    after = jobs.parts(str(there / "out"))
    assert {name: after[name] for name in before} == before
    assert len(after) == 4
    code, _, said = call("verify", there / "out")
    assert (code, said) == (0, "")
    code, _, said = call("retry", there / "out", "--weights", there / "weights.safetensors")
    assert code == 0, said
