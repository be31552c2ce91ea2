"""What `nstray verify` found, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nstray.output.part_file import remake

MAX_PROBLEMS = 1000
_NAMED = 10  # names in a message at most


@dataclass
class VerifyReport:
    """What `verify` found.

    Attributes:
        problems: at most `MAX_PROBLEMS` of them; `more` counts the rest.
        bad_parts: names of the parts that have a problem.
        notes: for a person; nothing is wrong.
        parts, rows, ok, errors: what is really there; errors by their code.
        earlier: rows made before the manifest's carried columns got other values.
    """

    problems: list[str] = field(default_factory=list)
    bad_parts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: int = 0
    rows: int = 0
    ok: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    more: int = 0
    earlier: int = 0
    _remedies: dict[str, None] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there is no problem at all."""
        return not self.problems

    @property
    def remedies(self) -> list[str]:
        """What to do about the problems."""
        them = "it" if len(self.bad_parts) == 1 else "them"
        parts = [remake(first_names(self.bad_parts), them)] if self.bad_parts else []
        return [*self._remedies, *parts]

    def add(self, problem: str, remedy: str | None) -> None:
        """Note a problem and what to do about it; None if another problem says so."""
        self._note(problem)
        if remedy is not None:
            self._remedies.setdefault(remedy)

    def add_to_part(self, name: str, problem: str) -> None:
        """Note a problem of a part, which is to be made again."""
        self._note(f"{name}: {problem}")
        if name not in self.bad_parts[-1:]:
            self.bad_parts.append(name)

    def _note(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more += 1


def first_names(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
