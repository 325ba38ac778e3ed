"""The parts of docs/reference.md that are made from the code.

    python tests/docs/generated_parts.py

writes them into the page; tests/docs/test_doc_reference.py holds that this would change nothing.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from jackfield.cli.app import build_parser
from jackfield.lifecycle import ENDED, MOVES, State

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def states() -> str:
    """The moves of a server's life as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.NEW.value}"]
    for state, following in MOVES.items():
        lines += [f"    {state.value} --> {other.value}" for other in State if other in following]
    lines += [f"    {state.value} --> [*]" for state in State if state in ENDED]
    return "\n".join([*lines, "```"])


def flags() -> str:
    """The arguments of each subcommand, as its --help tells them."""
    _, named = build_parser()
    parts = []
    for name, parser in named.items():
        rows = [f"### `jackfield {name}`", "", "| argument | what it does |", "|---|---|"]
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            written = ", ".join(action.option_strings) + value if action.option_strings else value.strip()
            rows.append(f"| `{written}` | {(action.help or '').replace('|', chr(92) + '|')} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


PARTS = {"states": states, "flags": flags}


def filled(page: str) -> str:
    """The page with its generated parts as they have to be."""
    for name, make in PARTS.items():
        begin, end = (f"<!-- {word} generated: {name} -->" for word in ("begin", "end"))
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f"there has to be one {begin} … {end}")
        text = f"{begin}\n{make()}\n{end}"
        page = pattern.sub(lambda _, text=text: text, page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
