"""Jackfield: socket servers in the way of ``socketserver``, with unchanged handlers on threads, processes, green
threads or coroutines.

The drop-in face is :mod:`jackfield.socketserver` and :mod:`jackfield.socket`; the native face :class:`Server` and
:func:`serve`.
"""

from __future__ import annotations

__version__ = "0.1.0"

# Type checkers read this name as they read typing's, whose import alone would take a tenth of the command's start.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from . import socket, socketserver, sync, testing
    from .adopt import adopt
    from .connecting import connect
    from .errors import AddressError, ClosedSocketError, JackfieldError, MisuseError, StartError
    from .handlers import (
        AsyncDatagramRequestHandler,
        AsyncRequestHandler,
        AsyncStreamRequestHandler,
        BaseRequestHandler,
        DatagramRequestHandler,
        StreamRequestHandler,
    )
    from .reactor import GreenExit, GreenThread, await_, green, offload, run, sleep, spawn
    from .server import Server
    from .serving import ServerInfo
    from .supervisor import serve

# Where each name lives. Imported when first asked for: `jackfield --version` needs none of it, and a program that
# wants the sockets need not load the servers.
_NAMES = {
    "adopt": "adopt",
    "connect": "connecting",
    **dict.fromkeys(("AddressError", "ClosedSocketError", "JackfieldError", "MisuseError", "StartError"), "errors"),
    **dict.fromkeys(
        (
            "AsyncDatagramRequestHandler",
            "AsyncRequestHandler",
            "AsyncStreamRequestHandler",
            "BaseRequestHandler",
            "DatagramRequestHandler",
            "StreamRequestHandler",
        ),
        "handlers",
    ),
    **dict.fromkeys(("GreenExit", "GreenThread", "await_", "green", "offload", "run", "sleep", "spawn"), "reactor"),
    "Server": "server",
    "ServerInfo": "serving",
    "serve": "supervisor",
}
_MODULES = ("socket", "socketserver", "sync", "testing")

__all__ = [
    "AddressError",
    "AsyncDatagramRequestHandler",
    "AsyncRequestHandler",
    "AsyncStreamRequestHandler",
    "BaseRequestHandler",
    "ClosedSocketError",
    "DatagramRequestHandler",
    "GreenExit",
    "GreenThread",
    "JackfieldError",
    "MisuseError",
    "Server",
    "ServerInfo",
    "StartError",
    "StreamRequestHandler",
    "adopt",
    "await_",
    "connect",
    "green",
    "offload",
    "run",
    "serve",
    "sleep",
    "socket",
    "socketserver",
    "spawn",
    "sync",
    "testing",
]


def __getattr__(name: str) -> object:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    home = _NAMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
