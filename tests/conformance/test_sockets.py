"""One socket suite over the standard library's sockets and ours, in threads and in green threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jackfield.testing import SOCKET, SocketFactory, green_sockets, stdlib_sockets, thread_sockets

FACTORIES: dict[str, Callable[[str], SocketFactory]] = {
    "stdlib": stdlib_sockets,
    "thread": thread_sockets,
    "green": green_sockets,
}

# What each does not promise, and why. The lists are exact: a check that begins to pass has to leave them.
THREADS = {
    "close_wakes": "close(2) wakes nobody",
    "survives_a_cancelled_wait": "a thread cannot be killed",
}
NOT_PROMISED = {
    "stdlib": {**THREADS, "receives_files": "the standard library has no recvfile"},
    "thread": THREADS,
    "green": {},
}
NOT_OVER = {
    "tcp4": {"passes_descriptors": "only Unix sockets do"},
    "tcp6": {"passes_descriptors": "only Unix sockets do"},
    "unix": {"timeouts_of_connect": "a full backlog says EAGAIN at once"},
}


@pytest.mark.parametrize("name", SOCKET)
@pytest.mark.parametrize("transport", ["tcp4", "tcp6", "unix"])
@pytest.mark.parametrize("kind", FACTORIES)
def test_socket(kind: str, transport: str, name: str, check: Callable[..., None], needs_ipv6: Any) -> None:
    needs_ipv6(transport)
    check(SOCKET, name, FACTORIES[kind](transport), NOT_PROMISED[kind] | NOT_OVER[transport])


@pytest.fixture(scope="module")
def uvloop() -> Any:
    """uvloop, with the pipe that it opens at its first loop and keeps."""
    uvloop = pytest.importorskip("uvloop")
    uvloop.new_event_loop().close()
    return uvloop


def test_the_green_suite_on_uvloop(uvloop: Any) -> None:
    """The reactor's other host, on what differs there: waiting, timeouts, ends."""
    some = [
        "echoes",
        "flows_both_ways",
        "timeouts_future_reading",
        "timeouts_of_accept",
        "close_wakes",
        "carries_files",
    ]
    report = SOCKET.run(green_sockets(loop_factory=uvloop.new_event_loop), only=some)
    assert list(report.passed) == some


def test_every_check_says_what_it_promises() -> None:
    assert len(SOCKET) > 30
    for name in SOCKET:
        assert SOCKET.promise(name).endswith("."), name
