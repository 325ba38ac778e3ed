"""Listeners on IP: every family, host names, port 0, adopted sockets, and one line for each refusal."""

from __future__ import annotations

import errno
import logging
import os
import pwd
import select
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from jackfield.address import Address, parse_address
from jackfield.door import Listener, open_listeners
from jackfield.door.inet import open_inet
from jackfield.errors import AddressError, StartError
from ports import port_to_bind

linux = pytest.mark.skipif(not os.path.exists("/proc/sys/net"), reason="what Linux's kernel does")

Opener = Callable[..., list[Listener]]


@pytest.fixture
def listen() -> Iterator[Opener]:
    """open_listeners with the standard library's class, closing what it opened."""
    with ExitStack() as stack:

        def listen(target: Any, **options: Any) -> list[Listener]:
            listeners = open_listeners(target, **{"socket_class": socket.socket, **options})
            for listener in listeners:
                stack.callback(listener.close)
            return listeners

        yield listen


def port_of(listener: Listener) -> int:
    port = listener.socket.getsockname()[1]
    assert isinstance(port, int) and port > 0
    return port


def reaches(listener: Listener, host: str) -> bool:
    """Whether a client that connects to ``host`` is accepted by this listener."""
    try:
        client = socket.create_connection((host, port_of(listener)), 5)
    except ConnectionRefusedError:
        return False
    with client:
        assert select.select([listener], [], [], 5)[0]
        connection, _ = listener.socket.accept()
        with connection:
            return bool(connection.getpeername()[1] == client.getsockname()[1])


def reason(target: Any, **options: Any) -> str:
    """The text of the StartError, which is one line and names no Python."""
    with pytest.raises(StartError) as caught:
        open_listeners(target, **{"socket_class": socket.socket, **options})
    text = str(caught.value)
    assert "\n" not in text and "Errno" not in text and text.startswith("cannot listen on ")
    return text


def failing_class(call: str, *errors: int | None, family: int | None = None) -> type[socket.socket]:
    """A socket class whose ``call`` fails with each errno in turn (None: works), in sockets of ``family`` only."""
    remaining = list(errors)

    class Failing(socket.socket):
        pass

    def fail(self: socket.socket, *args: Any) -> Any:
        number = remaining.pop(0) if remaining and (family is None or self.family == family) else None
        if number is not None:
            raise OSError(number, os.strerror(number))
        return getattr(socket.socket, call)(self, *args)

    setattr(Failing, call, fail)
    return Failing


def class_without_ipv6() -> type[socket.socket]:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **kwargs)

    return WithoutIPv6


# --- what a listener is -----------------------------------------------------------------------------------------------


def test_a_tcp_listener_is_ready_and_knows_where_it_is(listen: Opener) -> None:
    (listener,) = listen("tcp://127.0.0.1:0")
    assert listener.location == f"tcp://127.0.0.1:{port_of(listener)}"
    assert listener.address == parse_address("tcp://127.0.0.1:0")
    assert not listener.is_datagram and listener.fileno() == listener.socket.fileno() >= 0
    assert not os.get_blocking(listener.fileno()) and not os.get_inheritable(listener.fileno())
    assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    with pytest.raises(BlockingIOError):
        listener.socket.accept()
    assert reaches(listener, "127.0.0.1")


def test_close_ends_it_any_number_of_times(listen: Opener) -> None:
    (listener,) = listen("127.0.0.1:0")
    location, port = listener.location, port_of(listener)
    listener.close()
    listener.close()
    assert listener.fileno() == -1 and listener.location == location
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_a_udp_listener_has_a_large_buffer_and_its_port_to_itself(listen: Opener) -> None:
    (listener,) = listen("udp://127.0.0.1:0")
    assert listener.is_datagram and listener.location == f"udp://127.0.0.1:{port_of(listener)}"
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    default = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    plain.close()
    assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > default
    assert not listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert not os.get_blocking(listener.fileno())
    assert "ss -ulnp" in reason(f"udp://127.0.0.1:{port_of(listener)}")


@pytest.mark.parametrize("target", ["127.0.0.1:0", ("127.0.0.1", 0), Address("tcp", "127.0.0.1", 0)])
def test_every_way_to_say_an_address(listen: Opener, target: Any) -> None:
    (listener,) = listen(target)
    assert reaches(listener, "127.0.0.1")


def test_a_port_number_alone_is_loopback(listen: Opener) -> None:
    (listener,) = listen(0)
    assert listener.location.startswith("tcp://127.0.0.1:")


