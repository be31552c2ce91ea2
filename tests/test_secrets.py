"""No credential, password or signature is shown or stored: recognisable ones are planted wherever a user may have some, and looked for everywhere.

A carried column is the user's own data: it is kept to the letter, secrets included.
"""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import jobs
import pyarrow.parquet as pq
import pytest
from outputs import picture

from nstray import config, storage
from nstray.commands import status
from nstray.errors import ErrorCode, NotFound, NstrayError, PairError
from nstray.images.encode import encode
from nstray.output.folder import Output
from nstray.text import log_to_stderr, printable, redact

Call = Callable[..., tuple[int, str, str]]
SIGNED = "?X-Amz-Algorithm=A&X-Amz-Credential=canary1&X-Amz-Signature=canary2"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYCANARYCANA",
    "AWS_SECRET_ACCESS_KEY": "canary/s3cret+key",
    "AWS_SESSION_TOKEN": "canarytoken",
    "HTTP_PROXY": "http://me:canaryproxy@127.0.0.1:9",
    "HTTPS_PROXY": "http://me:canaryproxy@127.0.0.1:9",
}


def clean(text: str | bytes) -> None:
    """Fail where a planted secret stands in `text`."""
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    at = plain.lower().find("canary")
    assert at < 0, plain[max(0, at - 300) : at + 100]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def closed() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def everything(uri: str) -> Iterator[tuple[str, bytes]]:
    """Every stored file below `uri`: its name and bytes; of Parquet also each column's values, the footer and the statistics."""
    for info in storage.list_files(uri):
        data = storage.read(info.uri)
        yield info.uri, data
        if info.uri.endswith(".parquet"):
            file = pq.ParquetFile(io.BytesIO(data))
            metadata = file.metadata
            groups = [metadata.row_group(i).to_dict() for i in range(metadata.num_row_groups)]
            yield info.uri, repr([metadata.metadata, groups, file.schema_arrow.to_string(show_schema_metadata=True)]).encode()
            table = file.read()
            for name in table.column_names:
                if name not in ("mine", "image"):
                    yield f"{info.uri} {name}", repr(table[name].to_pylist()).encode()


def signed_inputs(bucket: str) -> tuple[str, str]:
    """A manifest whose images are named with signatures, in every column; half of them exist under just these names."""
    _, weights = jobs.write_inputs(bucket, contents=2, styles=2)
    for name in ("c.png", "s.png", "i.png", "f.png"):
        storage.put_new(f"{bucket}/{name}{SIGNED}", encode(picture(len(name), 30, 28), "png"))
    mask = picture(1, 30, 28)
    mask[:] = 255
    storage.put_new(f"{bucket}/m.png{SIGNED}", encode(mask, "png"))

    def of(name: str) -> str:
        return f"{bucket}/{name}{SIGNED}"

    mine = "https://me:kept@host/x?sig=kept"
    rows = [
        {"pair_id": "plain", "content": f"{bucket}/c0.png", "style": f"{bucket}/s0.png"},
        {"pair_id": "signed", "content": of("c.png"), "style": of("s.png"), "content_masks": of("m.png"), "style_masks": of("m.png")},
        {"pair_id": "start", "content": "c.png" + SIGNED, "style": of("s.png"), "init": of("i.png"), "fine_style": of("f.png")},
        *({"pair_id": f"gone-{role}", "content": of("c.png"), "style": of("s.png"), role: of("gone.png")} for role in ("content", "style")),
        *({"pair_id": f"gone-{role}", "content": of("c.png"), "style": of("s.png"), role: of("gone.png")} for role in ("init", "fine_style")),
        {"pair_id": "gone-mask", "content": of("c.png"), "style": of("s.png"), "content_masks": of("gone.png")},
        {"pair_id": "no-mask", "content": of("c.png"), "style": of("s.png"), "content_masks": of("c.png"), "style_masks": "weights.safetensors"},
    ]
    manifest = f"{bucket}/signed.jsonl"
    storage.put_new(manifest, "".join(json.dumps({**row, "mine": mine}) + "\n" for row in rows).encode())
    return manifest, weights


