"""Which pictures `nstray stylise` makes, of what, and where they go.

Files are listed and none is opened. So every mistake of names is told before torch is imported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nstray import storage
from nstray.commands.config_file import load, read
from nstray.config import JobConfig
from nstray.errors import NotFound, UsageError
from nstray.images.encode import FORMATS, extension
from nstray.manifest.build_names import slugs
from nstray.sources.listing.folder_pictures import below, find_pictures
from nstray.sources.listing.pictures import stem
from nstray.sources.reference import as_literal, kind_of, unread_archive
from nstray.text import counted, did_you_mean

PRESET = "quick"
SHEET = "sheet.png"
_FORMATS = {f".{ending}": name for ending, name in FORMATS.items()}
_PREVIEWS = (".png", ".jpg", ".jpeg", ".webp")
_LONGEST = 255  # bytes of a file's name, on most file systems


@dataclass(frozen=True)
class Picture:
    """A content or a style.

    Attributes:
        uri: absolute.
        name: what the files of the results call it.
        slug: what `nstray manifest build` calls it in ids.
    """

    uri: str
    name: str
    slug: str


@dataclass(frozen=True)
class Wanted:
    """A picture that is to be made, and its file."""

    content: Picture
    style: Picture
    target: str

    @property
    def pair_id(self) -> str:
        """The id that the pair has in a job: seeds of noise follow from it."""
        return f"{self.content.slug}--{self.style.slug}"

    @property
    def name(self) -> str:
        """What the pair is called in messages and in its file's name."""
        return f"{self.content.name}--{self.style.name}"


