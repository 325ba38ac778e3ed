"""The figures of docs/benchmarks.md and README.md, made of docs/benchmarks.json.

    python benchmarks/run.py --json docs/benchmarks.json
    python tests/docs/benchmark_page.py

writes them; tests/docs/test_doc_benchmarks.py holds that this would change nothing.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FIGURES = DOCS / "benchmarks.json"
DRAWING = DOCS / "benchmarks.svg"
PAGE = DOCS / "benchmarks.md"
README = ROOT / "README.md"

sys.path.append(str(ROOT / "benchmarks"))
import drawing  # noqa: E402
import table  # noqa: E402


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def in_short(found: dict[str, Any]) -> str:
    """What the README tells: each work with the figures of our own servers, and of the best of the others."""
    machine = found["machine"]
    lines = [
        f"Measured on {found['date'].partition(' ')[0]} with {found['python']} on {machine['processors']} processors "
        f"({machine['processor']}, {machine['system']}); [docs/benchmarks.md](docs/benchmarks.md) has all of it, with "
        "what is missed.",
        "",
        "| work | C | ours | others |",
        "|---|---:|---|---|",
    ]
    for row in found["rows"]:
        if row.get("not_measured") or row["group"] in ("idle", "fairness"):
            continue
        told: dict[bool, list[str]] = {True: [], False: []}
        for entry in row["servers"]:
            if not entry["void"] and entry["server"] not in ("c", "c-batch"):
                other = entry["peer"] or entry["server"].startswith("stdlib")
                told[other].append(f"{table.name_of(entry['server'])} {entry['median']:.2f}")
        limit = next((f"{e['median']:.2f}" for e in row["servers"] if e["server"] == "c" and not e["void"]), "")
        title = f"{row['title']}: {row['what']}, {row['unit']}"
        lines.append(f"| {title} | {limit} | {'; '.join(told[False])} | {'; '.join(told[True])} |")
    return "\n".join(lines)


def filled(page: str, text: str) -> str:
    """The page with its figures as they have to be."""
    begin, end = "<!-- begin generated: figures -->", "<!-- end generated: figures -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"there has to be one {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n{text.rstrip()}\n{end}", page)


def pages(found: dict[str, Any]) -> dict[Path, str]:
    """What each file has to hold."""
    return {
        PAGE: filled(PAGE.read_text(), table.markdown(found)),
        README: filled(README.read_text(), in_short(found)),
        DRAWING: drawing.svg(found),
    }


if __name__ == "__main__":
    for path, text in pages(document()).items():
        path.write_text(text)
