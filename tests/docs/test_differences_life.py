"""The rows of docs/differences.md on stopping, configuring and starting."""

from __future__ import annotations

import os
import signal
import socket
import socketserver as stdlib
import threading
from typing import Any

import pytest
from difference_support import (
    LOOPBACK,
    SECONDS,
    Either,
    Held,
    Quiet,
    ask,
    both,
    client,
    client_of,
    echo,
    handler_in,
    hear,
    serving,
)

import jackfield
import jackfield.socket
import jackfield.testing
from jackfield import socketserver as ours

# -- stopping ----------------------------------------------------------------------------------------------------------


def test_shutdown_never_hangs() -> None:
    def handle(self: Any) -> None:
        self.server.shutdown()
        self.request.sendall(b"still here")

    server = ours.TCPServer(LOOPBACK, handler_in(ours, handle))
    with serving(server):
        assert hear(server.server_address) == b"still here"

    idle = ours.TCPServer(LOOPBACK, handler_in(ours, echo))
    idle.shutdown()  # nobody serves
    idle.serve_forever()  # and this was asked to stop already
    idle.server_close()

    with ours.TCPServer(LOOPBACK, handler_in(ours, echo)) as server:  # a signal handler, on the thread that serves
        before = signal.signal(signal.SIGUSR1, lambda *_: server.shutdown())
        try:
            asking = threading.Thread(
                target=lambda: (ask(server.server_address), os.kill(os.getpid(), signal.SIGUSR1)), daemon=True
            )
            asking.start()
            server.serve_forever()
            asking.join(SECONDS)
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_wakes_by_descriptor() -> None:
    class Counted(ours.TCPServer):
        turns = 0

        def _has_room(self) -> bool:  # asked once a turn of the loop
            self.turns += 1
            return super()._has_room()

    server = Counted(LOOPBACK, handler_in(ours, echo))
    with serving(server, poll_interval=0.01):
        assert ask(server.server_address) == b"?"
        with client(server.server_address) as held:
            held.sendall(b"?")
            assert held.recv(1) == b"?"
            turns = server.turns
            assert not threading.Event().wait(0.2)
            assert server.turns == turns
    server = ours.TCPServer(LOOPBACK, handler_in(ours, echo))
    with serving(server, poll_interval=3600):  # ends at once nevertheless, or the join does not
        assert ask(server.server_address) == b"?"

    class Ticking(ours.TCPServer):
        ticks = threading.Semaphore(0)

        def service_actions(self) -> None:
            self.ticks.release()

    with serving(Ticking(LOOPBACK, handler_in(ours, echo)), poll_interval=0.01) as server:
        assert all(server.ticks.acquire(timeout=SECONDS) for _ in range(5))


def test_stop_with_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    def sends(handler: Any) -> None:
        if handler.request.recv(1) == b"!":
            handler.request.sendall(b"x" * 32_000_000)  # to a peer that takes nothing
        else:
            handler.request.sendall(b"?")
            while handler.request.recv(1):
                pass

    server = ours.ThreadingTCPServer(LOOPBACK, handler_in(ours, sends))
    with server, client_of(server) as idle, client_of(server) as stuck:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        idle.sendall(b"?")
        assert idle.recv(1) == b"?"
        stuck.sendall(b"!")
        assert stuck.recv(1) == b"x"
        server.stop(0.5)
        server.stop(30)  # the earlier deadline holds
        assert server.stopping
        assert idle.recv(1) == b"", "nothing is under way there: it is told at once"
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert "the deadline passed" in caplog.text and caplog.text.count("127.0.0.1") == 2


@both
def test_close_waits_for_handlers(module: Either) -> None:
    held = Held()
    server = module.ThreadingTCPServer(LOOPBACK, handler_in(module, held))
    with serving(server):
        with client_of(server):
            assert held.begun.acquire(timeout=SECONDS)
            server.shutdown()
            closing = threading.Thread(target=server.server_close)
            closing.start()
            closing.join(0.1)
            assert closing.is_alive()
            held.go.set()
            closing.join(SECONDS)
            assert not closing.is_alive()


