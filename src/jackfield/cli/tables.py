"""Figures as people read them, and rows under each other: what ``ctl`` prints."""

from __future__ import annotations

from jackfield.cli.text import count_of, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

__all__ = ["amount", "connection_id", "lasted", "status_lines", "table"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def amount(size: float | None) -> str:
    """Bytes: ``512 B``, ``3.2 MiB``."""
    if size is None:
        return "-"
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"


def lasted(seconds: float | None) -> str:
    """Seconds: ``3 ms``, ``12.0 s``, ``4m 05s``, ``3h 20m``, ``12d 4h``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines with columns under each other; numbers on the right."""
    texts = [[escape(str(cell)) if cell is not None else "-" for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(head, *texts, strict=True)]
    right = [all(cell[:1].isdigit() or cell == "-" for cell in column) for column in zip(*texts, strict=True)]
    right = right or [False] * len(head)
    lines = []
    for row in (list(head), *texts):
        cells = [cell.rjust(width) if is_right else cell.ljust(width)
                 for cell, width, is_right in zip(row, widths, right, strict=True)]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return lines


def connection_id(row: dict[str, Any]) -> str:
    """How ``ctl kick`` names a connection: its number alone where that is enough."""
    parts = [row["worker"], row["server"], row["id"]]
    while len(parts) > 1 and not parts[0]:
        parts = parts[1:]
    return ":".join(map(str, parts))


def status_lines(told: dict[str, Any]) -> list[str]:
    """What a server is and does, in a few lines."""
    lines = [f"{escape(told['name'])}  {told['state']}  jackfield {told['version']}"]
    for server in told["servers"]:
        head = [escape(server["name"]), server["mode"], server["state"], f"up {lasted(server['uptime'])}"]
        lines += ["", "  ".join(head)]
        for listener in server["listeners"]:
            waiting = "" if listener["waiting"] is None else f"  {listener['waiting']} wait to be accepted"
            lines.append(f"  listening   {escape(listener['address'])}{waiting}")
        lines.append(
            f"  clients     {server['connections']} of {server['limit']} connections, {server['accepted']} accepted,"
            f" {server['refused']} refused{_reasons(server['refusals'])}"
        )
        if server["ends"]:
            lines.append(f"  ended       {_reasons(server['ends'], '')}")
        lines.append(f"  moved       {amount(server['received'])} in, {amount(server['sent'])} out")
        if server["p50"] is not None:
            lines.append(f"  lasted      half of them at most {lasted(server['p50'])}, 99 % {lasted(server['p99'])}")
        if server["datagrams"]:
            lines.append(
                f"  datagrams   {server['datagrams']} received, {server['dropped']} dropped,"
                f" {server['kernel_dropped']} by the kernel, {server['withheld']} replies withheld"
            )
        if server["handler_errors"]:
            lines.append(f"  errors      {server['handler_errors']} of handlers{_reasons(server['errors'])}")
        if server["certificates"]:
            left = min(one["left"] for one in server["certificates"])
            lines.append(f"  TLS         certificate runs out in {lasted(max(0.0, left))}")
        lines.append(f"  loop        {lasted(server['lag']['last'])} late, {lasted(server['lag']['longest'])} at most")
    runtime = told["runtime"]
    lines += ["", f"{count_of(told['processes'], 'process')}, {amount(runtime['resident'])},"
              f" {runtime['threads']} threads, {runtime['descriptors']} descriptors,"
              f" {runtime['cpu']:.1f} s of processor time"]  # fmt: skip
    return lines


def _reasons(counts: dict[str, int], around: str = "()") -> str:
    said = ", ".join(f"{escape(word)} {count}" for word, count in sorted(counts.items(), key=lambda one: -one[1]))
    if not said or not around:
        return said
    return f" {around[0]}{said}{around[1]}"
