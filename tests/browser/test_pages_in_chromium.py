"""The pages of a report and of a comparison in a real browser: Debian's chromium, driven by playwright.

Each page is a file that is opened from disk. A test fails if the page asks for anything else, writes to the console or opens a dialog.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import drawn_reports
import pytest
from drawn_reports import STYLES
from PIL import Image

from nstray.reports.page import render_compare, render_report

pytestmark = [pytest.mark.slow, pytest.mark.dev]

CHROMIUM = "chromium"  # of the Debian package of this name
PHONE, LAPTOP, PAPER = (360, 740), (1280, 800), (718, 1000)
PAGES: dict[str, Callable[[], str]] = {
    "complete": lambda: render_report(drawn_reports.report()),
    "empty": lambda: render_report(drawn_reports.without_rows("empty")),
    "running": lambda: render_report(drawn_reports.running()),
    "failed": lambda: render_report(drawn_reports.failed()),
    "hostile": lambda: render_report(drawn_reports.hostile()),
    "small": lambda: render_report(drawn_reports.report(contents=4)),
    "compare": lambda: render_compare(drawn_reports.comparison()),
    "hostile compare": lambda: render_compare(drawn_reports.hostile_comparison()),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless chromium. Skips where it is not installed, unless NSTRAY_REQUIRE_CHROMIUM=1."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which(CHROMIUM)
    if path is None and os.environ.get("NSTRAY_REQUIRE_CHROMIUM") != "1":
        pytest.skip("chromium is not installed; NSTRAY_REQUIRE_CHROMIUM=1 makes this a failure")
    assert path is not None, "chromium is not installed"
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, render in PAGES.items():
        (folder / f"{name}.html").write_text(render())
    return {name: folder / f"{name}.html" for name in PAGES}


@dataclass
class Seen:
    """What a page did that it must not do."""

    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@pytest.fixture
def opened(browser: Any, files: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Open a page by name; at the end nothing may have left the file, and nothing was said."""

    @contextmanager
    def context(size: tuple[int, int], **settings: Any) -> Iterator[Any]:
        made = browser.new_context(viewport={"width": size[0], "height": size[1]}, **settings)
        yield made
        made.close()

    contexts, seen, own = [], Seen(), set()

    def open_page(name: str, size: tuple[int, int] = LAPTOP, **settings: Any) -> Any:
        manager = context(size, **settings)
        made = manager.__enter__()
        contexts.append(manager)
        page = made.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.console.append(message.text))
        page.on("pageerror", lambda error: seen.console.append(str(error)))
        page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        own.add(files[name].as_uri())
        page.goto(files[name].as_uri())
        return page

    yield open_page
    for manager in contexts:
        manager.__exit__(None, None, None)
    assert {url for url in seen.requests if not url.startswith(("data:", "blob:"))} == own
    assert seen.console == []
    assert seen.dialogs == []


def visible(page: Any, selector: str) -> list[dict[str, str]]:
    """The data attributes of the elements that are shown."""
    return page.evaluate("(s) => [...document.querySelectorAll(s)].filter(e => e.getClientRects().length).map(e => ({...e.dataset}))", selector)


