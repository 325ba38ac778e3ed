"""Handlers in processes of their own: what they hold, what the parent knows of them, and how they end."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from native_support import SOON, TCP, Echo, ask, children, dial, leave, until

from jackfield import BaseRequestHandler, Server

LOCKS = (type(threading.Lock()), type(threading.RLock()))


class TellsDescriptors(BaseRequestHandler[Any]):
    """Answers with what sockets its process holds: the local end and the peer of each."""

    def handle(self) -> None:
        told = []
        for name in os.listdir("/proc/self/fd"):
            try:
                sock = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            with sock:
                with contextlib.suppress(OSError):
                    told.append(f"{sock.getsockname()} {peer_of(sock)}")
        self.request.sendall("\n".join(told).encode())
        self.request.recv(1)


def peer_of(sock: socket.socket) -> str:
    try:
        return str(sock.getpeername())
    except OSError:
        return "nobody"


def test_a_child_holds_no_listener_and_no_other_connection() -> None:
    with Server(TellsDescriptors, TCP, TCP, mode="process") as server, contextlib.ExitStack() as stack:
        clients = []
        for _ in range(3):
            client = dial(server)
            stack.callback(leave, client)
            clients.append(client)
            held = client.recv(65536).decode().splitlines()
            listening = [line for line in held if line.endswith("nobody")]
            assert not [line for line in listening if str(server.server_address) in line]
            # Besides its own there are the clients' ends, which this very process has as well.
            own = [line for line in held if line.startswith(str(client.getpeername()))]
            assert own == [f"{client.getpeername()} {client.getsockname()}"]


def test_its_connections_are_listed_and_can_be_ended_from_the_parent() -> None:
    with Server(Echo, TCP, mode="process") as server, contextlib.ExitStack() as stack:
        clients = [dial(server) for _ in range(3)]
        for client in clients:
            stack.callback(leave, client)
            client.sendall(b"hello")
            assert client.recv(10) == b"HELLO"
        assert [connection.peer for connection in server.connections] == [c.getsockname() for c in clients]
        until(lambda: [connection.received for connection in server.connections] == [5] * 3)
        server.connections[1].close()
        assert clients[1].recv(10) == b""
        until(lambda: len(server.connections) == 2)
        until(lambda: len(children()) == 2)


def test_the_end_of_a_child_is_the_end_of_its_connection() -> None:
    """However it ends: the client sees it, the parent takes it off the list and reaps it."""

    class Dies(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.recv(1)
            os.kill(os.getpid(), signal.SIGKILL)

    with Server(Dies, TCP, mode="process") as server, dial(server) as client:
        until(lambda: server.connections)
        client.sendall(b"x")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
        until(lambda: not server.connections)
        until(lambda: not children())
        assert server.info().handler_errors == 1


def test_children_do_not_hear_the_terminals_ctrl_c() -> None:
    """It goes to every process in the foreground: how the children end is the parent's to say."""

    class Waits(Echo):
        def handle(self) -> None:
            self.request.sendall(b"%d" % os.getpid())
            super().handle()

    with Server(Waits, TCP, mode="process") as server, dial(server) as client:
        pid = int(client.recv(20))
        os.kill(pid, signal.SIGINT)
        client.sendall(b"still here")
        assert client.recv(100) == b"STILL HERE"
        os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
        until(lambda: not server.connections)


