"""The code blocks of a page in Markdown.

- ``python``: run, all of a page in order and in one namespace, by run_page.py. A ``text`` block that directly follows
  is what it prints. One that begins with ``# examples/NAME`` is an excerpt of that file and is not run here. One that
  ends by serving for ever is run as a server (see :attr:`Block.serves`).
- ``console``: a command after ``$``, and what it says.
- ``toml``: a configuration, which tests/cli/test_cli_configuration_files.py reads.
- ``mermaid``: a drawing. ``text``: anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
LANGUAGES = ("python", "console", "toml", "mermaid", "text")


@dataclass
class Block:
    """One block: its language, its text, the number of its first line, and what it has to print (None: not said)."""

    language: str
    text: str
    line: int
    output: str | None = None

    @property
    def excerpt_of(self) -> str | None:
        """The example that it is a part of."""
        found = re.match(r"# (examples/\w+\.py)\n", self.text)
        return found[1] if self.language == "python" and found else None

    @property
    def serves(self) -> bool:
        """Whether it ends in a call that does not return until it is interrupted."""
        last = self.text.rstrip().splitlines()[-1].strip() if self.text.strip() else ""
        return self.language == "python" and (last.endswith(".serve_forever()") or last.startswith("jackfield.serve("))

    @property
    def runs_in_page(self) -> bool:
        return self.language == "python" and self.excerpt_of is None and not self.serves


def blocks_of(page: str) -> list[Block]:
    """All blocks, in order. ValueError for one that is not closed, or in no language that the tests know."""
    found: list[Block] = []
    lines = page.splitlines()
    index, gap = 0, ""
    while index < len(lines):
        if not lines[index].startswith("```"):
            gap += lines[index].strip()
            index += 1
            continue
        language, begin = lines[index][3:].strip(), index + 1
        end = next((number for number in range(begin, len(lines)) if lines[number].rstrip() == "```"), None)
        if end is None:
            raise ValueError(f"the block in line {index + 1} is not closed")
        if language not in LANGUAGES:
            raise ValueError(f"the block in line {index + 1} is to say which of {', '.join(LANGUAGES)} it is")
        block = Block(language, "".join(f"{line}\n" for line in lines[begin:end]), begin + 1)
        if language == "text" and found and found[-1].language == "python" and not gap:
            found[-1].output = block.text
        found.append(block)
        index, gap = end + 1, ""
    return found
