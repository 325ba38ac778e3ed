"""The supervisor: what a serving process needs from the system it lives in, from its rights to its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asked import Asked, workers_for
    from .policy import Recycling
    from .serving import serve
    from .supervisor import Supervisor
    from .upgrade import Upgrade
    from .worker import Worker

# Imported when first asked for: a server without workers has use for the pid file and the service manager only.
_NAMES = {
    "Asked": "asked",
    "Recycling": "policy",
    "Supervisor": "supervisor",
    "Upgrade": "upgrade",
    "Worker": "worker",
    "serve": "serving",
    "workers_for": "asked",
}

__all__ = ["Asked", "Recycling", "Supervisor", "Upgrade", "Worker", "serve", "workers_for"]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{_NAMES[name]}", __name__), name)
    return value
