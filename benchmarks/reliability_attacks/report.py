"""What a run has found as a page in Markdown."""

from __future__ import annotations

from typing import Any

from .rows import number, word

Document = dict[str, Any]

NAMES = {
    "dropin-threading": "drop-in, threads", "dropin-forking": "drop-in, processes",
    "stdlib-threading": "stdlib threads", "stdlib-forking": "stdlib processes", "asyncio-streams": "asyncio streams",
}  # fmt: skip

#: In columns of their own.
SHOWN = frozenset({
    "attackers", "cpu_seconds", "memory_mib", "peak_mib", "descriptors", "log_bytes", "survivors", "broken", "outcome",
})  # fmt: skip


def name_of(server: str) -> str:
    return NAMES.get(server, server)


def ours(server: str) -> bool:
    return server in ("thread", "green", "async", "process", "per-address table")


def markdown(document: Document) -> str:
    """The table of who has held, and then each row with all its figures."""
    lines = [about(document), "", *summary(document)]
    for row in document["rows"]:
        lines += ["", *section(row)]
    return "\n".join(lines) + "\n"


def about(document: Document) -> str:
    machine = document["machine"]
    text = (
        f"jackfield {document['jackfield']}{document['commit'] and ' (' + document['commit'] + ')'}, "
        f"{document['python']}, {document['date']}. {machine['processor']}, {machine['processors']} processors, "
        f"{machine['system']}; load average {machine['load_average']:.1f} at the start. "
        f"It took {document['took_seconds'] / 60:.0f} minutes."
    )
    return " ".join([text, *document["notes"]])


def columns(document: Document) -> list[str]:
    """The servers in the order of their first row."""
    found = dict.fromkeys(entry["server"] for row in document["rows"] for entry in row.get("servers", []))
    common = ["thread", "green", "async"]
    return [*(name for name in common if name in found), *(name for name in found if name not in common)]


def summary(document: Document) -> list[str]:
    """A line for each row, a column for each server: held, or missed, or nothing."""
    names = columns(document)
    lines = [
        "| | attack |" + "".join(f" {name_of(name)} |" for name in names),
        "|---|---|" + "---|" * len(names),
    ]
    for row in document["rows"]:
        entries = {entry["server"]: entry for entry in row.get("servers", [])}
        cells = [verdict(entries[name]) if name in entries else "" for name in names]
        lines.append(f"| {row['number']} | {row['title']} | " + " | ".join(cells) + " |")
    return lines


def verdict(entry: Document) -> str:
    if entry.get("void"):
        return "void"
    return "**missed**" if entry["missed"] else "held"


def section(row: Document) -> list[str]:
    """A row; when it was measured, if it was not with the others."""
    lines = [f"### {row['number']}. {row['title']}", "", row["about"], ""]
    if "again" in row:
        lines += [f"Measured again, {row['date']}{row['again'] and ', ' + row['again']}.", ""]
    if row.get("not_measured"):
        return [*lines, f"Not measured: {row['not_measured']}."]
    lines += [f"To hold to: {row['to_hold']}.", *([row["set"]] if row["set"] else []), ""]
    head = ("server", "attackers", "left", "alone p50 / p99", "attacked p50 / p99", "lost", "CPU", "memory", "peak",
            "descriptors", "log", "found", "")  # fmt: skip
    lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * 10 + "---|---|"]
    for entry in row["servers"]:
        if entry.get("void"):
            lines.append(f"| {name_of(entry['server'])} |" + " |" * 11 + f" void: {entry['void']} |")
        else:
            lines.append("| " + " | ".join(cells(entry)) + " |")
    return lines


def cells(entry: Document) -> list[str]:
    found, alone, beside = entry["found"], entry["alone"], entry["beside"]
    said = "; ".join(f"{word(name)} {shown(value, name)}" for name, value in found.items() if name not in SHOWN)
    said += "".join(f"; {found[name]}" for name in ("outcome",) if name in found)
    if found.get("broken"):
        said += f" ({', '.join(found['broken'])})"
    held = "held" if not entry["missed"] else "**missed**: " + "; ".join(entry["missed"])
    before, after = found.get("descriptors", [None, None])
    lost = "" if beside is None else f"{beside['lost']} of {beside['answered'] + beside['lost']}"
    return [
        name_of(entry["server"]),
        shown(found["attackers"]),
        shown(found["survivors"]) if "survivors" in found else "",
        waits(alone),
        waits(beside),
        lost,
        shown(found["cpu_seconds"], "_seconds"),
        shown(found["memory_mib"], "_mib"),
        shown(found["peak_mib"], "_mib") if "peak_mib" in found else "",
        "" if before is None else f"{before} → {'ended' if after is None else after}",
        f"{found['log_bytes']:,} B" if "log_bytes" in found else "",
        said.removeprefix("; "),
        held,
    ]


#: By how the names of figures end.
UNITS = {"_us": "µs", "_s": "s", "_seconds": "s", "_mib": "MiB", "_kib": "KiB", "_percent": "%", "_in_attack": "B"}


def shown(value: Any, name: str = "") -> str:
    if value is None:
        return "not in time" if name.endswith("_s") else ""
    unit = "KiB" if "kib_each" in name else next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
    return f"{number(value)} {unit}".rstrip()


def waits(asked: Document | None) -> str:
    if asked is None:
        return ""
    if asked["p50_ms"] is None:
        return "no answer"
    return f"{number(asked['p50_ms'])} / {number(asked['p99_ms'])} ms"
