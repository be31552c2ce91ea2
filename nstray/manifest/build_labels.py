"""Where the columns `label` and `split` of a manifest come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nstray.errors import ManifestError
from nstray.sources.listing.arrow_files import ArrowPictures
from nstray.sources.listing.folder_pictures import below
from nstray.sources.listing.pictures import Pictures, Source

# Words for splits as Hugging Face's datasets knows them in names of folders and files.
SPLITS = (
    *("train", "training", "validation", "valid", "val", "dev"),
    *("test", "testing", "eval", "evaluation"),
)
_WORD = re.compile(rf"(?:^|(?<=[^a-z]))(?:{'|'.join(SPLITS)})(?=$|[^a-z])", re.IGNORECASE)
# train-00000-of-00004.parquet, with whatever `push_to_hub` puts between the number and the ending.
_SHARD = re.compile(r"(?P<split>[\w.]+)-\d{5}-of-\d{5}\b")

Say = Callable[[str], object]


@dataclass(frozen=True)
class Rules:
    """Where a source's labels and splits come from.

    Attributes:
        label: ``folder``, ``column``, ``sidecar``, ``none``, or ``given``: whatever the source has.
        split: ``folder``, ``column``, ``name``, ``none`` or ``given``.
        behind_split: loose pictures have their class in the second folder.
        required: sidecars have to have a class.
    """

    label: str
    split: str
    behind_split: bool = False
    required: bool = False

    def label_of(self, folders: Sequence[str], loose: bool) -> str | None:
        """The class by the folders of a picture: the first one, or the one behind the split."""
        second = self.split == "folder" or self.behind_split
        if not loose and folders:
            second = second or folders[0].lower() in SPLITS
        return folders[second] if len(folders) > second else None

    def values(
        self, source: Source, batch: Pictures
    ) -> tuple[list[str | None] | None, list[str | None] | None]:
        """Labels and splits of pictures, as far as paths tell them; None if paths don't."""
        labels: list[str | None] | None = None
        splits: list[str | None] | None = None
        if "folder" in (self.label, self.split):
            folders = [folders_of(path, batch) for path in batch.relative]
            if self.label == "folder":
                labels = [self.label_of(each, batch.archive is None) for each in folders]
            if self.split == "folder":
                splits = [each[0] if each else None for each in folders]
        if self.split == "name":
            if batch.archive is None:
                splits = [split_name(path) for path in batch.relative]
            else:
                known = _archive_split(source, below(source.root, batch.archive.uri))
                splits = [known] * len(batch.relative)
        return labels, splits


def folders_of(path: str, batch: Pictures) -> list[str]:
    """The folders of a picture below the root: its archive's, then those in a tar."""
    if batch.archive is None:
        return path.split("/")[:-1]
    archive, _, member = path.partition("::")
    inside = member.split("/")[:-1] if archive.lower().endswith(".tar") else []
    return [f for f in (*archive.split("/")[:-1], *inside) if f != "."]


def split_name(path: str) -> str | None:
    """The split that a path names: in its file's name, else in its nearest folder.

    ``data/train-00000-of-00001.parquet`` is of train, ``val/0001.tar`` of val.
    """
    *folders, file = path.split("/")
    if (shard := _SHARD.match(file)) is not None:
        return shard["split"]
    for name in (file, *reversed(folders)):
        if (found := _WORD.search(name)) is not None:
            return found[0]
    return None


def _archive_split(source: Source, path: str) -> str | None:
    if isinstance(source, ArrowPictures) and path in source.split_names:
        return source.split_names[path]
    return split_name(path)


def choose(source: Source, role: str, labels: str | None, splits: str | None, say: Say) -> Rules:
    """The rules for a source; `labels` and `splits` are those that were asked for.

    Raises: `ManifestError` for what the source can't have.
    """
    loose = not source.archives
    names = source.names()
    for option, value, column in (("--labels", labels, "label"), ("--splits", splits, "split")):
        if loose and value in ("column", "sidecar"):
            raise ManifestError(
                f"{option} {value}: {role} {source.root} holds loose pictures, which have no "
                "columns; give folder" + (" or name" if column == "split" else "")
            )
        if value == "sidecar" and not source.sidecars:
            raise ManifestError(
                f"{option} sidecar: {role} {source.root} holds no tars; give column or folder"
            )
        if value == "column" and names is not None and column not in names:
            raise ManifestError(
                f"{option} column: {role} {source.archives[0].uri} has no column {column}; its "
                f"columns are {', '.join(names)}"
            )
    if loose:
        return _loose(source.paths(), role, labels, splits, say)
    label = "sidecar" if source.sidecars else "given"
    split = "given" if names is not None and "split" in names else _split_of_archives(source)
    return Rules(labels or label, splits or split, required=labels == "sidecar")


def _split_of_archives(source: Source) -> str:
    known = [_archive_split(source, path) for path in source.paths()]
    return "name" if all(known) else "given"


def _loose(
    paths: Sequence[str], role: str, labels: str | None, splits: str | None, say: Say
) -> Rules:
    """The rules that the folders of loose pictures suggest, where none was asked for."""
    depths = {path.count("/") for path in paths}
    by_split = 0 not in depths and {p.partition("/")[0].lower() for p in paths} <= set(SPLITS)
    behind = by_split and min(depths) >= 2
    if splits is None:
        by_folder = (
            by_split
            and (depths == {1} or depths == {2} or labels == "folder")
            and (labels != "folder" or behind)
        )
        splits = "folder" if by_folder else "none"
    if labels is None:
        second = splits == "folder" or behind
        labels = "folder" if depths == {1 + second} and (second or not by_split) else "none"
        if labels == "none" and behind and depths != {2}:
            say(
                f"{role}: no columns label and split, since pictures lie at several depths; "
                "--labels folder --splits folder take the first two folders"
            )
    return Rules(labels, splits, behind)
