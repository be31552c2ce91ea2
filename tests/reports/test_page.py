"""The pages of a report and of a comparison, without a browser: what they hold, what they escape, their size."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import drawn_reports
import numpy as np
import pytest
from drawn_reports import HOSTILE_TEXTS, STYLES

from nstray.images.encode import encode
from nstray.reports import page as page_module
from nstray.reports.page import LIMIT, render_compare, render_report
from nstray.reports.report_data import Box, Distribution, Sampled

VOID = {"meta", "link", "img", "input"}
SVG_LEAVES = {"rect", "line", "polyline", "polygon"}


class Page(HTMLParser):
    """The elements of a page, with the texts of scripts and of all else."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.raw: list[tuple[str, str]] = []  # style and script
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and tag not in SVG_LEAVES:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.raw.append((self.open[-1], data))
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag and all(attrs.get(k.replace("_", "-")) == v for k, v in wanted.items())]

    @property
    def data(self) -> Any:
        return json.loads(next(text for name, text in self.raw if name == "script" and text.startswith("{")))


PAGES: dict[str, Callable[[], str]] = {
    "complete": lambda: render_report(drawn_reports.report()),
    "empty": lambda: render_report(drawn_reports.without_rows("empty")),
    "no pairs": lambda: render_report(drawn_reports.without_rows("empty", rows_total=0)),
    "running": lambda: render_report(drawn_reports.running()),
    "failed": lambda: render_report(drawn_reports.failed()),
    "hostile": lambda: render_report(drawn_reports.hostile()),
    "compare": lambda: render_compare(drawn_reports.comparison()),
    "hostile compare": lambda: render_compare(drawn_reports.hostile_comparison()),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: make() for name, make in PAGES.items()}


@pytest.mark.parametrize("name", PAGES)
def test_each_element_is_closed(pages: dict[str, str], name: str) -> None:
    assert Page(pages[name]).open == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_leads_out_of_the_file(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    for tag, attrs in page.elements:
        for attribute in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attrs.get(attribute) or "").startswith(("data:", "#")) or attribute not in attrs, (tag, attrs)
    style, script = ("".join(text for kind, text in page.raw if kind == wanted and not text.startswith("{")) for wanted in ("style", "script"))
    assert "url(" not in style
    assert "@import" not in style
    for word in ("fetch(", "XMLHttpRequest", "import(", "innerHTML", "eval(", "WebSocket"):
        assert word not in script


