"""A store that fsspec reads, of fsspec's own file system in memory: ``gs://`` leads there, and gcsfs need not be installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from nstray import storage
from nstray.storage import remote, schemes

__all__ = ["Memory", "gs"]


class Memory(MemoryFileSystem):
    """Objects in memory. Set `before` to have something happen before the store answers a call of that name."""

    protocol = "gs"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    before: ClassVar[dict[str, Callable[[], object]]] = {}
    calls: ClassVar[list[str]] = []

    def __init__(self, *args: Any, access: str = "", **options: Any) -> None:
        assert access == "read_only"
        super().__init__(*args, **options)

    def _called(self, name: str, path: str) -> None:
        self.calls.append(f"{name} {path}")
        if (happens := self.before.get(name)) is not None:
            happens()

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        self._called("info", path)
        return dict(super().info(path, **options))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._called("ls", path)
        return super().ls(path, detail, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self._called("cat_file", path)
        return bytes(super().cat_file(path, start, end, **options))

    def put(self, uri: str, data: bytes) -> str:
        self.pipe_file(uri.removeprefix("gs://"), data)
        return uri


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """An empty store at ``gs://``, which this process may read."""
    monkeypatch.setitem(schemes.STORES, "gs", schemes.Store("fsspec", "GS_KEY", made_with=schemes.STORES["gs"].made_with))
    monkeypatch.setattr(fsspec, "get_filesystem_class", {"gs": Memory}.__getitem__)
    Memory.store.clear()
    Memory.pseudo_dirs[:] = [""]
    Memory.before.clear()
    Memory.calls.clear()
    storage.allow_remote(["gs"])
    system = remote.file_system("gs://b")
    assert isinstance(system, Memory)
    yield system
    storage.allow_remote([])
