"""Which contents are taken, and which styles each of them gets."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nstray.errors import ManifestError
from nstray.manifest.build_names import Hashes, hashes
from nstray.text import counted

Numbers = npt.NDArray[np.int64]


def styles_each(pairs: str) -> int | None:
    """How many styles each content gets; None for all."""
    if pairs == "all":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", pairs) or int(pairs) == 0:
        raise ManifestError(
            f"--pairs {pairs}: must be all, or a whole number of styles per content of at least 1"
        )
    return int(pairs)


def drawn(number: int | None, styles: Numbers, key: str) -> Numbers:
    """`number` of the `styles`, ascending, or all; `key` seeds the draw."""
    if number is None:
        return styles
    taken = sorted(random.Random(key).sample(range(len(styles)), number))
    return styles[taken]


def sample_keys(paths: Sequence[str], seed: int) -> Hashes:
    """What decides whether a content is in a sample: a hash of its path and the seed."""
    return hashes(f"{seed}:{path}" for path in paths)


def sampled(keys: Hashes, number: int) -> npt.NDArray[np.bool_]:
    """Which contents are in a sample: those of the `number` least keys.

    So a content's place in the order depends on itself alone.
    """
    taken = np.zeros(len(keys), dtype=np.bool_)
    taken[np.argsort(keys, kind="stable")[:number]] = True
    return taken


def split_styles(
    paths: Sequence[str], contents: Mapping[str, int], least: int, seed: int
) -> dict[str, Numbers]:
    """Styles of its own for each split; their numbers, ascending.

    Each split gets `least` styles, and of the others a share in proportion to its contents, by the
    largest remainder. Styles are ordered by a hash of their paths and the seed, and cut in that
    order.

    Args:
        paths: of the styles.
        contents: number of contents by split.
        least: styles that each split needs.
    Raises: `ManifestError` if there are too few.
    """
    splits = sorted(contents)
    if len(paths) < least * len(splits):
        need = f" of {counted(least, 'style')} each" if least > 1 else ""
        raise ManifestError(
            f"--style-splits: {counted(len(paths), 'style')} for "
            f"{counted(len(splits), 'split')}{need} ({', '.join(map(repr, splits))}); give at "
            f"least {least * len(splits):,} styles"
        )
    spare, total = len(paths) - least * len(splits), sum(contents.values())
    exact = {split: spare * contents[split] / total for split in splits}
    shares = {split: least + int(exact[split]) for split in splits}
    rest = len(paths) - sum(shares.values())
    for split in sorted(splits, key=lambda s: int(exact[s]) - exact[s])[:rest]:
        shares[split] += 1
    order = np.argsort(sample_keys(paths, seed), kind="stable").astype(np.int64)
    out, at = {}, 0
    for split in splits:
        out[split] = np.sort(order[at : at + shares[split]])
        at += shares[split]
    return out
