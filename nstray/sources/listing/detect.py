"""Which kind of source lies at a path, told by what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nstray import storage
from nstray.errors import BadArchive, ManifestError, NotFound
from nstray.sources import reference
from nstray.sources.listing.arrow_files import ArrowPictures
from nstray.sources.listing.folder_pictures import (
    ENDINGS,
    FolderPictures,
    begins_as_picture,
    find_pictures,
    is_picture_name,
)
from nstray.sources.listing.folders import LoosePictures
from nstray.sources.listing.image_column import candidates
from nstray.sources.listing.parquet_files import ParquetPictures, open_file
from nstray.sources.listing.pictures import Options, Source
from nstray.sources.listing.tars import TarPictures
from nstray.storage import ObjectInfo
from nstray.text import counted

_NOUNS = {
    reference.TAR: "tar archive",
    reference.PARQUET: "Parquet file",
    reference.ARROW: "Arrow file",
}


def open_source(given: str, role: str, options: Options) -> Source:
    """The pictures at a path or URI: a folder or prefix, an archive, or one picture.

    Args:
        role: content or style, for messages.
    Raises: `ManifestError` for what holds no pictures, or pictures in more than one kind of place.
    """
    uri = storage.absolute(given)
    found = None if storage.is_folder_name(uri) else storage.head(uri)
    if found is not None:
        return _one_file(found, role, options)
    try:
        listed = find_pictures(uri, any_ending=options.any_ending, archives=True)
    except NotFound as error:
        raise ManifestError(f"{role} folder {uri}: does not exist ({error})") from None
    return _folder(uri, listed, role, options)


def _hint(options: Options) -> str:
    return "" if options.any_ending else "; --any-ending takes those that begin as such pictures"


def _one_file(info: ObjectInfo, role: str, options: Options) -> Source:
    uri, root = info.uri, storage.parent(info.uri)
    kind = reference.kind_of(storage.name(uri))
    if kind is not None:
        return _archives(kind, root, [info], options, [], [])
    why = reference.unread_archive(uri)
    if why is not None and not is_picture_name(uri):
        raise ManifestError(f"{role} {uri}: {why}")
    if not is_picture_name(uri) and not (options.any_ending and begins_as_picture(uri)):
        what = (
            "it does not begin as JPEG, PNG or WebP"
            if options.any_ending
            else f"its name must end with one of {', '.join(ENDINGS)}{_hint(options)}"
        )
        raise ManifestError(f"{role} {uri}: not a picture: {what}")
    return LoosePictures(root, [uri], [])


def _folder(uri: str, listed: FolderPictures, role: str, options: Options) -> Source:
    """The source in a folder whose files were listed."""
    by_kind: dict[str, list[ObjectInfo]] = {}
    for info in listed.archives:
        by_kind.setdefault(str(reference.kind_of(info.uri)), []).append(info)
    if listed.uris:
        # Parquet and Arrow files beside pictures may be manifests or tables of labels.
        for kind, infos in list(by_kind.items()):
            if kind == reference.ARROW or (
                kind == reference.PARQUET and not _holds_pictures(infos[0])
            ):
                listed.left_out.named.update([f".{kind}"] * len(infos))
                del by_kind[kind]
    if len(by_kind) + bool(listed.uris) > 1:
        kinds = [counted(len(infos), _NOUNS[kind]) for kind, infos in by_kind.items()]
        if listed.uris:
            kinds.insert(0, counted(len(listed.uris), "loose picture"))
        raise ManifestError(
            f"{role} folder {uri}: holds {' and '.join(kinds)}; give a folder with one kind, "
            "or one archive"
        )
    hint = _hint(options)
    if listed.uris:
        return LoosePictures(uri, listed.uris, listed.left_out.lines(hint))
    if not by_kind:
        why = listed.why_none(hint)
        if listed.packed:
            unread = reference.unread_archive(listed.packed[0])
            why = f"{listed.packed[0]} {unread}; {why}"
        raise ManifestError(f"{role} folder {uri}: no pictures: {why}")
    ((kind, infos),) = by_kind.items()
    return _archives(kind, uri, infos, options, _beside(listed), listed.states)


def _archives(
    kind: str,
    root: str,
    infos: Sequence[ObjectInfo],
    options: Options,
    left_out: list[str],
    states: Sequence[str],
) -> Source:
    match kind:
        case reference.TAR:
            return TarPictures(root, infos, options, left_out)
        case reference.PARQUET:
            return ParquetPictures(root, infos, options, left_out)
        case _:
            return ArrowPictures(root, infos, options, left_out, states)


def _holds_pictures(info: ObjectInfo) -> bool:
    try:
        with open_file(info) as file:
            return bool(candidates(file.schema_arrow))
    except BadArchive:
        return False


def _beside(listed: FolderPictures) -> list[str]:
    """A line of what lies beside archives and is not taken."""
    lines = []
    if listed.packed:
        unread = reference.unread_archive(listed.packed[0])
        lines.append(
            f"left out {counted(len(listed.packed), 'packed archive')}: {listed.packed[0]} {unread}"
        )
    others = Counter(listed.left_out.named)
    others.subtract(storage.ending(uri) for uri in listed.packed)
    if total := +others:
        lines.append(
            f"left out {counted(total.total(), 'file')} beside the archives: "
            + ", ".join(f"{number} {name}" for name, number in total.most_common(8))
        )
    return lines
