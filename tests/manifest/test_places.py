"""Members of archives in a manifest, and the columns that say where they lie."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nstray import config, storage
from nstray.errors import ManifestError
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import ManifestInfo, Pair, pairs
from nstray.manifest.shards import BY_ARCHIVE, BY_STYLE, cut_shards, first_order
from nstray.sources.reference import PLACE_COLUMNS, Place

ROWS = [
    {"content": "t/0.tar::a/1.png", "style": ["p/0.parquet::image[3]", "s.png"]},
    {"content": "c.png", "style": ["t/0.tar::s.png"]},
    {"content": "/abs/x.arrow::image[150]", "style": ["s.png"]},
]
PLACES = {
    "content_at": ["512:1000:00ab12cd", None, "1:50"],
    "content_etag": ["abc-2", None, None],
    "style_at": [["0:3", None], ["2048:7"], None],
    "style_etag": [["e1", None], None, None],
}


def write(folder: Path, rows: list[dict[str, object]], name: str = "m.parquet", **columns: list[object]) -> Path:
    path = folder / name
    rows = [{**row, **{k: v[i] for k, v in columns.items()}} for i, row in enumerate(rows)]
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def load(path: Path, **settings: object) -> tuple[ManifestInfo, list[Pair]]:
    manifest = Manifest(str(path))
    info = manifest.check(config.make({"weights": "random", **settings}))
    (table,) = manifest.tables(info)
    assert table.schema.equals(info.schema)
    return info, pairs(table, info)


@pytest.mark.parametrize("name", ["m.parquet", "m.jsonl"])
def test_places_reach_the_pairs(tmp_path: Path, name: str) -> None:
    info, (first, second, third) = load(write(tmp_path, ROWS, name, **PLACES))
    assert first.content == f"{tmp_path}/t/0.tar::a/1.png"
    assert first.styles == (f"{tmp_path}/p/0.parquet::image[3]", f"{tmp_path}/s.png")
    assert first.content_place == Place((512, 1000), 0x00AB12CD, "abc-2")
    assert first.style_places == (Place((0, 3), None, "e1"), None)
    assert (second.content_place, second.style_places) == (None, (Place((2048, 7)),))
    assert (third.content, third.content_place, third.style_places) == ("/abs/x.arrow::image[150]", Place((1, 50)), ())
    assert info.archives
    assert info.carried == ()
    assert not set(PLACE_COLUMNS) & set(info.carried_schema.names)


def test_places_enter_no_id_and_no_digest(tmp_path: Path) -> None:
    bare, bare_pairs = load(write(tmp_path, ROWS, "bare.parquet"))
    for changed in (PLACES, {"content_at": ["1:2", None, None]}, {"style_etag": [["x", None], None, None]}):
        info, found = load(write(tmp_path, ROWS, **changed))
        assert [p.pair_id for p in found] == [p.pair_id for p in bare_pairs]
        assert (info.rows_digest, info.carried_digest) == (bare.rows_digest, bare.carried_digest)
    assert info.carried_schema.equals(bare.carried_schema)


def test_a_csv_manifest_may_have_them(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "content,style,content_at,style_at,content_etag\n"
        'a.tar::1.png,"[""b.tar::2.png"", ""s.png""]",512:10,"[""1024:5"", null]",e\n'
        "c.png,b.tar::2.png,,1024:5:0000000a,\n"
    )
    _, (first, second) = load(path)
    assert first.content_place == Place((512, 10), None, "e")
    assert first.style_places == (Place((1024, 5)), None)
    assert (second.content_place, second.style_places) == (None, (Place((1024, 5), 10),))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"content_at": ["512", None, None]}, "m.parquet row 1: content_at: '512' is no place: it is OFFSET:LENGTH in a tar"),
        ({"content_at": [None, None, "-1:5"]}, "m.parquet row 3: content_at: '-1:5' is no place"),
        ({"content_at": [None, "1:5", None]}, r"m.parquet row 2: content_at: '.*/c\.png' is no member of an archive: leave content_at empty"),
        ({"content_etag": [None, "abc", None]}, r"row 2: content_etag: '.*/c\.png' is no member of an archive: leave content_etag empty"),
        ({"content_etag": ["a b", None, None]}, "row 1: content_etag: 'a b' is no ETag: it has 1 to 200 visible ASCII characters"),
        ({"style_at": [["1:2"], None, None]}, "row 1: style_at: 1 value for 2 styles; give one per style, null for a loose file"),
        ({"style_at": [["1:2", "3:4"], None, None]}, r"row 1: style_at: '.*/s\.png' is no member of an archive"),
        ({"style_at": [["1:2:xyz", None], None, None]}, "row 1: style_at: '1:2:xyz' is no place"),
        ({"style_etag": [["é", None], None, None]}, "row 1: style_etag: 'é' is no ETag"),
        ({"content_at": [1, 2, 3]}, "m.parquet: column content_at holds int64; must be text"),
    ],
)
def test_a_wrong_place_is_named_by_file_row_and_column(tmp_path: Path, columns: dict[str, list[object]], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        load(write(tmp_path, ROWS, **columns))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "a.tar.gz::b.png",
            r"'a.tar.gz::b.png' names a member of an archive that is compressed as a whole, .*: unpack it to a plain .tar, or to files",
        ),
        ("s3://b/a.tgz::b.png", "names a member of an archive that is compressed as a whole"),
        ("a.zip::b.png", "names a member of an archive that is a zip file, which nstray does not read"),
        ("a.tar::/etc/passwd", "the member '/etc/passwd' leads out of its archive"),
        ("a.tar::", "the member's name is empty"),
        ("a.parquet::image[x]", "'image\\[x\\]' is no cell"),
        ("https://host/a.tar::b.png", "https:// is not supported"),
        ("C:\\a.tar::b.png", "is a path of Windows"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(ManifestError, match=f"row 1: content: .*{said}"):
        load(write(tmp_path, [{"content": content, "style": "s.png"}]))


def test_members_wherever_a_reference_stands(tmp_path: Path) -> None:
    row = {
        "content": "../x/a.tar::1.png",
        "style": ["s.png"],
        "content_masks": ["m.tar::mask.png"],
        "style_masks": ["m.parquet::mask[0]"],
        "fine_style": "f.arrow::image[9]",
        "init": "i.tar::x",
    }
    _, (found,) = load(write(tmp_path, [row]))
    assert found.content == f"{tmp_path.parent}/x/a.tar::1.png"
    assert found.content_masks == (f"{tmp_path}/m.tar::mask.png",)
    assert found.style_masks == (f"{tmp_path}/m.parquet::mask[0]",)
    assert found.fine_style == f"{tmp_path}/f.arrow::image[9]"
    assert found.overrides["init"] == f"{tmp_path}/i.tar::x"


def test_a_literal_reference_stays_one(tmp_path: Path) -> None:
    info, (found,) = load(write(tmp_path, [{"content": "./a.tar::b.png", "style": "./a.zip::s.png"}]))
    assert found.content == f"{tmp_path}/./a.tar::b.png"
    assert found.styles == (f"{tmp_path}/a.zip::s.png",)
    assert not info.archives


def test_local_members_are_refused_of_a_manifest_on_a_store(s3: str) -> None:

    storage.put_new(f"{s3}/m.csv", b"content,style\na.tar::b.png,/etc/x.tar::y\n")
    with pytest.raises(ManifestError, match=r"style: '/etc/x\.tar' is local"):
        Manifest(f"{s3}/m.csv").check(config.make({"weights": "random"}))


# order


def orders(rows: list[tuple[str, str]], order: str, **more: list[object]) -> list[int]:
    columns = {
        "row": pa.array(range(len(rows)), pa.int64()),
        "content": pa.array([content for content, _ in rows]),
        "style": pa.array([[style] for _, style in rows], pa.list_(pa.string())),
        **{name: pa.array(values, pa.int32()) for name, values in more.items()},
    }
    (shard,) = cut_shards(0, pa.table(columns), 1000, order)
    return list(shard.table["row"].to_pylist())


def test_archives_are_read_one_after_the_other() -> None:
    rows = [
        ("b.parquet::image[150]", "s1"),
        ("b.parquet::image[20]", "s2"),
        ("a.tar::z.png", "s2"),
        ("b.parquet::image[99]", "s1"),
        ("z.png", "s1"),
        ("a.tar::x[5].png", "s1"),
        ("b.parquet::image[100]", "s1"),
        ("a.png", "s1"),
        ("a.tar::y[900]", "s1"),
        ("c.png", "s0"),
    ]
    # loose files first, by style and content; then the tar by style; then blocks of 100 rows by style
    assert orders(rows, BY_ARCHIVE) == [9, 7, 4, 5, 8, 2, 3, 1, 0, 6]
    assert orders(rows, BY_STYLE) == [9, 7, 5, 8, 6, 0, 3, 4, 2, 1]
    # the shape comes first
    assert orders(rows[:3], BY_ARCHIVE, width=[5, 4, 4]) == [2, 1, 0]


def test_a_job_takes_its_rule_when_it_begins() -> None:
    assert (first_order(archives=False), first_order(archives=True)) == ("style", "archive")
