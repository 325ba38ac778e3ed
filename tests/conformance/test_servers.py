"""One server suite over the standard library's servers and ours: drop-in and native, in every mode."""

from __future__ import annotations

import socketserver as _socketserver_std
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from jackfield import socketserver
from jackfield.testing import (
    DATAGRAM_SERVER,
    STREAM_SERVER,
    ClassServers,
    NativeServers,
    OwnProcess,
    ServerFactory,
    stdlib_servers,
)

STREAMS = ["tcp://127.0.0.1:0", "tcp://[::1]:0", "unix:"]
DATAGRAMS = ["udp://127.0.0.1:0", "udp://[::1]:0", "unixgram:"]

FACTORIES: dict[str, Callable[[str], ServerFactory]] = {
    "stdlib-threading": lambda address: stdlib_servers("Threading", address),
    "stdlib-forking": lambda address: OwnProcess(stdlib_servers("Forking", address)),
    "serial": lambda address: ClassServers(socketserver, "", address),
    "threading": lambda address: ClassServers(socketserver, "Threading", address),
    "forking": lambda address: OwnProcess(ClassServers(socketserver, "Forking", address)),
    "green": lambda address: ClassServers(socketserver, "Green", address),
    "async": lambda address: ClassServers(socketserver, "Async", address),
    "native-serial": lambda address: NativeServers("serial", address),
    "native-thread": lambda address: NativeServers("thread", address),
    "native-process": lambda address: OwnProcess(NativeServers("process", address)),
    "native-green": lambda address: NativeServers("green", address),
    "native-async": lambda address: NativeServers("async", address),
}

# What each does not promise, and why. The lists are exact: a check that begins to pass has to leave them.
STDLIB = {"stops_with_idle_peers": "it cannot close the connections it serves"}
ELSEWHERE = dict.fromkeys(("leaves_nothing_open", "leaves_no_descriptor"), "the descriptors are another process's")
NOT_PROMISED: dict[str, Mapping[str, str]] = {
    "stdlib-threading": STDLIB,
    "stdlib-forking": {**STDLIB, **ELSEWHERE, "refuses_after_stop": "its children keep the listening socket"},
    "forking": ELSEWHERE,
    "native-process": ELSEWHERE,
}


@pytest.mark.parametrize("name", STREAM_SERVER)
@pytest.mark.parametrize("address", STREAMS)
@pytest.mark.parametrize("kind", FACTORIES)
def test_stream_server(kind: str, address: str, name: str, check: Callable[..., None], needs_ipv6: Any) -> None:
    needs_ipv6(address)
    check(STREAM_SERVER, name, FACTORIES[kind](address), NOT_PROMISED.get(kind, {}))


@pytest.mark.parametrize("name", DATAGRAM_SERVER)
@pytest.mark.parametrize("address", DATAGRAMS)
@pytest.mark.parametrize("kind", FACTORIES)
def test_datagram_server(kind: str, address: str, name: str, check: Callable[..., None], needs_ipv6: Any) -> None:
    needs_ipv6(address)
    check(DATAGRAM_SERVER, name, FACTORIES[kind](address), NOT_PROMISED.get(kind, {}))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"])
@pytest.mark.parametrize(
    "make",
    [lambda address: ClassServers(socketserver, "Forking", address), lambda address: NativeServers("process", address)],
    ids=["forking", "native-process"],
)
def test_a_forking_server_leaves_nothing_open_in_its_own_process(
    make: Callable[[str], ServerFactory], address: str
) -> None:
    factory = make(address)
    if factory.is_datagram:
        DATAGRAM_SERVER.run_one("leaves_no_descriptor", factory)
    else:
        STREAM_SERVER.run_one("leaves_nothing_open", factory)


def test_every_class_is_the_modules_own() -> None:
    """The factory composes a class only where the module lacks it; ours lacks none."""
    for prefix in ("", "Threading", "Forking", "Green", "Async"):
        for address in ("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "unix:/p", "unixgram:/p"):
            made = ClassServers(socketserver, prefix, address).server_class(address)
            if hasattr(_socketserver_std, made.__name__) or prefix in ("Green", "Async"):
                assert made.__mro__[1] is getattr(socketserver, made.__name__)


def test_every_check_says_what_it_promises() -> None:
    for suite in (STREAM_SERVER, DATAGRAM_SERVER):
        for name in suite:
            assert suite.promise(name).endswith("."), name
