"""BaseServer: the life of a drop-in server, and the loop that accepts for it.

The order of things is the standard library's: ``get_request``, ``verify_request``, ``process_request``,
``finish_request``, ``shutdown_request``, with ``handle_error``, ``handle_timeout`` and ``service_actions`` beside it.
Whatever of these a subclass overrides is called, in every mode.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket as _socket_std
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from greenlet import getcurrent

from .connections import Connection
from .door import AcceptPolicy, Action, Pauses, accept_batch
from .draining import Draining, Farewell
from .endings import Failures
from .events import Reason
from .gate import Gate, is_unshaken
from .modes import Loop, open_loop
from .reactor import GreenThread, blocking_wait

if TYPE_CHECKING:
    from .limits import Limits

_log = logging.getLogger("jackfield.server")

#: Connections taken in one go before whoever else waits has a turn.
BUDGET = 64

#: Seconds after which a server that waits for its last handlers looks whether it is to be quicker about it.
DRAIN_STEP = 0.05

#: Seconds between being cut and being given up.
CUT_SECONDS = 1.0


class BaseServer:
    """Base class for server classes.

    For the caller: ``__init__(server_address, RequestHandlerClass)``, ``serve_forever(poll_interval=0.5)``,
    ``shutdown()``, ``stop(deadline=None)``, ``handle_request()``, ``fileno()``, ``connections``, ``stopping``.

    May be overridden: ``server_bind()``, ``server_activate()``, ``get_request()``, ``handle_timeout()``,
    ``verify_request(request, client_address)``, ``server_close()``, ``process_request(request, client_address)``,
    ``shutdown_request(request)``, ``close_request(request)``, ``service_actions()``,
    ``handle_error(request, client_address)``.

    Class variables: ``timeout``, the seconds that ``handle_request()`` waits for a request (None: for ever);
    ``limits``, a :class:`jackfield.Limits` that its connections are held to, from whom is let in to how long each may
    take (None, the default: to none; a :class:`jackfield.Server` has them on). They may be changed while it serves.
    """

    timeout: float | None = None
    limits: Limits | None = None

    def __init__(self, server_address: Any, RequestHandlerClass: Callable[[Any, Any, Any], Any]) -> None:
        self.server_address = server_address
        self.RequestHandlerClass = RequestHandlerClass
        self.__is_shut_down = threading.Event()
        self._draining = Draining()
        self.__stop_asked = False
        self.__deadline: float | None = None
        self.__loop: Loop | None = None
        self.__serving: tuple[int, Any] | None = None
        self._failures = Failures()
        self.__gate = Gate(lambda: self.limits, self._wake, elsewhere=self._handles_elsewhere)
        self.__policy: AcceptPolicy | None = None
        self.__pauses: Pauses[None] = Pauses()
        self.__waits: list[Any] = []
        self.__error: OSError = BlockingIOError(errno.EAGAIN, "nothing waits")
        self.__in_handler = False
        self.__cuts: list[threading.Timer] = []

    # -- to be provided ----------------------------------------------------------------------------------------------

    def server_activate(self) -> None:
        """Called by the constructor to activate the server."""

    def fileno(self) -> int:
        """The descriptor that is readable when there is a request."""
        raise NotImplementedError(f"{type(self).__name__} has no fileno(); derive from TCPServer or UDPServer")

    def get_request(self) -> tuple[Any, Any]:
        """The next request and its client's address. OSError where there is none."""
        raise NotImplementedError(f"{type(self).__name__} has no get_request(); derive from TCPServer or UDPServer")

    # -- serving -----------------------------------------------------------------------------------------------------

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until ``shutdown()`` or ``stop()``.

        ``poll_interval`` is how often, in seconds, an overridden ``service_actions()`` is called at least; nothing else
        ticks. In a green thread it waits cooperatively.
        """
        self.__is_shut_down.clear()
        if not self.__stop_asked:
            self._draining.clear()
        loop = open_loop()
        try:
            with self._listener_unblocked():
                self.__serving = (threading.get_ident(), getcurrent())
                self.__loop = loop
                self._serving_begins(loop)
                tick = poll_interval if self.__has_own("service_actions") else None
                while not self.__stop_asked and self.fileno() >= 0:
                    loop.turn(self.__attend(loop, tick))
                    if self.__stop_asked:
                        break
                    self.service_actions()
        finally:
            self.__loop = None
            loop.close()
            try:
                if self.__deadline is not None:
                    self._drain()
            finally:
                self.__deadline = None
                self._serving_ends()
                self.__stop_asked = False
                self.__serving = None
                self.__is_shut_down.set()
                waits, self.__waits = self.__waits, []
                for wait in waits:
                    wait.wake()

    def _serving_begins(self, loop: Loop) -> None:
        """A mix-in's place to tie what it runs to the loop that accepts."""

    def _serving_ends(self) -> None:
        """And to untie it."""
        self._failures.journal.tell()

    def _next_look(self) -> float | None:
        """A mix-in's place to see to what the loop is not told of; the seconds until it has to be done again."""
        return None

    def _has_room(self) -> bool:
        """False while a mix-in can take no more: clients wait in the kernel's queue then."""
        return True

    def __attend(self, loop: Loop, tick: float | None) -> float | None:
        """Watch the listener or leave it alone for now; returns how long to wait."""
        pause = self.__pauses.left(None)
        fd = self.fileno()
        if not self.__gate.opens(self._has_room()) or pause:
            loop.ignore(fd)
        else:
            loop.watch(fd, self.__accept)
        looks = (pause, self.__gate.patience, self._next_look(), tick)
        return min((seconds for seconds in looks if seconds), default=None)

    def __has_own(self, name: str) -> bool:
        """True if ``name`` is not what this package made it."""
        return getattr(getattr(self, name), "__module__", None) not in _OURS

    def __accept(self) -> None:
        if self.__has_own("_handle_request_noblock"):
            self._handle_request_noblock()
            return
        # Those of the user's own are called as the standard library calls them: once for each look at the listener.
        careful = any(self.__has_own(name) for name in ("service_actions", "get_request", "fileno"))
        self.__pauses.begin()
        # Nobody is turned away for want of descriptors: the standard library lets clients wait for as long as they
        # like, and what get_request() gives may be more than a connection that can be told and closed.
        outcome = accept_batch(
            self.__next_request, self.__take_or_turn_away, self._policy, 1 if careful else BUDGET, report=_log.warning
        )
        if outcome.action is Action.CLOSED:
            self.__stop_asked = True
            if self.fileno() >= 0:
                _log.error("%s: the listening socket is gone (%s); serving ends", self.server_address, outcome.error)
        self.__pauses.note(None, outcome)

    @property
    def _policy(self) -> AcceptPolicy:
        if self.__policy is None:
            self.__policy = AcceptPolicy(name=str(self.server_address))
        return self.__policy

    #: True where requests are accepted connections, False where they are datagrams.
    _accepts: ClassVar[bool] = True

    #: True where the handlers run in other processes.
    _handles_elsewhere: ClassVar[bool] = False

    @property
    def _gate(self) -> Gate:
        return self.__gate

    def __next_request(self) -> tuple[Any, Any]:
        if self.__stop_asked or not self.__gate.opens(self._has_room()):
            raise BlockingIOError(errno.EAGAIN, "nothing more to be taken now")
        return self.get_request()

    def _handle_request_noblock(self) -> bool:
        """Handle one request, if there is one; False if there is none after all."""
        try:
            taken = self.get_request()
        except OSError as error:
            self.__error = error.with_traceback(None)  # whose frames would hold all that they have in hand
            return False
        self.__take(taken)
        return True

    def __take_or_turn_away(self, taken: tuple[Any, Any]) -> None:
        if self.__gate.refuses:
            self.__gate.turn_away(*taken, str(self.server_address))
        else:
            self.__take(taken)

    def _let_in(self, request: Any, client_address: Any) -> Any | None:
        """The request that is handled for ``request``; None: the limits have turned it away."""
        if not self._accepts:
            return request
        request = self._adopted(request)
        let_in = self.__gate.enter(request, client_address, str(self.server_address)) is not None
        return request if let_in else None

    def __take(self, taken: tuple[Any, Any]) -> None:
        client_address = taken[1]
        request = self._let_in(*taken)
        if request is None:
            return
        if is_unshaken(request) and self.__has_own("verify_request"):
            # It may look at the certificate, so it is asked after the handshake: in the unit, or here where what it
            # notes would be lost with a child.
            verified = True
            if self._handles_elsewhere:
                self.__gate.warn_of_handshakes(self.server_address, "leave verify_request() alone, or serve by threads")
                verified = self._enters(request, client_address) and self.__verifies(request, client_address)
        else:
            verified = self.__verifies(request, client_address)
        if not verified:
            self.shutdown_request(request)
            return
        try:
            self.process_request(request, client_address)
        except Exception as error:
            self.__gate.decide(request, error)
            self.handle_error(request, client_address)
            self.shutdown_request(request)
        except BaseException:
            self.shutdown_request(request)
            raise

    # -- the TLS of the ssl module: see tls/idioms.py ----------------------------------------------------------------

    def _adopted(self, request: Any) -> Any:
        """``request`` as handlers here can use it."""
        return request

    def _enters(self, request: Any, client_address: Any) -> bool:
        """What comes before the handler in its own unit, where a silent client stops nobody: the TLS handshake, if one
        is to come, and an overridden verify_request() after it. False if the handler is not to be called."""
        if not is_unshaken(request):
            return True
        if not self.__gate.shake(request, client_address, self._failures):
            return False
        return self._handles_elsewhere or self.__verifies(request, client_address)

    def __verifies(self, request: Any, client_address: Any) -> bool:
        if not self.verify_request(request, client_address):
            self.__gate.decide(request, reason=Reason.VERIFY_REFUSED)
            return False
        return True

    @contextlib.contextmanager
    def _listener_unblocked(self) -> Iterator[None]:
        """A client may be gone again between the look and the accept (accept(2)); nobody is to wait for the next one.

        Datagram sockets stay as they are: handlers send by them.
        """
        listener = getattr(self, "socket", None)
        if not self._accepts or not isinstance(listener, _socket_std.socket) or listener.gettimeout() == 0.0:
            yield
            return
        patience = listener.gettimeout()
        listener.settimeout(0.0)
        try:
            yield
        finally:
            if listener.fileno() >= 0:
                listener.settimeout(patience)

    def handle_request(self) -> None:
        """Wait for one request and handle it; ``handle_timeout()`` if ``timeout`` seconds pass without one."""
        listener = getattr(self, "socket", None)
        patience = listener.gettimeout() if listener is not None else None
        if patience is None:
            patience = self.timeout
        elif self.timeout is not None:
            patience = min(patience, self.timeout)
        deadline = None if patience is None else time.monotonic() + patience
        ready: list[bool] = []
        loop = open_loop()
        try:
            with self._listener_unblocked():
                loop.watch(self.fileno(), lambda: ready.append(True))
                while True:
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    loop.turn(left)
                    if ready:
                        ready.clear()
                        if self._handle_request_noblock() is not False or self.fileno() < 0:
                            return
                        if self._policy.verdict(self.__error) in (Action.PAUSE, Action.UNKNOWN, Action.CLOSED):
                            # As the standard library, this returns without a request; but a program that calls it in a
                            # loop is not to spin while, say, descriptors are short.
                            text = self._policy.begin(self.__error)
                            if text is not None:
                                _log.warning(text)
                            loop.ignore(self.fileno())
                            loop.turn(self._policy.pause if left is None else min(left, self._policy.pause))
                            return
                    if left == 0.0:
                        self.handle_timeout()
                        return
        finally:
            loop.close()

    # -- stopping ----------------------------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """True once a stop was asked for: a handler with a long life ends when it sees it."""
        return self.__stop_asked

    # Programs in the wild set the standard library's private flag from a handler, for want of a stop().
    @property
    def __shutdown_request(self) -> bool:
        return self.__stop_asked

    @__shutdown_request.setter
    def __shutdown_request(self, value: bool) -> None:
        self.__stop_asked = value
        if value:
            self._draining.set()
        self._wake()

    def _wake(self) -> None:
        loop = self.__loop
        if loop is not None:
            loop.wake()

    def stop(self, deadline: float | None = None) -> None:
        """Ask the server to stop. Returns at once; from any thread, task, handler or signal handler, any number of
        times, before, during or after serving.

        ``serve_forever()`` takes no more requests and returns. With a ``deadline``, in seconds, it first gives the
        handlers that long to finish, then cuts the connections that are left and logs who was cut. Asked for again, the
        earlier deadline holds.
        """
        if deadline is not None:
            moment = time.monotonic() + deadline
            self.__deadline = moment if self.__deadline is None else min(moment, self.__deadline)
            if self.__in_handler:
                # The loop cannot see to the deadline while a handler runs on its thread.
                cut = threading.Timer(deadline, self._cut_connections)
                cut.daemon = True
                self.__cuts.append(cut)
                cut.start()
        self.__shutdown_request = True

    def shutdown(self) -> None:
        """Stop ``serve_forever()`` and wait until it has stopped.

        Where waiting could not end, it is a request and returns at once: on the thread that serves (a handler of a
        synchronous server, a signal handler), and when nobody serves: the next ``serve_forever()`` returns at once.
        """
        self.__shutdown_request = True
        serving = self.__serving
        if serving is None:
            return
        thread_id, unit = serving
        current = getcurrent()
        if threading.get_ident() != thread_id:
            self.__is_shut_down.wait()
        elif isinstance(current, GreenThread) and current is not unit:
            wait = blocking_wait()
            self.__waits.append(wait)
            if not self.__is_shut_down.is_set():
                wait.wait()

    def _drain(self) -> None:
        """Wait for the handlers until the deadline, then cut the connections that are left."""
        farewell = Farewell(self.__gate.connections)
        self._draining.tell_handlers()
        while True:
            now = time.monotonic()
            left = max(0.0, (self.__deadline or 0.0) - now)
            farewell.look(now)
            # In short steps, because a second stop() may move the deadline forward meanwhile.
            if self._join_units(min(left, DRAIN_STEP)):
                return
            if not left:
                break
        self._cut_connections()
        self._cut_units()
        self._join_units(CUT_SECONDS)

    def _cut_connections(self) -> None:
        left = self.connections
        peers = ", ".join(ascii(connection.peer) for connection in left[:10])
        _log.warning("%s: the deadline passed, and these were cut: %s", self.server_address, peers or "all handlers")
        for connection in left:
            connection.close(Reason.DRAINED)

    def _join_units(self, timeout: float | None) -> bool:
        """Wait for what a mix-in runs; True when nothing runs any more."""
        return True

    def _cut_units(self) -> None:
        """End what a mix-in runs, as far as it can be ended."""

    # -- what is known -----------------------------------------------------------------------------------------------

    def _connection_of(self, request: Any) -> Connection | None:
        return self.__gate.connection_of(request)

    @property
    def connections(self) -> list[Connection]:
        """The live connections: peer, age, bytes; ``close()`` and ``abort()`` end one."""
        return list(self.__gate.connections)

    # -- the hooks ---------------------------------------------------------------------------------------------------

    def service_actions(self) -> None:
        """Called after each turn of the loop, at least every ``poll_interval`` seconds where it is overridden."""

    def handle_timeout(self) -> None:
        """Called when ``handle_request()`` found none within ``timeout``."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return True if the request should be processed."""
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Run the handler; the mix-ins run it elsewhere."""
        self.__in_handler = True
        try:
            if self._enters(request, client_address):
                self.finish_request(request, client_address)
        finally:
            self.__in_handler = False
            while self.__cuts:
                self.__cuts.pop().cancel()
        self.shutdown_request(request)

    def server_close(self) -> None:
        """Called to clean up the server."""
        self.__gate.close()

    def finish_request(self, request: Any, client_address: Any) -> Any:
        """Make one instance of RequestHandlerClass, which handles the request."""
        self.RequestHandlerClass(request, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        """Called to shut a request down and close it: the one place where a connection ends."""
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Called to clean up a request."""
        self.__gate.leave(request)
        self._descriptor_freed()

    def _descriptor_freed(self) -> None:
        """On whatever thread: if accept waits for one, it is tried again at once."""
        if self.__pauses.freed():
            self._wake()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called, inside the ``except``, when a handler raised: logs it to ``jackfield.server``.

        What the peer did, by leaving or by breaking a limit, is logged at debug level and without a traceback.
        """
        error = sys.exc_info()[1]
        if error is not None:
            self._failures.account(client_address, error, self.__gate.connection_of(request))

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: object) -> None:
        self.server_close()


#: Where this package's own server methods are defined.
_OURS = tuple(f"{__name__.rpartition('.')[0]}.{module}" for module in ("baseserver", "mixins", "socketserver"))