def test_a_tuple_with_a_scope_names_its_interface(listen: Opener) -> None:
    (listener,) = listen(("::1", 0, 0, 0))
    assert listener.location.startswith("tcp://[::1]:")
    assert "interface '99999'" in reason(("fe80::1", 0, 0, 99999))


@pytest.mark.parametrize("target", [("127.0.0.1",), ("127.0.0.1", "9"), (1, 2), ("h", 70000), ("h", True), None, 1.5])
def test_what_is_no_address_is_said_so(target: Any) -> None:
    with pytest.raises(AddressError, match="write"):
        open_listeners(target, socket_class=socket.socket)


def test_the_class_is_the_one_asked_for(listen: Opener) -> None:
    class Mine(socket.socket):
        pass

    assert type(listen("127.0.0.1:0", socket_class=Mine)[0].socket) is Mine
    assert type(listen("udp://127.0.0.1:0", socket_class=Mine)[0].socket) is Mine


def test_our_own_class_unless_another_is_named() -> None:
    from jackfield.socket import socket as ours

    (listener,) = open_listeners("127.0.0.1:0")
    assert type(listener.socket) is ours
    listener.close()


@linux
def test_the_backlog_is_as_long_as_the_system_allows(listen: Opener) -> None:
    def queue(listener: Listener) -> int:
        # struct tcp_info: for a listening socket tcpi_sacked is the length of its queue.
        info = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int.from_bytes(info[28:32], sys.byteorder)

    with open("/proc/sys/net/core/somaxconn") as file:
        longest = int(file.read())
    assert queue(listen("127.0.0.1:0")[0]) == min(longest, 65535)
    assert queue(listen("127.0.0.1:0", backlog=7)[0]) == 7


# --- families and names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [":0", "tcp://[::]:0"])
def test_all_interfaces_are_one_socket_for_both_families(listen: Opener, target: str) -> None:
    (listener,) = listen(target)
    assert reaches(listener, "127.0.0.1") and reaches(listener, "::1")


def test_the_digit_forbids_the_other_family(listen: Opener) -> None:
    with port_to_bind() as first, port_to_bind() as second:  # nobody has them in the other family either
        (four,), (six,) = listen(f"tcp4://:{first}"), listen(f"tcp6://:{second}")
        assert four.location == f"tcp://0.0.0.0:{first}" and six.location == f"tcp://[::]:{second}"
        assert reaches(four, "127.0.0.1") and not reaches(four, "::1")
        assert reaches(six, "::1") and not reaches(six, "127.0.0.1")


def test_udp_of_all_interfaces_hears_both_families(listen: Opener) -> None:
    (listener,) = listen("udp://:0")
    for family, host in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(host.encode(), (host, port_of(listener)))
            assert select.select([listener], [], [], 5)[0]
            assert listener.socket.recv(99) == host.encode()


def test_without_ipv6_all_interfaces_are_those_of_ipv4(listen: Opener) -> None:
    without = class_without_ipv6()
    (listener,) = listen(":0", socket_class=without)
    assert listener.location.startswith("tcp://0.0.0.0:") and reaches(listener, "127.0.0.1")
    # The kernel may also have the family and no address of it.
    refusing = failing_class("bind", errno.EADDRNOTAVAIL, family=socket.AF_INET6)
    assert listen("udp://:0", socket_class=refusing)[0].location.startswith("udp://0.0.0.0:")
    # Who asked for IPv6 gets it or hears that it is not there.
    assert "no IPv6; write tcp4://:0" in reason("tcp6://:0", socket_class=without)
    assert "no IPv6" in reason("tcp://[::1]:0", socket_class=without)


def resolver(*hosts: str) -> Callable[..., list[tuple[Any, ...]]]:
    """A name server that knows one name, with these addresses."""

    def resolve(host: str, port: int, family: int, kind: int, *_: int) -> list[tuple[Any, ...]]:
        six, four = socket.AF_INET6, socket.AF_INET
        return [
            (six, kind, 0, "", (one, port, 0, 0)) if ":" in one else (four, kind, 0, "", (one, port)) for one in hosts
        ]

    return resolve


def open_name(
    *hosts: str, port: int = 0, scheme: Any = "tcp", socket_class: type[socket.socket] = socket.socket
) -> list[socket.socket]:
    return open_inet(
        Address(scheme, "name", port), backlog=5, reuse_port=False, socket_class=socket_class, resolve=resolver(*hosts)
    )


def ports_of(sockets: list[socket.socket]) -> set[int]:
    ports = {sock.getsockname()[1] for sock in sockets}
    for sock in sockets:
        sock.close()
    return ports


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_name_of_several_addresses_is_bound_on_one_port(scheme: str) -> None:
    sockets = open_name("::1", "127.0.0.1", "127.0.0.1", "127.0.0.2", scheme=scheme)
    assert [sock.getsockname()[0] for sock in sockets] == ["::1", "127.0.0.1", "127.0.0.2"]
    (port,) = ports_of(sockets)
    assert ports_of(open_name("::1", "127.0.0.1", port=port, scheme=scheme)) == {port}


