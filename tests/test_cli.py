"""nstray.cli: the words a user types, what they print and where, and their exit codes. Bad input is in test_bad_input.py."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from jobs import SETTINGS, write_inputs
from outputs import Made, error_row, footer, make_output, ok_row
from PIL import Image

from nstray import __version__, cli, storage
from nstray.commands import command_groups, config_file, demo, options, prepare, run
from nstray.config import JobConfig
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output.part_file import encode_part
from nstray.system import stop_signals

Call = Callable[..., tuple[int, str, str]]
JOB_COMMANDS = {"run": cli.run_command, "plan": cli.plan_command, "demo": cli.demo_command, "manifest check": command_groups.manifest_check}
# For every setting a value that is not its default, as it is typed and as it is stored.
VALUES: dict[str, tuple[str, Any]] = {
    "preset": ("johnson", "johnson"),
    "weights": ("random", "random"),
    "weights_input": ("bgr", "bgr"),
    "pooling": ("max", "max"),
    "content_layers": ("relu2_1", ("conv2_1",)),
    "style_layers": ("conv1_1,conv2_1", ("conv1_1", "conv2_1")),
    "style_layer_weights": ("1,2,3,4,5", (1.0, 2.0, 3.0, 4.0, 5.0)),
    "style_statistic": ("wasserstein", "wasserstein"),
    "fine_layers": ("conv1_1", ("conv1_1",)),
    "value_range": ("free", "free"),
    "range_weight": ("3", 3.0),
    "tile_size": ("256", 256),
    "content_weight": ("2", 2.0),
    "style_weight": ("1e4", 1e4),
    "tv_weight": ("0.5", 0.5),
    "loss_scale": ("paper", "paper"),
    "init": ("noise", "noise"),
    "coarse": ("auto", "auto"),
    "color": ("match", "match"),
    "color_match": ("pca", "pca"),
    "style_scale": ("2", 2.0),
    "max_side": ("1024", 1024),
    "seed": ("7", 7),
    "optimizer": ("adam", "adam"),
    "learning_rate": ("0.1", 0.1),
    "evaluations": ("9", 9),
    "dtype": ("bfloat16", "bfloat16"),
    "size": ("64", 64),
    "size_rule": ("area", "area"),
    "upsample": ("", True),
    "allow_local": ("", True),
    "allow_remote": ("hf,gs", ("gs", "hf")),
    "request_payer": ("", True),
    "max_bytes": ("1000", 1000),
    "max_pixels": ("2000", 2000),
    "image_format": ("jpeg", "jpeg"),
    "quality": ("80", 80),
    "batch_size": ("3", 3),
    "shard_size": ("5", 5),
    "device": ("cpu", "cpu"),
    "actors": ("2", 2),
    "gpus_per_actor": ("0.5", 0.5),
    "cpus_per_actor": ("1", 1),
    "depth": ("3", 3),
    "stall_timeout": ("60", 60.0),
    "max_error_rate": ("0.5", 0.5),
    "column_types": ("label=int64,x=float64", ("label=int64", "x=float64")),
}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_output(tmp_path, errors={"c0-s1": "not_found"})


def settings_of(monkeypatch: pytest.MonkeyPatch) -> list[JobConfig]:
    """What `run` would run with, instead of running it."""
    seen: list[JobConfig] = []
    monkeypatch.setattr(prepare, "check", lambda manifest, out, config, extend, base: seen.append(config))
    monkeypatch.setattr(run, "run", lambda checked: 0)
    monkeypatch.setattr(storage, "allow_remote", lambda schemes: None)  # whose packages are not installed
    return seen


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# help


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name, command in cli.cli.commands.items():
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, inner) for inner in command.commands]
    return found


@pytest.mark.parametrize("words", commands())
@pytest.mark.parametrize("width", [80, 120])
def test_help_is_clean(words: tuple[str, ...], width: int) -> None:
    done = CliRunner().invoke(cli.cli, [*words, "--help"], terminal_width=width, max_content_width=width)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith("Usage:")
    assert all(len(line) <= width for line in lines)
    for leak in ("None", "typing", "Annotated", "[False]", "[]"):
        assert leak not in done.output
    # whole sentences in the list of commands
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")]


@pytest.mark.parametrize("words", JOB_COMMANDS)
def test_help_lists_every_setting_once_in_a_group_with_its_default(words: str) -> None:
    text = CliRunner().invoke(cli.cli, [*words.split(), "--help"], terminal_width=120, max_content_width=120).output
    for name, field in JobConfig.model_fields.items():
        assert len(re.findall(rf"^  {flag(name)}\b(?!-)", text, re.MULTILINE)) == 1, name
        if field.default not in (None, True, False, ()):
            assert f"[{options.default_text(field.default)}]" in " ".join(text.split())
    for group in options.GROUPS:
        assert f"\n{group}:\n" in text
    assert "--pooling average|max" in text
    assert "[no-upsample]" in text


def test_the_groups_hold_every_setting_once() -> None:
    grouped = [name for names in options.GROUPS.values() for name in names.split()]
    assert sorted(grouped) == sorted(JobConfig.model_fields)


PAIRING = ("content", "style", "content_column", "style_column", "pairs")


@pytest.mark.parametrize("command", JOB_COMMANDS.values(), ids=JOB_COMMANDS)
def test_the_options_are_the_settings(command: click.Command) -> None:
    made = {p.name: p for p in command.params if isinstance(p, click.Option)}
    assert set(JobConfig.model_fields) <= set(made)
    own = {"with_probe", "probe_seconds", "devices", "price", "record"} if command is cli.plan_command else set()
    assert set(made) - set(JobConfig.model_fields) <= {"config_file", "as_json", "extend", *PAIRING, *own}
    assert all(made[name].opts == [flag(name)] for name in JobConfig.model_fields)


def test_version_and_no_words_at_all(call: Call) -> None:
    assert call("--version")[:2] == (0, f"nstray, version {__version__}\n")
    code, _, err = call()
    assert code == 2
    assert "nstray run" in err


# settings


def test_every_setting_is_tried_here() -> None:
    assert set(VALUES) == set(JobConfig.model_fields)
    assert all(value != JobConfig.model_fields[name].default for name, (_, value) in VALUES.items())


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_comes_from_an_option_or_a_file_and_the_option_wins(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    seen = settings_of(monkeypatch)
    typed, value = VALUES[name]
    option = [flag(name)] if typed == "" else [flag(name), typed]
    other = JobConfig.model_fields[name].default
    partner = {"quality": ["--image-format", "webp"], "weights_input": ["--weights", "a.pth"]}.get(name, [])
    file = tmp_path / "job.yaml"

    assert call("run", "m.csv", "out", *option, *partner)[0] == 0
    assert getattr(seen[-1], name) == value
    file.write_text(f"{name.replace('_', '-')}: {json.dumps(value)}\n")
    assert call("run", "m.csv", "out", "--config", file, *partner)[0] == 0
    assert getattr(seen[-1], name) == value
    if other is not None:
        file.write_text(f"{name}: {json.dumps(other)}\n")
        assert call("run", "m.csv", "out", "--config", file, *option, *partner)[0] == 0
        assert getattr(seen[-1], name) == value


def test_an_option_can_turn_off_what_the_file_turns_on(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = settings_of(monkeypatch)
    (tmp_path / "job.yaml").write_text("upsample: true\nsize: 100\n")
    assert call("run", "m.csv", "out", "--config", tmp_path / "job.yaml", "--no-upsample")[0] == 0
    assert (seen[0].upsample, seen[0].size) == (False, 100)


def test_the_demo_has_settings_of_its_own_that_file_and_options_win_over(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[JobConfig] = []
    monkeypatch.setattr(demo, "demo", lambda out, config: seen.append(config) or 0)
    (tmp_path / "job.yaml").write_text("size: 100\nevaluations: 11\n")
    assert call("demo", tmp_path, "--config", tmp_path / "job.yaml", "--evaluations", "12")[0] == 0
    assert (seen[0].weights, seen[0].size, seen[0].evaluations) == ("compact", 100, 12)
    assert call("demo", tmp_path)[0] == 0
    assert {name: getattr(seen[1], name) for name in ("size", "shard_size")} == {name: demo.SETTINGS[name] for name in ("size", "shard_size")}


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_run_ends_with_the_code_of_the_job(call: Call, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(prepare, "check", lambda *a, **options: None)
    monkeypatch.setattr(run, "run", lambda checked: code)
    assert call("run", "m.csv", "out")[0] == code


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handlers of a command line in this process."""
    before = {number: signal.getsignal(number) for number in stop_signals.SIGNALS}
    monkeypatch.setattr(stop_signals, "_state", stop_signals._State())
    files: list[int] = []
    monkeypatch.setattr(stop_signals, "_watch", files.append)  # it would end this process
    stop_signals.install()
    yield
    signal.set_wakeup_fd(-1)
    for file in (*files, stop_signals._state.wake):
        os.close(file)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", stop_signals.SIGNALS)
