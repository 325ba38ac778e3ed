"""The part of docs/examples.md that is made from the docstrings of the examples.

    python tests/examples/examples_page.py

writes it into the page; tests/examples/test_example_page.py holds that this would change nothing.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "examples.md"
BEGIN, END = (f"<!-- {word} generated: examples -->" for word in ("begin", "end"))


def docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text()), clean=False)
    assert text, f"{path.name} says nothing about itself"
    return text


def commands(text: str) -> list[str]:
    """The commands that a docstring names before anything else, without what is said about them."""
    found = re.search(r"\n\n((?:    .+\n?)+)", text)
    assert found, text
    return [re.split(r" {3,}", line.strip())[0] for line in found[1].splitlines()]


def sentence(text: str) -> str:
    """The first one, without its mark-up."""
    found = re.match(r".+?\.(?=\s|$)", text, re.DOTALL)
    assert found, text
    return " ".join(found[0].split()).replace("``", "`")


def section(path: Path) -> str:
    """One example: its name, its sentence, how it is run and talked to, and how the command serves it."""
    text = docstring(path)
    lines = [f"### [{path.name}](../examples/{path.name})", "", sentence(text), "", "```text", *commands(text)]
    served = re.search(r"``([^`]*jackfield serve --app-dir examples [^`]*)``", text)
    if served:
        lines.append(" ".join(served[1].split()))
    return "\n".join([*lines, "```"])


def filled(page: str) -> str:
    """The page with its generated part as it has to be."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"there has to be one {BEGIN} … {END}")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    sections = "\n\n".join(section(path) for path in sorted(EXAMPLES.glob("*.py")))
    return f"{before}{BEGIN}\n{sections}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
