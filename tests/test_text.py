"""nstray.text: the one line that an event is in the log, its time, and numbers with their nouns."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import time
from urllib.parse import unquote

import pytest

from nstray.text import ascii_label, counted, event_line, log_event


def test_an_event_is_one_line_of_keys_and_values() -> None:
    assert event_line("shard", part="part-00000-0001.parquet", rows=16, node=None) == "event=shard part=part-00000-0001.parquet rows=16 node=None"
    assert event_line("killed") == "event=killed"
    assert event_line("storage_retry", **{"try": 2, "name": "x", "event": "y"}) == "event=y try=2 name=x"


@pytest.mark.parametrize("value", ["", "two words", "it's", 'say "no"', "a=b", "C:\\x", "all: \\\"=' of them"])
def test_a_value_that_would_not_be_one_word_is_quoted_as_a_shell_reads_it(value: str) -> None:
    line = event_line("x", before=1, text=value, after=2)
    assert shlex.split(line) == ["event=x", "before=1", f"text={value}", "after=2"]
    assert line.startswith('event=x before=1 text="')


def test_values_are_redacted_and_stay_on_their_line() -> None:
    line = event_line("x", error="GET https://me:secret@host/k?X-Amz-Signature=abc failed\nand\x1b[31m\tagain")
    assert line == 'event=x error="GET https://host/k?... failed\\nand\\\\u001b[31m\\tagain"'


def test_an_event_goes_to_a_sink(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_event("x", logging.getLogger("nstray").warning, share="100%s", hint="50 % more")
    assert [(r.levelname, r.message) for r in caplog.records] == [("WARNING", 'event=x share=100%s hint="50 % more"')]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("/data/out", "/data/out"),
        ("s3://bucket/a b/c'd\"e\\f", "s3://bucket/a b/c'd\"e\\f"),
        ("/data/résultats", "/data/r%C3%A9sultats"),
        ("/data/結果", "/data/%E7%B5%90%E6%9E%9C"),
        ("/data/🎨", "/data/%F0%9F%8E%A8"),
        ("/data/a\nb\tc\x1b[31m\x7f", "/data/a%0Ab%09c%1B[31m%7F"),
        ("/data/100%", "/data/100%25"),
        ("/data/r%C3%A9sultats", "/data/r%25C3%25A9sultats"),  # another folder than résultats
        ("/data/אב\u202e", "/data/%D7%90%D7%91%E2%80%AE"),
    ],
)
def test_a_label_is_ascii_and_can_be_read_back(text: str, label: str) -> None:
    assert ascii_label(text) == label
    assert unquote(label) == text


def test_a_label_is_redacted_and_takes_any_bytes() -> None:
    assert ascii_label("/data/é-token=canary") == "/data/%C3%A9-token=..."
    assert ascii_label("/data/\udcff") == "/data/%FF"


@pytest.mark.parametrize(("number", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1000, "1,000 files")])
def test_a_noun_follows_its_number(number: int, said: str) -> None:
    assert counted(number, "file") == said


def test_a_plural_of_its_own() -> None:
    assert [counted(n, "column of a batch", "columns of a batch") for n in (1, 2)] == ["1 column of a batch", "2 columns of a batch"]


def test_every_line_of_the_log_begins_with_the_time() -> None:
    program = "import logging; from nstray.text import log_to_stderr, stamped; log_to_stderr(); print(stamped('a'))"
    program += "; logging.getLogger('x').warning('event=x')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for line, said in ((done.stdout, "a\n"), (done.stderr, "event=x\n")):
        assert time.strptime(line[:8], "%H:%M:%S")
        assert line[8:] == f" {said}"
