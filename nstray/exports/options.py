"""What an export is asked for, checked before anything is read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from nstray import storage
from nstray.config import JobConfig, check_quality
from nstray.errors import UsageError
from nstray.text import did_you_mean

FORMATS = ("files", "imagefolder", "webdataset", "parquet")
IMAGE_FORMATS = tuple(get_args(JobConfig.model_fields["image_format"].annotation))
NONE = "none"  # of --split-by, --class-by and --shuffle
SEED = 0  # of the shuffle, if none is given
_MAX_SHARD_MB = 5000.0  # one put of S3 takes 5 GB
_BLOCK = 2**20
# What has no meaning for a format: by the option's name.
_UNUSED = {
    "files": [
        *("shard_mb", "split_by", "class_by", "shuffle", "with_errors", "with_originals"),
        *("workers", "scratch"),
    ],
    "imagefolder": ["shard_mb", "columns", "shuffle", "with_errors", "overwrite"],
    "webdataset": ["overwrite"],
    "parquet": ["overwrite"],
}
_WHY = {
    "files": "writes one flat folder with metadata.jsonl, in one process",
    "imagefolder": "writes pictures alone, each in a file of its own, in folders of splits",
    "webdataset": "never replaces a file of something else",
    "parquet": "never replaces a file of something else",
}


@dataclass(frozen=True)
class ExportOptions:
    """What decides which files an export writes, and what is in them.

    Attributes:
        format: one of `FORMATS`.
        shard_mb: the most bytes of a file of webdataset or parquet, in 10^6.
        shuffle: the seed of the order; None keeps the order of the output.
        split_by, class_by: columns; None is ``split`` and ``label`` if they exist, `NONE` is no
            column.
        columns: what is kept besides the picture; None is all but the loss curve.
        resize: pixels of the shorter side; a smaller picture keeps its size.
        image_format, quality: of pictures that are encoded again.
        join: a table of further or corrected columns, `on` the column that it is joined by.
        with_errors: rows without a picture are kept.
        with_originals: the share of the pictures whose content is added, 0 to 1.
        exclude: a text file of pair ids that are left out, one a line.
    """

    format: str
    shard_mb: float = 500.0
    shuffle: int | None = SEED
    split_by: str | None = None
    class_by: str | None = None
    columns: tuple[str, ...] | None = None
    resize: int | None = None
    image_format: str | None = None
    quality: int | None = None
    join: str | None = None
    on: str = "pair_id"
    with_errors: bool = False
    with_originals: float = 0.0
    exclude: str | None = None

    def with_columns(self, names: Sequence[str]) -> ExportOptions:
        """The same with further columns; only if some are chosen."""
        return replace(self, columns=(*(self.columns or ()), *names))

    def identity(self) -> dict[str, Any]:
        """The options as JSON, with the digests of the files that they name."""
        values = asdict(self)
        for name in ("join", "exclude"):
            if (uri := values[name]) is not None:
                values[name] = file_digest(uri)
        values["columns"] = None if self.columns is None else list(self.columns)
        return values


def make_options(given: dict[str, Any]) -> ExportOptions:
    """The options of the words that were `given`; raises `UsageError` for what can't be.

    `given` may also have ``overwrite``, ``workers`` and ``scratch``, which decide no file's
    contents: they are checked here and left out.
    """
    kind = given.setdefault("format", "files")
    if kind not in FORMATS:
        raise UsageError(
            f"--format is one of {', '.join(FORMATS)}; got {kind!r}{did_you_mean(kind, FORMATS)}"
        )
    for name in _UNUSED[kind]:
        if name in given:
            raise UsageError(
                f"--{name.replace('_', '-')} does not go with --format {kind}, which {_WHY[kind]}"
            )
    values = {k: v for k, v in given.items() if k not in ("overwrite", "workers", "scratch")}
    if "shuffle" in values:
        values["shuffle"] = _seed(values["shuffle"])
    if "columns" in values:
        names = tuple(name.strip() for name in values["columns"].split(","))
        if "" in names or len(set(names)) < len(names):
            raise UsageError("--columns: names of columns with commas between them, each once")
        values["columns"] = names
    if "on" in values and "join" not in values:
        raise UsageError("--on names the column of --join TABLE, which is missing")
    options = ExportOptions(**values)
    _check_numbers(options, given)
    return options


def _seed(text: str) -> int | None:
    if text == NONE:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--shuffle is a whole number or {NONE}; got {text!r}") from None


def _check_numbers(options: ExportOptions, given: dict[str, Any]) -> None:
    if not 0 < options.shard_mb <= _MAX_SHARD_MB:
        raise UsageError(f"--shard-mb is above 0 and at most {_MAX_SHARD_MB:g}")
    if not (math.isfinite(options.with_originals) and 0 <= options.with_originals <= 1):
        raise UsageError("--with-originals is a share of the pictures, 0 to 1")
    if options.resize is not None and not 1 <= options.resize <= 65_535:
        raise UsageError("--resize is the shorter side in pixels, 1 to 65535")
    if given.get("workers") is not None and given["workers"] < 1:
        raise UsageError("--workers is at least 1")
    if options.image_format is not None and options.image_format not in IMAGE_FORMATS:
        raise UsageError(
            f"--image-format is one of {', '.join(IMAGE_FORMATS)}; got {options.image_format!r}"
            f"{did_you_mean(options.image_format, IMAGE_FORMATS)}"
        )
    if options.quality is not None:
        if options.image_format is None:
            raise UsageError("--quality needs --image-format jpeg or webp")
        if not 1 <= options.quality <= 100:
            raise UsageError("--quality is 1 to 100")
        try:
            check_quality(options.image_format, options.quality)
        except ValueError as error:
            raise UsageError(f"--{error}") from None


def file_digest(uri: str) -> str:
    """``sha256:...`` of a file's bytes; raises as `storage.read` does."""
    total = hashlib.sha256()
    with storage.open_input(uri) as source:
        while block := source.read(_BLOCK):
            total.update(block)
    return f"sha256:{total.hexdigest()}"
