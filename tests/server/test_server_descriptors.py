"""Out of descriptors: who is there goes on, who waits is served as soon as one comes back, and told after a while.

Run as a program, this file is the server that really runs out of them:
``python test_server_descriptors.py MODE SECONDS``, the latter being how long clients wait until they are told.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from native_support import MODES, SOON, TCP, ask, dial, echo, in_thread, leave, until

from jackfield import Server, socketserver
from jackfield.door import AcceptPolicy, Pauses
from jackfield.events import ConnectionRefused, Event, Reason
from jackfield.limits import Limits

BUSY = b"busy, come again\n"

#: Modes in which somebody waits while another is served.
BESIDE = ["thread", "process", "green", "async"]


def exchange(client: socket.socket, data: bytes = b"x") -> None:
    client.sendall(data)
    assert client.recv(100) == data.upper()


def all_of(client: socket.socket) -> bytes:
    """What comes until the end; a reset is an end as well."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(100):
            data += part
    return data


# -- told by the seam --------------------------------------------------------------------------------------------------


class Short:
    """In the place of a listener's socket: while ``short``, there is no descriptor but the one that the spare gives."""

    def __init__(self, server: Server, *, after: float = 0.0, pause: float = 0.001) -> None:
        server.bind()
        service = server._service
        (listener,) = service.listeners
        service._policies[listener] = AcceptPolicy(name=listener.location, pause=pause)
        service._sheddings[listener].after = after
        self._spare, self._socket = service._spare, listener.socket
        self.short = False
        self.failures = 0
        listener.socket = self  # type: ignore[assignment]

    def accept(self) -> Any:
        if self.short and self._spare.held:
            self.failures += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._socket.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asks_first", [False, True])
def test_they_are_told_and_closed_and_counted(mode: str, asks_first: bool) -> None:
    events: list[Event] = []
    server = Server(echo(mode), TCP, mode=mode, limits=Limits(refusal=BUSY))
    server.subscribe(events.append, ConnectionRefused)
    accept = Short(server)
    with server:
        accept.short = True
        for _ in range(3):
            with dial(server) as client:
                if asks_first:
                    client.sendall(b"unread, which makes the close a reset")
                assert all_of(client) == BUSY
        until(lambda: len(events) == 3)
        assert {(event.listener, event.reason) for event in events} == {  # type: ignore[attr-defined]
            (server.addresses[0], Reason.NO_DESCRIPTOR)
        }
        assert server.info().refusals == {"no_descriptor": 3} and server.info().refused == 3
        accept.short = False
        # The step that is under way, which has found none, may tell one more.
        assert ask(server) == b"HELLO" or ask(server) == b"HELLO"
        assert server.info().accepted == 1
    assert not server._service._spare.held


def test_with_no_text_they_are_only_closed() -> None:
    server = Server(echo("thread"), TCP)
    accept = Short(server)
    with server:
        accept.short = True
        with dial(server) as client:
            assert all_of(client) == b""


@pytest.mark.parametrize("mode", MODES)
def test_until_then_they_wait(mode: str) -> None:
    server = Server(echo(mode), TCP, mode=mode, limits=Limits(refusal=BUSY))
    accept = Short(server, after=3600)
    with server:
        accept.short = True
        with dial(server) as client:
            client.sendall(b"patience")
            until(lambda: accept.failures > 5)
            accept.short = False
            assert client.recv(100) == b"PATIENCE"
            leave(client)
        assert server.info().refused == 0


def test_who_lets_them_wait_for_room_lets_them_wait_for_this_as_well() -> None:
    server = Server(echo("thread"), TCP, limits=Limits(when_full="wait"))
    accept = Short(server)
    with server:
        accept.short = True
        with dial(server) as client:
            client.sendall(b"patience")
            until(lambda: accept.failures > 5)
            server.limits = Limits(refusal=BUSY)
            assert all_of(client) == BUSY


# -- one comes back ----------------------------------------------------------------------------------------------------


def served_when_another_leaves(mode: str, patience: float = SOON) -> None:
    """The listener is left alone for an hour, unless a connection of the server's own ends."""
    server = Server(echo(mode), TCP, mode=mode)
    accept = Short(server, pause=3600)
    server._service._sheddings[server._service.listeners[0]].after = 3600
    with server, dial(server) as first, dial(server) as second:
        exchange(first)
        exchange(second)
        accept.short = True
        with dial(server) as third:
            third.settimeout(patience)
            until(lambda: server._service._pauses._short)
            third.sendall(b"let me in")
            accept.short = False
            assert select.select([third], [], [], 0.02)[0] == []
            leave(first)
            try:
                assert third.recv(100) == b"LET ME IN"
            finally:
                leave(third)
                leave(second)
                server.stop(0)


@pytest.mark.parametrize("mode", BESIDE)
def test_when_a_connection_ends_whoever_waits_is_served_at_once(mode: str) -> None:
    served_when_another_leaves(mode)


def test_a_pause_that_only_time_ends_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pauses, "freed", lambda self: False)
    with pytest.raises(TimeoutError):
        served_when_another_leaves("thread", patience=0.05)


# -- under the drop-in names -------------------------------------------------------------------------------------------

