"""A result as a drawing: the distribution of latencies, and replies over time, in SVG written by hand.

Colours follow the reader's light or dark setting by a media query in the drawing itself. No script, no font, nothing
from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["svg"]

WIDTH, PANEL, HEAD, LEFT, RIGHT, FOOT, GAP = 860, 240, 64, 74, 20, 34, 46
HEIGHT = HEAD + 2 * PANEL + GAP + FOOT
MOST_POINTS = 400

STYLE = """\
  svg { background: #ffffff; }
  text { fill: #24292f; font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; }
  .title { font-weight: 600; font-size: 14px; }
  .small { fill: #57606a; font-size: 11px; }
  .grid { stroke: #d0d7de; stroke-width: 1; }
  .line { fill: none; stroke: #0b6bcb; stroke-width: 2; stroke-linejoin: round; }
  .area { fill: #0b6bcb; fill-opacity: 0.14; }
  .old { fill: none; stroke: #8250df; stroke-width: 1.5; stroke-dasharray: 5 4; }
  .bad { fill: #cf222e; }
  .warm { fill: #57606a; fill-opacity: 0.1; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; }
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .grid { stroke: #30363d; }
    .line { stroke: #58a6ff; }
    .area { fill: #58a6ff; }
    .old { stroke: #bc8cff; }
    .bad { fill: #ff7b72; }
    .warm { fill: #9198a1; }
  }
"""


def svg(document: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str:
    """The drawing of a run's document (:meth:`jackfield.bench.result.Result.document`).

    :param old: an earlier run, whose latencies are drawn beside.
    """
    plan = document["plan"]
    pace = f" at {plan['rate']:g}/s" if plan["rate"] else ""
    what = (
        f"{plan['loop']} loop{pace} · {plan['connections']} connections · "
        f"{plan['request_bytes']} bytes · {document['requests']} requests in {document['seconds']:.1f} s · "
        f"{document['per_second']:.0f}/s · {document['errors']['total']} errors"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title">',
        f'<title id="title">Load test of {escape(str(document["address"]))}</title>',
        f"<style>\n{STYLE}</style>",
        _text(LEFT, 24, f"jackfield bench {document['address']}", "title"),
        _text(LEFT, 42, what, "small"),
        *_latencies(document, old),
        *_throughput(document),
        "</svg>",
        "",
    ]
    return "\n".join(parts)


def _latencies(document: Mapping[str, Any], old: Mapping[str, Any] | None) -> list[str]:
    """Latency by percentile, each further nine as wide as the one before it."""
    top, bottom = HEAD, HEAD + PANEL - FOOT
    curves = [_curve(document)] + ([_curve(old)] if old else [])
    nines = max([1.0, *(at for curve in curves for at, _ in curve)])
    highest = _round_up(max([1e-6, *(value for curve in curves for _, value in curve)]))
    parts = [_text(LEFT, top - 2, f"latency by percentile, ms (max {document['latency_ms']['max']:.3f})", "small")]
    parts += _rows(top, bottom, highest)
    for number in range(int(nines) + 1):
        x = LEFT + (WIDTH - LEFT - RIGHT) * number / nines
        name = ["0%", "90%", "99%"][number] if number < 3 else f"99.{'9' * (number - 2)}%"
        parts.append(f'<path class="grid" d="M{x:.1f} {top + 8}V{bottom}"/>')
        parts.append(_text(x, bottom + 16, name, "small", "middle" if number else "start"))
    for style, curve in zip(("line", "old"), curves, strict=False):
        points = [
            (LEFT + (WIDTH - LEFT - RIGHT) * at / nines, bottom - (bottom - top - 8) * value / highest)
            for at, value in curve
        ]
        parts.append(f'<path class="{style}" d="{_path(points)}"/>')
    if old:
        parts.append(_text(WIDTH - RIGHT, top - 2, "dashed: the run compared with", "small", "end"))
    return parts


def _curve(document: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Points of nines (0.99 is 2) and milliseconds, a step at each bucket; too many are thinned."""
    total = sum(count for _, count in document.get("histogram", []))
    points, seen = [(0.0, float(document["latency_ms"]["min"]))] if total else [], 0
    for value, count in document.get("histogram", []):
        seen += count
        # The last one is at no share below 1: it stands where half a request more would be.
        share = min(seen / total, 1 - 0.5 / total)
        points.append((-math.log10(1 - share), min(float(value), float(document["latency_ms"]["max"]))))
    step = max(1, len(points) // MOST_POINTS)
    return points[::step] + (points[-1:] if step > 1 else [])


def _throughput(document: Mapping[str, Any]) -> list[str]:
    """Replies a second over time; slots with errors are marked on the axis."""
    top, bottom = HEAD + PANEL + GAP, HEAD + 2 * PANEL + GAP - FOOT
    slot, replies, errors = (document["timeline"][name] for name in ("slot", "replies", "errors"))
    step = max(1, math.ceil(len(replies) / MOST_POINTS))
    rates = [
        sum(replies[at : at + step]) / (slot * len(replies[at : at + step])) for at in range(0, len(replies), step)
    ]
    faults = [sum(errors[at : at + step]) for at in range(0, len(errors), step)]
    seconds = max(slot * len(replies), slot)
    highest = _round_up(max([1.0, *rates]))
    parts = [_text(LEFT, top - 2, "replies a second over time (shaded: not measured; red: errors)", "small")]
    room = WIDTH - LEFT - RIGHT
    before = min(document["plan"]["warmup"] + document["plan"]["ramp"], seconds)
    if before:
        parts.append(
            f'<rect class="warm" x="{LEFT}" y="{top + 8}" width="{room * before / seconds:.1f}" '
            f'height="{bottom - top - 8}"/>'
        )
    parts += _rows(top, bottom, highest)
    points = [
        (LEFT + room * (number + 0.5) / max(1, len(rates)), bottom - (bottom - top - 8) * rate / highest)
        for number, rate in enumerate(rates)
    ]
    if points:
        closed = [(points[0][0], float(bottom)), *points, (points[-1][0], float(bottom))]
        parts.append(f'<path class="area" d="{_path(closed)}Z"/>')
        parts.append(f'<path class="line" d="{_path(points)}"/>')
    for number, count in enumerate(faults):
        if count:
            x = LEFT + room * number / len(faults)
            parts.append(
                f'<rect class="bad" x="{x:.1f}" y="{bottom - 4}" width="{max(2.0, room / len(faults)):.1f}" height="4">'
                f"<title>{count} errors</title></rect>"
            )
    for number in range(5):
        x = LEFT + room * number / 4
        anchor = "start" if number == 0 else "end" if number == 4 else "middle"
        parts.append(_text(x, bottom + 16, f"{seconds * number / 4:.3g} s", "small", anchor))
    return parts


def _rows(top: int, bottom: int, highest: float) -> list[str]:
    """The lines across, and what each stands for."""
    parts = []
    for number in range(5):
        y = bottom - (bottom - top - 8) * number / 4
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        value = highest * number / 4
        parts.append(_text(LEFT - 8, y + 4, f"{value:,.0f}" if value >= 1000 else f"{value:.4g}", "small", "end"))
    return parts


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 8 times a power of ten: what a scale may end with."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * 0.999999)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(points))


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{where}>{escape(text)}</text>'
