"""Labels in any script: drawn with an installed font that has the letters, or as escapes, and never as empty boxes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from nstray.reports import drawing, fonts
from nstray.reports.drawing import Cell, Sheet


def make_font(path: Path, name: str, letters: str, outlines: bool = False) -> str:
    """A font in which each of `letters` is a full square."""
    glyphs = [".notdef", *(f"g{i}" for i in range(len(letters)))]
    builder = FontBuilder(1000, isTTF=not outlines)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(c): f"g{i}" for i, c in enumerate(letters)})
    corners = [(0, 0), (0, 800), (900, 800), (900, 0)]
    pen = T2CharStringPen(1000, None) if outlines else TTGlyphPen(None)
    pen.moveTo(corners[0])
    for corner in corners[1:]:
        pen.lineTo(corner)
    pen.closePath()
    if outlines:
        builder.setupCFF(name.replace(" ", ""), {}, dict.fromkeys(glyphs, pen.getCharString()), {})
    else:
        builder.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular", "psName": name.replace(" ", "")})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def fonts_are(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The machine's fonts, a list to fill; none at first."""
    paths: list[str] = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(paths))
    monkeypatch.setattr(fonts, "_reported", set())
    known = list(font_manager.fontManager.ttflist)
    fonts._fallbacks.cache_clear()
    yield paths
    fonts._fallbacks.cache_clear()
    font_manager.fontManager.ttflist[:] = known


def sheet(label: str, **more: object) -> Sheet:
    return Sheet([[Cell(label, np.full((60, 80, 3), 255, np.uint8))]], "", "", **more)  # type: ignore[arg-type]


def ink(data: bytes) -> int:
    """How many pixels are black."""
    with Image.open(io.BytesIO(data)) as image:
        return int((np.asarray(image.convert("L")) < 60).sum())


def drawn(what: Sheet, kind: str = "png") -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        return drawing.draw(what, kind)


SCRIPTS = ["中文", "日本語", "ひらがな", "한글", "हिन्दी", "ไทย", "𝔘👍🏽", "\ue000"]


@pytest.mark.parametrize("text", SCRIPTS)
def test_letters_of_an_installed_font_are_drawn(tmp_path: Path, fonts_are: list[str], text: str, caplog: pytest.LogCaptureFixture) -> None:
    fonts_are.append(make_font(tmp_path / "squares.ttf", "Squares", text))
    face = fonts.typeface([f"abc {text}"])
    assert face.families == ("DejaVu Sans", "Squares")
    assert face.drawable(f"abc {text}") == f"abc {text}"
    whole, none = drawn(sheet(text * 3)), drawn(sheet(""))
    assert ink(whole) > ink(none) + 40 * len(text)  # squares of 7 points at 110 dpi
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "shown", "package"),
    [
        ("中a", r"\u4e2da", "fonts-noto-cjk"),
        ("ひ", r"\u3072", "fonts-noto-cjk"),
        ("한글", r"\ud55c\uae00", "fonts-noto-cjk"),
        ("ไทย", r"\u0e44\u0e17\u0e22", "fonts-noto-core"),
        ("हि", r"\u0939\u093f", "fonts-noto-core"),
        ("👍", r"\U0001f44d", "fonts-symbola"),
        ("\ue000", r"\ue000", "fonts-noto-core"),
    ],
)
def test_letters_without_a_font_are_escapes_and_the_log_says_what_to_install(
    fonts_are: list[str], text: str, shown: str, package: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # `save` draws again for a smaller file
            assert fonts.typeface([text]).drawable(text) == shown
            drawn(sheet(text, row_labels=[text], column_labels=[text]))
    (record,) = caplog.records
    assert record.getMessage().startswith("event=letters_without_font")
    assert package in record.getMessage()


@pytest.mark.parametrize("text", ["", "abc", "ünï çé", "Größe 10 µm × 20 · α β", "Привет", "Ελληνικά", "עברית", "العربية", "a_b-c (1).png", "$x$ ^_"])
def test_what_the_base_typeface_has_needs_no_other(fonts_are: list[str], text: str, caplog: pytest.LogCaptureFixture) -> None:
    face = fonts.typeface([text])
    assert (face.families, face.drawable(text)) == (("DejaVu Sans",), text)
    drawn(sheet(text))
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\u200db", "ab"), ("❤\ufe0f", "❤"), ("\u202eabc", "abc"), ("tab\there\x07", r"tab\u0009here\u0007"), ("a\x1b[31m", r"a\u001b[31m")],
)
def test_marks_that_show_nothing_are_left_out_and_control_characters_are_escapes(fonts_are: list[str], text: str, shown: str) -> None:
    assert fonts.typeface([text]).drawable(text) == shown
    drawn(sheet(text))


def test_several_fonts_serve_one_sheet_and_the_rest_is_escaped(tmp_path: Path, fonts_are: list[str]) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"\0\1\0\0 no font")
    fonts_are += [str(tmp_path / "broken.ttf"), str(tmp_path / "gone.ttf")]
    fonts_are += [make_font(tmp_path / f"{name}.ttf", name, letters) for name, letters in (("One", "中"), ("Two", "한"), ("Three", "x"))]
    face = fonts.typeface(["中", "한글"])
    assert set(face.families) == {"DejaVu Sans", "One", "Two"}
    assert face.drawable("中한글") == r"中한\uae00"
    drawn(sheet("中한글", row_labels=["中"], column_labels=["한"]))


def test_a_font_with_a_likely_name_comes_first(fonts_are: list[str]) -> None:
    fonts_are += ["/f/AnySerif-Bold.ttf", "/f/Other.ttf", "/f/NotoSansCJK-Bold.ttc", "/f/NotoSansCJK-Regular.ttc", "/f/wqy-microhei.ttc"]
    assert [Path(path).name for path in fonts.installed()] == [
        "NotoSansCJK-Regular.ttc",
        "wqy-microhei.ttc",
        "Other.ttf",
        "NotoSansCJK-Bold.ttc",
        "AnySerif-Bold.ttf",
    ]


@pytest.mark.parametrize("outlines", [False, True])
def test_a_pdf_holds_the_letters(tmp_path: Path, fonts_are: list[str], outlines: bool, caplog: pytest.LogCaptureFixture) -> None:
    fonts_are.append(make_font(tmp_path / "squares.otf", "Squares", "中文", outlines))
    assert fonts.typeface(["中"]).outlines == outlines
    data = drawn(Sheet([[Cell("中文", np.full((6, 8, 3), 255, np.uint8))]], "中 title", "caption 文"), "pdf")
    assert data.startswith(b"%PDF")
    assert (b"/FontFile2" in data) == (not outlines)  # TrueType, or the glyphs themselves
    assert not caplog.records


def test_wide_letters_fold_and_shorten_by_their_width(fonts_are: list[str]) -> None:
    assert fonts.width("ab中文") == 6
    assert fonts.wrap("中文中文中文", 6) == ["中文中", "文中文"]
    assert fonts.wrap("one two three", 7) == ["one two", "three"]
    face = fonts.Typeface(("DejaVu Sans",), frozenset(map(ord, "abcdefghij中…")))
    assert face.fitted("abcdefghij", 10) == "abcdefghij"
    assert face.fitted("abcdefghij", 7) == "abc…hij"
    assert face.fitted("中中中中中中", 9) == "中中…中中"
    assert fonts.width(face.fitted("文" * 30, 40)) <= 40  # escapes are not cut in two
    assert face.fitted("文文文", 13) == r"\u6587…\u6587"
