"""The admin endpoint: what a running server shows of itself, and what it can be told, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Admin
    from .desk import BadQuestion, Desk
    from .endpoint import AdminEndpoint, admin_server
    from .inquiry import Here, Inquiry, Unanswered

# Imported when first asked for: a server that nobody looks at has no use for HTTP.
_NAMES = {
    "Admin": "api",
    "AdminEndpoint": "endpoint",
    "BadQuestion": "desk",
    "Desk": "desk",
    "Here": "inquiry",
    "Inquiry": "inquiry",
    "Unanswered": "inquiry",
    "admin_server": "endpoint",
}

__all__ = ["Admin", "AdminEndpoint", "BadQuestion", "Desk", "Here", "Inquiry", "Unanswered", "admin_server"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_NAMES[name]}", __name__), name)
    return value
