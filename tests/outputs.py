"""Finished outputs for the tests, made of the package's own parts: manifest, plan, encoding, commit; only the pictures are drawn here."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nstray import __version__, config
from nstray.images.encode import encode
from nstray.manifest import manifest
from nstray.manifest.pair import pairs
from nstray.manifest.shards import cut_shards, cut_windows
from nstray.output import histograms
from nstray.output.folder import Output
from nstray.output.layout import ids_digest
from nstray.output.part_file import encode_part, read_footer
from nstray.output.records import FORMAT, Counts
from nstray.output.schema import encode_schema, part_schema

CARRIED = pa.schema([pa.field("caption", pa.string()), pa.field("split", pa.int64())])
WEIGHTS_ID = "random:0:0123456789abcdef"


def picture(seed: int, width: int = 24, height: int = 16) -> np.ndarray:
    """A smooth seeded picture: a gradient between two colours, with a disc of a third."""
    rng = np.random.default_rng(seed)
    first, second, third = rng.integers(0, 256, (3, 3))
    y, x = np.mgrid[0:height, 0:width]
    slope = ((x / width + y / height) / 2)[..., None]
    pixels = first * (1 - slope) + second * slope
    disc = (x - width * rng.uniform(0.3, 0.7)) ** 2 + (y - height * rng.uniform(0.3, 0.7)) ** 2 < (min(width, height) / 4) ** 2
    pixels[disc] = third
    return pixels.astype(np.uint8)


def ok_row(pair_id: str, *, seed: int = 0, content: str = "c.png", style: tuple[str, ...] = ("s.png",), **more: Any) -> dict[str, Any]:
    pixels = picture(seed)
    return {
        "pair_id": pair_id,
        "image": {"bytes": encode(pixels, "png"), "path": f"{pair_id}.png"},
        "status": "ok",
        "error_code": None,
        "error_message": None,
        "content_uri": content,
        "style_uri": list(style),
        "content_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "style_sha256": [hashlib.sha256(s.encode()).hexdigest() for s in style],
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "content_width": 60,
        "content_height": 40,
        "loss_total": 3.5,
        "loss_content": 0.5,
        "loss_style": 0.003,
        "loss_tv": 0.0,
        "loss_range": 0.0,
        "loss_curve": [9.0, 5.0, 3.5],
        "iterations": 2,
        "evaluations": 3,
        "seconds": 0.25,
        "device": "cpu",
        "dtype": "float32",
        "seed": seed,
        "weights_id": WEIGHTS_ID,
        "config_fingerprint": "f" * 64,
        "nstray_version": __version__,
        "attempt": 1,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        **more,
    }


def error_row(pair_id: str, code: str = "not_found", *, content: str = "c.png", style: tuple[str, ...] = ("s.png",), **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(ok_row("x"))
    return {
        **row,
        "pair_id": pair_id,
        "status": "error",
        "error_code": code,
        "error_message": f"{content}: no such file",
        "content_uri": content,
        "style_uri": list(style),
        "nstray_version": __version__,
        "attempt": 1,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        **more,
    }


def footer(ids: list[str], *, window: int = 0, number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "version": __version__,
        "window": window,
        "number": number,
        "ids_digest": ids_digest(ids),
        "fingerprint": "f" * 64,
        "seconds": 1.5,
        "evaluations": 3 * len(ids),
        "host": "here",
        "device": "cpu",
        "started": 1_700_000_000.0 + number,
        "finished": 1_700_000_010.0 + number,
        "attempt": 1,
        **more,
    }


def job_record(**more: Any) -> dict[str, Any]:
    """A job record of a few rows, not backed by a manifest."""
    settings = config.make({"weights": "random", "size": 24, "shard_size": 2})
    return {
        "format": FORMAT,
        "nstray_version": __version__,
        "created_at": "2026-01-02T03:04:05+00:00",
        "manifest": "/data/pairs.csv",
        "manifest_digest": "sha256:" + "0" * 64,
        "rows": 6,
        "rows_digest": "sha256:" + "1" * 64,
        "carried_digest": "sha256:" + "2" * 64,
        "carried_changes": [],
        "base": "/data",
        "cuts": [],
        "shard_size": settings.shard_size,
        "fingerprint": "f" * 64,
        "weights_id": WEIGHTS_ID,
        "weights": "random",
        "result": settings.result_fields(),
        "config": settings.model_dump(mode="json"),
        "carried_schema": encode_schema(CARRIED),
        "versions": {"torch": "2.6"},
        **more,
    }


@dataclass
class Made:
    """An output on disk, and what it was made from."""

    out: str
    manifest: str
    job: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def part(self, name: str) -> Path:
        return Path(self.out) / "data" / name


def begun(out: str) -> Output:
    """An output whose job has begun: it has a record."""
    output = Output(out)
    output.job.open(job_record())
    return output


def make_output(
    base: Path,
    *,
    out: str | None = None,
    contents: int = 2,
    styles: int = 3,
    errors: dict[str, str] | None = None,
    skip: Collection[str] = (),
    change: Callable[[str, list[dict[str, Any]], dict[str, Any]], None] | None = None,
    finish: bool = True,
    without: Collection[str] = (),
    histogram: bool = True,
) -> Made:
    """A job of contents x styles under `base`.

    Args:
        out: where it goes; default: the folder ``out`` there.
        errors: pair ids (``c0-s1``) that failed, with their codes.
        skip: names of parts that are not there.
        change: called with a part's name, rows and footer before they are encoded; may change both.
        finish: write the indexes and the summary.
        without: own columns that the parts lack.
        histogram: whether footers and indexes hold histograms, which those of earlier versions lack.
    """
    inputs = base / "inputs"
    inputs.mkdir(parents=True)
    for role, number in (("c", contents), ("s", styles)):
        for i in range(number):
            (inputs / f"{role}{i}.png").write_bytes(encode(picture(100 * (role == "s") + i, 60, 40), "png"))
    path = inputs / "pairs.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["pair_id", "content", "style", "caption", "split"])
        for c in range(contents):
            for s in range(styles):
                lines.writerow([f"c{c}-s{s}", f"c{c}.png", f"s{s}.png", f"number {c}, in style {s}", c])
    settings = config.make({"weights": "random", "size": 24, "shard_size": 2, "column_types": "split=int64"})
    source = manifest.Manifest(str(path))
    info = source.check(settings)
    carried = pa.schema([info.schema.field(name) for name in info.carried])
    # Versions that lacked columns had the shard size in the fingerprint.
    fingerprint = config.fingerprint(settings, WEIGHTS_ID, with_layout=bool(without))
    job = job_record(
        manifest=info.uri,
        manifest_digest=info.digest,
        rows=info.rows,
        rows_digest=info.rows_digest,
        carried_digest=info.carried_digest,
        base=str(inputs),
        fingerprint=fingerprint,
        result=settings.result_fields(),
        config=settings.model_dump(mode="json"),
        carried_schema=encode_schema(carried),
    )
    output = Output(out or str(base / "out"))
    output.job.open(job)
    output.card.write(job)
    made = Made(output.out, str(path), job)
    total = Counts()
    for window, table in cut_windows(source.tables(info)):
        for shard in cut_shards(window, table, settings.shard_size):
            rows = []
            for pair, more in zip(pairs(shard.table, info), shard.table.select(list(info.carried)).to_pylist(), strict=True):
                style = tuple(pair.styles)
                content, *digests = (hashlib.sha256(Path(uri).read_bytes()).hexdigest() for uri in (str(pair.content), *style))
                same = {"content": str(pair.content), "style": style, "content_sha256": content, "style_sha256": digests, **more}
                code = (errors or {}).get(pair.pair_id)
                seed = pair.row
                rows.append(
                    error_row(pair.pair_id, code, **same) if code else ok_row(pair.pair_id, seed=seed, config_fingerprint=fingerprint, **same)
                )
            foot = footer([r["pair_id"] for r in rows], window=window, number=shard.number, fingerprint=fingerprint)
            if change is not None:
                change(shard.name, rows, foot)
            if histogram:
                foot[histograms.KEY] = histograms.of_rows(rows, pa.Table.from_pylist([{n: row[n] for n in carried.names} for row in rows], carried))
            made.rows[shard.name] = rows
            if shard.name not in skip:
                assert output.parts.commit(
                    shard.name,
                    encode_part([{k: v for k, v in row.items() if k not in without} for row in rows], part_schema(carried, without=without), foot),
                )
        parts = [read_footer(i.uri) for i in output.parts.list_window(window).values()]
        for part in parts:
            total.add(part)
        if finish:
            output.indexes.write(window, parts)
    if finish:
        output.summary.write({"rows": total.rows, "ok": total.ok, "errors": total.errors})
        output.card.write(job, total)
    return made