def test_children_that_no_descriptor_is_left_to_watch_by_are_reaped_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The only one there may be: its end has to be noticed before the next client is served."""
    monkeypatch.setattr(os, "pidfd_open", failing(os.pidfd_open))
    with Server(Echo, TCP, mode="process", max_children=1) as server:
        for _ in range(3):
            assert ask(server) == b"HELLO"
        until(lambda: not children())
        assert ask(server) == b"HELLO"


def failing(pidfd_open: Any) -> Any:
    """``os.pidfd_open`` with no descriptor for it, one time out of three."""
    calls = itertools.count()

    def opened(pid: int) -> int:
        if next(calls) % 3:
            return pidfd_open(pid)  # type: ignore[no-any-return]
        raise OSError(errno.EMFILE, "Too many open files")

    return opened


def fields_of(owner: Any) -> Iterator[Any]:
    """What an object has, in a dictionary or in slots."""
    yield from vars(owner).values() if hasattr(owner, "__dict__") else ()
    for kind in type(owner).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(owner, name):
                yield getattr(owner, name)


def test_a_fork_while_others_hold_the_servers_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread holds at the fork stays locked in the child for ever: neither what is done there before the
    handler nor what a handler asks the server may need it."""

    class Looks(BaseRequestHandler[Any]):
        def handle(self) -> None:
            told = (len(self.server.connections), self.server.info().connections, self.server.state)
            self.request.sendall(repr(told).encode())
            self.request.recv(1)

    fork = os.fork
    with Server(Looks, TCP, mode="process") as server, contextlib.ExitStack() as stack:
        assert ask(server)
        service = server._service
        owners = (server, server._life, service, service.guard, service.guard.connections, service.units)
        locks = [value for owner in owners for value in fields_of(owner) if isinstance(value, LOCKS)]
        assert locks, "or it says nothing"

        def fork_in_the_midst() -> int:
            for lock in locks:
                assert lock.acquire(timeout=SOON)
            pid = fork()
            if pid:
                for lock in locks:
                    lock.release()
            return pid

        monkeypatch.setattr(os, "fork", fork_in_the_midst)
        for _ in range(2):
            client = dial(server)
            stack.callback(leave, client)
            assert client.recv(100) == b"(1, 1, 'serving')", "a child knows its own connection only"


def test_an_application_that_watches_while_it_forks() -> None:
    """The same by chance: a thread that looks without a pause, and many forks."""
    with Server(Echo, TCP, mode="process") as server:
        stop = threading.Event()

        def watches() -> None:
            while not stop.is_set():
                server.info()

        watcher = threading.Thread(target=watches)
        watcher.start()
        try:
            assert [ask(server) for _ in range(20)] == [b"HELLO"] * 20
        finally:
            stop.set()
            watcher.join()


def test_the_applications_own_children_are_not_taken() -> None:
    ready, go = os.pipe()
    own = os.fork()
    if own == 0:
        os.close(go)
        os.read(ready, 1)
        os._exit(42)
    os.close(ready)
    with Server(Echo, TCP, mode="process", max_children=1) as server:
        os.close(go)
        for _ in range(3):
            assert ask(server) == b"HELLO"
        until(lambda: children() == {own})
    assert os.waitstatus_to_exitcode(os.waitpid(own, 0)[1]) == 42


def test_children_are_reaped_as_soon_as_they_end() -> None:
    with Server(Echo, TCP, mode="process") as server:
        for _ in range(3):
            assert ask(server) == b"HELLO"
        until(lambda: not children())
        assert server.state == "serving"


def test_an_error_in_a_child_is_counted_in_the_parent_once() -> None:
    """Children that are forked later inherit the parent's count, and are not to report it as theirs."""

    class Handler(BaseRequestHandler[Any]):
        def handle(self) -> None:
            if self.request.recv(10) == b"fail":
                raise KeyError

    with Server(Handler, TCP, mode="process") as server:
        for data in (b"fine", b"fail", b"fine", b"fine"):
            assert ask(server, data) == b""
            until(lambda: not children())
        until(lambda: not server.connections)
        assert server.info().handler_errors == 1


def test_datagrams_in_processes_at_the_limit() -> None:
    """What there is no process for waits in the kernel's queue, and nothing is lost."""

    class Answers(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request[1].sendto(self.request[0], self.client_address)

    with Server(Answers, "udp://127.0.0.1:0", mode="process", max_children=2) as server, dial(server) as client:
        for number in range(10):
            client.send(b"%d" % number)
        assert {client.recv(10) for _ in range(10)} == {b"%d" % number for number in range(10)}
        until(lambda: not children())
    assert server.info().dropped == 0


def test_stopping_waits_for_the_children_and_kills_none_that_finish() -> None:
    class Slow(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(self.request.recv(100))
            with os.fdopen(os.dup(ready), "rb") as file:
                file.read(1)
            self.request.sendall(b"finished")

    ready, go = os.pipe()
    server = Server(Slow, TCP, mode="process").start()
    with dial(server) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"x"
        server.stop(SOON)
        until(lambda: server.state == "draining")
        os.write(go, b"!")
        assert client.recv(100) == b"finished"
        assert client.recv(10) == b""
    os.close(ready)
    os.close(go)
    assert server.wait_stopped(SOON)
    assert server.info().handler_errors == 0
    assert not children()


def test_a_child_that_is_left_would_be_found_out() -> None:
    """The broken case for what the fixture looks after."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    assert pid in children()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert pid not in children()
