"""nstray.commands.preflight: one row's bucket is that row's trouble; a job without any image in reach does not start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench import Bench, pair, weights
from outputs import picture

from nstray import config, storage
from nstray.commands.preflight import preflight
from nstray.engine.network.weights import VGGWeights
from nstray.errors import AccessDenied, NoSuchBucket, UsageError
from nstray.images.encode import encode
from nstray.manifest.manifest import Manifest

__all__ = ["weights"]  # a fixture
GONE = "s3://no-such-bucket-here"


def look(folder: Path, rows: list[tuple[str, str]]) -> None:
    path = folder / "pairs.csv"
    path.write_text("pair_id,content,style\n" + "".join(f"p{i},{c},{s}\n" for i, (c, s) in enumerate(rows)))
    settings: Any = config.make({"weights": "random"})
    manifest = Manifest(str(path))
    job: Any = SimpleNamespace(manifest=manifest, info=manifest.check(settings), config=settings)
    preflight(job)


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good.png").write_bytes(encode(picture(1), "png"))
    return "good.png"


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("odd", [f"{GONE}/x.png", "s3://..--x-s3/x.png", "s3://a/x.png"])
def test_one_row_of_another_bucket_does_not_end_the_job(s3: str, tmp_path: Path, good: str, odd: str, at: int) -> None:
    rows = [(good, good)] * 4
    rows.insert(at, (odd, good))
    look(tmp_path, rows)


def test_every_row_in_a_bucket_that_does_not_exist_ends_it(s3: str, tmp_path: Path, good: str) -> None:
    with pytest.raises(NoSuchBucket, match="no-such-bucket-here does not exist"):
        look(tmp_path, [(good, f"{GONE}/s.png"), (f"{GONE}/c.png", good)])


def test_a_bucket_that_refuses_counts_as_one_that_is_gone(s3: str, tmp_path: Path, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = storage.read

    def read(uri: str, **how: Any) -> bytes:
        if uri.startswith("s3://closed/"):
            raise AccessDenied(f"{uri}: S3 answered 403")
        if uri.startswith("s3://odd/"):
            raise UsageError(f"{uri}: no bucket")
        return honest(uri, **how)

    monkeypatch.setattr(storage, "read", read)
    look(tmp_path, [(good, good), ("s3://closed/x.png", good), ("s3://odd/x.png", good)])
    for kind, bucket in ((AccessDenied, "closed"), (UsageError, "odd")):
        with pytest.raises(kind, match=f"s3://{bucket}/"):
            look(tmp_path, [(good, f"s3://{bucket}/s.png")])


def test_the_row_of_a_missing_bucket_says_so(s3: str, tmp_path: Path, weights: VGGWeights, good: str) -> None:
    rows = Bench(tmp_path, weights).run([pair("a"), pair("b", f"{GONE}/x.png"), pair("c", style=f"{GONE}/s.png"), pair("d")])
    assert [rows[i]["error_code"] for i in "abcd"] == [None, "not_found", "not_found", None]
    assert "the bucket no-such-bucket-here does not exist" in rows["b"]["error_message"]
