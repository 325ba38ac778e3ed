"""Draining: how handlers and clients are told that a server is to stop.

A handler sees ``self.draining``, and one that defines ``handle_shutdown`` has it called. A client is told by the end of
its conversation: as soon as its handler waits for it to begin with something new, reading ends there as if the client
had hung up. The handler returns, as it does at the end of every client, and may say goodbye before. What a client sends
at the last moment is still read: shutdown(2) with SHUT_RD ends waiting, and on Linux takes nothing from what has come.
"""

from __future__ import annotations

import logging
import socket as _socket_std
import struct
import threading
import time
from _socket import socket as _Raw
from collections.abc import Callable, Iterable
from typing import Any

from .connections import Connection
from .deadlines import waits_for_peer
from .endings import has_ended
from .events import Reason
from .reactor import await_, in_green, loop_runs_here, spawn
from .reactor.bridges import ready_now
from .sync import Event

_log = logging.getLogger("jackfield.server")

#: Seconds between two looks at those that have something under way.
STEP = 0.05

#: Seconds after which a message of which nothing more comes is no longer waited for.
QUIET = 1.0

#: Where tcpi_last_data_sent and tcpi_last_data_recv, in milliseconds, stand in struct tcp_info (linux/tcp.h).
_LAST_SENT, _LAST_RECEIVED = 44, 52


class Draining(Event):
    """Set once a server was asked to stop: ``if self.draining:``, or wait for it in a thread, green thread or coroutine
    (``self.draining.wait(5)``, ``await self.draining.await_()``).

    It also knows the handlers that define ``handle_shutdown``.
    """

    __slots__ = ("_handlers",)

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._flag

    def enter(self, handler: Any) -> None:
        """Have its ``handle_shutdown`` called at a stop, until it :meth:`leave`\\ s."""
        self._handlers[id(handler)] = handler

    def leave(self, handler: Any) -> None:
        self._handlers.pop(id(handler), None)

    def tell_handlers(self) -> None:
        """Run ``handle_shutdown`` of each that is there, once: beside ``handle``, which goes on."""
        while self._handlers:
            try:
                _, handler = self._handlers.popitem()
            except KeyError:
                return  # the last one has ended meanwhile, on its own thread
            try:
                _run_goodbye(handler.handle_shutdown)
            except (OSError, RuntimeError) as error:
                _log.warning("handle_shutdown of %r could not be run: %s", handler, error)


def _run_goodbye(goodbye: Callable[[], Any]) -> None:
    """Run one ``handle_shutdown`` beside everything else: on the loop that runs here, or a thread of its own. What it
    lets out because the peer has gone, or its handler has closed the connection meanwhile, is nobody's fault."""

    def run() -> None:
        try:
            awaitable = goodbye()
            if awaitable is not None:
                await_(awaitable)
        except (OSError, ValueError):
            pass
        except Exception:
            _log.exception("handle_shutdown failed")

    if in_green() or loop_runs_here():
        spawn(run)
    else:
        threading.Thread(target=run, name="jackfield-goodbye", daemon=True).start()


def says_goodbye(handler: Any) -> bool:
    """Whether a handler, or a class of handlers, defines ``handle_shutdown``."""
    return hasattr(handler, "handle_shutdown")


