"""Options of a listener's socket: set before it is bound, there on each accepted connection, and refusals told."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from jackfield.address import Address
from jackfield.door import Listener, open_listeners, set_stream_options
from jackfield.door.options import TCP_OPTIONS
from jackfield.errors import StartError

linux = pytest.mark.skipif(not os.path.exists("/proc/sys/net"), reason="what Linux's kernel does")
pytestmark = linux

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
Opener = Callable[..., Listener]


@pytest.fixture
def listen() -> Iterator[Opener]:
    """The one listener of an address, closed in the end."""
    with ExitStack() as stack:

        def listen(target: Any, **options: Any) -> Listener:
            (listener,) = open_listeners(target, **{"socket_class": socket.socket, **options})
            stack.callback(listener.close)
            if not listener.is_datagram:
                set_stream_options(listener.socket, listener.address)
            return listener

        yield listen


def accepted(listener: Listener) -> socket.socket:
    """A connection of that listener's, accepted; the client has left."""
    with socket.socket(listener.socket.family, listener.socket.type) as client:
        client.connect(listener.socket.getsockname())
        listener.socket.setblocking(True)
        connection, _ = listener.socket.accept()
    return connection


def number(sock: socket.socket, level: int, name: str) -> int:
    return sock.getsockopt(level, getattr(socket, name))


#: What is written, the level and name of the option, and what an accepted connection then has.
INHERITED = [
    ("nodelay=0", TCP, "TCP_NODELAY", 0),
    ("nodelay=1", TCP, "TCP_NODELAY", 1),
    ("keepalive=77", TCP, "TCP_KEEPIDLE", 77),
    ("keepalive=77", SOL, "SO_KEEPALIVE", 1),
    ("keepalive=0", SOL, "SO_KEEPALIVE", 0),
    ("user_timeout=9", TCP, "TCP_USER_TIMEOUT", 9000),
    ("user_timeout=0", TCP, "TCP_USER_TIMEOUT", 0),
    ("user_timeout=2147483", TCP, "TCP_USER_TIMEOUT", 2147483000),
    ("rcvbuf=20k", SOL, "SO_RCVBUF", 2 * 20 * 1024),
    ("sndbuf=30k", SOL, "SO_SNDBUF", 2 * 30 * 1024),
    # The defaults, where nothing is said.
    ("backlog=5", TCP, "TCP_NODELAY", 1),
    ("backlog=5", SOL, "SO_KEEPALIVE", 1),
    ("backlog=5", TCP, "TCP_KEEPIDLE", TCP_OPTIONS["TCP_KEEPIDLE"]),
    ("keepalive=77", TCP, "TCP_KEEPINTVL", TCP_OPTIONS["TCP_KEEPINTVL"]),
    ("nodelay=0", TCP, "TCP_USER_TIMEOUT", TCP_OPTIONS["TCP_USER_TIMEOUT"]),
]


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
@pytest.mark.parametrize(("option", "level", "name", "value"), INHERITED)
def test_an_accepted_connection_has_it(
    listen: Opener, scheme: str, option: str, level: int, name: str, value: int
) -> None:
    listener = listen(f"{scheme}://127.0.0.1:0?{option}")
    assert number(listener.socket, level, name) == value
    with accepted(listener) as connection:
        assert number(connection, level, name) == value


def test_the_test_can_tell(listen: Opener) -> None:
    """The broken case: without the option the connection has something else."""
    with accepted(listen("tcp://127.0.0.1:0")) as connection:
        assert number(connection, TCP, "TCP_NODELAY") != 0
        assert number(connection, TCP, "TCP_KEEPIDLE") != 77
        assert number(connection, SOL, "SO_RCVBUF") != 2 * 20 * 1024