DROP_IN = {"thread": "Threading", "process": "Forking", "green": "Green", "async": "Async"}


@contextlib.contextmanager
def drop_in(mode: str) -> Iterator[tuple[Any, Callable[[bool], None], list[int]]]:
    """A server of the old kind, whose accept can be made to fail; with a list of its failures."""
    cls = getattr(socketserver, f"{DROP_IN[mode]}TCPServer")
    failures: list[int] = []
    short = [False]

    class Poor(cls):  # type: ignore[misc]
        def get_request(self) -> Any:
            if short[0]:
                failures.append(1)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().get_request()

    with Poor(("127.0.0.1", 0), echo(mode)) as server, in_thread(server.serve_forever):
        try:
            yield server, lambda value: short.__setitem__(0, value), failures
        finally:
            server.stop(0)


def call_on(server: Any) -> socket.socket:
    client = socket.create_connection(server.server_address)
    client.settimeout(SOON)
    return client


@pytest.mark.parametrize("mode", BESIDE)
def test_a_drop_in_server_is_as_quick(mode: str) -> None:
    with drop_in(mode) as (server, make_short, failures):
        server._BaseServer__policy = AcceptPolicy(name="here", pause=3600)
        with call_on(server) as first:
            exchange(first)
            make_short(True)
            with call_on(server) as second:
                until(lambda: server._BaseServer__pauses._short)
                second.sendall(b"let me in")
                make_short(False)
                leave(first)
                assert second.recv(100) == b"LET ME IN"
                assert len(failures) == 1
                leave(second)


@pytest.mark.parametrize("mode", BESIDE)
def test_and_turns_nobody_away(mode: str) -> None:
    """However long it lasts: the standard library's lets them wait."""
    with drop_in(mode) as (server, make_short, failures):
        server._BaseServer__policy = AcceptPolicy(name="here", pause=0.001)
        make_short(True)
        with call_on(server) as client:
            client.sendall(b"patience")
            until(lambda: len(failures) > 20)
            make_short(False)
            assert client.recv(100) == b"PATIENCE"
            leave(client)


# -- really ------------------------------------------------------------------------------------------------------------


class Starved:
    """The program below, with ``room`` descriptors left to it once it is told to be short."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self, *words: Any) -> Any:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        return json.loads(self._line())

    def client(self) -> socket.socket:
        client = socket.create_connection(tuple(self.address))
        client.settimeout(SOON)
        return client


@contextlib.contextmanager
def starved(mode: str, after: float = 0.2) -> Iterator[Starved]:
    with subprocess.Popen(
        [sys.executable, __file__, mode, str(after)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            running = Starved(process)
            with contextlib.closing(running.client()) as client:
                exchange(client)  # whatever it opens for its first is open, and nothing is just being closed
                yield running
            _, log = process.communicate("quit\n", timeout=SOON)
            assert process.returncode == 0, log
            assert len(log) <= 4096 and "Traceback" not in log, log
        finally:
            process.kill()


@pytest.mark.parametrize("mode", BESIDE)
def test_really_out_of_descriptors(mode: str) -> None:
    each = 2 if mode == "process" else 1  # the parent watches each child by a descriptor as well
    with starved(mode) as server, contextlib.ExitStack() as stack:

        def client() -> socket.socket:
            made = server.client()
            stack.callback(leave, made)
            return made

        server.tell("short", 8)
        kept = [client() for _ in range(8 // each)]
        for one in kept:
            exchange(one)
        turned_away = [client() for _ in range(5)]
        for one in turned_away:
            assert all_of(one) == BUSY
        for one in kept:
            exchange(one)
        assert server.tell("info")["refusals"] == {"no_descriptor": 5}
        # One leaves: there is room for one.
        leave(kept.pop())
        until(lambda: server.tell("info")["entered"] == 1 + len(kept))
        kept.append(client())
        exchange(kept[-1])
        # The rest of the program gives some back.
        server.tell("enough")
        kept += [client() for _ in range(5)]
        for one in kept:
            exchange(one)
        assert server.tell("info")["refusals"] == {"no_descriptor": 5}


def test_a_child_that_there_was_no_descriptor_to_watch_by_gives_its_own_back() -> None:
    with starved("process", after=3600) as server:
        server.tell("short", 1)
        for _ in range(3):
            with server.client() as client:
                exchange(client)


# -- the program -------------------------------------------------------------------------------------------------------


def fill_up(room: int) -> None:
    """Leave ``room`` descriptors: limits are about numbers, so the holes below the highest are filled."""
    import resource

    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    while (number := os.dup(0)) <= highest:
        pass
    os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + room, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def main(mode: str, after: float) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Server(echo(mode), TCP, mode=mode, limits=Limits(refusal=BUSY)) as server:
        for shedding in server._service._sheddings.values():
            shedding.after = after
        print(json.dumps(server.server_address), flush=True)
        for line in sys.stdin:
            match line.split():
                case ["short", room]:
                    fill_up(int(room))
                case ["enough"]:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                case ["quit"]:
                    break
            # A connection has left the table when its descriptor is closed, and no longer is in the midst of that.
            entered = server._service.streams.connections.entered
            print(json.dumps({"entered": entered, "refusals": server.info().refusals}), flush=True)
        server.stop(0)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
