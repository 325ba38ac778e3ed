"""Addresses and sockets of the drop-in servers: Unix paths, both families, adopted sockets, packets, options."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from dropin_support import MODES, SOON, ask, connect, handler_base, server_class, serving, until

from jackfield import socket as jackfield_socket
from jackfield import socketserver as ours


class Echo(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data.upper())


class AsyncEcho(ours.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await self.request.sendall(data.upper())


def echo(mode: str) -> Any:
    return AsyncEcho if mode == "async" else Echo


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path for a socket, short enough (unix(7))."""
    made = tmp_path / "s"
    if len(str(made)) > 100:
        pytest.skip("the temporary directory's name is too long for a socket")
    return str(made)


@pytest.fixture(scope="module")
def ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no ::1")


# -- Unix paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_socket_file_whose_server_has_died_is_replaced(mode: str, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    with server_class(mode, "UnixStream")(path, echo(mode)) as server, serving(server, close=False):
        assert ask(server) == b"HELLO"


def test_the_next_start_after_ones_own_end(path: str) -> None:
    """The file stays behind, as in the standard library's; it does not stop the next one."""
    for kind in ("UnixStream", "UnixDatagram", "UnixSeqpacket", "UnixStream"):
        with server_class("serial", kind)(path, Echo):
            assert stat.S_ISSOCK(os.stat(path).st_mode)
        assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["UnixStream", "UnixDatagram", "UnixSeqpacket"])
def test_a_live_server_is_left_alone(kind: str, path: str) -> None:
    with server_class("serial", kind)(path, Echo) as live:
        inode = os.stat(path).st_ino
        with pytest.raises(OSError, match="in use"):
            server_class("serial", kind)(path, Echo)
        assert os.stat(path).st_ino == inode
        with connect(live):
            pass


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_is_no_socket_is_left_alone(what: str, path: str) -> None:
    Path(path).write_text("precious") if what == "file" else Path(path).mkdir()
    with pytest.raises(OSError):
        ours.UnixStreamServer(path, Echo)
    assert Path(path).is_dir() or Path(path).read_text() == "precious"


def test_an_abstract_address_and_bytes(path: str) -> None:
    """As the socket module takes them: no file at all, and a path of bytes."""
    with ours.UnixStreamServer(f"\0jackfield-{os.getpid()}", Echo) as server, serving(server, close=False):
        assert ask(server) == b"HELLO"
    with ours.UnixStreamServer(path.encode(), Echo) as server, serving(server, close=False):
        assert ask(server) == b"HELLO"


# -- packets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["serial", "threading", "green", "async", "forking"])
def test_packets_keep_their_bounds(mode: str, path: str) -> None:
    server_type = server_class(mode, "UnixSeqpacket")
    assert server_type.socket_type == socket.SOCK_SEQPACKET
    with server_type(path, echo(mode)) as server, serving(server, close=False), connect(server) as client:
        client.send(b"one")
        client.send(b"two and more")
        assert client.recv(100) == b"ONE"
        assert client.recv(100) == b"TWO AND MORE"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""


# -- both families -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("mode", MODES)
def test_an_ipv6_address_makes_an_ipv6_server(mode: str) -> None:
    with server_class(mode)(("::1", 0), echo(mode)) as server, serving(server, close=False):
        assert server.address_family == socket.AF_INET6
        assert server.socket.family == socket.AF_INET6
        assert ask(server) == b"HELLO"


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("mode", ["serial", "green"])
def test_the_wildcard_takes_both_families_on_one_port(mode: str) -> None:
    seen: list[str] = []

    class Notes(Echo):
        def handle(self) -> None:
            seen.append(self.client_address[0])
            super().handle()

    with server_class(mode)(("::", 0), Notes) as server, serving(server, close=False):
        port = server.server_address[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), SOON) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"HELLO"
    assert seen == ["::ffff:127.0.0.1", "::1"]


