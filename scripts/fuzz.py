"""Fuzz what reads untrusted bytes: `python scripts/fuzz.py --target image|csv|jsonl|parquet [--seconds N] [--corpus DIR]`.

Guided by atheris by the coverage of nstray's and Pillow's Python. atheris is no dependency of the project: `pip install atheris`. Without
--corpus it begins with the files of tests/corpus, or with small manifests. Inputs that reach new code are added to DIR.

A finding is any exception other than a `PairError` of `nstray.images.decode` or an `NstrayError` of a manifest, a warning, an exception that
Python prints and ignores, a run of ten seconds, or 2 GiB of memory. It ends the run, and its input is written to finding-*.
`python scripts/fuzz.py --target image FILE...` runs files alone, without atheris.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CAPS = {"max_bytes": 2**20, "max_pixels": 2**20}
LONGEST = {"image": 8192, "csv": 2048, "jsonl": 2048, "parquet": 8192}  # bytes of an input
PNG = b"\x89PNG\r\n\x1a\n"
MANIFESTS = (
    {"content": "a.png", "style": "s.png"},
    {"pair_id": "one", "content": "/a/b.jpg", "style": ["s.png", "s3://b/k.png"], "style_weights": [3, 1], "caption": "a, b", "n": 5},
    {"content": "file:///z%20z.jpg", "style": "é.png", "seed": 7, "size": "640x480", "size_rule": "exact", "init": "noise", "x": {"k": [1.5, None]}},
    {"content": "../c.png", "style": "s.png", "content_masks": "m.png", "style_masks": ["n.png"], "fine_style": "f.png", "width": 640, "height": 480},
    {
        "content": "c.png",
        "style": "s.png",
        "content_layers": "conv4_2",
        "style_layers": "conv1_1,conv2_1",
        "style_layer_weights": "1,2",
        "tv_weight": 0.5,
    },
)


def _image() -> Callable[[bytes], object]:
    from nstray.errors import PairError
    from nstray.images.decode import decode

    def run(data: bytes) -> None:
        with contextlib.suppress(PairError):
            decode(data, what="image", **CAPS)

    return run


def _manifest(kind: str) -> Callable[[bytes], object]:
    from nstray.config import JobConfig
    from nstray.errors import NstrayError
    from nstray.manifest.manifest import Manifest
    from nstray.manifest.pair import pairs

    config = JobConfig()
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / f"m.{kind}"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(NstrayError):
            manifest = Manifest(str(path))
            info = manifest.check(config)
            for table in manifest.tables(info):
                pairs(table, info)

    return run


def checked(target: str) -> Callable[[bytes], None]:
    """The target, as a function that raises for a finding."""
    run = _image() if target == "image" else _manifest(target)
    said: list[str] = []
    warnings.simplefilter("always")
    sys.unraisablehook = lambda caught: said.append(f"{caught.err_msg or 'ignored'}: {caught.exc_value!r}")
    warnings.showwarning = lambda message, category, *place: said.append(f"{category.__name__}: {message} {place[:2]}")

    def one(data: bytes) -> None:
        said.clear()
        run(data)
        if said:
            raise RuntimeError(f"reaches the terminal: {said}")

    return one


def seeds(target: str) -> Iterator[bytes]:
    if target == "image":
        sys.path.insert(0, str(ROOT / "tests"))
        import corpus

        yield from (case.data for case in corpus.files() if len(case.data) <= LONGEST["image"])
        return
    import csv
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    for row in MANIFESTS:
        if target == "jsonl":
            yield (json.dumps(row) + "\n").encode() * 2
        elif target == "csv":
            text = io.StringIO()
            lines = csv.DictWriter(text, list(row))
            lines.writeheader()
            lines.writerow({name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()})
            yield text.getvalue().encode()
        else:
            for packing in ("none", "snappy"):
                sink = io.BytesIO()
                pq.write_table(pa.Table.from_pylist([row]), sink, compression=packing, use_dictionary=packing == "snappy")
                yield sink.getvalue()


def with_checksums(data: bytes) -> bytes:
    """A PNG with the right checksum at each chunk; without it no change gets past the first chunk."""
    if not data.startswith(PNG):
        return data
    out, at = [PNG], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        out += [data[at:end], zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")]
        at = end + 4
    return b"".join([*out, data[at:]])


def fuzz(target: str, seconds: int, folder: Path) -> None:
    """Run until the time is up or something is found, then end the process."""
    try:
        import atheris
    except ImportError:
        raise SystemExit("atheris is not installed: pip install atheris (into an environment that also holds nstray)") from None
    with atheris.instrument_imports(include=["nstray", "PIL"], enable_loader_override=False):
        one = checked(target)
    if not any(folder.iterdir()):
        for k, data in enumerate(seeds(target)):
            (folder / f"seed-{k:04d}").write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST[target]}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        f"-artifact_prefix=finding-{target}-",
    ]

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        return with_checksums(atheris.Mutate(data, longest))[:longest]

    more = {"custom_mutator": mutated} if target == "image" else {}
    atheris.Setup([sys.argv[0], *options, str(folder)], one, internal_libfuzzer=True, **more)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=list(LONGEST), required=True)
    parser.add_argument("--seconds", type=int, default=240)
    parser.add_argument("--corpus", type=Path, help="folder of inputs, made and filled where it is empty; default: a temporary one")
    parser.add_argument("files", nargs="*", type=Path, help="inputs to run alone")
    given = parser.parse_args()
    if not given.files:
        folder = given.corpus or Path(tempfile.mkdtemp(prefix=f"fuzz-{given.target}-"))
        folder.mkdir(parents=True, exist_ok=True)
        fuzz(given.target, given.seconds, folder)
    one, found = checked(given.target), 0
    for path in given.files:
        try:
            one(path.read_bytes())
            print(f"{path}: nothing")
        except Exception:
            found += 1
            print(f"{path}:\n{traceback.format_exc()}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
