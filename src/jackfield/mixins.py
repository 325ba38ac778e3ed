"""The mix-ins: where a drop-in server runs its handlers. Each comes first among the bases of the class it makes."""

from __future__ import annotations

import contextlib
import inspect
import os
import socket as _socket_std
import socketserver as _socketserver_std
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .baseserver import BaseServer
from .endings import exit_code
from .errors import MisuseError
from .gate import is_unshaken
from .modes import AsyncCrew, Crew, Greens, Loop, Processes, Tasks, Threads
from .reactor import current_reactor, green, in_green, run, watched
from .socket import socket as _socket
from .streams import AsyncSocket

HAS_FORK = hasattr(os, "fork")


def _accepts(server: Any) -> bool:
    """True for a server of connections. A mix-in may stand over a class of the standard library's, such as
    ``http.server.HTTPServer``, which knows nothing of ours."""
    own = getattr(server, "_accepts", None)
    return bool(own if own is not None else server.socket_type != _socket_std.SOCK_DGRAM)


def _decide(server: Any, request: Any, error: Exception) -> None:
    """Note what a handler let out as the reason for the connection's end."""
    if isinstance(server, BaseServer):
        server._gate.decide(request, error)


def _enters(server: Any, request: Any, client_address: Any) -> bool:
    """Whether ``request`` comes to its handler, after the TLS handshake if one is still to come."""
    return not isinstance(server, BaseServer) or server._enters(request, client_address)


#: What the standard library calls on the thread that serves.
_OF_THE_SERVING_THREAD = (
    "fileno", "get_request", "process_request", "service_actions", "verify_request", "_handle_request_noblock"
)  # fmt: skip


def _is_plain(server: Any) -> bool:
    """True if accepting is nobody's business but ours: on our own socket, and by none of a user's hooks."""
    home = __name__.partition(".")[0]
    modules = (getattr(getattr(server, name), "__module__", None) or "" for name in _OF_THE_SERVING_THREAD)
    return type(getattr(server, "socket", None)) is _socket and all(
        module.partition(".")[0] == home for module in modules
    )


class ThreadingMixIn:
    """Mix-in: a thread for each connection. It comes first among the bases.

    Class variables: ``daemon_threads`` (False: the program waits for handlers at its end), ``block_on_close`` (True:
    ``server_close()`` waits for them), ``max_threads`` (None: no bound; a number: clients above it wait in the kernel's
    queue), ``idle_thread_seconds`` (10: so long a thread waits for another connection before it ends, if the last one
    left nothing on it; 0: each connection starts a thread). Datagrams are handled by at most ``max_threads``, or 64,
    threads, in order for each client.
    """

    daemon_threads: bool = False
    block_on_close: bool = True
    max_threads: int | None = None
    idle_thread_seconds: float = 10.0
    _most_workers: int = 64

    def _make_mode(self) -> Any:
        return Threads()

    # Both are made when first needed, because a mix-in may find that no constructor of its own was called.

    @property
    def _mode(self) -> Any:
        mode = self.__dict__.get("_mode_made")
        if mode is None:
            mode = self.__dict__["_mode_made"] = self._make_mode()
            mode.on_room = getattr(self, "_wake", None)
        mode.limit, mode.daemon, mode.idle_seconds = self.max_threads, self.daemon_threads, self.idle_thread_seconds
        return mode

    @property
    def _crew(self) -> Crew:
        crew: Crew | None = self.__dict__.get("_crew_made")
        if crew is None:
            kind = AsyncCrew if isinstance(self._mode, Tasks) else Crew
            crew = self.__dict__["_crew_made"] = kind(self._mode, self.max_threads or self._most_workers)
        return crew

    @property
    def _threads(self) -> list[Any]:
        return list(self._mode)

    @property
    def dropped(self) -> int:
        """Datagrams dropped because too many waited for a handler."""
        return self._crew.dropped

    def _has_room(self) -> bool:
        # Datagrams are read in any case: the crew says which are dropped.
        return self.max_threads is None or not _accepts(self) or not self._mode.full

    def _serving_begins(self, loop: Loop) -> None:
        super()._serving_begins(loop)  # type: ignore[misc]
        if not isinstance(self, GreenMixIn) and _accepts(self) and _is_plain(self):
            self._mode.offer(self._take_another)

    def _take_another(self) -> None:
        """On a thread whose connection has ended. Where accepting is in trouble, it is left to the loop."""
        # The thread itself is the room; the limits may want it left empty.
        free = not self.stopping and not self._gate.full  # type: ignore[attr-defined]
        if free and not self._policy.in_trouble:  # type: ignore[attr-defined]
            self._handle_request_noblock()  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def _listener_unblocked(self) -> Iterator[None]:
        with super()._listener_unblocked():  # type: ignore[misc]
            try:
                yield
            finally:
                if not isinstance(self, GreenMixIn):
                    self._mode.offer(None)

    def _join_units(self, timeout: float | None) -> bool:
        return self._mode.join(timeout)  # type: ignore[no-any-return]

    def _cut_units(self) -> None:
        self._mode.cut()

    @property
    def _waits_at_close(self) -> bool:
        return self.block_on_close and not self.daemon_threads

    def process_request_thread(self, request: Any, client_address: Any) -> Any:
        """What runs in the thread: the handler, its errors, its end."""
        try:
            if _enters(self, request, client_address):
                self.finish_request(request, client_address)  # type: ignore[attr-defined]
        except Exception as error:
            _decide(self, request, error)
            self.handle_error(request, client_address)  # type: ignore[attr-defined]
        finally:
            self.shutdown_request(request)  # type: ignore[attr-defined]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection; a datagram goes to a worker."""
        if _accepts(self):
            if not isinstance(self, BaseServer):
                self._mode.wait_room()  # our own loop sees to it before it accepts
            self._mode.start(self.process_request_thread, request, client_address)
        else:
            self._crew.submit(client_address, self.process_request_thread, request, client_address)

    def server_close(self) -> None:
        """Close the socket and, with ``block_on_close``, wait for the threads that are not daemons."""
        self._mode.offer(None)
        super().server_close()  # type: ignore[misc]
        if self._waits_at_close:
            self._mode.join()
        else:
            self._mode.close()


