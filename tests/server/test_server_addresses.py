"""Where a server listens: several addresses, any free port, both families, sockets and descriptors of others."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, TCP, Echo, ask, dial, echo, held_descriptors, until

from jackfield import AddressError, BaseRequestHandler, Server, StartError
from jackfield.door import open_listeners
from jackfield.testing.clients import connect


class Peer(BaseRequestHandler[Any]):
    """Answers with what the server says of the client."""

    def handle(self) -> None:
        if isinstance(self.request, tuple):
            self.request[1].sendto(repr(self.client_address).encode(), self.client_address)
        else:
            self.request.recv(10)
            self.request.sendall(repr(self.client_address).encode())


@pytest.fixture
def path(tmp_path: Path) -> str:
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


# -- one and several ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_streams_on_several_addresses(mode: str, path: str) -> None:
    """Each says who came by which; the same handler serves them all."""
    targets = [TCP, f"unix:{path}", "tcp4://localhost:0", ("127.0.0.1", 0)]
    with Server(echo(mode), *targets, mode=mode) as server:
        assert len(server.addresses) == 4
        assert len(set(server.addresses)) == 4
        for number in range(4):
            assert ask(server, b"by %d" % number, number) == b"BY %d" % number
        if mode in HERE:
            with dial(server, 1) as client:
                client.sendall(b"x")
                client.recv(10)
                until(lambda: [connection.listener for connection in server.connections] == [f"unix:{path}"])
    assert not os.path.exists(path), "the file was its own, and goes with it"


def test_streams_and_datagrams_by_one_handler(path: str) -> None:
    class Both(BaseRequestHandler[Any]):
        def handle(self) -> None:
            if isinstance(self.request, tuple):
                self.request[1].sendto(b"datagram", self.client_address)
            else:
                self.request.recv(10)  # a Unix socket that is closed unread takes the answer along (unix(7))
                self.request.sendall(b"stream")

    with Server(Both, TCP, "udp://127.0.0.1:0", f"unixpacket:{path}") as server:
        assert [ask(server, number=number) for number in range(3)] == [b"stream", b"datagram", b"stream"]


@pytest.mark.parametrize("mode", MODES)
def test_packets(mode: str, path: str) -> None:
    with Server(echo(mode), f"unixpacket:{path}", mode=mode) as server, dial(server) as client:
        for packet in (b"one", b"two and more"):
            client.send(packet)
            assert client.recv(100) == packet.upper()
        client.shutdown(socket.SHUT_RDWR)


def test_with_no_address_it_is_the_one_that_is_documented() -> None:
    assert Server(Echo)._targets == ("tcp://127.0.0.1:9999",)


# -- any free port, and both families ----------------------------------------------------------------------------------


def test_port_zero_becomes_a_real_one() -> None:
    with Server(Echo, TCP, TCP) as server:
        ports = [int(address.rpartition(":")[2]) for address in server.addresses]
        assert all(ports)
        assert ports[0] != ports[1]
        assert server.server_address == ("127.0.0.1", ports[0])


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize("mode", ["serial", "thread", "green"])
def test_one_port_for_both_families(mode: str, scheme: str) -> None:
    """A client over IPv4 is shown as what it is, and not as ::ffff:127.0.0.1."""
    with Server(Peer, f"{scheme}://:0", mode=mode) as server:
        assert len(server.addresses) == 1
        port = server.server_address[1]
        for host, told in (("127.0.0.1", "('127.0.0.1', "), ("[::1]", "('::1', ")):
            with connect(f"{scheme}://{host}:{port}", SOON) as client:
                client.send(b"x")
                answer = client.recv(100).decode()
                assert answer.startswith(f"{told}{client.getsockname()[1]}")


# -- sockets of others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_open_socket_is_duplicated_and_stays_its_owners(mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Server(echo(mode), listener, mode=mode) as server:
            assert server.server_address == listener.getsockname()
            assert ask(server) == b"HELLO"
        assert listener.fileno() >= 0
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname(), SOON):
            listener.accept()[0].close()


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_connections_of_an_adopted_socket_are_cooperative(mode: str) -> None:
    """It is the standard library's; what it accepts must not hold the loop."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Server(echo(mode), listener, mode=mode) as server:
        with dial(server) as idle:
            idle.sendall(b"x")
            assert idle.recv(10) == b"X"
            assert ask(server) == b"HELLO"


@pytest.mark.parametrize("mode", MODES)
def test_an_inherited_descriptor(mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Server(echo(mode), f"fd://{listener.fileno()}", mode=mode) as server:
            assert ask(server) == b"HELLO"
        assert listener.fileno() >= 0


def test_an_adopted_datagram_socket() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        with Server(echo("thread", datagram=True), bound) as server:
            assert ask(server) == b"HELLO"


def test_open_listeners_are_taken_over() -> None:
    listeners = open_listeners(TCP) + open_listeners(TCP)
    with Server(Echo, *listeners) as server:
        assert server.addresses == [listener.location for listener in listeners]
        assert ask(server, number=1) == b"HELLO"
    assert [listener.fileno() for listener in listeners] == [-1, -1]


# -- it cannot start ---------------------------------------------------------------------------------------------------


#: What to listen on that cannot be had; {taken} is the address of another server, {path} a file.
BAD: dict[str, Any] = {
    "no address at all": "nonsense://what",
    "a port in use": "{taken}",
    "a file that is no socket": "unix:{path}",
    "a descriptor that is no socket": "fd://0",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_a_start_that_fails_leaves_nothing_open(name: str, place: str, path: str) -> None:
    """One line that says what to do; the other addresses are given back; and the suite looks for what is left."""
    Path(path).write_text("precious")
    good = str(Path(path).with_name("g"))
    with Server(Echo, TCP) as other, dial(other) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"X"  # it has opened all that it needs
        before = held_descriptors()
        bad = BAD[name]
        if isinstance(bad, str):
            bad = bad.format(taken=other.addresses[0], path=path)
        targets = {"alone": [bad], "first": [bad, TCP, f"unix:{good}"], "last": [TCP, f"unix:{good}", bad]}[place]
        server = Server(Echo, *targets)
        with pytest.raises((AddressError, StartError)) as caught:
            server.start()
        assert "\n" not in str(caught.value)
        assert server.state == "failed"
        assert server.addresses == []
        assert held_descriptors() <= before
        assert not os.path.exists(good)
        assert Path(path).read_text() == "precious"
        client.sendall(b"y")
        assert client.recv(10) == b"Y", "the server that was there before is untouched"


def test_a_descriptor_that_is_left_would_be_found_out(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """The broken case: a failed start that gives nothing back."""
    from jackfield.door import Listener

    kept: list[Listener] = []
    close = Listener.close
    monkeypatch.setattr(Listener, "close", lambda self: kept.append(self))
    try:
        with pytest.raises(AssertionError):
            test_a_start_that_fails_leaves_nothing_open("a descriptor that is no socket", "last", path)
    finally:
        for listener in kept:
            close(listener)