@pytest.mark.usefixtures("ipv6")
def test_datagrams_of_both_families_are_answered_from_where_they_went() -> None:
    class EchoDatagram(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request[1].sendto(self.request[0].upper(), self.client_address)

    with ours.UDPServer(("::", 0), EchoDatagram) as server, serving(server, close=False):
        port = server.server_address[1]
        for family, host in ((socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(SOON)
                client.connect((host, port))  # it hears only what comes from there
                client.send(b"hello")
                assert client.recv(100) == b"HELLO"


@pytest.mark.usefixtures("ipv6")
def test_a_family_that_was_set_is_kept() -> None:
    class Six(ours.TCPServer):
        address_family = socket.AF_INET6

    class Four(ours.TCPServer):
        address_family = socket.AF_INET

    with Six(("::1", 0), Echo) as server:
        assert server.socket.family == socket.AF_INET6
    with pytest.raises(socket.gaierror):
        Four(("::1", 0), Echo)


# -- sockets that others opened ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["the standard library's", "ours"])
@pytest.mark.parametrize("mode", MODES)
def test_an_open_listener_is_adopted(mode: str, whose: str) -> None:
    """The idiom of systemd's and inetd's users: no binding, and the socket put in the place of the one made."""
    module: Any = socket if whose.startswith("the") else jackfield_socket
    listener = module.create_server(("127.0.0.1", 0))
    server = server_class(mode)(listener.getsockname(), echo(mode), bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    with server, serving(server, close=False):
        for _ in range(2):
            assert ask(server) == b"HELLO"
    assert listener.fileno() == -1, "it was the server's to close"


@pytest.mark.parametrize("mode", ["green", "async"])
def test_an_adopted_listener_makes_cooperative_connections(mode: str) -> None:
    """Also where it is the standard library's: an idle client must not hold up the others."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = server_class(mode)(listener.getsockname(), echo(mode), bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    with server, serving(server, close=False), connect(server) as idle:
        idle.sendall(b"x")
        assert idle.recv(10) == b"X"
        try:
            with connect(server, timeout=5) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"HELLO"
        finally:
            idle.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("mode", MODES)
def test_bound_and_activated_later(mode: str) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode), bind_and_activate=False) as server:
        server.server_bind()
        server.server_activate()
        with serving(server, close=False):
            assert ask(server) == b"HELLO"


def test_a_listener_keeps_its_patience() -> None:
    """It is made non-blocking only while it is served."""
    with ours.TCPServer(("127.0.0.1", 0), Echo) as server:
        server.socket.settimeout(7.0)
        with serving(server, close=False):
            assert ask(server) == b"HELLO"
            assert server.socket.gettimeout() == 0.0
        assert server.socket.gettimeout() == 7.0


@pytest.mark.parametrize("mode", MODES)
def test_an_accepted_connection_is_blocking_whatever_the_listener_is(mode: str) -> None:
    class Tells(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(repr(self.request.gettimeout()).encode())

    class AsyncTells(ours.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            await self.request.sendall(repr(self.request.gettimeout()).encode())

    with server_class(mode)(("127.0.0.1", 0), AsyncTells if mode == "async" else Tells) as server:
        server.socket.setblocking(False)
        with serving(server, close=False):
            assert ask(server) == b"None"


# -- options -----------------------------------------------------------------------------------------------------------


class Recorded(jackfield_socket.socket):
    """Notes what it is told."""

    told: list[Any] = []

    def listen(self, *args: int) -> None:  # type: ignore[override]
        self.told.append(("listen", *args))
        super().listen(*args)

    def setsockopt(self, *args: Any) -> None:  # type: ignore[override]
        self.told.append(args)
        super().setsockopt(*args)


@pytest.mark.parametrize(
    ("attributes", "listened", "reused"),
    [
        ({}, 65535, True),
        ({"request_queue_size": 5}, 5, True),
        ({"request_queue_size": 1}, 1, True),
        ({"allow_reuse_address": False}, 65535, False),
        ({"allow_reuse_address": True}, 65535, True),
    ],
    ids=str,
)
def test_a_default_gives_way_and_a_wish_is_obeyed(
    attributes: dict[str, Any], listened: int, reused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value that nobody has set may be bettered; one that somebody has set, be it the same, is what they wanted."""
    monkeypatch.setattr(Recorded, "told", told := [])
    monkeypatch.setattr(ours, "_socket", Recorded)
    with type("Wished", (ours.TCPServer,), attributes)(("127.0.0.1", 0), Echo):
        pass
    assert [call[1] for call in told if call[0] == "listen"] == [listened]
    assert ((socket.SOL_SOCKET, socket.SO_REUSEADDR, 1) in told) is reused
    assert not [call for call in told if socket.SO_REUSEPORT in call[1:2]]


def test_wishes_on_the_instance_and_in_between_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorded, "told", told := [])
    monkeypatch.setattr(ours, "_socket", Recorded)

    class Between(ours.ThreadingMixIn, ours.TCPServer):
        def __init__(self, *args: Any) -> None:
            self.request_queue_size = 3
            self.allow_reuse_port = True
            super().__init__(*args)

    with Between(("127.0.0.1", 0), Echo):
        pass
    assert ("listen", 3) in told
    assert (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1) in told


def test_a_restart_while_connections_are_in_time_wait() -> None:
    """The server closes first, so its end of the connection waits (tcp(7)); the port can be bound all the same."""

    class Closes(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.recv(10)

    with ours.TCPServer(("127.0.0.1", 0), Closes) as server, serving(server, close=False):
        address = server.server_address
        with connect(server) as client:
            client.sendall(b"x")
            assert client.recv(10) == b""
    with ours.TCPServer(address, Closes):
        pass


# -- the connections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_the_live_connections_are_known_and_can_be_ended(mode: str) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server, serving(server, close=False):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(server)) for _ in range(3)]
            for client in clients:
                client.sendall(b"hello")
                assert client.recv(100) == b"HELLO"
            by_peer = {connection.peer: connection for connection in server.connections}
            assert set(by_peer) == {client.getsockname() for client in clients}
            assert len({connection.id for connection in by_peer.values()}) == 3
            for connection in by_peer.values():
                until(lambda c=connection: (c.received, c.sent) == (5, 5))  # counted once the client may have it
                assert connection.age >= 0
            by_peer[clients[0].getsockname()].close()
            assert clients[0].recv(10) == b""
            by_peer[clients[1].getsockname()].abort()
            with pytest.raises(ConnectionResetError):
                clients[1].recv(10)
            until(lambda: len(server.connections) == 1)
            clients[2].sendall(b"still")
            assert clients[2].recv(10) == b"STILL"
        until(lambda: not server.connections)


def test_max_threads_holds_the_accepting_back() -> None:
    for mode in ("threading", "green", "async"):
        with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
            server.max_threads = 2
            with serving(server, close=False), contextlib.ExitStack() as stack:
                clients = [stack.enter_context(connect(server)) for _ in range(5)]
                for client in clients:
                    client.sendall(b"x")
                for client in clients[:2]:
                    assert client.recv(10) == b"X"
                assert len(server.connections) == 2
                for number in range(3):
                    assert len(server.connections) <= 2
                    clients[number].close()
                    assert clients[number + 2].recv(10) == b"X"
                for client in clients[3:]:
                    client.close()


@pytest.mark.parametrize("mode", ["serial", "threading", "forking", "green", "async"])
def test_stream_handlers_have_files(mode: str) -> None:
    class Lines(handler_base(mode, "Stream")):  # type: ignore[misc]
        if mode == "async":

            async def handle(self) -> None:
                async for line in self.rfile:
                    await self.wfile.write(line.upper())
        else:

            def handle(self) -> None:
                for line in self.rfile:
                    self.wfile.write(line.upper())

    with server_class(mode)(("127.0.0.1", 0), Lines) as server, serving(server, close=False):
        assert ask(server, b"one\ntwo\nthree") == b"ONE\nTWO\nTHREE"


def test_a_wish_that_is_not_obeyed_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a server that betters what somebody has set."""
    monkeypatch.setattr(ours, "_inherited", lambda *args: True)
    with pytest.raises(AssertionError):
        test_a_default_gives_way_and_a_wish_is_obeyed({"request_queue_size": 5}, 5, True, monkeypatch)