class GreenMixIn(ThreadingMixIn):
    """Mix-in: a green thread for each connection, on one operating-system thread. It comes first among the bases.

    All of ThreadingMixIn's, with green threads for threads: ``max_threads`` bounds them as well. Outside a green thread
    ``serve_forever()`` runs a loop of its own, and returns when the handlers have ended too (``block_on_close``; with
    ``daemon_threads`` they are ended). A handler must not block the thread: see ``jackfield.socket``,
    ``jackfield.sleep``, ``jackfield.offload``. Datagrams are handled by at most ``max_threads``, or 1000.
    """

    _most_workers = 1000
    _cooperates = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, _socketserver_std.BaseServer):
            raise MisuseError(
                f"{cls.__name__} mixes green threads or coroutines into a server class of the standard library's, "
                "whose sockets would stop the loop; write e.g. class HTTPServer(jackfield.socketserver.GreenTCPServer)"
            )

    def _make_mode(self) -> Any:
        return Greens()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until ``shutdown()`` or ``stop()``.

        On an application's loop: ``await jackfield.green(server.serve_forever)``.
        """
        if in_green():
            with watched(current_reactor()):
                super().serve_forever(poll_interval)  # type: ignore[misc]
        else:
            run(self._on_own_loop, super().serve_forever, poll_interval)  # type: ignore[misc]

    def handle_request(self) -> None:
        """Handle one request; outside a green thread this returns when its handler has ended."""
        if in_green():
            super().handle_request()  # type: ignore[misc]
        else:
            run(self._on_own_loop, super().handle_request)  # type: ignore[misc]

    def _on_own_loop(self, serve: Callable[..., None], *args: Any) -> None:
        with watched(current_reactor()):
            serve(*args)
            if self._waits_at_close:
                self._mode.join()

    def server_close(self) -> None:
        """Close the socket and, with ``block_on_close``, wait for the green threads."""
        super(ThreadingMixIn, self).server_close()  # type: ignore[misc]
        # Elsewhere than in a green thread they have ended with the loop they ran on.
        if self._waits_at_close and in_green():
            self._mode.join()


def _awaited(request: Any) -> AsyncSocket:
    if not isinstance(request, _socket) and hasattr(request, "do_handshake"):
        raise MisuseError(
            "no coroutine can await a socket of ssl's: wrap the listening socket, not what get_request() gives"
        )
    tls = sys.modules.get(f"{__package__}.tls")
    if tls is not None and isinstance(request, tls.TLSSocket):
        return tls.AsyncTLSSocket(request)  # type: ignore[no-any-return]
    return AsyncSocket(request)


class AsyncMixIn(GreenMixIn):
    """Mix-in: a coroutine for each connection, on one thread. It comes first among the bases.

    The handler class is an ``AsyncRequestHandler`` or one of its twins, and ``finish_request`` a coroutine function; in
    all else as GreenMixIn, ``max_threads`` included.
    """

    def _make_mode(self) -> Any:
        handler = self.RequestHandlerClass  # type: ignore[attr-defined]
        if not inspect.iscoroutinefunction(getattr(handler, "run", None)):
            raise MisuseError(
                f"{handler!r} is no coroutine handler: derive it from AsyncRequestHandler, "
                "or serve it by a Green… server"
            )
        return Tasks()

    async def finish_request(self, request: Any, client_address: Any) -> None:
        """Make one instance of RequestHandlerClass and await its ``run()``."""
        if _accepts(self):
            asked: Any = _awaited(request)
        else:
            data, sock = request
            guarded = getattr(sock, "for_coroutine", None)
            asked = (data, AsyncSocket(sock) if guarded is None else guarded())
        await self.RequestHandlerClass(asked, client_address, self).run()  # type: ignore[attr-defined]

    async def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What runs in the coroutine: the handler, its errors, its end."""
        try:
            if not is_unshaken(request) or await green(_enters, self, request, client_address):
                await self.finish_request(request, client_address)
        except Exception as error:
            _decide(self, request, error)
            self.handle_error(request, client_address)  # type: ignore[attr-defined]
        finally:
            self.shutdown_request(request)  # type: ignore[attr-defined]