def problems(page: Any) -> str:
    """What axe-core finds against its rules, all of them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page)
    return "" if not found.violations_count else found.generate_report()


def choose(page: Any, **values: str) -> None:
    for name, value in values.items():
        page.select_option(f"#f-{name}", label=value)


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_loads(opened: Callable[..., Any], name: str) -> None:
    """The bytes that are no picture are told of in their place; a JPEG that ends early is drawn as far as it goes."""
    page = opened(name)
    page.wait_for_function("[...document.images].every(i => i.complete)")
    widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert all(width > 0 for width in widths)
    assert bool(widths) == (name != "empty")
    if name == "complete":
        assert {card["style"] for card in visible(page, "#gallery .card")} == {"0", "1", "2", "3", "4"}, "pictures of all styles at once"


def test_broken_pictures_are_told_of(opened: Callable[..., Any]) -> None:
    page = opened("hostile")
    page.wait_for_function("[...document.querySelectorAll('.missing')].some(e => e.textContent.includes('draw its bytes'))")
    assert page.locator(".missing", has_text="no picture that a browser draws").count() > 0


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened: Callable[..., Any], name: str, scheme: str) -> None:
    page = opened(name, color_scheme=scheme)
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) == (scheme == "dark")
    assert problems(page) == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_enlarged_view(opened: Callable[..., Any], scheme: str) -> None:
    page = opened("small", color_scheme=scheme)
    page.locator("#gallery .open").first.click()
    assert problems(page) == ""
    page.keyboard.press("Escape")
    narrow = opened("small", PHONE, color_scheme=scheme)
    narrow.locator("#gallery .open").first.click()
    assert problems(narrow) == ""


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_its_window(opened: Callable[..., Any], name: str) -> None:
    page = opened(name)
    for width, height in (LAPTOP, (768, 1024), PHONE):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_filters_show_what_fits(opened: Callable[..., Any]) -> None:
    page = opened("complete")
    report = drawn_reports.report()
    gallery = [p for p in report.pairs if "gallery" in p.why]
    said = page.locator("#fitting")
    assert said.text_content() == f"{len(gallery)} pairs in the gallery"

    choose(page, style=STYLES[2])
    assert {card["style"] for card in visible(page, ".card")} == {"2"}
    assert {row["style"] for row in visible(page, "[data-style]")} == {"2"}, "charts and ranks too"
    assert said.text_content() == f"{sum(p.style == STYLES[2] for p in gallery)} of {len(gallery)} pairs of the gallery fit"

    choose(page, label="harbour", split="train")
    fitting = [p for p in gallery if (p.style, p.label, p.split) == (STYLES[2], "harbour", "train")]
    shown = [report.pairs[int(card["pair"])].pair_id for card in visible(page, "#gallery .card")]
    assert shown == [p.pair_id for p in fitting]
    assert shown

    page.click("text=Show all")
    page.wait_for_function("document.getElementById('f-style').value === ''")
    page.wait_for_function("document.querySelectorAll('#gallery .card:not([hidden])').length === 60")
    choose(page, status="failed")
    assert visible(page, "#gallery .card") == []
    assert {card["status"] for card in visible(page, ".card")} == {"1"}
    assert len(visible(page, "#failures .card")) == report.errors
    page.click("text=Show all")
    page.wait_for_function("document.getElementById('f-status').value === ''")
    choose(page, label="(no label)")
    assert {report.pairs[int(card["pair"])].label for card in visible(page, ".card")} == {None}


def test_a_style_opens_with_its_first_pairs(opened: Callable[..., Any]) -> None:
    page = opened("complete")
    assert len(visible(page, "#gallery .card")) == 12 * len(STYLES)
    more = page.locator("#gallery .more").first
    assert more.text_content() == "Show 17 more"
    more.click()
    assert sum(card["style"] == "0" for card in visible(page, "#gallery .card")) == 29
    assert not more.is_visible()
    assert page.evaluate("document.activeElement.closest('.card').dataset.pair") != "0", "the focus is on the first that came"


def stage(page: Any) -> Image.Image:
    return Image.open(io.BytesIO(page.locator("#view-slider").screenshot())).convert("RGB")


def test_the_slider_goes_from_the_content_to_the_result(opened: Callable[..., Any]) -> None:
    page = opened("small")
    page.locator("#gallery .open").first.click()
    slider = page.locator("#view-slider input")
    assert slider.get_attribute("aria-label") == "Line between content and result of kodak-00__great_wave"
    box = page.locator("#view-slider").bounding_box()
    middle = box["y"] + box["height"] / 2

    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, middle, steps=4)
    page.mouse.up()
    assert int(slider.input_value()) <= 2
    result = stage(page).resize((64, 48))
    slider.focus()
    page.keyboard.press("End")
    assert slider.input_value() == "100"
    assert slider.get_attribute("aria-valuetext") == "100 % content"
    content = stage(page).resize((64, 48))
    report = drawn_reports.report(contents=4)
    for shown, data in ((result, report.pairs[0].result), (content, report.pairs[0].content)):
        assert data is not None
        drawn = Image.open(io.BytesIO(data)).convert("RGB").resize((64, 48))
        for at in ((20, 10), (40, 10)):  # away from the line, its grip and the words at the bottom
            assert max(abs(a - b) for a, b in zip(shown.getpixel(at), drawn.getpixel(at), strict=True)) < 12
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "99"
    assert page.locator("#view-title").text_content() == "kodak-00__great_wave", "the keys of the slider go to no other pair"


def test_the_enlarged_view_by_keyboard(opened: Callable[..., Any]) -> None:
    page = opened("small")
    report = drawn_reports.report(contents=4)
    gallery = [report.pairs[int(card["pair"])] for card in visible(page, "#gallery .card")]
    page.locator("#gallery .open").first.focus()
    page.keyboard.press("Enter")
    title, place, view = page.locator("#view-title"), page.locator("#view-place"), page.locator("#view")
    assert view.is_visible()
    assert (title.text_content(), place.text_content()) == (gallery[0].pair_id, f"1 of {len(gallery)}")
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == gallery[0].pair_id, "there is none before the first"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert title.text_content() == gallery[2].pair_id
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == gallery[1].pair_id
    page.keyboard.press("End")
    assert title.text_content() == gallery[-1].pair_id
    assert page.evaluate("document.getElementById('view').contains(document.activeElement)"), "the focus stays in the view"
    assert f"{gallery[-1].style}" in view.inner_text()
    for _ in range(8):
        page.keyboard.press("Tab")
        inside = page.evaluate("document.getElementById('view').contains(document.activeElement) || document.activeElement === document.body")
        assert inside, "Tab does not reach what is behind the view"
    page.keyboard.press("Escape")
    assert not view.is_visible()
    focused = page.evaluate("document.activeElement.closest('.card').dataset.pair")
    assert report.pairs[int(focused)].pair_id == gallery[-1].pair_id, "the focus is on the card that was shown last"


def test_the_enlarged_view_of_a_failed_pair(opened: Callable[..., Any]) -> None:
    page = opened("complete")
    page.locator("#failures .open").first.click()
    text = page.locator("#view").inner_text()
    for words in ("decode_error", "the file ends after 12 of 40 kB", "it could not be decoded"):
        assert words in text
    assert page.locator("#view-slider input").count() == 0
    assert not page.locator("#view-curve").is_visible()


@pytest.mark.parametrize("name", ["small", "compare"])
def test_tab_reaches_every_control_and_shows_where_it_is(opened: Callable[..., Any], name: str) -> None:
    page = opened(name)
    page.evaluate(
        """() => { window.controls = [...document.querySelectorAll('a, button, select, input, [tabindex]')]
                .filter(e => e.getClientRects().length && !e.disabled);
            window.reached = new Set(); window.unmarked = []; }"""
    )
    for _ in range(page.evaluate("controls.length") + 5):
        page.keyboard.press("Tab")
        page.evaluate(
            """() => { const e = document.activeElement; reached.add(e);
                const marked = [e, e.closest('.slider')].some(n => n && getComputedStyle(n).outlineStyle !== 'none');
                if (e !== document.body && !marked) unmarked.push(e.outerHTML.slice(0, 200)); }"""
        )
    assert page.evaluate("controls.filter(e => !reached.has(e)).map(e => e.outerHTML.slice(0, 200))") == []
    assert page.evaluate("unmarked") == []


def test_a_command_is_copied_and_the_numbers_are_saved(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened("complete", permissions=["clipboard-read", "clipboard-write"])
    page.locator("#failures .copy").click()
    page.wait_for_function("document.querySelector('#failures .copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == drawn_reports.report().retry
    with page.expect_download() as download:
        page.click("#save")
    saved = json.loads(Path(download.value.path()).read_text())
    assert len(saved["pairs"]) == 150
    assert saved["title"] == drawn_reports.report().title


def test_a_comparison_has_a_slider_for_each_pair(opened: Callable[..., Any]) -> None:
    page = opened("compare")
    compare = drawn_reports.comparison()
    both = [p for p in compare.pairs if p.left and p.right and p.right.status == "ok" and p.left.status == "ok"]
    assert page.locator(".slider input").count() == len(both)
    first = page.locator(".slider input").first
    before = page.evaluate("getComputedStyle(document.querySelector('.slider .over')).clipPath")
    first.focus()
    page.keyboard.press("Home")
    assert first.input_value() == "0"
    assert page.evaluate("getComputedStyle(document.querySelector('.slider .over')).clipPath") != before
    choose(page, style=STYLES[1])
    assert {row["style"] for row in visible(page, "[data-style]")} == {"1"}


@pytest.mark.parametrize("name", ["complete", "compare"])
def test_print_has_pictures_and_no_controls(opened: Callable[..., Any], name: str) -> None:
    page = opened(name, PAPER, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in ("form.filters", "nav", ".copy", "#save", ".slider input"):
        assert visible(page, selector) == [], selector
    assert len(visible(page, "#gallery .card")) > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER[0]
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_the_pictures_and_the_numbers_are_there(opened: Callable[..., Any]) -> None:
    page = opened("complete", java_script_enabled=False)
    assert page.locator("noscript").count() == 1
    assert not page.locator("form.filters").is_visible()
    assert page.locator("#gallery .card:visible").count() == len([p for p in drawn_reports.report().pairs if "gallery" in p.why])
    assert page.locator("img[src]:visible").count() > 150
