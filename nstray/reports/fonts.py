"""Fonts for labels in any script: an installed font with the letters, or escapes in their place.

matplotlib's own typeface, DejaVu Sans, lacks Chinese, Japanese, Korean, most Indic scripts, emoji.
"""

from __future__ import annotations

import contextlib
import logging
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from nstray.text import log_event

log = logging.getLogger(__name__)
BASE = "DejaVu Sans"  # in every matplotlib
_MOST = 400  # fonts that are opened at most, some 10 ms each; those likely to help come first
# Parts of the file names of typefaces without serifs that have many letters, best first.
_LIKELY = (
    "notosanscjk",
    "sourcehansans",
    "notosans",
    "wqy",
    "droidsansfallback",
    "symbola",
    "sans",
)
_UNLIKELY = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "mono", "serif")
_EAST_ASIAN = (
    *("CJK ", "HIRAGANA ", "KATAKANA ", "HANGUL ", "BOPOMOFO ", "FULLWIDTH ", "HALFWIDTH "),
    "IDEOGRAPHIC ",
)
_reported: set[str] = set()  # packages that the log has named


@dataclass(frozen=True)
class Typeface:
    """Fonts for a set of texts.

    Attributes:
        families: names in matplotlib, the first for whatever it has.
        letters: the code points that they have.
        outlines: whether one of them has PostScript outlines, which a PDF holds as type 3 alone.
    """

    families: tuple[str, ...]
    letters: frozenset[int]
    outlines: bool = False

    def drawable(self, text: str) -> str:
        r"""`text` as it can be drawn.

        A letter that no font has becomes its escape, such as ``\u4e2d``; marks that show nothing
        of themselves (joiners, variation selectors, directions) are left out.
        """
        return "".join(
            c if c == "\n" or ord(c) in self.letters else _escape(c)
            for c in text
            if c in "\n\t" or not _invisible(c)
        )

    def fitted(self, text: str, columns: int) -> str:
        """`text` as it can be drawn, in one line of at most `columns`; cut in its middle."""
        letters = [self.drawable(c) for c in text.replace("\n", " ")]
        if sum(map(width, letters)) <= columns:
            return "".join(letters)
        start: list[str] = []
        end: list[str] = []
        left = columns - 1
        for i in range(len(letters)):
            side, letter = (start, letters[i // 2]) if i % 2 == 0 else (end, letters[-1 - i // 2])
            left -= width(letter)
            if left < 0:
                break
            side.append(letter)
        return "".join([*start, "…", *reversed(end)])


def typeface(texts: Iterable[str]) -> Typeface:
    """The fonts that draw `texts`, as far as installed fonts can.

    If letters are left, the log names once what to install.
    """
    needed = frozenset(ord(c) for text in texts for c in text if not _invisible(c))
    base = _base_letters()
    wanted = frozenset(c for c in needed - base if unicodedata.category(chr(c)) != "Cc")
    if not wanted:
        return Typeface((BASE,), base)
    found = _fallbacks(wanted)
    letters = base.union(*(letters for _, letters, _ in found))
    if missing := sorted(wanted - letters):
        _report(missing)
    families = (BASE, *(name for name, _, _ in found))
    return Typeface(families, letters, any(outlines for _, _, outlines in found))


def width(text: str) -> int:
    """The columns that `text` takes: two for a letter of East Asia that is as wide as high."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrap(text: str, columns: int) -> list[str]:
    """`text` as lines of at most `columns`, at least one."""
    # A mark after each wide letter makes it count twice.
    marked = "".join(c + "\0" * (width(c) - 1) for c in text)
    return [line.replace("\0", "") for line in textwrap.wrap(marked, columns)] or [""]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context in which matplotlib does not say that a fallback font has no bold weight."""
    logger = logging.getLogger(font_manager.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _invisible(c: str) -> bool:
    return unicodedata.category(c) == "Cf" or 0xFE00 <= ord(c) <= 0xFE0F


def _escape(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"


@lru_cache
def _base_letters() -> frozenset[int]:
    """What both weights of the base typeface have: a title is bold."""
    fonts = [
        font_manager.findfont(font_manager.FontProperties(family=BASE, weight=weight))
        for weight in ("normal", "bold")
    ]
    first, second = (frozenset(FT2Font(str(path)).get_charmap()) for path in fonts)
    return first & second


def installed() -> list[str]:
    """The files of this machine's fonts, those likely to have many letters first."""

    def rank(path: str) -> tuple[int, int, str]:
        name = Path(path).name.lower().replace("-", "").replace("_", "")
        likely = next((i for i, part in enumerate(_LIKELY) if part in name), len(_LIKELY))
        return sum(part in name for part in _UNLIKELY), likely, path

    return sorted(map(str, font_manager.findSystemFonts()), key=rank)


@lru_cache(maxsize=64)
def _fallbacks(wanted: frozenset[int]) -> tuple[tuple[str, frozenset[int], bool], ...]:
    """Fonts that have letters of `wanted`: family, all letters, whether outlines are PostScript.

    matplotlib learns of each font here: its own list may be older than the font.
    """
    found = []
    for path in installed()[:_MOST]:
        if not wanted:
            break
        try:
            font = FT2Font(path)
            letters = frozenset(font.get_charmap())
        except (RuntimeError, OSError):  # not a font that FreeType opens
            continue
        if not font.scalable or not wanted & letters:  # bitmaps, such as coloured emoji
            continue
        font_manager.fontManager.addfont(path)
        found.append((font.family_name, letters, _has_postscript_outlines(path)))
        wanted -= letters
    return tuple(found)


def _has_postscript_outlines(path: str) -> bool:
    """Whether a font, or the first of a collection, is of the kind OTTO (OpenType, CFF)."""
    with open(path, "rb") as file:
        head = file.read(16)
        if head[:4] == b"ttcf":
            file.seek(int.from_bytes(head[12:16], "big"))
            head = file.read(4)
    return head[:4] == b"OTTO"


def _report(missing: Sequence[int]) -> None:
    """Log, once for each package, what to install for letters that no font has."""
    packages: dict[str, list[int]] = {}
    for code in missing:
        packages.setdefault(_package(chr(code)), []).append(code)
    for package, codes in packages.items():
        if package not in _reported:
            _reported.add(package)
            log_event(
                "letters_without_font",
                log.warning,
                letters=len(codes),
                first=f"U+{codes[0]:04X}",
                drawn="as escapes",
                install=f"{package} (Debian, Ubuntu), or any font that has them",
            )


def _package(c: str) -> str:
    """The Debian package of a font that has the letter."""
    if unicodedata.name(c, "").startswith(_EAST_ASIAN):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(c)[0] == "S" else "fonts-noto-core"
