"""References to members of archives, and the places in them."""

import pytest

from nstray.sources.reference import (
    Place,
    check_member,
    is_literal,
    kind_of,
    parse_cell,
    parse_place,
    refusal,
    split_member,
)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("a.tar::b.jpg", ("a.tar", "b.jpg")),
        ("s3://b/x/000.TAR::img/17.jpg", ("s3://b/x/000.TAR", "img/17.jpg")),
        ("d/000.parquet::image[17]", ("d/000.parquet", "image[17]")),
        ("/d/x.Arrow::image[0]", ("/d/x.Arrow", "image[0]")),
        ("a::b.tar::c::d.tar::e", ("a::b.tar", "c::d.tar::e")),
        ("a.tar::", ("a.tar", "")),
        ("a.tar::./b.jpg", ("a.tar", "./b.jpg")),
        ("a.tar::b/./c.jpg", ("a.tar", "b/./c.jpg")),
        ("./a.tar::b.jpg", None),
        ("/d/./a.tar::b.jpg", None),
        ("s3://b/./a.tar::b.jpg", None),
        ("x/./a.tar::b.jpg", ("x/./a.tar", "b.jpg")),
        ("../a.tar::b.jpg", ("../a.tar", "b.jpg")),
        ("a.tar", None),
        ("a::b.jpg", None),
        ("a.jpg::b", None),
        ("a.tar.gz::b.jpg", None),
        ("a.zip::b.tar::c.jpg", None),
        ("xtar::b", None),
    ],
)
def test_the_first_separator_behind_an_archives_ending_separates(uri, found):
    assert split_member(uri) == found


def test_archives_that_are_not_read_are_refused_with_what_to_do():
    assert refusal("a.tar.gz::b.jpg") == (
        "is compressed as a whole, so that no member can be read without all before it: unpack it to a plain .tar, or to files"
    )
    for name in ("a.tgz::b", "s3://b/A.TAR.ZST::b", "a.txz::b", "a.zip::b.tar::c"):
        assert refusal(name), name
    assert "is a zip file" in refusal("a.zip::b")
    for name in ("a.tar::b", "a.tar::b.zip::c", "a.tar.gz", "./a.zip::b", "a.parquet::image[0]"):
        assert refusal(name) is None, name


def test_kinds_go_by_the_ending():
    assert [kind_of(n) for n in ("a.tar", "b/A.PARQUET", "x.arrow", "x.jpg", "tar")] == [
        "tar",
        "parquet",
        "arrow",
        None,
        None,
    ]


def test_a_literal_reference_is_told():
    assert is_literal("/d/./a.tar::b")
    assert not is_literal("/d/a.tar::b")
    assert not is_literal("/d/a.tar::./b")
    assert not is_literal("/d/./a.jpg")


def test_cells():
    assert parse_cell("image[17]") == ("image", 17)
    assert parse_cell("a.b[0]") == ("a.b", 0)
    assert parse_cell("a[1][2]") == ("a[1]", 2)
    for member in ("image", "image[]", "image[-1]", "[3]", "image[1]x", "image[1e3]"):
        with pytest.raises(ValueError, match="is no cell"):
            parse_cell(member)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("a.tar::b.jpg", None),
        ("a.tar::./b.jpg", None),
        ("a.tar::..b/c..jpg", None),
        ("a.tar::", "empty"),
        ("a.tar::../b.jpg", "leads out"),
        ("a.tar::b/../c.jpg", "leads out"),
        ("a.tar::/etc/passwd", "leads out"),
        ("a.parquet::image", "is no cell"),
        ("a.parquet::image[3]", None),
        ("a.jpg", None),
    ],
)
def test_members_are_checked(uri, said):
    found = check_member(uri)
    assert found is None if said is None else said in found


def test_places_are_read_and_written():
    assert parse_place("1536:20811") == Place((1536, 20811))
    assert parse_place("1536:20811:00ab34EF", '"abc"') == Place((1536, 20811), 0x00AB34EF, "abc")
    assert str(Place((1536, 20811), 0x00AB34EF)) == "1536:20811:00ab34ef"
    assert str(Place((3, 7))) == "3:7"
    assert parse_place(None) is None
    assert parse_place(None, "abc") == Place(etag="abc")
    for text in ("", "1", "1:", ":1", "-1:2", "1:2:3", "1:2:0123456g", "1:2:012345678", "1 :2",
                 "٣:1", "1" * 19 + ":1"):  # fmt: skip
        with pytest.raises(ValueError, match="is no place"):
            parse_place(text)
