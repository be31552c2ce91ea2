"""References as seen from the manifest's folder, and back."""

from __future__ import annotations

import pytest

from nstray.sources.read import absolute_reference, relative_reference


@pytest.mark.parametrize(
    ("uri", "base", "short"),
    [
        ("/d/a.png", "/d", "a.png"),
        ("/d/a.png", "/d/", "a.png"),
        ("/d/x/a.tar::b/c.png", "/d", "x/a.tar::b/c.png"),
        ("/d/x.parquet::image[7]", "/d/x", "/d/x.parquet::image[7]"),
        ("/d/./a.tar::b", "/d", "./a.tar::b"),
        ("/d/x/./a.tar::b", "/d", "/d/x/./a.tar::b"),
        ("/de/a.png", "/d", "/de/a.png"),
        ("/a.png", "", "/a.png"),
        ("/a.png", "/", "a.png"),
        ("s3://b/k/a.png", "s3://b/k", "a.png"),
        ("s3://b/k//a.png", "s3://b/k", "s3://b/k//a.png"),
        ("s3://b/k/../a.png", "s3://b/k", "s3://b/k/../a.png"),
        ("s3://b/k/a.png", "s3://b", "k/a.png"),
        ("s3://bb/k/a.png", "s3://b", "s3://bb/k/a.png"),
        ("/d/s3:/b.png", "/d", "/d/s3:/b.png"),
        ("/d/a.tar.gz::b", "/d", "/d/a.tar.gz::b"),
        ("", "/d", ""),
    ],
)
def test_a_reference_below_the_folder_is_short_and_leads_back(uri: str, base: str, short: str) -> None:
    assert relative_reference(uri, base) == short
    if short != uri:
        assert absolute_reference(short, base) == uri
