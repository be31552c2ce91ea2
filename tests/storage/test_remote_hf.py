"""`hf://` with the file system of huggingface_hub itself, over an API that answers without a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nstray import storage
from nstray.errors import Changed

pytestmark = pytest.mark.dev
DATA = bytes(range(256)) * 8
URI = "hf://datasets/user/repo@main/d/x.jpg"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests that are made of a repository with one file, whose blob id is the first entry."""
    module, api = pytest.importorskip("huggingface_hub.hf_file_system"), pytest.importorskip("huggingface_hub.hf_api")
    calls = ["abc"]

    def entry(path: str) -> Any:
        return api.RepoFile(path=path, size=len(DATA), oid=calls[0])

    def send(method: str, url: str, headers: dict[str, str], **_: Any) -> Any:
        calls.append(f"GET {headers['range']}")
        first, last = headers["range"].removeprefix("bytes=").split("-")
        return type("Response", (), {"content": DATA[int(first) : int(last) + 1]})

    def tree(self: Any, repo: str, folder: str, **_: Any) -> Iterator[Any]:
        calls.append(f"tree {folder}")
        return iter([entry(f"{folder}/x.jpg"), api.RepoFolder(path=f"{folder}/sub", oid="t")])

    def paths(self: Any, repo: str, path: str, **_: Any) -> list[Any]:
        calls.append(f"paths {path}")
        return [entry(path)] if path == "d/x.jpg" else []

    monkeypatch.setattr(module, "http_backoff", send)
    monkeypatch.setattr(module, "hf_raise_for_status", lambda response: None)
    monkeypatch.setattr(api.HfApi, "repo_info", lambda *_, **__: object())
    monkeypatch.setattr(api.HfApi, "list_repo_tree", tree)
    monkeypatch.setattr(api.HfApi, "get_paths_info", paths)
    storage.allow_remote(["hf"])
    yield calls
    storage.allow_remote([])


def test_a_repository(asked: list[str]) -> None:
    found = storage.head(URI)
    assert found is not None
    assert (found.size, found.etag) == (2048, "abc")
    assert list(storage.list_files("hf://datasets/user/repo@main/d", recursive=False)) == [found]
    assert storage.head("hf://datasets/user/repo@main/d/none.jpg") is None
    asked[1:] = []
    piece = storage.read_range(URI, 100, 50, max_bytes=50, if_match="abc")
    assert (piece.data, piece.size) == (DATA[100:150], 2048)
    assert asked[1:] == ["GET bytes=100-149", "paths d/x.jpg"]  # not a byte more, and asked anew
    assert storage.read_range(URI, -1, 50, max_bytes=50).data == DATA[-50:]
    asked[0] = "other"
    with pytest.raises(Changed):
        storage.read_range(URI, 100, 50, max_bytes=50, if_match="abc")