@pytest.mark.parametrize("call", ["bind", "listen"])
def test_port_0_is_tried_again_where_the_second_address_has_no_such_port_free(call: str) -> None:
    conflict = failing_class(call, None, errno.EADDRINUSE, None, errno.EADDRINUSE)
    assert len(ports_of(open_name("::1", "127.0.0.1", socket_class=conflict))) == 1


def test_but_not_for_ever() -> None:
    conflict = failing_class("bind", *[None, errno.EADDRINUSE] * 100)
    with pytest.raises(StartError, match="no free port"):
        open_name("::1", "127.0.0.1", socket_class=conflict)


def test_a_name_whose_second_address_is_taken_leaves_the_first_alone(listen: Opener) -> None:
    port = port_of(listen("127.0.0.2:0")[0])
    with pytest.raises(StartError, match=f"port {port} is in use"):
        open_name("127.0.0.1", "127.0.0.2", port=port)
    listen(f"127.0.0.1:{port}")


def test_localhost_does_without_ipv6_where_it_is_off(caplog: pytest.LogCaptureFixture) -> None:
    off = failing_class("bind", errno.EADDRNOTAVAIL, family=socket.AF_INET6)
    with caplog.at_level(logging.WARNING, "jackfield.door"):
        assert len(ports_of(open_name("::1", "127.0.0.1", socket_class=off))) == 1
    assert "[::1]" in caplog.text
    # An IPv4 address that is not this machine's is another matter, and so is IPv6 alone.
    for hosts in [("127.0.0.1", "203.0.113.9"), ("2001:db8::1",)]:
        with pytest.raises(StartError, match=f"{hosts[-1]}' is no address of this machine"):
            open_name(*hosts)


def test_a_name_that_has_no_address() -> None:
    with pytest.raises(StartError, match="no address"):
        open_name()


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_port_in_use(listen: Opener) -> None:
    port = port_of(listen("127.0.0.1:0")[0])
    text = reason(f"127.0.0.1:{port}")
    assert f"port {port} is in use" in text and f"ss -tlnp 'sport = :{port}'" in text
    assert "in use" in reason(f":{port}")


def test_a_restart_does_not_wait_for_the_connections_of_the_last_run(listen: Opener) -> None:
    (listener,) = listen("127.0.0.1:0")
    port = port_of(listener)
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        connection, _ = listener.socket.accept()
        connection.close()  # closed here first, so TIME_WAIT is on this side
        assert client.recv(1) == b""
    listener.close()
    listen(f"127.0.0.1:{port}")


def test_a_port_is_shared_only_where_both_ask_for_it(listen: Opener) -> None:
    (first,) = listen("127.0.0.1:0", reuse_port=True)
    listen(first.location, reuse_port=True)
    assert "in use" in reason(first.location)
    (alone,) = listen("udp://127.0.0.1:0")
    assert "in use" in reason(alone.location, reuse_port=True)


def test_reuse_port_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    assert "leave reuse_port out" in reason("127.0.0.1:0", reuse_port=True)


def test_a_privileged_port() -> None:
    denied = failing_class("bind", errno.EACCES)
    text = reason("127.0.0.1:80", socket_class=denied)
    assert "port 80 is privileged" in text and "CAP_NET_BIND_SERVICE" in text and "_port_start=80" in text
    # From 1024 on it is something else that forbids it.
    assert "security module" in reason("127.0.0.1:61234", socket_class=failing_class("bind", errno.EACCES))


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody without privileges")
def test_a_privileged_port_for_somebody_without_the_privilege() -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) < 3:
            pytest.skip("no port is privileged on this machine")
    os.seteuid(pwd.getpwnam("nobody").pw_uid)  # and with it the capabilities go (capabilities(7))
    try:
        assert "port 2 is privileged" in reason("127.0.0.1:2")
    finally:
        os.seteuid(0)


def test_an_address_that_is_not_this_machines() -> None:
    text = reason("203.0.113.9:0")
    assert "'203.0.113.9' is no address of this machine" in text and "tcp://:0" in text