@dataclass(frozen=True)
class Source:
    """The pictures of CONTENT or STYLE.

    Attributes:
        left_out: lines for a person.
    """

    role: str
    given: str
    is_file: bool
    pictures: list[Picture]
    left_out: list[str]


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        folder: where a grid goes; None for a single picture.
        preview: the absolute path of the preview.
    """

    contents: Source
    styles: Source
    wanted: list[Wanted]
    folder: str | None
    preview: str | None
    overwrite: bool

    @property
    def sheet(self) -> str | None:
        """The file of the sheet of a grid."""
        return None if self.folder is None else storage.join(self.folder, SHEET)


def settings(config_file: str | None, given: dict[str, Any], out: str | None) -> JobConfig:
    """The settings: those of `PRESET`, unless a preset or a file of settings is given.

    The ending of `out` is the format, unless that is given too. Raises `ConfigError`.
    """
    values = dict(given)
    there = {**(read(config_file) if config_file is not None else {}), **values}
    if config_file is None:
        values.setdefault("preset", PRESET)
    by_name = None if out is None else _FORMATS.get(storage.ending(out))
    if by_name is not None and "image_format" not in there:
        values["image_format"] = by_name
    return load(config_file, values.items())


def plan(
    content: str,
    style: str,
    config: JobConfig,
    *,
    out: str | None = None,
    preview: str | None = None,
    overwrite: bool = False,
) -> Plan:
    """Find the pictures and their files, and check that nothing stands in the way.

    Raises `UsageError` for what can't be made, and `StorageError`.
    """
    if out is not None:
        storage.refuse_to_write(out)
    contents, styles = _source(content, "content"), _source(style, "style")
    single = contents.is_file and styles.is_file
    default = f"{_title(contents)}--{_title(styles)}"
    ending = f".{extension(config.image_format)}"
    if single:
        folder, target = None, _single_target(out, f"{default}{ending}", config)
        wanted = [Wanted(contents.pictures[0], styles.pictures[0], target)]
    else:
        folder = _folder(out, default)
        wanted = [
            Wanted(c, s, storage.join(folder, f"./{c.name}--{s.name}{ending}"))
            for c in contents.pictures
            for s in styles.pictures
        ]
    found = Plan(contents, styles, wanted, folder, _preview(preview), overwrite)
    _check_targets(found)
    return found


def shown(uri: str) -> str:
    """A local path as seen from the current folder if it lies below it, else as it is; redacted."""
    if storage.split(uri)[0] is None:
        relative = os.path.relpath(uri)
        uri = uri if relative.startswith("..") else relative
    return storage.redact(uri)


def _source(given: str, role: str) -> Source:
    uri = storage.absolute(given)
    found = None if storage.is_folder_name(given) else storage.head(uri)
    said = storage.redact(given)
    if found is not None:
        if kind_of(uri) is not None or unread_archive(uri) is not None:
            raise UsageError(
                f"{role} {said}: an archive; nstray run CONTENT OUT --style STYLE reads pictures "
                "from tars, Parquet and Arrow files; stylise takes pictures and folders of them"
            )
        return Source(role, given, True, _named(role, storage.parent(uri), [uri]), [])
    try:
        listed = find_pictures(uri)
    except NotFound as error:
        if storage.split(uri)[0] is not None:
            raise UsageError(f"{role} {error}; give a picture, or a folder of pictures") from None
        raise UsageError(f"{role} {said}: no such file or folder{_near(uri)}") from None
    if not listed.uris:
        raise UsageError(f"{role} {said}: no pictures: {listed.why_none()}")
    return Source(role, given, False, _named(role, uri, listed.uris), listed.left_out.lines())


def _named(role: str, root: str, uris: Sequence[str]) -> list[Picture]:
    """Pictures below `root` with their names, which are their paths without endings."""
    paths = [below(root, uri) for uri in uris]
    names = ["-".join([*path.split("/")[:-1], stem(path)]) for path in paths]
    ids = slugs([stem(path) for path in paths], paths)
    first: dict[str, str] = {}
    for name, path in zip(names, paths, strict=True):
        if (other := first.setdefault(name, path)) != path:
            raise UsageError(
                f"{role} pictures {other} and {path} in {storage.redact(root)} would both be "
                f"called {name} in the results; rename one of them, or move it elsewhere"
            )
    return [
        Picture(as_literal(uri), name, slug)
        for uri, name, slug in zip(uris, names, ids, strict=True)
    ]


def _near(path: str) -> str:
    """``; did you mean X?`` for a local path of which a part does not exist."""
    parent, name = os.path.split(path)
    rest = ""
    while not os.path.isdir(parent) and parent != "/":
        rest = os.path.join(name, rest) if rest else name
        parent, name = os.path.split(parent)
    try:
        there = os.listdir(parent)
    except OSError:
        there = []
    hint = did_you_mean(name, there)
    if not hint:
        return f"; {parent} has no {name}" if rest else "; is it below another folder?"
    near = hint.removeprefix("; did you mean ").removesuffix("?")
    found = os.path.join(parent, near, rest) if rest else os.path.join(parent, near)
    return f"; did you mean {shown(found)}?" if os.path.exists(found) else hint


def _title(source: Source) -> str:
    """What a source is called in a name of our own."""
    if source.is_file:
        return source.pictures[0].name
    return storage.name(storage.absolute(source.given).rstrip("/")) or source.role


def _single_target(out: str | None, default: str, config: JobConfig) -> str:
    """The absolute URI of a single picture's file; raises `UsageError`."""
    if out is None:
        return storage.absolute(os.path.join(".", default))
    said = storage.redact(out)
    local = storage.split(out)[0] is None
    if storage.is_folder_name(out) or (local and os.path.isdir(storage.absolute(out))):
        raise UsageError(
            f"-o {said} is a folder, and this makes one picture; "
            f"give its file: -o {os.path.join(said, default)}"
        )
    ending = storage.ending(out)
    if ending not in _FORMATS:
        example = os.path.splitext(said)[0] + f".{extension(config.image_format)}"
        raise UsageError(
            f"-o {said}: a picture's file ends with {', '.join(_FORMATS)}; did you mean {example}?"
        )
    if _FORMATS[ending] != config.image_format:
        raise UsageError(
            f"-o {said} and image_format {config.image_format} contradict each other; "
            "leave image_format out, or give the file its ending"
        )
    return storage.absolute(out)