@pytest.mark.parametrize("name", PAGES)
def test_the_policy_allows_the_style_and_the_script_of_the_file_and_no_other(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    raw = {kind: text for kind, text in page.raw if not text.startswith("{")}
    hashes = {kind: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for kind, text in raw.items()}
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": hashes["style"],
        "script-src": hashes["script"],
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [a for _, a in page.elements if "style" in a or any(k.startswith("on") for k in a)], "the policy forbids these"


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_texts_and_fields_have_names(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert all(a.get("alt") for a in page.all("img"))
    labelled = {a["for"] for a in page.all("label")}
    assert {a["id"] for a in page.all("select")} == labelled
    assert len(page.all("h1")) == 1
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        assert set((attrs.get("aria-labelledby") or "").split()) <= set(ids)


@pytest.mark.parametrize("name", PAGES)
def test_each_picture_is_in_the_file_once(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    sources = [a["src"] for a in page.all("img") if "src" in a]
    assert len(sources) == len(set(sources))
    keys = {a["data-key"] for a in page.all("img") if "src" in a}
    assert {a["data-same"] for a in page.all("img") if "src" not in a} <= keys


@pytest.mark.parametrize("name", ["hostile", "hostile compare"])
def test_texts_that_are_html_stay_texts(pages: dict[str, str], name: str) -> None:
    html = pages[name]
    page = Page(html)
    known = {"x", "alert(1)"}
    assert not [a for _, a in page.elements if known & set(a.values()) or "onmouseover" in a or "onerror" in a]
    assert len(page.all("script")) == 2
    assert html.count("</script") == 2, "the two that the template closes"
    assert "<!--" not in html
    assert not re.search("[\u2028\u2029\u202e\x00\ud800]", html)
    assert "{{ 7 * 7 }}" in page.text, "shown as it is, not evaluated"
    assert HOSTILE_TEXTS[0] in page.text
    assert [a for a in page.all("span") if "error" in (a.get("class") or "").split()], "a message of an error row is among them"
    assert "w" * 1000 not in html, "a long text is cut"
    assert HOSTILE_TEXTS[0] in json.dumps(page.data), "the JSON has the text"


def test_numbers_that_json_lacks_are_null(pages: dict[str, str]) -> None:
    losses = [pair["loss_style"] for pair in Page(pages["hostile"]).data["pairs"]]
    assert losses
    assert set(losses) == {None}


def test_what_a_complete_report_holds(pages: dict[str, str]) -> None:
    report = drawn_reports.report()
    page = Page(pages["complete"])
    assert "The job is complete: all 150 pairs are done. 4 of them failed." in page.text
    assert report.retry is not None
    assert report.retry in page.text
    for words in ("style_weight", "2e5", "1e6", "18m36s", "19m50s", "nstray run --content photos/", "compact (VGG-19"):
        assert words in page.text
    gallery = [a for a in page.all("li") if (a.get("class") or "").startswith("card")]
    assert {a["data-style"] for a in gallery} == {"0", "1", "2", "3", "4"}
    shown = {p.pair_id for p in report.pairs}
    assert {report.pairs[int(a["data-pair"] or "")].pair_id for a in gallery} == shown
    assert [option for option in page.words if option in STYLES][: len(STYLES)] == list(STYLES)
    assert len(page.all("table", **{"class": "boxes"})) == 4
    assert len(page.all("polygon", **{"class": "band"})) == 5
    assert len(page.all("rect", **{"class": "gap"})) == 1
    assert "1 gap, 2m30s in all" in page.text
    assert "29 of 30" in page.text
    assert "3 more labels: 12 pairs" in page.text
    assert page.data["pairs"][0]["loss_content"] == pytest.approx(report.pairs[0].loss_content, rel=1e-4)
    assert "result" not in page.data["pairs"][0]
    assert page.data["worst"] == {style: list(ids) for style, ids in report.worst.items()}


def test_no_rank_goes_across_styles(pages: dict[str, str]) -> None:
    """Each group of ranks has cards of its own style alone."""
    section = pages["complete"].split('<section id="ranks"')[1].split('<section id="unmoved"')[0]
    groups = section.split('<section class="group ranks"')[1:]
    assert len(groups) == len(STYLES)
    for index, group in enumerate(groups):
        assert set(re.findall(r'data-style="(\d+)"', group)) == {str(index)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "The job is not running, and none of its 150 pairs is done."),
        ("no pairs", "The job has no pairs: its manifest is empty."),
        ("running", "The job is running: 46 of 150 pairs are done, 104 are to come. None of them failed."),
        ("running", "1 window is still open"),
        ("failed", "The job failed. 100 of 100 pairs are done: 1 ok, 99 failed."),
    ],
)
def test_states_read_well(pages: dict[str, str], name: str, words: str) -> None:
    assert words in Page(pages[name]).text


def test_empty_parts_say_why(pages: dict[str, str]) -> None:
    page = Page(pages["empty"])
    for words in (
        "No pictures: no pair is done yet.",
        "No ranks:",
        "Nothing to say:",
        "None yet: no pair is done.",
        "No values:",
        "No curves:",
        "No speed:",
    ):
        assert words in page.text
    full = Page(pages["complete"])
    assert [a["id"] for a in page.all("section") if "id" in a] == [a["id"] for a in full.all("section") if "id" in a]


def noise(kind: str, number: int) -> bytes:
    """A picture that takes some 60 kB."""
    seed = ("content", "style", "result").index(kind) * 1000 + number
    return encode(np.random.default_rng(seed).integers(0, 256, (180, 240, 3), np.uint8), "jpeg", 90)


def test_a_page_that_would_be_too_large_leaves_pictures_out_and_says_so() -> None:
    report = drawn_reports.report(noise)
    html = render_report(report)
    assert LIMIT * 0.9 < len(html.encode()) <= LIMIT
    page = Page(html)
    found = re.search(r"(\d+) pictures of (\d+) are left out: with them the page would be larger than 5 MB", page.text)
    assert found
    pictures = [a for a in page.all("img") if "src" in a]
    assert len(pictures) == int(found[2]) - int(found[1])
    assert "left out, since the page would be too large" in page.text
    alts = [a["alt"] or "" for a in pictures]
    for style in STYLES:
        assert any(alt.startswith("Result") and alt.endswith(style) for alt in alts), "each style keeps some"
    compared = render_compare(drawn_reports.comparison(noise, contents=30))
    assert len(compared.encode()) <= LIMIT


def test_a_small_limit_still_gives_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "LIMIT", 1000)
    page = Page(render_report(drawn_reports.report(contents=2)))
    assert page.all("img") == []
    assert "are left out" in page.text


def test_values_that_are_not_finite_or_all_equal_are_drawn() -> None:
    nan, of = float("nan"), Sampled(1, 1)
    boxes = (Box("a", of, *[5.0] * 7), Box("b", of, *[nan] * 7), Box("c", of, *[float("inf")] * 7))
    zero = (Box("a", of, *[0.0] * 7),)
    html = render_report(drawn_reports.report(contents=2, distributions=(Distribution("ratio", "", boxes), Distribution("seconds", "s", zero))))
    assert "nan%" not in html
    assert "inf%" not in html


def test_a_comparison_shows_both_sides() -> None:
    compare = drawn_reports.comparison()
    page = Page(render_compare(compare))
    for words in ("Settings that differ", "style_weight", "2e5", "1e6", "5 of 6", "not comparable", "No row", "out_of_memory", "512 px need 9 GB"):
        assert words in page.text
    assert len(page.all("div", **{"class": "slider"})) == len(compare.pairs)
    same = Page(render_compare(dataclasses.replace(compare, settings=(), pairs=(), losses=())))
    for words in ("None: both outputs were made with the same settings.", "No pairs:", "No losses:"):
        assert words in same.text


def test_secrets_of_texts_are_taken_out() -> None:
    html = render_report(drawn_reports.report(contents=1, out="s3://bucket/x", sample="https://user:hunter2@example.org/a?sig=abc"))
    assert "hunter2" not in html
    assert "sig=abc" not in html
