"""The document of a run as a drawing: SVG written by hand, in colours that are legible on white and on black."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from table import Document, name_of, number

WIDTH, COLUMNS, GAP = 920, 2, 40
COLUMN = (WIDTH - GAP * (COLUMNS - 1)) // COLUMNS
LINE, HEAD, FOOT = 18, 40, 22
LABEL = 132
FIGURE = 64
ROOM = COLUMN - LABEL - FIGURE

#: Middle tones: each has a contrast of 3 and more to white and to GitHub's dark background.
TEXT, OURS, MISSED, OTHERS, LIMIT = "#768390", "#2f8f6b", "#c4622d", "#8b949e", "#5a7fc0"

#: How many times the widest bar of ours another may be drawn; what is longer is cut.
WIDEST = 1.6


def svg(document: Document) -> str:
    """A picture of every row that was measured: a bar for each server, a mark where ours must get to."""
    panels = [row for row in document["rows"] if any("median" in entry for entry in row.get("servers", []))]
    parts: list[str] = []
    heights = [0] * COLUMNS
    for panel in panels:
        column = heights.index(min(heights))
        parts += _panel(panel, column * (COLUMN + GAP), heights[column])
        heights[column] += _height(panel)
    height = max(heights) + FOOT
    machine = document["machine"]
    foot = (
        f"{document['date'][:10]} · {document['python']} · {machine['processor']}, {machine['processors']} processors "
        f"· medians of {document['rounds']} rounds · upright line: what must be reached"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'role="img" font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="12">',
            "<title>What jackfield costs beside a C program and other libraries</title>",
            *parts,
            _text(0, height - 6, foot, size=11),
            "</svg>",
            "",
        ]
    )


def _entries(row: Document) -> list[Document]:
    return [entry for entry in row["servers"] if "median" in entry]


def _height(row: Document) -> int:
    return HEAD + LINE * len(_entries(row)) + 14


def _scale(row: Document) -> float:
    """What the full width stands for."""
    ours = [value for entry in _entries(row) if not entry["peer"] for value in (entry["median"], _bar(entry) or 0)]
    longest = max(entry["median"] for entry in _entries(row))
    return min(longest, max([*ours, 1e-9]) * WIDEST) or 1.0


def _bar(entry: Document) -> float | None:
    bar = entry.get("bar")
    value: float | None = bar["value"] if bar else None
    return value


def _panel(row: Document, left: int, top: int) -> list[str]:
    better = "more is better" if row["more_is_better"] else "less is better"
    parts = [
        _text(left, top + 14, row["title"], weight="600"),
        _text(left, top + 29, f"{row['what']}, {row['unit']} ({better})", size=11),
    ]
    scale = _scale(row)
    for index, entry in enumerate(_entries(row)):
        parts += _line(row, entry, scale, left, top + HEAD + LINE * index)
    return parts


def _line(row: Document, entry: Document, scale: float, left: int, top: int) -> list[str]:
    """One server: its name, its bar, its figure."""
    median, start = entry["median"], left + LABEL
    cut = median > scale
    length = ROOM * min(median / scale, 1)
    parts = [
        _text(start - 8, top + 12, name_of(entry["server"]), anchor="end"),
        f'<rect x="{start}" y="{top + 3}" width="{max(length, 1):.1f}" height="12" rx="2" fill="{_colour(entry)}"/>',
    ]
    if cut:  # two gaps near its end say that it goes on
        parts += [
            f'<path d="M{start + ROOM - at} {top + 16} l6 -14" stroke="{TEXT}" stroke-width="2"/>' for at in (24, 18)
        ]
    value = _bar(entry)
    if value is not None and value <= scale * 1.05:
        x = start + ROOM * min(value / scale, 1)
        parts += [  # dark with a light edge, to be seen on any bar and on any background
            f'<path d="M{x:.1f} {top + 1} v16" stroke="{colour}" stroke-width="{width}"/>'
            for colour, width in (("#ffffff", 3.5), ("#24292f", 1.5))
        ]
    strong = None if entry["peer"] or entry["server"].startswith("c") else "600"
    parts.append(
        _text(start + ROOM + 8, top + 13, f"{median:.2f}" if abs(median) < 10 else number(median), weight=strong)
    )
    return parts


def _colour(entry: Document) -> str:
    if entry["server"] in ("c", "c-batch"):
        return LIMIT
    if entry.get("reached") is None:
        return OTHERS
    return OURS if entry["reached"] else MISSED


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", weight: str | None = None) -> str:
    more: dict[str, Any] = {"font-size": size, "text-anchor": anchor, "font-weight": weight}
    attributes = "".join(f' {name}="{value}"' for name, value in more.items() if value not in (None, "start", 12))
    return f'<text x="{x}" y="{y}" fill="{TEXT}"{attributes}>{escape(text)}</text>'
