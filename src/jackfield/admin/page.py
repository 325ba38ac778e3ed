"""The page: one file that needs no other."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib.resources import files

__all__ = ["page", "policy"]


@functools.cache
def page() -> str:
    return (files(__package__) / "page.html").read_text("utf-8")


@functools.cache
def policy() -> str:
    """The Content-Security-Policy that lets the page run its own script and style, ask where it comes from, and nothing
    else: whatever a peer has put into a text that is shown, no script of it is run and nothing is fetched for it."""
    hashes = {
        tag: " ".join(f"'sha256-{_digest(text)}'" for text in re.findall(f"<{tag}>(.*?)</{tag}>", page(), re.S))
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script'] or _NONE}; style-src {hashes['style'] or _NONE};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_NONE = "'none'"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
