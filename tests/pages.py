"""Code blocks of the README and the docs, and the words of the `nstray` commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "docs" / "recipes"


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        return self.text.splitlines()[0]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text := page.read_text(), re.M | re.S):
        yield Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])


def commands(text: str) -> Iterator[list[str]]:
    """The words behind each `nstray` of a bash text."""
    text = re.sub(r"\\\n", " ", text)
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("&&", ";", "--", "||", "|"):
                if words[:1] == ["nstray"]:
                    yield words[1:]
                words = []
            else:
                words.append(word)