def test_a_signal_before_the_run_ends_in_a_word_and_a_code_of_its_own(
    call: Call, monkeypatch: pytest.MonkeyPatch, signals: None, number: int
) -> None:
    def interrupted(*a: object, **options: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(prepare, "check", interrupted)
    code, out, err = call("run", "m.csv", "out")
    assert (code, out) == (4, "")
    assert "interrupted" in err
    assert "Traceback" not in err


# what the commands print


def table(text: str) -> dict[str, str]:
    return {line.split("  ", 1)[0].strip(): line.split("  ", 1)[1].strip() for line in text.splitlines()}


def test_manifest_build_and_check(call: Call, made: Made, tmp_path: Path) -> None:
    inputs = Path(made.manifest).parent
    code, out, err = call("manifest", "build", "--content", inputs, "--style", inputs, "--pairs", "2", "-o", tmp_path / "pairs.jsonl")
    left_out = "left out 1 file without an ending of JPEG, PNG or WebP: 1 .csv; --any-ending takes those that begin as such pictures"
    said = "".join(f"{role} {inputs}: 5 loose pictures\n{role} {inputs}: {left_out}\n" for role in ("content", "style"))
    assert (code, err) == (0, said)
    assert out == f"10 pairs in {tmp_path / 'pairs.jsonl'}\n"
    code, out, err = call("manifest", "check", tmp_path / "pairs.jsonl")
    assert (code, err) == (0, "")
    assert table(out)["rows"] == "10"
    code, out, err = call("manifest", "check", made.manifest, "--json")
    assert json.loads(out)["rows"] == 6
    assert json.loads(out)["carried"] == ["caption", "split"]


def test_plan_tells_what_is_done_and_to_do_and_writes_nothing(call: Call, weights_once: None, tmp_path: Path) -> None:
    manifest, weights = write_inputs(str(tmp_path / "in"), contents=2, styles=3)
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps({**SETTINGS, "weights": weights, "shard_size": 4}))
    words = ("plan", manifest, tmp_path / "out", "--config", file)
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    told = table(out)
    assert {k: told[k] for k in told if k.startswith(("rows", "shards", "eval"))} == {
        "rows": "6",
        "rows_done": "0",
        "rows_to_do": "6",
        "shards": "2",
        "shards_done": "0",
        "shards_to_do": "2",
        "evaluations_to_do": "24",
    }
    assert int(told["bytes_to_do_about"]) > 0
    assert not (tmp_path / "out").exists()

    begun = prepare.check(manifest, str(tmp_path / "out"), config_file.load(str(file)))
    begun.output.job.open(prepare.record(begun))
    ((window, rows),) = cut_windows(begun.manifest.tables(begun.info))
    first = cut_shards(window, rows, 4)[0]
    ids = first.table["pair_id"].to_pylist()
    foot = footer(ids, fingerprint=begun.spec.fingerprint)
    assert begun.output.parts.commit(first.name, encode_part([ok_row(i) for i in ids[:3]] + [error_row(ids[3])], begun.spec.schema, foot))
    told = json.loads(call(*words, "--json")[1])
    assert {k: told[k] for k in ("rows_done", "rows_to_do", "error_rows", "shards_done", "shards_to_do", "evaluations_to_do")} == {
        "rows_done": 4,
        "rows_to_do": 2,
        "error_rows": 1,
        "shards_done": 1,
        "shards_to_do": 1,
        "evaluations_to_do": 8,
    }