class Farewell:
    """Tells clients of the end, each as soon as it has nothing under way, by ``tell(connection)``."""

    def __init__(self, connections: Iterable[Connection], tell: Callable[[Connection], object] | None = None) -> None:
        self._connections = connections
        self._tell = tell or tell_client
        #: By id: the bytes that had moved at the last look, and since when no more have.
        self._moved: dict[int, tuple[int, float]] = {}
        self._told: set[int] = set()

    def watch(self, connections: Iterable[Connection]) -> None:
        """It is about those from now on; who was told is not told again."""
        self._connections = connections

    def look(self, now: float) -> float | None:
        """Tell those for whom it is time; the seconds until the next look, None once all are told."""
        left = False
        for connection in list(self._connections):
            if connection.id in self._told:
                continue
            if connection.established and self._has_nothing_under_way(connection, now):
                self._told.add(connection.id)
                self._moved.pop(connection.id, None)
                self._tell(connection)
            else:
                left = True
        return STEP if left else None

    def _has_nothing_under_way(self, connection: Connection, now: float) -> bool:
        sock = connection.socket
        if sock is None:
            return True
        if connection.elsewhere:
            return True  # the process that has it knows
        fd = sock.fileno()
        # Looked at first: it lets go of the interpreter, and what the handler's thread does meanwhile is told by the
        # rest.
        come = (fd >= 0 and ready_now(fd, reading=True)) or connection.unseen > 0
        if not waits_for_peer(sock):
            return False  # the handler is at work, or what it has said is still being taken
        received, moved = connection.received, connection.received + connection.sent
        before, since = self._moved.get(connection.id, (moved, now))
        if before != moved:
            since = now
        self._moved[connection.id] = moved, since
        if now - since >= QUIET:
            return True
        if come:
            return False  # something that its handler has not seen yet: perhaps half a message
        if getattr(sock, "asked", None) is not None:
            return bool(received <= sock.whole)
        return connection.silent or _has_answered(sock)


class Teller(threading.Thread):
    """Looks after a farewell where no loop does: in the process of a connection, which ends with it."""

    def __init__(self, farewell: Farewell) -> None:
        super().__init__(name="jackfield-farewell", daemon=True)
        self._farewell = farewell

    def run(self) -> None:
        while (step := self._farewell.look(time.monotonic())) is not None:
            time.sleep(step)


class Spread:
    """Ends connections one after the other over some time: each is told at its turn, and closed some seconds later."""

    def __init__(self, tell: Callable[[Connection], object]) -> None:
        self._tell = tell
        self._patience = 0.0
        self._waiting: list[tuple[float, Connection]] = []
        self._called: list[tuple[float, Connection]] = []
        self._farewell = Farewell([], tell)

    def add(self, connections: Iterable[Connection], seconds: float, patience: float) -> None:
        """Those have their turns over the next ``seconds``, the oldest first, and ``patience`` seconds from there. From
        any thread."""
        now = time.monotonic()
        those = sorted(connections, key=lambda connection: connection.since)
        self._patience = patience
        self._waiting += [(now + seconds * number / len(those), one) for number, one in enumerate(those)]

    def look(self) -> float | None:
        """Tell, and close, those whose time has come; the seconds until the next look, None if there are none."""
        if not self._waiting and not self._called:
            return None
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            moment, connection = self._waiting.pop(0)
            self._called.append((moment + self._patience, connection))
        self._called = [(end, connection) for end, connection in self._called if connection.socket is not None]
        for end, connection in self._called:
            if end <= now:
                connection.close(Reason.DRAINED)
        self._farewell.watch([connection for _, connection in self._called])
        looks = [self._farewell.look(now), *(moment - now for moment, _ in self._waiting[:1])]
        looks += [max(STEP, end - now) for end, _ in self._called[:1]]
        return min((look for look in looks if look is not None), default=None)


def tell_client(connection: Connection) -> None:
    """Let reading from it end where nothing more has come. From any thread."""
    sock = connection.socket
    if sock is None or has_ended(sock):
        return  # by itself, and its handler has seen it, or is about to
    connection._decide(Reason.DRAINED)
    try:
        # Not the method of an ssl.SSLSocket, which forgets all about TLS.
        _Raw.shutdown(sock, _socket_std.SHUT_RD)
    except (OSError, ValueError):
        pass  # the peer was faster


def _has_answered(sock: Any) -> bool:
    """Whether the last that moved on a TCP connection went to the peer (tcp(7), TCP_INFO)."""
    try:
        info = _Raw.getsockopt(sock, _socket_std.IPPROTO_TCP, _socket_std.TCP_INFO, _LAST_RECEIVED + 4)
        (sent,) = struct.unpack_from("=I", info, _LAST_SENT)
        (received,) = struct.unpack_from("=I", info, _LAST_RECEIVED)
    except (AttributeError, OSError, ValueError, struct.error):
        return False  # no TCP, or no Linux: it is told once nothing has come for a while
    return bool(sent <= received)
