"""What workers' clients notice, in docs/reliability.md, made of docs/life.json.

    python benchmarks/life.py --json docs/life.json
    python tests/docs/life_page.py

writes it; tests/docs/test_doc_life.py holds that this would change nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from benchmark_page import DOCS  # it has put benchmarks/ on the path
from life import MODES, is_bad, markdown

__all__ = ["FIGURES", "MODES", "PAGE", "document", "is_bad", "page"]

FIGURES = DOCS / "life.json"
PAGE = DOCS / "reliability.md"

BEGIN, END = "<!-- begin generated: life -->", "<!-- end generated: life -->"


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def page(found: dict[str, Any]) -> str:
    """What the page has to hold."""
    text = PAGE.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"there has to be one {BEGIN} … {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n{markdown(found)}\n{END}", text)


if __name__ == "__main__":
    PAGE.write_text(page(document()))
