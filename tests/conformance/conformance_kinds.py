"""The kinds of servers that the server suite is held against, by name."""

from __future__ import annotations

from collections.abc import Callable

from jackfield import socketserver
from jackfield.testing import ClassServers, NativeServers, ServerFactory, stdlib_servers


def stdlib_forking(address: str) -> ServerFactory:
    """The standard library's, whose children have its socket until they end, and nobody waits for that."""
    factory = stdlib_servers("Forking", address)
    factory.missing["stops_and_is_gone"] = "its children keep the socket"
    return factory


KINDS: dict[str, Callable[[str], ServerFactory]] = {
    "stdlib-threading": lambda address: stdlib_servers("Threading", address),
    "stdlib-forking": stdlib_forking,
    "serial": lambda address: ClassServers(socketserver, "", address),
    "threading": lambda address: ClassServers(socketserver, "Threading", address),
    "forking": lambda address: ClassServers(socketserver, "Forking", address),
    "green": lambda address: ClassServers(socketserver, "Green", address),
    "async": lambda address: ClassServers(socketserver, "Async", address),
    "native-serial": lambda address: NativeServers("serial", address),
    "native-thread": lambda address: NativeServers("thread", address),
    "native-process": lambda address: NativeServers("process", address),
    "native-green": lambda address: NativeServers("green", address),
    "native-async": lambda address: NativeServers("async", address),
}

FORKING = {"stdlib-forking", "forking", "native-process"}