if HAS_FORK:

    class ForkingMixIn:
        """Mix-in: a process for each request. It comes first among the bases.

        Class variables: ``max_children`` (40; clients above it wait in the kernel's queue), ``block_on_close`` (True:
        ``server_close()`` waits for the children), ``timeout`` (300, as in the standard library: what
        ``handle_request()`` waits). ``active_children`` is the set of pids, or None before the first.
        """

        timeout: float | None = 300
        active_children: set[int] | None = None
        max_children: int = 40
        block_on_close: bool = True
        _handles_elsewhere = True

        @property
        def _mode(self) -> Processes:
            mode: Processes | None = self.__dict__.get("_mode_made")
            if mode is None:
                mode = self.__dict__["_mode_made"] = Processes()
                mode.on_reaped = self._reaped
            mode.limit = self.max_children
            return mode

        def _reaped(self, pid: int, status: int) -> None:
            if self.active_children is not None:
                self.active_children.discard(pid)
            if isinstance(self, BaseServer):
                self._gate.child_ended(pid, status)
                self._descriptor_freed()  # the one that it was watched by

        def _serving_begins(self, loop: Loop) -> None:
            super()._serving_begins(loop)  # type: ignore[misc]
            self._mode.watch_on(loop)

        def _serving_ends(self) -> None:
            self._mode.watch_on(None)
            super()._serving_ends()  # type: ignore[misc]

        def _has_room(self) -> bool:
            return not self._mode.full

        def _next_look(self) -> float | None:
            return self._mode.look()

        def _join_units(self, timeout: float | None) -> bool:
            return self._mode.join(timeout)

        def _cut_units(self) -> None:
            self._mode.cut()

        def collect_children(self, *, blocking: bool = False) -> None:
            """Take the exit codes of children that have ended; with ``blocking``, wait for all."""
            if blocking:
                self._mode.join()
            else:
                self._mode.reap()

        def handle_timeout(self) -> None:
            """Called when ``handle_request()`` found none within ``timeout``."""
            self.collect_children()

        def service_actions(self) -> None:
            """Called after each turn of the loop."""
            super().service_actions()  # type: ignore[misc]
            self.collect_children()

        def process_request(self, request: Any, client_address: Any) -> None:
            """Fork a process for the request."""
            if isinstance(self, BaseServer):
                self._failures.journal.share()
                self._mode.tell_by(self._failures.journal)
            pid = self._mode.fork(self._in_child, (request, client_address))
            if self.active_children is None:
                self.active_children = set()
            self.active_children.add(pid)
            if isinstance(self, BaseServer):
                self._gate.hand_over(request, pid)
            self.close_request(request)  # type: ignore[attr-defined]

        def _in_child(self, request: Any, client_address: Any) -> None:
            """What runs in the child: the handler, its errors, its end; the process is gone when this returns."""
            self._mode.forget()
            if _accepts(self):
                # A child that held the listening socket would keep the port, and let clients connect to nobody.
                self.socket.close()  # type: ignore[attr-defined]
            connection = self._gate.begin_child(request) if isinstance(self, BaseServer) else None
            failed = True
            try:
                try:
                    if _enters(self, request, client_address):
                        self.finish_request(request, client_address)  # type: ignore[attr-defined]
                    failed = False
                except Exception as error:
                    _decide(self, request, error)
                    self.handle_error(request, client_address)  # type: ignore[attr-defined]
            finally:
                self.shutdown_request(request)  # type: ignore[attr-defined]
            if connection is not None and connection.reason is not None:
                raise SystemExit(exit_code(connection.reason))
            if failed:
                raise SystemExit(1)

        def server_close(self) -> None:
            """Close the socket and, with ``block_on_close``, wait for the children."""
            super().server_close()  # type: ignore[misc]
            self.collect_children(blocking=self.block_on_close)
            if isinstance(self, BaseServer):
                self._failures.journal.close()
