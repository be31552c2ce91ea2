"""Arrow files with a column of pictures, such as `datasets.save_to_disk` writes, as a source.

A folder's ``state.json`` says which of its Arrow files hold the data, and in which order; others
are caches. Local files are mapped into memory, so that the pictures are not read. A file on S3 is
read as a whole: the stream format has no index.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nstray import storage
from nstray.errors import BadArchive, ManifestError, NotFound
from nstray.sources import arrow
from nstray.sources.cells import first_line
from nstray.sources.listing import image_column as columns
from nstray.sources.listing.cell_pictures import CellPictures
from nstray.sources.listing.folder_pictures import below
from nstray.sources.listing.parquet_files import NO_BYTES, cells, to_flags
from nstray.sources.listing.pictures import Counts, Options, Pictures
from nstray.storage import ObjectInfo

_STATE_BYTES = 2**20
_MAGIC = b"ARROW1"


class ArrowPictures(CellPictures):
    """The pictures of Arrow files; see `pictures.Source`.

    Attributes:
        split_names: the name of each archive's split, by its path below the root, if its
            state.json or the name of a DatasetDict's folder tells it.
    """

    kind = "Arrow file"

    def __init__(
        self,
        root: str,
        archives: Sequence[ObjectInfo],
        options: Options,
        left_out: list[str],
        states: Sequence[str] = (),
    ) -> None:
        self.root, self._options, self._left_out = root, options, list(left_out)
        self._counts = Counts()
        self.split_names: dict[str, str] = {}
        self.archives = self._data_files(archives, states)
        _check(self.archives[0])
        with _open(self.archives[0]) as (schema, _):
            self._columns = columns.Columns.choose(schema, options, self.archives[0].uri)

    def _data_files(
        self, archives: Sequence[ObjectInfo], states: Sequence[str]
    ) -> Sequence[ObjectInfo]:
        """The archives that hold data, in the order of the datasets' own lists.

        Raises: `ManifestError` for a state.json that can't be read, and for a file that it names
            and that is not there.
        """
        by_uri = {info.uri: info for info in archives}
        listed: list[ObjectInfo] = []
        for state in sorted(states):
            folder = storage.parent(state)
            names, split = _state(state)
            for name in names:
                info = by_uri.get(f"{folder.rstrip('/')}/{name}")
                if info is None:
                    raise ManifestError(
                        f"{state}: names {name}, which is not beside it; copy the whole dataset"
                    )
                listed.append(info)
                if split:
                    self.split_names[below(self.root, info.uri)] = split
        folders = {storage.parent(state) for state in states}
        taken = {info.uri for info in listed}
        others = [i for i in archives if i.uri not in taken]
        caches = [i for i in others if storage.parent(i.uri) in folders]
        if caches:
            self._left_out.append(
                f"left out {len(caches)} Arrow files that no state.json names, such as "
                f"{storage.name(caches[0].uri)}"
            )
        return [*listed, *(i for i in others if storage.parent(i.uri) not in folders)]

    def _list(self, info: ObjectInfo) -> Iterator[Pictures]:
        _check(info)
        with _open(info) as (schema, batches):
            self._columns.check(schema, info.uri)
            image, carried = self._columns.image, self._columns.carried
            first = 0
            for group, batch in enumerate(batches):
                table = pa.Table.from_batches([batch.select([image, *carried])])
                table.validate(full=True)  # offsets of a hostile file lead out of its memory
                images = table.column(image).combine_chunks()
                plain = columns.holds_bytes(images.type)
                data = images if plain else pc.struct_field(images, "bytes")
                paths = pc.struct_field(images, "path") if columns.has_path(images.type) else None
                keep = to_flags(pc.is_valid(data))
                if missing := int((~keep).sum()):
                    self._counts.add(NO_BYTES, info.uri, missing)
                numbers = np.flatnonzero(keep)
                if len(numbers):
                    said = None
                    if carried:
                        said = table.select(carried).replace_schema_metadata(schema.metadata)
                    where = (first, group, 0)
                    yield cells(
                        info, self.root, image, where, numbers, paths, data, said, self._options
                    )
                first += table.num_rows


def _check(info: ObjectInfo) -> None:
    """Raise `BadArchive` for a file that a worker can't read by range, such as a compressed one."""
    if (damage := arrow.index(info.uri, info.etag, lambda: None).damage) is not None:
        raise BadArchive(f"{info.uri}: {damage}")


def _state(uri: str) -> tuple[list[str], str | None]:
    """The data files that a state.json names, and its split; raises `ManifestError`."""
    try:
        found = json.loads(storage.read(uri, max_bytes=_STATE_BYTES))
        names = [str(each["filename"]) for each in found["_data_files"]]
        split = found.get("_split")
        indices = found.get("_indices_files") or found.get("_indices_data_files")
    except NotFound:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ManifestError(f"{uri}: not the state of a dataset that datasets wrote") from None
    if indices:
        raise ManifestError(
            f"{uri}: the dataset is a selection of its rows; save it with a newer version of "
            "datasets, which writes the rows themselves"
        )
    if not names or any("/" in name or not name for name in names):
        raise ManifestError(f"{uri}: names no data files beside it")
    return names, split if isinstance(split, str) and split else None


@contextlib.contextmanager
def _open(info: ObjectInfo) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The schema and the batches of an Arrow file of either format."""
    with contextlib.ExitStack() as stack:
        try:
            if storage.is_uri(info.uri):
                source = stack.enter_context(storage.open_input(info.uri, tail=1))
                start = source.read(len(_MAGIC))
                source.seek(0)
            else:
                source = stack.enter_context(pa.memory_map(info.uri))
                start = source.read(len(_MAGIC))
                source.seek(0)
            if start == _MAGIC:
                file = stack.enter_context(pa.ipc.open_file(source))
                yield file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                stream = stack.enter_context(pa.ipc.open_stream(source))
                yield stream.schema, iter(stream)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadArchive(f"{info.uri}: is damaged: {first_line(error)}") from None
