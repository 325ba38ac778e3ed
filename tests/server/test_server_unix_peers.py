"""Unix clients of the native Server: each is told by its credentials, and lists of users and groups hold for it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, by, client_of, ended, is_over, until

from jackfield import AsyncRequestHandler, BaseRequestHandler, Server, socketserver
from jackfield.admission import Credentials, PeerList
from jackfield.door import listener as door_listener
from jackfield.events import ConnectionEnded, ConnectionRefused, ConnectionStarted, Event
from jackfield.limits import Limits
from jackfield.proxyheader import ProxyHeader, encode
from jackfield.serving import ProxyRule
from jackfield.testing.clients import connect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED is Linux's")

ME, MY_GROUP = os.geteuid(), os.getegid()
SELF = Credentials(os.getpid(), ME, MY_GROUP)
each_mode = pytest.mark.parametrize("mode", MODES)
each_kind = pytest.mark.parametrize("scheme", ["unix", "unixpacket"])


class Who(BaseRequestHandler[Any]):
    """Says whom it takes the peer for, once it is asked."""

    def handle(self) -> None:
        self.request.recv(100)
        self.request.sendall(repr(self.client_address).encode())


class AsyncWho(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        await self.request.recv(100)
        await self.request.sendall(repr(self.client_address).encode())


def who(mode: str) -> Any:
    return by(mode, Who, AsyncWho)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


def told(client: socket.socket, sent: bytes = b"who am I?") -> str:
    with contextlib.suppress(ConnectionError):
        client.sendall(sent)
    try:
        return client.recv(1000).decode()
    except ConnectionResetError:
        return ""


# --- who it is --------------------------------------------------------------------------------------------------------


@each_mode
@each_kind
def test_a_handler_knows_whose_process_it_talks_to(scheme: str, mode: str, path: str) -> None:
    with Server(who(mode), f"{scheme}:{path}", mode=mode) as server, client_of(server) as client:
        if mode in HERE:
            until(lambda: [connection.peer for connection in server.connections] == [SELF])
        assert told(client) == repr(SELF)


PROGRAM = """
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(20)
    client.connect(sys.argv[1])
    client.sendall(b"who am I?")
    print(client.recv(1000).decode())
"""


@each_mode
def test_another_process_is_another_peer(mode: str, path: str) -> None:
    with Server(who(mode), f"unix:{path}", mode=mode):
        with subprocess.Popen([sys.executable, "-S", "-c", PROGRAM, path], stdout=subprocess.PIPE, text=True) as child:
            answer, _ = child.communicate(timeout=SOON)
    assert answer.strip() == repr(Credentials(child.pid, ME, MY_GROUP)) and child.pid != os.getpid()


@each_mode
def test_the_same_server_tells_a_client_of_the_network_by_its_address(mode: str, path: str) -> None:
    with Server(who(mode), "tcp://127.0.0.1:0", f"unix:{path}", mode=mode) as server, client_of(server) as client:
        assert told(client) == repr(client.getsockname())


@pytest.mark.parametrize(
    "kind", ["UnixStreamServer", "ThreadingUnixStreamServer", "GreenUnixStreamServer", "UnixSeqpacketServer"]
)
def test_under_the_drop_in_names_it_is_what_it_always_was(kind: str, path: str) -> None:
    """The standard library has the empty text here."""
    with getattr(socketserver, kind)(path, Who) as server:
        with connect(("unixpacket:" if "Seqpacket" in kind else "unix:") + path, 10) as client:
            client.sendall(b"who am I?")
            server.handle_request()
            assert client.recv(1000) == b"''"


# --- who may come in --------------------------------------------------------------------------------------------------

#: Lists, and whether this process may come in by them.
LISTS: dict[str, tuple[dict[str, list[str]], bool]] = {
    "its user may": ({"allow": [f"uid:{ME}"]}, True),
    "its group may": ({"allow": [f"gid:{MY_GROUP}"]}, True),
    "another user may": ({"allow": [f"uid:{ME + 1}", f"gid:{MY_GROUP + 1}"]}, False),
    "only networks may": ({"allow": ["0.0.0.0/0", "::/0"]}, False),
    "its user may not": ({"deny": [f"uid:{ME}"]}, False),
    "its group may not": ({"deny": [f"gid:{MY_GROUP}"]}, False),
    "its group may, its user may not": ({"allow": [f"gid:{MY_GROUP}"], "deny": [f"uid:{ME}"]}, False),
    "others may not": ({"deny": [f"uid:{ME + 1}", f"gid:{MY_GROUP + 1}", "0.0.0.0/0"]}, True),
}


def verdict(mode: str, lists: str, path: str) -> bool:
    """Whether this process comes in; and the server's own account of that."""
    entries, _ = LISTS[lists]
    limits = Limits(**{name: PeerList(peers) for name, peers in entries.items()})  # type: ignore[arg-type]
    with Server(who(mode), f"unix:{path}", mode=mode, limits=limits) as server, client_of(server) as client:
        answer = told(client)
        assert is_over(client)
        assert server.info().refusals == ({} if answer else {"denied": 1})
        return bool(answer)