@pytest.mark.slow
def test_a_whole_job(call: Call, s3: str, planted: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest, weights = signed_inputs(s3)
    storage.put_new(f"{s3}/w.safetensors{SIGNED}", storage.read(weights))
    storage.put_new(f"{manifest.removesuffix('.jsonl')}{SIGNED}.jsonl", storage.read(manifest))
    manifest = f"{s3}/signed{SIGNED}.jsonl"
    out = f"{s3}/out{SIGNED}"
    settings = tmp_path / "job.yaml"
    settings.write_text(f"weights: '{s3}/w.safetensors{SIGNED}'\nmax_error_rate: 1\n")
    options = [*jobs.options(jobs.SETTINGS), "--config", str(settings), "--init", f"{s3}/i.png{SIGNED}", "--cpus-per-actor", "1", "--actors", "1"]
    for words in (["manifest", "check", manifest, *options], ["plan", manifest, out, *options]):
        code, told, err = call(*words)
        assert code == 0, err
        clean(told + err)

    log = tmp_path / "log"
    with jobs.ray_folder() as folder:
        process = jobs.start_cli(["run", manifest, out, *options], log, {**jobs.LOCAL_RAY, "RAY_TMPDIR": folder})
        live: list[bytes] = []  # what it said of itself while it ran
        logs: dict[Path, bytes] = {}  # of Ray's workers; their folder goes with the run

        def ended() -> bool:
            for path in Path(folder).rglob("worker-*"):
                if path.suffix in (".err", ".out"):
                    with suppress(OSError):
                        logs[path] = path.read_bytes()
            with suppress(NotFound):
                live.append(storage.read(Output(out).live_uri))
            return process.poll() is not None

        try:
            jobs.until(ended, "the job's end", seconds=400)
            assert process.returncode == 0, log.read_text()
        finally:
            jobs.end(process)
        assert logs
        for text in logs.values():
            clean(text)
    clean(log.read_bytes())
    assert b"worker-1" in live[-1]
    for text in live:
        clean(text)
    storage.put_over(Output(out).live_uri, live[-1])  # as a driver that was killed leaves it, for `status` below
    rows = {row["pair_id"]: row for row in jobs.rows(out)}
    assert {k: row["error_code"] for k, row in rows.items()} == {
        **dict.fromkeys(("plain", "signed", "start")),
        **dict.fromkeys((f"gone-{role}" for role in ("content", "style", "init", "fine_style", "mask")), "not_found"),
        "no-mask": "not_an_image",
    }
    assert "gone.png?..." in rows["gone-content"]["error_message"]

    assert call("run", manifest, out, *options)[0] == 0  # complete already; and what it says then
    for words in (
        ["status", out],
        ["status", out, "--json"],
        ["verify", out, "--manifest", manifest],
        ["export", out, "--to", f"{s3}/plain{SIGNED}"],
        ["sheet", out, "-o", f"{s3}/out-sheet{SIGNED}.pdf"],
        ["sheet", out, "-o", str(tmp_path / "sheet.png")],
        ["report", out, "-o", f"{s3}/out-report{SIGNED}.html"],
        ["weights", "convert", f"{s3}/w.safetensors{SIGNED}", "-o", f"{s3}/v{SIGNED}.safetensors"],
        ["manifest", "build", "--content", f"{s3}/", "--style", f"{s3}/", "-o", f"{s3}/built{SIGNED}.csv"],
        ["run", manifest, out, *options, "--size", "25"],
        ["run", manifest, out, "--weights", f"{s3}/gone.pth{SIGNED}"],
        ["run", manifest, out, *options, "--init", f"{s3}/gone.png{SIGNED}"],
        ["export", out, "--to", f"{s3}/plain{SIGNED}"],
    ):
        code, told, err = call(*words)
        clean(told + err)
    clean("".join(record.getMessage() for record in caplog.records if record.name != "werkzeug"))  # the server's own

    written = [
        found for found in everything(s3) if "/out?" in found[0] or "/plain?" in found[0] or "/out-sheet?" in found[0] or "/out-report?" in found[0]
    ]
    assert {Path(uri.split(" ")[0]).name.rpartition(".")[2] for uri, _ in written} >= {"parquet", "json", "md", "jsonl", "png"}
    for _, data in written:
        clean(data)
    exported = next(data for uri, data in written if uri.endswith("metadata.jsonl")).decode()
    assert exported.count("https://me:kept@host/x?sig=kept") == 3  # the user's own column
    assert (tmp_path / "sheet.png").exists()


LEAKS = [
    "s3://me:canary@b/x.png",
    "s3://me:can/ary@canary.png@b/x.png",
    "https://me:canary@host/x.png",
    "https://host/x.png?sig=canary",
    "ftp://host/a b.png?X-Goog-Signature=canary",
    "gs://me:canary@b/x.png",
    "FILE://me:canary@host/x.png",
    "s3://b b/x.png?X-Amz-Signature=canary",
]


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("column", ["content", "style", "content_masks", "style_masks", "fine_style", "init", "pair_id", "size", "seed"])
def test_a_manifest_that_is_refused(call: Call, tmp_path: Path, column: str, leak: str) -> None:
    row = {"content": "c.png", "style": "s.png", column: leak}
    for name, text in {
        "m.csv": ",".join(row) + "\n" + ",".join(row.values()) + "\n",
        "list.csv": ",".join(row) + "\n" + ",".join(f'"[""{v}"' if k == column else v for k, v in row.items()) + "\n",
        "ragged.csv": ",".join(row) + "\n" + ",".join(row.values()) + ",more\n",
        "m.jsonl": json.dumps(row) + "\n",
        "type.jsonl": json.dumps(row) + "\n" + json.dumps({**row, column: {"a": leak}}) + "\n",
    }.items():
        (tmp_path / name).write_text(text)
        code, told, err = call("manifest", "check", tmp_path / name)
        assert code == (0 if name == "list.csv" and column in ("content", "fine_style", "init") else 2), err  # where it is a plain name
        clean(told + err)


def test_words_and_settings_that_are_refused(call: Call, tmp_path: Path, planted: None) -> None:
    manifest, weights = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    leak = "s3://me:canary@b/x"
    settings = tmp_path / "job.yaml"
    for text in (
        "aws_secret_access_key: canary\n",
        f"size: {leak}\n",
        "a: [canary\n",
        f"seed: '{leak}\n",
        f"{leak}: 1\n",
        "- canary\n",
        "\tcanary: 1",
    ):
        settings.write_text(text)
        code, told, err = call("plan", manifest, tmp_path / "out", "--config", settings)
        assert (code, told) == (2, ""), text
        clean(err)
    for words in (
        ["plan", leak, "out"],
        ["plan", manifest, leak],
        ["plan", manifest, "out", "--weights", leak],
        ["plan", manifest, "out", "--weights", "w.pth?X-Amz-Signature=canary"],
        ["plan", manifest, "out", "--weights", "https://host/w.pth?Signature=canary"],
        ["plan", manifest, "out", "--weights", weights, "--init", leak],
        ["plan", manifest, "out", "--size", leak],
        ["plan", manifest, "out", "--config", leak],
        ["status", leak],
        ["status", "out", leak],
        ["verify", leak],
        ["export", leak, "--to", leak],
        ["sheet", leak, "-o", leak],
        ["sheet", "out", "-o", leak],
        [leak],
        ["manifest", "build", "--content", leak, "--style", leak, "-o", "m.csv"],
        ["manifest", "build", "--content", "in", "--style", "in", "--pairs", leak, "-o", "m.csv"],
        ["weights", "convert", leak, "-o", "x.safetensors"],
        ["weights", "normalise", "--size", leak, "--images", leak, "-o", leak],
        ["demo", leak],
    ):
        code, told, err = call(*words)
        assert (code, told) == (2, ""), words
        assert "Traceback" not in err
        clean(err)


@pytest.mark.parametrize(
    "endpoint", ["http://me:canary@127.0.0.1:{port}", "http://me:can/ary@canary@127.0.0.1:{port}", "http://me:canary@127.0.0.1:port", "me:canary@x"]
)
def test_an_endpoint_with_a_password_that_is_not_there(
    call: Call, planted: None, closed: int, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.format(port=closed))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    manifest, _ = jobs.write_inputs(str(tmp_path / "in"), contents=1, styles=1)
    for words in (["status", "s3://b/out"], ["manifest", "check", "s3://b/m.csv"], ["plan", manifest, "s3://b/out", "--weights", "s3://b/w.pth"]):
        code, told, err = call(*words)
        assert code in (1, 2)
        assert "Traceback" not in err
        clean(told + err)


def test_a_proxy_with_a_password_that_is_not_there(call: Call, planted: None, closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://me:canary@127.0.0.1:{closed}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for endpoint in ("http://store.invalid", "https://store.invalid"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        code, told, err = call("status", "s3://b/out")
        assert (code, told) == (1, "")
        assert "roxy" in err or "connect" in err
        clean(err)


@pytest.mark.parametrize("wrong", [("AWS_SECRET_ACCESS_KEY",), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")])
def test_a_real_store_that_refuses(call: Call, rgw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...]) -> None:
    manifest, _ = jobs.write_inputs(rgw, contents=1, styles=1)
    for name in wrong:
        monkeypatch.setenv(name, KEYS[name])
    for words in (["status", f"{rgw}/out"], ["manifest", "check", f"{manifest}{SIGNED}"], ["plan", manifest, f"{rgw}/out{SIGNED}"]):
        code, told, err = call(*words)
        assert (code, told) == (1, ""), err
        assert "403" in err
        clean(err)


def test_what_nobody_foresaw_and_other_libraries_warnings(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: str) -> None:
        logging.getLogger("urllib3").warning("Retrying http://%s:%s@host", "me", "canary")
        try:
            raise ValueError("https://host/?sig=canary")
        except ValueError:
            logging.getLogger("nstray").exception("pair=%s", "\x1b]0;title\x07")
        raise RuntimeError("s3://me:canary@b/k")

    monkeypatch.setattr(status, "status", fail)
    code, told, err = call("status", tmp_path)
    assert (code, told) == (1, "")
    assert "Retrying http://host" in err
    assert "RuntimeError: s3://b/k" in err
    assert "\\u001b]0;title\\u0007" in err
    clean(err)
    log_to_stderr()
    assert sum(type(h).__name__ == "_Stderr" for h in logging.getLogger().handlers) == 1


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x1b[2J", "a\rb", "\x9b31m", "\u202egnp.exe", "http://me:canary@host"])
def test_a_library_s_warning_shows_no_escapes_of_a_file(text: str) -> None:
    program = "import sys, warnings; from nstray.text import log_to_stderr; log_to_stderr(); warnings.warn('tag ' + sys.argv[1] + ' skipped')"
    done = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert "UserWarning: tag " in done.stderr
    assert text not in done.stderr
    clean(done.stderr)


def test_errors_are_redacted_as_they_are_made() -> None:
    for error in (NstrayError("s3://me:canary@b"), config.ConfigError("?token=canary"), PairError(ErrorCode.INTERNAL, "http://h?canary")):
        clean(repr(error) + str(error) + repr(error.args))
    assert PairError(ErrorCode.INTERNAL, "http://h?canary").message == "http://h?..."


@pytest.mark.parametrize("text", ["://a" * 100_000, "token" * 100_000, "https://" * 50_000, "s3://a:" * 50_000, "?x" * 100_000, "s3://b?a=" * 50_000])
def test_redaction_of_a_hostile_text_ends_soon(text: str) -> None:
    assert len(redact(text)) <= len(text) + 10


def test_what_is_shown_has_no_control_characters() -> None:
    assert printable("a\tb\n\x1b[31mred\x9b0m\r\u202ex") == "a\tb\n\\u001b[31mred\\u009b0m\\u000d\\u202ex"
    assert json.loads(printable(json.dumps({"a": "\x7f\x9b\x1b\u202e"}, ensure_ascii=False))) == {"a": "\x7f\x9b\x1b\u202e"}


def test_plain_names_stay() -> None:
    plain = "s3://b/what?.png, s3://b/a@2x.png, http://h:80/a@b, /home/me@host/x.png, /x/token.png, event=job rows=3, size=24"
    assert redact(plain) == plain
