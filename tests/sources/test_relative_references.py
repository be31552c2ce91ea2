"""References as seen from the manifest's folder, and back."""

from __future__ import annotations

import pyarrow as pa
import pytest

from nstray.manifest.problems import Problems
from nstray.manifest.references import ReferenceRules, resolve
from nstray.sources.read import absolute_reference, relative_reference


@pytest.mark.parametrize(
    ("uri", "base", "short"),
    [
        ("/d/a.png", "/d", "a.png"),
        ("/d/a.png", "/d/", "a.png"),
        ("/d/x/a.tar::b/c.png", "/d", "x/a.tar::b/c.png"),
        ("/d/x.parquet::image[7]", "/d/x", "/d/x.parquet::image[7]"),
        ("/d/./a.tar::b", "/d", "./a.tar::b"),
        ("/d/x/./a.tar::b", "/d", "./x/a.tar::b"),
        ("/de/a.png", "/d", "/de/a.png"),
        ("/a.png", "", "/a.png"),
        ("/a.png", "/", "a.png"),
        ("s3://b/k/a.png", "s3://b/k", "a.png"),
        ("s3://b/k//a.png", "s3://b/k", ".//a.png"),
        ("s3://b/k/../a.png", "s3://b/k", "s3://b/k/../a.png"),
        ("s3://b/k/a.png", "s3://b", "k/a.png"),
        ("s3://bb/k/a.png", "s3://b", "s3://bb/k/a.png"),
        ("/d/s3:/b.png", "/d", "./s3:/b.png"),
        ("/d/a.tar.gz::b", "/d", "./a.tar.gz::b"),
        ("", "/d", ""),
    ],
)
def test_a_reference_below_the_folder_is_short_and_leads_back(uri: str, base: str, short: str) -> None:
    assert relative_reference(uri, base) == short
    if short != uri:
        assert absolute_reference(short, base) == uri


@pytest.mark.parametrize("base", ["/d/e", "s3://b/d/e"])
@pytest.mark.parametrize(
    ("written", "short"),
    [
        ("a.tar::b.png", "a.tar::b.png"),
        ("x/../a.tar::b.png", "a.tar::b.png"),
        ("../e/a.tar::b.png", "a.tar::b.png"),
        ("x/./a.tar::b.png", "x/a.tar::b.png"),
        ("{base}/a.tar::b.png", "a.tar::b.png"),
        ("a.tar::./b.png", "a.tar::./b.png"),  # so is the member called
        ("./a.tar::b.png", "./a.tar::b.png"),  # a file, whatever its name looks like
        ("./x/a.tar::b.png", "./x/a.tar::b.png"),
        ("./x/../a.tar::b.png", "./a.tar::b.png"),
        ("././a.tar::b.png", "./a.tar::b.png"),
        ("./a.zip::b.png", "./a.zip::b.png"),
        ("./x/a.parquet::image[7]", "./x/a.parquet::image[7]"),
        ("x/../a.parquet::image[7]", "a.parquet::image[7]"),
        ("./a.png", "a.png"),
        ("x/../a.png", "a.png"),
        ("../f/a.tar::b.png", None),  # elsewhere: it stays absolute
        ("./../f/a.tar::b.png", None),
    ],
)
def test_however_it_is_written_a_reference_has_one_short_form(base: str, written: str, short: str | None) -> None:
    written = written.format(base=base)
    problems = Problems()
    (uri,) = resolve(base, pa.array([written]), "content", None, problems, ReferenceRules(local=True)).to_pylist()
    assert problems.count == 0
    assert absolute_reference(written, base) == uri
    found = relative_reference(uri, base)
    assert found == (uri if short is None else short)
    assert absolute_reference(found, base) == uri
    assert relative_reference(found, base) == found
