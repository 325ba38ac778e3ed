"""What a run has found, as one document, and that document as a table in Markdown.

The document is plain data that JSON can hold; a table and a drawing can be made of it again at any time.
"""

from __future__ import annotations

import statistics
from typing import Any

from rows import Bar, Row
from trials import Found

Document = dict[str, Any]

NAMES = {
    "c": "C",
    "c-batch": "C in batches",
    "async-pure": "async, pure Python",
    "green-pure": "green, pure Python",
    "stdlib-serial": "stdlib",
    "stdlib-threading": "stdlib threads",
    "stdlib-forking": "stdlib processes",
    "asyncio-protocol": "asyncio protocol",
    "asyncio-streams": "asyncio streams",
    "uvloop-protocol": "uvloop protocol",
    "uvloop-streams": "uvloop streams",
}

#: By what a document says of the limits of our own servers.
LIMITS = {
    None: "",
    "default": " Our own servers have the limits on that they have by default, with more room for connections.",
    "none": " **Our own servers have no limits** but of connections: not what they are by default.",
}

SIGNS = {"at most": "≤", "at least": "≥", "below": "<"}


def name_of(server: str) -> str:
    """What a reader calls a server."""
    return NAMES.get(server, server)


# -- the document ------------------------------------------------------------------------------------------------------


def row_document(row: Row, found: dict[str, list[Found]], void: dict[str, str]) -> Document:
    """A row: of each server its figures, round by round, and whether they reach what they must.

    ``found``: what each server's trials have found; ``void``: why those of a server do not count.
    """
    key, unit = row.measured
    servers: list[Document] = []
    limits = [once[key] for once in found.get("c", [])]
    for server, trials in found.items():
        reason = void.get(server, "")
        if not reason and row.to_limit and "c" in void:
            reason = f"nothing to compare with: C: {void['c']}"
        entry: Document = {"server": server, "peer": server not in row.servers, "void": reason or None}
        if not reason:
            values = [once[key] for once in trials]
            figures = [value / limit for value, limit in zip(values, limits, strict=True)] if row.to_limit else values
            entry |= {
                "median": statistics.median(figures),
                "lowest": min(figures),
                "highest": max(figures),
                "rounds": figures,
                "measured": statistics.median(values),
                "found": {name: statistics.median(once[name] for once in trials) for name in trials[0]},
            }
        servers.append(entry)
    for entry in servers:
        bar = row.servers.get(entry["server"])
        if bar is not None:
            entry |= _judged(bar, entry, servers)
    return {
        "group": row.group,
        "title": row.title,
        "what": row.what,
        "unit": row.unit,
        "measured_unit": unit,
        "more_is_better": row.more_is_better,
        "servers": servers,
    }


def _judged(bar: Bar, entry: Document, servers: list[Document]) -> Document:
    """The bar of an entry, and whether it is reached: None if there is no figure to judge."""
    value: float | None = bar.value
    if bar.server:
        value = next((other.get("median") for other in servers if other["server"] == bar.server), None)
    reached = None
    if "median" in entry and value is not None:
        median = entry["median"]
        reached = {"at most": median <= value, "at least": median >= value, "below": median < value}[bar.kind]
    return {"bar": {"kind": bar.kind, "value": value, "server": bar.server or None}, "reached": reached}


# -- the table ---------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """A figure with the digits that matter: 1.153, 27.4, 3,120."""
    if value < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def bar_text(entry: Document) -> str:
    """``≤ 1.15``, or ``< 2.231, stdlib threads``."""
    bar = entry.get("bar")
    if bar is None:
        return ""
    sign = SIGNS[bar["kind"]]
    if bar["server"] is None:
        return f"{sign} {bar['value']:g}"
    if bar["value"] is None:
        return f"{sign} {name_of(bar['server'])}"
    return f"{sign} {number(bar['value'])}, {name_of(bar['server'])}"


def verdict(entry: Document) -> str:
    """``reached``, ``missed`` with by how much, or nothing where there is no bar or no figure."""
    reached = entry.get("reached")
    if reached is None:
        return ""
    if reached:
        return "reached"
    away = abs(entry["median"] / entry["bar"]["value"] - 1) * 100
    return f"**missed** by {max(away, 0.1):.1f} %"


def about(document: Document) -> str:
    """The machine, the versions and the way it was measured, in two sentences."""
    machine = document["machine"]
    part = {True: " with its native part", False: " without its native part", None: ""}[document["native"]]
    commit = f" ({document['commit']})" if document["commit"] else ""
    return (
        f"jackfield {document['jackfield']}{commit}{part}, {document['python']}, {document['date']}. "
        f"{machine['processor']}, {machine['processors']} processors, {machine['system']}, {machine['compiler']}; "
        f"load average {machine['load_average']:.1f} at the start. "
        f"Rounds: {document['rounds']}, of {document['seconds']:g} s; servers in turn, each alone on one processor and "
        "the load on another: medians, and the lowest and highest round. × C is the ratio to the C program of the "
        "same round." + LIMITS[document.get("limits")]
    )


def markdown(document: Document) -> str:
    """The whole document as text with one table."""
    lines = [
        about(document),
        "",
        "| work | server | figure | lowest – highest | must reach | | measured |",
        "|---|---|---:|---:|---|---|---:|",
    ]
    for row in document["rows"]:
        title = f"{row['title']}: {row['what']}"
        if row.get("not_measured"):
            lines.append(f"| {title} | | | | | not measured: {row['not_measured']} | |")
            continue
        for entry in row["servers"]:
            lines.append("| " + " | ".join((title, *_cells(row, entry))) + " |")
            title = ""
    if document["not_installed"]:
        lines += ["", f"Not installed, so not measured: {', '.join(document['not_installed'])}."]
    return "\n".join(lines) + "\n"


def _cells(row: Document, entry: Document) -> tuple[str, ...]:
    server = name_of(entry["server"])
    if entry["void"]:
        return server, "", "", bar_text(entry), f"**void**: {entry['void']}", ""
    return (
        server,
        f"{number(entry['median'])} {row['unit']}",
        f"{number(entry['lowest'])} – {number(entry['highest'])}",
        bar_text(entry),
        verdict(entry),
        "" if row["measured_unit"] == "×" else f"{number(entry['measured'])} {row['measured_unit']}",
    )
