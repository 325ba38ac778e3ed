"""The parts of docs/reference.md that are made from the code.

    python tests/docs/generated_parts.py

writes them into the page; tests/docs/test_doc_reference.py holds that this would change nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jackfield.admin.api import ROUTES
from jackfield.admin.families import families
from jackfield.admin.meter import DURATIONS
from jackfield.cli.app import build_parser
from jackfield.cli.configuration import keys_of_serve
from jackfield.cli.configuration.values import toml_text
from jackfield.lifecycle import CONNECTION_MOVES, MOVES
from jackfield.supervisor import life

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def drawn(moves: Mapping[Any, frozenset[Any]]) -> str:
    """The moves of a life as a Mermaid state diagram; it begins with the first state."""
    states = list(moves)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {states[0].value}"]
    for state, following in moves.items():
        lines += [f"    {state.value} --> {other.value}" for other in states if other in following]
    lines += [f"    {state.value} --> [*]" for state in states if not moves[state]]
    return "\n".join([*lines, "```"])


def flags() -> str:
    """The arguments of each subcommand, as its --help tells them."""
    _, named = build_parser()
    parts = []
    shared = {action.dest for action in named["serve"]._actions}
    for name, parser in named.items():
        rows = [f"### `jackfield {name}`", "", "| argument | what it does |", "|---|---|"]
        if name == "check":
            rows[2:2] = ["All of `jackfield serve`, and:", ""]
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction) or (name == "check" and action.dest in shared):
                continue
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            written = ", ".join(action.option_strings) + value if action.option_strings else value.strip()
            rows.append(f"| `{written}` | {(action.help or '').replace('|', chr(92) + '|')} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def keys() -> str:
    """Each flag of ``serve`` as a key of a file and as a variable of the environment."""
    _, found = keys_of_serve()
    rows = ["| flag | in a file | in the environment | in `[[server]]` | default |", "|---|---|---|---|---|"]
    for key in found:
        said = re.search(r"\(default:? ([^;)]*)", key.action.help or "")
        default = (
            f"`{toml_text(key.default)}`" if isinstance(key.default, str | int | float) else said[1] if said else ""
        )
        cells = [
            f"`{key.flag}`", f"`{key.name}`" if key.in_files else "", f"`{key.variable}`",
            "yes" if key.of_server else "", default.replace("|", chr(92) + "|"),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def endpoints() -> str:
    """What can be asked of the admin endpoint."""
    rows = ["| | path | what it is | parameters |", "|---|---|---|---|"]
    for route in ROUTES:
        told = []
        for one in route.parameters:
            default = "" if one.default is ... else f" ({one.default!r})"
            told.append(f"`{one.name}`{default}: {one.help}")
        mark = " (open)" if route.is_open else ""
        rows.append(f"| {route.method} | `{route.path}`{mark} | {route.help} | {'; '.join(told)} |")
    return "\n".join(rows)


def metrics() -> str:
    """What `/metrics` has."""
    server = {
        **dict.fromkeys(("p50", "p99"), None),
        **dict.fromkeys(("accepted", "connections", "entering", "limit", "handler_errors", "received", "sent",
                         "datagrams", "dropped", "kernel_dropped", "withheld", "uptime", "seconds"), 0),
        "name": "x", "state": "serving", "ends": {"x": 1}, "refusals": {"x": 1}, "errors": {"x": 1},
        "durations": [0] * (len(DURATIONS) + 1), "lag": {"last": 0.0}, "certificates": [{"expires": 0, "names": ["x"]}],
        "listeners": [{"waiting": 0, "address": "x"}],
    }  # fmt: skip
    runtime = dict.fromkeys(("resident", "cpu", "threads", "descriptors"), 0)
    rows = ["| metric | kind | labels | what it is |", "|---|---|---|---|"]
    for family in families({"servers": [server], "runtime": runtime, "processes": 1}, [{"state": "x"}], "x"):
        labels = ", ".join(f"`{name}`" for name in family.samples[0][0])
        rows.append(f"| `jackfield_{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows)


PARTS = {
    "states": lambda: drawn(MOVES),
    "connections": lambda: drawn(CONNECTION_MOVES),
    "workers": lambda: drawn(life.MOVES),
    "flags": flags,
    "keys": keys,
}


ADMIN_PAGE = PAGE.with_name("admin.md")
ADMIN_PARTS = {"endpoints": endpoints, "metrics": metrics}


def filled(page: str, parts: Mapping[str, Callable[[], str]] = PARTS) -> str:
    """The page with its generated parts as they have to be."""
    for name, make in parts.items():
        begin, end = (f"<!-- {word} generated: {name} -->" for word in ("begin", "end"))
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f"there has to be one {begin} … {end}")
        text = f"{begin}\n{make()}\n{end}"
        page = pattern.sub(lambda _, text=text: text, page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    ADMIN_PAGE.write_text(filled(ADMIN_PAGE.read_text(), ADMIN_PARTS))
