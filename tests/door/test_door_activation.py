"""Sockets passed by a service manager: what the variables say, every kind of socket, and one line for each refusal."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jackfield.address import Address, parse_address
from jackfield.door import open_listeners
from jackfield.door.activation import Activation, open_activated
from jackfield.errors import StartError

SECONDS = 20.0
"""What any one thing may take on a machine that is busy with other things."""

# Puts the descriptors that it is given where a service manager would, and becomes the program: LISTEN_PID is a number
# that only the process itself can know.
LAUNCHER = """
import json, os, sys
descriptors, variables = json.loads(sys.argv[1]), json.loads(sys.argv[2])
high = [os.dup2(fd, 100 + number, inheritable=False) for number, fd in enumerate(descriptors)]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
os.environ["LISTEN_FDS"] = str(len(descriptors))
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ.update(variables)
for name in [name for name in os.environ if os.environ[name] == "gone"]:
    del os.environ[name]
os.execv(sys.executable, [sys.executable, "-c", sys.argv[3]])
"""


def passed_to(program: str, *sockets: socket.socket, **variables: str) -> subprocess.Popen[str]:
    """A process of that program, with these sockets passed to it."""
    import json

    numbers = [sock.fileno() for sock in sockets]
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, json.dumps(numbers), json.dumps(variables), textwrap.dedent(program)],
        pass_fds=numbers, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def said_by(program: str, *sockets: socket.socket, **variables: str) -> list[str]:
    """The lines that it prints, once it has ended well."""
    with passed_to(program, *sockets, **variables) as process:
        try:
            output, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors
    return output.splitlines()


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[dict[str, socket.socket]]:
    """One bound socket of each kind, streams listening."""
    with contextlib.ExitStack() as stack:

        def made(family: int, kind: int, address: Any) -> socket.socket:
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind(address)
            if kind != socket.SOCK_DGRAM:
                sock.listen()
            return sock

        yield {
            "tcp": made(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "tcp6": made(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
            "udp": made(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": made(socket.AF_UNIX, socket.SOCK_STREAM, str(tmp_path / "s")),
            "unixgram": made(socket.AF_UNIX, socket.SOCK_DGRAM, str(tmp_path / "d")),
            "unixpacket": made(socket.AF_UNIX, socket.SOCK_SEQPACKET, str(tmp_path / "p")),
        }


def test_the_variables_are_read_once_taken_out_and_the_descriptors_closed_at_exec(
    bound: dict[str, socket.socket],
) -> None:
    program = """
        import os
        from jackfield.door.activation import activation
        first = activation()
        print(first.sockets)
        print([name for name in os.environ if name.startswith("LISTEN")])
        print([os.get_inheritable(number) for number in (3, 4)])
        os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "7", str(os.getpid())
        print(activation() is first)
    """
    said = said_by(program, bound["tcp"], bound["udp"], LISTEN_FDNAMES="echo:log")
    assert said == ["((3, 'echo'), (4, 'log'))", "[]", "[False, False]", "True"]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("gone", ["unknown", "unknown"]),  # no names at all
        ("only-one", ["unknown", "unknown"]),
        ("a:a", ["a", "a"]),
        (":b", ["unknown", "b"]),
        ("", ["unknown", "unknown"]),
    ],
)
def test_names(names: str, wanted: list[str], bound: dict[str, socket.socket]) -> None:
    program = """
        from jackfield.door.activation import activation
        print(*(name for _, name in activation().sockets), sep="\\n")
    """
    assert said_by(program, bound["tcp"], bound["udp"], LISTEN_FDNAMES=names) == wanted


def test_a_server_serves_all_kinds_and_leaves_their_paths(bound: dict[str, socket.socket], tmp_path: Path) -> None:
    program = """
        import sys
        from jackfield import BaseRequestHandler, Server

        class Upper(BaseRequestHandler):
            def handle(self):
                if isinstance(self.request, tuple):
                    self.request[1].sendto(self.request[0].upper(), self.client_address)
                else:
                    self.request.sendall(self.request.recv(100).upper())

        with Server(Upper, "systemd:", mode="green") as server:
            print(*server.addresses, flush=True)
            sys.stdin.read()
    """
    with passed_to(program, *bound.values(), LISTEN_FDNAMES=":".join(bound)) as process:
        assert process.stdout is not None
        addresses = process.stdout.readline().split()
        assert [address.partition(":")[0] for address in addresses] == ["tcp", "tcp", "udp", *list(bound)[3:]]
        for sock in bound.values():
            with socket.socket(sock.family, sock.type) as client:
                client.settimeout(SECONDS)
                if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_DGRAM:
                    client.bind(str(tmp_path / "client"))
                client.connect(sock.getsockname())
                client.send(b"hello")
                assert client.recv(100) == b"HELLO"
        _, errors = process.communicate(timeout=SECONDS)
        assert (process.returncode, errors) == (0, "")
    for path in ("s", "d", "p"):
        assert (tmp_path / path).is_socket()


def test_they_can_be_served_again_by_the_same_process(bound: dict[str, socket.socket]) -> None:
    program = """
        import socket
        from jackfield import BaseRequestHandler, Server

        class Hello(BaseRequestHandler):
            def handle(self):
                self.request.sendall(b"hello")

        for _ in range(2):
            with Server(Hello, "systemd:echo") as server:
                with socket.create_connection(server.server_address, 10) as client:
                    print(client.recv(100).decode(), len(server.addresses))
    """
    assert said_by(program, bound["tcp"], bound["udp"], LISTEN_FDNAMES="echo:other") == ["hello 1", "hello 1"]


# --- in this process --------------------------------------------------------------------------------------------------


def opened(text: str, given: Activation) -> list[socket.socket]:
    return open_activated(parse_address(text), backlog=5, socket_class=socket.socket, given=given)


def reason(text: str, given: Activation) -> str:
    """The text of the StartError, which is one line and names no Python."""
    with pytest.raises(StartError) as caught:
        opened(text, given)
    said = str(caught.value)
    assert "\n" not in said and "Errno" not in said and said.startswith(f"cannot listen on {text}: ")
    return said.removeprefix(f"cannot listen on {text}: ")


def test_those_of_a_name_are_taken_in_their_order(bound: dict[str, socket.socket]) -> None:
    names = {"tcp": "web", "tcp6": "web", "udp": "dns server"}
    given = Activation(tuple((bound[kind].fileno(), name) for kind, name in names.items()))
    for text, kinds in (
        ("systemd:web", ["tcp", "tcp6"]),
        ("systemd:dns%20server", ["udp"]),
        ("systemd:", ["tcp", "tcp6", "udp"]),
    ):
        sockets = opened(text, given)
        assert [sock.getsockname() for sock in sockets] == [bound[kind].getsockname() for kind in kinds]
        assert not any(sock.get_inheritable() for sock in sockets)
        for sock in sockets:
            sock.close()
    assert all(bound[kind].fileno() > 0 for kind in names)


def test_a_name_that_nobody_passed_is_answered_with_those_there_are(bound: dict[str, socket.socket]) -> None:
    given = Activation(((bound["tcp"].fileno(), "a.socket"), (bound["udp"].fileno(), "b c")))
    wanted = "no socket of that name was passed; there is systemd:a.socket, systemd:b%20c"
    assert reason("systemd:a", given) == wanted


def activation_of(**variables: str) -> Activation:
    environment = {**variables, "HOME": "/"}
    given = Activation.read(environment)
    assert environment == {"HOME": "/"}
    return given


OURS = str(os.getpid())


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "no sockets were passed to this process (LISTEN_FDS is not set); start it by a .socket unit, or try it"),
        ({"LISTEN_PID": OURS}, "LISTEN_FDS is not set"),
        ({"LISTEN_PID": OURS, "LISTEN_FDS": "0"}, "LISTEN_FDS='0' is no number of sockets"),
        ({"LISTEN_PID": OURS, "LISTEN_FDS": "x"}, "LISTEN_FDS='x' is no number of sockets"),
        ({"LISTEN_PID": OURS, "LISTEN_FDS": "-1"}, "no number of sockets"),
        ({"LISTEN_PID": OURS, "LISTEN_FDS": "9" * 5000}, "no number of sockets"),
        ({"LISTEN_PID": OURS, "LISTEN_FDS": "9999999"}, "were passed, but no descriptor "),
        ({"LISTEN_FDS": "1"}, "LISTEN_FDS is set and LISTEN_PID=None is no process"),
        ({"LISTEN_PID": "x", "LISTEN_FDS": "1"}, "LISTEN_PID='x' is no process"),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "LISTEN_PIDFDID": "7"},
         f"the sockets are for process 1 (LISTEN_PID), and this is {OURS}; let the service manager start it directly"),
    ],
)  # fmt: skip
def test_what_is_no_activation(variables: dict[str, str], wanted: str) -> None:
    given = activation_of(**variables)
    assert not given and given.sockets == ()
    assert given.is_for_another == ("for process 1" in wanted)
    assert wanted in reason("systemd:", given)


def test_what_cannot_be_served_and_nothing_stays_open(bound: dict[str, socket.socket], tmp_path: Path) -> None:
    good = (bound["tcp"].fileno(), "good")
    left, right = socket.socketpair()
    reading, writing = os.pipe()
    with left, right, socket.socket() as unbound:
        for number, wanted in (
            (left.fileno(), "it is a connection"),
            (unbound.fileno(), "it is not bound to an address"),
            (reading, "it is a pipe, not a socket"),
        ):
            before = os.listdir("/proc/self/fd")
            with pytest.raises(StartError) as caught:
                opened("systemd:", Activation((good, (number, "bad one"))))
            assert str(caught.value).startswith(f"cannot listen on systemd:bad%20one (descriptor {number}): {wanted}")
            assert os.listdir("/proc/self/fd") == before
    os.close(reading)
    os.close(writing)


def test_a_stream_that_does_not_listen_yet_is_put_to() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        (ours,) = opened("systemd:", Activation(((sock.fileno(), "x"),)))
        with ours, socket.create_connection(sock.getsockname(), SECONDS):
            assert select.select([ours], [], [], SECONDS)[0]


def test_without_activation_this_process_is_told_so() -> None:
    """By the way that every program goes: pytest was not started by a service manager."""
    with pytest.raises(StartError, match=r"cannot listen on systemd:echo: no sockets were passed"):
        open_listeners("systemd:echo")
    with pytest.raises(StartError, match=r"cannot listen on systemd:: no sockets were passed"):
        open_listeners(Address("systemd"))
