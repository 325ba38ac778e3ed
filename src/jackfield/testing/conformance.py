"""`check_socket` and `check_server`: the suites, complete, behind one call each."""

from __future__ import annotations

from collections.abc import Iterable

# Imported for what they add to the suites.
from . import server_datagrams, server_streams, socket_data, socket_endings, socket_timeouts  # noqa: F401
from .server_suite import DATAGRAM_SERVER, STREAM_SERVER
from .servers import ServerFactory
from .socket_suite import SOCKET
from .sockets import SocketFactory
from .suite import CHECK_SECONDS, Report

__all__ = ["check_server", "check_socket"]


def check_socket(
    factory: SocketFactory, *, only: Iterable[str] | None = None, timeout: float = CHECK_SECONDS
) -> Report:
    """Hold a kind of stream socket to what the standard library's sockets do.

    `factory()` is a context manager that yields a connected pair; the factory also says how two bodies run at
    the same time (see `SocketFactory`). Ready ones: `stdlib_sockets`, `thread_sockets`, `green_sockets`.
    `only` names the checks to run (all of ``SOCKET``); `timeout` is the seconds one check may take.

    Returns a `Report` of what passed and what was not promised. Raises `ConformanceError` (an AssertionError)
    that names every check that failed.
    """
    return SOCKET.run(factory, only=only, timeout=timeout)


def check_server(
    factory: ServerFactory, *, only: Iterable[str] | None = None, timeout: float = CHECK_SECONDS
) -> Report:
    """Hold a kind of server to what a server has to stand: many clients, slow ones, ones that vanish, failing handlers.

    `factory(kind)` is a context manager that starts a server with the handler of that kind on the factory's address and
    yields the real address (see `ServerFactory`); a datagram address gets the suite for datagrams. Ready ones:
    `NativeServers`, `ClassServers`, `stdlib_servers`, and `OwnProcess` around one that forks. `only` names the checks
    to run (all of ``STREAM_SERVER`` or ``DATAGRAM_SERVER``); `timeout` is the seconds one check may take.

    Returns a `Report` of what passed and what was not promised. Raises `ConformanceError` (an AssertionError)
    that names every check that failed.
    """
    suite = DATAGRAM_SERVER if factory.is_datagram else STREAM_SERVER
    return suite.run(factory, only=only, timeout=timeout)
