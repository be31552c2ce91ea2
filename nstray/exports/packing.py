"""How the buckets of an export become its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nstray.exports.selection import Note

FILES_PER_FOLDER = 10_000
CHUNK = 64 * 2**20  # bytes of buckets that are in memory at once


@dataclass(frozen=True)
class Task:
    """One file of an export, or with imagefolder the files of some buckets.

    Attributes:
        number, of: of the file among those of its split.
        chunks: (first bucket, bucket behind the last) that are read at once, in order.
        first: number of the first row in the split. rows: their number.
        folders: by class folder, how many files of it come before.
        totals: by class folder, how many files it has.
    """

    split: str
    number: int
    of: int
    chunks: tuple[tuple[int, int], ...]
    first: int
    rows: int
    folders: Mapping[str, int]
    totals: Mapping[str, int]

    @property
    def name(self) -> str:
        """Of its note in the scratch folder; a split's name is that of a file."""
        return f"{self.split}-{self.number:05d}"


def merge(notes: Sequence[Note]) -> Note:
    """What all units add up to."""
    total = Note()
    for note in notes:
        for name, value in vars(note).items():
            if isinstance(value, int):
                setattr(total, name, getattr(total, name) + value)
        for split, buckets in note.splits.items():
            mine = total.splits.setdefault(split, {})
            for bucket, (rows, size) in buckets.items():
                have = mine.setdefault(bucket, [0, 0])
                have[0] += rows
                have[1] += size
        for text, number in note.classes.items():
            total.classes[text] = total.classes.get(text, 0) + number
        for split, folders in note.folders.items():
            for folder, counts in folders.items():
                there = total.folders.setdefault(split, {}).setdefault(folder, {})
                for bucket, number in counts.items():
                    there[bucket] = there.get(bucket, 0) + number
        for reason, (number, examples) in note.problems.items():
            for example in examples:
                total.add_problem(reason, example, 0)
            total.problems[reason][0] += number
    return total


def make_tasks(total: Note, most: float) -> list[Task]:
    """The files of an export, in order.

    Files of a split are about equally large. They have at most `most` bytes, but for a bucket that
    is larger by itself.
    """
    tasks = []
    for split in sorted(total.splits):
        buckets = sorted((int(b), rows, size) for b, (rows, size) in total.splits[split].items())
        size = sum(each[2] for each in buckets)
        largest = max(each[2] for each in buckets)
        number = max(1, -int(-size // max(most - largest, most / 2))) if size > most else 1
        groups = _cut(buckets, size / number)
        folders = total.folders.get(split, {})
        totals = {folder: sum(counts.values()) for folder, counts in folders.items()}
        before = dict.fromkeys(folders, 0)
        first = 0
        for i, group in enumerate(groups):
            rows = sum(each[1] for each in group)
            tasks.append(
                Task(split, i, len(groups), _chunks(group), first, rows, dict(before), totals)
            )
            first += rows
            for folder, counts in folders.items():
                before[folder] += sum(counts.get(str(each[0]), 0) for each in group)
    return tasks


_Bucket = tuple[int, int, int]  # number, rows, bytes


def _cut(buckets: Sequence[_Bucket], target: float) -> list[list[_Bucket]]:
    """Groups of consecutive buckets: a group ends where the sum is nearest to its share."""
    groups: list[list[_Bucket]] = [[]]
    done = 0
    for bucket in buckets:
        end = len(groups) * target
        if groups[-1] and done + bucket[2] - end > end - done:
            groups.append([])
        groups[-1].append(bucket)
        done += bucket[2]
    return groups


def _chunks(group: Sequence[_Bucket]) -> tuple[tuple[int, int], ...]:
    chunks: list[list[int]] = []
    held = 0
    for bucket, _, size in group:
        if not chunks or held + size > CHUNK:
            chunks.append([bucket, bucket + 1])
            held = 0
        chunks[-1][1] = bucket + 1
        held += size
    return tuple((a, b) for a, b in chunks)


def folder_of(number: int, of: int) -> str:
    """A numbered folder with a slash behind it, if there are more files than go into one."""
    return f"{number // FILES_PER_FOLDER:05d}/" if of > FILES_PER_FOLDER else ""


def as_note(values: Mapping[str, Any]) -> Note:
    """The note of a unit from its JSON."""
    return Note(**values)
