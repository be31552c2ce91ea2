"""A job that is given sources of pictures in place of a manifest.

With ``--style``, MANIFEST is a source of contents, as `nstray.manifest.build` takes it. The
manifest that is built of it is kept in the output (`Output.pairs_uri`), where resumes and workers
find it. A resume takes it as it is, whatever has come to the sources since.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.commands.printing import say
from nstray.errors import NotFound, OutputError, UsageError
from nstray.manifest.build import build
from nstray.output.folder import Output
from nstray.text import counted

KEY = "nstray.pairs"  # in the file's metadata: what it was made of
_ONLY = (
    "--content-column and --style-column name columns of sources, and --pairs how to pair them; "
    "give --style, or leave them out"
)


@dataclass(frozen=True)
class Pairing:
    """What to pair, as `build` takes it.

    Attributes:
        pairs: None for every pair.
    """

    style: str | None = None
    content_column: str | None = None
    style_column: str | None = None
    pairs: str | None = None

    def __bool__(self) -> bool:
        return self != Pairing()


def taken(options: dict[str, Any]) -> Pairing:
    """Takes the options of `nstray.commands.options.pairing_options` out of `options`."""
    return Pairing(**{name: options.pop(name) for name in asdict(Pairing())})


def kept(source: str, output: Output, pairing: Pairing, *, extend: bool = False) -> str:
    """The manifest of a job: `source`, or what `pairing` makes of it, kept in the output.

    Raises:
        UsageError: options without ``--style``, or `extend`.
        OutputError: the output is of another job.
        ManifestError, StorageError: as `build` does.
    """
    if not pairing:
        return source
    words = _words(source, pairing, extend)
    if not _begun(output, words):
        with _built(source, pairing, words) as made, open(made, "rb") as file:
            storage.put_file(output.pairs_uri, file)
    return output.pairs_uri


@contextlib.contextmanager
def temporary(
    source: str, pairing: Pairing, output: Output | None = None, *, extend: bool = False
) -> Iterator[str]:
    """As `kept`; but of a manifest that the output `out` does not have, no trace is left."""
    if not pairing:
        yield source
        return
    words = _words(source, pairing, extend)
    if output is not None and _begun(output, words):
        yield output.pairs_uri
        return
    with _built(source, pairing, words) as made:
        yield made


def _words(source: str, pairing: Pairing, extend: bool) -> dict[str, str]:
    """What the manifest is made of; raises `UsageError` without a style and with `extend`."""
    if pairing.style is None:
        raise UsageError(_ONLY)
    if extend:
        raise UsageError(
            "--extend takes rows added at a manifest's end, and --style makes a manifest of "
            "sources; make the longer manifest with nstray manifest build, or use another OUT"
        )
    asked = asdict(pairing) | {"pairs": pairing.pairs or "all"}
    uris = {"content": source, "style": pairing.style}
    return {k: v for k, v in asked.items() if v is not None} | {
        role: storage.redact(storage.absolute(uri)) for role, uri in uris.items()
    }


@contextlib.contextmanager
def _built(source: str, pairing: Pairing, words: dict[str, str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="nstray-") as folder:
        made = str(Path(folder) / "pairs.parquet")
        rows = build(
            source,
            str(pairing.style),
            pairs=words["pairs"],
            seed=0,
            out=made,
            content_column=pairing.content_column,
            style_column=pairing.style_column,
            metadata={KEY: json.dumps(words)},
            say=lambda line: say(line, err=True),
        )
        say(f"{counted(rows, 'pair')} of {words['content']} and {words['style']}", err=True)
        yield made


def _begun(output: Output, words: dict[str, str]) -> bool:
    """Whether the output is of a job of these sources; `OutputError` if it is of another job."""
    if storage.head(output.job_uri) is None:
        return False
    try:
        with storage.open_input(output.pairs_uri) as file:
            there = json.loads((pq.read_schema(file).metadata or {})[KEY.encode()])
    except NotFound:
        raise OutputError(
            f"{output}: its job was begun from a manifest; give that in place of --style, or use "
            "another OUT"
        ) from None
    except (pa.ArrowInvalid, KeyError, ValueError):
        raise OutputError(
            f"{output}: .nstray/pairs.parquet, the manifest of its job, is damaged; put a copy "
            "back, or use another OUT"
        ) from None
    differing = [
        f"--{name.replace('_', '-')} {there.get(name, 'not given')} then, "
        f"{words.get(name, 'not given')} now"
        for name in sorted({*there, *words})
        if there.get(name) != words.get(name)
    ]
    if differing:
        raise OutputError(
            f"{output}: its pairs were made of other sources: "
            f"{'; '.join(differing).replace('--content ', 'MANIFEST ')}; "
            "give those, or use another OUT"
        )
    return True