def _folder(out: str | None, default: str) -> str:
    """The absolute URI of the folder of a grid; raises `UsageError`."""
    if out is None:
        return storage.absolute(os.path.join(".", default))
    said = storage.redact(out)
    if storage.ending(out) in _FORMATS and not storage.is_folder_name(out):
        raise UsageError(
            f"-o {said} is the name of a file, and CONTENT or STYLE is a folder: every content "
            f"with every style goes to a folder; give one, such as -o {os.path.splitext(said)[0]}"
        )
    uri = storage.absolute(out)
    if not storage.is_folder_name(uri) and storage.head(uri) is not None:
        raise UsageError(f"-o {said} is a file; a folder is needed for the pictures of a grid")
    return uri


def _preview(preview: str | None) -> str | None:
    if preview is None:
        return None
    said = storage.redact(preview)
    if storage.is_uri(preview) and storage.split(preview)[0] is not None:
        raise UsageError(f"--preview {said}: a local file is needed; a viewer shows it")
    path = storage.absolute(preview)
    if os.path.isdir(path):
        raise UsageError(f"--preview {said} is a folder; give a file, such as preview.png")
    if storage.ending(path) not in _PREVIEWS:
        raise UsageError(f"--preview {said}: a preview ends with {', '.join(_PREVIEWS)}")
    _check_writable("--preview", path)
    return path


def _check_targets(found: Plan) -> None:
    """Raise `UsageError` unless every file can be written and harms no other."""
    targets = [wanted.target for wanted in found.wanted]
    targets += [] if found.sheet is None else [found.sheet]
    for target in targets:
        name = storage.name(target)
        if len(name.encode()) > _LONGEST:
            raise UsageError(
                f"the file's name {name[:60]}... would have {len(name.encode())} bytes, and "
                f"{_LONGEST} are allowed; "
                + ("give a shorter one by -o" if found.folder is None else "rename the pictures")
            )
    inputs = {_real(p.uri): p.uri for s in (found.contents, found.styles) for p in s.pictures}
    own = {"-o": targets, "--preview": [] if found.preview is None else [found.preview]}
    for option, files in own.items():
        for file in files:
            if (uri := inputs.get(_real(file))) is not None:
                raise UsageError(
                    f"{option} {shown(uri)} is one of the pictures that are read; give another file"
                )
    if found.preview is not None and _real(found.preview) in map(_real, targets):
        raise UsageError(
            f"--preview {shown(found.preview)} is the result's own file; give another one, since a "
            "preview is rewritten while the picture is made"
        )
    _check_writable("-o", targets[0])
    taken = _taken(found, targets)
    if taken and not found.overwrite:
        which = (
            f"{shown(taken[0])} exists"
            if len(targets) == 1
            else f"{len(taken)} of {counted(len(targets), 'file')} exist in "
            f"{shown(str(found.folder))}, the first: {storage.name(taken[0])}"
        )
        raise UsageError(f"{which}; give --overwrite to replace, or another -o")


def _taken(found: Plan, targets: Sequence[str]) -> list[str]:
    """The targets that exist."""
    if found.folder is None:
        target = targets[0]
        is_folder = storage.split(target)[0] is None and os.path.isdir(target)
        return [target] if is_folder or storage.head(target) is not None else []
    try:
        there = {info.uri for info in storage.list_files(found.folder, recursive=False)}
    except NotFound:
        return []
    return [target for target in targets if target in there]


def _real(uri: str) -> str:
    """What two names of one file have in common."""
    return os.path.realpath(uri) if storage.split(uri)[0] is None else uri


def _check_writable(what: str, uri: str) -> None:
    """Raise `UsageError` if a local file can't be made, as far as its folders say."""
    if storage.split(uri)[0] is not None:
        return
    folder = os.path.dirname(uri)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise UsageError(f"{what} {uri}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{what} {uri}: {folder} can't be written to; give another place")
