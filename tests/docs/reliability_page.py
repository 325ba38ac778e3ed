"""The figures of docs/reliability.md, made of docs/reliability.json.

    python benchmarks/reliability.py --json docs/reliability.json
    python tests/docs/reliability_page.py

writes them; tests/docs/test_doc_reliability.py holds that this would change nothing.
"""

from __future__ import annotations

import json
from typing import Any

from benchmark_page import DOCS, filled
from reliability_attacks.report import markdown  # benchmark_page has put benchmarks/ on the path

FIGURES = DOCS / "reliability.json"
PAGE = DOCS / "reliability.md"


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def page(found: dict[str, Any]) -> str:
    """What the page has to hold."""
    return filled(PAGE.read_text(), markdown(found))


if __name__ == "__main__":
    PAGE.write_text(page(document()))
