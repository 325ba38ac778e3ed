"""The rows of docs/differences.md on threads and processes, and on accepting."""

from __future__ import annotations

import errno
import os
import signal
import socket
import socketserver as stdlib
import struct
import sys
import threading
import time
from pathlib import Path
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


def come_to_rest(server: Any) -> None:
    """Until each thread of a server has ended, or waits."""
    deadline = time.monotonic() + SECONDS
    if isinstance(server, stdlib.BaseServer):
        for thread in list(server._threads):
            thread.join(SECONDS)
        return
    spares = server._mode._spares
    while len(server._threads) or len(spares.staff) != len(spares._waiting):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_threads_are_used_again() -> None:
    local = threading.local()

    def serve_four(module: Either, **attributes: Any) -> tuple[int, list[Any]]:
        names: list[str] = []
        seen: list[Any] = []

        def handle(self: Any) -> None:
            names.append(threading.current_thread().name)
            if len(names) in (2, 3):  # only to look at such an object leaves something of it on the thread
                seen.append(getattr(local, "left", None))
                local.left = "for nobody"
            echo(self)

        server = type("Server", (module.ThreadingTCPServer,), attributes)(LOOPBACK, handler_in(module, handle))
        with serving(server):
            for _ in range(4):
                assert ask(server.server_address) == b"?"
                come_to_rest(server)
        return len(set(names)), seen

    assert serve_four(stdlib) == (4, [None, None])
    # The first two share a thread. The second and the third leave something on theirs.
    assert serve_four(ours, idle_thread_seconds=3600) == (3, [None, None])
    assert serve_four(ours, idle_thread_seconds=0) == (4, [None, None])


def test_what_the_system_keeps_on_a_thread() -> None:
    def masks(module: Either, **attributes: Any) -> list[bool]:
        found: list[bool] = []

        def handle(self: Any) -> None:
            found.append(signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]))
            echo(self)

        server = type("Server", (module.ThreadingTCPServer,), attributes)(LOOPBACK, handler_in(module, handle))
        with serving(server):
            for _ in range(2):
                assert ask(server.server_address) == b"?"
                come_to_rest(server)
        return found

    assert masks(stdlib) == [False, False]
    assert masks(ours, idle_thread_seconds=3600) == [False, True]
    assert masks(ours, idle_thread_seconds=0) == [False, False]


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
        reaped = threading.Event()

        def service_actions(self) -> None:  # after each turn of the loop; ticks are an hour apart
            super().service_actions()
            if self.active_children == set():  # None before the first
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
