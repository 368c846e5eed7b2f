"""The two plots of the documentation, drawn from the results in bench/results: plain SVG, the same on every run.

A dot is the measured share and the line through it the 95 % Wilson interval; for times the line goes from p50 to p99.
"""

import json
from collections.abc import Iterable
from itertools import groupby
from math import log10
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import msgspec

from llmobs.domain.interval import Interval
from llmobs.evaluation import FileFigures

RESULTS = Path(__file__).parents[1] / "bench/results"
INK, GREY, RULE, HIT, ALARM = "#1f2328", "#59636e", "#d1d9e0", "#0b5cad", "#b3261e"
ROW, LEFT, WIDE, RIGHT = 18, 200, 420, 190
"""Pixels: height of a row; width of the names, of the scale and of the figures behind it."""


class Bar(NamedTuple):
    """A dot with a line through it, all between 0 and 1 of the scale's width."""

    low: float
    dot: float
    high: float
    colour: str


class Row(NamedTuple):
    """A line of a plot; one without bars is a heading."""

    name: str
    bars: list[Bar]
    told: str = ""


def drawing(title: str, ticks: Iterable[tuple[float, str]], rows: list[Row]) -> str:
    """An SVG of `rows` over a scale with `ticks` (place between 0 and 1, label)."""
    height = (len(rows) + 3) * ROW
    width = LEFT + WIDE + RIGHT
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label={quoteattr(title)} font-family="sans-serif" font-size="12">'
        ),
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    bottom = height - 1.4 * ROW
    for place, label in ticks:
        x = LEFT + place * WIDE
        parts.append(f'<path d="M{x:.1f} {ROW}V{bottom:.1f}" stroke="{RULE}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15:.1f}" fill="{GREY}" text-anchor="middle">{escape(label)}</text>'
        )
    for number, row in enumerate(rows):
        y = (number + 1.5) * ROW
        weight = "" if row.bars else ' font-weight="bold"'
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 4:.1f}" fill="{INK}" text-anchor="end"{weight}>{escape(row.name)}</text>'
        )
        for bar in row.bars:
            low, dot, high = (LEFT + place * WIDE for place in (bar.low, bar.dot, bar.high))
            parts.append(
                f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{bar.colour}" stroke-width="2" opacity=".5"/>'
            )
            parts.append(f'<circle cx="{dot:.1f}" cy="{y:.1f}" r="4" fill="{bar.colour}"/>')
        if row.told:
            parts.append(
                f'<text x="{LEFT + WIDE + 12}" y="{y + 4:.1f}" fill="{GREY}">{escape(row.told)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])


def accuracy() -> str:
    """Recall and false alarms of the default policy, a line a file with attacks or harmless rows in it."""
    figures = msgspec.json.decode((RESULTS / "eval-default.json").read_bytes(), type=list[FileFigures])

    def bar(share: Interval | None, colour: str) -> list[Bar]:
        return [] if share is None else [Bar(share.low, share.share, share.high, colour)]

    def percent(share: Interval) -> str:
        return f"{100 * share.share:.0f} %"

    rows = []
    for task, files in groupby(figures, lambda line: line.task):
        rows.append(Row(task, []))
        rows += [
            Row(
                line.file.removesuffix(".jsonl.gz").partition("/")[2],
                bar(line.recall, HIT) + bar(line.fpr, ALARM),
                ", ".join(
                    f"{percent(share)} {what}"
                    for share, what in ((line.recall, "found"), (line.fpr, "alarms"))
                    if share
                ),
            )
            for line in files
        ]
    return drawing(
        "Blue: share of labelled cases found. Red: share of harmless rows warned about or blocked. Policy default.",
        [(share / 100, f"{share} %") for share in range(0, 101, 20)],
        rows,
    )


def speed() -> str:
    """Time for one text on a logarithmic scale, p50 to p99: each part beside its bare counterpart."""
    tier1: dict[str, Any] = json.loads((RESULTS / "tier1.json").read_bytes())
    tiers: dict[str, Any] = json.loads((RESULTS / "tiers.json").read_bytes())
    first, last = 0.1, 1000.0

    def told(ms: float) -> str:
        return f"{ms:.0f}" if ms >= 10 else f"{ms:.2g}"

    def row(name: str, p50: float, p99: float, colour: str) -> Row:
        low, high = (log10(each / first) / log10(last / first) for each in (p50, p99))
        return Row(name, [Bar(low, low, high, colour)], f"{told(p50)} to {told(p99)} ms")

    rows = []
    for length, measured in tier1["lengths"].items():
        rows.append(Row(f"tier 1, {int(length):,} characters", []))
        rows += [
            row(name, each["p50_us"] / 1000, each["p99_us"] / 1000, HIT if name == "tier 1 whole" else GREY)
            for name, each in measured.items()
        ]
    for case in tiers["encoder"]:
        rows.append(Row(f"tier 2, {case['tokens']:,.0f} tokens", []))
        rows += [
            row(name, case[key]["p50_ms"], case[key]["p99_ms"], colour)
            for name, key, colour in (
                ("detector", "detector cpu", HIT),
                ("bare ONNX Runtime", "bare cpu", GREY),
            )
        ]
    return drawing(
        "Time for one text, dot p50, line to p99, logarithmic. Blue: llmobs. Grey: the bare counterpart.",
        [(log10(ms / first) / log10(last / first), f"{ms:g} ms") for ms in (0.1, 1, 10, 100, 1000)],
        rows,
    )


def outputs() -> dict[str, str]:
    """The pictures by their place under docs/."""
    return {"images/accuracy.svg": accuracy(), "images/speed.svg": speed()}
