"""A job that is given sources of pictures in place of a manifest.

They are those of `nstray.manifest.build`. The manifest that is built of them is kept in the output
(`Output.manifest_uri`), where resumes and workers find it. A resume takes it as it is, whatever has
come to the sources since; with ``--extend`` it takes what has come, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.commands import pairs_added
from nstray.commands.printing import say
from nstray.config import JobConfig
from nstray.errors import NotFound, OutputError, UsageError
from nstray.manifest.build import build
from nstray.output.folder import Output
from nstray.text import counted

KEY = "nstray.pairs"  # in the file's metadata: what it was made of
_ONLY = (
    "--content names a source of contents, --content-column and --style-column columns of sources, "
    "and --pairs how to pair them; give --style, or leave them out"
)


@dataclass(frozen=True)
class Pairing:
    """What to pair, as `build` takes it.

    Attributes:
        pairs: None for every pair.
    """

    content: str | None = None
    style: str | None = None
    content_column: str | None = None
    style_column: str | None = None
    pairs: str | None = None

    def __bool__(self) -> bool:
        return self != Pairing()

    def __str__(self) -> str:
        return f"pairs of {self.content} and {self.style}"


@dataclass(frozen=True)
class Given:
    """The manifest of a job: where it is, and the folder that its paths start from.

    Attributes:
        base: None for the manifest's own.
    """

    uri: str
    base: str | None = None


@dataclass(frozen=True)
class _Sources:
    """A pairing with its sources made absolute, and what the output says of it."""

    pairing: Pairing
    base: str
    words: dict[str, str]

    @property
    def shown(self) -> str:
        return " and ".join(
            storage.redact(storage.absolute(str(uri)))
            for uri in (self.pairing.content, self.pairing.style)
        )


def taken(options: dict[str, Any], *words: str | None) -> tuple[Pairing, list[str]]:
    """Takes the options of `nstray.commands.options.pairing_options` out of `options`.

    Args:
        words: MANIFEST and what follows it on the command line, None where nothing was given. With
            ``--content`` there is no MANIFEST. With ``--style`` alone it is the source of contents.

    Returns the pairing, and MANIFEST (empty if there is none) with what follows it. Raises
    `click.UsageError` for a word too many or too few.
    """
    asked = Pairing(**{name: options.pop(name) for name in asdict(Pairing())})
    given = [word for word in words if word is not None]
    if asked.content is not None:
        if len(given) == len(words):
            raise click.UsageError(
                f"--content {asked.content} stands in place of MANIFEST; leave {given[0]} out"
            )
        given.insert(0, "")
    if len(given) < len(words):
        missing = "OUT" if given else "MANIFEST (or --content and --style)"
        raise click.UsageError(f"Missing argument: {missing}.")
    if asked and asked.content is None:
        asked = replace(asked, content=given[0])
    return asked, given


def allowing_local(config: JobConfig, asked: Pairing, output: Output | None) -> JobConfig:
    """`config`; a manifest kept on a store names local files if the sources given are local."""
    local = [uri for uri in (asked.content, asked.style) if uri and not storage.is_uri(uri)]
    if not local or output is None or not storage.is_uri(output.out):
        return config
    return config.model_copy(update={"allow_local": True})


def kept(given: Given, output: Output, pairing: Pairing, *, extend: bool = False) -> Given:
    """The manifest of a job: `given`, or what `pairing` makes, kept in the output.

    Raises:
        UsageError: options without ``--style``.
        OutputError: the output is of another job.
        ManifestError, StorageError: as `build` does.
    """
    if not pairing:
        return given
    sources = _sources(pairing)
    begun = _begun(output, sources.words)
    if not begun or extend:
        with _made(sources, output if begun else None) as made:
            if made is not None:
                with open(made, "rb") as file:
                    storage.put_file(output.manifest_uri, file)
    else:
        _say_kept(output)
    return Given(output.manifest_uri, sources.base)


@contextlib.contextmanager
def temporary(
    given: Given, pairing: Pairing, output: Output | None = None, *, extend: bool = False
) -> Iterator[Given]:
    """As `kept`; but of a manifest that the output `out` does not have, no trace is left."""
    if not pairing:
        yield given
        return
    sources = _sources(pairing)
    begun = output is not None and _begun(output, sources.words)
    if output is not None and begun and not extend:
        _say_kept(output)
        yield Given(output.manifest_uri, sources.base)
        return
    with _made(sources, output if begun else None) as made:
        there = "" if output is None else output.manifest_uri
        yield Given(there if made is None else made, sources.base)


def _say_kept(output: Output) -> None:
    say(
        f"pairs as {output} keeps them; --extend adds those of pictures that came since",
        err=True,
    )


def _sources(pairing: Pairing) -> _Sources:
    """The sources made absolute; raises `UsageError` without a style or a content."""
    if pairing.style is None or pairing.content is None:
        raise UsageError(_ONLY)
    content, style = (storage.absolute(uri) for uri in (pairing.content, pairing.style))
    base = common_folder(content, style)
    asked = asdict(pairing) | {"pairs": pairing.pairs or "all"}
    words = {k: v for k, v in asked.items() if v is not None} | {
        role: storage.redact(_below(uri, base))
        for role, uri in (("content", content), ("style", style))
    }
    return _Sources(pairing, base, words)


def common_folder(content: str, style: str) -> str:
    """The folder that both lie below, if there is one but the root; else that of `content`."""
    (there, content_path), (other, style_path) = storage.split(content), storage.split(style)
    if there == other:
        common = os.path.commonpath(["/" + content_path.strip("/"), "/" + style_path.strip("/")])
        found = common if there is None else f"{storage.root(there)}/{common.strip('/')}"
        if found in (content, style) and storage.head(found) is not None:  # a file
            found = storage.parent(found).rstrip("/")
        if there is not None or found not in ("", "/"):
            return found.rstrip("/")
    return storage.parent(content).rstrip("/") or "/"


def _below(uri: str, base: str) -> str:
    """`uri` as a path from `base` if it lies there."""
    if uri.rstrip("/") == base:
        return "."
    return uri.removeprefix(base.rstrip("/") + "/")


@contextlib.contextmanager
def _made(sources: _Sources, begun: Output | None) -> Iterator[str | None]:
    """The manifest of the sources, in a temporary file.

    Args:
        begun: the output whose pairs it begins with; then None if there are no others.
    """
    pairing = sources.pairing
    with tempfile.TemporaryDirectory(prefix="nstray-") as folder:
        made = str(Path(folder) / "pairs.parquet")
        rows = build(
            str(pairing.content),
            str(pairing.style),
            pairs=sources.words["pairs"],
            seed=0,
            out=made,
            content_column=pairing.content_column,
            style_column=pairing.style_column,
            base=sources.base,
            metadata={KEY: json.dumps(sources.words)},
            say=lambda line: say(line, err=True),
        )
        for role in ("content", "style"):
            if sources.words[role].startswith("/") or storage.is_uri(sources.words[role]):
                say(
                    f"the {role}s lie outside {storage.redact(sources.base)}: rows name them by "
                    "their absolute paths",
                    err=True,
                )
        if begun is None:
            say(f"{counted(rows, 'pair')} of {sources.shown}", err=True)
            yield made
            return
        extended = str(Path(folder) / "extended.parquet")
        added = pairs_added.extended(
            begun.manifest_uri, made, extended, every=sources.words["pairs"] == "all"
        )
        say(f"{counted(added, 'more pair')} of {sources.shown}", err=True)
        yield extended if added else None


def _begun(output: Output, words: dict[str, str]) -> bool:
    """Whether the output is of a job of these sources; `OutputError` if it is of another job."""
    if storage.head(output.job_uri) is None:
        return False
    try:
        with storage.open_input(output.manifest_uri) as file:
            there = json.loads((pq.read_schema(file).metadata or {})[KEY.encode()])
    except NotFound:
        raise OutputError(
            f"{output}: its job was begun from a manifest; give that in place of --style, or use "
            "another OUT"
        ) from None
    except (pa.ArrowInvalid, KeyError, ValueError):
        raise OutputError(
            f"{output}: .nstray/manifest.parquet, the manifest of its job, is damaged; put a copy "
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
            f"{output}: its pairs were made of other sources: {'; '.join(differing)}; give those, "
            "or use another OUT"
        )
    return True