def test_a_name_that_nobody_knows() -> None:
    def unknown(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def silent(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def other(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_FAMILY, "Address family not supported")

    for scheme, resolve, said in [
        ("tcp", unknown, "there is no host 'name'"),
        ("tcp", silent, "gave no answer"),
        ("tcp6", other, "'name' has no IPv6 address; write tcp:// to"),
        ("tcp", other, "could not be looked up"),
    ]:
        address = Address(scheme, "name", 0)  # type: ignore[arg-type]
        with pytest.raises(StartError, match=said):
            open_inet(address, backlog=5, reuse_port=False, socket_class=socket.socket, resolve=resolve)
    # Straight from the caller, past the parser.
    assert "there is no host" in reason(("a" * 64, 0))


def test_a_port_that_is_none_past_the_parser() -> None:
    assert "0 to 65535" in reason(Address("tcp", "127.0.0.1", 65536))


@linux
def test_a_link_local_address_needs_its_interface() -> None:
    assert "write tcp://[fe80::1%25eth0]:0" in reason("[fe80::1]:0")
    assert "no interface 'nonesuch0'" in reason("[fe80::1%25nonesuch0]:0")


def test_out_of_descriptors() -> None:
    class Exhausted(socket.socket):
        def __init__(self, *_: Any) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        def __del__(self) -> None:
            pass

    assert "ulimit -n" in reason("127.0.0.1:0", socket_class=Exhausted)


def test_an_error_nobody_thought_of_has_its_name() -> None:
    assert "(EL3HLT)" in reason("127.0.0.1:0", socket_class=failing_class("bind", errno.EL3HLT))


# --- sockets that somebody else opened --------------------------------------------------------------------------------


def test_a_passed_socket_stays_the_callers(listen: Opener) -> None:
    theirs = socket.create_server(("127.0.0.1", 0), backlog=3)
    (listener,) = listen(theirs)
    assert listener.fileno() != theirs.fileno()
    assert listener.location == f"tcp://127.0.0.1:{port_of(listener)}" == str(listener.address)
    assert reaches(listener, "127.0.0.1")
    listener.close()
    assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    theirs.close()


def test_a_bound_socket_is_put_to_listen(listen: Opener) -> None:
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        assert reaches(listen(theirs)[0], "127.0.0.1")


def test_an_inherited_descriptor_is_asked_what_it_is(listen: Opener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        (listener,) = listen(f"fd://{theirs.fileno()}")
        assert str(listener.address) == f"fd://{theirs.fileno()}"
        assert not listener.is_datagram and reaches(listener, "127.0.0.1")
        assert not os.get_inheritable(listener.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind(("0.0.0.0", 0))
        (listener,) = listen(f"fd://{theirs.fileno()}")
        assert listener.is_datagram and listener.location.startswith("udp://0.0.0.0:")


def test_an_adopted_unix_path_is_not_ours_to_remove(listen: Opener, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "s")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(path)
        (listener,) = listen(theirs)
        assert listener.location == f"unix:{path}"
        listener.close()
        assert os.path.exists(path)


def test_descriptors_that_cannot_be_served(tmp_path: os.PathLike[str]) -> None:
    closed = os.dup(0)
    os.close(closed)
    assert f"no descriptor {closed} is open" in reason(f"fd://{closed}")
    assert "no descriptor 2147483647" in reason(Address("fd", fd=2**31 - 1))
    with open(os.path.join(tmp_path, "f"), "w") as file:
        assert "a regular file, not a socket" in reason(f"fd://{file.fileno()}")
    reading, writing = os.pipe()
    assert "a pipe, not a socket" in reason(f"fd://{reading}")
    os.close(reading)
    os.close(writing)


def test_sockets_that_cannot_be_served(listen: Opener) -> None:
    (listener,) = listen("127.0.0.1:0")
    with socket.create_connection(("127.0.0.1", port_of(listener)), 5) as connected:
        assert "it is a connection (with tcp://127.0.0.1:" in reason(connected)
    left, right = socket.socketpair()
    with left, right:
        assert "it is a connection" in reason(f"fd://{left.fileno()}")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as unbound:
            assert "not bound to an address" in reason(unbound)
    with socket.socket(socket.AF_UNIX) as unbound:
        assert "not bound to an address" in reason(unbound)
    assert "closed socket" in reason(unbound)
    with socket.socket() as plain, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(plain, server_side=True) as tls:
        assert "wrapped in TLS" in reason(tls)


@linux
def test_a_family_or_type_that_is_not_served() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as other:
        assert "its family is AF_NETLINK" in reason(other)
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        pytest.skip("needs the privilege of raw sockets")
    with raw:
        assert "its type is SOCK_RAW" in reason(raw)


def test_a_bound_socket_whose_address_has_a_listener(listen: Opener) -> None:
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        try:
            second.bind(first.getsockname())
        except OSError:
            pytest.skip("this kernel refuses the second bind already")
        listen(first)
        assert "another socket listens" in reason(second)
