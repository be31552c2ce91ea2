"""Contents among the stylised pictures: rows of their own, marked as originals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nstray.exports.keys import chosen
from nstray.exports.options import SEED
from nstray.exports.pictures import FAILS, STOPS, Pictures
from nstray.exports.plan import Plan
from nstray.exports.selection import Selected
from nstray.output.schema import RESERVED

# What an original has of its pair. Its own columns of the optimisation are null.
_SHARED = ("pair_id", "status", "content_uri", "content_sha256", "content_width", "content_height")


def add_originals(
    selected: Selected, absolute: pa.Table, pictures: Pictures, plan: Plan, failed: list[str]
) -> tuple[Selected, np.ndarray[Any, np.dtype[np.bool_]]]:
    """`selected` with the contents of some of its pairs, each behind its pair.

    Args:
        absolute: the same rows before their pictures were made smaller.
        failed: gets a text for each content that can't be read.

    Returns the rows, and which of them are originals.
    """
    options = plan.options
    seed = SEED if options.shuffle is None else options.shuffle
    taken: list[int] = []
    images: list[dict[str, Any]] = []
    shapes: list[tuple[int, int]] = []
    facts = absolute.select(
        ["pair_id", "status", "content_uri", "content_sha256", "width", "height"]
    )
    for i, row in enumerate(facts.to_pylist()):
        if row["status"] != "ok" or not chosen(seed, row["pair_id"], options.with_originals):
            continue
        path = absolute["image"][i]["path"].as_py()
        try:
            data, name, width, height = pictures.original(
                row["content_uri"] or "",
                row["content_sha256"],
                path,
                (row["width"], row["height"]),
            )
        except STOPS:
            raise
        except FAILS as error:
            failed.append(f"{row['pair_id']}: {error}")
            continue
        taken.append(i)
        images.append({"bytes": data, "path": name})
        shapes.append((width, height))
    table = selected.table
    index = pa.array(taken, pa.int64())
    rows = table.take(index)
    for place, field in enumerate(table.schema):
        if field.name == "image":
            values = pa.array(images, field.type)
        elif field.name in ("width", "height"):
            side = 0 if field.name == "width" else 1
            values = pa.array([shape[side] for shape in shapes], field.type)
        elif field.name in RESERVED and field.name not in _SHARED:
            values = pa.nulls(len(taken), field.type)
        else:
            continue
        rows = rows.set_column(place, field, values)
    both = pa.concat_tables([table, rows])
    order = pa.array(
        np.argsort(np.concatenate([np.arange(table.num_rows), np.array(taken)]), kind="stable"),
        pa.int64(),
    )
    original = np.concatenate([np.zeros(table.num_rows, bool), np.ones(len(taken), bool)])

    def doubled(values: pa.Array) -> pa.Array:
        return pa.concat_arrays([values, values.take(index)]).take(order)

    classes = None if selected.classes is None else doubled(selected.classes)
    return (
        Selected(both.take(order), doubled(selected.positions), doubled(selected.splits), classes),
        original[np.asarray(order)],
    )