@pytest.mark.parametrize(
    ("option", "level", "name", "least", "most"),
    [
        ("defer_accept=5", TCP, "TCP_DEFER_ACCEPT", 5, 10),  # in whole retransmissions: 1 s, 2 s, 4 s …
        ("defer_accept=0", TCP, "TCP_DEFER_ACCEPT", 0, 0),
        ("fastopen=16", TCP, "TCP_FASTOPEN", 16, 16),
        ("fastopen=0", TCP, "TCP_FASTOPEN", 0, 0),
        ("incoming_cpu=1", SOL, "SO_INCOMING_CPU", 1, 1),
        ("reuse_port=1", SOL, "SO_REUSEPORT", 1, 1),
        ("reuse_port=0", SOL, "SO_REUSEPORT", 0, 0),
    ],
)
def test_the_listener_has_it(listen: Opener, option: str, level: int, name: str, least: int, most: int) -> None:
    listener = listen(f"tcp://127.0.0.1:0?{option}")
    assert least <= number(listener.socket, level, name) <= most


def test_a_udp_socket_has_it(listen: Opener) -> None:
    listener = listen("udp://127.0.0.1:0?rcvbuf=20k&sndbuf=30k&incoming_cpu=0&reuse_port=1")
    assert number(listener.socket, SOL, "SO_RCVBUF") == 2 * 20 * 1024
    assert number(listener.socket, SOL, "SO_SNDBUF") == 2 * 30 * 1024
    assert number(listener.socket, SOL, "SO_REUSEPORT") == 1


def test_a_unix_datagram_socket_has_it(listen: Opener, tmp_path: Path) -> None:
    listener = listen(f"unixgram:{tmp_path}/s?sndbuf=30k&mode=600")
    assert number(listener.socket, SOL, "SO_SNDBUF") == 2 * 30 * 1024


def test_a_unix_stream_has_no_use_for_it(tmp_path: Path) -> None:
    """Why there is no ``sndbuf`` for one: what accept(2) returns was made by connect(2), with the system's sizes."""
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        usual = number(client, SOL, "SO_SNDBUF")
        listening.setsockopt(SOL, socket.SO_SNDBUF, 30 * 1024)
        listening.bind(f"{tmp_path}/s")
        listening.listen()
        client.connect(f"{tmp_path}/s")
        with listening.accept()[0] as connection:
            assert number(connection, SOL, "SO_SNDBUF") == usual != 2 * 30 * 1024


