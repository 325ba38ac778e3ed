"""docs/differences.md, row by row: each deliberate difference to the standard library, shown on both where both end.

A row's test is ``test_`` and the row's name; the last tests hold that there is one for each row and a row for each.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import socket
import socketserver as stdlib
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_sockets import without_raw_sockets

import jackfield
import jackfield.socket
import jackfield.testing
from jackfield import socketserver as ours

TABLE = Path(__file__).parents[2] / "docs" / "differences.md"
LOOPBACK = ("127.0.0.1", 0)
SECONDS = 10.0

Either = types.ModuleType
both = pytest.mark.parametrize("module", [pytest.param(stdlib, id="stdlib"), pytest.param(ours, id="ours")])


@contextlib.contextmanager
def serving(server: Any, **options: Any) -> Iterator[Any]:
    """A drop-in server at work in a thread, for the length of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs=options)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()
        assert not thread.is_alive()


def client(address: Any, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.settimeout(SECONDS)
    sock.connect(address)
    return sock


def ask(address: Any, data: bytes = b"?", family: int = socket.AF_INET) -> bytes:
    """Everything a server answers to ``data``."""
    with client(address, family) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as file:
            return file.read()


def hear(address: Any, family: int = socket.AF_INET) -> bytes:
    """Everything a server says unasked."""
    return ask(address, b"", family)


def handler_in(module: Either, handle: Callable[[Any], None], base: str = "BaseRequestHandler") -> type[Any]:
    """A handler class of a module, with ``handle`` for its work."""
    return type("Handler", (getattr(module, base),), {"handle": handle})


def echo(self: Any) -> None:
    while data := self.request.recv(1000):
        self.request.sendall(data)


class Held:
    """A handler's work that goes on until it is let go, and says that it has begun."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, *_: Any) -> None:
        self.begun.release()
        assert self.go.wait(SECONDS)


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
    server = ours.ThreadingTCPServer(LOOPBACK, handler_in(ours, echo))
    with server, client_of(server) as idle:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        idle.sendall(b"?")
        assert idle.recv(1) == b"?"
        server.stop(0.05)
        server.stop(30)  # the earlier deadline holds
        assert server.stopping
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert idle.recv(1) == b""
    assert "the deadline passed" in caplog.text and "127.0.0.1" in caplog.text


def client_of(server: Any) -> socket.socket:
    return client(server.server_address)


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
    with serving(ours.ThreadingTCPServer(LOOPBACK, handler_in(ours, echo))) as server, client_of(server) as peer:
        peer.sendall(b"hello")
        assert peer.recv(5) == b"hello"
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
    with jackfield.testing.serve(handler_in(ours, handle), mode="serial", graceful_timeout=SECONDS) as native:
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


class Quiet(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        pass


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


# -- threads and processes ---------------------------------------------------------------------------------------------


def test_max_threads() -> None:
    held = Held()

    class Bounded(ours.ThreadingTCPServer):
        max_threads = 1

    assert ours.ThreadingTCPServer.max_threads is None
    with serving(Bounded(LOOPBACK, handler_in(ours, held))) as server:
        with client_of(server), client_of(server):
            assert held.begun.acquire(timeout=SECONDS)
            assert not held.begun.acquire(timeout=0.1)  # the second waits in the kernel's queue
            held.go.set()
            assert held.begun.acquire(timeout=SECONDS)


def test_threads_are_forgotten() -> None:
    def serve_ten(module: Either) -> Any:
        server = module.ThreadingTCPServer(LOOPBACK, handler_in(module, echo))
        with serving(server):
            for _ in range(10):
                assert ask(server.server_address) == b"?"
            for thread in list(server._threads):
                thread.join(SECONDS)
            if module is ours:
                assert server._join_units(SECONDS)
            return len(list(server._threads))

    assert serve_ten(stdlib) > 0
    assert serve_ten(ours) == 0


def test_thread_that_cannot_start(caplog: pytest.LogCaptureFixture) -> None:
    with serving(ours.ThreadingTCPServer(LOOPBACK, handler_in(ours, echo))) as server:
        before = threading.stack_size(1 << 46)  # more than there is: pthread_create(3) fails
        try:
            with client_of(server) as refused:
                assert refused.recv(1) == b""
        finally:
            threading.stack_size(before)
        assert "can't start new thread" in caplog.text
        assert ask(server.server_address) == b"?"


def test_green_mixes_into_our_servers_only() -> None:
    class Threading(ours.ThreadingMixIn, stdlib.TCPServer):
        pass

    with serving(Threading(LOOPBACK, handler_in(ours, echo))) as server:
        assert ask(server.server_address) == b"?"
    with pytest.raises(jackfield.MisuseError, match="GreenTCPServer"):

        class Green(ours.GreenMixIn, stdlib.TCPServer):
            pass


def test_forking_waits_for_its_own_children() -> None:
    foreign = os.fork()
    if foreign == 0:
        os._exit(7)

    class One(ours.ForkingTCPServer):
        max_children = 1

    with serving(One(LOOPBACK, handler_in(ours, echo))) as server:
        with client_of(server) as first:
            first.sendall(b"?")
            assert first.recv(1) == b"?"
            with client_of(server) as second:  # waits in the kernel's queue, and the loop does not
                second.sendall(b"?")
                server.shutdown()
            first.shutdown(socket.SHUT_WR)  # the child has a copy of this descriptor: a close would not tell it
    assert os.waitpid(foreign, 0) == (foreign, 7 << 8)


def test_children_close_the_listener() -> None:
    def handle(self: Any) -> None:
        self.request.sendall(b"%d\n" % self.server.socket.fileno())
        self.request.recv(1)

    class Impatient(ours.ForkingTCPServer):
        block_on_close = False

    server = Impatient(LOOPBACK, handler_in(ours, handle))
    with client_of(server) as peer:
        with serving(server):
            assert peer.recv(10) == b"-1\n"
        with ours.TCPServer(server.server_address, Quiet):  # its child still runs, and does not hold the port
            peer.shutdown(socket.SHUT_WR)
    assert server._join_units(SECONDS)


def test_children_are_reaped_at_once() -> None:
    class Watched(ours.ForkingTCPServer):
        begun, reaped = False, threading.Event()

        def service_actions(self) -> None:  # after each turn of the loop; ticks are an hour apart
            super().service_actions()
            self.begun = self.begun or bool(self.active_children)
            if self.begun and not self.active_children:
                self.reaped.set()

    with serving(Watched(LOOPBACK, handler_in(ours, echo)), poll_interval=3600) as server:
        assert ask(server.server_address) == b"?"
        assert server.reaped.wait(SECONDS)


# -- accepting ---------------------------------------------------------------------------------------------------------


@both
def test_backlog(module: Either) -> None:
    def backlog_of(server: Any) -> int:
        with server:
            # struct tcp_info: of a listener, tcpi_sacked is how long its queue may grow.
            info = server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            return int(struct.unpack_from("=8B6I", info)[8 + 5])

    if not hasattr(socket, "TCP_INFO") or sys.platform != "linux":
        pytest.skip("only Linux tells the length of a listener's queue")
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    wanted = type("Wanted", (module.TCPServer,), {"request_queue_size": 7})
    assert module.TCPServer.request_queue_size == 5
    assert backlog_of(module.TCPServer(LOOPBACK, Quiet)) == (min(65535, most) if module is ours else 5)
    assert backlog_of(wanted(LOOPBACK, Quiet)) == min(7, most)


def test_out_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    class Poor(ours.TCPServer):
        failures = 3

        def get_request(self) -> Any:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().get_request()

    began = time.monotonic()
    with serving(Poor(LOOPBACK, handler_in(ours, echo))) as server:
        assert ask(server.server_address) == b"?"
    assert time.monotonic() - began >= 3 * 0.1  # it leaves the listener alone after each failure
    assert [record.getMessage().count("EMFILE") for record in caplog.records] == [1]


def test_accept_never_waits() -> None:
    class Robbed(ours.TCPServer):
        robbed = threading.Event()

        def get_request(self) -> Any:
            if not self.robbed.is_set():
                self.socket.accept()[0].close()  # gone between the look and the accept
                self.robbed.set()
            return super().get_request()

    with serving(Robbed(LOOPBACK, handler_in(ours, echo))) as server:
        with client_of(server):
            assert server.robbed.wait(SECONDS)
        assert ask(server.server_address) == b"?"


def test_ipv6() -> None:
    if not jackfield.socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    with pytest.raises(socket.gaierror):
        stdlib.TCPServer(("::1", 0), Quiet)
    with serving(ours.TCPServer(("::1", 0), handler_in(ours, echo))) as server:
        assert ask(server.server_address, family=socket.AF_INET6) == b"?"

    def handle(self: Any) -> None:
        self.request.sendall(self.client_address[0].encode())

    with serving(ours.TCPServer(("::", 0), handler_in(ours, handle))) as server:  # both families on one port
        port = server.server_address[1]
        assert hear(("127.0.0.1", port)) == b"::ffff:127.0.0.1"
        assert hear(("::1", port), family=socket.AF_INET6) == b"::1"
    with jackfield.testing.serve(handler_in(ours, handle), address=":0") as native:
        port = native.server_address[1]
        assert hear(("127.0.0.1", port)) == b"127.0.0.1"
        assert hear(("::1", port), family=socket.AF_INET6) == b"::1"


def test_open_sockets() -> None:
    handler = handler_in(ours, echo)
    with socket.create_server(LOOPBACK) as listener:
        for given in (listener, f"fd://{listener.fileno()}"):
            with jackfield.testing.serve(handler, address=given):
                assert ask(listener.getsockname()) == b"?"
        server = ours.TCPServer(LOOPBACK, handler, bind_and_activate=False)  # the idiom goes on working
        server.socket.close()
        server.socket = listener.dup()
        with serving(server):
            assert ask(listener.getsockname()) == b"?"


@both
def test_reuse_address(module: Either) -> None:
    def is_on(name: str, **attributes: Any) -> bool:
        with type("Server", (getattr(module, name),), attributes)(LOOPBACK, Quiet) as server:
            return bool(server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))

    assert module.TCPServer.allow_reuse_address is False
    assert is_on("TCPServer") is (module is ours)
    assert is_on("TCPServer", allow_reuse_address=True)
    assert not is_on("TCPServer", allow_reuse_address=False)
    assert not is_on("UDPServer")
    with module.TCPServer(LOOPBACK, Quiet) as server, pytest.raises(OSError, match="in use"):
        module.TCPServer(server.server_address, Quiet)  # it never lets two servers share a port


@both
def test_stale_unix_socket(module: Either, tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    def start() -> Any:
        return module.UnixStreamServer(path, handler_in(module, echo))

    start().server_close()
    assert os.path.exists(path)  # stays behind on both: programs of the standard library remove it themselves
    if module is stdlib:
        with pytest.raises(OSError, match="in use"):
            start()
        return
    with serving(start()):  # a live server's path is not taken
        with pytest.raises(OSError, match="in use"):
            start()
        assert ask(path, family=socket.AF_UNIX) == b"?"
    os.unlink(path)
    Path(path).write_text("mine")  # nor is a file
    with pytest.raises(OSError, match="in use"):
        start()
    assert Path(path).read_text() == "mine"


def test_unix_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for address, mode in ((f"unix:{path}", 0o660), (f"unix:{path}?mode=600", 0o600)):
        with jackfield.testing.serve(handler_in(ours, echo), address=address):
            assert path.stat().st_mode & 0o777 == mode
            assert ask(str(path), family=socket.AF_UNIX) == b"?"
        assert not path.exists()


def test_socket_options() -> None:
    def handle(self: Any) -> None:
        nodelay = self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        keepalive = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        self.request.sendall(f"{bool(nodelay)} {bool(keepalive)}".encode())

    with serving(ours.TCPServer(LOOPBACK, handler_in(ours, handle))) as server:
        assert hear(server.server_address) == b"False False"
    with jackfield.testing.serve(handler_in(ours, handle)) as native:
        assert hear(native.server_address) == b"True True"


# -- handlers and their errors -----------------------------------------------------------------------------------------


@both
def test_errors_are_logged(
    module: Either, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    errors: list[Exception] = [ValueError("a fault of the handler's"), ConnectionResetError("the peer's doing")]

    def handle(self: Any) -> None:
        raise errors.pop(0)

    caplog.set_level(logging.DEBUG, "jackfield")
    with serving(module.TCPServer(LOOPBACK, handler_in(module, handle))) as server:
        assert hear(server.server_address) == hear(server.server_address) == b""
    printed = capsys.readouterr().err
    logged = [(record.levelname, record.exc_info is not None) for record in caplog.records]
    if module is stdlib:
        assert printed.count("-" * 40) == 4 and "the peer's doing" in printed
    else:
        assert printed == ""
        assert logged == [("ERROR", True), ("DEBUG", False)]
        assert "a fault of the handler's" in caplog.text and "127.0.0.1" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_system_exit_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def handle(self: Any) -> None:
        raise SystemExit(3)

    for server_class in (ours.ThreadingTCPServer, ours.GreenTCPServer):
        caplog.clear()
        with serving(server_class(LOOPBACK, handler_in(ours, handle))) as server:
            assert hear(server.server_address) == b""
        assert "SystemExit(3)" in caplog.text
    for mode in ("thread", "green"):
        with jackfield.Server(handler_in(ours, handle), "tcp://127.0.0.1:0", mode=mode) as native:
            assert hear(native.server_address) == b""
        assert native.info().handler_errors == 1


@both
def test_finish_after_a_failed_setup(module: Either) -> None:
    finished = []

    class Handler(module.StreamRequestHandler):  # type: ignore[misc,name-defined]
        def setup(self) -> None:
            raise LookupError("half set up")  # before super().setup()

        def finish(self) -> None:
            super().finish()
            finished.append(self)

    with pytest.raises(LookupError):
        Handler(None, None, None)
    assert len(finished) == (1 if module is ours else 0)


@both
def test_finish_without_setup(module: Either) -> None:
    class Handler(module.StreamRequestHandler):  # type: ignore[misc,name-defined]
        def setup(self) -> None:
            pass  # super().setup() was forgotten

    if module is stdlib:
        with pytest.raises(AttributeError):
            Handler(None, None, None)
    else:
        Handler(None, None, None)


def test_handle_runs_after_init() -> None:
    class Handler(ours.BaseRequestHandler[Any]):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.greeting = b"hello"

        def handle(self) -> None:
            self.request.sendall(getattr(self, "greeting", b"not yet"))

    with serving(ours.TCPServer(LOOPBACK, Handler)) as server:  # as in the standard library: making it runs it
        assert hear(server.server_address) == b"not yet"
    with jackfield.Server(Handler, "tcp://127.0.0.1:0") as native:
        assert hear(native.server_address) == b"hello"


@both
def test_handlers_are_generic(module: Either) -> None:
    if module is stdlib:
        with pytest.raises(TypeError):
            module.BaseRequestHandler[module.TCPServer]
    else:
        for name in ("BaseRequestHandler", "StreamRequestHandler", "DatagramRequestHandler"):
            handler = getattr(module, name)
            assert handler[module.TCPServer] is handler
            theirs = [base.__name__ for base in getattr(stdlib, name).__mro__]
            assert [base.__name__ for base in handler.__mro__] == theirs


# -- datagrams ---------------------------------------------------------------------------------------------------------


def datagram_client(server: Any) -> socket.socket:
    return client(("127.0.0.1", server.server_address[1]), kind=socket.SOCK_DGRAM)


def test_datagrams_by_workers() -> None:
    held, came = Held(), []

    def handle(self: Any) -> None:
        held(self)
        came.append(self.request[0])

    class Two(ours.ThreadingUDPServer):
        max_threads = 2

    with serving(Two(LOOPBACK, handler_in(ours, handle))) as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(datagram_client(server)) for _ in range(3)]
        for number in range(30):
            for peer in peers:
                peer.send(b"%d" % number)
        assert held.begun.acquire(timeout=SECONDS) and held.begun.acquire(timeout=SECONDS)
        assert not held.begun.acquire(timeout=0.1)  # two workers, and no third
        held.go.set()
        for _ in range(3 * 30 - 2):
            assert held.begun.acquire(timeout=SECONDS)
        server.shutdown()
        assert server._join_units(SECONDS)
    for number in range(30):
        assert came.count(b"%d" % number) == 3
    # In order for each client: with two workers the clients are never more than a turn of each apart from theirs.
    assert came[0] == b"0" and came[-1] == b"29"


def test_datagrams_in_order_for_each_client() -> None:
    came: list[bytes] = []
    all_here = threading.Event()

    def handle(self: Any) -> None:
        came.append(self.request[0])
        if len(came) == 200:
            all_here.set()

    with serving(ours.ThreadingUDPServer(LOOPBACK, handler_in(ours, handle))) as server:
        with datagram_client(server) as peer:
            for number in range(200):
                peer.send(b"%d" % number)
            assert all_here.wait(SECONDS)
    assert came == [b"%d" % number for number in range(200)]


def test_dropped_datagrams_are_counted() -> None:
    held = Held()
    read = threading.Semaphore(0)

    class Pacing(ours.ThreadingUDPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            read.release()
            return True

    with serving(Pacing(LOOPBACK, handler_in(ours, held))) as server, datagram_client(server) as peer:
        peer.send(b"?")
        assert held.begun.acquire(timeout=SECONDS) and read.acquire(timeout=SECONDS)
        for _ in range(1010):  # one by one, so that the kernel's buffer is never full
            peer.send(b"?")
            assert read.acquire(timeout=SECONDS)
        # The last was read; whether it was dropped is said a moment later, by the time the next has been read too.
        peer.send(b"?")
        assert read.acquire(timeout=SECONDS)
        assert server.dropped in (10, 11)
        held.go.set()


@both
def test_datagrams_come_whole(module: Either) -> None:
    def size_seen(server: Any) -> int:
        with server, datagram_client(server) as peer:
            peer.send(bytes(20_000))
            server.handle_request()
            return int(peer.recv(100))

    def handle(self: Any) -> None:
        self.request[1].sendto(b"%d" % len(self.request[0]), self.client_address)

    narrow = type("Narrow", (module.UDPServer,), {"max_packet_size": 8192})
    assert module.UDPServer.max_packet_size == 8192
    assert size_seen(module.UDPServer(LOOPBACK, handler_in(module, handle))) == (20_000 if module is ours else 8192)
    assert size_seen(narrow(LOOPBACK, handler_in(module, handle))) == 8192


@both
def test_no_empty_answers(module: Either) -> None:
    def handle(self: Any) -> None:
        if self.packet == b"speak":
            self.wfile.write(b"something")

    handler = handler_in(module, handle, "DatagramRequestHandler")
    with serving(module.UDPServer(LOOPBACK, handler)) as server, datagram_client(server) as peer:
        peer.send(b"be silent")
        peer.send(b"speak")
        assert peer.recv(100) == (b"something" if module is ours else b"")


@both
def test_answers_leave_from_the_address_asked(module: Either) -> None:
    def handle(self: Any) -> None:
        data, sock = self.request
        assert isinstance(sock, socket.socket)
        sock.sendto(data, self.client_address)

    if sys.platform != "linux":
        pytest.skip("only Linux has all of 127.0.0.0/8 on its loopback interface")
    with serving(module.UDPServer(("0.0.0.0", 0), handler_in(module, handle))) as server:
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.settimeout(SECONDS)
            peer.sendto(b"?", ("127.0.0.2", server.server_address[1]))
            _, (host, _) = peer.recvfrom(10)
    assert host == ("127.0.0.2" if module is ours else "127.0.0.1")


def test_datagrams_are_never_waited_for() -> None:
    with ours.UDPServer(LOOPBACK, Quiet) as server, pytest.raises(BlockingIOError):
        server.get_request()  # the standard library's would wait


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_recvfile(tmp_path: Path) -> None:
    assert not hasattr(socket.socket, "recvfile")
    near, far = jackfield.socket.socketpair()
    with near, far, open(tmp_path / "f", "w+b") as file:
        near.sendall(b"the bytes of a file")
        near.close()
        assert far.recvfile(file) == 19
        file.seek(0)
        assert file.read() == b"the bytes of a file"


def test_bytes_are_counted() -> None:
    near, far = jackfield.socket.socketpair()
    with near, far:
        near.sendall(b"hello")
        far.recv(3)
        assert (near.sent, far.received) == (5, 3)
        near.settimeout(0.05)
        with pytest.raises(TimeoutError) as raised:
            near.sendall(bytes(64 << 20))
        assert raised.value.bytes_sent == near.sent - 5 > 0  # type: ignore[attr-defined]


def test_raw_sockets_name_the_privilege() -> None:
    program = """if True:
        import {module} as net
        try:
            net.socket(net.AF_INET, net.SOCK_RAW, net.IPPROTO_ICMP)
        except PermissionError as error:
            print(error)
    """
    said = {}
    for module in ("socket", "jackfield.socket"):
        command = [sys.executable, "-c", program.format(module=module)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=True, **without_raw_sockets()
        )
        said[module] = done.stdout.strip()
    assert said["socket"] == "[Errno 1] Operation not permitted"
    assert said["jackfield.socket"].startswith(said["socket"] + ": ")
    assert "CAP_NET_RAW" in said["jackfield.socket"]


def test_close_wakes_who_waits() -> None:
    def main() -> None:
        near, far = jackfield.socket.socketpair()
        with near, far:
            waiting = jackfield.spawn(near.recv, 1)
            jackfield.sleep(0)
            near.close()
            with pytest.raises(jackfield.ClosedSocketError) as raised:
                waiting.result(SECONDS)
            assert raised.value.errno == errno.EBADF

    jackfield.run(main)


def test_two_readers_of_one_socket() -> None:
    def main() -> None:
        near, far = jackfield.socket.socketpair()
        with near, far:
            first = jackfield.spawn(near.recv, 1)
            jackfield.sleep(0)
            with pytest.raises(jackfield.MisuseError, match="recv"):
                near.recv(1)
            far.sendall(b"x")
            assert first.result(SECONDS) == b"x"

    jackfield.run(main)


# -- about this library ------------------------------------------------------------------------------------------------


def test_knobs_are_documented() -> None:
    reference = (TABLE.parent / "reference.md").read_text()
    knobs = "max_children timeout daemon_threads max_packet_size request_queue_size block_on_close"
    for name in knobs.split():
        assert f"| `{name}` |" in reference


def test_helpers_for_tests() -> None:
    handler = handler_in(ours, echo)
    assert jackfield.testing.run_handler(handler, b"without a port") == b"without a port"
    with jackfield.testing.serve(handler) as server, server.connect() as peer:
        peer.sendall(b"?")
        assert peer.recv(1) == b"?"


# -- the table ---------------------------------------------------------------------------------------------------------

ROW = re.compile(r"^\| `([a-z0-9_]+)` \|.*\| `([^`|]+)` \|$")


def faults_of(table: str, tests: set[str]) -> list[str]:
    """What is wrong with a table of differences; ``tests`` are the names of the test functions of this file."""
    here = f"tests/docs/{Path(__file__).name}::"
    rows = [ROW.match(line) for line in table.splitlines() if re.match(r"\| `", line)]
    faults = [f"row {index} is not | `name` | … | `test` |" for index, row in enumerate(rows) if row is None]
    seen: set[str] = set()
    for row in filter(None, rows):
        name, node = row.groups()
        if name in seen:
            faults.append(f"{name} is there twice")
        seen.add(name)
        if node != f"{here}test_{name}" or f"test_{name}" not in tests:
            faults.append(f"{name}: there is no test {node}")
        if row.group(0).count(" | ") != 4 or "|  |" in row.group(0):
            faults.append(f"{name}: a cell is missing or empty")
    faults += [f"{name} has no row" for name in sorted(tests) if name.removeprefix("test_") not in seen]
    return faults


def row_tests() -> set[str]:
    names = {name for name, value in globals().items() if name.startswith("test_") and callable(value)}
    return {name for name in names if not name.startswith("test_table")}


def test_table_and_tests_agree() -> None:
    assert faults_of(TABLE.read_text(), row_tests()) == []


def test_table_with_faults_is_refused() -> None:
    def row(name: str, test: str) -> str:
        return f"| `{name}` | theirs | ours | safe | `tests/{Path(__file__).name}::{test}` |\n"

    good = row("a", "test_a") + row("b", "test_b")
    assert faults_of(good, {"test_a", "test_b"}) == []
    assert faults_of(good, {"test_a"}) == [f"b: there is no test tests/{Path(__file__).name}::test_b"]
    assert faults_of(good, {"test_a", "test_b", "test_c"}) == ["test_c has no row"]
    assert faults_of(good + row("a", "test_a"), {"test_a", "test_b"}) == ["a is there twice"]
    assert faults_of(good + "| `c` | theirs |\n", {"test_a", "test_b"}) == ["row 2 is not | `name` | … | `test` |"]
    assert faults_of(row("a", "test_b"), {"test_a"}) == [f"a: there is no test tests/{Path(__file__).name}::test_b"]
