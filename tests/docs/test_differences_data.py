"""The rows of docs/differences.md on handlers, datagrams and sockets, and on what is told of all this."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import socketserver as stdlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from difference_support import (
    LOOPBACK,
    SECONDS,
    Either,
    Held,
    Quiet,
    both,
    datagram_client,
    echo,
    handler_in,
    hear,
    serving,
)

import jackfield
import jackfield.socket
import jackfield.testing
from jackfield import socketserver as ours
from raw_sockets import without_raw_sockets

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
    logged = [(record.levelname, record.exc_text is not None) for record in caplog.records]
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
    reference = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    knobs = "max_children timeout daemon_threads max_packet_size request_queue_size block_on_close"
    for name in knobs.split():
        assert f"| `{name}` |" in reference


def test_helpers_for_tests() -> None:
    handler = handler_in(ours, echo)
    assert jackfield.testing.run_handler(handler, b"without a port") == b"without a port"
    with jackfield.testing.serve(handler) as server, server.connect() as peer:
        peer.sendall(b"?")
        assert peer.recv(1) == b"?"