def test_the_buffer_is_there_before_the_socket_listens() -> None:
    """The window scale of a connection is settled by its SYN, so a buffer that comes later is too late (tcp(7))."""
    order: list[str] = []

    class Noting(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            if args[1] in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                order.append("buffer")
            super().setsockopt(*args)

        def bind(self, address: Any) -> None:
            order.append("bind")
            super().bind(address)

        def listen(self, *args: Any) -> None:
            order.append("listen")
            super().listen(*args)

    (listener,) = open_listeners("tcp://127.0.0.1:0?rcvbuf=20k&sndbuf=20k", socket_class=Noting)
    listener.close()
    assert order == ["buffer", "buffer", "bind", "listen"]


def queue_of(listener: Listener) -> int:
    """How long the queue of a listening TCP socket is: ``tcpi_sacked`` has it, by the comment in linux/tcp.h."""
    return int.from_bytes(listener.socket.getsockopt(TCP, socket.TCP_INFO, 104)[28:32], "little")


def test_the_backlog_of_an_address_goes_before_that_of_all(listen: Opener) -> None:
    assert queue_of(listen("tcp://127.0.0.1:0?backlog=7", backlog=20)) == 7
    assert queue_of(listen("tcp://127.0.0.1:0?nodelay=0", backlog=20)) == 20


def test_a_unix_listener_has_a_backlog_too(listen: Opener, tmp_path: Path) -> None:
    """With room for one: the second that waits beside it is not let in (unix(7), EAGAIN)."""
    for path in (f"{tmp_path}/s", "@jackfield-test-backlog"):
        listen(f"unix:{path}?backlog=1")
        with ExitStack() as stack:
            refused = 0
            for _ in range(4):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                refused += client.connect_ex(path.replace("@", "\0")) == errno.EAGAIN
            assert refused == 2


def test_the_port_is_shared_where_the_address_says_so(listen: Opener) -> None:
    first = listen("tcp://127.0.0.1:0?reuse_port=1")
    port = first.socket.getsockname()[1]
    listen(f"tcp://127.0.0.1:{port}?reuse_port=1")
    with pytest.raises(StartError, match="in use"):
        listen(f"tcp://127.0.0.1:{port}?reuse_port=0", reuse_port=True)


@pytest.mark.parametrize("scheme", ["tls", "tls4", "tls6"])
def test_an_encrypted_listener_says_so(listen: Opener, scheme: str) -> None:
    host = "[::1]" if scheme == "tls6" else "127.0.0.1"
    listener = listen(f"{scheme}://{host}:0?cert=a.pem")
    assert listener.location == f"tls://{host}:{listener.socket.getsockname()[1]}"
    assert not listener.is_datagram


def test_an_abstract_name_takes_what_has_nothing_to_do_with_files(listen: Opener) -> None:
    listen("unix:@jackfield-test-options?backlog=3&proxy=off")
    with pytest.raises(StartError, match=r"leave mode= out") as caught:
        listen("unix:@jackfield-test-options-2?backlog=3&mode=600")
    assert "\n" not in str(caught.value)


# --- refusals ---------------------------------------------------------------------------------------------------------


class Refusing(socket.socket):
    """A system that takes no TCP_FASTOPEN."""

    def setsockopt(self, *args: Any) -> None:
        if args[1] == socket.TCP_FASTOPEN:
            raise OSError(92, os.strerror(92))
        super().setsockopt(*args)


def test_what_the_system_refuses_is_told_in_one_line() -> None:
    with pytest.raises(StartError) as caught:
        open_listeners("tcp://127.0.0.1:0?nodelay=1&fastopen=5", socket_class=Refusing)
    message = str(caught.value)
    assert message.startswith("cannot listen on tcp://127.0.0.1:0?nodelay=1&fastopen=5: ")
    assert "does not take fastopen=5 (TCP_FASTOPEN: Protocol not available)" in message
    assert "leave it out" in message and "\n" not in message


def test_what_the_system_has_not_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_INCOMING_CPU")
    with pytest.raises(StartError, match=r"has no SO_INCOMING_CPU; leave incoming_cpu=0 out$"):
        open_listeners("udp://127.0.0.1:0?incoming_cpu=0", socket_class=socket.socket)


@pytest.mark.parametrize(("name", "value"), [("keepalive", "32768"), ("fastopen", "x"), ("sndbuf", "9999999999")])
def test_a_value_that_never_went_through_the_parser(name: str, value: str) -> None:
    with pytest.raises(StartError, match=name) as caught:
        open_listeners(Address("tcp", "127.0.0.1", 0, options=((name, value),)))
    assert "\n" not in str(caught.value)


def test_a_refusal_leaves_no_file_behind(tmp_path: Path) -> None:
    class Full(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            raise OSError(12, os.strerror(12))

    with pytest.raises(StartError, match="sndbuf=4k"):
        open_listeners(f"unixgram:{tmp_path}/s?sndbuf=4k", socket_class=Full)
    assert list(tmp_path.iterdir()) == []


def test_a_buffer_that_the_kernel_cuts_is_told_of(listen: Opener, caplog: pytest.LogCaptureFixture) -> None:
    most = int(Path("/proc/sys/net/core/wmem_max").read_text())
    if most >= 2**30:
        pytest.skip("this machine allows the largest that can be written")
    with caplog.at_level(logging.WARNING, "jackfield.door"):
        listen("udp://127.0.0.1:0?sndbuf=4k")
        assert caplog.messages == []
        listen("udp://127.0.0.1:0?sndbuf=1g")
    (line,) = caplog.messages
    assert line.endswith(f"sndbuf=1g is cut to {most} bytes; raise net.core.wmem_max with sysctl")