@each_mode
@pytest.mark.parametrize("lists", LISTS)
def test_lists_of_users_and_groups_hold(lists: str, mode: str, path: str) -> None:
    assert verdict(mode, lists, path) is LISTS[lists][1]


def test_a_server_that_knows_nobody_is_found_out(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: with the peer as accept(2) tells it, nobody is in any list."""
    monkeypatch.setattr(door_listener, "_SO_PEERCRED", -1)
    assert not verdict("thread", "its user may", path)
    assert verdict("thread", "its user may not", path)


@pytest.mark.parametrize("mode", HERE)
def test_connections_are_counted_by_user(mode: str, path: str) -> None:
    limits = Limits(max_connections_per_address=1, exempt=PeerList())
    with Server(who(mode), f"unix:{path}", mode=mode, limits=limits) as server, client_of(server) as client:
        until(lambda: server.connections)
        with client_of(server) as second:
            assert told(second) == ""
        assert server.info().refusals == {"limit_per_address": 1}
        assert told(client) == repr(SELF)
        until(lambda: not server.connections)
        server.limits = limits.replace(exempt=Limits().exempt)  # whoever comes by a Unix socket, unless told otherwise
        with client_of(server), client_of(server) as second:
            assert told(second) == repr(SELF)


# --- and what else goes by it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", HERE)
def test_events_name_it(mode: str, path: str) -> None:
    events: list[Event] = []
    with Server(who(mode), f"unix:{path}", mode=mode) as server:
        server.subscribe(events.append)
        with client_of(server) as client:
            assert told(client) == repr(SELF)
        until(lambda: len(events) == 2)
        server.limits = Limits(deny=PeerList([f"uid:{ME}"]))
        with client_of(server) as client:
            assert told(client) == ""
        until(lambda: len(events) == 3)
    assert [type(event) for event in events] == [ConnectionStarted, ConnectionEnded, ConnectionRefused]
    assert {event.peer for event in events} == {SELF}


@each_mode
@pytest.mark.parametrize("allowed", [True, False])
def test_a_proxy_may_come_by_a_unix_socket_where_its_user_is_named(allowed: bool, mode: str, path: str) -> None:
    rule = ProxyRule(allow_from=PeerList([f"uid:{ME if allowed else ME + 1}"]))
    header = encode(ProxyHeader.of(("192.0.2.7", 4711), ("192.0.2.1", 80)))
    with Server(who(mode), f"unix:{path}", mode=mode, proxy_protocol=rule) as server, client_of(server) as client:
        assert told(client, header + b"who am I?") == ("('192.0.2.7', 4711)" if allowed else "")
        assert is_over(client)
        if not allowed:
            assert ended(server) == {"proxy_error": 1}