def test_live_connections() -> None:
    answered = threading.Event()  # the peer may have the bytes before the call that sent them has returned

    def handle(self: Any) -> None:
        self.request.sendall(self.request.recv(5))
        answered.set()
        self.request.recv(1)

    with serving(ours.ThreadingTCPServer(LOOPBACK, handler_in(ours, handle))) as server, client_of(server) as peer:
        peer.sendall(b"hello")
        assert peer.recv(5) == b"hello"
        assert answered.wait(SECONDS)
        (connection,) = server.connections
        assert connection.peer == peer.getsockname()
        assert (connection.received, connection.sent) == (5, 5)
        assert 0 <= connection.age < SECONDS
        connection.close()
        assert peer.recv(1) == b""


def test_queue_at_stop() -> None:
    served = []

    def handle(self: Any) -> None:
        served.append(self.client_address)
        self.server.stop()
        assert go.wait(SECONDS)  # until the second client waits in the kernel's queue
        self.request.sendall(b"served")

    go = threading.Event()
    with serving(ours.TCPServer(LOOPBACK, handler_in(ours, handle))) as server:
        with client_of(server) as first, client_of(server) as second:
            go.set()
            assert first.recv(6) == b"served"
            server.shutdown()
            server.server_close()
            with pytest.raises(ConnectionResetError):  # the kernel's answer when the listener goes
                second.recv(1)
    assert len(served) == 1

    go.clear()
    # On one thread, which the first handler holds, the second client waits in the queue here too.
    with jackfield.testing.serve(handler_in(ours, handle), mode="green", graceful_timeout=SECONDS) as native:
        with native.connect() as first, native.connect() as second:
            go.set()
            assert (first.recv(6), second.recv(6)) == (b"served", b"served")


# -- configuring and starting ------------------------------------------------------------------------------------------


def test_timeout_of_handle_request() -> None:
    class Robbed(ours.TCPServer):
        timeout = 0.05
        timed_out = False

        def get_request(self) -> Any:
            self.socket.accept()[0].close()  # somebody else was faster
            return super().get_request()

        def handle_timeout(self) -> None:
            self.timed_out = True

    with Robbed(LOOPBACK, handler_in(ours, echo)) as server, client_of(server):
        server.handle_request()  # the standard library's would sit in accept()
        assert server.timed_out


def test_constructor_opens() -> None:
    with stdlib.TCPServer(LOOPBACK, handler_in(stdlib, echo)) as theirs, ours.TCPServer(LOOPBACK, Quiet) as mine:
        assert theirs.server_address[1] and mine.server_address[1]
    server = jackfield.Server(Quiet, "tcp://127.0.0.1:0")
    assert (server.state, server.addresses) == ("new", [])
    with socket.create_server(LOOPBACK) as taken:
        failing = jackfield.Server(Quiet, "tcp://127.0.0.1:0", taken.getsockname())
        with pytest.raises(jackfield.StartError, match="in use"):
            failing.start()
        assert failing.state == "failed"  # and nothing is open: every test is held to that


def test_mode_is_a_parameter() -> None:
    def handle(self: Any) -> None:
        kind = "green" if jackfield.reactor.in_green() else "main" if threading.current_thread() is serves else "thread"
        self.request.sendall(kind.encode())

    handler = handler_in(ours, handle)
    for mode, kind in (("thread", b"thread"), ("green", b"green")):
        serves: Any = None
        with jackfield.testing.serve(handler, mode=mode) as server, server.connect() as peer:
            assert peer.recv(10) == kind

    class WrongOrder(ours.TCPServer, ours.ThreadingMixIn):  # serial, as in the standard library
        pass

    server = WrongOrder(LOOPBACK, handler)
    serves = threading.Thread(target=server.handle_request)
    serves.start()
    assert hear(server.server_address) == b"main"
    serves.join(SECONDS)
    server.server_close()


def test_base_server_says_what_is_missing() -> None:
    with pytest.raises(AttributeError):
        stdlib.BaseServer(None, Quiet).fileno()  # type: ignore[attr-defined]
    with pytest.raises(NotImplementedError, match="TCPServer"):
        ours.BaseServer(None, Quiet).fileno()
