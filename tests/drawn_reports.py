"""Reports and comparisons for tests of their pages: the numbers are made up, the pictures drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from outputs import picture

from nstray.images.encode import encode
from nstray.reports.report_data import (
    Box,
    Compare,
    ComparedLoss,
    ComparedPair,
    ComparedSide,
    CurveBand,
    Distribution,
    Failure,
    PairShown,
    Report,
    Sampled,
    SpeedLine,
    Table,
)

STYLES = ("great wave", "irises", "senecio", "sunflowers", "the night watch of Amsterdam, a painting with a long name")
LABELS = ("bridge", "harbour", "house", "parrot")
SPLITS = ("train", "test")
HOSTILE = "</script><img src=x onerror=alert(1)>"
HOSTILE_TEXTS = (
    HOSTILE,
    '"><script>alert(2)</script>',
    "<!--<script>",
    "' onmouseover=alert(3) x='",
    "{{ 7 * 7 }}{% include 'x' %}",
    "\u202egnp.exe\u2028\x00\ud800",
    "javascript:alert(4)//" + "w" * 2000,
)
EVALUATIONS = 40


def jpeg(kind: str, number: int) -> bytes:
    """A drawn picture: of a content, of a style, or of a result."""
    return encode(picture(1000 * ("content", "style", "result").index(kind) + number, 120, 90), "jpeg", 80)


def curve_of(rng: np.random.Generator, last: float) -> tuple[float, ...]:
    fall = np.geomspace(1.0, last, EVALUATIONS) * rng.uniform(0.9, 1.1, EVALUATIONS)
    fall[0], fall[-1] = 1.0, last
    return tuple(float(v) for v in fall * 3e6)


def pair(number: int, style: int, drawn: Callable[[str, int], bytes], styles: tuple[str, ...], *, contents: int) -> PairShown:
    rng = np.random.default_rng((number, style))
    content = number % contents
    moved = 0.9 if (number, style) == (3, 1) else float(rng.lognormal(np.log(0.02 * (style + 1)), 0.4))
    failed = number % 25 == 7 and style != 2
    split = SPLITS[content % 4 == 0]
    common: dict[str, Any] = {
        "pair_id": f"kodak-{content:02d}__{styles[style].replace(' ', '_')[:20]}",
        "style": styles[style],
        "label": LABELS[content % len(LABELS)] if content % 9 else None,
        "split": split,
        "content": None if failed else drawn("content", content),
        "style_image": drawn("style", style),
    }
    if failed:
        message = f"photos/kodak-{content:02d}.jpg: the file ends after 12 of 40 kB"
        return PairShown(
            **common,
            status="error",
            error_code="decode_error",
            error_message=message,
            missing={"content": "it could not be decoded"},
            why=("failed",),
        )
    return PairShown(
        **common,
        status="ok",
        width=384,
        height=288,
        loss_total=3e6 * moved,
        loss_content=float(rng.lognormal(11 + style, 0.3)),
        loss_style=float(rng.lognormal(2 + style / 2, 0.5)),
        ratio=moved,
        seconds=float(rng.normal(14, 1.5)),
        evaluations=EVALUATIONS,
        curve=curve_of(rng, moved),
        result=drawn("result", style * contents + content),
        why=("gallery",),
    )


def ranked(pairs: list[PairShown], style: str) -> list[str]:
    return [p.pair_id for p in sorted((p for p in pairs if p.style == style and p.status == "ok"), key=lambda p: p.loss_total or 0)]


def box(style: str, values: list[float], total: int) -> Box:
    low, p10, p25, median, p75, p90, high = (float(v) for v in np.percentile(values, [0, 10, 25, 50, 75, 90, 100]))
    return Box(style, Sampled(len(values), total), p10, p25, median, p75, p90, low, high)


def band(style: str, curves: np.ndarray) -> CurveBand:
    p10, median, p90 = (tuple(float(v) for v in line) for line in np.percentile(curves, [10, 50, 90], axis=0))
    samples = tuple(tuple(float(v) for v in line) for line in curves[:5])
    return CurveBand(style, Sampled(len(curves), 30), tuple(range(1, EVALUATIONS + 1)), p10, median, p90, samples)


def speed(worker: int) -> SpeedLine:
    rng = np.random.default_rng(worker)
    gap = (250.0, 400.0) if worker == 1 else None
    points = [(t, float(rng.normal(0.07, 0.006))) for t in range(0, 1100, 20) if not (gap and gap[0] <= t <= gap[1])]
    return SpeedLine(f"worker-{worker}", "cpu, 1 thread", "laptop", tuple(points), (gap,) if gap else ())


def report(drawn: Callable[[str, int], bytes] = jpeg, *, contents: int = 30, styles: tuple[str, ...] = STYLES, **changes: Any) -> Report:
    """The report of a complete job of `contents` x `styles` pairs with a few errors, all of them shown."""
    pairs = [pair(n, s, drawn, styles, contents=contents) for s in range(len(styles)) for n in range(contents)]
    ok = [p for p in pairs if p.status == "ok"]
    errors = [p for p in pairs if p.status != "ok"]
    values = (("ratio", ""), ("loss_content", ""), ("loss_style", ""), ("seconds", "s"))
    by_style = {style: [p for p in ok if p.style == style] for style in styles}
    all_of = Sampled(len(pairs), len(pairs))
    both = [(s, la) for s in SPLITS for la in LABELS]
    made = Report(
        title="kodak-in-five-styles",
        out="s3://datasets/kodak-in-five-styles",
        state="complete",
        written_at="2026-11-30T21:40:00Z",
        rows_total=len(pairs),
        rows_done=len(pairs),
        ok=len(ok),
        errors=len(errors),
        sample="The sample holds each pair: it is drawn by strata of style, label and status, and there are fewer pairs than it may hold.",
        seed=0,
        shown=Sampled(len(pairs), len(pairs)),
        windows=Sampled(1, 1),
        header=(
            ("network", "compact (VGG-19 of a quarter of the filters), sha256 0123456789ab"),
            ("command", "nstray run --content photos/ --style paintings/ s3://datasets/kodak-in-five-styles --preset quick --size 384 --seed 7"),
            ("begun", "2026-11-30 21:12:05 UTC"),
            ("ended", "2026-11-30 21:30:41 UTC"),
            ("nstray", "0.2.0"),
        ),
        settings=(("weights", "compact", "imagenet"), ("evaluations", "40", "500"), ("size", "384", "512"), ("style_weight", "2e5", "1e6")),
        cost=(("time", "18m36s", "19m50s"), ("seconds per pair", "14.1", "15.0"), ("bytes", "31 MB", "34 MB"), ("evaluations", "5,760", "6,000")),
        styles=styles,
        labels=LABELS,
        splits=SPLITS,
        pairs=tuple(pairs),
        distributions=tuple(
            Distribution(name, unit, tuple(box(s, [getattr(p, name) for p in of], contents) for s, of in by_style.items())) for name, unit in values
        ),
        curves=tuple(band(s, np.array([p.curve for p in of]) / 3e6) for s, of in by_style.items()),
        worst={s: tuple(reversed(ranked(pairs, s)[-3:])) for s in styles},
        best={s: tuple(ranked(pairs, s)[:3]) for s in styles},
        unmoved=tuple(p.pair_id for p in ok if (p.ratio or 0) > 0.8),
        failures=(
            Failure(
                "decode_error",
                len(errors),
                Sampled(len(pairs), len(pairs)),
                tuple((p.pair_id, p.error_message or "") for p in errors[:3]),
                "The file is damaged or ends early. Replace the picture, then try again.",
            ),
        ),
        retry="nstray retry s3://datasets/kodak-in-five-styles --error-code decode_error",
        speed=(speed(0), speed(1)),
        tables=(
            Table(
                "by style",
                all_of,
                ("style", "ok", "failed"),
                tuple((s, str(len(of)), str(contents - len(of))) for s, of in by_style.items()),
            ),
            Table("by label", all_of, ("label", "pairs"), tuple((la, str(30 + i)) for i, la in enumerate(LABELS)), "3 more labels: 12 pairs"),
            Table("by split", all_of, ("split", "pairs"), (("train", "110"), ("test", "40"))),
            Table("split x label", all_of, ("split", "label", "pairs"), tuple((s, la, str(17 + i)) for i, (s, la) in enumerate(both))),
        ),
    )
    return dataclasses.replace(made, **changes)


def without_rows(state: str, rows_total: int = 150) -> Report:
    """The report of a job of which no pair is done."""
    nothing: dict[str, Any] = dict.fromkeys(("cost", "styles", "labels", "splits", "pairs", "distributions", "curves", "unmoved", "failures"), ())
    nothing |= {"speed": (), "tables": (), "worst": {}, "best": {}, "retry": None, "sample": "There is no row to draw from."}
    return report(
        contents=1,
        state=state,
        rows_total=rows_total,
        rows_done=0,
        ok=0,
        errors=0,
        shown=Sampled(0, 0),
        windows=Sampled(0, 1),
        **nothing,
    )


def running() -> Report:
    """The report of a job that runs: a third of its pairs is there, all ok."""
    whole = report(contents=10)
    return dataclasses.replace(
        whole,
        state="running",
        rows_total=150,
        rows_done=whole.ok,
        ok=whole.ok,
        errors=0,
        failures=(),
        retry=None,
        pairs=tuple(p for p in whole.pairs if p.status == "ok"),
        shown=Sampled(whole.ok, whole.ok),
        windows=Sampled(0, 1),
        notes=("1 window is still open: its parts were read one by one.",),
    )


def failed() -> Report:
    """The report of a job of which nearly all pairs failed."""
    whole = report(contents=20)
    failures = [
        dataclasses.replace(p, status="error", error_code="not_found", error_message="photos/a.jpg: no such file", result=None, why=("failed",))
        for p in whole.pairs[:-1]
    ]
    advice = "The file is not where the manifest says. Put it there, or mend the manifest."
    return dataclasses.replace(
        whole,
        state="failed",
        ok=1,
        errors=99,
        pairs=(*failures, whole.pairs[-1]),
        failures=(Failure("not_found", 99, Sampled(100, 100), (("a", "photos/a.jpg: no such file"),), advice),),
        distributions=(),
        curves=(),
        worst={},
        best={},
        unmoved=(),
        speed=(),
    )


def hostile() -> Report:
    """A report whose every text is HTML or script, and some of whose pictures are none."""
    texts = HOSTILE_TEXTS
    whole = report(contents=len(texts), styles=texts)
    bad = (b"<svg onload=alert(5)>", b"\xff\xd8\xff broken", b"", None, jpeg("result", 1)[:200])
    pairs = [
        dataclasses.replace(
            p,
            pair_id=f"{texts[i % len(texts)]}{i}",
            label=texts[i % 3],
            split=texts[i % 2],
            status="error" if i % 9 == 4 else "ok",
            error_message=texts[i % len(texts)] if i % 9 == 4 else None,
            error_code=texts[1] if i % 9 == 4 else None,
            why=("failed", "gallery") if i % 9 == 4 else ("gallery",),
            result=bad[i % len(bad)] if i % 2 else p.result,
            missing={"result": texts[0], "content": texts[1], "style_image": texts[2]},
            loss_style=float("nan") if i % 3 else float("inf"),
        )
        for i, p in enumerate(whole.pairs)
    ]
    ids = [p.pair_id for p in pairs]
    return dataclasses.replace(
        whole,
        title=texts[0],
        out=texts[1],
        written_at=texts[2],
        sample=texts[0],
        labels=texts[:3],
        splits=texts[:2],
        pairs=tuple(pairs),
        worst={style: tuple(ids[:2]) for style in texts},
        best={style: tuple(ids[2:4]) for style in texts},
        unmoved=tuple(ids[:3]),
        header=tuple((t, t) for t in texts),
        settings=tuple((t, t, t) for t in texts),
        cost=tuple((t, t, t) for t in texts),
        failures=(Failure(texts[0], 2, Sampled(1, 2), tuple((t, t) for t in texts), texts[1]),),
        retry=texts[1],
        speed=tuple(SpeedLine(t, t, t, ((0.0, 1.0), (1.0, float("nan"))), ()) for t in texts),
        tables=(Table(texts[0], Sampled(1, 2), texts[:2], (texts[:2],), texts[2]),),
        notes=texts,
    )


def comparison(drawn: Callable[[str, int], bytes] = jpeg, *, contents: int = 6, styles: tuple[str, ...] = STYLES, **changes: Any) -> Compare:
    """The comparison of two complete outputs; in one pair the right one failed, in one the left one has no row."""
    whole = report(drawn, contents=contents, styles=styles)
    other = {p.pair_id: dataclasses.replace(p, result=drawn("result", 500 + i), ratio=(p.ratio or 1) * 0.8) for i, p in enumerate(whole.pairs)}
    pairs = [
        ComparedPair(p.pair_id, p.style, p.label, p.content, p.style_image, None if i == 1 else p, other[p.pair_id])
        for i, p in enumerate(whole.pairs)
    ]
    failure = dataclasses.replace(
        pairs[2].right or whole.pairs[2], status="error", error_code="out_of_memory", error_message="512 px need 9 GB", result=None
    )
    pairs[2] = dataclasses.replace(pairs[2], right=failure)
    sides = [
        ComparedSide(name, "complete", 30, 30, 30 - bad, bad, (("network", "compact"), ("begun", "2026-11-30 21:12 UTC"), ("out", f"s3://x/{name}")))
        for name, bad in (("style-2e5", 0), ("style-1e6", 1))
    ]
    made = Compare(
        title="style-2e5 and style-1e6",
        written_at="2026-11-30T21:40:00Z",
        left=sides[0],
        right=sides[1],
        settings=(("style_weight", "2e5", "1e6"), ("evaluations", "40", "80")),
        joined_on="pair_id",
        styles=styles,
        labels=LABELS,
        pairs=tuple(pairs),
        losses=tuple(
            ComparedLoss(name, "", style, Sampled(6, 6), 0.03 * (i + 1), 0.02 * (i + 1), 5, name != "loss_style")
            for i, style in enumerate(styles)
            for name in ("ratio", "loss_content", "loss_style", "seconds")
        ),
        sample="The sample holds each pair that both outputs have.",
        seed=0,
        shown=Sampled(len(pairs), len(pairs)),
    )
    return dataclasses.replace(made, **changes)


def hostile_comparison() -> Compare:
    """A comparison whose every text is HTML or script."""
    texts = HOSTILE_TEXTS
    made = comparison(styles=texts, contents=3)
    bad = dataclasses.replace(made.left, name=texts[0], state=texts[3], header=tuple((t, t) for t in texts))
    pairs = tuple(dataclasses.replace(p, pair_id=f"{texts[i % len(texts)]}{i}", label=texts[0]) for i, p in enumerate(made.pairs))
    return dataclasses.replace(
        made,
        title=texts[0],
        left=bad,
        right=bad,
        settings=tuple((t, t, t) for t in texts),
        labels=texts[:1],
        pairs=pairs,
        sample=texts[1],
        notes=texts,
    )
