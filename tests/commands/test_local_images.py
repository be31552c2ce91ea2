"""What a manifest on s3:// may not name: files of the machines that run it. And what nobody may name: http(s)."""

from __future__ import annotations

import csv
import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
from outputs import picture

from nstray import storage
from nstray.config import JobConfig
from nstray.errors import ManifestError
from nstray.images.encode import encode
from nstray.manifest.manifest import Manifest
from nstray.manifest.pair import pairs

Call = Callable[..., tuple[int, str, str]]
PAIR = {"content": "c.png", "style": "s.png"}
COLUMNS = ("content", "style", "content_masks", "style_masks", "fine_style", "init")
LISTS = ("style", "content_masks", "style_masks")


def put(uri: str, *rows: dict[str, str]) -> str:
    text = io.StringIO()
    lines = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    lines.writeheader()
    lines.writerows(rows)
    storage.put_over(uri, text.getvalue().encode())
    return uri


def problem(uri: str, config: JobConfig | None = None) -> str:
    with pytest.raises(ManifestError) as caught:
        Manifest(uri).check(config or JobConfig())
    return str(caught.value)


@pytest.mark.parametrize("named", ["/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "file://localhost/etc/passwd", "//etc/./passwd"])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_manifest_on_s3_names_no_local_file(s3: str, column: str, named: str) -> None:
    uri = put(f"{s3}/jobs/m.csv", PAIR, {**PAIR, column: named})
    said = problem(uri)
    assert said.startswith(f"m.csv row 2: {column}: '")
    assert "/etc/passwd' is local" in said
    assert "allow_local" in said
    assert said.count("\n") == 0
    if column in LISTS:
        assert "row 2" in problem(put(uri, PAIR, {**PAIR, column: f'["{named}"]'}))

    manifest = Manifest(uri)
    info = manifest.check(JobConfig(allow_local=True))
    assert info.local
    assert "/etc/passwd" in str([p for table in manifest.tables(info) for p in pairs(table, info)])


def test_only_the_first_is_named_and_every_row_counts(s3: str) -> None:
    said = problem(put(f"{s3}/m.csv", {**PAIR, "style": '["a.png", "/x.png", "/y.png"]'}, *[{**PAIR, "content": "/z.png"}] * 12))
    assert said.splitlines()[0].startswith("m.csv row 1: style: '/x.png' is local")
    assert said.splitlines()[-1] == "... and 3 more problems"


def test_what_is_wrong_with_a_name_is_said_once(s3: str) -> None:
    said = problem(put(f"{s3}/m.csv", {**PAIR, "content": "file://host/x.png"}, {**PAIR, "content": "../../x.png"}))
    assert "a file URI is file:///absolute/path" in said
    assert "leads out of the bucket" in said
    assert len(said.splitlines()) == 2


def test_a_manifest_that_is_changed_after_it_was_checked(s3: str) -> None:
    manifest = Manifest(put(f"{s3}/m.csv", PAIR))
    info = manifest.check(JobConfig())
    put(f"{s3}/m.csv", {**PAIR, "content": "/etc/passwd"})
    with pytest.raises(ManifestError, match="is local"):
        list(manifest.tables(info))


def test_a_local_manifest_names_local_files_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "c.png").write_bytes(encode(picture(1), "png"))
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    manifest = Manifest(put(str(tmp_path / "m.csv"), {**PAIR, "content": "linked/c.png", "style": (tmp_path / "real").as_uri() + "/c.png"}))
    info = manifest.check(JobConfig())
    (pair,) = (p for table in manifest.tables(info) for p in pairs(table, info))
    assert pair.content == str(tmp_path / "linked/c.png")
    assert storage.read(pair.content) == storage.read(pair.styles[0])


def test_the_command_line_says_so_and_may_name_a_local_init(call: Call, s3: str, weights_once: None, tmp_path: Path) -> None:
    manifest, weights = jobs.write_inputs(s3, contents=1, styles=1)
    start = tmp_path / "start.png"
    start.write_bytes(encode(picture(3, 30, 28), "png"))
    words = [*jobs.options({**jobs.SETTINGS, "weights": weights}), "--init", start]
    assert call("plan", manifest, tmp_path / "out", *words)[0] == 0  # who runs the job names its init, not the manifest's author

    storage.put_over(manifest, f"content,style\n{start},{s3}/s0.png\n".encode())
    for command in (["manifest", "check", manifest], ["plan", manifest, tmp_path / "out"], ["run", manifest, tmp_path / "out"]):
        code, out, err = call(*command, *(words if command[0] != "manifest" else ()))
        assert (code, out) == (2, "")
        assert "pairs.csv row 1: content" in err
    assert call("plan", manifest, tmp_path / "out", *words, "--allow-local")[0] == 0
    settings = tmp_path / "job.yaml"
    settings.write_text("allow_local: true\n")
    assert call("manifest", "check", manifest, "--config", settings)[0] == 0
    assert call("manifest", "check", manifest, "--config", settings, "--no-allow-local")[0] == 2


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that something tried to reach."""
    tried: list[Any] = []

    def refuse(*a: Any, **k: Any) -> None:
        tried.append(a)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


@pytest.mark.parametrize("scheme", ["http", "https", "HTTPS", "ftp"])
@pytest.mark.parametrize("column", COLUMNS)
def test_http_is_no_image_in_any_column(tmp_path: Path, no_connection: list[Any], column: str, scheme: str) -> None:
    said = problem(put(str(tmp_path / "m.csv"), {**PAIR, column: f"{scheme}://host/x.png?X-Amz-Signature=tops3cret"}))
    assert said.startswith(f"m.csv row 1: {column}: {scheme}://host/x.png")
    assert f"{scheme.lower()}:// is not supported; nstray reads local paths, file:// and s3://" in said
    assert "tops3cret" not in said
    assert no_connection == []


def test_http_is_nothing_on_the_command_line(call: Call, no_connection: list[Any], tmp_path: Path) -> None:
    url = "https://host/x.png?X-Amz-Signature=tops3cret"
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    good = jobs.options({**jobs.SETTINGS, "weights": weights})
    for words in (
        ["manifest", "check", url],
        ["manifest", "build", "--content", url, "--style", tmp_path / "in", "-o", tmp_path / "m.csv"],
        ["manifest", "build", "--content", tmp_path / "in", "--style", url, "-o", tmp_path / "m.csv"],
        ["manifest", "build", "--content", tmp_path / "in", "--style", tmp_path / "in", "-o", url],
        ["plan", url, tmp_path / "out", *good],
        ["run", manifest, url, *good],
        ["run", manifest, tmp_path / "out", *good, "--weights", url],
        ["run", manifest, tmp_path / "out", *good, "--init", url],
        ["status", url],
        ["verify", url],
        ["export", url, "--to", tmp_path / "x"],
        ["sheet", url, "-o", tmp_path / "x.png"],
        ["weights", "convert", url, "-o", tmp_path / "x.safetensors"],
        ["weights", "convert", weights, "-o", "https://host/x.safetensors"],
        ["weights", "normalise", "--weights", weights, "--images", url, "-o", tmp_path / "x.safetensors"],
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, ""), words
        assert "https:// is not supported" in err, words
        assert "tops3cret" not in err, words
    assert no_connection == []
    assert not (tmp_path / "out").exists()
