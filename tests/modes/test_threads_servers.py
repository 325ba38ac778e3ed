"""Servers whose threads are used again, of both faces: what their handlers and hooks see."""

from __future__ import annotations

import contextlib
import contextvars
import socket
import socketserver as stdlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from modes_support import LONG, SOON, settled, until, waiting

import jackfield.socket
from jackfield import Server, socketserver

LOCAL = threading.local()
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE")


@contextlib.contextmanager
def dropin(
    handle: Callable[[Any], None], base: Any = socketserver.ThreadingTCPServer, **attributes: Any
) -> Iterator[Any]:
    """A drop-in server at work in a thread."""
    handler = type("Handler", (socketserver.BaseRequestHandler,), {"handle": handle})
    with type("Server", (base,), {"idle_thread_seconds": LONG, **attributes})(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(SOON)


@contextlib.contextmanager
def native(handle: Callable[[Any], None], **options: Any) -> Iterator[Any]:
    handler = type("Handler", (socketserver.BaseRequestHandler,), {"handle": handle})
    with Server(handler, ("127.0.0.1", 0), mode="thread", **options) as server:
        yield server


def answer(self: Any) -> None:
    """A handler's work."""
    assert self.request.recv(1) == b"?"
    self.request.sendall(b"!")


FACES = pytest.mark.parametrize("face", [dropin, native])


def threads_of(server: Any) -> Any:
    return server._mode if isinstance(server, stdlib.BaseServer) or hasattr(server, "_mode") else server._service.units


def ask(server: Any, data: bytes = b"?") -> bytes:
    with socket.create_connection(server.server_address, SOON) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(1000):
            answer += part
        return answer


def ask_at_once(server: Any, clients: int, times: int) -> None:
    """``clients`` of them, each ``times`` times."""
    failed: list[BaseException] = []

    def client() -> None:
        try:
            for _ in range(times):
                assert ask(server) == b"!"
        except BaseException as error:
            failed.append(error)

    crowd = [threading.Thread(target=client) for _ in range(clients)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join(SOON)
    assert failed == []


@FACES
def test_one_thread_serves_connection_after_connection(face: Any) -> None:
    names: list[str] = []

    def handle(self: Any) -> None:
        names.append(threading.current_thread().name)
        self.request.recv(1)

    with face(handle) as server:
        for _ in range(5):
            assert ask(server) == b""
            until(lambda: settled(threads_of(server)))
        assert len(set(names)) == 1


@FACES
def test_no_connection_sees_anything_of_another(face: Any) -> None:
    seen: list[Any] = []
    numbers = iter(range(10**6))

    def handle(self: Any) -> None:
        number = next(numbers)
        seen.append((getattr(LOCAL, "number", None), VARIABLE.get(None), threading.current_thread().name == "mine"))
        VARIABLE.set(number)
        if number % 3 == 0:
            LOCAL.number = number
        if number % 5 == 0:
            threading.current_thread().name = "mine"
        answer(self)

    with face(handle) as server:
        ask_at_once(server, clients=4, times=40)
    assert len(seen) == 160
    assert set(seen) == {(None, None, False)}


@FACES
def test_max_threads_holds_though_threads_help_themselves(face: Any) -> None:
    lock = threading.Lock()
    now, most, served = [0], [0], [0]

    def handle(self: Any) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        self.request.recv(1)
        self.request.sendall(b"!")
        with lock:
            now[0] -= 1
            served[0] += 1

    with face(handle, max_threads=2) as server:
        ask_at_once(server, clients=6, times=30)
        until(lambda: settled(threads_of(server)))
        assert len(threads_of(server)._spares.staff) <= 2
    assert served == [180]
    assert most[0] <= 2


@FACES
def test_closing_leaves_no_thread(face: Any) -> None:
    with face(answer) as server:
        ask_at_once(server, clients=4, times=5)
        workers = threads_of(server)._spares.staff
        assert workers
    # One that ended by itself just before, which nobody has to wait for, may be between its last line and its end.
    until(lambda: not any(worker.is_alive() for worker in workers))


@pytest.mark.parametrize("attributes", [{"daemon_threads": True}, {"block_on_close": False}])
def test_closing_ends_idle_threads_also_where_it_waits_for_nobody(attributes: dict[str, bool]) -> None:
    held = threading.Event()
    begun = threading.Event()

    def handle(self: Any) -> None:
        if self.request.recv(1) == b"h":
            begun.set()
            assert held.wait(SOON)

    with dropin(handle, **attributes) as server:
        with socket.create_connection(server.server_address, SOON) as busy:
            busy.sendall(b"h")
            assert begun.wait(SOON)
            assert ask(server) == b""
            until(lambda: waiting(server._mode) == 1)
            (working,) = server._threads
            idle = [worker for worker in server._mode._spares.staff if worker is not working]
            server.shutdown()
            server.server_close()
            assert not idle[0].is_alive()
            assert working.is_alive()
            held.set()
            working.join(SOON)
            assert not working.is_alive()


def test_the_standard_librarys_servers_have_them_too() -> None:
    """Our mix-in over a server class of the standard library's, whose loop is not ours."""
    names: list[str] = []

    def handle(self: Any) -> None:
        names.append(threading.current_thread().name)
        self.request.recv(1)

    class Mixed(socketserver.ThreadingMixIn, stdlib.TCPServer):
        pass

    with dropin(handle, Mixed) as server:
        for _ in range(3):
            assert ask(server) == b""
            until(lambda: settled(server._mode))
        (worker,) = server._mode._spares.staff
    assert len(set(names)) == 1
    assert not worker.is_alive()


def test_datagrams_are_handled_by_threads_that_are_used_again() -> None:
    names: set[str] = set()

    def handle(self: Any) -> None:
        names.add(threading.current_thread().name)
        self.request[1].sendto(self.request[0], self.client_address)

    with dropin(handle, socketserver.ThreadingUDPServer) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(SOON)
            for number in range(5):
                client.sendto(b"%d" % number, server.server_address)
                assert client.recv(10) == b"%d" % number
                until(lambda: settled(server._mode))
    assert len(names) == 1


# -- who accepts -------------------------------------------------------------------------------------------------------


HOOKS = ["fileno", "get_request", "verify_request", "process_request", "service_actions", "_handle_request_noblock"]


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_the_users_own_are_called_on_the_thread_that_serves(hook: str) -> None:
    callers: set[str] = set()

    def overridden(self: Any, *args: Any) -> Any:
        if self.serving:
            callers.add(threading.current_thread().name)
        return getattr(super(server_class, self), hook)(*args)

    server_class = type("Hooked", (socketserver.ThreadingTCPServer,), {hook: overridden, "serving": False})

    with dropin(answer, server_class) as server:
        server.serving = True
        ask_at_once(server, clients=4, times=10)
        assert server._mode._look is None
        server.serving = False
    assert len(callers) == 1


def test_without_any_a_thread_takes_its_next_connection_itself() -> None:
    """The test above can fail: where no hook is overridden, it is not the thread that serves who accepts."""
    accepted_by: list[str] = []
    names: list[str] = []
    first, go = threading.Event(), threading.Event()

    def handle(self: Any) -> None:
        names.append(threading.current_thread().name)
        if not first.is_set():
            first.set()
            assert go.wait(SOON)

    with dropin(handle, max_threads=1) as server:
        until(lambda: server._mode._look)
        look = server._mode._look
        server._mode.offer(lambda: (accepted_by.append(threading.current_thread().name), look()))
        with socket.create_connection(server.server_address, SOON) as one:
            assert first.wait(SOON)
            with socket.create_connection(server.server_address, SOON) as two:
                go.set()
                assert (one.recv(1), two.recv(1)) == (b"", b"")
    assert names[0] == names[1] == accepted_by[0]


def test_nobody_helps_himself_where_accepting_means_more_than_that() -> None:
    """A listener of another class, one wrapped in TLS say, shakes hands in its accept(): that is for the loop."""

    class Other(jackfield.socket.socket):
        pass

    class Wrapping(socketserver.ThreadingTCPServer):
        def server_activate(self) -> None:
            super().server_activate()
            plain = self.socket
            self.socket = Other(plain.family, plain.type, plain.proto, plain.detach())

    with dropin(answer, Wrapping) as server:
        assert ask(server) == b"!"
        assert server._mode._look is None


def test_handle_request_is_for_one() -> None:
    """No thread takes a second one after it."""
    handler = type("Handler", (socketserver.BaseRequestHandler,), {"handle": answer})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        with (
            socket.create_connection(server.server_address, SOON) as one,
            socket.create_connection(server.server_address, SOON) as two,
        ):
            for client in (one, two):
                client.sendall(b"?")
            server.handle_request()
            assert (one.recv(1), one.recv(1)) == (b"!", b"")
            until(lambda: settled(server._mode))
            assert server._mode._look is None
            two.settimeout(0.05)
            with pytest.raises(TimeoutError):
                two.recv(1)


@FACES
def test_nobody_is_taken_when_it_has_stopped(face: Any) -> None:
    with face(answer) as server:
        assert ask(server) == b"!"
        threads = threads_of(server)
        server.stop()
        until(lambda: threads._look is None or server.state == "stopped" if face is native else threads._look is None)
        look = threads._look
        if look is not None:
            look()  # there is no listener any more
        until(lambda: threads.live == 0)  # the one that answered may still be on its way out