def test_status(call: Call, made: Made) -> None:
    code, out, err = call("status", made.out, "--verbose")
    assert (code, err) == (0, "")
    told = table(out[out.index("\n\n") + 2 :])
    assert (told["state"], told["rows_done"], told["ok"], told["errors"]) == ("complete", "6", "5", "not_found 1")
    assert json.loads(call("status", made.out, "--json")[1])["errors"] == {"not_found": 1}


def test_verify_passes_and_fails(call: Call, made: Made) -> None:
    code, out, err = call("verify", made.out)
    assert (code, err) == (0, "")
    assert table(out)["verified"] == "True"
    made.part("part-00000-0001.parquet").unlink()
    code, out, err = call("verify", made.out, "--json", "--no-decode")
    assert code == 1
    assert json.loads(out)["verified"] is False
    assert "problem: " in err
    assert "part-00000-0001.parquet" in err


def test_export(call: Call, made: Made, tmp_path: Path) -> None:
    code, out, err = call("export", made.out, "--to", tmp_path / "plain")
    assert (code, err) == (0, "")
    assert (table(out)["images"], table(out)["errors"]) == ("5", "1")
    assert len(list((tmp_path / "plain").glob("*.png"))) == 5
    assert json.loads(call("export", made.out, "--to", tmp_path / "plain", "--overwrite", "--json")[1])["images"] == 5


def test_sheet(call: Call, made: Made, tmp_path: Path) -> None:
    code, out, err = call("sheet", made.out, "-o", tmp_path / "sheet.png", "--limit", "3")
    assert (code, err) == (0, "")
    assert out == f"3 pairs in {tmp_path / 'sheet.png'}\n3 of 6 rows, 3 of 3 styles, drawn from all 6 rows; seed 0\n"
    assert Image.open(tmp_path / "sheet.png").width > 100
